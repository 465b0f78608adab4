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

/// Settings that no standby may have lower than its primary, as `name=value` with commas: on a pool pod what it was made with, on the
/// `ConfigMap` with the settings what the last primary had.
pub const REPLICATION_SETTINGS: &str = "multigres.com/replication-settings";

/// Step of the drain protocol that a pool pod has reached.
pub const DRAIN_STATE: &str = "drain.multigres.com/state";

/// RFC 3339 time at which the drain of a pool pod was requested.
pub const DRAIN_REQUESTED_AT: &str = "drain.multigres.com/requested-at";

/// Why a pool pod is drained: `rolling-update`, `scale-down`, `fs-resize`, `node-drain`.
pub const DRAIN_REASON: &str = "drain.multigres.com/reason";

/// RFC 3339 time at which the drain of a pool pod reached its step.
pub const DRAIN_STATE_SINCE: &str = "drain.multigres.com/state-since";

/// How many switchovers away from a pool pod failed in a row.
pub const SWITCHOVER_FAILURES: &str = "drain.multigres.com/switchover-failures";

/// RFC 3339 time at which the last switchover away from a pool pod failed.
pub const SWITCHOVER_FAILED_AT: &str = "drain.multigres.com/switchover-failed-at";

/// On a cluster, handed down to its shards: while it is there, and not `false`, no pod is taken down that runs.
pub const PAUSE: &str = "multigres.com/pause";

/// On a cluster, handed down to its shards: while it is there, and not `false`, a shard that has lost all of its data, and has no backup, starts
/// anew with an empty database.
pub const START_EMPTY: &str = "multigres.com/start-empty";

/// Words of the user on a cluster that are handed down to its shards.
pub const HANDED_DOWN: [&str; 2] = [PAUSE, START_EMPTY];

/// On a data volume's claim: RFC 3339 time at which it was set aside, because the pooler on it had given up. It is kept for
/// whoever wants to look at it.
pub const QUARANTINED_AT: &str = "multigres.com/quarantined-at";

/// On a data volume's claim: RFC 3339 time at which a volume of the class that the spec asks for took its place. What becomes of it is up
/// to `whenScaled`.
pub const REPLACED_AT: &str = "multigres.com/replaced-at";

/// On a data volume's claim: the numbers that were skipped for it, separated by commas. They are not used again while it is there.
pub const INSTEAD_OF: &str = "multigres.com/instead-of";

/// On a pool pod: the [`POSTGRES_RELOAD_HASH`] of settings of which a reload showed that some need a restart.
pub const RESTART_REQUIRED: &str = "multigres.com/restart-required";

/// How the certificates of a webhook configuration are managed.
pub const CERT_STRATEGY: &str = "multigres.com/cert-strategy";

/// Prefix of the operator's own annotations, which users may not use on Services that the operator exposes.
pub const RESERVED_PREFIX: &str = "multigres.com/";

/// On a MultigresBackup that a schedule made: RFC 3339 time of the schedule that it is for.
pub const SCHEDULED_AT: &str = "multigres.com/scheduled-at";

/// Finalizer of a MultigresBackup whose backup goes with it.
pub const BACKUP_FINALIZER: &str = "multigres.com/backup-data";

/// Finalizer of a cluster: children and retained volumes are dealt with before it goes.
pub const CLUSTER_FINALIZER: &str = "multigres.com/cluster-cleanup";

/// Finalizer of a shard: its volumes are kept or deleted by policy before it goes.
pub const SHARD_FINALIZER: &str = "multigres.com/shard-pvc-orphan";
