//! A real Kubernetes on a bare Linux box, without Docker: for tests (this library) and for people (the command `testbed`).
//!
//! Two things can be started:
//!
//! - [`ControlPlane`]: etcd and kube-apiserver on loopback, without root, for tests that only need the API;
//! - [`Bed`]: a whole cluster in a network namespace of its own, with real kubelets (or simulated nodes), DNS, Services and storage.
//!
//! Everything is built from the Go modules pinned in `hack/tools`, cached outside of the checkout, and removed without a trace.

pub mod addons;
pub mod bed;
pub mod cert_manager;
pub mod control_plane;
pub mod dataplane;
pub mod fault;
pub mod home;
pub mod host;
pub mod image;
pub mod kubeconfig;
pub mod kwok;
pub mod network;
pub mod node;
pub mod options;
pub mod pki;
pub mod probe;
pub mod process;
pub mod progress;
pub mod schemas;
pub mod state;
pub mod tools;
pub mod volumes;

pub use bed::Bed;
pub use control_plane::ControlPlane;
pub use options::{NodeMode, Options};
pub use tools::{Kubernetes, Tool, Tools};
