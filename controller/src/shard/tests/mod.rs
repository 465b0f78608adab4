//! Tests of whole passes over a shard.

mod change;
pub mod fixture;
mod objects;
mod pods;
mod renderings;
mod status;
mod tombstones;
