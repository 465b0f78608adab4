//! What both binaries need around Kubernetes objects: keys, type-erased desired objects, the comparison that decides
//! whether a write would change anything, and events.
//!
//! Nothing here watches or reconciles; that is the business of the binaries.

pub mod client;
pub mod compare;
pub mod event;
pub mod guarded;
pub mod key;
pub mod object;

pub use compare::{Change, Difference, digest, is_superset, is_superset_ignoring, not_kept};
pub use guarded::{Guarded, is_forbidden};
pub use key::ObjectKey;
pub use object::{FieldManager, Object, meta, owner_of};
