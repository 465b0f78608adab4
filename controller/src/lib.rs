//! The reconciling half of the Multigres Operator, as a library so that tests can build every part of it.
//!
//! A pass is references → observe → `decide` → execute → status. The pure parts are `plan` and the `decide`, builder and
//! status functions in `cluster`, `cell`, `table_group`, `topo_server` and `shard`; effects live in `execute`, `watch`,
//! `runner`, `app` and `upstream`.

pub mod app;
pub mod backup;
pub mod cell;
pub mod classes;
pub mod cli;
pub mod cluster;
pub mod context;
pub mod error;
pub mod execute;
pub mod gate;
pub mod metrics;
pub mod metricstest;
pub mod plan;
pub mod requeue;
pub mod runner;
pub mod server;
pub mod settings;
pub mod shard;
pub mod stores;
pub mod table_group;
mod takeover;
pub mod topo_server;
pub mod uninstall;
pub mod upstream;
pub mod watch;
pub mod workload;
