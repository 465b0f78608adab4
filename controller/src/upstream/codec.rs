//! Turns protobuf values of the topology into records and back. Pure: no I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prost::Message;

use super::{
    BackupLocation, CellRecord, Component, DatabaseRecord, DurabilityPolicy, Error, Lifecycle, LifecycleMark, PoolerId,
    PoolerRecord, Quorum, Registration, Result, Role, RuleNumber, Serving, ShardKey, key,
    pb::clustermetadata::{self as meta, backup_location::Location, id::ComponentType},
    wire::{Owned, splice},
};

/// What the operator answers for in a cell record.
const CELL: &[Owned] = &[Owned::Field(1), Owned::Field(2), Owned::Field(3)];

/// What the operator answers for in a database record: not the generation of the backup location, which the data plane's tools
/// raise, nor version and description of the policy.
const DATABASE: &[Owned] = &[
    Owned::Field(1),
    Owned::Inside(
        2,
        &[
            Owned::Inside(1, &[Owned::Field(1)]),
            Owned::Inside(2, &[Owned::Field(1), Owned::Field(2), Owned::Field(3), Owned::Field(4), Owned::Field(5)]),
            Owned::Field(3),
        ],
    ),
    Owned::Field(3),
    Owned::Inside(4, &[Owned::Field(1), Owned::Field(3), Owned::Field(4)]),
];

/// A lifecycle mark is the only thing that the operator ever writes into a pooler's record.
const LIFECYCLE: &[Owned] = &[Owned::Field(12)];

/// Value of a new cell record.
pub fn encode_cell(record: &CellRecord) -> Vec<u8> {
    meta::Cell {
        name: record.name.clone(),
        server_addresses: record.server_addresses.clone(),
        root: record.root.clone(),
    }
    .encode_to_vec()
}

/// Reads a cell record that is stored under the name `segment`.
pub fn decode_cell(key: &str, segment: &str, value: &[u8]) -> Result<CellRecord> {
    let cell: meta::Cell = decode(key, value)?;
    same_name(key, segment, &cell.name)?;
    Ok(CellRecord { name: cell.name, server_addresses: cell.server_addresses, root: cell.root })
}

/// The new value of a stored cell record; `None` if it says the same already.
pub fn update_cell(existing: &[u8], record: &CellRecord) -> Option<Vec<u8>> {
    update::<meta::Cell>(existing, encode_cell(record), CELL)
}

/// Value of a new database record.
pub fn encode_database(record: &DatabaseRecord) -> Vec<u8> {
    let location = record.backup_location.as_ref().map(|location| match location {
        BackupLocation::Filesystem { path } => Location::Filesystem(meta::FilesystemBackup { path: path.clone() }),
        BackupLocation::S3 { bucket, region, endpoint, key_prefix, use_env_credentials } => {
            Location::S3(meta::S3Backup {
                bucket: bucket.clone(),
                region: region.clone(),
                endpoint: endpoint.clone(),
                key_prefix: key_prefix.clone(),
                use_env_credentials: *use_env_credentials,
            })
        }
    });
    let encryption = record.require_initial_repo_encryption;
    meta::Database {
        name: record.name.clone(),
        backup_location: (location.is_some() || encryption).then_some(meta::BackupLocation {
            location,
            require_initial_repo_encryption: encryption,
            authoritative_generation: 0,
        }),
        cells: record.cells.clone(),
        bootstrap_durability_policy: record.durability_policy.as_ref().map(|policy| meta::DurabilityPolicy {
            policy_name: policy.name.clone(),
            policy_version: 0,
            quorum_type: match policy.quorum {
                Quorum::AtLeast => meta::QuorumType::AtLeastN.into(),
                Quorum::MultiCellAtLeast => meta::QuorumType::MultiCellAtLeastN.into(),
                Quorum::Other(number) => number,
            },
            required_count: policy.required,
            description: String::new(),
        }),
    }
    .encode_to_vec()
}

/// Reads a database record that is stored under the name `segment`.
pub fn decode_database(key: &str, segment: &str, value: &[u8]) -> Result<DatabaseRecord> {
    let database: meta::Database = decode(key, value)?;
    same_name(key, segment, &database.name)?;
    let encryption = database.backup_location.as_ref().is_some_and(|backup| backup.require_initial_repo_encryption);
    let backup_location = database.backup_location.and_then(|backup| backup.location).map(|location| match location {
        Location::Filesystem(filesystem) => BackupLocation::Filesystem { path: filesystem.path },
        Location::S3(s3) => BackupLocation::S3 {
            bucket: s3.bucket,
            region: s3.region,
            endpoint: s3.endpoint,
            key_prefix: s3.key_prefix,
            use_env_credentials: s3.use_env_credentials,
        },
    });
    Ok(DatabaseRecord {
        name: database.name,
        backup_location,
        require_initial_repo_encryption: encryption,
        cells: database.cells,
        durability_policy: database.bootstrap_durability_policy.map(|policy| DurabilityPolicy {
            name: policy.policy_name,
            quorum: match meta::QuorumType::try_from(policy.quorum_type) {
                Ok(meta::QuorumType::AtLeastN) => Quorum::AtLeast,
                Ok(meta::QuorumType::MultiCellAtLeastN) => Quorum::MultiCellAtLeast,
                Ok(meta::QuorumType::Unknown) | Err(_) => Quorum::Other(policy.quorum_type),
            },
            required: policy.required_count,
        }),
    })
}

/// The new value of a stored database record; `None` if it says the same already.
pub fn update_database(existing: &[u8], record: &DatabaseRecord) -> Option<Vec<u8>> {
    update::<meta::Database>(existing, encode_database(record), DATABASE)
}

/// Value of a pooler record, as a pooler would register itself.
pub fn encode_pooler(record: &PoolerRecord) -> Vec<u8> {
    meta::Multipooler {
        id: Some(wire_id(ComponentType::Multipooler, &record.id)),
        shard_key: Some(meta::ShardKey {
            database: record.shard.database.clone(),
            table_group: record.shard.table_group.clone(),
            shard: record.shard.shard.clone(),
        }),
        serving_status: match record.serving {
            Serving::Serving => meta::PoolerServingStatus::Serving,
            Serving::Disabled => meta::PoolerServingStatus::Disabled,
            Serving::Draining => meta::PoolerServingStatus::Draining,
        }
        .into(),
        hostname: record.hostname.clone(),
        port_map: record.ports.iter().map(|(name, port)| (name.clone(), i32::from(*port))).collect(),
        lifecycle_status: (record.lifecycle != LifecycleMark::default()).then(|| wire_lifecycle(&record.lifecycle)),
        routing_state: (record.role != Role::Unknown).then(|| meta::RoutingState {
            role: match record.role {
                Role::Primary => meta::RoutingRole::Primary,
                Role::Replica => meta::RoutingRole::Replica,
                Role::Unknown => meta::RoutingRole::Unknown,
            }
            .into(),
            rule: record.rule.map(|rule| meta::RuleNumber {
                coordinator_term: rule.coordinator_term,
                leader_subterm: rule.leader_subterm,
            }),
        }),
        ..meta::Multipooler::default()
    }
    .encode_to_vec()
}

/// Reads a pooler record that is stored under the component id `segment`.
pub fn decode_pooler(key: &str, segment: &str, value: &[u8]) -> Result<PoolerRecord> {
    let pooler: meta::Multipooler = decode(key, value)?;
    let id = pooler.id.as_ref().and_then(pooler_id).ok_or_else(|| malformed(key, "it has no pooler identity"))?;
    same_name(key, segment, &key::pooler_component(&id.cell, &id.name))?;
    let serving = match pooler.serving_status() {
        meta::PoolerServingStatus::Serving => Serving::Serving,
        meta::PoolerServingStatus::Disabled => Serving::Disabled,
        meta::PoolerServingStatus::Draining => Serving::Draining,
    };
    let shard = pooler.shard_key.unwrap_or_default();
    let routing = pooler.routing_state.unwrap_or_default();
    let lifecycle = pooler.lifecycle_status.unwrap_or_default();
    Ok(PoolerRecord {
        id,
        shard: ShardKey { database: shard.database, table_group: shard.table_group, shard: shard.shard },
        hostname: pooler.hostname,
        ports: ports(&pooler.port_map),
        role: match routing.role() {
            meta::RoutingRole::Primary => Role::Primary,
            meta::RoutingRole::Replica => Role::Replica,
            meta::RoutingRole::Unknown => Role::Unknown,
        },
        rule: routing.rule.as_ref().map(rule_number),
        lifecycle: LifecycleMark {
            state: match lifecycle.status() {
                meta::PoolerLifecycleStatus::LifecycleUnknown => Lifecycle::Unknown,
                meta::PoolerLifecycleStatus::LifecycleStarting => Lifecycle::Starting,
                meta::PoolerLifecycleStatus::LifecycleActive => Lifecycle::Active,
                meta::PoolerLifecycleStatus::LifecycleStopping => Lifecycle::Stopping,
                meta::PoolerLifecycleStatus::LifecycleShutdown => Lifecycle::Shutdown,
                meta::PoolerLifecycleStatus::LifecycleQuarantined => Lifecycle::Quarantined,
            },
            updated: lifecycle.updated.as_ref().and_then(timestamp),
            reason: lifecycle.reason,
        },
        serving,
        tls: None,
    })
}

/// The new value of a stored pooler record with that lifecycle mark; `None` if state and reason are the same already.
pub fn update_lifecycle(key: &str, existing: &[u8], mark: &LifecycleMark) -> Result<Option<Vec<u8>>> {
    let stored: meta::Multipooler = decode(key, existing)?;
    let wanted = wire_lifecycle(mark);
    if stored.lifecycle_status.is_some_and(|now| now.status == wanted.status && now.reason == wanted.reason) {
        return Ok(None);
    }
    let desired = meta::Multipooler { lifecycle_status: Some(wanted), ..meta::Multipooler::default() }.encode_to_vec();
    splice(existing, &desired, LIFECYCLE).map(Some).ok_or_else(|| malformed(key, "it is not a protobuf message"))
}

/// Value of a gateway or orchestrator record, as the process would register itself.
pub fn encode_registration(record: &Registration) -> Vec<u8> {
    let id = PoolerId::new(&record.cell, &record.name);
    let port_map = record.ports.iter().map(|(name, port)| (name.clone(), i32::from(*port))).collect();
    let hostname = record.hostname.clone();
    match record.component {
        Component::Gateway => {
            let id = Some(wire_id(ComponentType::Multigateway, &id));
            meta::Multigateway { id, hostname, port_map, pid_prefix: 0 }.encode_to_vec()
        }
        Component::Orch => {
            let id = Some(wire_id(ComponentType::Multiorch, &id));
            meta::Multiorch { id, hostname, port_map }.encode_to_vec()
        }
    }
}

/// Reads a gateway or orchestrator record that is stored under the component id `segment`.
pub fn decode_registration(component: Component, key: &str, segment: &str, value: &[u8]) -> Result<Registration> {
    // The two messages agree on the fields that matter here.
    let found: meta::Multiorch = decode(key, value)?;
    let id = found.id.ok_or_else(|| malformed(key, "it has no identity"))?;
    same_name(key, segment, &key::registration_component(component, &id.cell, &id.name))?;
    Ok(Registration {
        component,
        cell: id.cell,
        name: id.name,
        hostname: found.hostname,
        ports: ports(&found.port_map),
    })
}

/// Identity of a pooler on the wire; `None` for another component or an empty one.
pub fn pooler_id(id: &meta::Id) -> Option<PoolerId> {
    let pooler = id.component() == ComponentType::Multipooler && !id.cell.is_empty() && !id.name.is_empty();
    pooler.then(|| PoolerId::new(&id.cell, &id.name))
}

/// Rule number on the wire.
pub fn rule_number(rule: &meta::RuleNumber) -> RuleNumber {
    RuleNumber { coordinator_term: rule.coordinator_term, leader_subterm: rule.leader_subterm }
}

/// Time on the wire; `None` outside the range of years 0 to 9999.
pub fn timestamp(time: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

fn wire_id(component: ComponentType, id: &PoolerId) -> meta::Id {
    meta::Id { component: component.into(), cell: id.cell.clone(), name: id.name.clone() }
}

fn wire_lifecycle(mark: &LifecycleMark) -> meta::PoolerLifecycle {
    use meta::PoolerLifecycleStatus as Wire;
    meta::PoolerLifecycle {
        status: match mark.state {
            Lifecycle::Unknown => Wire::LifecycleUnknown,
            Lifecycle::Starting => Wire::LifecycleStarting,
            Lifecycle::Active => Wire::LifecycleActive,
            Lifecycle::Stopping => Wire::LifecycleStopping,
            Lifecycle::Shutdown => Wire::LifecycleShutdown,
            Lifecycle::Quarantined => Wire::LifecycleQuarantined,
        }
        .into(),
        reason: mark.reason.clone(),
        updated: mark
            .updated
            .map(|time| prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }),
    }
}

/// Ports out of range are left out: nobody can dial them.
fn ports(map: &std::collections::HashMap<String, i32>) -> BTreeMap<String, u16> {
    map.iter().filter_map(|(name, port)| Some((name.clone(), u16::try_from(*port).ok()?))).collect()
}

fn decode<M: Message + Default>(key: &str, value: &[u8]) -> Result<M> {
    M::decode(value).map_err(|error| malformed(key, &error.to_string()))
}

/// The key is the authority for existence and the content for identity; a record in which they differ is nobody's.
fn same_name(key: &str, segment: &str, name: &str) -> Result<()> {
    if segment == name { Ok(()) } else { Err(malformed(key, &format!("it says that it is {name:?}"))) }
}

fn malformed(key: &str, detail: &str) -> Error {
    Error::Malformed { key: key.to_owned(), detail: detail.to_owned() }
}

/// Messages are compared decoded: map entries have no order on the wire.
fn update<M: Message + Default + PartialEq>(existing: &[u8], desired: Vec<u8>, owned: &[Owned]) -> Option<Vec<u8>> {
    let (Ok(before), Some(merged)) = (M::decode(existing), splice(existing, &desired, owned)) else {
        // What nobody can read is replaced as a whole.
        return Some(desired);
    };
    match M::decode(merged.as_slice()) {
        Ok(after) if after == before => None,
        _ => Some(merged),
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
