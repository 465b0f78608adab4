//! What is legal in a resolved cluster but worth telling.

/// A finding about a cluster that does not keep it from being built.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// The cluster has no cells, so nothing serves.
    NoCells,
    /// Each cell has a backup repository of its own, so standbys of other cells than the primary's can never join.
    CellLocalRepository {
        /// Path of the shard.
        shard: String,
        /// The cells that its pools span.
        cells: Vec<String>,
    },
    /// An override adds a pool that the selected template does not have.
    PoolNotInTemplate {
        /// Path of the pool.
        pool: String,
        /// The selected template.
        template: String,
    },
    /// Shards of one database ask for different policies; the topology record carries the strictest.
    MixedDurability {
        /// Name of the database.
        database: String,
    },
}
