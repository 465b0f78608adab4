//! What it takes for a changed setting to become effective: a reload or a restart.

use super::catalog::{self, Context};

/// What a change of a setting costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A reload of the running server is enough.
    Reload,
    /// The server must be started anew.
    Restart,
}

/// What a change of the named setting costs; names outside of the catalogue and extension settings need a restart to be safe.
pub fn change(name: &str) -> Change {
    match catalog::lookup(name).map(|setting| setting.context) {
        None | Some(Context::Postmaster | Context::Internal) => Change::Restart,
        Some(_) => Change::Reload,
    }
}

/// Settings that a standby must not have lower than its primary (see [`super::replication`]).
pub const REPLICATION_CRITICAL: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("shared_buffers", Change::Restart)]
    #[case("WORK_MEM", Change::Reload)]
    #[case("timezone", Change::Reload)]
    #[case("log_connections", Change::Reload)]
    #[case("server_version", Change::Restart)]
    #[case("cron.database_name", Change::Restart)]
    #[case("no_such_setting", Change::Restart)]
    fn the_context_of_a_setting_decides_what_a_change_costs(#[case] name: &str, #[case] expected: Change) {
        assert_eq!(change(name), expected);
    }
}
