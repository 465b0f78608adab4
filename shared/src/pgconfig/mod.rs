//! PostgreSQL configuration of a shard: which settings exist, which values fit, what the rendered file says, and what a change costs.
//!
//! Pure functions only. The file is one per shard, never per pool, because standbys must stay compatible with the primary. Later assignments
//! win, as in PostgreSQL: baseline and sizing, then the content of a referenced ConfigMap, then the inline settings.

pub mod catalog;
pub mod classify;
pub mod connections;
pub mod hash;
pub mod managed;
pub mod parse;
pub mod render;
pub mod replication;
pub mod sizing;
pub mod value;

pub use classify::{Change, change};
pub use connections::{USUAL_POOL, pool_size};
pub use managed::{Managed, managed};
pub use parse::{Parsed, parse};
pub use render::{Identity, RELOAD_MARKER, Rendered, render};
pub use replication::Critical;
pub use sizing::{Basis, Sizing, basis};
pub use value::{ValueError, check};
