//! Version `v1alpha1`: one file per kind, shared fragments by topic, everything re-exported flat.

#![allow(clippy::duplicated_attributes, reason = "printer columns of one kind share their types and priorities")]

mod backup;
mod backup_run;
mod cell;
mod cell_template;
mod cluster;
mod common;
mod core_template;
pub mod embedded;
mod gateway;
mod image;
mod observability;
mod pool;
mod postgres;
pub mod rule;
mod shard;
mod shard_template;
mod status;
mod table_group;
mod topo_server;
mod topology;

pub use backup::{
    BackupConfig, BackupRetention, BackupSchedule, BackupScope, BackupType, BootstrapFromBackup, DatabaseBootstrap,
    EncryptionConfig, FilesystemBackupConfig, KeyPrefixScope, PgbackrestTlsConfig, S3BackupConfig,
};
pub use backup_run::{
    BackupDeletionPolicy, BackupLevel, BackupPhase, MultigresBackup, MultigresBackupSpec, MultigresBackupStatus,
    ScheduledBackupTimes, ShardBackupStatus,
};
pub use cell::{Cell, CellSpec, CellStatus, TopologyReconciliation};
pub use cell_template::{CellTemplate, CellTemplateSpec};
pub use cluster::{
    CellConfig, CellInlineSpec, CellOverrides, DatabaseConfig, ExternalServiceConfig, ExternalServiceType,
    MultiadminConfig, MultiadminWebConfig, MultigresCluster, MultigresClusterSpec, ShardConfig, ShardInlineSpec,
    ShardOverrides, TableGroupConfig, TemplateDefaults, TopologyPruningConfig,
};
pub use common::{PodPlacementSpec, PvcDeletionPolicy, PvcRetention, StatelessSpec, StorageSpec};
pub use core_template::{CoreTemplate, CoreTemplateSpec};
pub use gateway::{BufferConfig, MultigatewaySpec};
pub use image::{
    CellImages, ClusterImages, ComponentImages, ImageSource, ImageUpdatePolicy, ImageUpdateStrategy, PullPolicy,
    ShardImages,
};
pub use observability::{
    ComponentLogLevels, HistogramAggregation, LogLevel, MetricsTemporality, ObservabilityConfig, OtlpProtocol,
    SamplingConfigRef, TelemetryExporter,
};
pub use pool::{ContainerConfig, MultiorchSpec, PoolSpec, PoolType};
pub use postgres::{DurabilityPolicy, InternalTlsConfig, PostgresConfigRef, PostgresPasswordSecretRef};
pub use shard::{Shard, ShardSpec, ShardStatus};
pub use shard_template::{ShardTemplate, ShardTemplateSpec};
pub use status::{
    BackupKind, ClusterCellStatus, ClusterDatabaseStatus, ClusterImagesStatus, ExternalEndpointStatus,
    MultigresClusterStatus, Phase, PostgresConfigStatus, ResolvedTemplates,
};
pub use table_group::{ShardResolvedSpec, TableGroup, TableGroupSpec, TableGroupStatus};
pub use topo_server::{TopoServer, TopoServerSpec, TopoServerStatus};
pub use topology::{EtcdSpec, ExternalTopoServerSpec, GlobalTopoServerRef, GlobalTopoServerSpec, LocalTopoServerSpec};
