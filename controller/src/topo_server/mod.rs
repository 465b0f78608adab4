//! Reconciles `TopoServer`: an etcd ensemble as a StatefulSet with its Services and its disruption budget.
//!
//! What Kubernetes or etcd cannot change in place (selector, claim templates, number of members) stays as the running
//! ensemble has it, and a condition says so.

pub mod client;
pub mod objects;
mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::ResourceExt as _;
use shared::{
    api::v1alpha1::{Phase, PvcRetention, TopoServer, TopoServerStatus},
    condition, kubeutil,
    kubeutil::ObjectKey,
    label, name,
};

use self::objects::{Ensemble, Fixed, TOPO_SERVER};
use crate::{
    cell::gateway::node_selector,
    context::Ctx,
    error::Error,
    plan::{Plan, Requeue},
    settings::Settings,
    workload::{owner::Owner, rollout::Rollout, want},
};

/// Crash loops show in pods, which wake nobody: an ensemble that is not healthy is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long to wait for the watch to show the cell of a local ensemble.
const WAIT_FOR_CELL: Duration = Duration::from_secs(1);

/// What a pass reads.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The object.
    pub server: Arc<TopoServer>,
    /// Its identity.
    pub owner: Owner,
    /// Name of its cluster.
    pub cluster: String,
    /// Where its members may run.
    pub nodes: Nodes,
    /// The StatefulSet, if it is there.
    pub stateful_set: Option<Arc<StatefulSet>>,
    /// Pods of the StatefulSet.
    pub pods: Vec<Arc<Pod>>,
}

/// Where the members of an ensemble may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// Anywhere: the ensemble serves the whole cluster.
    Any,
    /// On the nodes of its cell.
    Cell(BTreeMap<String, String>),
    /// Not known yet: the watch has not shown the cell.
    NotKnown,
}

/// References, observation and decision of one pass.
#[expect(clippy::unused_async, reason = "the runner awaits the pass of every kind alike")]
pub async fn plan(server: &TopoServer, ctx: &Ctx) -> Result<Plan<TopoServerStatus>, Error> {
    if server.metadata.deletion_timestamp.is_some() {
        return Ok(Plan { requeue: Requeue::Never, ..Plan::nothing() });
    }
    let observed = observe(server, ctx)?;
    decide(&observed, &ctx.settings, ctx.clock.now())
}

fn observe(server: &TopoServer, ctx: &Ctx) -> Result<Observed, Error> {
    let owner = Owner::of(server)?;
    let cluster = cluster_of(server)?;
    let nodes = match server.labels().get(label::CELL) {
        None => Nodes::Any,
        Some(cell) => match ctx.stores.cells.get(&owner.namespace, &name::cell(&cluster, cell)) {
            Some(cell) => Nodes::Cell(node_selector(&cell, &ctx.settings.zone_id_label)),
            None => Nodes::NotKnown,
        },
    };
    let stateful_set = ctx.stores.stateful_sets.get(&owner.namespace, &owner.name);
    let uid = stateful_set.as_ref().and_then(|set| set.metadata.uid.as_deref());
    let pods = uid.map(|uid| ctx.stores.pods.controlled_by(&owner.namespace, &cluster, uid)).unwrap_or_default();
    Ok(Observed { server: Arc::new(server.clone()), owner, cluster, nodes, stateful_set, pods })
}

/// What should be, and what is said about it. Pure.
pub fn decide(observed: &Observed, settings: &Settings, now: Timestamp) -> Result<Plan<TopoServerStatus>, Error> {
    let mut plan = Plan::nothing();
    let first = Fixed::default();
    let mut ensemble = Ensemble {
        server: &observed.server,
        owner: &observed.owner,
        cluster: &observed.cluster,
        domain: &settings.cluster_domain,
        node_selector: match &observed.nodes {
            Nodes::Cell(nodes) => Some(nodes),
            Nodes::Any | Nodes::NotKnown => None,
        },
        fixed: &first,
    };
    let fixed = fixed(&ensemble, observed);
    ensemble.fixed = &fixed;

    want(&mut plan, "Desired", &ensemble.headless_service())?;
    want(&mut plan, "Desired", &ensemble.client_service())?;
    if let Some(budget) = ensemble.budget() {
        want(&mut plan, "Desired", &budget)?;
    }
    if observed.nodes == Nodes::NotKnown {
        plan.requeue = Requeue::After(WAIT_FOR_CELL);
    } else {
        want(&mut plan, "Desired", &ensemble.stateful_set())?;
    }

    let rollout = Rollout::of_stateful_set(observed.stateful_set.as_deref(), &observed.pods);
    let status = status::status(&ensemble, &rollout, now);
    if status.phase != Some(Phase::Healthy) {
        plan.requeue = plan.requeue.sooner(Requeue::After(LOOK_AGAIN));
    }
    plan.notes.extend(status::notes(&status));
    plan.status = Some(status);
    Ok(plan)
}

/// Whether clients can be pointed at this server: enough members answer to write.
pub fn serves(server: &TopoServer) -> bool {
    server.metadata.deletion_timestamp.is_none()
        && server.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, status::AVAILABLE))
}

/// Whether the volumes of an ensemble, and so its content, outlive the object.
pub fn outlives(server: &TopoServer) -> bool {
    objects::policy(server).when_deleted != Some(PvcRetention::Delete)
}

fn cluster_of(server: &TopoServer) -> Result<String, Error> {
    let found = server.labels().get(label::CLUSTER).or_else(|| server.labels().get(label::INSTANCE));
    found
        .cloned()
        .ok_or_else(|| Error::NoClusterLabel { object: ObjectKey::of(server).to_string(), label: label::CLUSTER })
}

/// What of the running ensemble has to stay as it is.
fn fixed(wanted: &Ensemble<'_>, observed: &Observed) -> Fixed {
    let Some(live) = observed.stateful_set.as_deref() else { return Fixed::default() };
    let spec = live.spec.as_ref();
    let live_selector = spec.and_then(|spec| spec.selector.match_labels.clone());
    let adopted = live_selector.as_ref().is_some_and(|selector| !selector.contains_key(TOPO_SERVER));
    let fresh = wanted.stateful_set().spec.and_then(|spec| spec.selector.match_labels);
    let live_claims = spec.and_then(|spec| spec.volume_claim_templates.clone()).unwrap_or_default();
    Fixed {
        selector: live_selector.filter(|selector| Some(selector) != fresh.as_ref()),
        claims: (!holds(&live_claims, &wanted.wanted_claims())).then(|| live_claims.iter().map(intent).collect()),
        replicas: bootstrap_size(live).filter(|size| *size != wanted.wanted_replicas()),
        adopted,
        unlabelled_members: adopted && observed.pods.iter().any(|pod| !pod.labels().contains_key(TOPO_SERVER)),
    }
}

fn holds(live: &[PersistentVolumeClaim], wanted: &[PersistentVolumeClaim]) -> bool {
    live.len() == wanted.len()
        && live.iter().zip(wanted).all(|(live, wanted)| {
            match (serde_json::to_value(live), serde_json::to_value(wanted)) {
                (Ok(live), Ok(wanted)) => kubeutil::is_superset(&live, &wanted).is_ok(),
                _ => false,
            }
        })
}

/// A claim template without what the server added to it.
fn intent(claim: &PersistentVolumeClaim) -> PersistentVolumeClaim {
    let mut claim = claim.clone();
    claim.status = None;
    claim.metadata.creation_timestamp = None;
    claim
}

/// The number of members that an ensemble was bootstrapped with: it is the length of their list, which no scaling changes.
fn bootstrap_size(set: &StatefulSet) -> Option<i32> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    let mut variables = pod.containers.iter().flat_map(|container| container.env.iter().flatten());
    let members = variables.find(|variable| variable.name == "ETCD_INITIAL_CLUSTER")?.value.as_deref()?;
    i32::try_from(members.split(',').filter(|member| !member.is_empty()).count()).ok().filter(|size| *size > 0)
}

#[cfg(test)]
mod tests;
