//! What a pass intends to do about a shard. Pure: the same observation gives the same plan.
//!
//! Missing objects are created at once, in all cells. A running pod is taken down only as the disruption planner says.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Resource, ResourceExt};
use serde_json::json;
use shared::{
    annotation::{self, DrainState},
    api::v1alpha1::{Phase, ShardStatus},
    condition,
    label::{self, Component},
    name,
    pgconfig::Critical,
};

use super::{
    certificate::Standing,
    claim::{self, Resize},
    config, disrupt,
    disruption::{self, Verdict},
    facts::Facts,
    multiorch, network,
    observe::{Observed, RECENT, Reference, by_name, is_deleting},
    origin, pod,
    rendering::{Foreign, Renderings},
    replication,
    scope::{Member, Scope},
    sight::{self, Differences},
    status::{self, Disruptions},
    tombstone,
};
use crate::{
    backup,
    cluster::tls,
    error::Error,
    plan::{Action, Note, Plan, Requeue, Target},
    settings::Settings,
    upstream::{PoolerId, primary},
    workload::{
        revision::{self, Adoption},
        want, want_once,
    },
};

/// How long a lost primary that nobody wants any more has to be without a successor to be made anew.
const NOBODY_TOOK_OVER: SignedDuration = SignedDuration::from_mins(1);

/// A plan, and what it says about disruptions.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The plan.
    pub plan: Plan<ShardStatus>,
    /// What the disruption planner decided; the plan carries it out.
    pub verdict: Verdict,
}

/// The plan for one shard.
pub fn decide(observed: &Observed, settings: &Settings, now: Timestamp) -> Result<Plan<ShardStatus>, Error> {
    weigh(observed, settings, now).map(|decision| decision.plan)
}

/// The plan for one shard, with the reasons for what it does or does not take down.
pub fn weigh(observed: &Observed, settings: &Settings, now: Timestamp) -> Result<Decision, Error> {
    let shard = origin::settled(observed);
    let mut scope = Scope::of(&shard)?;
    scope.set_aside = claim::skipped(&observed.claims);
    let scope = &scope;
    let facts = Facts::of(scope, observed, now);
    let members = scope.members();
    let mut plan = Plan::nothing();

    let config_error =
        observed.config_reference.as_ref().and_then(|reference| reference.as_ref().err()).map(String::as_str);
    let lost = lost_primary(scope, observed, &facts);
    let floor = replication::floor(scope, observed, &facts);
    let renderings = Renderings::of(scope, observed, settings, floor.as_ref(), lost.as_ref())?;
    shared_objects(scope, observed, Some(&renderings).filter(|_| config_error.is_none()), &mut plan)?;
    let stray = stray_primary(observed, lost, now)
        .filter(|lost| members.iter().all(|member| member.pod != lost.pod) && renderings.knows(lost.pool));
    if let Some(stray) = &stray {
        want(&mut plan, "Desired", &network::headless(scope, &stray.pool))?;
    }
    let drift = pods(scope, observed, members.iter().chain(&stray), &renderings, facts.data_lost, now, &mut plan)?;
    orchestrators(scope, observed, &mut plan)?;
    let confirmed = floor.as_ref().filter(|_| facts.primary.is_some());
    let too_large = volumes(scope, observed, &members, confirmed, now, &mut plan);
    let budgets = protection(scope, observed, settings, &facts, &mut plan)?;
    obsolete(scope, observed, stray.as_ref(), &budgets, &mut plan);
    role_labels(observed, &facts, &mut plan);

    let rendered = renderings.config.as_ref();
    let differences = Differences {
        outdated: drift.clone(),
        reload_hash: rendered.filter(|_| config_error.is_none()).map(|rendered| rendered.reload_hash.clone()),
    };
    let view = sight::view(scope, observed, &differences, now);
    let verdict = disruption::decide(&view);
    tombstones(scope, observed, &members, &facts, now, &mut plan);
    disrupt::carry_out(observed, &view, &verdict, rendered, &mut plan);

    let backups = backup::weigh(scope.shard, scope.id(), &scope.owner, &observed.backups, now, &mut plan)?;
    if facts.data_lost {
        plan.notes.push(Note::warning(status::DATA_LOSS_GUARD, status::DATA_LOST));
    }
    if let Some((_, message)) = status::credentials_missing(scope, observed) {
        plan.notes.push(Note::warning(status::CREDENTIALS_MISSING, message));
    }
    let said =
        scope.shard.status.as_ref().and_then(|last| condition::find(&last.conditions, status::CERTIFICATE_ENDING));
    if let Some((reason, message)) = status::certificate_ending(scope, observed, now)
        && said.is_none_or(|last| last.reason != reason)
    {
        plan.notes.push(Note::warning(status::CERTIFICATE_ENDING, message));
    }
    let config = status::Config { rendered, error: config_error, held: &renderings.held };
    let mut next = status::build(
        scope,
        observed,
        &facts,
        drift,
        &config,
        &Disruptions { view: &view, verdict: &verdict, too_large: &too_large },
        now,
    );
    // A primary that did not answer this time is asked again before its last word is too old to count.
    let answered = facts.confirmed.is_some_and(|at| now.duration_since(at) <= RECENT);
    let settled = next.phase == Some(Phase::Healthy) && answered;
    plan.requeue = Requeue::After(if settled { settings.poll_settled } else { settings.poll_unsettled });
    if let Some(delay) = disrupt::at_leisure(&view, &verdict).filter(|_| next.phase != Some(Phase::Healthy)) {
        plan.requeue = Requeue::After(delay);
    } else if let Some(delay) = disrupt::requeue(&verdict) {
        plan.requeue = plan.requeue.sooner(Requeue::After(delay));
    }
    if let Some(at) = backups.next {
        plan.requeue = plan.requeue.sooner(Requeue::After(backup::until(at, now)));
    }
    // After the pace was chosen: watching closely mends no archive.
    backups.tell(scope.shard, &mut next, now);
    plan.status = Some(next);
    Ok(Decision { plan, verdict })
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
    if let Some((rendered, packed, floor)) =
        renderings.and_then(|all| Some((all.config.as_ref()?, &all.packed, &all.floor)))
    {
        want(plan, "Desired", &config::postgres(scope, rendered, packed, floor))?;
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
    for claim in claim::backups(scope) {
        want_once(plan, "Desired", &claim)?;
    }
    Ok(())
}

/// Pods and their data volumes; none where that would be an empty database in place of one that is lost. Returns how running pods differ
/// from what a new one would be made from.
fn pods<'a>(
    scope: &Scope<'a>,
    observed: &Observed,
    members: impl IntoIterator<Item = &'a Member<'a>>,
    renderings: &Renderings,
    data_lost: bool,
    now: Timestamp,
    plan: &mut Plan<ShardStatus>,
) -> Result<BTreeMap<String, String>, Error> {
    let Some(config) = &renderings.config else { return Ok(BTreeMap::new()) };
    let live = by_name(&observed.pods);
    let volumes = by_name(&observed.claims);
    let complete = inputs_complete(scope, observed);
    let mut drift = BTreeMap::new();
    for member in members {
        let certificates = observed.internal_tls.poolers.digest.as_deref();
        let served = observed.certificates.served.as_ref();
        let desired = pod::build(scope, member, renderings.pod(member)?, config, certificates, served);
        if let Some(running) = live.get(&member.pod)
            && !is_deleting(*running)
        {
            match renderings.foreign(member.pool, running) {
                Foreign::No => {
                    let outlived = match served.map(|served| (served, served.judge(running, now))) {
                        Some((_, Standing::Outlived(why))) => Some(why),
                        Some((served, Standing::Unmarked)) => {
                            let mark = json!({ annotation::PGBACKREST_CERTIFICATE: served.to_string() });
                            let patch = json!({ "metadata": { "annotations": mark } });
                            if let Some(target) = Target::of(*running) {
                                plan.write("CertificateKnown", Action::Merge { target, patch });
                            }
                            None
                        }
                        Some((_, Standing::Fine)) | None => None,
                    };
                    let difference = pod::drift(running, &desired).or(outlived);
                    drift.extend(difference.map(|difference| (member.pod.clone(), difference)));
                }
                Foreign::Stays => {}
                Foreign::Remember(intent) => {
                    let patch = json!({ "metadata": { "annotations": { annotation::ADOPTED_INTENT: intent } } });
                    if let Some(target) = Target::of(*running) {
                        plan.write("TakenOver", Action::Merge { target, patch });
                    }
                }
            }
        }
        if data_lost {
            continue;
        }
        // A member that existed before is healed whatever is missing now: its pod waits for that better than nobody does. A new one
        // would only add a pod that cannot start.
        if !complete && !volumes.contains_key(&name::data_pvc(&member.pod)) {
            continue;
        }
        let mut volume = claim::data(scope, member);
        volume.metadata.annotations.get_or_insert_default().extend(replication::annotations(&renderings.floor));
        want_once(plan, "Desired", &volume)?;
        want_once(plan, "Desired", &desired)?;
    }
    Ok(drift)
}

/// A primary that was lost on its way out. It may hold commits that nobody else has, and the others may be too few to go on without it:
/// where nobody takes over for a while it is made anew, and leaves in order once there is another one.
fn stray_primary<'a>(observed: &Observed, lost: Option<Lost<'a>>, now: Timestamp) -> Option<Member<'a>> {
    let Lost { member, id } = lost?;
    let since = observed.bodiless.get(&id)?;
    (now.duration_since(*since) >= NOBODY_TOOK_OVER).then_some(member)
}

/// A primary without a pod, of which the volume is there.
pub struct Lost<'a> {
    /// The member that it was, of a pool or cell that may have left the spec.
    pub member: Member<'a>,
    id: PoolerId,
}

/// The primary that is lost, as far as it could be made anew: pool and cell stand on its volume.
fn lost_primary<'a>(scope: &Scope<'a>, observed: &'a Observed, facts: &Facts) -> Option<Lost<'a>> {
    if observed.topology_away.is_some() || !observed.topology.is_complete() || facts.primary.is_some() {
        return None;
    }
    let records = observed.records();
    let lost = *primary::claims(&records).first()?;
    observed.bodiless.get(&lost.id)?;
    let pod = lost.pod_name()?;
    let claim = observed.claims.iter().find(|claim| claim.name_any() == name::data_pvc(pod))?;
    // One whose pooler gave up has nothing that anybody needs.
    if is_deleting(claim.as_ref()) || sight::quarantined_at(claim).is_some() {
        return None;
    }
    let of = |key: &str| claim.labels().get(key).map(String::as_str);
    let member = scope.member_of(of(label::POOL)?, of(label::CELL)?, pod)?;
    (member.pool.id.cell == lost.id.cell).then(|| Lost { member, id: lost.id.clone() })
}

/// Follows size and deletion policy with existing volumes, takes those back that are wanted again, and lets all remember what a confirmed
/// primary was started with. Returns the names of those that should be smaller.
fn volumes(
    scope: &Scope<'_>,
    observed: &Observed,
    members: &[Member<'_>],
    confirmed: Option<&Critical>,
    now: Timestamp,
    plan: &mut Plan<ShardStatus>,
) -> Vec<String> {
    let data = members.iter().map(|member| claim::data(scope, member));
    let desired: BTreeMap<String, PersistentVolumeClaim> =
        data.chain(claim::backups(scope)).map(|claim| (claim.name_any(), claim)).collect();
    let used: BTreeSet<String> = observed.pods.iter().map(|pod| name::data_pvc(&pod.name_any())).collect();
    let mut too_large = Vec::new();
    for live in observed.claims.iter().filter(|claim| !is_deleting(claim.as_ref())) {
        let name = live.name_any();
        if let Some(wanted) = desired.get(&name) {
            if let Some(action) = claim::reclaim(live) {
                plan.write("VolumeWanted", action);
            }
            match claim::resize(live, wanted) {
                Resize::None => {}
                Resize::Grow(action) => plan.write("VolumeGrown", *action),
                Resize::Refused => too_large.push(name),
            }
        } else if !used.contains(&name)
            && let Some((reason, action)) = claim::give_up(scope, live, now)
        {
            let gone = matches!(action, Action::Delete(_));
            plan.write(reason, action);
            if gone {
                continue;
            }
        } else if used.contains(&name)
            && !on_its_way(observed, &name)
            && let Some(action) = claim::keep_place(scope, live)
        {
            plan.write("VolumeWanted", action);
        }
        if let Some(action) = claim::ownership(scope, live) {
            plan.write("VolumePolicy", action);
        }
        if let Some(action) = origin::remember(scope, live) {
            plan.write("Origin", action);
        }
        if let Some(action) = confirmed.and_then(|settings| replication::remember(live, settings)) {
            plan.write("Origin", action);
        }
    }
    too_large
}

/// Whether the pod on a volume is past the point at which it could stay as it is.
fn on_its_way(observed: &Observed, claim: &str) -> bool {
    let pod = observed.pods.iter().find(|pod| name::data_pvc(&pod.name_any()) == claim);
    pod.is_none_or(|pod| {
        let state = pod.annotations().get(annotation::DRAIN_STATE);
        is_deleting(pod.as_ref()) || state.is_some_and(|state| *state != DrainState::Requested.to_string())
    })
}

/// Whether everything that a new pod mounts exists.
fn inputs_complete(scope: &Scope<'_>, observed: &Observed) -> bool {
    let present = |reference: &Option<Reference>| reference.as_ref().is_none_or(|found| *found == Reference::Present);
    let certificates = scope.backup().is_none() || scope.user_tls_secret().is_some() || observed.certificates.ready;
    let certificates = certificates && observed.internal_tls.poolers.missing.is_none();
    observed.password == Reference::Present && present(&observed.user_tls) && present(&observed.cipher) && certificates
}

fn orchestrators(scope: &Scope<'_>, observed: &Observed, plan: &mut Plan<ShardStatus>) -> Result<(), Error> {
    let live = by_name(&observed.deployments);
    let adoption = Adoption::of(&scope.shard.metadata);
    for cell in scope.orchestrator_cells() {
        let mut fresh = multiorch::deployment(scope, cell, &observed.inherited);
        let live = live.get(&fresh.name_any()).copied();
        let mounted = &observed.internal_tls.orchestrators;
        let certificates = mounted.stamp(live).filter(|_| scope.internal_tls());
        tls::mark(&mut fresh, certificates.as_deref());
        // The first ones would only wait for a Secret that is about to come.
        if live.is_some() || mounted.missing.is_none() {
            let intent = multiorch::intent(scope, cell, certificates.as_deref());
            want(plan, "Desired", &revision::deployment(fresh, live, &intent, adoption)?)?;
        }
        want(plan, "Desired", &multiorch::service(scope, cell))?;
    }
    Ok(())
}

/// Removes what the shard controls and no longer wants, apart from pods and volumes: orchestrators of a cell that left, budgets of
/// another layout, addresses of a pool without pods.
fn obsolete(
    scope: &Scope<'_>,
    observed: &Observed,
    stray: Option<&Member<'_>>,
    budgets: &BTreeSet<String>,
    plan: &mut Plan<ShardStatus>,
) {
    let cells = scope.orchestrator_cells();
    let id = scope.id();
    let deployments: BTreeSet<String> = cells.iter().map(|cell| name::multiorch_deployment(id, cell)).collect();
    let mut services: BTreeSet<String> = cells.iter().map(|cell| name::multiorch_service(id, cell)).collect();
    services.extend(scope.pools().iter().map(|pool| name::pool_headless(pool.id)));
    services.extend(stray.map(|stray| name::pool_headless(stray.pool.id)));
    // A pod that waits for its removal keeps its address.
    services.extend(observed.pods.iter().filter_map(|pod| pod.spec.as_ref()?.subdomain.clone()));
    for gone in unwanted(&observed.deployments, &deployments, &[Component::Multiorch]) {
        plan.write("Obsolete", Action::Delete(gone));
    }
    for gone in unwanted(&observed.services, &services, &[Component::Multiorch, Component::ShardPool]) {
        plan.write("Obsolete", Action::Delete(gone));
    }
    for gone in unwanted(&observed.budgets, budgets, &[Component::ShardPool]) {
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

/// The disruption budgets. They are made once there is a primary, so that they start with the bounds that stay. Returns the names of
/// those that should exist.
fn protection(
    scope: &Scope<'_>,
    observed: &Observed,
    settings: &Settings,
    facts: &Facts,
    plan: &mut Plan<ShardStatus>,
) -> Result<BTreeSet<String>, Error> {
    // Nor may anybody be evicted while the planner has chosen somebody: its choice and an eviction would meet.
    let chosen = |pod: &Pod| pod.annotations().contains_key(annotation::DRAIN_STATE);
    let all_well = facts.all_well() && !observed.pods.iter().any(|pod| chosen(pod));
    let budgets = network::budgets(scope, settings, facts.desired + facts.extra.len(), all_well);
    let names: BTreeSet<String> = budgets.iter().map(ResourceExt::name_any).collect();
    let live = by_name(&observed.budgets);
    for budget in budgets {
        if facts.primary.is_some() || live.contains_key(&budget.name_any()) {
            want(plan, "Desired", &budget)?;
        }
    }
    Ok(names)
}

/// The label of the primary follows the confirmed one. The old one loses it first: two pods with it would protect neither.
fn role_labels(observed: &Observed, facts: &Facts, plan: &mut Plan<ShardStatus>) {
    let Some(primary) = &facts.primary else { return };
    let has = |pod: &Pod| pod.labels().get(label::ROLE).is_some_and(|role| role == label::PRIMARY);
    let mut move_to = |pod: &Pod, role: Option<&str>| {
        if let Some(target) = Target::of(pod) {
            let patch = json!({ "metadata": { "labels": { label::ROLE: role } } });
            plan.write("RoleMoved", Action::Merge { target, patch });
        }
    };
    for pod in observed.pods.iter().filter(|pod| has(pod) && pod.name_any() != *primary) {
        move_to(pod, None);
    }
    let pod = observed.pods.iter().find(|pod| pod.name_any() == *primary && !has(pod) && !is_deleting(pod.as_ref()));
    if let Some(pod) = pod {
        move_to(pod, Some(label::PRIMARY));
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
    let buried = tombstone::burials(scope, observed, members, facts, now);
    if !buried.is_empty() {
        let message = format!("{} topology records of poolers without a pod are marked as shut down", buried.len());
        plan.notes.push(Note::normal("DeadPoolersMarked", message));
    }
    for burial in buried {
        plan.write("NoPod", burial);
    }
}
