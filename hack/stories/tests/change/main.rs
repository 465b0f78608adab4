//! A shard through change, with a client that writes all the time and an eye on every pod.
//!
//! With the real data plane (`MULTIGRES_BIN_DIR`) no acknowledged write may be lost and none may fail. With the stand-in, what
//! holds at every observed instant is checked: one member down at most, and the primary last. Changes that meet a fault of the data
//! plane end as wanted, or say in one word what is in the way, and nobody's pod goes on what was true before.

mod cells;
mod death;
mod faults;
mod pods;
mod topology;
mod volumes;
mod watch;
