//! What the suites share: generated objects, questions and answers, the service in process and behind an API server.

#![allow(dead_code, reason = "each suite uses its part")]

pub mod api_server;
pub mod case;
pub mod envelope;
pub mod hostile;
pub mod random;
pub mod service;
pub mod specs;
pub mod world;

#[path = "../../../shared/tests/rule_cases/mod.rs"]
pub mod rule_cases;

use shared::metrics::{Build, Metrics, Watches};

/// Counters of watches that nobody reads.
pub fn watches() -> Watches {
    Watches::new(&Metrics::new(Build { version: "1", revision: "a" }).unwrap()).unwrap()
}
