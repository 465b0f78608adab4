//! The text of a shard's `postgresql.conf`, its effective settings and the two digests that tell what a change costs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::classify::{Change, change};
use super::hash::digest;
use super::parse::{parse, quote};
use super::sizing::Sizing;

/// The setting that carries the reload digest, so that a stale mounted file is recognisable.
pub const RELOAD_MARKER: &str = "multigres.config_reload_marker";

/// Whose configuration it is; empty parts are left out of `cluster_name`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity<'a> {
    /// Cluster name.
    pub cluster: &'a str,
    /// Database name.
    pub database: &'a str,
    /// Table group name.
    pub table_group: &'a str,
    /// Shard name.
    pub shard: &'a str,
    /// Name of the Shard object, used when all other parts are empty.
    pub object: &'a str,
}

impl Identity<'_> {
    fn cluster_name(&self) -> String {
        let parts: Vec<_> = [self.cluster, self.database, self.table_group, self.shard]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        if parts.is_empty() { self.object.to_owned() } else { parts.join("/") }
    }
}

/// A rendered configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The file, reload marker included.
    pub text: String,
    /// Effective settings that need a restart.
    pub restart: BTreeMap<String, String>,
    /// Effective settings for which a reload is enough, without the marker.
    pub reload: BTreeMap<String, String>,
    /// Include lines of the referenced text; what they pull in is unknown here, so a change of a line counts as a restart.
    pub includes: Vec<String>,
    /// Digest of what needs a restart.
    pub restart_hash: String,
    /// Digest of what needs a reload.
    pub reload_hash: String,
}

impl Rendered {
    /// What a running server must report after a reload: the reloadable settings and the marker.
    pub fn expected_after_reload(&self) -> BTreeMap<String, String> {
        let mut expected = self.reload.clone();
        expected.insert(RELOAD_MARKER.to_owned(), self.reload_hash.clone());
        expected
    }
}

const FIXED_FIRST: &[(&str, &str)] = &[
    ("max_connections", "60"),
    ("effective_io_concurrency", "0"),
    ("checkpoint_completion_target", "0.9"),
    ("max_wal_senders", "25"),
    ("max_replication_slots", "25"),
    ("random_page_cost", "1.1"),
    ("default_statistics_target", "100"),
];

const FIXED: &[(&str, &str)] = &[
    ("authentication_timeout", "1min"),
    ("password_encryption", "scram-sha-256"),
    ("ssl", "off"),
    ("ssl_ca_file", "''"),
    ("ssl_cert_file", "''"),
    ("ssl_crl_file", "''"),
    ("ssl_crl_dir", "''"),
    ("ssl_key_file", "''"),
    ("ssl_ciphers", "'HIGH:MEDIUM:+3DES:!aNULL'"),
    ("ssl_prefer_server_ciphers", "on"),
    ("ssl_ecdh_curve", "'prime256v1'"),
    ("ssl_min_protocol_version", "'TLSv1.2'"),
    ("ssl_max_protocol_version", "''"),
    ("ssl_dh_params_file", "''"),
    ("ssl_passphrase_command", "''"),
    ("ssl_passphrase_command_supports_reload", "off"),
    ("wal_level", "logical"),
    ("wal_log_hints", "on"),
    ("checkpoint_flush_after", "256kB"),
    ("log_line_prefix", "'%h %m [%p] %q%u@%d '"),
    ("log_statement", "'ddl'"),
    ("log_timezone", "'UTC'"),
    ("row_security", "on"),
    ("timezone", "'UTC'"),
    ("lc_messages", "'en_US.UTF-8'"),
    ("lc_monetary", "'en_US.UTF-8'"),
    ("lc_numeric", "'en_US.UTF-8'"),
    ("lc_time", "'en_US.UTF-8'"),
    ("default_text_search_config", "'pg_catalog.english'"),
    ("jit_provider", "'llvmjit'"),
    ("auto_explain.log_min_duration", "10s"),
    ("cron.database_name", "'postgres'"),
];

/// Whether a setting name is safe to write: an identifier, or two joined by a dot.
pub fn is_name(name: &str) -> bool {
    let identifier = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
    };
    match name.split_once('.') {
        Some((class, rest)) => identifier(class) && identifier(rest),
        None => identifier(name),
    }
}

/// Renders the configuration: baseline and sizing, then the referenced text, then the inline settings, later ones winning.
///
/// Inline names are written in lower case; names that are no identifiers cannot be written (validation refuses them).
pub fn render(
    identity: &Identity<'_>,
    sizing: &Sizing,
    reference: Option<&str>,
    inline: &BTreeMap<String, String>,
) -> Rendered {
    let mut text = String::from("# Managed by the Multigres operator.\n");
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} = {value}");
    };
    for (name, value) in FIXED_FIRST {
        line(name, value);
    }
    for (name, value) in sizing.settings() {
        line(name, &value);
    }
    line("cluster_name", &quote(&identity.cluster_name()));
    for (name, value) in FIXED {
        line(name, value);
    }
    if let Some(body) = reference.map(|body| body.trim_end_matches(['\n', '\r'])).filter(|body| !body.is_empty()) {
        text.push_str("# From postgresConfigRef.\n");
        text.push_str(body);
        text.push('\n');
    }
    let inline: BTreeMap<_, _> = inline
        .iter()
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value))
        .filter(|(name, _)| is_name(name))
        .collect();
    if !inline.is_empty() {
        text.push_str("# From postgresConfig.\n");
        for (name, value) in inline {
            let _ = writeln!(text, "{name} = {}", quote(value.trim()));
        }
    }

    let parsed = parse(&text);
    let (reload, restart): (BTreeMap<_, _>, BTreeMap<_, _>) = parsed
        .settings
        .into_iter()
        .filter(|(name, _)| name != RELOAD_MARKER)
        .partition(|(name, _)| change(name) == Change::Reload);
    let reload_hash = digest(&reload);
    let restart_hash = if parsed.includes.is_empty() {
        digest(&restart)
    } else {
        let mut with_includes = restart.clone();
        with_includes.insert("include".to_owned(), parsed.includes.join("\n"));
        digest(&with_includes)
    };
    let _ = writeln!(text, "{RELOAD_MARKER} = '{reload_hash}'");
    Rendered { text, restart, reload, includes: parsed.includes, restart_hash, reload_hash }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::sizing::Basis;
    use super::super::{catalog, value};
    use super::*;

    fn with(reference: Option<&str>, inline: &[(&str, &str)]) -> Rendered {
        let inline = inline.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let identity =
            Identity { cluster: "demo", database: "postgres", table_group: "default", shard: "0-inf", object: "x" };
        render(&identity, &Sizing::of(Basis::default()), reference, &inline)
    }

    #[rstest]
    #[case("work_mem", "9MB", false, true)]
    #[case("shared_buffers", "65MB", true, false)]
    #[case("WORK_MEM", "1092kB", false, false)]
    #[case("cron.host", "x", true, false)]
    #[case("random_page_cost", "2", false, true)]
    fn an_edit_moves_the_hash_of_its_cost(
        #[case] name: &str,
        #[case] value: &str,
        #[case] restart: bool,
        #[case] reload: bool,
    ) {
        let (before, after) = (with(None, &[]), with(None, &[(name, value)]));
        assert_eq!(before.restart_hash != after.restart_hash, restart, "restart");
        assert_eq!(before.reload_hash != after.reload_hash, reload, "reload");
    }

    #[test]
    fn order_comments_and_quotes_move_nothing() {
        let one = with(Some("work_mem = 8MB\njit = off"), &[]);
        let other = with(Some("# tuned\n\njit = 'off'\nwork_mem   '8MB'  # more\n\n"), &[]);
        assert_eq!((one.restart_hash, one.reload_hash), (other.restart_hash, other.reload_hash));
    }

    #[test]
    fn inline_settings_win_over_the_reference_and_both_over_the_baseline() {
        let rendered = with(Some("work_mem = 8MB\nmax_connections = 70"), &[("Work_Mem", "9MB")]);
        assert_eq!(rendered.reload.get("work_mem").map(String::as_str), Some("9MB"));
        assert_eq!(rendered.restart.get("max_connections").map(String::as_str), Some("70"));
        assert_eq!(rendered.restart.get("cluster_name").map(String::as_str), Some("demo/postgres/default/0-inf"));
    }

    #[test]
    fn a_changed_include_line_counts_as_a_restart() {
        assert_ne!(with(Some("include 'a'"), &[]).restart_hash, with(Some("include 'b'"), &[]).restart_hash);
    }

    #[test]
    fn marker_carries_the_reload_hash() {
        let rendered = with(None, &[]);
        assert!(rendered.text.ends_with(&format!("{RELOAD_MARKER} = '{}'\n", rendered.reload_hash)));
        assert_eq!(rendered.expected_after_reload().get(RELOAD_MARKER), Some(&rendered.reload_hash));
        assert!(!rendered.reload.contains_key(RELOAD_MARKER));
    }

    #[test]
    fn a_value_cannot_start_a_new_line() {
        let rendered = with(None, &[("application_name", "x'\nport = 1"), ("evil\nport", "1")]);
        let settings = parse(&rendered.text).settings;
        assert!(!settings.contains_key("port"));
        assert_eq!(settings.get("application_name").map(String::as_str), Some("x'\nport = 1"));
    }

    #[test]
    fn the_baseline_is_legal() {
        let rendered = with(None, &[]);
        for (name, text) in rendered.restart.iter().chain(&rendered.reload).filter(|(name, _)| !name.contains('.')) {
            let setting = catalog::lookup(name).expect("a known setting");
            assert_eq!(value::check(setting, text), Ok(()), "{name} = {text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_inline_setting_is_effective(values in prop::collection::btree_map("[a-z_]{1,12}", "[^\u{0}]{0,20}", 0..5)) {
            let rendered = render(&Identity::default(), &Sizing::of(Basis::default()), None, &values);
            let settings = parse(&rendered.text).settings;
            for (name, value) in &values {
                prop_assert_eq!(settings.get(name).map(String::as_str), Some(value.trim()));
            }
        }
    }
}
