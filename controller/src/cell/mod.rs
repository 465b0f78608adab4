//! Reconciles `Cell`: the gateways of a failure domain and, on request, a topology server of its own.

pub mod gateway;
pub mod leaving;
mod status;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::ResourceExt as _;
use shared::{
    api::v1alpha1::{
        Cell, CellSpec, CellStatus, InternalTlsConfig, LocalTopoServerSpec, Phase, Shard, TopoServer, TopoServerSpec,
    },
    kubeutil::ObjectKey,
    label,
    label::Component,
    name,
};
use tracing::{Instrument as _, debug_span};

use self::{gateway::Gateway, leaving::Drain};
use crate::{
    cluster::tls::{self, Mounted},
    context::Ctx,
    error::Error,
    plan::{Action, Note, Plan, Requeue, Target},
    settings::Settings,
    topo_server,
    workload::{
        owner::{Owner, annotations},
        revision::{self, Adoption},
        rollout::Rollout,
        telemetry::Inherited,
        want,
    },
};

/// Crash loops show in pods, which wake nobody: gateways that are not healthy are looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How often a topology server is looked at whose events concern somebody else.
const WAIT_FOR_TOPOLOGY: Duration = Duration::from_secs(1);
/// How often a cell on its way out is looked at: shards and their pods wake somebody else.
const WAIT_FOR_SHARDS: Duration = Duration::from_secs(2);

/// What a pass reads.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The object.
    pub cell: Arc<Cell>,
    /// Its identity.
    pub owner: Owner,
    /// Name of its cluster.
    pub cluster: String,
    /// The cluster's own topology server, if there is one in this namespace.
    pub global_topo: Option<Arc<TopoServer>>,
    /// The cell's own topology server, whoever controls it.
    pub local_topo: Option<Arc<TopoServer>>,
    /// Deployment of the gateways.
    pub deployment: Option<Arc<Deployment>>,
    /// Their disruption budget.
    pub budget: Option<Arc<PodDisruptionBudget>>,
    /// Their pods.
    pub pods: Vec<Arc<Pod>>,
    /// Shards of the cluster, read for the way out alone.
    pub shards: Vec<Arc<Shard>>,
    /// Pods of the cluster, read for the way out alone.
    pub shard_pods: Vec<Arc<Pod>>,
    /// The certificates that the gateways mount.
    pub certificates: Mounted,
    /// Telemetry variables of the operator's own process.
    pub inherited: Inherited,
}

/// Why the first gateways are not made yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The cell's own topology server does not serve yet.
    LocalTopology,
    /// The cluster's topology server does not serve yet.
    GlobalTopology,
    /// An object of somebody else has the name of the cell's topology server.
    ForeignTopology(String),
    /// Certificates that the gateways mount are not there.
    Certificates(String),
}

/// References, observation and decision of one pass.
pub async fn plan(cell: &Cell, ctx: &Ctx) -> Result<Plan<CellStatus>, Error> {
    if cell.metadata.deletion_timestamp.is_some() {
        return Ok(Plan { requeue: Requeue::Never, ..Plan::nothing() });
    }
    let observed = observe(cell, ctx).instrument(debug_span!("Observe")).await?;
    debug_span!("Decide").in_scope(|| decide(&observed, &ctx.settings, ctx.clock.now()))
}

async fn observe(cell: &Cell, ctx: &Ctx) -> Result<Observed, Error> {
    let owner = Owner::of(cell)?;
    let cluster = cell.labels().get(label::CLUSTER).or_else(|| cell.labels().get(label::INSTANCE)).cloned();
    let cluster = cluster
        .ok_or_else(|| Error::NoClusterLabel { object: ObjectKey::of(cell).to_string(), label: label::CLUSTER })?;
    let (stores, namespace, spec) = (&ctx.stores, owner.namespace.as_str(), &cell.spec);
    let selector = label::selector(&label::of_gateway(&cluster, &spec.name, None, None));
    let leaves = leaving::is_asked(cell);
    Ok(Observed {
        global_topo: stores.topo_servers.get(namespace, &name::global_topo(&cluster)),
        local_topo: stores.topo_servers.get(namespace, &name::local_topo(&owner.name)),
        deployment: stores.deployments.get(namespace, &name::gateway_deployment(&cluster, &spec.name)),
        budget: stores.budgets.get(namespace, &name::gateway_budget(&cluster, &spec.name)),
        pods: stores.pods.matching(namespace, &cluster, &selector),
        shards: if leaves { stores.shards.of_cluster(namespace, &cluster) } else { Vec::new() },
        shard_pods: if leaves { stores.pods.of_cluster(namespace, &cluster) } else { Vec::new() },
        certificates: certificates(spec, namespace, &cluster, ctx).await,
        inherited: Inherited::of_process(),
        cell: Arc::new(cell.clone()),
        owner,
        cluster,
    })
}

/// Everything that the gateways of a cell mount to speak TLS.
async fn certificates(spec: &CellSpec, namespace: &str, cluster: &str, ctx: &Ctx) -> Mounted {
    let mut all = Vec::new();
    if InternalTlsConfig::is_on(spec.internal_tls) {
        all.push(tls::component(&ctx.stores, &ctx.references, namespace, cluster, tls::MULTIGATEWAY).await);
    }
    if spec.cert_common_name.as_ref().is_some_and(|name| !name.is_empty()) {
        all.push(tls::public(&ctx.stores, &ctx.references, namespace).await);
    }
    Mounted::all(all)
}

/// What should be, and what is said about it. Pure.
pub fn decide(observed: &Observed, settings: &Settings, now: Timestamp) -> Result<Plan<CellStatus>, Error> {
    let mut plan = Plan::nothing();
    let drain = leaving::drain(observed, now);
    let certificates = observed.certificates.stamp(observed.deployment.as_deref());
    let gateway = Gateway {
        cell: &observed.cell,
        owner: &observed.owner,
        cluster: &observed.cluster,
        zone_id_label: &settings.zone_id_label,
        inherited: &observed.inherited,
        certificates: certificates.as_deref(),
        stopped: drain.as_ref().is_some_and(Drain::stops_gateways),
    };
    local_topology(observed, &mut plan)?;
    want(&mut plan, "Desired", &gateway.service())?;
    match (gateway.budget(), observed.budget.as_deref()) {
        (Some(budget), _) => want(&mut plan, "Desired", &budget)?,
        (None, Some(live)) if observed.owner.controls(live) => delete(&mut plan, "ScaledToOne", live),
        (None, _) => {}
    }
    // A cell on its way out waits for nothing but its end.
    let hold = if drain.is_some() { None } else { hold(observed) };
    // Gateways that run keep running and keep following the spec; only the first ones wait.
    if observed.deployment.is_some() || (hold.is_none() && drain.is_none()) {
        let adoption = Adoption::of(&observed.cell.metadata);
        let live = observed.deployment.as_deref();
        want(&mut plan, "Desired", &revision::deployment(gateway.deployment(), live, &gateway.intent(), adoption)?)?;
    } else if drain.is_none() {
        plan.requeue = Requeue::After(WAIT_FOR_TOPOLOGY);
    }
    if let Some(Hold::ForeignTopology(message)) = &hold {
        plan.notes.push(Note::warning("ForeignTopoServer", message.clone()));
    }
    let rollout = Rollout::of_deployment(observed.deployment.as_deref(), &observed.pods).placed(&observed.pods, now);
    let status = status::status(observed, &rollout, hold.as_ref(), drain.as_ref(), now);
    if drain.is_some() {
        plan.requeue = Requeue::After(WAIT_FOR_SHARDS);
    }
    if status.phase != Some(Phase::Healthy) {
        plan.requeue = plan.requeue.sooner(Requeue::After(LOOK_AGAIN));
    }
    plan.status = Some(status);
    Ok(plan)
}

/// The local TopoServer as it should be: wanted, gone, or somebody else's and left alone.
fn local_topology(observed: &Observed, plan: &mut Plan<CellStatus>) -> Result<(), Error> {
    let live = observed.local_topo.as_deref();
    let ours = live.is_none_or(|live| observed.owner.controls(live));
    match (managed(&observed.cell), live) {
        (Some(_), _) if !ours => Ok(()),
        (Some(spec), _) => want(plan, "Desired", &local_server(observed, spec)),
        (None, Some(live)) if ours => {
            delete(plan, "NoLocalTopology", live);
            Ok(())
        }
        (None, _) => Ok(()),
    }
}

/// The TopoServer of a cell.
fn local_server(observed: &Observed, spec: &LocalTopoServerSpec) -> TopoServer {
    let labels = label::of_cell(&observed.cluster, &observed.cell.spec.name, Component::LocalTopo);
    let mut metadata = observed.owner.meta(name::local_topo(&observed.owner.name), labels);
    metadata.annotations = annotations(Adoption::of(&observed.cell.metadata).told().into_iter().collect());
    TopoServer {
        metadata,
        spec: TopoServerSpec {
            etcd: spec.etcd.clone(),
            pvc_deletion_policy: spec.etcd.as_ref().and_then(|etcd| etcd.pvc_deletion_policy),
            // The ensemble shares the fate of its cell, and so the places where the cell's pods may run.
            placement: observed.cell.spec.multigateway_placement.clone(),
            image_pull_policy: observed.cell.spec.images.image_pull_policy,
            image_pull_secrets: observed.cell.spec.images.image_pull_secrets.clone(),
        },
        status: None,
    }
}

/// The local topology of a cell when it is ours to run.
fn managed(cell: &Cell) -> Option<&LocalTopoServerSpec> {
    cell.spec.topo_server.as_ref().filter(|topology| topology.etcd.is_some())
}

fn hold(observed: &Observed) -> Option<Hold> {
    if managed(&observed.cell).is_some() {
        match observed.local_topo.as_deref() {
            Some(live) if !observed.owner.controls(live) => {
                return Some(Hold::ForeignTopology(format!(
                    "TopoServer {} belongs to somebody else; delete it, or give the cell another name",
                    live.name_any()
                )));
            }
            Some(live) if topo_server::serves(live) => {}
            _ => return Some(Hold::LocalTopology),
        }
    }
    // A gateway that finds no topology within ten seconds exits, so it is not started before there is one.
    let own = name::global_topo(&observed.cluster);
    let expects_own = observed.cell.spec.global_topo_server.address.starts_with(&format!("{own}."));
    let serves = observed.global_topo.as_deref().is_some_and(topo_server::serves);
    if expects_own && !serves {
        return Some(Hold::GlobalTopology);
    }
    // Gateways that run have read theirs.
    let first = observed.deployment.is_none();
    observed.certificates.missing.clone().filter(|_| first).map(Hold::Certificates)
}

fn delete<K>(plan: &mut Plan<CellStatus>, reason: &'static str, object: &K)
where
    K: kube::Resource<DynamicType = ()>,
{
    if object.meta().deletion_timestamp.is_none()
        && let Some(target) = Target::of(object)
    {
        plan.write(reason, Action::Delete(target));
    }
}

#[cfg(test)]
mod tests;
