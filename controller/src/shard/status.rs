//! The status of a shard: counts, conditions, and a phase that is never better than what was seen. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{EnvVar, Pod},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::ResourceExt as _;
use shared::{
    annotation,
    api::v1alpha1::{Phase, PostgresConfigStatus, ShardStatus},
    condition::{self, ConditionSet},
    health, label,
    pgconfig::Rendered,
};

use super::{
    container,
    disruption::{Reason, Row, Verdict, View, Volume},
    facts::{Facts, names},
    observe::{Observed, Reference, is_deleting},
    origin,
    scope::Scope,
};

/// All wanted pods are ready and the primary is confirmed.
pub const AVAILABLE: &str = "Available";
/// The highest-ranked claim to be primary was confirmed by its pooler.
pub const PRIMARY_CONFIRMED: &str = "PrimaryConfirmed";
/// The topology records of all cells can be read.
pub const TOPOLOGY_REACHABLE: &str = "TopologyReachable";
/// Without the superuser's password no new pod is created.
pub const PASSWORD_SECRET_MISSING: &str = "PasswordSecretMissing";
/// Keys for the bucket of the backups are to come from a Secret that does not have them.
pub const CREDENTIALS_MISSING: &str = "CredentialsMissing";
/// The user's certificate for pgBackRest ends soon.
pub const CERTIFICATE_ENDING: &str = "CertificateEnding";
/// Some other Secret that the spec names is missing.
pub const SECRETS_MISSING: &str = "SecretsMissing";
/// The settings that the spec refers to cannot be read.
pub const POSTGRES_CONFIG_MISSING: &str = "PostgresConfigMissing";
/// Standbys of other cells cannot see the backups that they bootstrap from.
pub const CELL_LOCAL_REPOSITORY: &str = "CellLocalRepository";
/// Pods run that would be built differently today.
pub const PODS_OUTDATED: &str = "PodsOutdated";
/// Pods run that nobody wants any more.
pub const SCALE_DOWN_PENDING: &str = "ScaleDownPending";

/// Something should be done that disturbs a member, and cannot be done now.
pub const DISRUPTION_BLOCKED: &str = "DisruptionBlocked";
/// A member of today's description does not get healthy, so no other one is touched.
pub const ROLLOUT_STALLED: &str = "RolloutStalled";
/// A pod does not end.
pub const POD_STUCK: &str = "PodStuck";
/// Standbys have no connection to the primary, and nobody is about to change that.
pub const STANDBYS_DETACHED: &str = "StandbysDetached";

/// Pods answer that are in no record of the topology.
pub const POOLERS_UNREGISTERED: &str = "PoolersUnregistered";
/// Volumes of members are gone, or go with their pods.
pub const VOLUME_LOST: &str = "VolumeLost";
/// Everything that the shard had is gone, and nothing is made that would hide it.
pub const DATA_LOSS_GUARD: &str = "DataLossGuard";
/// Volumes are larger than the spec asks for, and stay so.
pub const VOLUME_SHRINK_REFUSED: &str = "VolumeShrinkRefused";
/// The spec asks for what counts only when data and volumes are made, and they are made otherwise.
pub const CHANGE_HAS_NO_EFFECT: &str = "ChangeHasNoEffect";

/// What [`DATA_LOSS_GUARD`] means, and the way out.
pub const DATA_LOST: &str = "The shard had data, no volume with it is left, and no complete backup is known: new volumes would make it an \
                             empty database. Bring volumes back under their old names, or annotate the cluster with \
                             multigres.com/start-empty=true to start anew";

/// Reason of [`PRIMARY_CONFIRMED`] from the loss of a primary until the next one.
pub(super) const LOST: &str = "PrimaryLost";

/// What became of the settings in this pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Config<'a> {
    /// What the pods should run; none if it could not be rendered and never was.
    pub rendered: Option<&'a Rendered>,
    /// What is wrong with the settings that the spec refers to.
    pub error: Option<&'a str>,
    /// Settings that stay higher than the spec asks for, by name.
    pub held: &'a BTreeMap<String, u64>,
}

/// How long a standby that has just got ready may take to connect before it is told of.
const CONNECTS_IN: SignedDuration = SignedDuration::from_secs(20);

/// What was decided about disruptions, and on what grounds.
#[derive(Clone, Copy, Debug)]
pub struct Disruptions<'a> {
    /// What was known.
    pub view: &'a View,
    /// What follows.
    pub verdict: &'a Verdict,
    /// Volumes that are larger than the spec asks for.
    pub too_large: &'a [String],
}

/// The next status.
pub fn build(
    scope: &Scope<'_>,
    observed: &Observed,
    facts: &Facts,
    drift: BTreeMap<String, String>,
    config: &Config<'_>,
    disruptions: &Disruptions<'_>,
    now: Timestamp,
) -> ShardStatus {
    let none = ShardStatus::default();
    let previous = scope.shard.status.as_ref().unwrap_or(&none);
    let generation = scope.shard.metadata.generation;
    let lost = facts.primary.is_none() && had_primary(&previous.conditions);
    let (phase, message) = phase(scope, observed, facts, config, disruptions.verdict, lost);
    ShardStatus {
        observed_generation: generation,
        postgres_config: Some(postgres_config(observed, config, previous.postgres_config.as_ref(), now)),
        conditions: conditions(scope, observed, facts, &drift, config, disruptions, lost, &previous.conditions, now),
        phase: Some(phase),
        message: Some(message),
        cells: cells(scope, observed, facts),
        orch_ready: facts.orchestrators_ready(),
        pools_ready: facts.pools_ready(),
        last_backup_time: previous.last_backup_time.clone(),
        last_backup_type: previous.last_backup_type,
        backup: previous.backup.clone(),
        pod_roles: pod_roles(observed, facts, previous),
        primary: facts.primary.clone(),
        drift,
        ready_replicas: Some(i32::try_from(facts.serving).unwrap_or(i32::MAX)),
    }
}

/// Cells that the shard needs: those of the spec, and those that something of it has yet to leave.
fn cells(scope: &Scope<'_>, observed: &Observed, facts: &Facts) -> Vec<String> {
    let pools = scope.pool_cells();
    let orchestrators = scope.orchestrator_cells();
    let pods = observed.pods.iter().filter_map(|pod| pod.labels().get(label::CELL)).map(String::as_str);
    let all: BTreeSet<&str> =
        pools.union(&orchestrators).copied().chain(pods).chain(facts.lost_in.as_deref()).collect();
    all.into_iter().map(ToOwned::to_owned).collect()
}

/// Phase and message: the first thing that is wrong, by severity.
fn phase(
    scope: &Scope<'_>,
    observed: &Observed,
    facts: &Facts,
    config: &Config<'_>,
    verdict: &Verdict,
    lost: bool,
) -> (Phase, String) {
    if let Some(what) = degraded(scope, facts, lost) {
        return (Phase::Degraded, what);
    }
    let missing = missing_references(observed, config);
    // Until something runs there is one thing to wait for, and one status to write: each of its pieces has a condition of its own.
    if !facts.started && facts.unplaced.is_none() && missing.is_none() {
        return (Phase::Initializing, "Creating the pods of the shard".to_owned());
    }
    if let Some(what) = missing {
        // Running pods go on without it, but none of them could be replaced.
        return (if observed.pods.is_empty() { Phase::Progressing } else { Phase::Degraded }, what);
    }
    match pending(facts).or_else(|| under_way(verdict)) {
        Some(what) => (Phase::Progressing, facts.unplaced.clone().unwrap_or_else(|| what.to_owned())),
        None => (Phase::Healthy, "Ready".to_owned()),
    }
}

/// What does not get better by waiting.
fn degraded(scope: &Scope<'_>, facts: &Facts, lost: bool) -> Option<String> {
    if facts.data_lost {
        return Some("All data volumes are gone, and nothing is made in their place".to_owned());
    }
    if let Some((pod, why)) = facts.broken_pods.first_key_value() {
        return Some(format!("Pool pod {pod} cannot run: {why}"));
    }
    if let Some((pod, why)) = facts.broken_orchestrators.first_key_value() {
        return Some(format!("Orchestrator pod {pod} cannot run: {why}"));
    }
    let bereft: Vec<&String> =
        facts.volumes.iter().filter(|(_, volume)| **volume == Volume::Lost).map(|(pod, _)| pod).collect();
    if !bereft.is_empty() {
        return Some(format!("The volumes of these are lost: {}", names(bereft)));
    }
    if !facts.quarantined.is_empty() {
        return Some(format!("Quarantined by their poolers: {}", names(&facts.quarantined)));
    }
    if !facts.unresolvable.is_empty() {
        return Some(format!("Registered under a host name that nobody can resolve: {}", names(&facts.unresolvable)));
    }
    if lost && !facts.forgotten.is_empty() && !facts.claimed {
        return Some(format!("The topology has lost the records of poolers that run: {}", names(&facts.forgotten)));
    }
    if lost {
        let what = if facts.claimed { "The primary does not answer as one" } else { "The shard has lost its primary" };
        return Some(what.to_owned());
    }
    if let Some(why) = facts.impossible_durability {
        return Some(format!("The durability policy cannot hold: {why}"));
    }
    scope
        .backups_are_cell_local()
        .then(|| "Each cell has its own backup repository: standbys of other cells cannot join".to_owned())
}

/// What is on its way. The texts name no numbers, so that they change as rarely as the phase of the work does.
fn pending(facts: &Facts) -> Option<&'static str> {
    if !facts.topology_errors.is_empty() {
        Some("Waiting for the topology server")
    } else if !facts.pools_ready() {
        Some("Waiting for pool pods to be ready")
    } else if !facts.orchestrators_ready() {
        Some("Waiting for orchestrators to be ready")
    } else if facts.missing_durability.is_some() {
        Some("Waiting for poolers to register")
    } else if facts.primary.is_none() {
        Some("Waiting for a primary")
    } else if !facts.unregistered.is_empty() {
        Some("Waiting for poolers to register")
    } else if !facts.detached.is_empty() {
        Some("Waiting for standbys to stream")
    } else if !facts.uncounted.is_empty() {
        Some("Waiting for standbys to count for durability")
    } else {
        None
    }
}

/// What is still to be done to running pods. A user who paused it knows.
fn under_way(verdict: &Verdict) -> Option<&'static str> {
    (verdict.pending && verdict.row != Row::Paused).then_some("Bringing pods up to date")
}

/// What the user has to provide.
fn missing_references(observed: &Observed, config: &Config<'_>) -> Option<String> {
    if observed.password != Reference::Present {
        return Some("The Secret with the superuser's password is missing".to_owned());
    }
    if secrets_missing(observed).is_some() {
        return Some("A Secret that the backup configuration names is missing".to_owned());
    }
    config.error.map(|error| format!("postgresConfigRef: {error}"))
}

#[expect(clippy::too_many_arguments, reason = "one argument per source of a condition")]
fn conditions(
    scope: &Scope<'_>,
    observed: &Observed,
    facts: &Facts,
    drift: &BTreeMap<String, String>,
    config: &Config<'_>,
    disruptions: &Disruptions<'_>,
    lost: bool,
    previous: &[Condition],
    now: Timestamp,
) -> Vec<Condition> {
    // How long something else was in the way is forgotten: each kind of waiting has a clock of its own.
    let waits = disruptions.verdict.blocker.as_ref().map(|blocker| blocker.reason.wait());
    let same =
        |last: &&Condition| last.type_ != DISRUPTION_BLOCKED || last.reason.parse().ok().map(Reason::wait) == waits;
    let previous: Vec<Condition> = previous.iter().filter(same).cloned().collect();
    let mut set = ConditionSet::continuing(&previous, scope.shard.metadata.generation, now);
    set = match (facts.pools_ready(), &facts.primary) {
        (true, Some(_)) => set.set(AVAILABLE, true, "AllPodsReady", "All pool pods are ready, and the primary serves"),
        (true, None) => set.set(AVAILABLE, false, "NoPrimary", "All pool pods are ready, but no primary is confirmed"),
        (false, _) => set.set(
            AVAILABLE,
            false,
            "NotAllPodsReady",
            if facts.unready.is_empty() {
                "The shard has no pools".to_owned()
            } else {
                format!("Not ready: {}", names(&facts.unready))
            },
        ),
    };
    set = match &facts.primary {
        Some(pod) => set.set(PRIMARY_CONFIRMED, true, "Confirmed", format!("{pod} serves as primary")),
        None if lost && !facts.forgotten.is_empty() && !facts.claimed => {
            set.set(PRIMARY_CONFIRMED, false, LOST, "The topology has lost the record of the last primary")
        }
        None if lost => set.set(PRIMARY_CONFIRMED, false, LOST, "The last primary no longer answers as one"),
        None if facts.claimed => set.set(
            PRIMARY_CONFIRMED,
            false,
            "ClaimUnconfirmed",
            "A pooler claims to be primary, but does not confirm it",
        ),
        None => set.set(PRIMARY_CONFIRMED, false, "NoClaim", "No pooler claims to be primary"),
    };
    set = match facts.topology_errors.first_key_value() {
        None => set.set(TOPOLOGY_REACHABLE, true, "Reachable", "The topology records can be read"),
        Some((cell, reason)) if cell.is_empty() => {
            set.set(TOPOLOGY_REACHABLE, false, reason, "The global topology server does not answer")
        }
        Some((cell, reason)) => {
            set.set(TOPOLOGY_REACHABLE, false, reason, format!("The topology records of cell {cell} cannot be read"))
        }
    };
    if let Some((reason, message)) = password_missing(scope, &observed.password) {
        set = set.set(PASSWORD_SECRET_MISSING, true, reason, message);
    }
    if let Some((reason, message)) = credentials_missing(scope, observed) {
        set = set.set(CREDENTIALS_MISSING, true, reason, message);
    } else if matches!(observed.bucket_keys, Some(Reference::Unreadable(_))) {
        set = set.keep(CREDENTIALS_MISSING);
    }
    if let Some((reason, message)) = certificate_ending(scope, observed, now) {
        set = set.set(CERTIFICATE_ENDING, true, reason, message);
    }
    if let Some(message) = secrets_missing(observed) {
        set = set.set(SECRETS_MISSING, true, "SecretMissing", message);
    }
    if let Some(error) = config.error {
        set = set.set(POSTGRES_CONFIG_MISSING, true, "ReferenceInvalid", error);
    }
    if scope.backups_are_cell_local() {
        set = set.set(
            CELL_LOCAL_REPOSITORY,
            true,
            "FilesystemScopeCell",
            "Filesystem backups are kept per cell, and standbys bootstrap from them: make a cluster with S3, or with scope Shard and a \
             StorageClass that spans the cells",
        );
    }
    if !drift.is_empty() {
        set = set.set(
            PODS_OUTDATED,
            true,
            "PodsDrifted",
            format!("Built from an older description: {}", names(drift.keys())),
        );
    }
    if let Some((reason, message)) = no_effect(scope, observed, config) {
        set = set.set(CHANGE_HAS_NO_EFFECT, true, reason, message);
    }
    if !facts.extra.is_empty() {
        set = set.set(SCALE_DOWN_PENDING, true, "ExtraPods", format!("No longer wanted: {}", names(&facts.extra)));
    }
    if let Some(blocker) = &disruptions.verdict.blocker {
        set = set.set(DISRUPTION_BLOCKED, true, blocker.reason.as_str(), &blocker.message);
        if blocker.reason == Reason::RolloutStalled {
            set = set.set(ROLLOUT_STALLED, true, "MemberNotHealthy", &blocker.message);
        }
    }
    if !facts.forgotten.is_empty() {
        let message = format!("The topology has no record of: {}", names(&facts.forgotten));
        set = set.set(POOLERS_UNREGISTERED, true, "RecordMissing", message);
    } else if !observed.strangers.is_empty() || observed.topology_away.is_some() || !observed.topology.is_complete() {
        // Who is being replaced, or does not answer this time, has not registered yet: how long this has lasted is not forgotten.
        set = set.keep(POOLERS_UNREGISTERED);
    }
    if let Some((reason, message)) = volumes_lost(facts) {
        set = set.set(VOLUME_LOST, true, reason, message);
    }
    if facts.data_lost {
        set = set.set(DATA_LOSS_GUARD, true, "AllVolumesGone", DATA_LOST);
    }
    if !disruptions.too_large.is_empty() {
        let message = format!("No volume shrinks; larger than asked for: {}", names(disruptions.too_large));
        set = set.set(VOLUME_SHRINK_REFUSED, true, "SmallerThanVolume", message);
    }
    let stuck = disruptions.view.stuck();
    if !stuck.is_empty() {
        let message = format!("Asked to end, and still there: {}", names(stuck));
        set = set.set(POD_STUCK, true, "StuckTerminating", message);
    }
    let detached = detached(observed, facts, now);
    // What is under way takes connections away for a moment, and has a name of its own if it does not go on.
    if !disruptions.verdict.pending && !detached.is_empty() {
        let message = format!("The primary has no connection to: {}", names(detached));
        set = set.set(STANDBYS_DETACHED, true, "NotStreaming", message);
    }
    set.finish()
}

/// Which members have lost their volumes, or are about to.
fn volumes_lost(facts: &Facts) -> Option<(&'static str, String)> {
    let of = |volume| facts.volumes.iter().filter(move |(_, found)| **found == volume).map(|(pod, _)| pod);
    let lost = of(Volume::Lost).next().map(|_| format!("Lost: the volumes of {}", names(of(Volume::Lost))));
    let leaving = of(Volume::Leaving).next().map(|_| {
        format!("Marked for deletion, and gone with their pods: the volumes of {}", names(of(Volume::Leaving)))
    });
    match (lost, leaving) {
        (Some(lost), Some(leaving)) => Some(("Lost", format!("{lost}. {leaving}"))),
        (Some(lost), None) => Some(("Lost", lost)),
        (None, Some(leaving)) => Some(("Terminating", leaving)),
        (None, None) => None,
    }
}

/// Standbys that have been ready long enough and are not connected to the primary.
fn detached<'a>(observed: &Observed, facts: &'a Facts, now: Timestamp) -> Vec<&'a String> {
    let settled = |name: &&String| {
        let pod = observed.pods.iter().find(|pod| pod.name_any() == **name);
        let since = pod.and_then(|pod| health::ready_since(pod));
        since.is_some_and(|since| now.duration_since(since) >= CONNECTS_IN)
    };
    facts.detached.iter().filter(settled).collect()
}

/// What the spec asks for in vain.
fn no_effect(scope: &Scope<'_>, observed: &Observed, config: &Config<'_>) -> Option<(&'static str, String)> {
    let late: Vec<String> =
        origin::too_late(scope, observed).into_iter().map(|(field, instead)| format!("{field} ({instead})")).collect();
    let held: Vec<String> = config.held.iter().map(|(name, value)| format!("{name} stays {value}")).collect();
    let late = (!late.is_empty()).then(|| format!("Came too late: {}", late.join(", ")));
    let held = (!held.is_empty())
        .then(|| format!("No standby may have less than its primary was started with: {}", held.join(", ")));
    match (late, held) {
        (Some(late), Some(held)) => Some(("AlreadyMade", format!("{late}. {held}"))),
        (Some(late), None) => Some(("AlreadyMade", late)),
        (None, Some(held)) => Some(("PrimaryHasMore", held)),
        (None, None) => None,
    }
}

fn password_missing(scope: &Scope<'_>, password: &Reference) -> Option<(&'static str, String)> {
    let name = &scope.spec().postgres_password_secret_ref.name;
    match password {
        Reference::Present => None,
        Reference::Absent => Some((
            "SecretNotFound",
            format!(
                "Secret {name} does not exist; new pods wait for it: create it, with the password that the database has"
            ),
        )),
        Reference::NoKey(key) => Some(("KeyNotFound", format!("Secret {name} has no value under the key {key}"))),
        Reference::Unreadable(category) => Some((category, format!("Secret {name} cannot be read"))),
    }
}

/// Why nobody has the keys of the bucket. Nothing waits for them here: pods that run already have theirs, and others may be given some by
/// somebody else.
pub fn credentials_missing(scope: &Scope<'_>, observed: &Observed) -> Option<(&'static str, String)> {
    let keys = scope.bucket_keys()?;
    let secret = &keys.secret;
    let (reason, what) = match observed.bucket_keys.as_ref()? {
        Reference::Absent => ("SecretNotFound", format!("Secret {secret} does not exist")),
        Reference::NoKey(key) => ("KeyNotFound", format!("Secret {secret} has no value under the key {key}")),
        Reference::Present | Reference::Unreadable(_) => return None,
    };
    if keys.optional && given_otherwise(observed, secret) {
        return None;
    }
    let [id, key] = container::BUCKET_KEYS;
    let remedy = format!(
        "create it with the keys {id} and {key}, which pods read when they start; or name a credentialsSecret or a serviceAccountName"
    );
    Some((reason, format!("{what}, so poolers have no keys for the bucket of the backups: {remedy}")))
}

/// What is to be said of a certificate for pgBackRest that nobody but the user renews.
pub fn certificate_ending(scope: &Scope<'_>, observed: &Observed, now: Timestamp) -> Option<(&'static str, String)> {
    let secret = scope.user_tls_secret()?;
    let until = observed.certificates.served.as_ref()?.ends_soon(now)?;
    let (reason, ends) = if until > now { ("EndsSoon", "ends") } else { ("Ended", "has ended") };
    let remedy = "put another one there, or poolers cannot reach each other for backups";
    Some((
        reason,
        format!("The certificate in Secret {secret}, or the authority behind it, {ends} at {until}: {remedy}"),
    ))
}

/// Whether somebody else puts keys into the environment of the poolers, such as a webhook.
fn given_otherwise(observed: &Observed, secret: &str) -> bool {
    let ours = |variable: &EnvVar| {
        let source = variable.value_from.as_ref().and_then(|source| source.secret_key_ref.as_ref());
        source.is_some_and(|source| source.name == secret)
    };
    let poolers = observed.pods.iter().filter_map(|pod| pod.spec.as_ref()).flat_map(|pod| &pod.containers);
    let mut poolers = poolers.filter(|container| container.name == "multipooler");
    let given = |variable: &EnvVar| variable.name == container::BUCKET_KEYS[0] && !ours(variable);
    poolers.any(|pooler| {
        pooler.env_from.as_ref().is_some_and(|sources| !sources.is_empty()) || pooler.env.iter().flatten().any(given)
    })
}

fn secrets_missing(observed: &Observed) -> Option<String> {
    let named = [("pgbackrestTLS", &observed.user_tls), ("encryption", &observed.cipher)];
    let problems: Vec<String> = named
        .into_iter()
        .filter_map(|(field, reference)| match reference.as_ref()? {
            Reference::Present => None,
            Reference::Absent => Some(format!("the Secret of {field} does not exist")),
            Reference::NoKey(key) => Some(format!("the Secret of {field} has no key {key}")),
            Reference::Unreadable(category) => Some(format!("the Secret of {field} cannot be read ({category})")),
        })
        .collect();
    let mounted = [&observed.internal_tls.poolers, &observed.internal_tls.orchestrators];
    let certificates = mounted.into_iter().filter_map(|mounted| mounted.missing.clone());
    let problems: Vec<String> = problems.into_iter().chain(certificates).collect();
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// Whether the shard had a primary before this pass.
pub fn had_primary(previous: &[Condition]) -> bool {
    condition::find(previous, PRIMARY_CONFIRMED).is_some_and(|last| last.status == "True" || last.reason == LOST)
}

/// Roles of this pass; where records could not be read, those of the last pass stay for pods that still exist.
fn pod_roles(observed: &Observed, facts: &Facts, previous: &ShardStatus) -> BTreeMap<String, String> {
    let mut roles: BTreeMap<String, String> = BTreeMap::new();
    if !observed.topology.is_complete() {
        let exists = |pod: &str| observed.pods.iter().any(|live| live.name_any() == pod);
        roles.extend(
            previous.pod_roles.iter().filter(|(pod, _)| exists(pod)).map(|(pod, role)| (pod.clone(), role.clone())),
        );
    }
    roles.extend(facts.roles.iter().map(|(pod, role)| (pod.clone(), (*role).to_owned())));
    roles
}

/// How far the settings have come. The time moves only when a roll-out ends.
fn postgres_config(
    observed: &Observed,
    config: &Config<'_>,
    previous: Option<&PostgresConfigStatus>,
    now: Timestamp,
) -> PostgresConfigStatus {
    let last = previous.and_then(|status| status.last_applied_at.clone());
    if let Some(error) = config.error {
        return PostgresConfigStatus { in_progress: Some(false), last_applied_at: last, error: Some(error.to_owned()) };
    }
    let runs = |pod: &Pod| {
        config.rendered.is_some_and(|rendered| {
            let has = |key: &str, hash: &String| pod.annotations().get(key) == Some(hash);
            has(annotation::POSTGRES_CONFIG_HASH, &rendered.restart_hash)
                && has(annotation::POSTGRES_RELOAD_HASH, &rendered.reload_hash)
        })
    };
    let mut live = observed.pods.iter().filter(|pod| !is_deleting(pod.as_ref())).peekable();
    if live.peek().is_none() || live.any(|pod| !runs(pod)) {
        return PostgresConfigStatus { in_progress: Some(true), last_applied_at: last, error: None };
    }
    let settled = previous.is_some_and(|status| status.in_progress == Some(false) && status.error.is_none());
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    PostgresConfigStatus {
        in_progress: Some(false),
        last_applied_at: if settled { last.or(Some(now)) } else { Some(now) },
        error: None,
    }
}
