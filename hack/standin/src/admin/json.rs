//! Records and answers as canonical proto3 JSON: camel case, enum names, 64-bit numbers as text.

use serde_json::{Value, json};

use crate::proto::clustermetadata::{
    Cell, Database, Id, Multigateway, Multiorch, Multipooler, ShardKey, backup_location::Location,
};
use crate::proto::multiadmin::{BackupInfo, GetBackupJobStatusResponse};
use crate::proto::multipoolermanagerdata::Status;

/// An id.
pub fn id(id: &Id) -> Value {
    json!({"component": id.component().as_str_name(), "cell": id.cell, "name": id.name})
}

/// A cell.
pub fn cell(cell: &Cell) -> Value {
    json!({"name": cell.name, "serverAddresses": cell.server_addresses, "root": cell.root})
}

/// A database.
pub fn database(database: &Database) -> Value {
    let location = database.backup_location.as_ref().map(|location| match &location.location {
        Some(Location::Filesystem(filesystem)) => json!({"filesystem": {"path": filesystem.path}}),
        Some(Location::S3(s3)) => json!({"s3": {
            "bucket": s3.bucket, "region": s3.region, "endpoint": s3.endpoint, "keyPrefix": s3.key_prefix,
            "useEnvCredentials": s3.use_env_credentials,
        }}),
        None => json!({}),
    });
    let policy = database.bootstrap_durability_policy.as_ref().map(|policy| {
        json!({
            "policyName": policy.policy_name,
            "quorumType": policy.quorum_type().as_str_name(),
            "requiredCount": policy.required_count,
        })
    });
    json!({
        "name": database.name, "cells": database.cells, "backupLocation": location,
        "bootstrapDurabilityPolicy": policy,
    })
}

fn shard_key(key: &ShardKey) -> Value {
    json!({"database": key.database, "tableGroup": key.table_group, "shard": key.shard})
}

/// A pooler.
pub fn pooler(pooler: &Multipooler) -> Value {
    json!({
        "id": pooler.id.as_ref().map(id),
        "shardKey": pooler.shard_key.as_ref().map(shard_key),
        "type": pooler.r#type().as_str_name(),
        "servingStatus": pooler.serving_status().as_str_name(),
        "hostname": pooler.hostname,
        "portMap": pooler.port_map,
        "poolerDir": pooler.pooler_dir,
        "pgDataDir": pooler.pg_data_dir,
        "lifecycleStatus": pooler.lifecycle_status.as_ref().map(|lifecycle| json!({
            "status": lifecycle.status().as_str_name(),
            "reason": lifecycle.reason,
            "updated": lifecycle.updated.map(|at| at.to_string()),
        })),
        "routingState": pooler.routing_state.as_ref().map(|state| json!({
            "role": state.role().as_str_name(),
            "rule": state.rule.as_ref().map(|rule| json!({
                "coordinatorTerm": rule.coordinator_term.to_string(),
                "leaderSubterm": rule.leader_subterm.to_string(),
            })),
        })),
    })
}

/// A gateway.
pub fn gateway(gateway: &Multigateway) -> Value {
    json!({
        "id": gateway.id.as_ref().map(id), "hostname": gateway.hostname, "portMap": gateway.port_map,
        "pidPrefix": gateway.pid_prefix,
    })
}

/// An orchestrator.
pub fn orch(orch: &Multiorch) -> Value {
    json!({"id": orch.id.as_ref().map(id), "hostname": orch.hostname, "portMap": orch.port_map})
}

/// A pooler's status.
pub fn status(status: &Status) -> Value {
    json!({
        "poolerType": status.pooler_type().as_str_name(),
        "isInitialized": status.is_initialized,
        "hasDataDirectory": status.has_data_directory,
        "postgresRunning": status.postgres_running,
        "postgresStatus": status.postgres_status().as_str_name(),
        "postgresAction": status.postgres_action().as_str_name(),
        "postgresReady": status.postgres_ready,
        "walPosition": status.wal_position,
        "shardId": status.shard_id,
        "replicationStatus": status.replication_status.as_ref().map(|standby| json!({
            "lastReplayLsn": standby.last_replay_lsn,
            "lastReceiveLsn": standby.last_receive_lsn,
            "walReceiverStatus": standby.wal_receiver_status,
        })),
    })
}

/// A backup.
pub fn backup(backup: &BackupInfo) -> Value {
    json!({
        "backupId": backup.backup_id,
        "database": backup.database,
        "tableGroup": backup.table_group,
        "shard": backup.shard,
        "type": backup.r#type,
        "status": backup.status().as_str_name(),
        "backupSizeBytes": backup.backup_size_bytes.to_string(),
        "multipoolerServiceId": backup.multipooler_service_id,
        "routingRole": backup.routing_role().as_str_name(),
        "startLsn": backup.start_lsn,
        "stopLsn": backup.stop_lsn,
        "pgVersion": backup.pg_version,
        "startTimestamp": backup.start_timestamp.map(|at| at.to_string()),
        "stopTimestamp": backup.stop_timestamp.map(|at| at.to_string()),
        "jobId": backup.job_id,
    })
}

/// A job.
pub fn job(job: &GetBackupJobStatusResponse) -> Value {
    json!({
        "jobId": job.job_id,
        "jobType": job.job_type().as_str_name(),
        "status": job.status().as_str_name(),
        "errorMessage": job.error_message,
        "database": job.database,
        "tableGroup": job.table_group,
        "shard": job.shard,
        "backupType": job.backup_type,
        "requestedBackupId": job.requested_backup_id,
        "backupId": job.backup_id,
    })
}

/// A duration in seconds with a unit.
pub fn duration(duration: &prost_types::Duration) -> String {
    format!("{}.{:09}s", duration.seconds, duration.nanos)
}
