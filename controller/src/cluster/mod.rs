//! Reconciles `MultigresCluster`: resolves its spec, makes its children, registers it in its topology, and sums up its state.
//!
//! No step holds back another: a topology that does not answer, a cell that is not ready and a missing password each show in the
//! status while everything else goes on.

mod admin;
mod certificates;
mod children;
pub mod departed;
mod gateway;
mod held;
mod images;
mod intent;
mod leaving;
mod observe;
mod password;
mod place;
mod removal;
mod repository;
mod status;
pub mod tls;
mod topology;
mod wave;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{PersistentVolumeClaim, Pod, Secret, Service},
};
use kube::ResourceExt as _;
use serde_json::json;
use shared::{
    annotation,
    annotation::CLUSTER_FINALIZER,
    api::v1alpha1::{
        Cell, CellSpec, InternalTlsConfig, MultigresCluster, MultigresClusterStatus, Phase, Shard, TableGroup,
        TopoServer,
    },
    name,
    resolve::ResolvedCluster,
    validate::MissingClass,
};
use tracing::{Instrument as _, debug_span};

use self::{
    admin::{Admin, Part, Web},
    certificates::Certificates,
    images::Adopted,
    intent::{Annotations, Settled},
    password::Password,
    topology::{Leftovers, Sight, Wanted},
    wave::Peer,
};
use crate::{
    context::Ctx,
    error::Error,
    plan::{Action, Note, Plan, Requeue, Target},
    settings::Settings,
    table_group, topo_server,
    topo_server::client::Secrets,
    upstream::{CellRecord, Registration, TopoAddress},
    workload::{owner::Owner, port::ETCD_CLIENT, telemetry::Inherited, want, want_once},
};

/// Written records are confirmed by the next pass.
const CONFIRM: Duration = Duration::from_secs(1);
/// How often a topology that does not answer is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Other clusters wake nobody: one that waits for its turn to take over a template looks at them this often.
const WAIT_FOR_TURN: Duration = Duration::from_secs(5);
/// Crash loops of the management plane and users' Secrets wake nobody: a cluster that is not healthy is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// One reason why a spec is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// CamelCase.
    pub reason: String,
    /// Field, value and remedy.
    pub message: String,
}

/// What a pass reads.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The object.
    pub cluster: Arc<MultigresCluster>,
    /// Its identity.
    pub owner: Owner,
    /// What its spec asks for, or why it is not carried out.
    pub resolved: Result<Box<ResolvedCluster>, Vec<Refusal>>,
    /// What the spec asks for by itself, as if its templates were empty; none while that cannot be resolved.
    pub own: Option<Box<ResolvedCluster>>,
    /// Which default images it runs.
    pub adopted: Adopted,
    /// Digests of the templates that it uses, by `Kind/name`, and of the root path that a CoreTemplate gives, by `intent::root_of`.
    pub templates: BTreeMap<String, String>,
    /// Other clusters that use the same templates, read only while some template has a version that this one has not.
    pub peers: Vec<Peer>,
    /// The superuser's password.
    pub password: Password,
    /// The generated Secret, if it is there.
    pub password_secret: Option<Arc<Secret>>,
    /// The certificates that it needs.
    pub certificates: Certificates,
    /// The records in the topology.
    pub topology: Sight,
    /// Where the topology is, when it belongs to somebody else.
    pub external_topology: Option<TopoAddress>,
    /// Where the cluster's own topology is, when its volumes outlive the cluster.
    pub retained_topology: Option<TopoAddress>,
    /// Registered poolers of cells on their way out, and of all cells when the cluster itself goes.
    pub leftovers: Leftovers,
    /// Registered gateways and orchestrators of the cells of the cluster.
    pub registrations: Vec<Registration>,
    /// TopoServers of the cluster and of its cells.
    pub topo_servers: Vec<Arc<TopoServer>>,
    /// Cells, sorted by object name.
    pub cells: Vec<Arc<Cell>>,
    /// TableGroups, sorted by object name.
    pub table_groups: Vec<Arc<TableGroup>>,
    /// Shards: what they say of themselves, and which are still there in a removal.
    pub shards: Vec<Arc<Shard>>,
    /// Deployment of multiadmin.
    pub admin: Option<Arc<Deployment>>,
    /// Deployment of the web page.
    pub web: Option<Arc<Deployment>>,
    /// Service that exposes the gateways.
    pub gateway_service: Option<Arc<Service>>,
    /// Service that exposes the web page.
    pub web_service: Option<Arc<Service>>,
    /// All pods of the cluster.
    pub pods: Vec<Arc<Pod>>,
    /// All volume claims of the cluster.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// StorageClasses that its volumes need and that are not there, as far as is known.
    pub missing_classes: Vec<MissingClass>,
    /// Telemetry variables of the operator's own process.
    pub inherited: Inherited,
}

impl Observed {
    /// The cluster's own topology server, when this cluster controls it.
    fn global_topo(&self) -> Option<&TopoServer> {
        let name = name::global_topo(&self.owner.name);
        self.topo_servers
            .iter()
            .map(AsRef::as_ref)
            .find(|server| server.name_any() == name && self.owner.controls(*server))
    }

    /// Whether a cell's own topology server serves.
    fn local_topo_serves(&self, cell: &str) -> bool {
        let name = name::local_topo(&name::cell(&self.owner.name, cell));
        self.topo_servers.iter().any(|server| server.name_any() == name && topo_server::serves(server))
    }

    /// Live Cells that the spec no longer names.
    fn removed_cells(&self) -> Vec<&Cell> {
        let spec = &self.cluster.spec.cells;
        let live = self.cells.iter().map(AsRef::as_ref);
        live.filter(|live| !spec.iter().any(|cell| cell.name == live.spec.name)).collect()
    }

    /// The live Cell of a cell.
    fn cell(&self, name: &str) -> Option<&Cell> {
        self.cells.iter().map(AsRef::as_ref).find(|cell| cell.spec.name == name)
    }

    /// The live TableGroup of a table group.
    fn table_group(&self, database: &str, group: &str) -> Option<&TableGroup> {
        let mut live = self.table_groups.iter().map(AsRef::as_ref);
        live.find(|live| live.spec.database_name == database && live.spec.table_group_name == group)
    }

    /// Live TableGroups that the spec no longer asks for.
    fn removed_table_groups<'a>(&'a self, resolved: &'a ResolvedCluster) -> impl Iterator<Item = &'a TableGroup> {
        self.table_groups.iter().map(AsRef::as_ref).filter(|live| {
            !resolved.table_groups().any(|wanted| {
                wanted.database_name == live.spec.database_name && wanted.table_group_name == live.spec.table_group_name
            })
        })
    }

    /// Names of the cells and databases that this cluster may have registered.
    fn registered_names(&self) -> (Vec<String>, Vec<String>) {
        let spec = &self.cluster.spec;
        let mut cells: Vec<String> = spec.cells.iter().map(|cell| cell.name.clone()).collect();
        cells.extend(self.cells.iter().map(|cell| cell.spec.name.clone()));
        let mut databases: Vec<String> = spec.databases.iter().map(|database| database.name.clone()).collect();
        if let Ok(resolved) = &self.resolved {
            databases.extend(resolved.databases.iter().map(|database| database.name.clone()));
        }
        (cells, databases)
    }

    /// Cells whose poolers are looked up, because what is left of them has to go: those that have left, or all of them.
    fn emptied_cells(&self) -> BTreeSet<String> {
        if !matches!(self.topology, Sight::Seen { .. }) {
            return BTreeSet::new();
        }
        if self.cluster.metadata.deletion_timestamp.is_some() {
            return self.registered_names().0.into_iter().collect();
        }
        self.removed_cells().into_iter().map(|cell| cell.spec.name.clone()).collect()
    }

    /// The project that the children are marked with.
    fn project(&self) -> Option<&str> {
        self.cluster.annotations().get(annotation::PROJECT_REF).map(String::as_str)
    }

    /// What the user says by annotation that shards follow.
    fn words(&self) -> Annotations {
        let said = |key: &&str| Some(((*key).to_owned(), self.cluster.annotations().get(*key)?.clone()));
        annotation::HANDED_DOWN.iter().filter_map(said).collect()
    }

    /// Digest of the certificates that the administration service is to run with.
    fn admin_certificates(&self) -> Option<String> {
        let on = InternalTlsConfig::is_on(self.cluster.spec.internal_tls);
        on.then(|| self.certificates.admin.stamp(self.admin.as_deref())).flatten()
    }

    /// The records that the topology should hold.
    fn wanted_records(&self, resolved: &ResolvedCluster, now: Timestamp) -> Wanted {
        let mut wanted = Wanted::default();
        for cell in &resolved.cells {
            match self.cell_record(resolved, cell) {
                Some(record) => wanted.cells.push(record),
                None => wanted.waiting.push(cell.name.clone()),
            }
        }
        let cells: Vec<&str> = resolved.cells.iter().map(|cell| cell.name.as_str()).collect();
        let inhabited = leaving::inhabited(self, resolved, now);
        wanted.databases = resolved
            .databases
            .iter()
            .filter_map(|database| {
                let policy = database.durability_policy.to_string();
                let cells = self.topology.listed(&database.name, &cells, &inhabited);
                let told = repository::told(&database.repository, &self.owner);
                topology::database(&database.name, cells, &policy, Some(&told))
            })
            .collect();
        wanted
    }

    /// The record of a cell; `None` while its own topology server does not serve.
    fn cell_record(&self, resolved: &ResolvedCluster, cell: &CellSpec) -> Option<CellRecord> {
        let name = cell.name.clone();
        let local = cell.topo_server.as_ref();
        if let Some(external) = local.and_then(|local| local.external.as_ref()) {
            let root = external.root_path.clone().unwrap_or_default();
            return Some(CellRecord { name, server_addresses: external.endpoints.clone(), root });
        }
        if let Some(etcd) = local.and_then(|local| local.etcd.as_ref()) {
            let server = name::local_topo(&name::cell(&self.owner.name, &name));
            // Whoever has certificates for the global topology takes an address without a scheme for one that needs them.
            let plain = Secrets::of_reference(&resolved.global_topo_ref) == Secrets::default();
            let scheme = if plain { "" } else { "http://" };
            let address = format!("{scheme}{server}.{}.svc:{ETCD_CLIENT}", self.owner.namespace);
            let root = etcd.root_path.clone().unwrap_or_default();
            let record = CellRecord { server_addresses: vec![address], root, name };
            return self.local_topo_serves(&cell.name).then_some(record);
        }
        let at = topology::address(&resolved.global_topo_ref);
        Some(CellRecord { name, server_addresses: at.endpoints, root: at.root })
    }
}

/// References, observation and decision of one pass.
pub async fn plan(cluster: &MultigresCluster, ctx: &Ctx) -> Result<Plan<MultigresClusterStatus>, Error> {
    let observed = observe::observe(cluster, ctx).instrument(debug_span!("Observe")).await?;
    debug_span!("Decide").in_scope(|| decide(&observed, &ctx.settings, ctx.clock.now()))
}

/// What should be, and what is said about it. Pure.
pub fn decide(observed: &Observed, settings: &Settings, now: Timestamp) -> Result<Plan<MultigresClusterStatus>, Error> {
    if observed.cluster.metadata.deletion_timestamp.is_some() {
        return Ok(removal::decide(observed, now));
    }
    let mut plan = Plan::nothing();
    certify(observed, &mut plan)?;
    match &observed.resolved {
        Ok(resolved) => {
            let settled = Settled::of(observed, resolved, settings)?;
            records(observed, &mut plan);
            carry_out(observed, &settled, now, &mut plan)?;
            plan.status = Some(status::status(observed, &settled, now));
        }
        Err(refusals) => {
            held::keep(observed, refusals, &mut plan)?;
            for refusal in refusals {
                plan.notes.push(Note::warning(refusal.reason.clone(), refusal.message.clone()));
            }
            plan.status = Some(status::refused(observed, refusals, now));
        }
    }
    if plan.status.as_ref().and_then(|status| status.phase) != Some(Phase::Healthy) {
        plan.requeue = plan.requeue.sooner(Requeue::After(LOOK_AGAIN));
    }
    Ok(plan)
}

/// The Secrets with certificates, and what only users can do about them.
fn certify(observed: &Observed, plan: &mut Plan<MultigresClusterStatus>) -> Result<(), Error> {
    let due = &observed.certificates;
    for secret in &due.create {
        want_once(plan, "Certificates", secret)?;
    }
    for secret in &due.renew {
        want(plan, "CertificateRenewal", secret)?;
    }
    for target in &due.unwanted {
        plan.write("NoCertificates", Action::Delete(target.clone()));
    }
    for problem in &due.problems {
        plan.notes.push(Note::warning(status::CERTIFICATES_MISSING, problem.clone()));
    }
    Ok(())
}

/// What has to be written on the cluster itself before anything is made: the finalizer, and the images that it takes over.
fn records(observed: &Observed, plan: &mut Plan<MultigresClusterStatus>) {
    plan.notes.extend(observed.adopted.notes.iter().cloned());
    let present = observed.cluster.finalizers();
    let finalized = present.iter().any(|finalizer| finalizer == CLUSTER_FINALIZER);
    let mut metadata = serde_json::Map::new();
    if !finalized {
        let all: Vec<&str> = present.iter().map(String::as_str).chain([CLUSTER_FINALIZER]).collect();
        metadata.insert("finalizers".to_owned(), json!(all));
        // A list is replaced as a whole: the version keeps a finalizer that somebody else adds in between.
        metadata.insert("resourceVersion".to_owned(), json!(observed.cluster.metadata.resource_version));
    }
    if let Some(record) = &observed.adopted.record {
        metadata.insert("annotations".to_owned(), json!({ annotation::APPLIED_IMAGES: record }));
    }
    if let Some(target) = Target::of(&*observed.cluster).filter(|_| !metadata.is_empty()) {
        let reason = if finalized { "ImagesAdopted" } else { "Finalizer" };
        plan.write(reason, Action::Merge { target, patch: json!({ "metadata": metadata }) });
    }
}

/// The writes of a spec that is carried out, in the order in which their effects are needed.
fn carry_out(
    observed: &Observed,
    settled: &Settled,
    now: Timestamp,
    plan: &mut Plan<MultigresClusterStatus>,
) -> Result<(), Error> {
    let (owner, resolved) = (&observed.owner, &settled.resolved);
    let unpinned = Annotations::new();
    if let Password::Fresh(value) = &observed.password {
        want_once(plan, "PasswordAbsent", &password::secret(owner, value))?;
    }
    if let Some(spec) = resolved.managed_topo() {
        want(plan, "Desired", &children::topo_server(owner, spec, &settled.topo))?;
    } else {
        let unused = observed.global_topo().filter(|server| server.metadata.deletion_timestamp.is_none());
        if let Some(target) = unused.and_then(Target::of) {
            plan.write("ExternalTopology", Action::Delete(target));
        }
    }
    for cell in &resolved.cells {
        if leaving::keep(observed.cell(&cell.name), plan) {
            let pinned = settled.cells.get(&cell.name).unwrap_or(&unpinned);
            want(plan, "Desired", &children::cell(owner, observed.project(), cell, pinned))?;
        }
    }
    for group in resolved.table_groups() {
        let key = (group.database_name.clone(), group.table_group_name.clone());
        let pinned = settled.table_groups.get(&key).unwrap_or(&unpinned);
        let live = observed.table_group(&group.database_name, &group.table_group_name);
        if table_group::leaving::keep(live, plan) {
            let group = children::table_group(owner, observed.project(), &observed.words(), group, pinned);
            want(plan, "Desired", &group)?;
        }
    }
    for group in observed.removed_table_groups(resolved) {
        table_group::leaving::carry_out(group, now, plan);
        plan.requeue = plan.requeue.sooner(Requeue::After(CONFIRM));
    }
    let spec = &observed.cluster.spec;
    want(plan, "Desired", &gateway::primary_service(owner, spec.external_gateway.as_ref()))?;
    want(plan, "Desired", &gateway::replica_service(owner))?;
    management(observed, settled, plan)?;
    register(observed, resolved, now, plan);
    warn(observed, settled, plan);
    if settled.pending.is_some() {
        plan.requeue = plan.requeue.sooner(Requeue::After(WAIT_FOR_TURN));
    }
    Ok(())
}

fn management(observed: &Observed, settled: &Settled, plan: &mut Plan<MultigresClusterStatus>) -> Result<(), Error> {
    let (owner, spec) = (&observed.owner, &observed.cluster.spec);
    let (admin, web) = deployments(observed, &settled.resolved);
    // Its pods would only wait for a Secret that comes with the next pass.
    if observed.admin.is_some() || observed.certificates.admin.missing.is_none() {
        want(plan, "Desired", &settled.deployment(observed, intent::Part::Admin, admin)?)?;
    }
    want(plan, "Desired", &admin::service(owner))?;
    want(plan, "Desired", &settled.deployment(observed, intent::Part::Web, web)?)?;
    want(plan, "Desired", &admin::web_service(owner, spec.external_admin_web.as_ref()))
}

/// multiadmin and its web page, as rendered today.
fn deployments(observed: &Observed, resolved: &ResolvedCluster) -> (Deployment, Deployment) {
    let (owner, spec) = (&observed.owner, &observed.cluster.spec);
    let admin = Admin {
        part: Part {
            owner,
            stateless: &resolved.multiadmin.spec,
            image: &resolved.multiadmin.image,
            pull_policy: resolved.image_pull_policy,
            pull_secrets: &resolved.image_pull_secrets,
            placement: resolved.multiadmin.placement.as_ref(),
        },
        topology: &resolved.global_topo_ref,
        observability: spec.observability.as_ref(),
        inherited: &observed.inherited,
        log_level: resolved.log_levels.multiadmin.unwrap_or_default(),
        internal_tls: InternalTlsConfig::is_on(spec.internal_tls),
    };
    let web = Web {
        part: Part {
            stateless: &resolved.multiadmin_web.spec,
            image: &resolved.multiadmin_web.image,
            placement: resolved.multiadmin_web.placement.as_ref(),
            ..admin.part
        },
        user: &resolved.postgres_superuser,
        password: &resolved.password.secret_ref,
    };
    let mut deployment = admin.deployment();
    tls::mark(&mut deployment, observed.admin_certificates().as_deref());
    (deployment, web.deployment())
}

/// Records of cells and databases. Without an answer nothing is written here, and everything else goes on.
fn register(observed: &Observed, resolved: &ResolvedCluster, now: Timestamp, plan: &mut Plan<MultigresClusterStatus>) {
    let wanted = observed.wanted_records(resolved, now);
    let at = observed.external_topology.clone();
    let at = at.unwrap_or_else(|| topology::address(&resolved.global_topo_ref));
    let missing = wanted.missing(&observed.topology);
    if !missing.is_empty() {
        plan.requeue = plan.requeue.sooner(Requeue::After(CONFIRM));
    }
    for write in missing {
        plan.write("NotRegistered", Action::Topology { at: at.clone(), write });
    }
    for write in leaving::stale(observed, resolved) {
        plan.write("Pruned", Action::Topology { at: at.clone(), write });
    }
    for action in departed::removals(observed, &at) {
        plan.write("LeftBehind", action);
    }
    leaving::carry_out(observed, resolved, &at, now, plan);
    if !observed.removed_cells().is_empty() {
        plan.requeue = plan.requeue.sooner(Requeue::After(CONFIRM));
    }
    if matches!(observed.topology, Sight::Failed { .. }) || !wanted.waiting.is_empty() {
        plan.requeue = plan.requeue.sooner(Requeue::After(TRY_AGAIN));
    }
}

/// Events for what keeps a cluster from being what its spec says.
fn warn(observed: &Observed, settled: &Settled, plan: &mut Plan<MultigresClusterStatus>) {
    for held in &settled.repositories {
        plan.notes.push(Note::warning(repository::BACKUP_REPOSITORY_CHANGED, held.explain()));
    }
    if let Some((reason, message)) = status::password_problem(observed) {
        plan.notes.push(Note::warning(reason, message));
    }
    if let Some((reason, message)) = status::class_problem(observed) {
        plan.notes.push(Note::warning(reason, message));
    }
}

#[cfg(test)]
mod tests;
