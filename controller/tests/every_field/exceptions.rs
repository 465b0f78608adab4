//! The fields that do not change anything rendered, and what is promised about each instead.

/// A field by the end of the way to it, and why it is listed.
pub type Entry = (&'static str, &'static str);

/// Fields of later work. Until it is done they are refused, or said to have no effect, when they are given.
pub const PENDING: &[Entry] = &[
    ("bootstrap.fromBackup.repository", "a shard restores its own repository alone"),
    ("bootstrap.fromBackup.set", "a shard restores the newest backup alone"),
    ("bootstrap.fromBackup.targetTime", "a shard restores the newest backup alone"),
    ("resources.claims[].name", "pods declare no resource claims"),
    ("resources.claims[].request", "pods declare no resource claims"),
];

/// Fields that count when pools get smaller: then it is tried that they do.
pub const ON_SCALE: &[Entry] = &[
    ("tablegroups[].pvcDeletionPolicy.whenScaled", "volumes without a pod are kept or given up"),
    ("shards[].spec.pvcDeletionPolicy.whenScaled", "volumes without a pod are kept or given up"),
    ("pools{}.pvcDeletionPolicy.whenScaled", "volumes without a pod are kept or given up"),
];

/// Fields that count when a moment comes, or when a backup has been made: then it is tried that shards follow them.
pub const ON_TIME: &[Entry] = &[
    ("backup.schedule.full", "runs are made by it"),
    ("backup.schedule.differential", "runs are made by it"),
    ("backup.schedule.incremental", "runs are made by it"),
    ("backup.schedule.timeZone", "runs are made by it"),
    ("backup.schedule.suspend", "no run is made"),
    ("backup.schedule.jitter", "runs are put off"),
    ("backup.schedule.startingDeadline", "runs that were missed are made up for"),
    ("backup.schedule.deadline", "runs are given up"),
    ("backup.schedule.historyLimit", "ended runs are removed"),
    ("backup.retention.full", "backups are removed after each run"),
];

/// The same for fields that stand at the top of a template and have another effect, too, at the top of a cluster.
pub const ON_SCALE_OF_TEMPLATES: &[(&str, &str)] = &[("ShardTemplate", "pvcDeletionPolicy.whenScaled")];

/// Fields that count when something is made. A later edit is refused, or condition `ChangeHasNoEffect` tells. Names that have a single
/// legal value are here, too: every other value is refused.
pub const BOOTSTRAP_ONLY: &[Entry] = &[
    ("databases[].name", "there is one database"),
    ("databases[].default", "the only database is the default one"),
    ("tablegroups[].default", "the only table group is the default one"),
    ("shards[].name", "there is one key range"),
    ("external.implementation", "there is one protocol"),
    ("localTopoServer.external.caSecret", "the data plane takes one set of certificates, that of the global topology"),
    (
        "localTopoServer.external.clientCertSecret",
        "the data plane takes one set of certificates, that of the global topology",
    ),
    ("etcd.rootPath", "poolers that run do not register anew"),
    ("external.rootPath", "poolers that run do not register anew"),
    ("internalTLS.enabled", "components with and without TLS cannot reach each other"),
    ("multipooler.runAsUser", "both containers of a pod share files"),
    ("cells[].zone", "volumes cannot move"),
    ("cells[].zoneId", "volumes cannot move"),
    ("cells[].region", "volumes cannot move"),
    ("backup.encryption.secretName", "a repository is encrypted once"),
    ("backup.type", "a shard keeps the repository that it was bootstrapped into"),
    ("backup.s3.bucket", "a shard keeps the repository that it was bootstrapped into"),
    ("backup.s3.keyPrefix", "a shard keeps the repository that it was bootstrapped into"),
    ("backup.s3.keyPrefixScope", "a shard keeps the repository that it was bootstrapped into"),
    ("backup.filesystem.scope", "a shard keeps the repository that it was bootstrapped into"),
    ("initdbArgs", "read when the data directory is made"),
    ("postgresSuperuser", "made with the data directory"),
    ("etcd.storage.size", "the volumes of a StatefulSet stay as they were made"),
    ("etcd.storage.class", "the volumes of a StatefulSet stay as they were made"),
    ("etcd.storage.storageClassName", "the volumes of a StatefulSet stay as they were made"),
    ("filesystem.storage.class", "volumes stay as they were made"),
    ("filesystem.storage.storageClassName", "volumes stay as they were made"),
    ("storage.accessModes[]", "volumes stay as they were made"),
];

/// Fields with an effect that an edit reaches step by step: what is rendered on the way is not what a fresh cluster would get.
pub const GRADUAL: &[Entry] =
    &[("cells[].name", "a cell that leaves is drained first"), ("etcd.replicas", "members join one by one")];
