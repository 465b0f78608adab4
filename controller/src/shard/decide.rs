//! What a pass intends to do about a shard. Pure: the same observation gives the same plan.
//!
//! Missing objects are created at once, in all cells. A running pod is never touched: what differs from its description, and what
//! nobody wants any more, is only reported. The one exception is a pod that has ended, which is removed so that the next pass can
//! create it anew on the same volume.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use shared::{
    api::v1alpha1::{Phase, ShardStatus},
    label::{self, Component},
    name,
};

use super::{
    claim, config,
    facts::Facts,
    multiorch, network,
    observe::{Observed, RECENT, Reference, by_name, is_deleting},
    origin, pod,
    rendering::Renderings,
    scope::{Member, Scope},
    status, tombstone,
};
use crate::{
    error::Error,
    plan::{Action, Note, Plan, Requeue, Target},
    settings::Settings,
    workload::{
        revision::{self, Adoption},
        want, want_once,
    },
};

/// The plan for one shard.
pub fn decide(observed: &Observed, settings: &Settings, now: Timestamp) -> Result<Plan<ShardStatus>, Error> {
    let shard = origin::settled(observed);
    let scope = Scope::of(&shard)?;
    let scope = &scope;
    let facts = Facts::of(scope, observed, now);
    let members = scope.members();
    let mut plan = Plan::nothing();

    let config_error =
        observed.config_reference.as_ref().and_then(|reference| reference.as_ref().err()).map(String::as_str);
    let renderings = Renderings::of(scope, observed, settings)?;
    shared_objects(scope, observed, Some(&renderings).filter(|_| config_error.is_none()), &mut plan)?;
    let drift = pods(scope, observed, &members, &renderings, &mut plan)?;
    orchestrators(scope, observed, &mut plan)?;
    volumes(scope, observed, &members, &mut plan);
    obsolete(scope, observed, &mut plan);
    ended_pod(observed, &members, &facts, &mut plan);
    tombstones(scope, observed, &members, &facts, now, &mut plan);

    let config = status::Config { rendered: renderings.config.as_ref(), error: config_error };
    let next = status::build(scope, observed, &facts, drift, &config, now);
    // A primary that did not answer this time is asked again before its last word is too old to count.
    let answered = facts.confirmed.is_some_and(|at| now.duration_since(at) <= RECENT);
    let settled = next.phase == Some(Phase::Healthy) && answered;
    plan.requeue = Requeue::After(if settled { settings.poll_settled } else { settings.poll_unsettled });
    plan.status = Some(next);
    Ok(plan)
}

/// What the shard has once, or once per pool and cell.
fn shared_objects(
    scope: &Scope<'_>,
    observed: &Observed,
    renderings: Option<&Renderings>,
    plan: &mut Plan<ShardStatus>,
) -> Result<(), Error> {
    want(plan, "Desired", &config::hba(scope))?;
    want(plan, "Desired", &config::exporter_queries(scope))?;
    if let Some((rendered, packed)) = renderings.and_then(|all| Some((all.config.as_ref()?, &all.packed))) {
        want(plan, "Desired", &config::postgres(scope, rendered, packed))?;
    }
    for secret in &observed.certificates.create {
        want_once(plan, "Certificates", secret)?;
    }
    for secret in &observed.certificates.renew {
        want(plan, "CertificateRenewal", secret)?;
    }
    for pool in scope.pools() {
        want(plan, "Desired", &network::headless(scope, &pool))?;
    }
    if let Some(budget) = network::budget(scope) {
        want(plan, "Desired", &budget)?;
    }
    for claim in claim::backups(scope) {
        want_once(plan, "Desired", &claim)?;
    }
    Ok(())
}

/// Pods and their data volumes. Returns how running pods differ from what a new one would be made from.
fn pods(
    scope: &Scope<'_>,
    observed: &Observed,
    members: &[Member<'_>],
    renderings: &Renderings,
    plan: &mut Plan<ShardStatus>,
) -> Result<BTreeMap<String, String>, Error> {
    let Some(config) = &renderings.config else { return Ok(BTreeMap::new()) };
    let live = by_name(&observed.pods);
    let volumes = by_name(&observed.claims);
    let complete = inputs_complete(scope, observed);
    let mut drift = BTreeMap::new();
    for member in members {
        let desired = pod::build(scope, member, renderings.pod(member)?, config);
        if let Some(running) = live.get(&member.pod)
            && !is_deleting(*running)
            && let Some(difference) = pod::drift(running, &desired)
        {
            drift.insert(member.pod.clone(), difference);
        }
        // A member that existed before is healed whatever is missing now: its pod waits for that better than nobody does. A new one
        // would only add a pod that cannot start.
        if !complete && !volumes.contains_key(&name::data_pvc(&member.pod)) {
            continue;
        }
        want_once(plan, "Desired", &claim::data(scope, member))?;
        want_once(plan, "Desired", &desired)?;
    }
    Ok(drift)
}

/// Follows the deletion policy with existing volumes, and takes those back that are wanted again.
fn volumes(scope: &Scope<'_>, observed: &Observed, members: &[Member<'_>], plan: &mut Plan<ShardStatus>) {
    let wanted: BTreeSet<String> = members.iter().map(|member| name::data_pvc(&member.pod)).collect();
    for live in observed.claims.iter().filter(|claim| !is_deleting(claim.as_ref())) {
        if wanted.contains(&live.name_any())
            && let Some(action) = claim::reclaim(live)
        {
            plan.write("VolumeWanted", action);
        }
        if let Some(action) = claim::ownership(scope, live) {
            plan.write("VolumePolicy", action);
        }
        if let Some(action) = origin::remember(scope, live) {
            plan.write("Origin", action);
        }
    }
}

/// Whether everything that a new pod mounts exists.
fn inputs_complete(scope: &Scope<'_>, observed: &Observed) -> bool {
    let present = |reference: &Option<Reference>| reference.as_ref().is_none_or(|found| *found == Reference::Present);
    let certificates = scope.backup().is_none() || scope.user_tls_secret().is_some() || observed.certificates.ready;
    observed.password == Reference::Present && present(&observed.user_tls) && present(&observed.cipher) && certificates
}

fn orchestrators(scope: &Scope<'_>, observed: &Observed, plan: &mut Plan<ShardStatus>) -> Result<(), Error> {
    let live = by_name(&observed.deployments);
    let adoption = Adoption::of(&scope.shard.metadata);
    for cell in scope.orchestrator_cells() {
        let fresh = multiorch::deployment(scope, cell, &observed.inherited);
        let live = live.get(&fresh.name_any()).copied();
        want(plan, "Desired", &revision::deployment(fresh, live, &multiorch::intent(scope, cell), adoption)?)?;
        want(plan, "Desired", &multiorch::service(scope, cell))?;
    }
    Ok(())
}

/// Removes what the shard controls and no longer wants, apart from pods and volumes: orchestrators of a cell that left, budgets of
/// another layout, addresses of a pool without pods.
fn obsolete(scope: &Scope<'_>, observed: &Observed, plan: &mut Plan<ShardStatus>) {
    let cells = scope.orchestrator_cells();
    let id = scope.id();
    let deployments: BTreeSet<String> = cells.iter().map(|cell| name::multiorch_deployment(id, cell)).collect();
    let mut services: BTreeSet<String> = cells.iter().map(|cell| name::multiorch_service(id, cell)).collect();
    services.extend(scope.pools().iter().map(|pool| name::pool_headless(pool.id)));
    // A pod that waits for its removal keeps its address.
    services.extend(observed.pods.iter().filter_map(|pod| pod.spec.as_ref()?.subdomain.clone()));
    let budgets: BTreeSet<String> = network::budget(scope).iter().map(ResourceExt::name_any).collect();
    for gone in unwanted(&observed.deployments, &deployments, &[Component::Multiorch]) {
        plan.write("Obsolete", Action::Delete(gone));
    }
    for gone in unwanted(&observed.services, &services, &[Component::Multiorch, Component::ShardPool]) {
        plan.write("Obsolete", Action::Delete(gone));
    }
    for gone in unwanted(&observed.budgets, &budgets, &[Component::ShardPool]) {
        plan.write("Obsolete", Action::Delete(gone));
    }
}

fn unwanted<K>(live: &[std::sync::Arc<K>], wanted: &BTreeSet<String>, components: &[Component]) -> Vec<Target>
where
    K: Resource<DynamicType = ()>,
{
    let of_components = |object: &K| {
        let component = object.labels().get(label::COMPONENT);
        component.is_some_and(|value| components.iter().any(|component| component.as_str() == value))
    };
    live.iter()
        .filter(|object| of_components(object) && !wanted.contains(&object.name_any()) && !is_deleting(object.as_ref()))
        .filter_map(|object| Target::of(object.as_ref()))
        .collect()
}

/// Removes at most one wanted pod that has ended (evicted, or failed with its node), never the confirmed primary.
fn ended_pod(observed: &Observed, members: &[Member<'_>], facts: &Facts, plan: &mut Plan<ShardStatus>) {
    let live = by_name(&observed.pods);
    let ended = members.iter().filter_map(|member| live.get(&member.pod)).find(|pod| {
        pod::is_terminal(pod) && !is_deleting(**pod) && facts.primary.as_deref() != pod.metadata.name.as_deref()
    });
    if let Some(target) = ended.and_then(|pod| Target::of(*pod)) {
        let message = format!("Pod {} has ended and is created anew on the same volume", target.key.name);
        plan.notes.push(Note::warning("PodReplaced", message));
        plan.write("PodEnded", Action::Delete(target));
    }
}

/// Marks records of poolers that nothing stands behind.
fn tombstones(
    scope: &Scope<'_>,
    observed: &Observed,
    members: &[Member<'_>],
    facts: &Facts,
    now: Timestamp,
    plan: &mut Plan<ShardStatus>,
) {
    let marks = tombstone::marks(scope, observed, members, facts, now);
    if !marks.is_empty() {
        let message = format!("{} topology records of poolers without a pod are marked as shut down", marks.len());
        plan.notes.push(Note::normal("DeadPoolersMarked", message));
    }
    for write in marks {
        plan.write("NoPod", Action::Topology { at: observed.topology_at.clone(), write });
    }
}
