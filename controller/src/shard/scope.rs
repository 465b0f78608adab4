//! Whose objects a pass builds: the identity of one shard, and the metadata and enumerations that follow from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use shared::{
    annotation,
    api::v1alpha1::{BackupConfig, BackupScope, BackupType, PoolSpec, S3BackupConfig, Shard, ShardSpec},
    label::{self, Component, Labels},
    name::{self, PoolId, ShardId},
};

use crate::{error::Error, workload::owner::Owner};

/// A Shard that is known to be stored, with what every builder asks of it.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    /// The object.
    pub shard: &'a Shard,
    /// Name of its cluster.
    pub cluster: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its object name.
    pub object: &'a str,
    /// What its children carry of it.
    pub owner: Owner,
    /// Data volumes that are not to be used, whether or not they are there: their members' numbers are skipped.
    pub set_aside: BTreeSet<String>,
}

/// Where the keys of a bucket come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketKeys {
    /// The Secret.
    pub secret: String,
    /// Whether pods start without it.
    pub optional: bool,
}

/// One pool in one cell.
#[derive(Clone, Copy, Debug)]
pub struct PoolInCell<'a> {
    /// Which.
    pub id: PoolId<'a>,
    /// Its description, the same in every cell.
    pub spec: &'a PoolSpec,
    /// How many pods it has here.
    pub replicas: u32,
}

/// One pod that the shard should have.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The pool and cell that it belongs to.
    pub pool: PoolInCell<'a>,
    /// Name of the pod.
    pub pod: String,
    /// Its number within the pool and cell.
    pub index: u32,
}

impl<'a> Scope<'a> {
    /// Reads the identity of a stored Shard.
    pub fn of(shard: &'a Shard) -> Result<Self, Error> {
        let missing = |field| Error::NotStored { kind: "Shard", field };
        let meta = &shard.metadata;
        let object = meta.name.as_deref().ok_or_else(|| missing("name"))?;
        let labels = meta.labels.as_ref();
        let cluster = labels
            .and_then(|labels| labels.get(label::CLUSTER).or_else(|| labels.get(label::INSTANCE)))
            .ok_or_else(|| Error::NoClusterLabel { object: format!("Shard {object}"), label: label::CLUSTER })?;
        Ok(Self {
            shard,
            cluster,
            namespace: meta.namespace.as_deref().ok_or_else(|| missing("namespace"))?,
            object,
            owner: Owner::of(shard)?,
            set_aside: BTreeSet::new(),
        })
    }

    /// What the user's cluster resolved to for this shard.
    pub fn spec(&self) -> &'a ShardSpec {
        &self.shard.spec
    }

    /// The parts that names and labels are made of.
    pub fn id(&self) -> ShardId<'a> {
        let spec = self.spec();
        ShardId {
            cluster: self.cluster,
            database: &spec.database_name,
            table_group: &spec.table_group_name,
            shard: &spec.shard_name,
        }
    }

    /// Identity of the project in telemetry: the annotation, else the cluster's name.
    pub fn project(&self) -> &'a str {
        let annotations = self.shard.metadata.annotations.as_ref();
        annotations
            .and_then(|all| all.get(annotation::PROJECT_REF))
            .map(String::as_str)
            .filter(|value| !value.is_empty())
            .unwrap_or(self.cluster)
    }

    /// Metadata of a child that goes with the Shard.
    pub fn meta(&self, name: impl Into<String>, labels: Labels) -> ObjectMeta {
        self.owner.meta(name.into(), labels)
    }

    /// Labels of what the shard has once.
    pub fn labels(&self, component: Component) -> Labels {
        label::of_shard(self.id(), component)
    }

    /// Labels of a child that also carries those of the Shard itself; the child's own win.
    pub fn with_own_labels(&self, labels: Labels) -> Labels {
        label::over(self.shard.metadata.labels.as_ref(), labels)
    }

    /// Every pool in every cell, sorted.
    pub fn pools(&self) -> Vec<PoolInCell<'a>> {
        let mut all = Vec::new();
        for (pool, spec) in &self.spec().pools {
            let cells: BTreeSet<&str> = spec.cells.iter().map(String::as_str).collect();
            for cell in cells {
                all.push(PoolInCell {
                    id: PoolId { shard: self.id(), pool, cell },
                    spec,
                    replicas: spec.replicas_per_cell.and_then(|count| u32::try_from(count).ok()).unwrap_or(1),
                });
            }
        }
        all
    }

    /// Every pod that the shard should have, sorted by pool, cell and index.
    pub fn members(&self) -> Vec<Member<'a>> {
        let of_pool = |pool: PoolInCell<'a>| {
            (0..)
                .map(move |index| Member { pool, pod: name::pool_pod(pool.id, index), index })
                .filter(|member| !self.set_aside.contains(&name::data_pvc(&member.pod)))
                .take(pool.replicas as usize)
        };
        self.pools().into_iter().flat_map(of_pool).collect()
    }

    /// The member of that name, whether or not it, its pool or its cell is wanted. Of a pool that left the spec nothing but the name is known.
    pub fn member_of(&self, pool: &'a str, cell: &'a str, pod: &str) -> Option<Member<'a>> {
        static UNKNOWN: LazyLock<PoolSpec> = LazyLock::new(PoolSpec::default);
        let index = name::pod_index(pod)?;
        let id = PoolId { shard: self.id(), pool, cell };
        let spec = self.spec().pools.get(pool).unwrap_or(&UNKNOWN);
        let pool = PoolInCell { id, spec, replicas: 0 };
        (name::pool_pod(id, index) == pod).then(|| Member { pool, pod: pod.to_owned(), index })
    }

    /// Cells that host pools, sorted.
    pub fn pool_cells(&self) -> BTreeSet<&'a str> {
        self.pools().into_iter().map(|pool| pool.id.cell).collect()
    }

    /// Cells that get an orchestrator: those that are listed, else those of the pools.
    pub fn orchestrator_cells(&self) -> BTreeSet<&'a str> {
        let listed: BTreeSet<&str> = self.spec().multiorch.cells.iter().map(String::as_str).collect();
        if listed.is_empty() { self.pool_cells() } else { listed }
    }

    /// Node labels that pods of a cell require.
    pub fn node_selector(&self, cell: &str) -> Option<BTreeMap<String, String>> {
        self.spec().cell_topology_labels.get(cell).filter(|labels| !labels.is_empty()).cloned()
    }

    /// Whether the components speak TLS among themselves.
    pub fn internal_tls(&self) -> bool {
        self.spec().internal_tls.and_then(|tls| tls.enabled).unwrap_or(false)
    }

    /// The backup repository, if there is one.
    pub fn backup(&self) -> Option<&'a BackupConfig> {
        self.spec().backup.as_ref()
    }

    /// The S3 repository, if that is the kind in use.
    pub fn s3(&self) -> Option<&'a S3BackupConfig> {
        self.backup().filter(|backup| backup.r#type == BackupType::S3)?.s3.as_ref()
    }

    /// Where the keys of the bucket come from; none where pods have an identity of their own, or nothing is to be taken from the environment.
    pub fn bucket_keys(&self) -> Option<BucketKeys> {
        let s3 = self.s3()?;
        let given = |text: &'a Option<String>| text.as_deref().filter(|text| !text.is_empty());
        match given(&s3.credentials_secret) {
            Some(secret) => Some(BucketKeys { secret: secret.to_owned(), optional: false }),
            None if s3.use_env_credentials == Some(true) && given(&s3.service_account_name).is_none() => {
                Some(BucketKeys { secret: name::s3_credentials(self.cluster), optional: true })
            }
            None => None,
        }
    }

    /// Who shares the volume of a filesystem repository; none for other kinds.
    pub fn backup_volume(&self) -> Option<BackupScope> {
        let backup = self.backup().filter(|backup| backup.r#type == BackupType::Filesystem)?;
        Some(backup.filesystem.as_ref().and_then(|filesystem| filesystem.scope).unwrap_or_default())
    }

    /// Where the repository's volume is mounted.
    pub fn backup_path(&self) -> &'a str {
        let filesystem = self.backup().and_then(|backup| backup.filesystem.as_ref());
        filesystem
            .and_then(|filesystem| filesystem.path.as_deref())
            .filter(|path| !path.is_empty())
            .unwrap_or("/backups")
    }

    /// Whether filesystem backups of one cell cannot be seen from another: standbys bootstrap from the repository, so those of all
    /// cells but one can never join.
    pub fn backups_are_cell_local(&self) -> bool {
        self.backup_volume() == Some(BackupScope::Cell) && self.pool_cells().len() > 1
    }

    /// The user's Secret with the certificates of pgBackRest; none where they are generated.
    pub fn user_tls_secret(&self) -> Option<&'a str> {
        let tls = self.backup()?.pgbackrest_tls.as_ref()?;
        tls.secret_name.as_deref().filter(|name| !name.is_empty())
    }

    /// The Secret with the keys of an encrypted repository.
    pub fn cipher_secret(&self) -> Option<&'a str> {
        Some(self.backup()?.encryption.as_ref()?.secret_name.as_str())
    }
}
