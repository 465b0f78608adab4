//! Tests of whole passes over a shard.

pub mod fixture;
mod objects;
mod pods;
mod renderings;
mod status;
mod tombstones;
