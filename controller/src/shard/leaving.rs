//! The way out of a shard that its table group no longer asks for, while the cluster goes on: nobody elects any more, the standbys end,
//! then the primary, then the records of their poolers go, and then the Shard may be deleted.
//!
//! Volumes follow their policy with the Shard itself: what is to be retained has no owner. The removal can be called off until the Shard is
//! deleted; what was taken down is made anew then.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use shared::{
    annotation,
    api::v1alpha1::{Phase, Shard, ShardStatus},
    condition::ConditionSet,
    label::{self, Component},
};

use super::{
    claim,
    facts::{Facts, names},
    observe::{Observed, is_deleting},
    scope::Scope,
    status::{LOST, PRIMARY_CONFIRMED, had_primary},
};
use crate::{
    cell::leaving::abandoned,
    error::Error,
    plan::{Action, Plan, Requeue, Target, TopoWrite},
    upstream::PoolerRecord,
};

/// Nothing of the shard runs any more, and nothing refers to it.
pub const READY_FOR_DELETION: &str = "ReadyForDeletion";
/// Pods that end wake this kind; records do not.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);
/// While the user or the topology holds it up.
const LOOK_LATER: std::time::Duration = std::time::Duration::from_secs(10);

/// Whether the table group has asked a shard to leave.
pub fn is_asked(shard: &Shard) -> bool {
    shard.annotations().get(annotation::PENDING_DELETION).is_some_and(|at| !at.is_empty())
}

/// What comes next for a shard on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// The user wants nothing disturbed.
    Paused,
    /// Its orchestrators end, so that nobody is elected.
    Orchestrators,
    /// Who is primary is not known, so nobody is taken down.
    Blind(&'static str),
    /// These standbys end.
    Standbys(BTreeSet<String>),
    /// Whoever is left ends.
    Primary(BTreeSet<String>),
    /// The records of its poolers have to go.
    Unregister,
    /// Nothing is left.
    Done,
}

impl Step {
    /// Reason and message of the condition.
    fn explain(&self) -> (&'static str, String) {
        match self {
            Self::Paused => ("Paused", "The cluster is annotated to be left as it is".to_owned()),
            Self::Orchestrators => ("OrchestratorsStopping", "Its orchestrators end first".to_owned()),
            Self::Blind(why) => {
                ("TopologyUnavailable", format!("Who is primary is not known: the topology does not answer ({why})"))
            }
            Self::Standbys(pods) => ("PodsStopping", format!("Standbys end: {}", names(pods))),
            Self::Primary(pods) => ("PodsStopping", format!("The last ones end: {}", names(pods))),
            Self::Unregister => ("Unregistering", "The records of its poolers are removed".to_owned()),
            Self::Done => ("Drained", "Nothing of the shard runs any more".to_owned()),
        }
    }
}

/// The plan of one pass.
pub fn decide(observed: &Observed, now: Timestamp) -> Result<Plan<ShardStatus>, Error> {
    let scope = Scope::of(&observed.shard)?;
    let facts = Facts::of(&scope, observed, now);
    let step = step(&scope, observed, &facts, now);
    let again = if matches!(step, Step::Paused | Step::Blind(_)) { LOOK_LATER } else { LOOK_AGAIN };
    let mut plan = Plan { requeue: Requeue::After(again), ..Plan::nothing() };
    for claim in observed.claims.iter().filter(|claim| !is_deleting(claim.as_ref())) {
        if let Some(action) = claim::ownership(&scope, claim) {
            plan.write("VolumePolicy", action);
        }
    }
    match &step {
        Step::Paused | Step::Blind(_) | Step::Done => {}
        Step::Orchestrators => {
            let left = observed.deployments.iter().filter(|live| orchestrates(live) && !is_deleting(live.as_ref()));
            for target in left.filter_map(|deployment| Target::of(deployment.as_ref())) {
                plan.write("ShardRemoved", Action::Delete(target));
            }
        }
        Step::Standbys(pods) | Step::Primary(pods) => {
            let end = observed.pods.iter().filter(|pod| pods.contains(&pod.name_any()) && !is_deleting(pod.as_ref()));
            for target in end.filter_map(|pod| Target::of(pod.as_ref())) {
                plan.write("ShardRemoved", Action::Delete(target));
            }
        }
        Step::Unregister => {
            for record in records(&scope, observed) {
                let at = observed.topology_at.clone();
                plan.write("ShardRemoved", Action::Topology { at, write: TopoWrite::DeletePooler(record.id) });
            }
        }
    }
    plan.status = Some(status(&scope, observed, &facts, &step, now));
    Ok(plan)
}

fn orchestrates(deployment: &Deployment) -> bool {
    deployment.labels().get(label::COMPONENT).is_some_and(|component| component == Component::Multiorch.as_str())
}

fn step(scope: &Scope<'_>, observed: &Observed, facts: &Facts, now: Timestamp) -> Step {
    let pods: BTreeSet<String> =
        observed.pods.iter().filter(|pod| !abandoned(pod, now)).map(|pod| pod.name_any()).collect();
    let elects = !observed.orchestrator_pods.iter().all(|pod| abandoned(pod, now))
        || observed.deployments.iter().any(|live| orchestrates(live));
    let runs = elects || !pods.is_empty();
    let paused = scope.shard.annotations().get(annotation::PAUSE).is_some_and(|value| value != "false");
    if paused && runs {
        return Step::Paused;
    }
    if elects {
        return Step::Orchestrators;
    }
    let blind = observed.topology_away.or_else(|| (!observed.topology.is_complete()).then_some("incomplete"));
    if let Some(why) = blind {
        return Step::Blind(why);
    }
    let leads = |pod: &String| facts.roles.get(pod).is_some_and(|role| *role == "PRIMARY");
    let standbys: BTreeSet<String> = pods.iter().filter(|pod| !leads(pod)).cloned().collect();
    if !standbys.is_empty() && standbys.len() < pods.len() {
        return Step::Standbys(standbys);
    }
    if !pods.is_empty() {
        return Step::Primary(pods);
    }
    if records(scope, observed).is_empty() { Step::Done } else { Step::Unregister }
}

/// The records of its poolers. Those of another cluster that shares the topology stay.
fn records(scope: &Scope<'_>, observed: &Observed) -> Vec<PoolerRecord> {
    observed.records().into_iter().filter(|record| record.may_be_in(scope.namespace)).collect()
}

fn status(scope: &Scope<'_>, observed: &Observed, facts: &Facts, step: &Step, now: Timestamp) -> ShardStatus {
    let none = ShardStatus::default();
    let previous = scope.shard.status.as_ref().unwrap_or(&none);
    let (reason, message) = step.explain();
    let set = ConditionSet::continuing(&previous.conditions, scope.shard.metadata.generation, now).set(
        READY_FOR_DELETION,
        *step == Step::Done,
        reason,
        &message,
    );
    // A shard that is called back has had a primary, and what it had binds the next one.
    let set = match &facts.primary {
        Some(pod) => set.set(PRIMARY_CONFIRMED, true, "Confirmed", format!("{pod} serves as primary")),
        None if had_primary(&previous.conditions) => {
            set.set(PRIMARY_CONFIRMED, false, LOST, "The last primary no longer answers as one")
        }
        None => set,
    };
    let conditions = set.finish();
    let cells: BTreeSet<&String> = observed.pods.iter().filter_map(|pod| pod.labels().get(label::CELL)).collect();
    ShardStatus {
        observed_generation: scope.shard.metadata.generation,
        conditions,
        phase: Some(Phase::Progressing),
        message: Some(format!("Leaving: {message}")),
        cells: cells.into_iter().cloned().collect(),
        pod_roles: facts.roles.iter().map(|(pod, role)| (pod.clone(), (*role).to_owned())).collect(),
        primary: facts.primary.clone(),
        ready_replicas: Some(i32::try_from(facts.serving).unwrap_or(i32::MAX)),
        last_backup_time: previous.last_backup_time.clone(),
        last_backup_type: previous.last_backup_type,
        backup: previous.backup.clone(),
        ..ShardStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::condition;

    use super::*;
    use crate::{
        shard::tests::fixture::{NOW, deletions, healthy, members, remember, three_cells},
        upstream::PoolerId,
    };

    fn leaving() -> Observed {
        let mut observed = healthy(three_cells());
        let at = [(annotation::PENDING_DELETION.to_owned(), "2027-01-15T08:00:00Z".to_owned())].into();
        Arc::make_mut(&mut observed.shard).metadata.annotations = Some(at);
        observed
    }

    fn run(observed: &Observed) -> Plan<ShardStatus> {
        decide(observed, NOW).unwrap()
    }

    fn reason(plan: &Plan<ShardStatus>) -> String {
        let status = plan.status.as_ref().unwrap();
        condition::find(&status.conditions, READY_FOR_DELETION).unwrap().reason.clone()
    }

    fn unregistered(plan: &Plan<ShardStatus>) -> Vec<PoolerId> {
        let records = plan.writes.iter().filter_map(|write| match &write.action {
            Action::Topology { write: TopoWrite::DeletePooler(id), .. } => Some(id.clone()),
            _ => None,
        });
        records.collect()
    }

    #[test]
    fn a_shard_leaves_orchestrators_first_and_its_primary_last() {
        let mut observed = leaving();
        let all = members(&observed.shard);
        let plan = run(&observed);
        assert!(is_asked(&observed.shard) && deletions(&plan).iter().all(|gone| gone.starts_with("Deployment/")));
        assert_eq!((deletions(&plan).len(), reason(&plan).as_str()), (3, "OrchestratorsStopping"));
        observed.deployments.clear();
        let plan = run(&observed);
        assert_eq!(deletions(&plan), [format!("Pod/{}", all[1]), format!("Pod/{}", all[2])]);
        observed.pods.retain(|pod| pod.name_any() == all[0]);
        let plan = run(&observed);
        assert_eq!(deletions(&plan), [format!("Pod/{}", all[0])]);
        assert!(unregistered(&plan).is_empty(), "while one runs it writes its record itself");
        observed.pods.clear();
        let plan = run(&observed);
        assert_eq!((unregistered(&plan).len(), reason(&plan).as_str()), (3, "Unregistering"));
        observed.topology.cells.clear();
        let plan = run(&observed);
        assert!(condition::is_true(&plan.status.unwrap().conditions, READY_FOR_DELETION));
        assert!(plan.writes.is_empty());
    }

    #[test]
    fn nobody_is_taken_down_on_stale_knowledge_or_against_the_users_word() {
        let mut observed = leaving();
        observed.deployments.clear();
        let mut away = observed.clone();
        away.topology_away = Some("Unavailable");
        let plan = run(&away);
        assert_eq!((deletions(&plan).len(), reason(&plan).as_str()), (0, "TopologyUnavailable"));
        let annotations = Arc::make_mut(&mut observed.shard).metadata.annotations.as_mut().unwrap();
        annotations.insert(annotation::PAUSE.to_owned(), "true".to_owned());
        let plan = run(&observed);
        assert_eq!((deletions(&plan).len(), reason(&plan).as_str()), (0, "Paused"));
    }

    #[test]
    fn volumes_of_a_shard_that_leaves_follow_their_policy_with_it() {
        let mut observed = leaving();
        for claim in &mut observed.claims {
            Arc::make_mut(claim).metadata.owner_references = None;
        }
        let policies = |observed: &Observed| run(observed).writes.iter().filter(|w| w.reason == "VolumePolicy").count();
        assert_eq!(policies(&observed), 3, "those that go with the shard get their owner");
        Arc::make_mut(&mut observed.shard).spec.pvc_deletion_policy = None;
        assert_eq!(policies(&observed), 0, "those that stay have none");
    }

    #[test]
    fn a_shard_that_is_called_back_knows_that_it_had_a_primary() {
        let mut observed = leaving();
        remember(&mut observed);
        observed.deployments.clear();
        observed.pods.clear();
        observed.statuses.clear();
        observed.topology.cells.clear();
        let status = run(&observed).status.unwrap();
        assert!(had_primary(&status.conditions), "{:?}", status.conditions);
        assert_eq!(condition::find(&status.conditions, PRIMARY_CONFIRMED).unwrap().reason, LOST);
    }

    #[test]
    fn a_removal_that_the_user_holds_up_is_looked_at_rarely() {
        let mut observed = leaving();
        assert_eq!(run(&observed).requeue, Requeue::After(LOOK_AGAIN));
        let annotations = Arc::make_mut(&mut observed.shard).metadata.annotations.as_mut().unwrap();
        annotations.insert(annotation::PAUSE.to_owned(), "true".to_owned());
        assert_eq!(run(&observed).requeue, Requeue::After(LOOK_LATER));
    }

    #[test]
    fn a_pod_on_a_node_that_is_gone_holds_up_nothing() {
        let mut observed = leaving();
        observed.deployments.clear();
        observed.topology.cells.clear();
        for pod in &mut observed.pods {
            let due = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(NOW - jiff::SignedDuration::from_mins(2));
            Arc::make_mut(pod).metadata.deletion_timestamp = Some(due);
        }
        assert!(condition::is_true(&run(&observed).status.unwrap().conditions, READY_FOR_DELETION));
    }
}
