//! Laying one fragment of a spec over another, with a report of every field that the upper one provides.
//!
//! A field is provided when it is set and not empty; what is not provided leaves the lower value alone. Resources, affinity, placement and
//! lists are replaced as a whole; maps, storage, buffers and pools are merged by key.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements};

use crate::api::v1alpha1::{
    BackupConfig, BackupRetention, BackupSchedule, BufferConfig, CellInlineSpec, CellOverrides, ContainerConfig,
    EtcdSpec, FilesystemBackupConfig, MultigatewaySpec, MultiorchSpec, PodPlacementSpec, PoolSpec, PvcDeletionPolicy,
    S3BackupConfig, ShardInlineSpec, ShardOverrides, ShardTemplateSpec, StatelessSpec, StorageSpec,
};

/// Where in the spec a merge is, and who hears of the provided fields.
pub struct Path<'a> {
    text: String,
    report: Option<&'a mut dyn FnMut(Event<'_>)>,
}

/// What a merge reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The upper layer provides the field at this path.
    Provided(&'a str),
    /// The upper layer discards everything below this path.
    Discarded(&'a str),
}

impl<'a> Path<'a> {
    /// A path that nobody listens to.
    pub fn silent() -> Path<'static> {
        Path { text: String::new(), report: None }
    }

    /// A path whose provided fields are reported.
    pub fn reporting(at: impl Into<String>, report: &'a mut dyn FnMut(Event<'_>)) -> Self {
        Self { text: at.into(), report: Some(report) }
    }

    /// Continues below the named field.
    pub fn at<R>(&mut self, name: &str, then: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.text.len();
        if self.report.is_some() {
            if !self.text.is_empty() {
                self.text.push('.');
            }
            self.text.push_str(name);
        }
        let result = then(self);
        self.text.truncate(length);
        result
    }

    /// Continues below the entry of that key.
    pub fn key<R>(&mut self, key: &str, then: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.text.len();
        if self.report.is_some() {
            self.text.push('[');
            self.text.push_str(key);
            self.text.push(']');
        }
        let result = then(self);
        self.text.truncate(length);
        result
    }

    /// Reports the field here as provided.
    pub fn provided(&mut self) {
        if let Some(report) = &mut self.report {
            report(Event::Provided(&self.text));
        }
    }

    fn discarded(&mut self) {
        if let Some(report) = &mut self.report {
            report(Event::Discarded(&self.text));
        }
    }
}

/// A fragment that another can be laid over: one of its own kind, or one with fewer fields.
pub trait Merge<Upper = Self> {
    /// Lays `upper` over `self` and reports each field that `upper` provides.
    fn overlay(&mut self, upper: &Upper, path: &mut Path<'_>);

    /// Lays `upper` over `self`.
    fn merge(&mut self, upper: &Upper) {
        self.overlay(upper, &mut Path::silent());
    }
}

impl<T: Merge> Merge for Box<T> {
    fn overlay(&mut self, upper: &Self, path: &mut Path<'_>) {
        (**self).overlay(upper, path);
    }
}

/// Whether a value counts as provided.
pub trait Provided {
    /// Whether the value is more than absence.
    fn is_provided(&self) -> bool;
}

impl<T: ProvidedValue> Provided for Option<T> {
    fn is_provided(&self) -> bool {
        self.as_ref().is_some_and(ProvidedValue::has_content)
    }
}

impl<T> Provided for Vec<T> {
    fn is_provided(&self) -> bool {
        !self.is_empty()
    }
}

/// Whether a present value has content.
pub trait ProvidedValue {
    /// Whether the value says something.
    fn has_content(&self) -> bool {
        true
    }
}

impl ProvidedValue for i32 {}
impl ProvidedValue for i64 {}
impl ProvidedValue for bool {}
impl ProvidedValue for Box<Affinity> {}
/// An empty placement is content: it clears inherited tolerations.
impl ProvidedValue for PodPlacementSpec {}
impl ProvidedValue for crate::api::v1alpha1::PoolType {}
impl ProvidedValue for crate::api::v1alpha1::PvcRetention {}
impl ProvidedValue for crate::api::v1alpha1::BackupScope {}
impl ProvidedValue for crate::api::v1alpha1::KeyPrefixScope {}
impl ProvidedValue for crate::api::v1alpha1::DurabilityPolicy {}
impl ProvidedValue for crate::api::v1alpha1::PostgresConfigRef {}
impl ProvidedValue for crate::api::v1alpha1::PgbackrestTlsConfig {}
impl ProvidedValue for crate::api::v1alpha1::EncryptionConfig {}
impl ProvidedValue for Box<crate::api::v1alpha1::LocalTopoServerSpec> {}
impl ProvidedValue for crate::api::v1alpha1::PostgresPasswordSecretRef {}

impl ProvidedValue for String {
    fn has_content(&self) -> bool {
        !self.is_empty()
    }
}

impl ProvidedValue for ResourceRequirements {
    fn has_content(&self) -> bool {
        self.requests.is_some() || self.limits.is_some() || self.claims.is_some()
    }
}

/// Replaces the lower value when the upper one is provided.
pub fn replace<T: Provided + Clone>(lower: &mut T, upper: &T, path: &mut Path<'_>) {
    if upper.is_provided() {
        lower.clone_from(upper);
        path.provided();
    }
}

/// Lays an optional fragment over another.
fn nested<T: Merge + Default>(lower: &mut Option<T>, upper: Option<&T>, path: &mut Path<'_>) {
    if let Some(upper) = upper {
        lower.get_or_insert_default().overlay(upper, path);
    }
}

/// Merges a map of plain values by key.
fn keys(lower: &mut BTreeMap<String, String>, upper: &BTreeMap<String, String>, path: &mut Path<'_>) {
    for (key, value) in upper {
        lower.insert(key.clone(), value.clone());
        path.key(key, Path::provided);
    }
}

/// Merges pools by name; an upper layer adds pools but removes none.
pub fn pools(lower: &mut BTreeMap<String, PoolSpec>, upper: &BTreeMap<String, PoolSpec>, path: &mut Path<'_>) {
    for (name, pool) in upper {
        path.key(name, |path| lower.entry(name.clone()).or_default().overlay(pool, path));
    }
}

/// Writes one line per field: rule, Rust name, JSON name.
macro_rules! overlay {
    ($lower:ident, $upper:ident, $path:ident; $($rule:ident $field:ident $json:literal),* $(,)?) => {
        $(overlay!(@$rule $lower, $upper, $path, $field, $json);)*
    };
    (@replace $lower:ident, $upper:ident, $path:ident, $field:ident, $json:literal) => {
        $path.at($json, |path| replace(&mut $lower.$field, &$upper.$field, path))
    };
    (@nested $lower:ident, $upper:ident, $path:ident, $field:ident, $json:literal) => {
        $path.at($json, |path| nested(&mut $lower.$field, $upper.$field.as_ref(), path))
    };
    (@keys $lower:ident, $upper:ident, $path:ident, $field:ident, $json:literal) => {
        $path.at($json, |path| keys(&mut $lower.$field, &$upper.$field, path))
    };
    (@pools $lower:ident, $upper:ident, $path:ident, $field:ident, $json:literal) => {
        $path.at($json, |path| pools(&mut $lower.$field, &$upper.$field, path))
    };
}

macro_rules! merge {
    ($type:ident; $($rules:tt)*) => {
        merge!($type from $type; $($rules)*);
    };
    ($type:ident from $upper:ident; $($rule:ident $field:ident $json:literal),* $(,)?) => {
        impl Merge<$upper> for $type {
            fn overlay(&mut self, upper: &$upper, path: &mut Path<'_>) {
                let lower = self;
                overlay!(lower, upper, path; $($rule $field $json),*);
            }
        }
    };
}

merge!(StatelessSpec;
    replace replicas "replicas", replace resources "resources", replace affinity "affinity",
    keys pod_annotations "podAnnotations", keys pod_labels "podLabels");
merge!(MultigatewaySpec;
    replace replicas "replicas", replace resources "resources", replace affinity "affinity",
    keys pod_annotations "podAnnotations", keys pod_labels "podLabels", nested buffer "buffer");
merge!(MultiorchSpec;
    replace replicas "replicas", replace resources "resources", replace affinity "affinity",
    keys pod_annotations "podAnnotations", keys pod_labels "podLabels", replace placement "placement",
    replace cells "cells");
merge!(BufferConfig;
    replace enabled "enabled", replace window "window", replace max_failover_duration "maxFailoverDuration",
    replace min_time_between_failovers "minTimeBetweenFailovers", replace size "size",
    replace drain_concurrency "drainConcurrency");
merge!(ContainerConfig;
    replace resources "resources", replace run_as_user "runAsUser", replace run_as_group "runAsGroup");
merge!(PvcDeletionPolicy; replace when_deleted "whenDeleted", replace when_scaled "whenScaled");
merge!(EtcdSpec;
    replace image "image", replace replicas "replicas", nested storage "storage", replace resources "resources",
    replace root_path "rootPath", nested pvc_deletion_policy "pvcDeletionPolicy");
merge!(PoolSpec;
    replace r#type "type", replace cells "cells", replace replicas_per_cell "replicasPerCell", nested storage "storage",
    nested postgres "postgres", nested multipooler "multipooler", replace affinity "affinity",
    replace tolerations "tolerations", replace fs_group "fsGroup", nested pvc_deletion_policy "pvcDeletionPolicy");
merge!(CellOverrides; nested multigateway "multigateway", replace multigateway_placement "multigatewayPlacement");
merge!(CellInlineSpec;
    nested multigateway "multigateway", replace multigateway_placement "multigatewayPlacement",
    replace local_topo_server "localTopoServer");
merge!(ShardInlineSpec;
    nested multiorch "multiorch", replace initdb_args "initdbArgs", replace postgres_config_ref "postgresConfigRef",
    keys postgres_config "postgresConfig", pools pools "pools", nested pvc_deletion_policy "pvcDeletionPolicy",
    replace durability_policy "durabilityPolicy");
merge!(ShardInlineSpec from ShardOverrides;
    nested multiorch "multiorch", replace initdb_args "initdbArgs", replace postgres_config_ref "postgresConfigRef",
    keys postgres_config "postgresConfig", pools pools "pools", replace durability_policy "durabilityPolicy");
merge!(ShardInlineSpec from ShardTemplateSpec;
    nested multiorch "multiorch", replace initdb_args "initdbArgs", replace postgres_config_ref "postgresConfigRef",
    keys postgres_config "postgresConfig", pools pools "pools", nested pvc_deletion_policy "pvcDeletionPolicy");
merge!(BackupSchedule;
    replace full "full", replace differential "differential", replace incremental "incremental",
    replace time_zone "timeZone", replace suspend "suspend", replace jitter "jitter",
    replace starting_deadline "startingDeadline", replace deadline "deadline", replace history_limit "historyLimit");
merge!(BackupRetention; replace full "full");
merge!(FilesystemBackupConfig; replace path "path", nested storage "storage", replace scope "scope");

impl Merge for StorageSpec {
    /// `storageClassName` is another spelling of `class`: the result has only `class`.
    fn overlay(&mut self, upper: &Self, path: &mut Path<'_>) {
        let class = upper.storage_class().map(str::to_owned);
        if self.class.is_none() {
            self.class = self.storage_class_name.take();
        }
        self.storage_class_name = None;
        path.at("size", |path| replace(&mut self.size, &upper.size, path));
        path.at("class", |path| replace(&mut self.class, &class, path));
        path.at("accessModes", |path| replace(&mut self.access_modes, &upper.access_modes, path));
    }
}

impl Merge for S3BackupConfig {
    /// `useEnvCredentials` belongs to the credentials of the layer: the upper one's is taken even when absent.
    fn overlay(&mut self, upper: &Self, path: &mut Path<'_>) {
        for (lower, upper, name) in
            [(&mut self.bucket, &upper.bucket, "bucket"), (&mut self.region, &upper.region, "region")]
        {
            if !upper.is_empty() {
                lower.clone_from(upper);
                path.at(name, Path::provided);
            }
        }
        path.at("endpoint", |path| replace(&mut self.endpoint, &upper.endpoint, path));
        path.at("keyPrefix", |path| replace(&mut self.key_prefix, &upper.key_prefix, path));
        path.at("keyPrefixScope", |path| replace(&mut self.key_prefix_scope, &upper.key_prefix_scope, path));
        if self.use_env_credentials != upper.use_env_credentials || upper.use_env_credentials.is_some() {
            self.use_env_credentials = upper.use_env_credentials;
            path.at("useEnvCredentials", Path::provided);
        }
        path.at("credentialsSecret", |path| replace(&mut self.credentials_secret, &upper.credentials_secret, path));
        path.at("serviceAccountName", |path| {
            replace(&mut self.service_account_name, &upper.service_account_name, path);
        });
    }
}

impl Merge for BackupConfig {
    /// Another type replaces everything; the same type is merged field by field.
    fn overlay(&mut self, upper: &Self, path: &mut Path<'_>) {
        if self.r#type != upper.r#type {
            *self = Self { r#type: upper.r#type, ..Self::default() };
            path.discarded();
        }
        path.at("type", Path::provided);
        path.at("filesystem", |path| nested(&mut self.filesystem, upper.filesystem.as_ref(), path));
        path.at("s3", |path| nested(&mut self.s3, upper.s3.as_ref(), path));
        path.at("pgbackrestTLS", |path| replace(&mut self.pgbackrest_tls, &upper.pgbackrest_tls, path));
        path.at("encryption", |path| replace(&mut self.encryption, &upper.encryption, path));
        path.at("schedule", |path| nested(&mut self.schedule, upper.schedule.as_ref(), path));
        path.at("retention", |path| nested(&mut self.retention, upper.retention.as_ref(), path));
    }
}

/// The backup of a level: the level's own laid over the one it inherits, where either may be absent.
pub fn backup(lower: &mut Option<BackupConfig>, upper: Option<&BackupConfig>, path: &mut Path<'_>) {
    nested(lower, upper, path);
}

#[cfg(test)]
pub(crate) mod tests;
