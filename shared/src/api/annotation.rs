//! Annotation and finalizer keys of the API, each with its meaning.

/// Free text of the user on a cluster, handed down to children and pods; defaults to the cluster's name on pods.
pub const PROJECT_REF: &str = "multigres.com/project-ref";

/// RFC 3339 time at which the parent asked a child to drain and to report `ReadyForDeletion`.
pub const PENDING_DELETION: &str = "multigres.com/pending-deletion";

/// Durable record on a cluster of the adopted default images: JSON of the six images, or the string `fully-pinned`.
pub const APPLIED_IMAGES: &str = "multigres.com/applied-images";

/// W3C trace context of the admission request that last changed the spec.
pub const TRACEPARENT: &str = "multigres.com/traceparent";

/// Unix seconds at which [`TRACEPARENT`] was written.
pub const TRACEPARENT_TIMESTAMP: &str = "multigres.com/traceparent-ts";

/// W3C trace state that belongs to [`TRACEPARENT`].
pub const TRACESTATE: &str = "multigres.com/tracestate";

/// Hash of the part of a shard's spec that a pool pod was built from.
pub const SPEC_HASH: &str = "multigres.com/spec-hash";

/// Hash of the PostgreSQL settings that only a restart applies.
pub const POSTGRES_CONFIG_HASH: &str = "multigres.com/postgres-config-hash";

/// Hash of the PostgreSQL settings that a reload applies.
pub const POSTGRES_RELOAD_HASH: &str = "multigres.com/postgres-reload-hash";

/// Step of the drain protocol that a pool pod has reached.
pub const DRAIN_STATE: &str = "drain.multigres.com/state";

/// RFC 3339 time at which the drain of a pool pod was requested.
pub const DRAIN_REQUESTED_AT: &str = "drain.multigres.com/requested-at";

/// How the certificates of a webhook configuration are managed.
pub const CERT_STRATEGY: &str = "multigres.com/cert-strategy";

/// Prefix that users may not use on Services which the operator exposes.
pub const RESERVED_PREFIX: &str = "multigres.com/";

/// Finalizer of a cluster: children and retained volumes are dealt with before it goes.
pub const CLUSTER_FINALIZER: &str = "multigres.com/cluster-cleanup";

/// Finalizer of a shard: its volumes are kept or deleted by policy before it goes.
pub const SHARD_FINALIZER: &str = "multigres.com/shard-pvc-orphan";
