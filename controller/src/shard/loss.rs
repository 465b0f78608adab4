//! When everything that a shard had is gone. Volumes that are made anew then would make a new, empty database of it, which looks healthy.
//!
//! Data planes restore a shard that has lost all of its volumes from a backup. Where there is none, nothing is made before a user says so.

use jiff::Timestamp;
use kube::ResourceExt as _;
use shared::{annotation, api::v1alpha1::BackupPhase, label};

use super::{
    claim,
    observe::{Observed, is_deleting},
    origin, pod,
    scope::Scope,
    sight,
};

/// Whether new volumes would make an empty database of a shard that had data. Nobody leads it, as the caller knows.
///
/// Every doubt speaks for waiting: a volume or a backup that was not seen yet, as after a restart, costs a pass and no data. Only what makes
/// new things stops; nothing is taken down for it.
pub fn is_total(scope: &Scope<'_>, observed: &Observed) -> bool {
    let previous = scope.shard.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    // A pod that runs may hold what its claim, which goes with it, does not promise any more.
    let runs = observed.pods.iter().any(|pod| !is_deleting(pod.as_ref()) && !pod::is_terminal(pod));
    let kept = observed.claims.iter().any(|claim| origin::holds_data(claim) && !claim::is_set_aside(claim));
    sight::ever_led(previous, observed) && !runs && !kept && !has_backup(scope, observed) && !is_accepted(scope)
}

/// Whether there was a complete backup when somebody looked last, and the repository is still the same.
fn has_backup(scope: &Scope<'_>, observed: &Observed) -> bool {
    let listed = scope.shard.status.as_ref().and_then(|status| status.last_backup_time.as_ref());
    // The repository is read at leisure, and not at all once nobody is left to ask.
    let runs = observed.backups.runs.iter().filter_map(|run| run.status.as_ref());
    let made = runs.filter(|run| run.phase == Some(BackupPhase::Completed)).filter_map(|run| run.completed_at.as_ref());
    let Some(newest) = made.chain(listed).map(|ended| ended.0).max() else { return false };
    // A volume that was made after the backup does not hold it.
    let older = |created: Option<Timestamp>| created.is_some_and(|created| created <= newest);
    let mut repositories = observed.claims.iter().filter(|claim| !claim.labels().contains_key(label::POOL));
    match scope.backup_volume() {
        None => scope.backup().is_some(),
        Some(_) => repositories
            .any(|claim| !is_deleting(claim.as_ref()) && older(claim.creation_timestamp().map(|created| created.0))),
    }
}

/// Whether the user wants the shard to start anew.
fn is_accepted(scope: &Scope<'_>) -> bool {
    scope.shard.annotations().get(annotation::START_EMPTY).is_some_and(|value| value != "false")
}
