//! The admission webhook of the Multigres Operator: defaults and judges objects of our API group, and keeps its own certificates.

pub mod app;
mod backup;
pub mod certificate;
pub mod child;
pub mod cli;
pub mod cluster;
pub mod lookup;
pub mod metrics;
pub mod mutate;
pub mod review;
pub mod reviewer;
pub mod selftest;
pub mod server;
pub mod template;
