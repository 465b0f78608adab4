//! Tests of whole passes over a shard.

pub mod change;
pub mod fixture;
mod keys;
mod loss;
mod moving;
mod objects;
mod pods;
mod records;
mod renderings;
mod status;
mod tls;
mod tombstones;
