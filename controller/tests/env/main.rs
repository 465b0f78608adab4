//! The real controller against a real API server, and its clients against a real etcd: one program, because each would link all of
//! the controller again.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`, and an etcd as [`real_etcd`] looks for it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test helpers outside of test functions"
)]

mod backup;
mod bed;
mod cluster;
mod departure;
mod disruption;
mod growth;
mod moving;
mod namespaces;
mod real_etcd;
#[path = "../../../shared/tests/receiver/mod.rs"]
mod receiver;
mod removal;
mod revision;
mod rights;
mod storage;
mod topology;
mod tracing;
mod wave;
