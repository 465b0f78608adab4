//! Carries out plans: the only place of the controller that writes to the API server or to a topology server.
//!
//! A write whose effect is already there is not sent. "Already there" is judged on the freshest object known: the answer to our
//! own last write where the watch has not caught up yet, the watched object otherwise.

mod pace;
mod reverted;
mod spans;
mod trouble;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions},
    discovery::ApiResource,
};
use serde::Serialize;
use serde_json::{Value, json};
use shared::{
    annotation,
    kubeutil::{FieldManager, Object, ObjectKey, compare},
    label, telemetry,
};
use tracing::{Instrument as _, Span, debug_span};

use crate::{
    cluster::departed,
    error::Error,
    metrics::{Drained, Metrics},
    plan::{Action, Plan, Requeue, Target, TopoWrite, Write},
    stores::Stores,
    takeover,
    upstream::{self, PoolerAddress, Reloaded, TopoAddress, Upstream, Written},
};

pub use reverted::{DRIFT_REVERTED, Reverted};
pub use trouble::{RECONCILED, Trouble};

use pace::{Pace, same_status};
use spans::{carry_trace, span, subject};

/// No single call to the API server may take longer.
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// No single write to a topology server may take longer.
const TOPOLOGY_DEADLINE: Duration = Duration::from_secs(5);
/// How long an answer is preferred over a watch that has not delivered the object at all.
const TRUST_ANSWER: Duration = Duration::from_secs(30);

/// Sends intended writes whose effect is not there yet.
pub struct Executor {
    client: Client,
    stores: Arc<Stores>,
    upstream: Upstream,
    metrics: Arc<Metrics>,
    memory: Mutex<Memory>,
}

/// What the executor remembers between passes. Losing it (a restart) costs repeated writes, never wrong ones.
#[derive(Default)]
struct Memory {
    /// Answers to our writes that the watches have not shown yet.
    answers: HashMap<ObjectKey, (Instant, Value)>,
    /// Objects that we deleted, until the watch shows it.
    deleted: HashMap<String, Instant>,
    /// Paths that the server did not keep when they were last applied.
    dropped: HashMap<ObjectKey, BTreeSet<String>>,
    /// When the status of an object was last written.
    status: HashMap<ObjectKey, Instant>,
    /// Since when the status of an object has not told how things are.
    untold: HashMap<ObjectKey, Instant>,
}

/// What came of a plan.
#[derive(Debug)]
pub struct Outcome {
    /// When to look again.
    pub requeue: Requeue,
    /// Failures, in the order of the writes.
    pub errors: Vec<Error>,
    /// Writes that were sent, for logs and tests.
    pub sent: usize,
    /// What somebody else had done to objects of ours, and is undone.
    pub reverted: Vec<Reverted>,
}

impl Executor {
    /// Writes through `client` and `upstream`, comparing with `stores`.
    pub fn new(client: Client, stores: Arc<Stores>, upstream: Upstream, metrics: Arc<Metrics>) -> Self {
        Self { client, stores, upstream, metrics, memory: Mutex::default() }
    }

    /// Carries out `plan` for `object`: its writes in order, then its status. One failure does not stop the rest.
    pub async fn run<K, S>(&self, object: &K, plan: Plan<S>) -> Outcome
    where
        K: Resource<DynamicType = ()> + Serialize,
        S: Serialize,
    {
        let mut outcome = Outcome { requeue: plan.requeue, errors: Vec::new(), sent: 0, reverted: Vec::new() };
        let mut settled = true;
        for Write { reason, action, drain } in plan.writes {
            let mut found = Vec::new();
            match self.act(action, &mut found).await {
                Ok(effect) => {
                    found.retain(|one| one.is_certain(object));
                    if effect == Effect::Sent {
                        let reason = if found.is_empty() { reason } else { DRIFT_REVERTED };
                        self.metrics.writes.with_label_values(&[reason]).inc();
                    }
                    outcome.reverted.append(&mut found);
                    if effect == Effect::Sent
                        && let Some(how) = Drained::by(reason)
                    {
                        self.metrics.drained(&ObjectKey::of(object), how, drain);
                    }
                    outcome.sent += usize::from(effect == Effect::Sent);
                    settled &= effect == Effect::Held;
                }
                Err(error) => {
                    settled = false;
                    outcome.errors.push(error);
                }
            }
        }
        if let Some(status) = plan.status {
            match self.status(object, &status, settled).instrument(debug_span!("UpdateStatus")).await {
                Ok(Wrote::Yes) => outcome.sent += 1,
                Ok(Wrote::No) => {}
                Ok(Wrote::Later(delay)) => outcome.requeue = outcome.requeue.sooner(Requeue::After(delay)),
                Err(error) => outcome.errors.push(error),
            }
        }
        outcome
    }

    async fn act(&self, action: Action, reverted: &mut Vec<Reverted>) -> Result<Effect, Error> {
        match action {
            Action::Apply(object) => self.apply(object, reverted).await,
            Action::CreateOnce(object) => self.create_once(object).await,
            Action::Merge { target, patch } => self.merge(target, patch).await,
            Action::Delete(target) => self.delete(target, None).await,
            Action::Remove { target, resource_version } => self.delete(target, Some(resource_version)).await,
            Action::Sequence(actions) => {
                let mut sum = Effect::Held;
                for action in actions {
                    match Box::pin(self.act(action, reverted)).await? {
                        // What was observed is not what is there: the rest was decided about something else.
                        Effect::Unseen => return Ok(if sum == Effect::Sent { sum } else { Effect::Unseen }),
                        Effect::Sent => sum = Effect::Sent,
                        Effect::Held => {}
                    }
                }
                Ok(sum)
            }
            Action::HandOver { primary, standbys, orchestrators } => {
                let what = format!("switching over from {primary}");
                let outcome = takeover::hand_over(&self.upstream, &primary, &standbys, &orchestrators).await;
                outcome.map(|()| Effect::Sent).map_err(|source| Error::Upstream { what, source })
            }
            Action::Hasten { orchestrators } => {
                takeover::hasten(&self.upstream, &orchestrators).await;
                Ok(Effect::Unseen)
            }
            Action::LeaveCohort { primary, member } => {
                let what = format!("taking {member} out of the cohort of {primary}");
                let outcome = self.upstream.poolers().leave_cohort(&primary, &member).await;
                outcome.map(|()| Effect::Sent).map_err(|source| Error::Upstream { what, source })
            }
            Action::Reload { pooler, expected, target, done, needs_restart } => {
                self.reload(&pooler, &expected, target, done, needs_restart).await
            }
            Action::RequireBackup { pooler } => {
                let what = format!("asking {pooler} for backups");
                match self.upstream.poolers().complete_backups(&pooler).await {
                    Ok(0) => Err(Error::NoBackup { pooler: pooler.to_string() }),
                    Ok(_) => Ok(Effect::Held),
                    Err(source) => Err(Error::Upstream { what, source }),
                }
            }
            Action::StartBackup { admin, order, outcome } => {
                let answer = self.upstream.backups().start(&admin, &order).await;
                match &answer {
                    Ok(job) => tracing::info!(job, level = order.level, "backup begun"),
                    Err(error) => tracing::warn!(error = shared::telemetry::chain(error), "backup not begun"),
                }
                outcome.fill(answer);
                Ok(Effect::Unseen)
            }
            Action::ExpireBackups { admin, shard, what } => {
                let gone =
                    self.upstream.backups().expire(&admin, &shard, &what).await.map_err(|source| Error::Upstream {
                        what: format!("removing old backups of {}/{}", shard.database, shard.shard),
                        source,
                    })?;
                Ok(if gone.is_empty() { Effect::Held } else { Effect::Sent })
            }
            Action::RequireAbsent { pod } => {
                let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace.as_deref().unwrap_or_default());
                let found = self.call("get", &pod, api.get_metadata_opt(&pod.name)).await?;
                Ok(if found.is_some() { Effect::Unseen } else { Effect::Held })
            }
            Action::RequireNoPodAt { namespace, selector, address } => {
                let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
                let key = ObjectKey {
                    group: String::new(),
                    kind: "Pod".to_owned(),
                    namespace: Some(namespace),
                    name: address,
                };
                let wanted = ListParams::default().labels(&label::query(&selector));
                let pods = self.call("list", &key, api.list(&wanted)).await?;
                Ok(if departed::no_pod_at(&pods.items, &key.name) { Effect::Held } else { Effect::Unseen })
            }
            Action::Topology { at, write } => {
                let what = format!("{write:?} in the topology server {}", at.endpoints.join(","));
                let call = topology(&self.upstream, &at, &write).instrument(debug_span!(
                    "topology",
                    otel.name = format!("topology {}", subject(&write)),
                    otel.kind = "client",
                    verb = subject(&write),
                    server = at.endpoints.join(","),
                ));
                match tokio::time::timeout(TOPOLOGY_DEADLINE, call).await {
                    Ok(Ok(true)) => Ok(Effect::Sent),
                    Ok(Ok(false)) => Ok(Effect::Held),
                    Ok(Err(source)) => Err(Error::Upstream { what, source }),
                    Err(_) => Err(Error::Deadline { what, seconds: TOPOLOGY_DEADLINE.as_secs() }),
                }
            }
        }
    }

    /// Reloads settings. Files reach a pod with a delay and poolers may be busy, so anything but an answer means: later.
    async fn reload(
        &self,
        pooler: &PoolerAddress,
        expected: &BTreeMap<String, String>,
        target: Target,
        done: Value,
        needs_restart: Value,
    ) -> Result<Effect, Error> {
        match self.upstream.poolers().reload(pooler, expected).await {
            Ok(Reloaded::Done) => self.merge(target, done).await,
            Ok(Reloaded::NeedsRestart(names)) => {
                tracing::info!(%pooler, settings = names.join(","), "settings need a restart");
                self.merge(target, needs_restart).await
            }
            Ok(Reloaded::Pending(names)) => {
                tracing::debug!(%pooler, settings = names.join(","), "settings have not reached the pod yet");
                Ok(Effect::Unseen)
            }
            Err(error) => {
                tracing::warn!(%pooler, error = shared::telemetry::chain(&error), "settings not reloaded; tried again");
                Ok(Effect::Unseen)
            }
        }
    }

    async fn apply(&self, object: Object, reverted: &mut Vec<Reverted>) -> Result<Effect, Error> {
        let key = object.key();
        ensure_ours(&object)?;
        let digest = object.digest();
        let mut object = object.stamped();
        let dropped = self.memory().dropped.get(&key).cloned().unwrap_or_default();
        let live = self.freshest(&key);
        let found = match &live {
            None => Some(Reverted::gone(&key)),
            Some(live) if live["metadata"]["annotations"][annotation::APPLIED_DIGEST] == digest => {
                match compare::is_superset_ignoring(live, &object.value, &dropped) {
                    Ok(()) => return Ok(self.held(&key)),
                    Err(difference) => Some(Reverted::changed(&key, difference)),
                }
            }
            // It is to become another one.
            Some(_) => None,
        };
        let api = self.api(&resource_of(&object), key.namespace.as_deref());
        let params = PatchParams::apply(FieldManager::Operator.as_str()).force();
        let span = span("apply", &key);
        carry_trace(&mut object, &span);
        let patch = Patch::Apply(&object.value);
        let applied = self.call_in(span, "apply", &key, api.patch(&key.name, &params, &patch)).await;
        let answer = match applied {
            // An apply leaves list entries of others alone. Where ours and theirs cannot stand side by side (a port of a
            // Service renumbered by hand keeps the name of ours), only replacing the lists brings our fields back.
            Err(Error::Write { source, .. }) if is_code(&source, 422) && live.is_some() => {
                let params = PatchParams { field_manager: params.field_manager.clone(), ..PatchParams::default() };
                self.call("patch", &key, api.patch(&key.name, &params, &Patch::Merge(&object.value))).await?
            }
            answer => answer?,
        };
        let answer = serialise(&key, &answer)?;
        let dropped = compare::not_kept(&answer, &object.value);
        // What the server itself does not keep was not taken away by anybody.
        reverted.extend(found.filter(|_| dropped.is_empty()));
        let mut memory = self.memory();
        if dropped.is_empty() {
            memory.dropped.remove(&key);
        } else {
            memory.dropped.insert(key.clone(), dropped);
        }
        memory.answers.insert(key, (Instant::now(), answer));
        Ok(Effect::Sent)
    }

    async fn create_once(&self, object: Object) -> Result<Effect, Error> {
        let key = object.key();
        ensure_ours(&object)?;
        // An object that is on its way out still holds the name: the next pass creates the successor.
        if self.freshest(&key).is_some() {
            return Ok(self.held(&key));
        }
        let api = self.api(&resource_of(&object), key.namespace.as_deref());
        let body: DynamicObject = serde_json::from_value(object.value)
            .map_err(|source| Error::Serialise { object: key.to_string(), source })?;
        let params =
            PostParams { field_manager: Some(FieldManager::Operator.as_str().into()), ..PostParams::default() };
        match self.call("create", &key, api.create(&params, &body)).await {
            Ok(answer) => {
                let answer = serialise(&key, &answer)?;
                self.remember(key, answer);
                Ok(Effect::Sent)
            }
            Err(Error::Write { source, .. }) if is_code(&source, 409) => {
                let found = self.call("get", &key, api.get(&key.name)).await?;
                if found.labels().get(label::MANAGED_BY).is_none_or(|manager| manager != label::MANAGER) {
                    return Err(Error::Foreign { object: key.to_string() });
                }
                let answer = serialise(&key, &found)?;
                self.remember(key, answer);
                Ok(Effect::Unseen)
            }
            Err(error) => Err(error),
        }
    }

    async fn merge(&self, target: Target, mut patch: Value) -> Result<Effect, Error> {
        if let Some(live) = self.freshest(&target.key)
            && holds_patch(&live, &patch)
        {
            return Ok(self.held(&target.key));
        }
        // The UID in the body is a precondition: a successor of the same name answers with a conflict.
        patch["metadata"]["uid"] = Value::String(target.uid.clone());
        let api = self.api(&resource(&target), target.key.namespace.as_deref());
        let params =
            PatchParams { field_manager: Some(FieldManager::Operator.as_str().into()), ..PatchParams::default() };
        match self.call("patch", &target.key, api.patch(&target.key.name, &params, &Patch::Merge(&patch))).await {
            Ok(answer) => {
                let answer = serialise(&target.key, &answer)?;
                self.remember(target.key, answer);
                Ok(Effect::Sent)
            }
            Err(Error::Write { source, .. }) if is_code(&source, 404) => Ok(Effect::Unseen),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object by UID and, where one is given, only at that version.
    async fn delete(&self, target: Target, resource_version: Option<String>) -> Result<Effect, Error> {
        if self.memory().deleted.contains_key(&target.uid) {
            return Ok(Effect::Unseen);
        }
        let api = self.api(&resource(&target), target.key.namespace.as_deref());
        // Tables may lag: what is destroyed is looked at once more, live.
        let live = match self.call("get", &target.key, api.get_opt(&target.key.name)).await? {
            Some(live) if live.uid().as_deref() == Some(target.uid.as_str()) => live,
            _ => return Ok(Effect::Unseen),
        };
        let changed = resource_version.is_some() && live.metadata.resource_version != resource_version;
        if changed || live.metadata.deletion_timestamp.is_some() {
            return Ok(Effect::Unseen);
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(target.uid.clone()), resource_version }),
            ..DeleteParams::background()
        };
        match self.call("delete", &target.key, api.delete(&target.key.name, &params)).await {
            Ok(_) => {}
            Err(Error::Write { source, .. }) if is_code(&source, 404) || is_code(&source, 409) => {
                return Ok(Effect::Unseen);
            }
            Err(error) => return Err(error),
        }
        self.memory().deleted.insert(target.uid, Instant::now());
        Ok(Effect::Sent)
    }

    async fn status<K, S>(&self, object: &K, status: &S, settled: bool) -> Result<Wrote, Error>
    where
        K: Resource<DynamicType = ()> + Serialize,
        S: Serialize,
    {
        let key = ObjectKey::of(object);
        let status =
            serde_json::to_value(status).map_err(|source| Error::Serialise { object: key.to_string(), source })?;
        let stored = trouble::without(match self.freshest(&key) {
            Some(live) => live["status"].clone(),
            None => serialise(&key, object)?["status"].clone(),
        });
        if same_status(&stored, &status) {
            self.memory().untold.remove(&key);
            return Ok(Wrote::No);
        }
        let pace = {
            let mut memory = self.memory();
            let written = memory.status.get(&key).map(Instant::elapsed);
            let untold = memory.untold.entry(key.clone()).or_insert_with(Instant::now).elapsed();
            Pace { settled, written, untold }
        };
        if let Some(wait) = pace.wait(&stored, &status) {
            return Ok(Wrote::Later(wait));
        }
        let api = self.api(&ApiResource::erase::<K>(&()), key.namespace.as_deref());
        let body = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            "metadata": { "name": key.name, "namespace": key.namespace, "uid": object.meta().uid },
            "status": status,
        });
        // The Go operator's Shard status has a manager of its own; its name is kept so that a takeover owns those fields.
        let manager = if key.kind == "Shard" { FieldManager::ResourceHandler } else { FieldManager::Operator };
        let params = PatchParams::apply(manager.as_str()).force();
        match self.call("status", &key, api.patch_status(&key.name, &params, &Patch::Apply(&body))).await {
            Ok(answer) => {
                let answer = serialise(&key, &answer)?;
                let mut memory = self.memory();
                memory.status.insert(key.clone(), Instant::now());
                memory.untold.remove(&key);
                memory.answers.insert(key, (Instant::now(), answer));
                Ok(Wrote::Yes)
            }
            // The object went away (or was replaced) during the pass: there is nobody left to tell.
            Err(Error::Write { source, .. }) if is_code(&source, 404) || is_code(&source, 409) => Ok(Wrote::No),
            Err(error) => Err(error),
        }
    }

    /// The freshest version known of an object, and `None` when it does not exist as far as we know.
    fn freshest(&self, key: &ObjectKey) -> Option<Value> {
        let watched = self.stores.live(key);
        let mut memory = self.memory();
        let Some((at, answer)) = memory.answers.get(key) else { return watched };
        let caught_up = if let Some(watched) = &watched {
            version(watched) >= version(answer) || watched["metadata"]["uid"] != answer["metadata"]["uid"]
        } else {
            // What is in no table has not been seen yet, unless its end has.
            let ended = answer["metadata"]["uid"].as_str().is_some_and(|uid| self.stores.ended.has(uid));
            ended || at.elapsed() > TRUST_ANSWER
        };
        if caught_up {
            memory.answers.remove(key);
            return watched;
        }
        Some(answer.clone())
    }

    /// Keeps an answer until the watch has caught up with it.
    fn remember(&self, key: ObjectKey, answer: Value) {
        self.memory().answers.insert(key, (Instant::now(), answer));
    }

    /// The effect of a write that need not be sent: seen by the watch, or known from our own last answer alone.
    fn held(&self, key: &ObjectKey) -> Effect {
        // `freshest` has dropped the answer if the watch has caught up.
        if self.memory().answers.contains_key(key) { Effect::Unseen } else { Effect::Held }
    }

    /// Drops what the watches have shown by now. Called now and then, so that memory follows the number of objects.
    pub fn forget_settled(&self) {
        let mut memory = self.memory();
        memory.deleted.retain(|_, at| at.elapsed() < TRUST_ANSWER);
        memory.answers.retain(|_, (at, _)| at.elapsed() < TRUST_ANSWER);
        self.stores.ended.forget(2 * TRUST_ANSWER);
        memory.status.retain(|_, at| at.elapsed() < pace::STATUS_PACE);
        memory.untold.retain(|_, at| at.elapsed() < 2 * pace::STATUS_PACE);
        let alive: HashSet<ObjectKey> =
            memory.dropped.keys().filter(|key| self.stores.live(key).is_some()).cloned().collect();
        memory.dropped.retain(|key, _| alive.contains(key));
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn api(&self, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        key: &ObjectKey,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        self.call_in(span(verb, key), verb, key, call).await
    }

    async fn call_in<T>(
        &self,
        span: Span,
        verb: &'static str,
        key: &ObjectKey,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        let answer = tokio::time::timeout(CALL_DEADLINE, call).instrument(span.clone()).await;
        let answer = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(source)) => Error::Write { verb, object: key.to_string(), source: Box::new(source) },
            Err(_) => Error::Deadline { what: format!("{verb} {key}"), seconds: CALL_DEADLINE.as_secs() },
        };
        telemetry::fail(&span, || answer.chain());
        Err(answer)
    }
}

/// Makes one topology record true, and says whether anything was sent.
async fn topology(upstream: &Upstream, at: &TopoAddress, write: &TopoWrite) -> Result<bool, upstream::Error> {
    let topology = upstream.topology();
    match write {
        TopoWrite::PutCell(record) => topology.put_cell(at, record).await.map(Written::changed),
        TopoWrite::PutDatabase(record) => topology.put_database(at, record).await.map(Written::changed),
        TopoWrite::DeleteCell(name) => topology.delete_cell(at, name).await,
        TopoWrite::DeleteDatabase(name) => topology.delete_database(at, name).await,
        TopoWrite::DeletePooler(id) => topology.delete_pooler(at, id).await,
        TopoWrite::MarkPooler(id, mark) => match topology.mark_pooler(at, id, mark).await {
            // Whoever removed it was quicker: there is nobody left to mark.
            Err(upstream::Error::NotFound { .. }) => Ok(false),
            answer => answer.map(Written::changed),
        },
        TopoWrite::DeleteRegistration(seen) => topology.delete_registration(at, seen).await,
        TopoWrite::ChangeMember(change) => upstream.members().change(at, change).await,
    }
}

/// What became of an intended write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It was sent.
    Sent,
    /// It is in force, but the watch has not shown it yet: what was observed is older.
    Unseen,
    /// It was in force before, as observed.
    Held,
}

/// Whether a status went out.
enum Wrote {
    Yes,
    No,
    Later(Duration),
}

/// Refuses to write an object that could not be told to be ours afterwards.
fn ensure_ours(object: &Object) -> Result<(), Error> {
    if object.value["metadata"]["labels"][label::MANAGED_BY] == label::MANAGER {
        Ok(())
    } else {
        Err(Error::Unlabelled { object: object.key().to_string(), label: label::MANAGED_BY })
    }
}

fn resource_of(object: &Object) -> ApiResource {
    ApiResource::from_gvk_with_plural(&object.gvk, &object.plural)
}

fn resource(target: &Target) -> ApiResource {
    let group = target.key.group.clone();
    let api_version = if group.is_empty() { target.version.clone() } else { format!("{group}/{}", target.version) };
    ApiResource {
        group,
        version: target.version.clone(),
        api_version,
        kind: target.key.kind.clone(),
        plural: target.plural.clone(),
    }
}

fn serialise<K: Serialize>(key: &ObjectKey, object: &K) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(|source| Error::Serialise { object: key.to_string(), source })
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Resource versions of one kind grow on every server that we support; the API guarantees it since Kubernetes 1.35.
fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether applying a JSON merge patch to `live` would change nothing.
fn holds_patch(live: &Value, patch: &Value) -> bool {
    match (live, patch) {
        (_, Value::Null) => live.is_null(),
        // Removing from what is not there changes nothing either.
        (Value::Null, Value::Object(patch)) => patch.values().all(|v| holds_patch(&Value::Null, v)),
        (Value::Object(live), Value::Object(patch)) => {
            patch.iter().all(|(k, v)| holds_patch(live.get(k).unwrap_or(&Value::Null), v))
        }
        _ => live == patch,
    }
}

#[cfg(test)]
#[path = "execute_tests.rs"]
mod tests;
