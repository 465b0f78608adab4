//! What can go wrong between the controller and the data plane, typed by what there is to do about it.

use std::time::Duration;

/// Result of a call to the data plane.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call to a topology server or a pooler did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// Nobody answers there, or the server has no leader. What is known stays valid; try again later.
    #[error("{target} is not reachable: {detail}")]
    Unavailable {
        /// Address that was called.
        target: String,
        /// What the transport or the server said.
        detail: String,
    },
    /// No answer within the deadline. Treated like [`Error::Unavailable`].
    #[error("{target} did not answer within {} ms", after.as_millis())]
    Slow {
        /// Address that was called.
        target: String,
        /// The deadline.
        after: Duration,
    },
    /// The record is not there.
    #[error("{what} does not exist in the topology")]
    NotFound {
        /// The key or record.
        what: String,
    },
    /// Others kept writing the same record.
    #[error("{key} changes faster than it can be written")]
    Conflict {
        /// The key.
        key: String,
    },
    /// The record is still needed by another one.
    #[error("{what} is still used by {by}")]
    InUse {
        /// The record that was to be removed.
        what: String,
        /// The record that refers to it.
        by: String,
    },
    /// Credentials or certificates are refused. Does not pass by itself.
    #[error("{target} refuses access: {detail}")]
    Denied {
        /// Address that was called.
        target: String,
        /// What the server said.
        detail: String,
    },
    /// There is nothing to reach the server with over TLS, so it was not called.
    #[error("{target} cannot be reached over TLS: {detail}")]
    NoCredentials {
        /// Address that was to be called.
        target: String,
        /// What is missing, or wrong.
        detail: String,
    },
    /// A stored value is not what its key promises.
    #[error("{key} is malformed: {detail}")]
    Malformed {
        /// The key.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The request cannot be made: an address or a name that no server would accept.
    #[error("{what} is not usable: {detail}")]
    Invalid {
        /// The value.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The server answered with an error of its own.
    #[error("{target} failed: {detail}")]
    Failed {
        /// Address that was called.
        target: String,
        /// What the server said.
        detail: String,
    },
}

impl Error {
    /// Condition reason and metric label: the variant's name.
    pub fn reason(&self) -> &'static str {
        self.into()
    }

    /// Whether the server could not be asked at all, so that the last knowledge is all there is.
    pub fn unreachable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Slow { .. } | Self::NoCredentials { .. })
    }

    /// Reads a gRPC status. A deadline that the transport enforced counts as slow.
    pub(super) fn from_grpc(target: &str, status: &tonic::Status, deadline: Duration) -> Self {
        use tonic::Code;
        let target = target.to_owned();
        let detail = detail_of(status);
        match status.code() {
            Code::Unavailable | Code::Aborted | Code::ResourceExhausted => Self::Unavailable { target, detail },
            // A dropped connection in the middle of a call surfaces as one of these with a transport error inside.
            Code::Unknown | Code::Internal | Code::Cancelled if std::error::Error::source(status).is_some() => {
                Self::Unavailable { target, detail }
            }
            Code::DeadlineExceeded => Self::Slow { target, after: deadline },
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied { target, detail },
            _ => Self::Failed { target, detail },
        }
    }

    /// Reads an error of the etcd client.
    pub(super) fn from_etcd(target: &str, error: &etcd_client::Error, deadline: Duration) -> Self {
        use etcd_client::Error as Etcd;
        match error {
            // The server names lost leadership and overload with codes that otherwise mean a defect.
            Etcd::GRpcStatus(status) if transient_etcd(status.message()) => {
                Self::Unavailable { target: target.to_owned(), detail: status.message().to_owned() }
            }
            Etcd::GRpcStatus(status) => Self::from_grpc(target, status, deadline),
            Etcd::TransportError(_) | Etcd::IoError(_) => {
                Self::Unavailable { target: target.to_owned(), detail: chain(error) }
            }
            Etcd::InvalidArgs(_) | Etcd::InvalidUri(_) | Etcd::EndpointError(_) => {
                Self::Invalid { what: target.to_owned(), detail: chain(error) }
            }
            _ => Self::Failed { target: target.to_owned(), detail: chain(error) },
        }
    }
}

fn transient_etcd(message: &str) -> bool {
    ["no leader", "leader changed", "request timed out", "server stopped", "not started", "too many requests"]
        .iter()
        .any(|text| message.contains(text))
}

/// The status text with the transport's own words behind it, which alone tell "refused" from "no such host".
fn detail_of(status: &tonic::Status) -> String {
    let mut text =
        if status.message().is_empty() { status.code().description().to_owned() } else { status.message().to_owned() };
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        append(&mut text, &cause.to_string());
        source = cause.source();
    }
    text
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        append(&mut text, &cause.to_string());
        source = cause.source();
    }
    text
}

fn append(text: &mut String, cause: &str) {
    if !text.contains(cause) {
        text.push_str(": ");
        text.push_str(cause);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tonic::{Code, Status};

    use super::*;

    #[rstest]
    #[case(Code::Unavailable, "connection refused", "Unavailable", true)]
    #[case(Code::DeadlineExceeded, "", "Slow", true)]
    #[case(Code::Unauthenticated, "no certificate", "Denied", false)]
    #[case(Code::PermissionDenied, "role", "Denied", false)]
    #[case(Code::FailedPrecondition, "not a primary", "Failed", false)]
    #[case(Code::Internal, "a defect of the server", "Failed", false)]
    fn grpc_codes_become_classes(
        #[case] code: Code,
        #[case] text: &str,
        #[case] class: &str,
        #[case] unreachable: bool,
    ) {
        let error = Error::from_grpc("p:15270", &Status::new(code, text), Duration::from_secs(2));
        assert_eq!((error.reason(), error.unreachable()), (class, unreachable));
    }

    #[rstest]
    #[case(Code::Unknown, "etcdserver: no leader", "Unavailable")]
    #[case(Code::FailedPrecondition, "etcdserver: leader changed", "Unavailable")]
    #[case(Code::InvalidArgument, "etcdserver: key is not provided", "Failed")]
    fn etcd_without_a_leader_is_unavailable(#[case] code: Code, #[case] text: &str, #[case] class: &str) {
        let error = etcd_client::Error::GRpcStatus(Status::new(code, text));
        assert_eq!(Error::from_etcd("etcd:2379", &error, Duration::from_secs(2)).reason(), class);
    }

    #[test]
    fn a_message_names_the_address_and_the_deadline() {
        let error = Error::Slow { target: "a:1".to_owned(), after: Duration::from_millis(1500) };
        assert_eq!(error.to_string(), "a:1 did not answer within 1500 ms");
    }
}
