//! Reconciles `TopoServer`: an etcd ensemble as a StatefulSet with its Services and its disruption budget.
//!
//! The number of members follows the spec in the steps of [`growth`]. What Kubernetes cannot change in place (selector, claim
//! templates) stays as the running ensemble has it, and a condition says so.

pub mod client;
pub mod growth;
pub mod objects;
mod status;
mod volumes;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::ResourceExt;
use shared::{
    api::v1alpha1::{Phase, PvcRetention, TopoServer, TopoServerStatus},
    condition, health, kubeutil,
    kubeutil::ObjectKey,
    label, name,
};
use tracing::{Instrument as _, debug_span};

pub use self::status::{AS_SPECIFIED, STORAGE_IS_FIXED};
use self::{
    growth::{Declared, Sight, State, Step, View},
    objects::{Ensemble, Fixed, Size, TOPO_SERVER},
};
use crate::{
    cell::gateway::node_selector,
    context::Ctx,
    error::Error,
    plan::{Action, Plan, Requeue, Target, TopoWrite},
    settings::Settings,
    upstream::{TopoAddress, Upstream},
    workload::{
        owner::Owner,
        port::ETCD_CLIENT,
        revision::{self, Adoption},
        rollout::Rollout,
        want,
    },
};

/// Crash loops show in pods, which wake nobody: an ensemble that is not healthy is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Pods that are refused wake nobody, either, and how long they have been missing is told step by step.
const LOOK_FOR_PODS: Duration = Duration::from_secs(5);
/// How long to wait for the watch to show the cell of a local ensemble.
const WAIT_FOR_CELL: Duration = Duration::from_secs(1);
/// A member that joins or leaves wakes nobody: how soon the next step is tried, and how soon one that something holds up.
const NEXT_STEP: Duration = Duration::from_secs(1);
const HELD_UP: Duration = Duration::from_secs(5);
/// Volumes of former members are looked for up to this ordinal: far more than any ensemble has members.
const MOST: u32 = 100;

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
    /// The list from which members without data start, if it is there.
    pub member_list: Option<Arc<ConfigMap>>,
    /// Volume claims of the cluster.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// The disruption budget, if it is there.
    pub budget: Option<Arc<PodDisruptionBudget>>,
    /// The members, where they had to be asked for.
    pub sight: Sight,
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

impl Observed {
    /// What the next step towards the wanted size is decided on.
    fn view<'a>(&'a self, rollout: &Rollout, members: &'a Pods, in_the_way: Option<&'a str>) -> View<'a> {
        let set = self.stateful_set.as_deref();
        let pods = set.and_then(|set| set.spec.as_ref()).map(|spec| spec.replicas.unwrap_or(1));
        let declared = self.member_list.as_deref().and_then(objects::declared);
        View {
            name: &self.owner.name,
            wanted: objects::wanted_replicas(&self.server).try_into().unwrap_or(1),
            declared: declared.or_else(|| set.and_then(objects::template_size).map(Declared::settled)),
            pods: pods.map(|pods| pods.try_into().unwrap_or(0)),
            complete: rollout.complete(),
            ready: &members.ready,
            lost: &members.lost,
            held_back: members.held_back,
            reads_list: set.is_some_and(objects::reads_list),
            left_over: self.claims_while(stays),
            volumes: self.claims_while(|claim| claim.metadata.deletion_timestamp.is_none()),
            in_the_way,
            sight: &self.sight,
        }
    }

    /// Asks for the members where the next step depends on them.
    pub async fn ask(&mut self, upstream: &Upstream) {
        if growth::asks(&self.view(&self.rollout(), &self.members(), None)) {
            self.sight = sight(upstream, &self.owner).await;
        }
    }

    /// What the pods say of the members that they run.
    fn members(&self) -> Pods {
        let pods: Vec<(u32, &Pod)> =
            (0..self.pod_count()).filter_map(|ordinal| Some((ordinal, self.pod(ordinal)?))).collect();
        let those = |wanted: fn(&Pod) -> bool| -> Vec<u32> {
            pods.iter().filter(|(_, pod)| wanted(pod)).map(|(ordinal, _)| *ordinal).collect()
        };
        let lost = those(|pod| !health::is_ready(pod) && objects::has_no_data(pod));
        let first = lost.first().and_then(|ordinal| self.pod(*ordinal));
        Pods { ready: those(health::is_ready), held_back: first.is_some_and(objects::is_held_back), lost }
    }

    fn pod_count(&self) -> u32 {
        let spec = self.stateful_set.as_deref().and_then(|set| set.spec.as_ref());
        spec.and_then(|spec| spec.replicas.unwrap_or(1).try_into().ok()).unwrap_or(0)
    }

    fn pod(&self, ordinal: u32) -> Option<&Pod> {
        let name = format!("{}-{ordinal}", self.owner.name);
        self.pods.iter().map(AsRef::as_ref).find(|pod| pod.name_any() == name)
    }

    fn claims_while(&self, wanted: fn(&PersistentVolumeClaim) -> bool) -> u32 {
        let count = (0..MOST).take_while(|ordinal| self.claim(*ordinal).is_some_and(wanted)).count();
        count.try_into().unwrap_or(MOST)
    }

    fn claim(&self, ordinal: u32) -> Option<&PersistentVolumeClaim> {
        let name = name::topo_pvc(&self.owner.name, ordinal);
        self.claims.iter().map(AsRef::as_ref).find(|claim| claim.name_any() == name)
    }

    /// The volume claim that a further member would find.
    fn next_claim(&self) -> Option<String> {
        let pods = self.stateful_set.as_deref()?.spec.as_ref()?.replicas.unwrap_or(1);
        self.claim(pods.try_into().ok()?).map(ResourceExt::name_any)
    }

    fn rollout(&self) -> Rollout {
        Rollout::of_stateful_set(self.stateful_set.as_deref(), &self.pods)
    }
}

/// What pods say of the members that they run.
#[derive(Clone, Debug, Default)]
struct Pods {
    ready: Vec<u32>,
    lost: Vec<u32>,
    held_back: bool,
}

/// Whether a claim outlives whoever made it.
fn stays(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_none() && claim.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
}

/// References, observation and decision of one pass.
pub async fn plan(server: &TopoServer, ctx: &Ctx) -> Result<Plan<TopoServerStatus>, Error> {
    if server.metadata.deletion_timestamp.is_some() {
        return Ok(Plan { requeue: Requeue::Never, ..Plan::nothing() });
    }
    let observed = async {
        let mut observed = observe(server, ctx)?;
        observed.ask(&ctx.upstream).await;
        Ok::<_, Error>(observed)
    };
    let observed = observed.instrument(debug_span!("Observe")).await?;
    debug_span!("Decide").in_scope(|| decide(&observed, &ctx.settings, ctx.clock.now()))
}

/// The members as a quorum knows them.
async fn sight(upstream: &Upstream, owner: &Owner) -> Sight {
    match upstream.members().list(&address(owner)).await {
        Ok(members) => Sight::Seen(members),
        Err(error) => Sight::Failed { message: error.to_string() },
    }
}

/// Where clients reach an ensemble.
pub fn address(owner: &Owner) -> TopoAddress {
    TopoAddress::new([format!("{}.{}.svc:{ETCD_CLIENT}", owner.name, owner.namespace)], "/")
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
    Ok(Observed {
        member_list: ctx.stores.config_maps.get(&owner.namespace, &name::topo_members(&owner.name)),
        claims: ctx.stores.claims.of_cluster(&owner.namespace, &cluster),
        budget: ctx.stores.budgets.get(&owner.namespace, &name::topo_budget(&owner.name)),
        sight: Sight::NotAsked,
        server: Arc::new(server.clone()),
        owner,
        cluster,
        nodes,
        stateful_set,
        pods,
    })
}

/// What should be, and what is said about it. Pure.
pub fn decide(observed: &Observed, settings: &Settings, now: Timestamp) -> Result<Plan<TopoServerStatus>, Error> {
    let mut plan = Plan::nothing();
    let rollout = observed.rollout().placed(&observed.pods, now);
    let in_the_way = observed.next_claim();
    let members = observed.members();
    let step = growth::step(&observed.view(&rollout, &members, in_the_way.as_deref()));
    let first = Fixed::default();
    let mut ensemble = Ensemble {
        server: &observed.server,
        owner: &observed.owner,
        cluster: &observed.cluster,
        domain: &settings.cluster_domain,
        // A server that was upgraded since the controller asked for its version shows it here: it gives the field a default.
        claim_policy: settings.claim_policy || volumes::seen_to(observed),
        node_selector: match &observed.nodes {
            Nodes::Cell(nodes) => Some(nodes),
            Nodes::Any | Nodes::NotKnown => None,
        },
        fixed: &first,
        size: size(&step),
    };
    let fixed = fixed(&ensemble, observed);
    ensemble.fixed = &fixed;

    want(&mut plan, "Desired", &ensemble.headless_service())?;
    want(&mut plan, "Desired", &ensemble.client_service())?;
    match (ensemble.budget(), observed.budget.as_deref()) {
        (Some(budget), _) => want(&mut plan, "Desired", &budget)?,
        (None, Some(live)) if observed.owner.controls(live) => {
            if let Some(target) = Target::of(live) {
                plan.write("ScaledToOne", Action::Delete(target));
            }
        }
        (None, _) => {}
    }
    want(&mut plan, "Desired", &ensemble.member_list())?;
    if observed.nodes == Nodes::NotKnown {
        plan.requeue = Requeue::After(WAIT_FOR_CELL);
    } else {
        let live = observed.stateful_set.as_deref();
        // Members that start from their own template know no further one: another size is a reason to render anew.
        let adoption = match Adoption::of(&observed.server.metadata) {
            Adoption::Lazy if step.state.waits_for_rendering() => Adoption::Immediate,
            told => told,
        };
        let pinned = revision::stateful_set(ensemble.stateful_set(), live, &ensemble.intent(), adoption)?;
        want(&mut plan, "Desired", &pinned)?;
    }
    resize(&ensemble, &step, &mut plan);
    let again = step.restart.and_then(|ordinal| observed.pod(ordinal));
    if let Some((target, resource_version)) =
        again.and_then(|pod| Some((Target::of(pod)?, pod.metadata.resource_version.clone()?)))
    {
        plan.write("MayJoin", Action::Remove { target, resource_version });
    }
    volumes::follow(observed, &step, rollout.complete(), &mut plan);

    let status = status::status(&ensemble, &rollout, &step, now);
    if status.phase != Some(Phase::Healthy) {
        let again = if rollout.lacks_pods() { LOOK_FOR_PODS } else { LOOK_AGAIN };
        plan.requeue = plan.requeue.sooner(Requeue::After(again));
    }
    plan.notes.extend(status::notes(&status, &step));
    plan.status = Some(status);
    Ok(plan)
}

fn size(step: &Step) -> Size {
    let whole = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    Size { pods: whole(step.pods), declared: step.declared, voters: whole(step.voters) }
}

/// The step in etcd, and when the next one is tried.
fn resize(ensemble: &Ensemble<'_>, step: &Step, plan: &mut Plan<TopoServerStatus>) {
    if let Some(change) = step.change {
        let write = TopoWrite::ChangeMember(change.of_member(|ordinal| ensemble.peer_url(ordinal)));
        plan.write("Resized", Action::Topology { at: address(ensemble.owner), write });
    }
    plan.requeue = match step.state {
        State::Settled => plan.requeue,
        State::Moving { .. } => plan.requeue.sooner(Requeue::After(NEXT_STEP)),
        State::Waiting { .. } | State::Blocked { .. } => plan.requeue.sooner(Requeue::After(HELD_UP)),
    };
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

#[cfg(test)]
mod tests;
