//! The CEL rules of the API and the patterns of its strings, each with the message that users see.
//!
//! The rules use core CEL only, as Kubernetes 1.25 serves it, and every list, map and string they touch is bounded,
//! because the API server multiplies the cost of a rule by the size of everything around it.

use serde::Serialize;

/// A CEL rule with the message of its refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CelRule {
    /// The expression that must hold.
    pub rule: &'static str,
    /// What the API server answers when it does not.
    pub message: &'static str,
}

const fn rule(rule: &'static str, message: &'static str) -> CelRule {
    CelRule { rule, message }
}

/// A DNS label, the form of all logical names.
pub const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A DNS subdomain, the form of object names.
pub const DNS_SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A key of a Secret or ConfigMap.
pub const DATA_KEY: &str = "^[-._a-zA-Z0-9]+$";
/// A non-negative Kubernetes quantity that a volume can request.
pub const STORAGE_SIZE: &str = r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[mkMGTPE]|[eE]\+?[0-9]+)?$";
/// A non-negative Go duration with either micro sign.
pub const GO_DURATION: &str = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|μs|ms|s|m|h))+$";
/// An IPv4 address or the rough shape of an IPv6 address.
pub const IP_ADDRESS: &str = r"^(([0-9]{1,3}\.){3}[0-9]{1,3})$|^(([0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4})$";
/// A URL that an etcd client can dial.
pub const HTTP_URL: &str = "^https?://.+$";
/// The short hash that names a set of images.
pub const IMAGE_REVISION: &str = "^[0-9a-f]*$";
/// A Kubernetes quantity.
pub const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Names of children must stay within Kubernetes' limits.
pub const CLUSTER_NAME: CelRule =
    rule("size(self.metadata.name) <= 25", "the name of a MultigresCluster has at most 25 characters");

/// Components with and without TLS cannot reach each other while pods are replaced one after the other.
pub const INTERNAL_TLS_FIXED: CelRule = rule(
    "(has(self.spec.internalTLS) && has(self.spec.internalTLS.enabled) && self.spec.internalTLS.enabled) == \
     (has(oldSelf.spec.internalTLS) && has(oldSelf.spec.internalTLS.enabled) && oldSelf.spec.internalTLS.enabled)",
    "'internalTLS.enabled' of a cluster cannot change: components with and without TLS cannot reach each other while pods are replaced; \
     make another cluster",
);

/// A cell is inline or templated.
pub const CELL_SPEC_OR_TEMPLATE: CelRule =
    rule("!(has(self.spec) && has(self.cellTemplate))", "a cell takes either 'spec' or 'cellTemplate', not both");
/// Overrides change a template, not an inline spec.
pub const CELL_SPEC_OR_OVERRIDES: CelRule =
    rule("!(has(self.spec) && has(self.overrides))", "a cell takes 'overrides' with a template, not with 'spec'");
/// Nodes are selected by one label.
pub const CELL_LOCATION: CelRule = rule(
    "(has(self.zone) ? 1 : 0) + (has(self.zoneId) ? 1 : 0) + (has(self.region) ? 1 : 0) <= 1",
    "a cell takes at most one of 'zone', 'zoneId' and 'region'",
);
/// Moving a cell would move the node selectors under running pods with zone-bound volumes.
pub const CELL_LOCATION_FIXED: CelRule = rule(
    "has(self.zone) == has(oldSelf.zone) && (!has(self.zone) || self.zone == oldSelf.zone) && \
     has(self.zoneId) == has(oldSelf.zoneId) && (!has(self.zoneId) || self.zoneId == oldSelf.zoneId) && \
     has(self.region) == has(oldSelf.region) && (!has(self.region) || self.region == oldSelf.region)",
    "'zone', 'zoneId' and 'region' of a cell are immutable",
);

/// The data plane serves the system database only.
pub const DATABASE_NAME: CelRule =
    rule("self.name == 'postgres'", "this version supports exactly one database, called 'postgres'");
/// The only database is the default one.
pub const DATABASE_DEFAULT: CelRule = rule(
    "!has(self.default) || self.default",
    "the only database is the default one: 'default' must be true or absent",
);
/// Two spellings of one list.
pub const TABLE_GROUPS_ALIAS: CelRule = rule(
    "!(has(self.tablegroups) && has(self.tableGroups))",
    "'tableGroups' is another spelling of 'tablegroups': give one of them, not both",
);
/// A sole table group is the default, else the one called `default` is.
pub const TABLE_GROUP_ONE_DEFAULT: CelRule = rule(
    "size(self) == 0 || (size(self) == 1 && (!has(self[0].default) || self[0].default)) || \
     self.exists(t, t.name == 'default' && (!has(t.default) || t.default))",
    "one table group must be the default: the only one, or the one called 'default', not marked 'default: false'",
);
/// No other table group may claim to be the default.
pub const TABLE_GROUP_DEFAULT_NAME: CelRule = rule(
    "!has(self.default) || !self.default || self.name == 'default'",
    "the default table group must be called 'default'",
);

/// A shard is inline or templated.
pub const SHARD_SPEC_OR_TEMPLATE: CelRule =
    rule("!(has(self.spec) && has(self.shardTemplate))", "a shard takes either 'spec' or 'shardTemplate', not both");
/// Overrides change a template, not an inline spec.
pub const SHARD_SPEC_OR_OVERRIDES: CelRule =
    rule("!(has(self.spec) && has(self.overrides))", "a shard takes 'overrides' with a template, not with 'spec'");
/// The data plane knows one key range.
pub const SHARD_NAME: CelRule = rule("self.name == '0-inf'", "this version supports exactly one shard, called '0-inf'");

/// Pool names end up in pod names; a schema cannot put a pattern on map keys, so admission checks the characters.
pub const POOL_NAME: CelRule = rule("self.all(k, size(k) <= 25)", "the name of a pool has at most 25 characters");

/// Limits of annotation keys; values are limited by their schema.
pub const ANNOTATION_KEY: CelRule =
    rule("self.all(k, size(k) < 64)", "keys of pod annotations have fewer than 64 characters");
/// Limits of label keys; values are limited by their schema.
pub const LABEL_KEY: CelRule = rule("self.all(k, size(k) < 64)", "keys of pod labels have fewer than 64 characters");
/// Our prefix on an exposed Service is ours.
pub const SERVICE_ANNOTATION: CelRule = rule(
    "self.all(k, !k.startsWith('multigres.com/'))",
    "annotations that begin with 'multigres.com/' are reserved for the operator",
);

/// A component is inline or templated.
pub const ADMIN_SPEC_OR_TEMPLATE: CelRule =
    rule("!(has(self.spec) && has(self.templateRef))", "give either 'spec' or 'templateRef', not both");
/// The global topology has one backend.
pub const GLOBAL_TOPOLOGY: CelRule = rule(
    "(has(self.etcd) ? 1 : 0) + (has(self.external) ? 1 : 0) + (has(self.templateRef) ? 1 : 0) <= 1",
    "the global topology takes at most one of 'etcd', 'external' and 'templateRef'",
);
/// A local topology has one backend.
pub const LOCAL_TOPOLOGY: CelRule =
    rule("has(self.etcd) != has(self.external)", "a local topology takes exactly one of 'etcd' and 'external'");
/// An even member adds load and no fault tolerance.
pub const ETCD_REPLICAS: CelRule = rule("self % 2 == 1", "the number of etcd replicas must be odd");

/// Two spellings of one value.
pub const STORAGE_CLASS_ALIAS: CelRule = rule(
    "!(has(self.class) && has(self.storageClassName))",
    "'storageClassName' is another spelling of 'class': give one of them, not both",
);

/// The settings of the chosen kind must be there.
pub const BACKUP_S3: CelRule = rule("self.type != 's3' || has(self.s3)", "backups of type 's3' need the 's3' settings");
/// The settings of the chosen kind must be there.
pub const BACKUP_FILESYSTEM: CelRule = rule(
    "self.type != 'filesystem' || has(self.filesystem)",
    "backups of type 'filesystem' need the 'filesystem' settings",
);
/// The data plane keeps no more.
pub const BACKUP_RETENTION: CelRule =
    rule("self <= 7", "the data plane itself keeps 7 full backups and removes older ones: at most 7 can be kept");
/// Another request is another backup.
pub const BACKUP_RUN_FIXED: CelRule = rule(
    "self.cluster == oldSelf.cluster && self.database == oldSelf.database && self.tableGroup == oldSelf.tableGroup && \
     self.shard == oldSelf.shard && self.type == oldSelf.type",
    "what is saved cannot be changed afterwards: create another MultigresBackup",
);
/// A repository cannot be re-encrypted in place.
pub const BACKUP_ENCRYPTION_FIXED: CelRule = rule(
    "has(self.encryption) == has(oldSelf.encryption) && \
     (!has(self.encryption) || self.encryption.secretName == oldSelf.encryption.secretName)",
    "'encryption' of a backup repository is immutable",
);
/// One source of credentials.
pub const S3_ACCOUNT_OR_SECRET: CelRule = rule(
    "!(has(self.serviceAccountName) && size(self.serviceAccountName) > 0 && \
     has(self.credentialsSecret) && size(self.credentialsSecret) > 0)",
    "give either 'serviceAccountName' or 'credentialsSecret', not both",
);
/// One source of credentials.
pub const S3_ACCOUNT_OR_ENV: CelRule = rule(
    "!(has(self.serviceAccountName) && size(self.serviceAccountName) > 0 && \
     has(self.useEnvCredentials) && self.useEnvCredentials)",
    "'useEnvCredentials' does not go with 'serviceAccountName'",
);
