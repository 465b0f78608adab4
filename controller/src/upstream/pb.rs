//! The generated protobuf messages and RPC clients. Nothing outside `upstream` names them.

#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the subset is declared in full, so that a record is never rewritten with a field missing"
)]

include!(concat!(env!("OUT_DIR"), "/upstream.rs"));
