//! Reads what a pass over a cluster needs: tables, templates, the password's Secret, the records in the topology.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use shared::{
    api::v1alpha1::{GlobalTopoServerRef, MultigresCluster},
    name,
    resolve::{self, ResolvedCluster, TemplateKind, Templates},
    validate::{self, MissingClass, Surroundings},
};

use super::{
    Observed, Refusal,
    certificates::{self, Certificates},
    departed,
    images::Adopted,
    intent,
    password::{self, Password},
    place,
    topology::{self, Leftovers, Sight},
    wave,
};
use crate::{
    context::{Ctx, References},
    error::Error,
    settings::Settings,
    topo_server::{self, client::Secrets},
    upstream::TopoAddress,
    workload::{owner::Owner, revision, telemetry::Inherited},
};

/// Reason of a spec that resolves and breaks a rule.
const INVALID: &str = "InvalidSpec";

pub(super) async fn observe(cluster: &MultigresCluster, ctx: &Ctx) -> Result<Observed, Error> {
    let owner = Owner::of(cluster)?;
    let available = templates(&owner.namespace, ctx);
    let adopted = Adopted::of(cluster, &ctx.settings);
    let resolved = match adopted.refusal() {
        Some(refusal) => Err(vec![refusal]),
        None => resolved(cluster, &owner, &available, &adopted, &ctx.settings),
    };
    let certificates = match cluster.metadata.deletion_timestamp {
        None => certificates::observe(cluster, &owner, ctx).await,
        Some(_) => Certificates::default(),
    };
    let (stores, namespace, name) = (&ctx.stores, owner.namespace.as_str(), owner.name.as_str());
    let mut observed = Observed {
        own: own(cluster, &owner, &available, &adopted),
        templates: digests(&resolved, &available)?,
        peers: Vec::new(),
        adopted,
        password: Password::NotKnown,
        password_secret: stores.secrets.get(namespace, &name::postgres_password(name)),
        certificates,
        topology: Sight::NotServing,
        external_topology: None,
        retained_topology: None,
        leftovers: Leftovers::default(),
        registrations: Vec::new(),
        topo_servers: stores.topo_servers.of_cluster(namespace, name),
        cells: stores.cells.of_cluster(namespace, name),
        table_groups: stores.table_groups.of_cluster(namespace, name),
        shards: stores.shards.of_cluster(namespace, name),
        admin: stores.deployments.get(namespace, &name::multiadmin(name)),
        web: stores.deployments.get(namespace, &name::multiadmin_web(name)),
        gateway_service: stores.services.get(namespace, &name::cluster_gateway(name)),
        web_service: stores.services.get(namespace, &name::multiadmin_web(name)),
        pods: stores.pods.of_cluster(namespace, name),
        claims: stores.claims.of_cluster(namespace, name),
        missing_classes: missing_classes(resolved.as_deref().ok(), ctx),
        inherited: Inherited::of_process(),
        cluster: Arc::new(cluster.clone()),
        resolved,
        owner,
    };
    let refusals = observed.resolved.as_ref().map(|resolved| place::refusals(&observed, resolved, stores));
    let refusals = refusals.unwrap_or_default();
    if !refusals.is_empty() {
        observed.resolved = Err(refusals);
    }
    let deleting = cluster.metadata.deletion_timestamp.is_some();
    if let Ok(resolved) = &observed.resolved
        && !deleting
    {
        let changed = intent::changed_templates(&observed, resolved)?;
        if !changed.is_empty() {
            let Owner { namespace, name, .. } = &observed.owner;
            observed.peers = wave::peers(stores, namespace, name, &changed);
        }
    }
    let reference = reference(&observed);
    let mut refused = None;
    if let Some(reference) = reference.as_ref().filter(|reference| !place::is_own(&observed.owner, reference)) {
        let (at, problem) = external(reference, &ctx.references, &observed.owner.namespace).await;
        (observed.external_topology, refused) = (Some(at), problem);
    } else if observed.global_topo().is_some_and(topo_server::outlives) {
        observed.retained_topology = reference.as_ref().map(topology::address);
    }
    let serves = observed.external_topology.is_some() || observed.global_topo().is_some_and(topo_server::serves);
    // A cluster on its way out has nothing to register, and its own etcd goes with it.
    let stays = observed.external_topology.is_some() || (serves && observed.retained_topology.is_some());
    let wanted = if deleting { stays } else { serves && observed.resolved.is_ok() };
    let at = observed.external_topology.clone().or_else(|| reference.as_ref().map(topology::address));
    if let Some(problem) = refused.filter(|_| wanted) {
        observed.topology = problem;
    } else if let Some(at) = at.filter(|_| wanted) {
        observed.topology = topology::read(&ctx.upstream, &at).await;
        let namespace = &observed.owner.namespace;
        observed.leftovers = topology::poolers(&ctx.upstream, &at, observed.emptied_cells(), namespace).await;
        observed.registrations = topology::registrations(&ctx.upstream, &at, &departed::cells(&observed)).await;
        // Before records of processes are removed for want of a pod, it is seen whether another cluster is there, too; where that cannot be
        // seen, they stay.
        if observed.external_topology.is_some() && !departed::removals(&observed, &at).is_empty() {
            let namespace = &observed.owner.namespace;
            let all = topology::poolers(&ctx.upstream, &at, departed::cells(&observed), namespace).await;
            observed.leftovers.strangers |= all.strangers;
            observed.registrations.retain(|seen| all.read.contains(&seen.cell));
        }
    }
    if let Ok(resolved) = &observed.resolved
        && !deleting
    {
        observed.password = password(&observed, resolved, ctx).await;
    }
    Ok(observed)
}

/// Resolves and judges a spec by the same rules as admission, which may be absent.
///
/// Rules of changes are not among them. What was there before is whatever the children have become so far: it lags behind templates whose
/// turn has not come, and behind steps that admission has let pass one by one, so changes that are right would be refused for good. Whoever
/// carries out a change does no more of it than does no harm, and tells the rest: see `repository` and `wave`, the shard's claims and its
/// disruption planner, and the growth of a topology server.
pub(super) fn resolved(
    cluster: &MultigresCluster,
    owner: &Owner,
    templates: &Templates,
    adopted: &Adopted,
    settings: &Settings,
) -> Result<Box<ResolvedCluster>, Vec<Refusal>> {
    let settings = resolve::Settings { images: adopted.applied.clone(), ..settings.resolve() };
    let resolved = resolve::cluster(&owner.name, &owner.namespace, &cluster.spec, templates, &settings);
    let resolved = resolved.map_err(|errors| {
        let refusal = |e: &resolve::ResolveError| Refusal { reason: e.reason().to_owned(), message: e.to_string() };
        errors.iter().map(refusal).collect::<Vec<_>>()
    })?;
    let verdict = validate::cluster(None, &owner.name, &cluster.spec, &resolved, &Surroundings::default());
    if verdict.is_accepted() {
        return Ok(Box::new(resolved));
    }
    let refusal = |error: &validate::FieldError| Refusal { reason: INVALID.to_owned(), message: error.to_string() };
    Err(verdict.errors.iter().map(refusal).collect())
}

/// Resolves what a spec asks for by itself: with templates that say nothing, whether they are there or not, and with no setting of the
/// operator but the images that the cluster took over.
pub(super) fn own(
    cluster: &MultigresCluster,
    owner: &Owner,
    templates: &Templates,
    adopted: &Adopted,
) -> Option<Box<ResolvedCluster>> {
    let mut empty =
        Templates { core: emptied(&templates.core), cell: emptied(&templates.cell), shard: emptied(&templates.shard) };
    let settings = resolve::Settings { images: adopted.applied.clone(), ..resolve::Settings::default() };
    let resolve = |templates: &Templates| {
        resolve::cluster(&owner.name, &owner.namespace, &cluster.spec, templates, &settings).map(Box::new)
    };
    let errors = match resolve(&empty) {
        Ok(resolved) => return Some(resolved),
        Err(errors) => errors,
    };
    for error in errors {
        let resolve::ResolveError::MissingTemplate { kind, name, .. } = error else { return None };
        match kind {
            TemplateKind::CoreTemplate => _ = empty.core.entry(name).or_default(),
            TemplateKind::CellTemplate => _ = empty.cell.entry(name).or_default(),
            TemplateKind::ShardTemplate => _ = empty.shard.entry(name).or_default(),
        }
    }
    resolve(&empty).ok()
}

fn emptied<S: Default>(templates: &BTreeMap<String, S>) -> BTreeMap<String, S> {
    templates.keys().map(|name| (name.clone(), S::default())).collect()
}

/// Digests of the templates that a cluster uses, by `Kind/name`, and of the root path that a CoreTemplate gives, by `intent::root_of`.
pub(super) fn digests(
    resolved: &Result<Box<ResolvedCluster>, Vec<Refusal>>,
    templates: &Templates,
) -> Result<BTreeMap<String, String>, Error> {
    let mut digests = BTreeMap::new();
    if let Ok(resolved) = resolved {
        let used = &resolved.resolved_templates;
        digest(TemplateKind::CoreTemplate, &used.core_templates, &templates.core, &mut digests)?;
        for (name, spec) in used.core_templates.iter().filter_map(|name| Some((name, templates.core.get(name)?))) {
            let etcd = spec.global_topo_server.as_ref().and_then(|topo| topo.etcd.as_ref());
            if let Some(root) = etcd.and_then(|etcd| etcd.root_path.as_ref()) {
                let name = intent::root_of(&format!("{}/{name}", TemplateKind::CoreTemplate));
                digests.insert(name, revision::intent(&revision::value(root)?));
            }
        }
        digest(TemplateKind::CellTemplate, &used.cell_templates, &templates.cell, &mut digests)?;
        digest(TemplateKind::ShardTemplate, &used.shard_templates, &templates.shard, &mut digests)?;
    }
    Ok(digests)
}

fn digest<S: Serialize>(
    kind: TemplateKind,
    used: &[String],
    templates: &BTreeMap<String, S>,
    digests: &mut BTreeMap<String, String>,
) -> Result<(), Error> {
    for (name, spec) in used.iter().filter_map(|name| Some((name, templates.get(name)?))) {
        digests.insert(format!("{kind}/{name}"), revision::intent(&revision::value(spec)?));
    }
    Ok(())
}

/// The StorageClasses that are needed and are not there; none as long as nobody knows.
fn missing_classes(resolved: Option<&ResolvedCluster>, ctx: &Ctx) -> Vec<MissingClass> {
    let known = resolved.zip(ctx.stores.storage_classes.get());
    known.map(|(resolved, classes)| validate::missing_classes(resolved, &classes)).unwrap_or_default()
}

fn templates(namespace: &str, ctx: &Ctx) -> Templates {
    let stores = &ctx.stores;
    Templates {
        core: named(stores.core_templates.in_namespace(namespace), |template| template.spec.clone()),
        cell: named(stores.cell_templates.in_namespace(namespace), |template| template.spec.clone()),
        shard: named(stores.shard_templates.in_namespace(namespace), |template| template.spec.clone()),
    }
}

fn named<K: kube::Resource, S>(templates: Vec<Arc<K>>, spec: impl Fn(&K) -> S) -> BTreeMap<String, S> {
    let entry = |template: Arc<K>| Some((template.meta().name.clone()?, spec(&template)));
    templates.into_iter().filter_map(entry).collect()
}

/// How the topology is reached: as the spec says, or as the children were told where that cannot be carried out. One that belongs to another
/// cluster is not reached at all.
fn reference(observed: &Observed) -> Option<GlobalTopoServerRef> {
    if place::is_contested(observed) {
        return None;
    }
    match &observed.resolved {
        Ok(resolved) => Some(resolved.global_topo_ref.clone()),
        Err(_) => place::told(observed).cloned(),
    }
}

/// A topology of others with what it takes to reach it, or why it cannot be reached. The Secrets are those of the reference: a spec that is
/// refused may lead elsewhere by now.
pub(super) async fn external(
    reference: &GlobalTopoServerRef,
    references: &References,
    namespace: &str,
) -> (TopoAddress, Option<Sight>) {
    let at = topology::address(reference);
    match Secrets::of_reference(reference).read(references, namespace).await {
        Ok(Some(credentials)) => (at.with(credentials), None),
        Ok(None) => (at, None),
        Err(message) => (at, Some(Sight::Failed { reason: "CredentialsMissing".to_owned(), message })),
    }
}

async fn password(observed: &Observed, resolved: &ResolvedCluster, ctx: &Ctx) -> Password {
    let wanted = &resolved.password.secret_ref;
    let namespace = &observed.owner.namespace;
    let generated = resolved.password.generated;
    if generated && observed.password_secret.is_some() {
        return Password::Present;
    }
    // Our own Secret is looked for live, too: the watch may lag, and one that a user put in its place is as good.
    match ctx.references.secret(namespace, &wanted.name).await {
        Ok(Some(seen)) if seen.data.get(&wanted.key).is_some_and(|value| !value.is_empty()) => Password::Present,
        Ok(None) if generated => {
            if observed.claims.iter().any(|claim| password::holds_data(claim)) {
                Password::Lost
            } else {
                Password::Fresh(password::generate())
            }
        }
        Ok(_) => Password::NotProvided { wanted: format!("{} with key {}", wanted.name, wanted.key) },
        Err(error) => {
            tracing::warn!(error = error.chain(), "cannot look for the password");
            Password::NotKnown
        }
    }
}
