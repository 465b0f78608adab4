//! Parts that every workload is built from: placement, probes, security contexts, telemetry variables, certificates, and the
//! renderings that stay in force until their users want something else.
//!
//! Builders here return owned values and read nothing but their arguments.

mod desired;
pub mod environment;
pub mod owner;
pub mod placement;
pub mod port;
pub mod probe;
pub mod revision;
pub mod rollout;
pub mod security;
pub mod telemetry;
pub mod tls;

#[cfg(test)]
pub mod fixture;

pub use desired::{want, want_once};
