//! What end-to-end stories need: a running bed, a namespace of their own, waiting with a deadline, and the audit log.
//!
//! A story runs against a Kubernetes that already has the operator installed by its chart. `hack/test.sh` and
//! `hack/stories.sh` prepare one and say where it is through the environment.

pub mod audit;
pub mod backup;
pub mod bed;
pub mod cluster;
pub mod etcd;
pub mod fault;
pub mod gateway;
pub mod helm;
pub mod inventory;
pub mod leftover;
pub mod lesson;
pub mod load;
pub mod object_store;
pub mod overlay;
pub mod page;
pub mod probe;
pub mod prometheus;
pub mod released;
pub mod rights;
pub mod secret;
pub mod spans;
pub mod tls;
pub mod wait;
pub mod webhook;

pub use backup::Backups;
pub use bed::Bed;
pub use cluster::ClusterUnderTest;
pub use fault::Faults;
pub use helm::Tools;
pub use lesson::Lesson;
pub use load::Load;
pub use object_store::ObjectStore;
pub use overlay::Overlay;
pub use prometheus::Prometheus;
pub use spans::Spans;
pub use wait::{until, within};
pub use webhook::Webhook;
