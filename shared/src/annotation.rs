//! Every annotation and finalizer key that the operator reads or writes.
//!
//! The keys that are part of the API are defined beside it and repeated here, so that there is one place to look.

pub use crate::api::annotation::*;

/// Value of [`APPLIED_IMAGES`] on a cluster that names all of its images (a JSON string, with its quotes).
pub const FULLY_PINNED: &str = "\"fully-pinned\"";
/// Value of [`CERT_STRATEGY`] when the operator manages the certificates itself.
pub const CERT_STRATEGY_SELF_SIGNED: &str = "self-signed";
/// On every object that the operator applies: digest of what it applied last.
///
/// Together with a comparison of the live object it tells whether another apply would change anything: the digest alone
/// sees fields that the operator stopped setting, the comparison alone sees what others changed.
pub const APPLIED_DIGEST: &str = "multigres.com/applied-digest";

/// On every object whose rendering is pinned: what its user wanted when it was rendered.
pub const INTENT: &str = "multigres.com/intent";
/// On every object whose rendering is pinned: the rendering, packed. It stays in force until the intent changes.
pub const RENDERING: &str = "multigres.com/rendering";
/// On children of a cluster that takes over new renderings at once or not at all: [`UPDATE_IMMEDIATELY`] or [`UPDATE_PAUSED`].
pub const UPDATE_STRATEGY: &str = "multigres.com/update-strategy";
/// Value of [`UPDATE_STRATEGY`].
pub const UPDATE_IMMEDIATELY: &str = "immediate";
/// Value of [`UPDATE_STRATEGY`].
pub const UPDATE_PAUSED: &str = "paused";

/// On data volumes: what the data directory was made with, and cannot be changed to afterwards.
pub const MADE_WITH: &str = "multigres.com/made-with";

/// On data volumes of a shard with backups in a bucket: where these lie, as in `s3://bucket/prefix`.
pub const REPOSITORY: &str = "multigres.com/backup-repository";

/// On pods that mount certificates: a digest of these, because processes read them only when they start.
pub const CERTIFICATES_HASH: &str = "multigres.com/certificates-hash";

/// On pool pods: until when the certificate is good that its pgBackRest server was started with, and a digest of the authority that it trusts.
pub const PGBACKREST_CERTIFICATE: &str = "multigres.com/pgbackrest-certificate";

/// On pool pods: asks Prometheus to scrape the pod.
pub const PROMETHEUS_SCRAPE: &str = "prometheus.io/scrape";
/// On pool pods: the port to scrape.
pub const PROMETHEUS_PORT: &str = "prometheus.io/port";
/// On pool pods: the path to scrape.
pub const PROMETHEUS_PATH: &str = "prometheus.io/path";

/// On a pod that another operator has made: what its user wanted when it was taken over. It is left as it is until that changes.
pub const ADOPTED_INTENT: &str = "multigres.com/adopted-intent";

/// How far the removal of a pool pod has come; the value of [`DRAIN_STATE`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::Display, strum::EnumString, strum::IntoStaticStr,
)]
#[strum(serialize_all = "kebab-case")]
pub enum DrainState {
    /// The pod is chosen; nothing was done to it yet.
    Requested,
    /// The data plane is asked to take the pod out.
    Draining,
    /// The data plane no longer counts on the pod.
    Acknowledged,
    /// The pod can be deleted.
    ReadyForDeletion,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_states_are_spelled_as_in_the_annotation() {
        assert_eq!(DrainState::ReadyForDeletion.to_string(), "ready-for-deletion");
        assert_eq!("acknowledged".parse(), Ok(DrainState::Acknowledged));
        assert!("Requested".parse::<DrainState>().is_err());
        assert!(DrainState::Requested < DrainState::ReadyForDeletion);
    }

    #[test]
    fn tombstone_of_pinned_images_is_a_json_string() {
        assert_eq!(serde_json::from_str::<String>(FULLY_PINNED).unwrap(), "fully-pinned");
    }

    #[test]
    fn finalizers_and_our_annotations_are_reserved_keys() {
        for key in [
            PROJECT_REF,
            APPLIED_DIGEST,
            INTENT,
            RENDERING,
            UPDATE_STRATEGY,
            CERTIFICATES_HASH,
            PGBACKREST_CERTIFICATE,
            SPEC_HASH,
            CLUSTER_FINALIZER,
            SHARD_FINALIZER,
        ] {
            assert!(key.starts_with(RESERVED_PREFIX), "{key}");
        }
    }
}
