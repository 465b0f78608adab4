//! Which flags each binary accepts, as of the images the operator deploys by default.

use crate::flag::Flag;
use crate::flag::Kind::{Duration, Fraction, List, Number, Switch, Text};
use crate::launch::Role;

macro_rules! flags {
    ($($name:literal $kind:ident $default:literal $([$($env:literal),+])? ;)*) => {
        &[$(Flag { name: $name, short: None, kind: $kind, default: $default, env: &[$($($env),+)?] }),*]
    };
}

const SERVING: &[Flag] = flags! {
    "http-port" Number "0";
    "bind-address" Text "";
    "hostname" Text "";
    "pprof-http" Switch "true";
    "pprof" List "";
    "service-map" List "";
    "lameduck-period" Duration "50ms";
    "onterm-timeout" Duration "30s";
    "onclose-timeout" Duration "10s";
    "pid-file" Text "";
    "grpc-auth-mtls-allowed-substrings" Text "";
    "log-err-stacks" Switch "false";
    "topo-etcd-lease-ttl" Number "30";
    "topo-etcd-tls-cert" Text "";
    "topo-etcd-tls-key" Text "";
    "topo-etcd-tls-ca" Text "";
};

/// Without the etcd flags: pgctld links no topology client.
const TOPOLOGY_HOOKS: &[&str] = &["topo-etcd-lease-ttl", "topo-etcd-tls-cert", "topo-etcd-tls-key", "topo-etcd-tls-ca"];

const LOGGING_AND_CONFIG: &[Flag] = flags! {
    "log-level" Text "info";
    "log-format" Text "json";
    "log-output" Text "stdout";
    "config-path" List "" ["VT_CONFIG_PATH"];
    "config-type" Text "" ["MT_CONFIG_TYPE"];
    "config-name" Text "mtconfig" ["MT_CONFIG_NAME"];
    "config-file" Text "" ["MT_CONFIG_FILE"];
    "config-file-not-found-handling" Text "warn";
    "config-persistence-min-interval" Duration "1s" ["MT_CONFIG_PERSISTENCE_MIN_INTERVAL"];
};

const GRPC: &[Flag] = flags! {
    "grpc-auth-mode" Text "";
    "grpc-port" Number "0";
    "grpc-bind-address" Text "";
    "grpc-max-connection-age" Duration "2540400h";
    "grpc-max-connection-age-grace" Duration "2540400h";
    "grpc-server-initial-conn-window-size" Number "0";
    "grpc-server-initial-window-size" Number "0";
    "grpc-server-keepalive-enforcement-policy-min-time" Duration "10s";
    "grpc-server-keepalive-enforcement-policy-permit-without-stream" Switch "false";
    "grpc-server-keepalive-time" Duration "10s";
    "grpc-server-keepalive-timeout" Duration "10s";
    "grpc-cert" Text "";
    "grpc-key" Text "";
    "grpc-ca" Text "";
    "grpc-crl" Text "";
    "grpc-enable-optional-tls" Switch "false";
    "grpc-server-ca" Text "";
    "grpc-socket-file" Text "";
};

const TOPOLOGY: &[Flag] = flags! {
    "topo-global-server-addresses" List "";
    "topo-global-root" Text "";
    "topo-read-concurrency" Number "32";
    "lock-timeout" Duration "45s" ["MT_LOCK_TIMEOUT"];
    "remote-operation-timeout" Duration "15s" ["MT_REMOTE_OPERATION_TIMEOUT"];
};

const POOLER_CLIENT: &[Flag] = flags! {
    "multipooler-grpc-cert" Text "";
    "multipooler-grpc-key" Text "";
    "multipooler-grpc-ca" Text "";
    "multipooler-grpc-crl" Text "";
    "multipooler-grpc-server-name" Text "";
    "multipooler-grpc-require-tls" Switch "false";
};

const GATEWAY: &[Flag] = flags! {
    "cell" Text "" ["MT_CELL"];
    "service-id" Text "" ["MT_SERVICE_ID"];
    "pg-port" Number "5432" ["MT_PG_PORT"];
    "pg-bind-address" Text "0.0.0.0" ["MT_PG_BIND_ADDRESS"];
    "statement-timeout" Duration "30s" ["MT_STATEMENT_TIMEOUT"];
    "authentication-timeout" Duration "60s" ["MT_AUTHENTICATION_TIMEOUT"];
    "plan-cache-memory" Number "4194304" ["MT_PLAN_CACHE_MEMORY"];
    "query-metrics-memory" Number "8388608" ["MT_QUERY_METRICS_MEMORY"];
    "query-metrics-sql-max-bytes" Number "4096" ["MT_QUERY_METRICS_SQL_MAX_BYTES"];
    "query-log-sample-rate" Number "0" ["MT_QUERY_LOG_SAMPLE_RATE"];
    "pg-tls-cert-file" Text "" ["MT_PG_TLS_CERT_FILE"];
    "pg-tls-key-file" Text "" ["MT_PG_TLS_KEY_FILE"];
    "pg-require-ssl" Switch "false" ["MT_PG_REQUIRE_SSL"];
    "pg-replica-port" Number "0" ["MT_PG_REPLICA_PORT"];
    "low-replication-lag-ms" Number "30000" ["MT_LOW_REPLICATION_LAG_MS"];
    "high-replication-lag-tolerance-ms" Number "0" ["MT_HIGH_REPLICATION_LAG_TOLERANCE_MS"];
    "buffer-enabled" Switch "false" ["MT_BUFFER_ENABLED"];
    "buffer-window" Duration "10s" ["MT_BUFFER_WINDOW"];
    "buffer-size" Number "1000" ["MT_BUFFER_SIZE"];
    "buffer-max-failover-duration" Duration "20s" ["MT_BUFFER_MAX_FAILOVER_DURATION"];
    "buffer-min-time-between-failovers" Duration "1m" ["MT_BUFFER_MIN_TIME_BETWEEN_FAILOVERS"];
    "buffer-drain-concurrency" Number "1" ["MT_BUFFER_DRAIN_CONCURRENCY"];
};

const ORCH: &[Flag] = flags! {
    "cell" Text "" ["MT_CELL"];
    "service-id" Text "" ["MT_SERVICE_ID"];
    "watch-targets" List "" ["MT_SHARD_WATCH_TARGETS"];
    "bookkeeping-interval" Duration "1m" ["MT_BOOKKEEPING_INTERVAL"];
    "pooler-health-check-interval" Duration "5s" ["MT_POOLER_HEALTH_CHECK_INTERVAL"];
    "health-check-workers" Number "300" ["MT_HEALTH_CHECK_WORKERS"];
    "recovery-cycle-interval" Duration "1s" ["MT_RECOVERY_CYCLE_INTERVAL"];
    "leader-failover-grace-period-base" Duration "4s" ["MT_LEADER_FAILOVER_GRACE_PERIOD_BASE"];
    "leader-failover-grace-period-max-jitter" Duration "8s" ["MT_LEADER_FAILOVER_GRACE_PERIOD_MAX_JITTER"];
    "verify-replication-timeout" Duration "5s" ["MT_VERIFY_REPLICATION_TIMEOUT"];
    "leader-postgres-response-threshold" Duration "30s" ["MT_LEADER_POSTGRES_RESPONSE_THRESHOLD"];
};

const POOLER: &[Flag] = flags! {
    "pgctld-addr" Text "localhost:15200";
    "cell" Text "" ["MT_CELL"];
    "database" Text "postgres" ["POSTGRES_DB"];
    "table-group" Text "";
    "shard" Text "";
    "service-id" Text "" ["MT_SERVICE_ID"];
    "socket-file" Text "";
    "pooler-dir" Text "";
    "pg-port" Number "5432";
    "heartbeat-interval-milliseconds" Number "1000";
    "health-stream-staleness-timeout" Duration "0";
    "pgbackrest-cert-file" Text "/certs/pgbackrest.crt";
    "pgbackrest-key-file" Text "/certs/pgbackrest.key";
    "pgbackrest-ca-file" Text "/certs/ca.crt";
    "pgbackrest-port" Number "8432";
    "pgbackrest-cipher-key-file" Text "" ["MULTIGRES_PGBACKREST_CIPHER_KEY_FILE"];
    "backend-vpid-tracking-enabled" Switch "false";
    "postgres-unrecoverable-timeout" Duration "0";
    "postgres-unrecoverable-min-attempts" Number "3";
    "connpool-admin-user" Text "postgres" ["CONNPOOL_ADMIN_USER", "POSTGRES_USER"];
    "connpool-admin-password" Text "" ["CONNPOOL_ADMIN_PASSWORD", "POSTGRES_PASSWORD"];
    "connpool-admin-password-file" Text "" ["CONNPOOL_ADMIN_PASSWORD_FILE", "POSTGRES_PASSWORD_FILE"];
    "pg-client-sslmode" Text "prefer";
    "pg-client-sslrootcert" Text "";
    "pg-client-sslnegotiation" Text "postgres";
    "connpool-admin-capacity" Number "5";
    "connpool-user-regular-idle-timeout" Duration "5m";
    "connpool-user-regular-max-lifetime" Duration "1h";
    "connpool-user-reserved-inactivity-timeout" Duration "30s";
    "connpool-user-reserved-idle-timeout" Duration "5m";
    "connpool-user-reserved-max-lifetime" Duration "1h";
    "connpool-settings-cache-size" Number "1024";
    "connpool-global-capacity" Number "100" ["CONNPOOL_GLOBAL_CAPACITY"];
    "connpool-reserved-ratio" Fraction "0.2";
    "connpool-rebalance-interval" Duration "10s";
    "connpool-demand-window" Duration "30s";
    "connpool-inactive-timeout" Duration "5m";
    "connpool-min-capacity-per-user" Number "5";
    "connpool-dial-timeout" Duration "5s";
    "connpool-drain-grace-period" Duration "3s";
};

const PGCTLD: &[Flag] = &[
    Flag { name: "pg-database", short: Some('D'), kind: Text, default: "postgres", env: &["POSTGRES_DB"] },
    Flag { name: "pg-user", short: Some('U'), kind: Text, default: "postgres", env: &["POSTGRES_USER"] },
    Flag { name: "timeout", short: Some('t'), kind: Number, default: "30", env: &[] },
    Flag { name: "pg-port", short: Some('p'), kind: Number, default: "5432", env: &[] },
];

const PGCTLD_REST: &[Flag] = flags! {
    "pooler-dir" Text "";
    "pg-listen-addresses" Text "*";
    "pg-hba-template" Text "";
    "postgres-config-template" Text "" ["POSTGRES_CONFIG_TEMPLATE_PATH"];
    "pg-password-file" Text "" ["POSTGRES_PASSWORD_FILE"];
    "pg-initdb-args" Text "" ["POSTGRES_INITDB_ARGS"];
    "pg-initdb-sql-files" List "" ["POSTGRES_INITDB_SQL_FILES"];
    "init-db-sql-file" List "";
    "pg-initdb-sql-dirs" List "" ["POSTGRES_INITDB_SQL_DIRS"];
    "pg-initdb-extra-conf" List "" ["POSTGRES_INITDB_EXTRA_CONF"];
    "pg-init-secrets-file" Text "" ["POSTGRES_INIT_SECRETS_FILE"];
    "pgbackrest-port" Number "0";
    "pgbackrest-cert-dir" Text "";
};

const EXPORTER: &[Flag] = flags! {
    "web.listen-address" List ":9187" ["PG_EXPORTER_WEB_LISTEN_ADDRESS"];
    "web.telemetry-path" Text "/metrics" ["PG_EXPORTER_WEB_TELEMETRY_PATH"];
    "web.config.file" Text "";
    "web.systemd-socket" Switch "false";
    "extend.query-path" Text "" ["PG_EXPORTER_EXTEND_QUERY_PATH"];
    "config.file" Text "postgres_exporter.yml";
    "disable-default-metrics" Switch "false" ["PG_EXPORTER_DISABLE_DEFAULT_METRICS"];
    "disable-settings-metrics" Switch "false" ["PG_EXPORTER_DISABLE_SETTINGS_METRICS"];
    "auto-discover-databases" Switch "false" ["PG_EXPORTER_AUTO_DISCOVER_DATABASES"];
    "include-databases" Text "" ["PG_EXPORTER_INCLUDE_DATABASES"];
    "exclude-databases" Text "" ["PG_EXPORTER_EXCLUDE_DATABASES"];
    "metric-prefix" Text "pg" ["PG_EXPORTER_METRIC_PREFIX"];
    "constantLabels" Text "" ["PG_EXPORTER_CONSTANT_LABELS"];
    "collection-timeout" Duration "1m" ["PG_EXPORTER_COLLECTION_TIMEOUT"];
    "dumpmaps" Switch "false";
    "log.level" Text "info";
    "log.format" Text "logfmt";
};

/// The flags that `role` accepts.
pub fn of(role: Role) -> Vec<Flag> {
    let parts: &[&[Flag]] = match role {
        Role::Gateway => &[GATEWAY, SERVING, LOGGING_AND_CONFIG, GRPC, POOLER_CLIENT, TOPOLOGY],
        Role::Orch => &[ORCH, SERVING, LOGGING_AND_CONFIG, GRPC, TOPOLOGY, POOLER_CLIENT],
        Role::Pooler => &[POOLER, GRPC, SERVING, LOGGING_AND_CONFIG, TOPOLOGY],
        Role::Admin => &[SERVING, LOGGING_AND_CONFIG, GRPC, POOLER_CLIENT, TOPOLOGY],
        Role::Pgctld => &[PGCTLD, PGCTLD_REST, GRPC, SERVING, LOGGING_AND_CONFIG],
        Role::Exporter => &[EXPORTER],
        Role::AdminWeb => &[],
    };
    let mut flags: Vec<Flag> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    if role == Role::Pgctld {
        flags.retain(|flag| !TOPOLOGY_HOOKS.contains(&flag.name));
    }
    flags
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::flag::parse;

    #[test]
    fn no_table_names_a_flag_twice() {
        for role in Role::ALL {
            let mut seen = BTreeSet::new();
            for flag in of(role) {
                assert!(seen.insert(flag.name), "{role:?} has {} twice", flag.name);
            }
        }
    }

    #[test]
    fn every_default_is_a_legal_value_of_its_kind() {
        for role in Role::ALL {
            for flag in of(role).iter().filter(|flag| flag.kind != Text && flag.kind != List) {
                let args = [format!("--{}={}", flag.name, flag.default)];
                assert!(parse("x", &[*flag], &args, |_| None).is_ok(), "{}", flag.name);
            }
        }
    }

    #[test]
    fn flags_newer_than_the_images_are_unknown() {
        for role in Role::ALL {
            assert!(!of(role).iter().any(|flag| flag.name == "enable-slot-based-replication"), "{role:?}");
        }
    }
}
