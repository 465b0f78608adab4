//! Series of shards, their pools and their topology.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition};
use kube::ResourceExt as _;
use shared::{
    annotation,
    api::v1alpha1::{BackupPhase, DurabilityPolicy, Shard},
    condition, health,
    kubeutil::ObjectKey,
    label::{self, Component},
    metrics::Text,
};

use super::objects::{Objects, cluster_of, count, flag, namespace, number, seconds, sorted};

/// Poolers without which no policy that we know lets a commit through.
const REQUIRED_POOLERS: f64 = 2.0;
/// Condition of a shard: whether its backups work.
const BACKUP_HEALTHY: &str = "BackupHealthy";
/// Condition of a shard: whether its WAL reaches the repository.
const WAL_ARCHIVING: &str = "WALArchiving";
/// Condition of a shard: whether its records can be read.
const TOPOLOGY_REACHABLE: &str = "TopologyReachable";
/// Condition of a shard: why its pods cannot be changed now.
const DISRUPTION_BLOCKED: &str = "DisruptionBlocked";
/// Role, in the status of a shard, of a pod whose pooler has given up.
const QUARANTINED: &str = "QUARANTINED";
/// Stands for all cells.
const ALL: &str = "";

/// A pool in one cell.
struct InCell {
    cluster: String,
    shard: String,
    name: String,
    cell: String,
    namespace: String,
    desired: usize,
    ready: usize,
    not_ready: usize,
    draining: usize,
    drifted: usize,
    quarantined: usize,
}

impl InCell {
    fn labels(&self) -> [&str; 5] {
        [&self.cluster, &self.shard, &self.name, &self.cell, &self.namespace]
    }
}

impl Objects {
    pub(super) fn topology(&self, text: &mut Text, shards: &[Arc<Shard>]) {
        let mut replicas = text.family("multigres_operator_toposerver_replicas");
        for server in sorted(&self.stores.topo_servers) {
            let (namespace, object) = (namespace(&*server), server.name_any());
            let set = self.stores.stateful_sets.get(&namespace, &object);
            let asked = server.spec.etcd.as_ref().and_then(|etcd| etcd.replicas);
            let wanted = asked.or_else(|| set.as_ref()?.spec.as_ref()?.replicas).unwrap_or_default();
            let ready = set.as_ref().and_then(|live| live.status.as_ref()?.ready_replicas).unwrap_or_default();
            for (state, count) in [("desired", wanted), ("ready", ready)] {
                replicas.add(&[&cluster_of(&*server), &object, &namespace, state], count.into());
            }
        }
        let mut connected: BTreeMap<(String, String, String), bool> = BTreeMap::new();
        for shard in shards {
            let (namespace, cluster) = (namespace(&**shard), cluster_of(&**shard));
            let mut each = |cell: &str, is: bool| {
                *connected.entry((namespace.clone(), cluster.clone(), cell.to_owned())).or_insert(true) &= is;
            };
            if let Some(condition) = find(shard, TOPOLOGY_REACHABLE) {
                each(ALL, condition.status != "False");
            }
            for (cell, is) in self.memory.cells(&ObjectKey::of(&**shard)) {
                each(&cell, is);
            }
        }
        let mut samples = text.family("multigres_operator_topology_connected");
        for ((namespace, cluster, cell), is) in connected {
            samples.add(&[&cluster, &cell, &namespace], flag(is));
        }
    }

    pub(super) fn pools(&self, text: &mut Text, shards: &[Arc<Shard>]) {
        let pools: Vec<InCell> = shards.iter().flat_map(|shard| self.pools_of(shard)).collect();
        let mut replicas = text.family("multigres_operator_shard_pool_replicas");
        for pool in &pools {
            for (state, count) in [("desired", pool.desired), ("ready", pool.ready)] {
                replicas.add(&with(pool.labels(), state), number(count));
            }
        }
        let mut pods = text.family("multigres_operator_pool_pods");
        for pool in &pools {
            let missing = pool.desired.saturating_sub(pool.ready + pool.not_ready + pool.draining);
            for (state, count) in [
                ("ready", pool.ready),
                ("not_ready", pool.not_ready),
                ("draining", pool.draining),
                ("missing", missing),
                ("drifted", pool.drifted),
                ("quarantined", pool.quarantined),
            ] {
                pods.add(&with(pool.labels(), state), number(count));
            }
        }
        let mut drifted = text.family("multigres_operator_pool_pods_drifted");
        for pool in &pools {
            drifted.add(&pool.labels(), number(pool.drifted));
        }
        let mut rolling = text.family("multigres_operator_rolling_update_in_progress");
        for pool in &pools {
            rolling.add(&pool.labels(), flag(pool.drifted + pool.draining > 0));
        }
    }

    /// The pools of a shard, as the spec wants them and as their pods are.
    fn pools_of(&self, shard: &Shard) -> Vec<InCell> {
        let (namespace, cluster) = (namespace(shard), cluster_of(shard));
        let pods = self.stores.pods.of_cluster(&namespace, &cluster);
        let of_shard = |pod: &&Arc<Pod>| {
            let labels = pod.labels();
            let is = |key: &str, value: &str| labels.get(key).is_some_and(|label| label == value);
            is(label::COMPONENT, Component::ShardPool.as_str())
                && is(label::DATABASE, &shard.spec.database_name)
                && is(label::TABLE_GROUP, &shard.spec.table_group_name)
                && is(label::SHARD, &shard.spec.shard_name)
        };
        let pods: Vec<&Arc<Pod>> = pods.iter().filter(of_shard).collect();
        let nothing = BTreeMap::new();
        let drift = shard.status.as_ref().map_or(&nothing, |status| &status.drift);
        let roles = shard.status.as_ref().map_or(&nothing, |status| &status.pod_roles);
        let mut pools = Vec::new();
        for (name, spec) in &shard.spec.pools {
            for cell in spec.cells.iter().collect::<BTreeSet<_>>() {
                let here = |pod: &&&Arc<Pod>| {
                    pod.labels().get(label::POOL) == Some(name) && pod.labels().get(label::CELL) == Some(cell)
                };
                let mut pool = InCell {
                    cluster: cluster.clone(),
                    shard: shard.name_any(),
                    name: name.clone(),
                    cell: cell.clone(),
                    namespace: namespace.clone(),
                    desired: spec.replicas_per_cell.and_then(|count| usize::try_from(count).ok()).unwrap_or(1),
                    ready: 0,
                    not_ready: 0,
                    draining: 0,
                    drifted: 0,
                    quarantined: 0,
                };
                for pod in pods.iter().filter(here) {
                    let name = pod.name_any();
                    pool.drifted += usize::from(drift.contains_key(&name));
                    pool.quarantined += usize::from(roles.get(&name).is_some_and(|role| role == QUARANTINED));
                    if health::is_terminating(pod) || pod.annotations().contains_key(annotation::DRAIN_STATE) {
                        pool.draining += 1;
                    } else if health::is_ready(pod) {
                        pool.ready += 1;
                    } else {
                        pool.not_ready += 1;
                    }
                }
                pools.push(pool);
            }
        }
        pools
    }

    fn backup_runs(&self, text: &mut Text) {
        let mut runs: BTreeMap<(String, String, String), usize> = BTreeMap::new();
        for run in self.stores.backups.all() {
            let phase = run.status.as_ref().and_then(|status| status.phase).unwrap_or(BackupPhase::Pending);
            *runs.entry((run.spec.cluster.clone(), namespace(&*run), phase.to_string())).or_default() += 1;
        }
        let mut samples = text.family("multigres_operator_backup_runs");
        for ((cluster, namespace, phase), count) in runs {
            samples.add(&[&cluster, &namespace, &phase], number(count));
        }
    }

    pub(super) fn shards(&self, text: &mut Text, shards: &[Arc<Shard>]) {
        let each = |text: &mut Text, family: &str, of: &dyn Fn(&Shard) -> Option<f64>| {
            let mut samples = text.family(family);
            for shard in shards {
                if let Some(sample) = of(shard) {
                    samples.add(&[&cluster_of(&**shard), &shard.name_any(), &namespace(&**shard)], sample);
                }
            }
        };
        let mut info = text.family("multigres_operator_shard_info");
        for shard in shards {
            let spec = &shard.spec;
            info.add(
                &[
                    &cluster_of(&**shard),
                    &shard.name_any(),
                    &namespace(&**shard),
                    &spec.shard_name,
                    &spec.database_name,
                    &spec.table_group_name,
                ],
                1.0,
            );
        }
        each(text, "multigres_operator_shard_created_timestamp_seconds", &|shard| {
            shard.metadata.creation_timestamp.as_ref().map(|at| seconds(at.0.as_second()))
        });
        each(text, "multigres_operator_shard_required_poolers", &|shard| match shard
            .spec
            .durability_policy
            .unwrap_or_default()
        {
            DurabilityPolicy::AtLeast2 | DurabilityPolicy::MultiCellAtLeast2 => Some(REQUIRED_POOLERS),
            DurabilityPolicy::Unknown => None,
        });
        let named = |text: &mut Text, family: &str, of: &dyn Fn(&Shard) -> f64| {
            let mut samples = text.family(family);
            for shard in shards {
                samples.add(
                    &[&cluster_of(&**shard), &shard.name_any(), &namespace(&**shard), &shard.spec.shard_name],
                    of(shard),
                );
            }
        };
        let primary = |shard: &Shard| shard.status.as_ref().and_then(|status| status.primary.clone());
        named(text, "multigres_operator_shard_primary_present", &|shard| flag(primary(shard).is_some()));
        for shard in shards {
            self.memory.primary(&ObjectKey::of(&**shard), primary(shard).as_deref());
        }
        named(text, "multigres_operator_shard_primary_changes_total", &|shard| {
            count(self.memory.changes(&ObjectKey::of(shard)))
        });
        let now = self.clock.now().as_second();
        let backup = |shard: &Shard| Some(shard.status.as_ref()?.last_backup_time.as_ref()?.0.as_second());
        each(text, "multigres_operator_last_backup_age_seconds", &|shard| Some(seconds((now - backup(shard)?).max(0))));
        let mut stamps = text.family("multigres_operator_last_backup_timestamp_seconds");
        for shard in shards {
            let Some(at) = backup(shard) else { continue };
            let kind = shard.status.as_ref().and_then(|status| status.last_backup_type);
            let kind = kind.as_ref().map_or("unknown", AsRef::as_ref);
            stamps.add(&[&cluster_of(&**shard), &shard.name_any(), &namespace(&**shard), kind], seconds(at));
        }
        each(text, "multigres_operator_backup_healthy", &|shard| match find(shard, BACKUP_HEALTHY)?.status.as_str() {
            "True" => Some(1.0),
            "False" => Some(0.0),
            _ => None,
        });
        each(text, "multigres_operator_wal_archiving", &|shard| match find(shard, WAL_ARCHIVING)?.status.as_str() {
            "True" => Some(1.0),
            "False" => Some(0.0),
            _ => None,
        });
        each(text, "multigres_operator_backup_next_run_timestamp_seconds", &|shard| {
            Some(seconds(shard.status.as_ref()?.backup.as_ref()?.next_run.as_ref()?.0.as_second()))
        });
        self.backup_runs(text);
        let mut blocked = text.family("multigres_operator_disruption_blocked");
        for shard in shards {
            if let Some(condition) = find(shard, DISRUPTION_BLOCKED).filter(|condition| condition.status == "True") {
                let reason = condition.reason.as_str();
                blocked.add(&[&cluster_of(&**shard), &shard.name_any(), &namespace(&**shard), reason], 1.0);
            }
        }
        let mut drains = text.family("multigres_operator_drain_operations_total");
        for shard in shards {
            for (result, ended) in self.memory.drains(&ObjectKey::of(&**shard)) {
                drains.add(&[&cluster_of(&**shard), &shard.name_any(), &namespace(&**shard), result], count(ended));
            }
        }
    }
}

fn find<'a>(shard: &'a Shard, type_: &str) -> Option<&'a Condition> {
    condition::find(&shard.status.as_ref()?.conditions, type_)
}

fn with<'a>(labels: [&'a str; 5], state: &'a str) -> [&'a str; 6] {
    let [cluster, shard, pool, cell, namespace] = labels;
    [cluster, shard, pool, cell, namespace, state]
}
