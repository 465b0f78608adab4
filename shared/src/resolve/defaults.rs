//! The built-in level of the chain: what applies where nobody says anything.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Name of the only database.
pub const DATABASE: &str = "postgres";
/// Name of the table group that is made when none is given.
pub const TABLE_GROUP: &str = "default";
/// Name of the only shard.
pub const SHARD: &str = "0-inf";
/// Name of the pool that is made when none is given.
pub const POOL: &str = "default";
/// Replicas of a component without data.
pub const REPLICAS: i32 = 1;
/// Members of an etcd cluster.
pub const ETCD_REPLICAS: i32 = 3;
/// Volume of an etcd member.
pub const ETCD_STORAGE: &str = "1Gi";
/// Volume of a pool pod.
pub const POOL_STORAGE: &str = "1Gi";
/// Volume of a filesystem backup repository.
pub const BACKUP_STORAGE: &str = "10Gi";
/// Where the backup volume is mounted.
pub const BACKUP_PATH: &str = "/backups";
/// Access mode of every volume.
pub const ACCESS_MODE: &str = "ReadWriteOnce";
/// Key prefix of the global topology.
pub const GLOBAL_ROOT: &str = "/multigres/global";
/// Implementation of an external topology.
pub const TOPO_IMPLEMENTATION: &str = "etcd";
/// Client port of etcd.
pub const ETCD_PORT: u16 = 2379;
/// Group that owns the volumes and the projected certificates of a pool pod; the group of the default images.
pub const FS_GROUP: i64 = 999;
/// User and group of the default images.
pub const RUN_AS: i64 = 999;
/// Key of the generated password Secret.
pub const PASSWORD_KEY: &str = "password";
/// Name of the superuser.
pub const SUPERUSER: &str = "postgres";
/// Without it `initdb` takes the encoding of the image's locale, which is SQL_ASCII where none is set.
pub const INITDB_ARGS: &str = "--encoding=UTF8";

/// Key prefix of a cell's own topology.
pub fn local_root(cell: &str) -> String {
    format!("/multigres/{cell}")
}

/// Poolers per cell: two where one cell is all there is, because the default policy needs two in total.
pub fn replicas_per_cell(cells: usize) -> i32 {
    if cells == 1 { 2 } else { 1 }
}

/// Resources of etcd.
pub fn etcd_resources() -> ResourceRequirements {
    static RESOURCES: LazyLock<ResourceRequirements> = LazyLock::new(|| resources("100m", "256Mi", "512Mi"));
    RESOURCES.clone()
}

/// Resources of the admin service.
pub fn multiadmin_resources() -> ResourceRequirements {
    static RESOURCES: LazyLock<ResourceRequirements> = LazyLock::new(|| resources("100m", "128Mi", "256Mi"));
    RESOURCES.clone()
}

/// Resources of the web interface.
pub fn multiadmin_web_resources() -> ResourceRequirements {
    static RESOURCES: LazyLock<ResourceRequirements> = LazyLock::new(|| resources("50m", "64Mi", "128Mi"));
    RESOURCES.clone()
}

/// Resources of a gateway.
pub fn multigateway_resources() -> ResourceRequirements {
    static RESOURCES: LazyLock<ResourceRequirements> = LazyLock::new(|| resources("100m", "128Mi", "256Mi"));
    RESOURCES.clone()
}

/// Resources of an orchestrator.
pub fn multiorch_resources() -> ResourceRequirements {
    static RESOURCES: LazyLock<ResourceRequirements> = LazyLock::new(|| resources("50m", "64Mi", "128Mi"));
    RESOURCES.clone()
}

/// Resources of a postgres container.
pub fn postgres_resources() -> ResourceRequirements {
    static RESOURCES: LazyLock<ResourceRequirements> = LazyLock::new(|| resources("100m", "256Mi", "512Mi"));
    RESOURCES.clone()
}

/// Resources of a multipooler container.
pub fn multipooler_resources() -> ResourceRequirements {
    static RESOURCES: LazyLock<ResourceRequirements> = LazyLock::new(|| resources("100m", "128Mi", "256Mi"));
    RESOURCES.clone()
}

/// Requests and a memory limit; a CPU limit would throttle.
fn resources(cpu: &str, memory: &str, limit: &str) -> ResourceRequirements {
    let quantity = |text: &str| Quantity(text.to_owned());
    ResourceRequirements {
        requests: Some(BTreeMap::from([("cpu".to_owned(), quantity(cpu)), ("memory".to_owned(), quantity(memory))])),
        limits: Some(BTreeMap::from([("memory".to_owned(), quantity(limit))])),
        claims: None,
    }
}
