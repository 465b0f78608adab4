//! Settings that belong to the product, and settings that deserve a warning.

use super::catalog::{self, Context};

/// Why a user may not, or should not, set a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Managed {
    /// Refused, with the reason.
    Refused(&'static str),
    /// Allowed, but the reason is worth a warning.
    Risky(&'static str),
}

const PINNED: &str = "it is fixed on the command line of the server";
const POOLER: &str = "multipooler writes it itself, so a value here would be ignored";
const RECOVERY: &str = "recovery is driven by multipooler";
const MARKER: &str = "it carries the operator's own reload marker";

/// Whether the named setting belongs to the product, in any case of letters.
pub fn managed(name: &str) -> Option<Managed> {
    let name = name.trim().to_ascii_lowercase();
    let reason = match name.as_str() {
        "port"
        | "listen_addresses"
        | "unix_socket_directories"
        | "data_directory"
        | "hba_file"
        | "ident_file"
        | "config_file" => Managed::Refused(PINNED),
        "wal_level" => Managed::Refused("it must stay logical"),
        "external_pid_file" | "unix_socket_group" | "unix_socket_permissions" => {
            Managed::Refused("the other containers of the pod rely on its default")
        }
        "synchronous_standby_names"
        | "synchronous_commit"
        | "primary_conninfo"
        | "primary_slot_name"
        | "restore_command"
        | "archive_mode"
        | "archive_command"
        | "hot_standby_feedback"
        | "sync_replication_slots"
        | "synchronized_standby_slots" => Managed::Refused(POOLER),
        "archive_library" | "archive_cleanup_command" => Managed::Refused("archiving is driven by pgBackRest"),
        "hot_standby" => Managed::Refused("standbys must serve the health checks"),
        "wal_log_hints" => Managed::Refused("a former primary can only rejoin with it on"),
        "recovery_end_command" | "recovery_min_apply_delay" => Managed::Refused(RECOVERY),
        super::render::RELOAD_MARKER => Managed::Refused(MARKER),
        _ if name.starts_with("recovery_target") => Managed::Refused(RECOVERY),
        "fsync" | "full_page_writes" | "zero_damaged_pages" | "ignore_checksum_failure" | "data_sync_retry" => {
            Managed::Risky("a wrong value can lose or corrupt data")
        }
        "shared_preload_libraries" => Managed::Risky("a library missing from the image keeps the server from starting"),
        _ if name == "ssl" || name.starts_with("ssl_") => {
            Managed::Risky("connections inside the pod use a socket; TLS ends at the gateway")
        }
        _ => {
            let internal = catalog::lookup(&name).is_some_and(|setting| setting.context == Context::Internal);
            return internal.then_some(Managed::Refused("the server only reports it"));
        }
    };
    Some(reason)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn product_settings_are_refused(
        #[values(
            "port",
            "WAL_LEVEL",
            "hba_file",
            "synchronous_commit",
            "archive_command",
            "recovery_target_time",
            "block_size",
            "multigres.config_reload_marker",
            "hot_standby"
        )]
        name: &str,
    ) {
        assert!(matches!(managed(name), Some(Managed::Refused(_))), "{name}");
    }

    #[rstest]
    fn dangerous_settings_are_risky(#[values("fsync", "ssl", "ssl_ciphers", "shared_preload_libraries")] name: &str) {
        assert!(matches!(managed(name), Some(Managed::Risky(_))), "{name}");
    }

    #[rstest]
    fn ordinary_settings_are_free(
        #[values("work_mem", "max_connections", "cron.database_name", "timezone")] name: &str,
    ) {
        assert_eq!(managed(name), None);
    }
}
