//! A stand-in for the Multigres data plane: one program that answers to the names of its binaries.
//!
//! It keeps the contract that an operator can see (flags, exits, topology records, calls, probes, joining from the backup
//! repository, elections) and nothing of the database behind it.

pub mod admin;
pub mod exporter;
pub mod fault;
pub mod flag;
pub mod flag_table;
pub mod gateway;
pub mod identity;
pub mod launch;
pub mod orch;
pub mod pooler;
mod pooler_watch;
pub mod postgres;
pub mod proto;
pub mod quorum;
pub mod serving;
pub mod simulate;
pub mod tls;
pub mod topology;
pub mod web;
