//! Limits of this version, as constants that messages quote.

/// Characters of a cluster's name.
pub const CLUSTER_NAME: usize = 25;
/// Characters of a cell's or a database's name.
pub const LONG_NAME: usize = 30;
/// Characters of a table group's, a shard's or a pool's name.
pub const SHORT_NAME: usize = 25;
/// Cells of a cluster.
pub const CELLS: usize = 50;
/// Table groups of a database.
pub const TABLE_GROUPS: usize = 20;
/// Pools of a shard.
pub const POOLS: usize = 8;
/// Cells of a pool.
pub const POOL_CELLS: usize = 10;
/// Inline PostgreSQL settings of a shard.
pub const POSTGRES_SETTINGS: usize = 200;
/// Access modes of a volume.
pub const ACCESS_MODES: [&str; 4] = ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"];
/// Client URLs of an etcd cluster.
pub const ENDPOINTS: usize = 20;
/// Characters of a client URL.
pub const ENDPOINT: usize = 512;
/// Characters of all client URLs with commas in between, which children carry.
pub const ADDRESS: usize = ENDPOINTS * (ENDPOINT + 1) - 1;
/// Characters of a mount path.
pub const PATH: usize = 512;
/// Labels or annotations of a component's pods.
pub const METADATA: usize = 20;
/// Characters of the key of a label or an annotation.
pub const METADATA_KEY: usize = 63;
/// Characters of the value of an annotation.
pub const ANNOTATION_VALUE: usize = 255;
/// Characters of the value of a label.
pub const LABEL_VALUE: usize = 63;
/// Shards of a table group.
pub const SHARDS: usize = 32;
/// Characters of a value or a path that a message repeats.
pub const QUOTED: usize = 128;
/// How long a gateway buffers where `maxFailoverDuration` is not given.
pub const BUFFER_MAX_FAILOVER: &str = "20s";
/// How long a gateway waits where `window` is not given.
pub const BUFFER_WINDOW: &str = "10s";

/// Bytes of the prefix below which a repository lies: keys of a bucket have at most 1024, and pgBackRest's own part needs the rest.
pub const KEY_PREFIX: usize = 768;
/// Characters of a namespace.
pub const NAMESPACE: usize = 63;
/// Full backups that the data plane keeps: more cannot be had.
pub const FULL_BACKUPS: i32 = 7;
/// Backups of a repository that poolers can list, about: they read 64 KiB of what pgBackRest says, in which each has up to a KiB.
pub const LISTED_BACKUPS: usize = 65;
