//! What a pass knows about a shard: stored objects, references of the user, topology records, answers of poolers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
};

use super::{
    certificate::{self, Certificates},
    config,
    primary::to_ask,
    scope::Scope,
};
use crate::{
    context::Ctx,
    error::Error,
    topo_server::client::Secrets,
    upstream::{self, PoolerId, PoolerRecord, ShardKey, Snapshot, TopoAddress, primary::Seen},
    workload::telemetry::Inherited,
};

/// How long a pooler may take to say how it is.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);
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
    /// The text that `postgresConfigRef` names; none where it names none.
    pub config_reference: Option<Result<String, String>>,
    /// Generated certificates for pgBackRest.
    pub certificates: Certificates,
    /// Where the topology is, with what it takes to write to it.
    pub topology_at: TopoAddress,
    /// Topology records of the shard's poolers.
    pub topology: Snapshot,
    /// Answers of poolers that still count.
    pub statuses: BTreeMap<PoolerId, Seen>,
    /// Telemetry variables of the operator's own process.
    pub inherited: Inherited,
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
    let (password, user_tls, cipher, config_reference, (topology_at, topology)) = tokio::join!(
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
        config_text(ctx, &scope),
        topology(ctx, &scope, now),
    );
    let statuses = ask(ctx, &scope, &topology, now).await;
    let (namespace, cluster) = (scope.namespace, scope.cluster);
    let of_shard = label::selector(&label::of_shard(scope.id(), Component::ShardPool));
    let of_orchestrators = label::selector(&label::of_shard(scope.id(), Component::Multiorch));
    let uid = scope.owner.uid.as_str();
    let certificates = certificate::observe(&scope, &ctx.stores, &ctx.settings.cluster_domain, now)?;
    Ok(Observed {
        pods: ctx.stores.pods.matching(namespace, cluster, &of_shard),
        orchestrator_pods: ctx.stores.pods.matching(namespace, cluster, &of_orchestrators),
        claims: ctx.stores.claims.matching(namespace, cluster, &of_shard),
        deployments: ctx.stores.deployments.controlled_by(namespace, cluster, uid),
        services: ctx.stores.services.controlled_by(namespace, cluster, uid),
        budgets: ctx.stores.budgets.controlled_by(namespace, cluster, uid),
        applied_config: ctx.stores.config_maps.get(namespace, &name::postgres_config(scope.object)),
        password,
        user_tls,
        cipher,
        config_reference,
        certificates,
        topology_at,
        topology,
        statuses,
        inherited: Inherited::of_process(),
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

async fn topology(ctx: &Ctx, scope: &Scope<'_>, now: Timestamp) -> (TopoAddress, Snapshot) {
    let server = &scope.spec().global_topo_server;
    let mut at = TopoAddress::new([&server.address], &server.root_path);
    match Secrets::of_reference(server).read(&ctx.references, scope.namespace).await {
        Ok(None) => {}
        Ok(Some(credentials)) => at = at.with(credentials),
        Err(detail) => {
            let denied = upstream::Error::Denied { target: server.address.clone(), detail };
            let nothing = Snapshot { global: Err(denied), cells: BTreeMap::new(), malformed: Vec::new() };
            let bridged = ctx.primaries.bridge(&scope.owner.uid, nothing, now);
            return (at, bridged);
        }
    }
    let id = scope.id();
    let wanted = upstream::Scope::shard(ShardKey::new(id.database, id.table_group, id.shard));
    let snapshot = ctx.upstream.topology().snapshot(&at, &wanted).await;
    let bridged = ctx.primaries.bridge(&scope.owner.uid, snapshot, now);
    (at, bridged)
}

/// Asks those who claim to be primary whether they are.
async fn ask(ctx: &Ctx, scope: &Scope<'_>, topology: &Snapshot, now: Timestamp) -> BTreeMap<PoolerId, Seen> {
    let uid = &scope.owner.uid;
    let records: Vec<PoolerRecord> = topology.poolers().cloned().collect();
    let known = ctx.primaries.statuses(uid, now);
    let asked =
        to_ask(&records, &known, now, RECENT).into_iter().filter_map(|record| Some((&record.id, record.grpc()?)));
    let calls = asked.map(|(id, address)| async move {
        // A pooler that does not answer keeps its last word until that is too old to count.
        match ctx.upstream.poolers().status(&address, STATUS_DEADLINE).await {
            Ok(status) => {
                tracing::debug!(pooler = %id, ?status, "claim to be primary answered");
                ctx.primaries.answered(uid, id.clone(), status, now);
            }
            Err(error) => tracing::debug!(pooler = %id, error = shared::telemetry::chain(&error), "claim to be primary not answered"),
        }
    });
    join_all(calls).await;
    ctx.primaries.statuses(uid, now)
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
