//! The containers of a pool pod: pgctld with PostgreSQL, multipooler, and the exporter.

use k8s_openapi::api::core::v1::{Container, EnvVar, ExecAction, Lifecycle, LifecycleHandler, SecurityContext};
use shared::{api::v1alpha1::LogLevel, name};

use super::{
    port,
    scope::{Member, Scope},
    volume::{
        self, CIPHER_DIR, HBA_DIR, PASSWORD_FILE, PGBACKREST_DIR, POOLER_DIR, POSTGRES_CONFIG_DIR, QUERIES_DIR, TLS_DIR,
    },
};
use crate::{
    settings::Settings,
    workload::{
        environment::{from_secret, plain},
        port as ports, probe, security,
        telemetry::{self, Attributes, Inherited},
    },
};

/// User and group that own the data of PostgreSQL in the default images.
pub const POSTGRES_USER: i64 = 999;
/// Name of the container that reads PostgreSQL's statistics. Nothing depends on it.
pub const EXPORTER: &str = "postgres-exporter";
/// Where the database lies: below the volume's root, so that initdb can set the permissions of the directory itself.
const PGDATA: &str = "/var/lib/pooler/pg_data";
/// Locale and encoding of a new data directory. Without them they come from the image's environment, and an image without `LANG`
/// gives `SQL_ASCII`. What the user asks for follows, and the last one wins.
const INITDB_DEFAULTS: &str = "--locale=en_US.UTF-8 --encoding=UTF8";
/// Keys of a Secret with keys for a bucket, and the variables that they become.
pub const BUCKET_KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
/// What belongs to keys that end by themselves.
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";
/// Keeps pgctld alive until multipooler has stopped PostgreSQL, where the kubelet stops all containers at once.
const WAIT_FOR_POOLER: &str = "while (exec 3<>/dev/tcp/127.0.0.1/15200) 2>/dev/null; do sleep 0.2; done";

/// pgctld, which starts and stops PostgreSQL. It must outlive multipooler, whose last act is to stop the server cleanly: as a native
/// sidecar the kubelet sees to that, as an ordinary container a hook does.
pub fn postgres(scope: &Scope<'_>, settings: &Settings, member: &Member<'_>, telemetry: &[EnvVar]) -> Container {
    let spec = scope.spec();
    let mut args = vec![
        "server".to_owned(),
        format!("--pooler-dir={POOLER_DIR}"),
        format!("--grpc-port={}", port::PGCTLD_GRPC),
        format!("--pg-port={}", port::POSTGRES),
        "--pg-listen-addresses=*".to_owned(),
        log_level(spec.log_levels.as_ref().and_then(|levels| levels.pgctld)),
        format!("--grpc-socket-file={POOLER_DIR}/pgctld.sock"),
        format!("--pg-hba-template={HBA_DIR}/pg_hba_template.conf"),
        format!("--http-port={}", port::PGCTLD_HTTP),
    ];
    if spec.backup.is_some() {
        args.push(format!("--pgbackrest-cert-dir={PGBACKREST_DIR}"));
        args.push(format!("--pgbackrest-port={}", port::PGBACKREST));
    }
    let mut env = identity_env(scope);
    let initdb = spec.initdb_args.as_deref().unwrap_or_default();
    env.push(plain("POSTGRES_INITDB_ARGS", format!("{INITDB_DEFAULTS} {initdb}").trim_end()));
    env.push(plain("POSTGRES_INITDB_EXTRA_CONF", format!("{POSTGRES_CONFIG_DIR}/postgresql.conf")));
    env.extend(storage_env(scope));
    env.extend_from_slice(telemetry);
    let native = settings.native_sidecars;
    Container {
        name: "postgres".into(),
        image: Some(spec.images.postgres.clone()),
        image_pull_policy: pull_policy(scope),
        command: Some(vec!["/usr/local/bin/pgctld".into()]),
        args: Some(args),
        env: Some(env),
        volume_mounts: Some(volume::postgres_mounts(scope)),
        resources: member.pool.spec.postgres.as_ref().and_then(|container| container.resources.clone()),
        security_context: Some(run_as(user(member), group(member))),
        startup_probe: Some(probe::startup("/live", port::PGCTLD_HTTP)),
        liveness_probe: Some(probe::liveness("/live", port::PGCTLD_HTTP)),
        readiness_probe: Some(probe::readiness("/live", port::PGCTLD_HTTP)),
        restart_policy: native.then(|| "Always".to_owned()),
        lifecycle: (!native).then(|| Lifecycle {
            pre_stop: Some(LifecycleHandler {
                exec: Some(ExecAction { command: Some(vec!["/bin/bash".into(), "-c".into(), WAIT_FOR_POOLER.into()]) }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        ..Container::default()
    }
}

/// multipooler, which speaks for the PostgreSQL next to it and registers it in the topology. It keeps up to `connections` to it.
pub fn multipooler(
    scope: &Scope<'_>,
    settings: &Settings,
    member: &Member<'_>,
    telemetry: &[EnvVar],
    connections: u64,
) -> Container {
    let spec = scope.spec();
    let id = scope.id();
    let mut args = vec![
        "multipooler".to_owned(),
        format!("--http-port={}", port::POOLER_HTTP),
        format!("--grpc-port={}", port::POOLER_GRPC),
        format!("--pooler-dir={POOLER_DIR}"),
        format!("--socket-file={POOLER_DIR}/pg_sockets/.s.PGSQL.{}", port::POSTGRES),
        "--service-map=grpc-pooler".to_owned(),
        format!("--topo-global-server-addresses={}", spec.global_topo_server.address),
        format!("--topo-global-root={}", spec.global_topo_server.root_path),
        format!("--cell={}", member.pool.id.cell),
        format!("--database={}", id.database),
        format!("--table-group={}", id.table_group),
        format!("--shard={}", id.shard),
        format!("--service-id={}", name::pooler_service_id(&member.pod)),
        format!("--pgctld-addr=localhost:{}", port::PGCTLD_GRPC),
        format!("--pg-port={}", port::POSTGRES),
        format!("--connpool-global-capacity={connections}"),
        "--connpool-admin-capacity=5".to_owned(),
        log_level(spec.log_levels.as_ref().and_then(|levels| levels.multipooler)),
        // Left to itself it asks reverse DNS, and registers its bare pod name if it is quicker than the name server.
        format!("--hostname={}", host(scope, settings, member)),
        // Off by itself. A pooler that gives up on its data is given a fresh volume.
        "--postgres-unrecoverable-timeout=5m".to_owned(),
    ];
    if spec.backup.is_some() {
        args.push(format!("--pgbackrest-cert-file={PGBACKREST_DIR}/pgbackrest.crt"));
        args.push(format!("--pgbackrest-key-file={PGBACKREST_DIR}/pgbackrest.key"));
        args.push(format!("--pgbackrest-ca-file={PGBACKREST_DIR}/ca.crt"));
    }
    if scope.internal_tls() {
        args.extend(internal_tls_args());
    }
    args.extend(volume::topology_tls(scope).args);
    if scope.cipher_secret().is_some() {
        args.push(format!("--pgbackrest-cipher-key-file={CIPHER_DIR}/keys.json"));
    }
    let mut env = identity_env(scope);
    env.extend(storage_env(scope));
    env.extend_from_slice(telemetry);
    Container {
        name: "multipooler".into(),
        image: Some(spec.images.multipooler.clone()),
        image_pull_policy: pull_policy(scope),
        args: Some(args),
        env: Some(env),
        ports: Some(vec![
            ports::container("http", port::POOLER_HTTP),
            ports::container("grpc", port::POOLER_GRPC),
            ports::container("postgres", port::POSTGRES),
        ]),
        volume_mounts: Some(volume::multipooler_mounts(scope)),
        resources: member.pool.spec.multipooler.as_ref().and_then(|container| container.resources.clone()),
        security_context: Some(run_as(user(member), pooler_group(member))),
        startup_probe: Some(probe::startup("/live", port::POOLER_HTTP)),
        liveness_probe: Some(probe::liveness("/live", port::POOLER_HTTP)),
        readiness_probe: Some(probe::readiness("/live", port::POOLER_HTTP)),
        ..Container::default()
    }
}

/// The exporter, which reads PostgreSQL's own statistics.
pub fn exporter(scope: &Scope<'_>, settings: &Settings) -> Container {
    const URI: &str = "localhost:5432/postgres?sslmode=disable&connect_timeout=5&options=-c%20statement_timeout%3D8s";
    Container {
        name: EXPORTER.into(),
        image: Some(settings.support_images.postgres_exporter.clone()),
        image_pull_policy: pull_policy(scope),
        args: Some(vec![
            format!("--web.listen-address=:{}", port::METRICS),
            format!("--extend.query-path={QUERIES_DIR}/queries.yml"),
        ]),
        env: Some(vec![
            plain("DATA_SOURCE_URI", URI),
            plain("DATA_SOURCE_USER", superuser(scope)),
            plain("DATA_SOURCE_PASS_FILE", PASSWORD_FILE),
        ]),
        ports: Some(vec![ports::container("metrics", port::METRICS)]),
        volume_mounts: Some(volume::exporter_mounts()),
        resources: settings.exporter_resources.clone(),
        security_context: Some(run_as(POSTGRES_USER, POSTGRES_USER)),
        ..Container::default()
    }
}

/// The name under which everybody reaches a pod, resolvable from anywhere in the Kubernetes cluster.
pub fn host(scope: &Scope<'_>, settings: &Settings, member: &Member<'_>) -> String {
    let headless = name::pool_headless(member.pool.id);
    format!("{}.{headless}.{}.svc.{}", member.pod, scope.namespace, settings.cluster_domain)
}

/// User that owns the data; both containers that touch it run as this one.
pub fn user(member: &Member<'_>) -> i64 {
    member.pool.spec.postgres.as_ref().and_then(|container| container.run_as_user).unwrap_or(POSTGRES_USER)
}

fn group(member: &Member<'_>) -> i64 {
    member.pool.spec.postgres.as_ref().and_then(|container| container.run_as_group).unwrap_or(POSTGRES_USER)
}

/// The pooler's own group; both containers share files through the user and the group of the volumes.
fn pooler_group(member: &Member<'_>) -> i64 {
    let own = member.pool.spec.multipooler.as_ref().and_then(|container| container.run_as_group);
    own.unwrap_or_else(|| group(member))
}

/// Variables that pgctld and multipooler share.
fn identity_env(scope: &Scope<'_>) -> Vec<EnvVar> {
    vec![
        plain("PGDATA", PGDATA),
        plain("POSTGRES_USER", superuser(scope)),
        plain("POSTGRES_PASSWORD_FILE", PASSWORD_FILE),
    ]
}

/// Region and static keys of an S3 repository.
fn storage_env(scope: &Scope<'_>) -> Vec<EnvVar> {
    let Some(s3) = scope.s3() else { return Vec::new() };
    let mut env = Vec::new();
    if !s3.region.is_empty() {
        env.push(plain("AWS_REGION", &s3.region));
    }
    if let Some(keys) = scope.bucket_keys() {
        env.extend(BUCKET_KEYS.map(|key| from_secret(key, &keys.secret, key)));
        if keys.optional {
            env.push(from_secret(SESSION_TOKEN, &keys.secret, SESSION_TOKEN));
            let references =
                env.iter_mut().filter_map(|variable| variable.value_from.as_mut()?.secret_key_ref.as_mut());
            references.for_each(|reference| reference.optional = Some(true));
        }
    }
    env
}

fn superuser<'a>(scope: &Scope<'a>) -> &'a str {
    scope.spec().postgres_superuser.as_deref().filter(|name| !name.is_empty()).unwrap_or("postgres")
}

/// When images are pulled, if the user said so.
pub fn pull_policy(scope: &Scope<'_>) -> Option<String> {
    scope.spec().images.image_pull_policy.map(|policy| policy.to_string())
}

/// The `--log-level` argument.
pub fn log_level(level: Option<LogLevel>) -> String {
    format!("--log-level={}", level.unwrap_or_default())
}

fn run_as(user: i64, group: i64) -> SecurityContext {
    SecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(user),
        run_as_group: Some(group),
        ..security::container()
    }
}

/// Telemetry variables of a component of this shard.
pub fn telemetry_env(scope: &Scope<'_>, inherited: &Inherited, component: &str) -> Vec<EnvVar> {
    let attributes = Attributes { project: scope.project(), cluster: scope.cluster, component };
    telemetry::variables(scope.spec().observability.as_ref(), inherited, Some(attributes))
}

/// Flags of a server that accepts only members of the cluster.
fn internal_tls_args() -> impl Iterator<Item = String> {
    [("--grpc-cert", "tls.crt"), ("--grpc-key", "tls.key"), ("--grpc-ca", "ca.crt"), ("--grpc-server-ca", "ca.crt")]
        .into_iter()
        .flat_map(|(flag, file)| [flag.to_owned(), format!("{TLS_DIR}/{file}")])
}
