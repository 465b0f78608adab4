//! What a pass knows about a shard: stored objects, references of the user, topology records, answers of poolers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::ResourceExt as _;
use shared::{
    api::v1alpha1::Shard,
    label::{self, Component},
    name,
    validate::StorageClasses,
};

use super::{
    certificate::{self, Certificates, Served},
    config, container, node,
    primary::to_ask,
    scope::Scope,
    sight,
    stranger::{self, Stranger},
};
use crate::{
    backup,
    cluster::tls::{self, Client, Mounted},
    context::Ctx,
    error::Error,
    topo_server::client::Secrets,
    upstream::{
        self, PoolerAddress, PoolerId, PoolerRecord, ShardKey, Snapshot, Tls, TopoAddress,
        primary::{self, Seen},
    },
    workload::telemetry::Inherited,
};

/// How long a pooler may take to say how it is.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take when all are asked: nobody is taken down on the word of those who hesitate.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// While disruptions are pending, an answer this young is not asked for again.
const ASKED_LATELY: Duration = Duration::from_millis(900);
/// An answer this young is not asked for again: events come in bursts.
pub const RECENT: SignedDuration = SignedDuration::from_secs(4);

/// Everything that `decide` looks at.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The Shard itself.
    pub shard: Arc<Shard>,
    /// Its pool pods, wanted or not.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of its orchestrators.
    pub orchestrator_pods: Vec<Arc<Pod>>,
    /// Its volume claims.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// Deployments that it controls.
    pub deployments: Vec<Arc<Deployment>>,
    /// Services that it controls.
    pub services: Vec<Arc<Service>>,
    /// Disruption budgets that it controls.
    pub budgets: Vec<Arc<PodDisruptionBudget>>,
    /// The PostgreSQL settings as they were last applied.
    pub applied_config: Option<Arc<ConfigMap>>,
    /// The Secret with the superuser's password.
    pub password: Reference,
    /// The user's certificates for pgBackRest, where the spec names some.
    pub user_tls: Option<Reference>,
    /// The keys of an encrypted repository, where the spec names some.
    pub cipher: Option<Reference>,
    /// The Secret with the keys of the bucket, where there is one to look for.
    pub bucket_keys: Option<Reference>,
    /// The text that `postgresConfigRef` names; none where it names none.
    pub config_reference: Option<Result<String, String>>,
    /// Generated certificates for pgBackRest.
    pub certificates: Certificates,
    /// What is known of mutual TLS among the components.
    pub internal_tls: InternalTls,
    /// Where the topology is, with what it takes to write to it.
    pub topology_at: TopoAddress,
    /// Topology records of the shard's poolers.
    pub topology: Snapshot,
    /// Answers of poolers that still count.
    pub statuses: BTreeMap<PoolerId, Seen>,
    /// Why the topology did not answer this time; what is known of it then is from before.
    pub topology_away: Option<&'static str>,
    /// Registered poolers without a pod, and since when.
    pub bodiless: BTreeMap<PoolerId, Timestamp>,
    /// Pods that are ready and in no topology record.
    pub strangers: Vec<Stranger>,
    /// The StorageClasses that there are, as far as that is known.
    pub classes: Option<Arc<StorageClasses>>,
    /// Nodes of pods, as far as somebody asked for them.
    pub nodes: BTreeMap<String, node::Seen>,
    /// Telemetry variables of the operator's own process.
    pub inherited: Inherited,
    /// What is known of its backups.
    pub backups: backup::Sight,
}

/// Mutual TLS among the components, as far as a shard has to do with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InternalTls {
    /// What poolers mount.
    pub poolers: Mounted,
    /// What orchestrators mount.
    pub orchestrators: Mounted,
    /// With what the controller calls them.
    pub client: Option<Client>,
}

impl InternalTls {
    /// Looks at it for a shard with these pods. While it is switched under them, each is called the way that it was made for.
    async fn of(ctx: &Ctx, scope: &Scope<'_>, pods: &[&Arc<Pod>]) -> Self {
        let (stores, references) = (&*ctx.stores, &ctx.references);
        let component = |component| tls::component(stores, references, scope.namespace, scope.cluster, component);
        let mut seen = Self::default();
        if scope.internal_tls() {
            seen.poolers = component(tls::MULTIPOOLER).await;
            seen.orchestrators = component(tls::MULTIORCH).await;
        }
        if scope.internal_tls() || pods.iter().any(|pod| tls::speaks(pod.spec.as_ref())) {
            seen.client = Some(Client::of(stores, references, scope.namespace, scope.cluster).await);
        }
        seen
    }

    /// With what the service of a pod is called; nothing for one that speaks plain text.
    pub fn to(&self, pod: &Pod, component: &str) -> Option<Arc<Tls>> {
        self.client.as_ref().filter(|_| tls::speaks(pod.spec.as_ref())).map(|client| client.to(component))
    }
}

/// What became of looking for an object that the spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// It is there, with every key that is needed.
    Present,
    /// It is not there.
    Absent,
    /// It is there, but this key is missing or empty.
    NoKey(String),
    /// It could not be read, for this category of error.
    Unreadable(&'static str),
}

impl Observed {
    /// All readable topology records of the shard.
    pub fn records(&self) -> Vec<PoolerRecord> {
        self.topology.poolers().cloned().collect()
    }
}

/// Looks at everything, asking what has to be asked. Failures become part of what is observed.
pub async fn observe(shard: &Shard, ctx: &Ctx) -> Result<Observed, Error> {
    let scope = Scope::of(shard)?;
    let now = ctx.clock.now();
    let spec = scope.spec();
    let password = &spec.postgres_password_secret_ref;
    let password_keys = [password.key.as_str()];
    let (password, user_tls, cipher, bucket_keys, config_reference, topology) = tokio::join!(
        secret(ctx, &scope, &password.name, &password_keys),
        async {
            match scope.user_tls_secret() {
                Some(name) => Some(secret(ctx, &scope, name, &["ca.crt", "tls.crt", "tls.key"]).await),
                None => None,
            }
        },
        async {
            match scope.cipher_secret() {
                Some(name) => Some(secret(ctx, &scope, name, &["keys.json"]).await),
                None => None,
            }
        },
        async {
            match scope.bucket_keys() {
                Some(keys) => Some(secret(ctx, &scope, &keys.secret, &container::BUCKET_KEYS).await),
                None => None,
            }
        },
        config_text(ctx, &scope),
        topology(ctx, &scope, now),
    );
    let (topology_at, mut topology, topology_away) = topology;
    let (namespace, cluster) = (scope.namespace, scope.cluster);
    let of_shard = label::selector(&label::of_shard(scope.id(), Component::ShardPool));
    let of_orchestrators = label::selector(&label::of_shard(scope.id(), Component::Multiorch));
    let pods = ctx.stores.pods.matching(namespace, cluster, &of_shard);
    let orchestrator_pods = ctx.stores.pods.matching(namespace, cluster, &of_orchestrators);
    let both: Vec<&Arc<Pod>> = pods.iter().chain(&orchestrator_pods).collect();
    let internal_tls = InternalTls::of(ctx, &scope, &both).await;
    secure(&mut topology, &scope, &pods, &internal_tls);
    let records: Vec<PoolerRecord> = topology.poolers().cloned().collect();
    let uid = scope.owner.uid.as_str();
    let strangers = if topology_away.is_some() {
        Vec::new()
    } else {
        let present = records.iter().map(|record| record.id.clone());
        stranger::find(&topology, &pods, &internal_tls, |absent| ctx.primaries.absences(uid, present, absent, now))
    };
    let statuses = ctx.primaries.statuses(uid, now);
    let told = stranger::told(shard.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default());
    let recent = Duration::try_from(RECENT).unwrap_or_default();
    let named = |stranger: &&Stranger| {
        stranger.is_named(told.is_some(), now) && sight::is_stale(statuses.get(&stranger.id), now, recent)
    };
    let claims = to_ask(&records, &statuses, now, RECENT).into_iter().filter_map(Asked::of);
    let due: Vec<Asked<'_>> = claims.chain(strangers.iter().filter(named).map(Asked::at)).collect();
    ask(ctx, &scope, due, STATUS_DEADLINE, now).await;
    let statuses = ctx.primaries.statuses(uid, now);
    let mut certificates = certificate::observe(&scope, &ctx.stores, &ctx.settings.cluster_domain, now)?;
    if let Some(name) = scope.user_tls_secret() {
        let found = tls::find(&ctx.stores, &ctx.references, namespace, name).await;
        certificates.served = found.ok().flatten().as_ref().and_then(Served::of_user);
    }
    // The node of the primary is the only one that matters while nothing else is going on.
    let primary = primary::confirmed(&records, &statuses, now);
    let primary = pods.iter().filter(|pod| primary.is_some_and(|record| is_record_of(record, pod)));
    let nodes = nodes(ctx, primary).await;
    ctx.backups.located(&scope.owner.uid, &topology_at, &records, now);
    let backups = backup::Sight::of(
        scope.id(),
        ctx.backups.known(&scope.owner.uid),
        ctx.stores.backups.in_namespace(scope.namespace),
    );
    let lost = |record: &&PoolerRecord| !record.is_out() && !pods.iter().any(|pod| is_record_of(record, pod));
    let lost = records.iter().filter(lost).map(|record| record.id.clone()).collect();
    Ok(Observed {
        bodiless: ctx.primaries.bodiless(&scope.owner.uid, lost, now),
        strangers,
        pods,
        topology_at,
        topology_away,
        classes: ctx.stores.storage_classes.get(),
        nodes,
        orchestrator_pods,
        claims: ctx.stores.claims.matching(namespace, cluster, &of_shard),
        deployments: ctx.stores.deployments.controlled_by(namespace, cluster, uid),
        services: ctx.stores.services.controlled_by(namespace, cluster, uid),
        budgets: ctx.stores.budgets.controlled_by(namespace, cluster, uid),
        applied_config: ctx.stores.config_maps.get(namespace, &name::postgres_config(scope.object)),
        password,
        user_tls,
        cipher,
        bucket_keys,
        config_reference,
        certificates,
        internal_tls,
        topology,
        statuses,
        inherited: Inherited::of_process(),
        backups,
        shard: Arc::new(shard.clone()),
    })
}

/// Looks for a Secret: among our own first, because those are watched, then live.
async fn secret(ctx: &Ctx, scope: &Scope<'_>, name: &str, keys: &[&str]) -> Reference {
    let missing = |holds: &dyn Fn(&str) -> bool| {
        keys.iter().find(|key| !holds(key)).map_or(Reference::Present, |key| Reference::NoKey((*key).to_owned()))
    };
    if let Some(own) = ctx.stores.secrets.get(scope.namespace, name) {
        return missing(&|key| {
            own.data.as_ref().and_then(|data| data.get(key)).is_some_and(|value| !value.0.is_empty())
        });
    }
    match ctx.references.secret(scope.namespace, name).await {
        Ok(Some(found)) => missing(&|key| found.data.get(key).is_some_and(|value| !value.is_empty())),
        Ok(None) => Reference::Absent,
        Err(error) => Reference::Unreadable(error.category()),
    }
}

/// Reads the settings that `postgresConfigRef` names. What is wrong with it is told in words for the status.
async fn config_text(ctx: &Ctx, scope: &Scope<'_>) -> Option<Result<String, String>> {
    let reference = scope.spec().postgres_config_ref.as_ref()?;
    let (name, key) = (&reference.name, &reference.key);
    Some(match ctx.references.config_map(scope.namespace, name).await {
        Ok(Some(found)) => match found.data.get(key).map(|bytes| String::from_utf8(bytes.clone())) {
            Some(Ok(text)) => Ok(text),
            Some(Err(_)) => Err(format!("ConfigMap {name} key {key} is not UTF-8")),
            None => Err(format!("ConfigMap {name} has no key {key}")),
        },
        Ok(None) => Err(format!("ConfigMap {name} does not exist")),
        Err(error) => Err(format!("ConfigMap {name} cannot be read ({})", error.category())),
    })
}

/// Where the records are, what they say, and why they are not from this moment if they are not.
async fn topology(ctx: &Ctx, scope: &Scope<'_>, now: Timestamp) -> (TopoAddress, Snapshot, Option<&'static str>) {
    let server = &scope.spec().global_topo_server;
    let mut at = TopoAddress::new([&server.address], &server.root_path);
    match Secrets::of_reference(server).read(&ctx.references, scope.namespace).await {
        Ok(None) => {}
        Ok(Some(credentials)) => at = at.with(credentials),
        Err(detail) => {
            let denied = upstream::Error::Denied { target: server.address.clone(), detail };
            let away = denied.reason();
            let nothing = Snapshot { global: Err(denied), cells: BTreeMap::new(), malformed: Vec::new() };
            let bridged = ctx.primaries.bridge(&scope.owner.uid, nothing, now);
            return (at, bridged, Some(away));
        }
    }
    let id = scope.id();
    let wanted = upstream::Scope::shard(ShardKey::new(id.database, id.table_group, id.shard));
    let snapshot = ctx.upstream.topology().snapshot(&at, &wanted).await;
    let cells = snapshot.cells.values().filter_map(|cell| cell.as_ref().err());
    let away = snapshot.global.as_ref().err().or(cells.into_iter().next()).map(upstream::Error::reason);
    let bridged = ctx.primaries.bridge(&scope.owner.uid, snapshot, now);
    (at, bridged, away)
}

/// Notes with each pooler how it is called: as its pod was made for, or, without a pod, as its shard asks for.
pub(super) fn secure(topology: &mut Snapshot, scope: &Scope<'_>, pods: &[Arc<Pod>], seen: &InternalTls) {
    let records = topology.cells.values_mut().filter_map(|cell| cell.as_mut().ok()).flatten();
    for record in records {
        record.tls = match pods.iter().find(|pod| is_record_of(record, pod)) {
            Some(pod) => seen.to(pod, tls::MULTIPOOLER),
            None => seen.client.as_ref().filter(|_| scope.internal_tls()).map(|client| client.to(tls::MULTIPOOLER)),
        };
    }
}

/// A pooler that is to be asked how it is.
struct Asked<'a> {
    id: &'a PoolerId,
    address: PoolerAddress,
}

impl<'a> Asked<'a> {
    /// One that has registered; none for a record without an address.
    fn of(record: &'a PoolerRecord) -> Option<Self> {
        Some(Self { id: &record.id, address: record.grpc()? })
    }

    /// One in a pod that is in no record.
    fn at(stranger: &'a Stranger) -> Self {
        Self { id: &stranger.id, address: stranger.address.clone() }
    }
}

/// Asks poolers how they are, all at once. One that does not answer keeps its last word until that is too old to count.
async fn ask(ctx: &Ctx, scope: &Scope<'_>, poolers: Vec<Asked<'_>>, deadline: Duration, now: Timestamp) {
    let uid = &scope.owner.uid;
    let calls = poolers.into_iter().map(|Asked { id, address }| async move {
        match ctx.upstream.poolers().status(&address, deadline).await {
            Ok(status) => {
                tracing::debug!(pooler = %id, ?status, "pooler answered");
                ctx.primaries.answered(uid, id.clone(), status, now);
            }
            Err(error) => {
                tracing::debug!(pooler = %id, error = shared::telemetry::chain(&error), "pooler did not answer");
            }
        }
    });
    join_all(calls).await;
}

/// Looks closer, because somebody may be about to be taken down: asks all poolers, and for the nodes of all pods.
pub async fn look_closer(observed: &mut Observed, ctx: &Ctx) -> Result<(), Error> {
    let shard = Arc::clone(&observed.shard);
    let scope = Scope::of(&shard)?;
    let now = ctx.clock.now();
    let records = observed.records();
    // A record may outlive its pod, and nobody answers for it then.
    let has_pod = |record: &PoolerRecord| observed.pods.iter().any(|pod| is_record_of(record, pod));
    let due = |record: &&PoolerRecord| {
        !record.is_out() && has_pod(record) && sight::is_stale(observed.statuses.get(&record.id), now, ASKED_LATELY)
    };
    // A pooler in no record is asked again as soon as it was named.
    let named = |stranger: &&Stranger| {
        observed.statuses.get(&stranger.id).is_some_and(|seen| sight::is_stale(Some(seen), now, ASKED_LATELY))
    };
    let due = records.iter().filter(due).filter_map(Asked::of);
    let due: Vec<Asked<'_>> = due.chain(observed.strangers.iter().filter(named).map(Asked::at)).collect();
    let (nodes, ()) = tokio::join!(nodes(ctx, &observed.pods), ask(ctx, &scope, due, CLOSE_DEADLINE, now));
    observed.statuses = ctx.primaries.statuses(&scope.owner.uid, now);
    observed.nodes = nodes;
    Ok(())
}

/// What is known of the nodes of pods. A node that cannot be read is no reason to do anything.
async fn nodes<'a>(ctx: &Ctx, pods: impl IntoIterator<Item = &'a Arc<Pod>>) -> BTreeMap<String, node::Seen> {
    let names: BTreeSet<String> = pods
        .into_iter()
        .filter_map(|pod| pod.spec.as_ref()?.node_name.clone())
        .filter(|name| !name.is_empty())
        .collect();
    let asked = names.into_iter().map(|name| async move {
        match ctx.references.node(&name).await {
            Ok(found) => found.map(|seen| (name, seen)),
            Err(error) => {
                tracing::debug!(node = name, error = error.chain(), "node not read");
                None
            }
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn is_record_of(record: &PoolerRecord, pod: &Pod) -> bool {
    let name = pod.name_any();
    record.id.name == name::pooler_service_id(&name) || record.is_of_pod(&name)
}

/// The text of the settings as they were last applied.
pub fn applied_text(observed: &Observed) -> Option<&str> {
    observed.applied_config.as_ref()?.data.as_ref()?.get(config::POSTGRES_KEY).map(String::as_str)
}

/// Whether somebody has asked for the removal of an object.
pub fn is_deleting<K: kube::Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// Objects by name.
pub fn by_name<K: kube::Resource>(objects: &[Arc<K>]) -> BTreeMap<String, &K> {
    objects.iter().map(|object| (object.name_any(), object.as_ref())).collect()
}
