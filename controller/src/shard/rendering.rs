//! The renderings of a shard: the description of the pods of each pool in each cell, and the settings that `PostgreSQL` runs with.
//!
//! They stay in force until what the user wants of them changes (see `workload::revision`), so that a pod that is added or replaced
//! is like its siblings. They are kept packed in the `ConfigMap` with the settings, which is written anyway: one write makes
//! settings and pods change together, and a `ControllerRevision` would add one for every shard. Entries that nobody needs any more
//! disappear with the next write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Pod, PodSpec},
};
use kube::ResourceExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    annotation,
    api::v1alpha1::{PoolSpec, ShardImages},
    label, name,
    pgconfig::{self, Critical, Rendered},
};

use super::{
    config,
    decide::Lost,
    observe::{Observed, applied_text},
    pod,
    scope::{Member, PoolInCell, Scope},
};
use crate::{
    error::Error,
    settings::Settings,
    workload::revision::{self, Adoption},
};

/// Key of the packed renderings. Pods mount the settings alone.
const KEY: &str = "renderings";
/// Stands for the name of a pod in a description that serves all pods of a pool. No name can contain it.
const ANY_POD: &str = "__ANY_POD__";

/// What the shard's pods are made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Renderings {
    /// The settings; none if what the spec refers to cannot be read and never could.
    pub config: Option<Rendered>,
    /// What the last primary had, or the first one is to have, of what a standby must not have lower.
    pub floor: Critical,
    /// Settings that stay higher than the spec asks for, by name.
    pub held: BTreeMap<String, u64>,
    /// By pool and cell, with [`ANY_POD`] for the name.
    pods: BTreeMap<String, Pinned>,
    /// What is wanted of the settings.
    settings_intent: Option<String>,
    adoption: Adoption,
    /// How they are stored.
    pub packed: Packed,
}

/// What is to become of a running pod that another operator has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// It was not: it is compared with its description.
    No,
    /// It stays as it is, because its user wants nothing else than when it was taken over.
    Stays,
    /// It stays as it is, and carries from now on what its user wants.
    Remember(String),
}

/// Renderings as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Of the content.
    digest: String,
    bytes: Vec<u8>,
}

impl Packed {
    /// Adds the renderings to the `ConfigMap` that keeps them.
    pub fn keep_in(&self, map: &mut ConfigMap) {
        let bytes = ByteString(self.bytes.clone());
        map.binary_data.get_or_insert_default().insert(KEY.to_owned(), bytes);
        let annotations = map.metadata.annotations.get_or_insert_default();
        annotations.insert(annotation::RENDERING.to_owned(), revision::seal(&self.digest, &self.bytes));
    }

    fn of(map: &ConfigMap) -> Option<Self> {
        let bytes = &map.binary_data.as_ref()?.get(KEY)?.0;
        let digest = revision::sealed(map.annotations().get(annotation::RENDERING)?, bytes)?;
        Some(Self { digest: digest.to_owned(), bytes: bytes.clone() })
    }
}

/// One rendering with the intent behind it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Pinned {
    intent: String,
    rendering: Value,
}

impl Pinned {
    /// As JSON. What is JSON already is copied: to serialise it would make it anew member by member, in every pass.
    fn value(&self) -> Value {
        [("intent", Value::from(self.intent.as_str())), ("rendering", self.rendering.clone())].into_iter().collect()
    }
}

/// Everything that is stored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Content {
    config: Option<Pinned>,
    pods: BTreeMap<String, Pinned>,
}

impl Renderings {
    /// The renderings in force: of each the stored one if its intent is the same, else the one of today.
    ///
    /// Settings that a standby must not have lower than its primary do not go below `floor`. That is no part of what is stored, so that it
    /// ends with its cause. Of pools and cells that left the spec those stay that a pod, or a `lost` primary, was made from.
    pub fn of(
        scope: &Scope<'_>,
        observed: &Observed,
        settings: &Settings,
        floor: Option<&Critical>,
        lost: Option<&Lost<'_>>,
    ) -> Result<Self, Error> {
        let adoption = Adoption::of(&scope.shard.metadata);
        let (config, readable) = match &observed.config_reference {
            None => (Some(config::render(scope, None)), true),
            Some(Ok(text)) => (Some(config::render(scope, Some(text))), true),
            // What cannot be read today stays as it was applied last.
            Some(Err(_)) => (applied_text(observed).map(config::reread), false),
        };
        let fresh = |rendered: &Rendered| Pinned {
            intent: config_intent(scope, observed),
            rendering: Value::String(rendered.text.clone()),
        };
        let mut content = Content { config: config.as_ref().map(fresh), pods: BTreeMap::new() };
        let (asked, connections) = (pool_size(config.as_ref(), None), pool_size(config.as_ref(), floor));
        for pool in scope.pools() {
            let member = Member { pool, pod: ANY_POD.to_owned(), index: 0 };
            let spec = pod::spec(scope, settings, &member, &observed.inherited, connections);
            let pinned = Pinned { intent: pod_intent(scope, pool, asked), rendering: revision::value(&spec)? };
            content.pods.insert(key(pool), pinned);
        }
        let stored = observed.applied_config.as_deref().and_then(Packed::of);
        let mut value = content.value();
        let mut digest = revision::digest(&value);
        let same = stored.as_ref().is_some_and(|stored| stored.digest == digest);
        let left = left_over(scope, observed, lost);
        if (!same && adoption != Adoption::Immediate || !left.is_empty())
            && let Some(before) =
                stored.as_ref().and_then(|stored| revision::unpack::<Content>(&stored.bytes, &stored.digest))
        {
            let still = |(key, _): &(&String, &Pinned)| left.contains(*key);
            content.pods.extend(before.pods.iter().filter(still).map(|(key, pinned)| (key.clone(), pinned.clone())));
            if adoption != Adoption::Immediate {
                content.keep(before, readable, adoption);
            }
            value = content.value();
            digest = revision::digest(&value);
        }
        let config = match &content.config {
            Some(Pinned { rendering: Value::String(text), .. }) if readable => {
                config.map(|today| if today.text == *text { today } else { config::reread(text) })
            }
            _ => config,
        };
        // Packing again could give other bytes for the same content.
        let packed = match stored.filter(|stored| stored.digest == digest) {
            Some(stored) => stored,
            None => Packed { bytes: revision::pack(&value), digest },
        };
        let settings_intent = content.config.map(|pinned| pinned.intent);
        let held = config.as_ref().zip(floor).map(|(config, floor)| config.critical().below(floor)).unwrap_or_default();
        let config = config.map(|config| match floor {
            Some(floor) => config.hold(floor),
            None => config,
        });
        let floor = floor.cloned().or_else(|| config.as_ref().map(Rendered::critical)).unwrap_or_default();
        Ok(Self { config, floor, held, pods: content.pods, settings_intent, adoption, packed })
    }

    /// Whether a running pod of a pool is another operator's and left alone. A takeover restarts nothing by itself.
    pub fn foreign(&self, pool: PoolInCell<'_>, running: &Pod) -> Foreign {
        if self.adoption == Adoption::Immediate || !pod::is_foreign(running) {
            return Foreign::No;
        }
        let of_pods = self.pods.get(&key(pool)).map(|pinned| &pinned.intent);
        let today = revision::intent(&json!([of_pods, self.settings_intent]));
        match running.annotations().get(annotation::ADOPTED_INTENT) {
            Some(adopted) if *adopted == today || self.adoption == Adoption::Paused => Foreign::Stays,
            Some(_) => Foreign::No,
            None => Foreign::Remember(today),
        }
    }

    /// Whether the description of a pool's pods in a cell is known.
    pub fn knows(&self, pool: PoolInCell<'_>) -> bool {
        self.pods.contains_key(&key(pool))
    }

    /// The description of one pod.
    pub fn pod(&self, member: &Member<'_>) -> Result<PodSpec, Error> {
        let rendering = self.pods.get(&key(member.pool)).map_or(&Value::Null, |pinned| &pinned.rendering);
        let failed = |source| Error::Serialise { object: format!("Pod {}", member.pod), source };
        let text = serde_json::to_string(rendering)
            .map_err(failed)?
            .replace(ANY_POD, &member.pod)
            .replace(&name::pooler_service_id(ANY_POD), &name::pooler_service_id(&member.pod));
        serde_json::from_str(&text).map_err(failed)
    }
}

impl Content {
    /// As JSON.
    fn value(&self) -> Value {
        let config = self.config.as_ref().map_or(Value::Null, Pinned::value);
        let pods: Value = self.pods.iter().map(|(key, pinned)| (key.as_str(), pinned.value())).collect();
        [("config", config), ("pods", pods)].into_iter().collect()
    }

    /// Goes back to what is stored wherever the intent is the same, or new renderings wait.
    fn keep(&mut self, before: Self, readable: bool, adoption: Adoption) {
        let paused = adoption == Adoption::Paused;
        if let (Some(today), Some(stored)) = (&mut self.config, before.config)
            && (today.intent == stored.intent || !readable || paused)
        {
            *today = stored;
        }
        for (key, stored) in before.pods {
            if let Some(today) = self.pods.get_mut(&key)
                && (today.intent == stored.intent || paused)
            {
                *today = stored;
            }
        }
    }
}

/// Pools and cells that are not in the spec any more, and of which something is still there.
fn left_over(scope: &Scope<'_>, observed: &Observed, lost: Option<&Lost<'_>>) -> BTreeSet<String> {
    let wanted: BTreeSet<String> = scope.pools().into_iter().map(key).collect();
    let of_pod =
        |pod: &Arc<Pod>| Some(format!("{}/{}", pod.labels().get(label::POOL)?, pod.labels().get(label::CELL)?));
    let there = observed.pods.iter().filter_map(of_pod).chain(lost.map(|lost| key(lost.member.pool)));
    there.filter(|key| !wanted.contains(key)).collect()
}

fn key(pool: PoolInCell<'_>) -> String {
    format!("{}/{}", pool.id.pool, pool.id.cell)
}

/// How many connections poolers keep to servers that are started with these settings, and with nothing lower than in `floor`.
fn pool_size(config: Option<&Rendered>, floor: Option<&Critical>) -> u64 {
    let size = |config: &Rendered| {
        let own = config.critical();
        let in_force = match floor {
            Some(floor) => own.max(floor),
            None => own,
        };
        Some(pgconfig::pool_size(in_force.max_connections()?, &config.restart))
    };
    // Without settings no pod is made.
    config.and_then(size).unwrap_or(pgconfig::USUAL_POOL)
}

/// What the user wants of the settings.
fn config_intent(scope: &Scope<'_>, observed: &Observed) -> String {
    let spec = scope.spec();
    let size = |pool: &PoolSpec| {
        let resources = pool.postgres.as_ref().and_then(|container| container.resources.as_ref());
        json!({ "resources": resources, "storage": pool.storage.as_ref().and_then(|storage| storage.size.as_ref()) })
    };
    let sizes: BTreeMap<&String, Value> = spec.pools.iter().map(|(name, pool)| (name, size(pool))).collect();
    revision::intent(&json!({
        "reference": observed.config_reference.as_ref().and_then(|text| text.as_ref().ok()),
        "settings": spec.postgres_config,
        "pools": sizes,
        "initdbArgs": spec.initdb_args,
    }))
}

/// What the user wants of the pods of a pool in a cell, which keep so many `connections`. How many there are, and how large their volumes
/// are, is not part of it.
fn pod_intent(scope: &Scope<'_>, pool: PoolInCell<'_>, connections: u64) -> String {
    let spec = scope.spec();
    let images = ShardImages { multiorch: String::new(), ..spec.images.clone() };
    let described = PoolSpec {
        cells: Vec::new(),
        replicas_per_cell: None,
        storage: None,
        pvc_deletion_policy: None,
        r#type: None,
        ..pool.spec.clone()
    };
    let levels = spec.log_levels.as_ref();
    let backup = scope.backup().map(|backup| {
        let mut wanted = json!({
            "type": backup.r#type,
            "path": scope.backup_volume().map(|_| scope.backup_path()),
            "scope": scope.backup_volume(),
            "region": scope.s3().map(|s3| &s3.region),
            "credentials": scope.s3().and_then(|s3| s3.credentials_secret.as_ref()),
            "account": scope.s3().and_then(|s3| s3.service_account_name.as_ref()),
            "certificates": scope.user_tls_secret(),
            "cipher": scope.cipher_secret(),
        });
        // Pods of shards from before there were scopes stay as they are: they were made without these keys.
        let keys = scope.bucket_keys().filter(|keys| keys.optional);
        if keys.is_some() && scope.s3().is_some_and(|s3| s3.key_prefix_scope.is_some()) {
            wanted["environment"] = json!(keys.map(|keys| keys.secret));
        }
        wanted
    });
    let mut wanted = json!({
        "images": images,
        "pool": described,
        "nodes": scope.node_selector(pool.id.cell),
        "topology": spec.global_topo_server,
        "initdbArgs": spec.initdb_args,
        "backup": backup,
        "internalTLS": scope.internal_tls(),
        "observability": spec.observability,
        "logLevels": [levels.and_then(|levels| levels.pgctld), levels.and_then(|levels| levels.multipooler)],
        "superuser": spec.postgres_superuser,
        "password": spec.postgres_password_secret_ref,
        "project": scope.project(),
    });
    // Where nobody gives the server more or fewer connections, pods from before this counted stay as they are.
    if connections != pgconfig::USUAL_POOL {
        wanted["connections"] = json!(connections);
    }
    revision::intent(&wanted)
}
