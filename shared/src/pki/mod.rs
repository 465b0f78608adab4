//! Certificates that the operator makes itself: a certificate authority and leaves signed by it, ECDSA P-256.
//!
//! [`plan`] decides on values and the given time what has to be renewed; [`Authority`] carries it out in memory. Storing
//! the result is the caller's business. An authority is replaced with overlap: its successor is put in front of it in the
//! trust bundle, and the leaf moves to the successor only after everyone had time to load that bundle.

mod generate;
mod inspect;
mod plan;
pub mod rotation;

pub use generate::{Authority, Pair, Request, matches};
pub use inspect::{Certificate, bundle};
pub use plan::{Plan, Policy, Reason, plan};

/// A certificate or key that cannot be used, or that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not a PEM certificate.
    #[error("cannot read a certificate: {0}")]
    Certificate(String),
    /// The private key cannot be read, or making a key or certificate failed.
    #[error("cannot {attempt}")]
    Crypto {
        /// What was attempted.
        attempt: &'static str,
        /// What went wrong.
        source: rcgen::Error,
    },
}
