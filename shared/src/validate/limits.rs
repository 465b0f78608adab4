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
/// Poolers of a pool in each of its cells.
pub const REPLICAS_PER_CELL: std::ops::RangeInclusive<i32> = 1..=32;
/// Replicas of a component without data.
pub const REPLICAS: std::ops::RangeInclusive<i32> = 0..=128;
/// Inline PostgreSQL settings of a shard.
pub const POSTGRES_SETTINGS: usize = 200;
/// Access modes of a volume.
pub const ACCESS_MODES: [&str; 4] = ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"];
/// How long a gateway buffers where `maxFailoverDuration` is not given.
pub const BUFFER_MAX_FAILOVER: &str = "20s";
/// How long a gateway waits where `window` is not given.
pub const BUFFER_WINDOW: &str = "10s";
