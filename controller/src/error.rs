//! Why a pass failed: a category for events and metrics, and a class that decides what happens next.

use kube::core::Status;

use crate::upstream;

/// The error of one pass.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
pub enum Error {
    /// The object lacks something that the API server always sets.
    #[error("{kind} has no {field}: it was never stored by an API server")]
    NotStored {
        /// Kind of the object.
        kind: &'static str,
        /// Missing metadata field.
        field: &'static str,
    },
    /// A child object misses the label that names its cluster.
    #[error("{object} has no label {label}: it was not made by this operator; delete it, or add the label")]
    NoClusterLabel {
        /// Kind and name.
        object: String,
        /// Label key.
        label: &'static str,
    },
    /// A live read of a user's object failed.
    #[error("reading {object}")]
    ReadReference {
        /// Kind and name.
        object: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// One write of a plan failed; the others were tried.
    #[error("{verb} {object}")]
    Write {
        /// What was attempted: `apply`, `create`, `patch`, `delete`, `status`.
        verb: &'static str,
        /// Kind and name.
        object: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A call took longer than its deadline.
    #[error("{what} took longer than {seconds} s")]
    Deadline {
        /// What was attempted.
        what: String,
        /// Bound in seconds.
        seconds: u64,
    },
    /// The topology server or a pooler did not do what was asked.
    #[error("{what}")]
    Upstream {
        /// What was attempted.
        what: String,
        /// What the data plane said.
        #[source]
        source: upstream::Error,
    },
    /// A volume would have been given up without anything to restore it from.
    #[error("{pooler} knows of no complete backup")]
    NoBackup {
        /// Whom we asked.
        pooler: String,
    },
    /// Key material could not be generated or parsed.
    #[error("certificates of {object}")]
    Pki {
        /// Kind and name of the Secret.
        object: String,
        /// What went wrong.
        #[source]
        source: shared::pki::Error,
    },
    /// An object under a name that we need belongs to somebody else.
    #[error(
        "{object} exists and is not managed by this operator: rename or remove it, or choose another name for the cluster"
    )]
    Foreign {
        /// Kind and name.
        object: String,
    },
    /// A builder forgot the label by which our own objects are found again.
    #[error("{object} lacks the label {label}, so it is not written")]
    Unlabelled {
        /// Kind and name.
        object: String,
        /// Label key.
        label: &'static str,
    },
    /// A value of ours could not be turned into JSON.
    #[error("serialising {object}")]
    Serialise {
        /// Kind and name.
        object: String,
        /// What went wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Code of ours broke while it worked for this object.
    #[error("the operator itself broke: {what}; this is a defect, please report it with the controller's log")]
    Panicked {
        /// What the panic said.
        what: String,
    },
}

/// Whether a create was refused only because the namespace is on its way out.
pub fn is_leaving(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Somebody else wrote in between: try again at once, no failure.
    Conflict,
    /// The namespace is being deleted, so nothing can be made in it any more: not worth a word.
    Leaving,
    /// Likely to pass: try again with growing delays.
    Transient,
    /// Will not pass by itself: report, and try again seldom.
    Bug,
}

impl Error {
    /// Event reason and metric label: the variant's name.
    pub fn category(&self) -> &'static str {
        self.into()
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::ReadReference { source, .. } | Self::Write { source, .. } => match &**source {
                kube::Error::Api(status) if status.code == 409 => Class::Conflict,
                kube::Error::Api(status) if is_leaving(status) => Class::Leaving,
                kube::Error::Api(status) if status.code == 422 || status.code == 400 => Class::Bug,
                _ => Class::Transient,
            },
            Self::NotStored { .. }
            | Self::NoClusterLabel { .. }
            | Self::Foreign { .. }
            | Self::Unlabelled { .. }
            | Self::Serialise { .. }
            | Self::Panicked { .. } => Class::Bug,
            Self::Deadline { .. } | Self::Upstream { .. } | Self::NoBackup { .. } | Self::Pki { .. } => {
                Class::Transient
            }
        }
    }

    /// The error and all its sources in one line. Of an answer of the API server only what it says for people.
    pub fn chain(&self) -> String {
        match self {
            Self::ReadReference { source, .. } | Self::Write { source, .. } => match &**source {
                kube::Error::Api(status) => format!("{self}: {} ({})", status.message, status.code),
                _ => shared::telemetry::chain(self),
            },
            _ => shared::telemetry::chain(self),
        }
    }
}
