//! Volumes of a pool pod, and where its containers mount them.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, KeyToPath, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource,
    SecretProjection, SecretVolumeSource, Volume, VolumeMount, VolumeProjection,
};
use shared::name;

use super::{
    claim, config,
    scope::{Member, Scope},
};
use crate::topo_server::client::Secrets;
use crate::workload::{
    telemetry,
    tls::{self, Certificates},
};

/// Root of the data volume; PGDATA is below it.
pub const POOLER_DIR: &str = "/var/lib/pooler";
/// Where the client authentication rules are.
pub const HBA_DIR: &str = "/etc/pgctld";
/// Where the PostgreSQL settings are.
pub const POSTGRES_CONFIG_DIR: &str = "/etc/pgctld/postgres-config";
/// File with the superuser's password.
pub const PASSWORD_FILE: &str = "/etc/postgres-password/password";
/// Where the exporter's queries are.
pub const QUERIES_DIR: &str = "/etc/postgres-exporter";
/// Where the certificates of pgBackRest are.
pub const PGBACKREST_DIR: &str = "/certs/pgbackrest";
/// Where the keys of an encrypted repository are.
pub const CIPHER_DIR: &str = "/secrets/pgbackrest-cipher";
/// Where the certificates for traffic among the components are.
pub const TLS_DIR: &str = "/etc/multigres/tls";
const PASSWORD_DIR: &str = "/etc/postgres-password";
const SOCKET_DIR: &str = "/var/run/postgresql";

/// World-readable, so that any user of the pod can read the file.
const READABLE: i32 = 0o444;
/// Readable for the owner and the pod's group: pgBackRest refuses keys that others can read.
const GROUP_READABLE: i32 = 0o440;

/// Certificates of a component of this shard under mutual TLS.
pub fn internal_tls(component: &str, scope: &Scope<'_>) -> Certificates {
    tls::internal(component, scope.cluster, scope.namespace, "tls-certs", TLS_DIR)
}

/// Certificates of clients of the topology.
pub fn topology_tls(scope: &Scope<'_>) -> Certificates {
    Secrets::of_reference(&scope.spec().global_topo_server).mounted()
}

/// All volumes of a pod. The order is part of what a pod is compared by.
pub fn all(scope: &Scope<'_>, member: &Member<'_>) -> Vec<Volume> {
    let spec = scope.spec();
    let password = &spec.postgres_password_secret_ref;
    let mut volumes = vec![
        claim_volume("pgdata", name::data_pvc(&member.pod)),
        match claim::backup_name(scope, member.pool.id.cell) {
            Some(claim) => claim_volume("backup-data", claim),
            None => empty("backup-data"),
        },
        empty("socket-dir"),
        config_map("pg-hba-template", name::pg_hba(scope.object), None),
        secret("postgres-password", &password.name, Some(vec![item(&password.key, "password")])),
        config_map(
            "postgres-config",
            name::postgres_config(scope.object),
            Some(vec![item(config::POSTGRES_KEY, config::POSTGRES_KEY)]),
        ),
        config_map("postgres-exporter-queries", name::exporter_queries(scope.object), None),
    ];
    if spec.backup.is_some() {
        volumes.push(pgbackrest(scope));
    }
    if let Some(cipher) = scope.cipher_secret() {
        volumes.push(secret("pgbackrest-cipher", cipher, None));
    }
    if scope.internal_tls() {
        volumes.extend(internal_tls("multipooler", scope).volumes);
    }
    volumes.extend(topology_tls(scope).volumes);
    volumes.extend(telemetry::sampling(spec.observability.as_ref()).map(|(volume, _)| volume));
    volumes
}

/// Mounts of pgctld.
pub fn postgres_mounts(scope: &Scope<'_>) -> Vec<VolumeMount> {
    let mut mounts = data_mounts(scope);
    mounts.push(read_only("pg-hba-template", HBA_DIR));
    mounts.push(read_only("postgres-password", PASSWORD_DIR));
    mounts.push(read_only("postgres-config", POSTGRES_CONFIG_DIR));
    if scope.spec().backup.is_some() {
        mounts.push(read_only("pgbackrest-certs", PGBACKREST_DIR));
    }
    mounts.extend(telemetry::sampling(scope.spec().observability.as_ref()).map(|(_, mount)| mount));
    mounts
}

/// Mounts of multipooler, the only container that sees the keys of an encrypted repository.
pub fn multipooler_mounts(scope: &Scope<'_>) -> Vec<VolumeMount> {
    let mut mounts = data_mounts(scope);
    mounts.push(read_only("postgres-password", PASSWORD_DIR));
    if scope.spec().backup.is_some() {
        mounts.push(read_only("pgbackrest-certs", PGBACKREST_DIR));
    }
    if scope.cipher_secret().is_some() {
        mounts.push(read_only("pgbackrest-cipher", CIPHER_DIR));
    }
    if scope.internal_tls() {
        mounts.extend(internal_tls("multipooler", scope).mounts);
    }
    mounts.extend(topology_tls(scope).mounts);
    mounts.extend(telemetry::sampling(scope.spec().observability.as_ref()).map(|(_, mount)| mount));
    mounts
}

/// Mounts of the exporter.
pub fn exporter_mounts() -> Vec<VolumeMount> {
    vec![read_only("postgres-password", PASSWORD_DIR), read_only("postgres-exporter-queries", QUERIES_DIR)]
}

fn data_mounts(scope: &Scope<'_>) -> Vec<VolumeMount> {
    let mount =
        |name: &str, path: &str| VolumeMount { name: name.into(), mount_path: path.into(), ..VolumeMount::default() };
    vec![mount("pgdata", POOLER_DIR), mount("backup-data", scope.backup_path()), mount("socket-dir", SOCKET_DIR)]
}

/// Certificates of pgBackRest under the names that it expects. The CA's key is never projected.
fn pgbackrest(scope: &Scope<'_>) -> Volume {
    let project = |secret: &str, items: Vec<KeyToPath>| VolumeProjection {
        secret: Some(SecretProjection { name: secret.into(), items: Some(items), ..SecretProjection::default() }),
        ..VolumeProjection::default()
    };
    let ca = item("ca.crt", "ca.crt");
    let leaf = vec![item("tls.crt", "pgbackrest.crt"), item("tls.key", "pgbackrest.key")];
    let sources = match scope.user_tls_secret() {
        Some(secret) => vec![project(secret, [vec![ca], leaf].concat())],
        None => vec![
            project(&name::pgbackrest_ca(scope.object), vec![ca]),
            project(&name::pgbackrest_tls(scope.object), leaf),
        ],
    };
    Volume {
        name: "pgbackrest-certs".into(),
        projected: Some(ProjectedVolumeSource { default_mode: Some(GROUP_READABLE), sources: Some(sources) }),
        ..Volume::default()
    }
}

fn item(key: &str, path: &str) -> KeyToPath {
    KeyToPath { key: key.into(), path: path.into(), mode: None }
}

fn claim_volume(name: &str, claim: String) -> Volume {
    Volume {
        name: name.into(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name: claim, read_only: None }),
        ..Volume::default()
    }
}

fn empty(name: &str) -> Volume {
    Volume { name: name.into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

fn config_map(name: &str, map: String, items: Option<Vec<KeyToPath>>) -> Volume {
    Volume {
        name: name.into(),
        config_map: Some(ConfigMapVolumeSource { name: map, items, ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    }
}

fn secret(name: &str, secret: &str, items: Option<Vec<KeyToPath>>) -> Volume {
    Volume {
        name: name.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.into()),
            items,
            default_mode: Some(READABLE),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn read_only(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), read_only: Some(true), ..VolumeMount::default() }
}
