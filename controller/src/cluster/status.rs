//! Status of a cluster, summed up from its children, its password and its topology.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Pod, Service},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{Resource, ResourceExt as _};
use shared::{
    api::v1alpha1::{
        Cell, ClusterCellStatus, ClusterDatabaseStatus, ExternalEndpointStatus, ExternalServiceConfig,
        MultigresClusterStatus, Phase, TableGroup,
    },
    condition::{self, ConditionSet},
    label,
    label::Component,
    resolve::{Notice, ResolvedCluster},
    validate::MissingClass,
};

use super::{
    Observed, Refusal, held,
    intent::Settled,
    leaving::{self, Leaving},
    password::Password,
    repository::{self, BACKUP_REPOSITORY_CHANGED},
    topology::Sight,
    wave::Turn,
};
use crate::{
    execute::RECONCILED,
    table_group, topo_server,
    workload::rollout::{self, Rollout},
};

const AVAILABLE: &str = "Available";
pub(super) const SPEC_ACCEPTED: &str = "SpecAccepted";
const NO_CELLS: &str = "NoCells";
pub(super) const CELL_LOCAL_REPOSITORY: &str = "CellLocalRepository";
pub(super) const PASSWORD_SECRET_MISSING: &str = "PasswordSecretMissing";
pub(super) const CERTIFICATES_MISSING: &str = "CertificatesMissing";
const STORAGE_CLASS_MISSING: &str = "StorageClassMissing";
const TOPOLOGY_REACHABLE: &str = "TopologyReachable";
const TEMPLATE_UPDATE_PENDING: &str = "TemplateUpdatePending";
const IMAGE_ROLLOUT_PENDING: &str = "ImageRolloutPending";
const ROLLOUTS_PAUSED: &str = "RolloutsPaused";
const CHANGE_HAS_NO_EFFECT: &str = "ChangeHasNoEffect";
const CREDENTIALS_MISSING: &str = "CredentialsMissing";
pub(super) const CELL_REMOVAL_PENDING: &str = "CellRemovalPending";
const TABLE_GROUP_REMOVAL_PENDING: &str = "TableGroupRemovalPending";

/// How long a cluster may be on its way before its status names what it waits for: a start takes less, and its steps are worth no writes.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);

/// What a child says about itself, as far as it speaks about its current spec.
struct Child {
    what: String,
    phase: Option<Phase>,
    message: String,
}

/// The status of a cluster whose spec is carried out.
pub(super) fn status(observed: &Observed, settled: &Settled, now: Timestamp) -> MultigresClusterStatus {
    let resolved = &settled.resolved;
    let children = children(observed, resolved);
    let registered = observed.wanted_records(resolved, now).is_registered(&observed.topology);
    let leaving = leaving::cells(observed, resolved, now);
    let (phase, message) = phase(observed, resolved, &children, &leaving, registered, now);
    let cells = cells(observed, resolved);
    let mut conditions = conditions(observed, resolved, &leaving, now);
    conditions = available(conditions, observed, resolved, &cells);
    let (gateway, admin_web);
    (conditions, gateway) = expose_gateway(conditions, observed);
    (conditions, admin_web) = expose_web(conditions, observed);
    let (pending, reason, why) = observed.adopted.pending();
    conditions = conditions.set(IMAGE_ROLLOUT_PENDING, pending, reason, why);
    if let Some(why) = observed.adopted.paused() {
        conditions = conditions.set(ROLLOUTS_PAUSED, true, "ImageUpdatePolicy", why);
    }
    if let Some(first) = settled.repositories.first() {
        let why: Vec<String> = settled.repositories.iter().map(repository::Held::explain).collect();
        conditions = conditions.set(BACKUP_REPOSITORY_CHANGED, true, first.reason(), why.join("; "));
    }
    if let Some((reason, why)) = settled.pending.as_ref().and_then(waiting) {
        conditions = conditions.set(TEMPLATE_UPDATE_PENDING, true, reason, why);
    }
    MultigresClusterStatus {
        observed_generation: Some(observed.owner.generation),
        conditions: conditions.finish(),
        phase: Some(phase),
        message: Some(message),
        cells,
        gateway,
        admin_web,
        databases: databases(observed, resolved),
        backup_repositories: repository::places(resolved),
        resolved_templates: Some(resolved.resolved_templates.clone()),
        images: Some(observed.adopted.status(resolved)),
    }
}

/// Why a cluster still has the specs that it got from templates before they were edited.
fn waiting(turn: &Turn) -> Option<(&'static str, String)> {
    match turn {
        Turn::Go => None,
        Turn::Wait => Some((
            "WaitsForOthers",
            "a template in use has changed; this cluster takes it over after others that are on the way".to_owned(),
        )),
        Turn::Stopped(cluster) => Some((
            "OtherClusterUnhealthy",
            format!(
                "a template in use has changed; nobody else takes it over, because cluster {cluster} is unhealthy with it: \
                 correct the template or that cluster"
            ),
        )),
    }
}

/// The status of a cluster whose spec is refused: what was known stays, and the refusal is added.
pub(super) fn refused(observed: &Observed, refusals: &[Refusal], now: Timestamp) -> MultigresClusterStatus {
    let before = observed.cluster.status.clone().unwrap_or_default();
    let kept: Vec<String> = before.conditions.iter().map(|condition| condition.type_.clone()).collect();
    let messages: Vec<&str> = refusals.iter().map(|refusal| refusal.message.as_str()).collect();
    let mut message = messages.join("; ");
    let gone = held::not_repaired(observed);
    if held::holds_any(observed) {
        message += "; what exists stays as it was accepted last";
    }
    if !gone.is_empty() {
        message = format!("{message}, but {} cannot be put back before the spec is accepted", gone.join(", "));
    }
    let reason = refusals.first().map_or("Invalid", |refusal| refusal.reason.as_str());
    let mut conditions = ConditionSet::continuing(&before.conditions, Some(observed.owner.generation), now).set(
        SPEC_ACCEPTED,
        false,
        reason,
        &message,
    );
    for type_ in kept {
        conditions = conditions.keep(type_);
    }
    MultigresClusterStatus {
        observed_generation: Some(observed.owner.generation),
        conditions: conditions.finish(),
        phase: Some(Phase::Degraded),
        message: Some(format!("the spec is not carried out: {message}")),
        ..before
    }
}

/// Why the superuser's password is not there, and what to do about it.
pub(super) fn password_problem(observed: &Observed) -> Option<(&'static str, String)> {
    match &observed.password {
        Password::NotProvided { wanted } => {
            Some(("NotProvided", format!("Secret {wanted} does not exist or has no value; create it")))
        }
        Password::Lost => Some((
            "DeletedWithData",
            format!(
                "Secret {} was deleted while volumes of this cluster exist that were made with its password; create it again \
                 with the superuser's password under key {}",
                shared::name::postgres_password(&observed.owner.name),
                super::password::KEY
            ),
        )),
        Password::Present | Password::Fresh(_) | Password::NotKnown => None,
    }
}

/// Which StorageClasses are not there, and what to do about it.
pub(super) fn class_problem(observed: &Observed) -> Option<(&'static str, String)> {
    let explain = |missing: &MissingClass| match &missing.class {
        Some(class) => {
            format!("StorageClass {class:?} of {} does not exist; create it, or name another one", missing.field)
        }
        None => format!(
            "{} names no StorageClass, and none is the default; name one, or mark one with the annotation \
             storageclass.kubernetes.io/is-default-class=true",
            missing.field
        ),
    };
    let first = observed.missing_classes.first()?;
    let reason = if first.class.is_some() { "StorageClassNotFound" } else { "NoDefaultStorageClass" };
    let all: Vec<String> = observed.missing_classes.iter().map(explain).collect();
    Some((reason, format!("new volumes stay Pending: {}", all.join("; "))))
}

fn conditions(
    observed: &Observed,
    resolved: &ResolvedCluster,
    leaving: &[Leaving<'_>],
    now: Timestamp,
) -> ConditionSet {
    let before = observed.cluster.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let mut set = ConditionSet::continuing(before, Some(observed.owner.generation), now);
    set = set.set(SPEC_ACCEPTED, true, "Accepted", "the spec is carried out");
    if let Some((reason, message)) = password_problem(observed) {
        set = set.set(PASSWORD_SECRET_MISSING, true, reason, message);
    } else if observed.password == Password::NotKnown {
        set = set.keep(PASSWORD_SECRET_MISSING);
    }
    if let Some((reason, message)) = class_problem(observed) {
        set = set.set(STORAGE_CLASS_MISSING, true, reason, message);
    }
    let certificates = &observed.certificates.problems;
    if !certificates.is_empty() {
        set = set.set(CERTIFICATES_MISSING, true, "NotUsable", certificates.join("; "));
    }
    if resolved.cells.is_empty() {
        set = set.set(NO_CELLS, true, "NoCells", "the spec names no cells, so nothing serves; add at least one");
    }
    let local = local_repositories(resolved);
    if !local.is_empty() {
        let message = format!(
            "{}: each cell has a backup repository of its own, so standbys of other cells than the primary's cannot join; make a \
             cluster with S3 or backup.filesystem.scope Shard",
            local.join(", ")
        );
        set = set.set(CELL_LOCAL_REPOSITORY, true, "FilesystemPerCell", message);
    }
    if let Some(first) = leaving.first() {
        set = set.set(CELL_REMOVAL_PENDING, true, first.step.explain().0, farewell(leaving));
    }
    let groups: Vec<String> = observed.removed_table_groups(resolved).map(table_group::leaving::explain).collect();
    if !groups.is_empty() {
        set = set.set(TABLE_GROUP_REMOVAL_PENDING, true, "NotInSpec", groups.join("; "));
    }
    let keyless = said_by_shards(observed, CREDENTIALS_MISSING);
    if !keyless.is_empty() {
        set = set.set(CREDENTIALS_MISSING, true, "NoKeys", keyless.join("; "));
    }
    let late = too_late(observed);
    if !late.is_empty() {
        set = set.set(CHANGE_HAS_NO_EFFECT, true, "AlreadyMade", late.join("; "));
    }
    match &observed.topology {
        Sight::Seen { .. } => set.set(TOPOLOGY_REACHABLE, true, "Answered", "the topology server answers"),
        Sight::Failed { reason, message } => set.set(TOPOLOGY_REACHABLE, false, reason, message),
        // Before the first start nobody was asked, and nothing is said; afterwards silence would hide an outage.
        Sight::NotServing => match condition::find(before, TOPOLOGY_REACHABLE) {
            Some(_) => set.set(TOPOLOGY_REACHABLE, false, "NotServing", "the cluster's etcd does not serve"),
            None => set,
        },
    }
}

/// What the spec asks for that counts only when something is made, by what is there already.
fn too_late(observed: &Observed) -> Vec<String> {
    let shards = said_by_shards(observed, CHANGE_HAS_NO_EFFECT);
    let servers = observed.topo_servers.iter().filter_map(|server| {
        let said = condition::find(&server.status.as_ref()?.conditions, topo_server::AS_SPECIFIED)?;
        let fixed = said.status == "False" && said.reason == topo_server::STORAGE_IS_FIXED;
        fixed.then(|| format!("{}: {}", server.name_any(), said.message))
    });
    shards.into_iter().chain(servers).collect()
}

/// What is so in a condition of the shards, in their words.
fn said_by_shards(observed: &Observed, type_: &str) -> Vec<String> {
    let said = observed.shards.iter().filter_map(|shard| {
        let status = shard.status.as_ref()?;
        let said = condition::find(&status.conditions, type_).filter(|said| said.status == "True")?;
        Some(format!("{}: {}", shard.spec.shard_name, said.message))
    });
    said.collect()
}

fn local_repositories(resolved: &ResolvedCluster) -> Vec<&str> {
    resolved
        .notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::CellLocalRepository { shard, .. } => Some(shard.as_str()),
            _ => None,
        })
        .collect()
}

/// What each cell on its way out waits for.
fn farewell(leaving: &[Leaving<'_>]) -> String {
    let words = leaving.iter().map(|leaving| format!("cell {}: {}", leaving.cell.spec.name, leaving.step.explain().1));
    words.collect::<Vec<_>>().join("; ")
}

fn phase(
    observed: &Observed,
    resolved: &ResolvedCluster,
    children: &[Child],
    leaving: &[Leaving<'_>],
    registered: bool,
    now: Timestamp,
) -> (Phase, String) {
    if let Some((_, message)) = password_problem(observed) {
        return (Phase::Degraded, message);
    }
    if let Some(child) = children.iter().find(|child| child.phase == Some(Phase::Degraded)) {
        return (Phase::Degraded, format!("{}: {}", child.what, child.message));
    }
    if let Some(message) = unreconciled(observed) {
        return (Phase::Degraded, message);
    }
    if let Some(shard) = local_repositories(resolved).first() {
        return (Phase::Degraded, format!("{shard}: standbys of other cells cannot reach the backup repository"));
    }
    if resolved.cells.is_empty() {
        return (Phase::Initializing, "the spec names no cells".to_owned());
    }
    let healthy = children.iter().all(|child| child.phase == Some(Phase::Healthy));
    if let Some((_, message)) = class_problem(observed).filter(|_| !healthy) {
        return (Phase::Degraded, message);
    }
    if !healthy {
        let message = rollout::unplaced(&observed.pods, now).or_else(|| held_up(observed, children, now));
        return (Phase::Progressing, message.unwrap_or_else(|| "Cluster is progressing".to_owned()));
    }
    match &observed.topology {
        Sight::Failed { message, .. } => (Phase::Progressing, format!("the topology does not answer: {message}")),
        _ if !registered => (Phase::Progressing, "Cluster is progressing".to_owned()),
        _ if !leaving.is_empty() => (Phase::Progressing, farewell(leaving)),
        _ => (Phase::Healthy, "Ready".to_owned()),
    }
}

/// The first object of ours whose passes keep failing, and what stands in their way: pods that a quota refuses show nowhere else.
fn unreconciled(observed: &Observed) -> Option<String> {
    let said = |what: &str, name: &str, conditions: Option<&Vec<Condition>>| {
        let failed = condition::find(conditions?, RECONCILED).filter(|said| said.status == "False")?;
        Some(format!("{what} {name}: {}", failed.message))
    };
    let servers = observed.topo_servers.iter().filter_map(|server| {
        said("topology server", &server.name_any(), server.status.as_ref().map(|status| &status.conditions))
    });
    let groups = observed.table_groups.iter().filter_map(|group| {
        said("table group", &group.spec.table_group_name, group.status.as_ref().map(|status| &status.conditions))
    });
    let shards = observed.shards.iter().filter_map(|shard| {
        said("shard", &shard.spec.shard_name, shard.status.as_ref().map(|status| &status.conditions))
    });
    let cells = observed
        .cells
        .iter()
        .filter_map(|cell| said("cell", &cell.spec.name, cell.status.as_ref().map(|status| &status.conditions)));
    servers.chain(groups).chain(shards).chain(cells).next()
}

/// The first child that is not healthy, in its own words, once nothing has become better or worse for a while.
fn held_up(observed: &Observed, children: &[Child], now: Timestamp) -> Option<String> {
    let before = observed.cluster.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let since = condition::find(before, AVAILABLE)?.last_transition_time.0;
    let child = children.iter().find(|child| child.phase != Some(Phase::Healthy))?;
    let why = if child.message.is_empty() { "says nothing about its current spec yet" } else { child.message.as_str() };
    (now.duration_since(since) >= PATIENCE).then(|| format!("{}: {why}", child.what))
}

/// Everything that a healthy cluster consists of, first what others wait for. What is not there yet has no phase.
fn children(observed: &Observed, resolved: &ResolvedCluster) -> Vec<Child> {
    let mut all = Vec::new();
    if resolved.managed_topo().is_some() {
        let server = observed.global_topo();
        let status = server.and_then(|server| server.status.as_ref());
        let said = status.map(|status| (status.observed_generation, status.phase, status.message.as_deref()));
        all.push(child("global topology", server, said));
    }
    for group in resolved.table_groups() {
        let live = observed.table_group(&group.database_name, &group.table_group_name);
        let status = live.and_then(|live| live.status.as_ref());
        let said = status.map(|status| (status.observed_generation, status.phase, status.message.as_deref()));
        all.push(child(&format!("table group {}", group.table_group_name), live, said));
    }
    for cell in &resolved.cells {
        let live = observed.cell(&cell.name);
        let status = live.and_then(|live| live.status.as_ref());
        let said = status.map(|status| (status.observed_generation, status.phase, status.message.as_deref()));
        all.push(child(&format!("cell {}", cell.name), live, said));
    }
    for (component, deployment) in [(Component::Multiadmin, &observed.admin), (Component::MultiadminWeb, &observed.web)]
    {
        let rollout = Rollout::of_deployment(deployment.as_deref(), &pods_of(observed, component));
        let what = component.as_str().to_owned();
        all.push(Child { what, phase: Some(rollout.phase()), message: rollout.message("pods") });
    }
    all
}

fn child<K: Resource>(what: &str, live: Option<&K>, said: Option<(Option<i64>, Option<Phase>, Option<&str>)>) -> Child {
    let meta = live.map(Resource::meta);
    let staying = meta.is_some_and(|meta| meta.deletion_timestamp.is_none());
    let current = said.filter(|(generation, ..)| staying && *generation == meta.and_then(|meta| meta.generation));
    Child {
        what: what.to_owned(),
        phase: current.and_then(|(_, phase, _)| phase),
        message: current.and_then(|(_, _, message)| message).unwrap_or_default().to_owned(),
    }
}

fn pods_of(observed: &Observed, component: Component) -> Vec<Arc<Pod>> {
    let of = |pod: &Arc<Pod>| pod.labels().get(label::COMPONENT).is_some_and(|value| value == component.as_str());
    observed.pods.iter().filter(|pod| of(pod)).cloned().collect()
}

fn cells(observed: &Observed, resolved: &ResolvedCluster) -> BTreeMap<String, ClusterCellStatus> {
    let status = |name: &str| {
        let live = observed.cell(name).filter(|cell| is_current(cell));
        let status = live.and_then(|cell| cell.status.as_ref());
        ClusterCellStatus {
            ready: status.is_some_and(|status| condition::is_true(&status.conditions, AVAILABLE)),
            gateway_replicas: status.map_or(0, |status| status.gateway_replicas),
        }
    };
    resolved.cells.iter().map(|cell| (cell.name.clone(), status(&cell.name))).collect()
}

fn is_current(cell: &Cell) -> bool {
    cell.metadata.deletion_timestamp.is_none()
        && cell.status.as_ref().is_some_and(|status| status.observed_generation == cell.metadata.generation)
}

fn databases(observed: &Observed, resolved: &ResolvedCluster) -> BTreeMap<String, ClusterDatabaseStatus> {
    resolved
        .databases
        .iter()
        .map(|database| {
            let total: usize = database.table_groups.iter().map(|group| group.shards.len()).sum();
            let ready = database
                .table_groups
                .iter()
                .filter_map(|group| observed.table_group(&group.database_name, &group.table_group_name))
                .filter_map(current_group)
                .map(|status| status.ready_shards)
                .sum();
            let total_shards = i32::try_from(total).unwrap_or(i32::MAX);
            (database.name.clone(), ClusterDatabaseStatus { ready_shards: ready, total_shards })
        })
        .collect()
}

fn current_group(group: &TableGroup) -> Option<&shared::api::v1alpha1::TableGroupStatus> {
    group.status.as_ref().filter(|status| status.observed_generation == group.metadata.generation)
}

fn available(
    set: ConditionSet,
    observed: &Observed,
    resolved: &ResolvedCluster,
    cells: &BTreeMap<String, ClusterCellStatus>,
) -> ConditionSet {
    const REASON: &str = "AggregatedStatus";
    if cells.is_empty() {
        return set.set(AVAILABLE, false, REASON, "no cells");
    }
    let groups_serve = resolved.table_groups().all(|group| {
        let live = observed.table_group(&group.database_name, &group.table_group_name);
        live.and_then(current_group).is_some_and(|status| condition::is_true(&status.conditions, AVAILABLE))
    });
    let all = groups_serve && cells.values().all(|cell| cell.ready);
    set.set(AVAILABLE, all, REASON, if all { "all cells and shards serve" } else { "not all cells and shards serve" })
}

fn expose_gateway(set: ConditionSet, observed: &Observed) -> (ConditionSet, Option<ExternalEndpointStatus>) {
    let ready = observed.cells.iter().filter(|cell| is_current(cell)).filter_map(|cell| cell.status.as_ref());
    let ready = ready.map(|status| status.gateway_ready_replicas).sum();
    let config = observed.cluster.spec.external_gateway.as_ref();
    expose(set, ("GatewayExternalReady", "NoReadyGateways"), config, observed.gateway_service.as_deref(), ready)
}

fn expose_web(set: ConditionSet, observed: &Observed) -> (ConditionSet, Option<ExternalEndpointStatus>) {
    let ready = Rollout::of_deployment(observed.web.as_deref(), &[]).ready();
    let config = observed.cluster.spec.external_admin_web.as_ref();
    expose(set, ("AdminWebExternalReady", "NoReadyAdminWeb"), config, observed.web_service.as_deref(), ready)
}

fn expose(
    set: ConditionSet,
    (type_, nobody): (&str, &str),
    config: Option<&ExternalServiceConfig>,
    service: Option<&Service>,
    ready: i32,
) -> (ConditionSet, Option<ExternalEndpointStatus>) {
    if !config.is_some_and(|config| config.enabled) {
        return (set, None);
    }
    let endpoint = service.and_then(endpoint).unwrap_or_default();
    let set = if endpoint.is_empty() {
        set.set(type_, false, "AwaitingEndpoint", "no external address is known")
    } else if ready == 0 {
        set.set(type_, false, nobody, "nothing behind the address is ready")
    } else {
        set.set(type_, true, "EndpointReady", format!("reachable at {endpoint}"))
    };
    (set, Some(ExternalEndpointStatus { external_endpoint: endpoint }))
}

fn endpoint(service: &Service) -> Option<String> {
    let ips = service.spec.as_ref().and_then(|spec| spec.external_ips.as_ref());
    if let Some(ip) = ips.and_then(|ips| ips.first()) {
        return Some(ip.clone());
    }
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
    let given = |address: &Option<String>| address.clone().filter(|address| !address.is_empty());
    given(&ingress.hostname).or_else(|| given(&ingress.ip))
}
