//! What a cluster's user wants of each child, and which spec the child gets: a fresh one when that has changed, else the pinned one.
//!
//! Three things go into the spec of a child. What the cluster itself says takes effect at once. What templates say comes with the
//! wave of the template's edit (see `wave`). What the operator fills in, its defaults and its settings, comes with the next change of
//! the other two, or at once where the cluster asks for it: an upgraded operator changes nothing by itself (see
//! `workload::revision`).

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use shared::{
    api::v1alpha1::{CellSpec, DatabaseConfig, TableGroupSpec, TemplateDefaults},
    field_path::At,
    resolve::{self, DEFAULT_TEMPLATE, GlobalTopo, ResolvedCluster, Source, TemplateKind},
};

use super::{
    Observed, repository,
    wave::{self, Turn},
};
use crate::{
    error::Error,
    settings::Settings,
    workload::revision::{self, Adoption},
};

/// What is wanted of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Digest of what the cluster itself says, the names of its templates included.
    pub own: String,
    /// Digest of each template that applies, by `Kind/name`; empty where there is no template of that name.
    pub templates: BTreeMap<String, String>,
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.own)?;
        self.templates.iter().try_for_each(|(name, digest)| write!(f, " {name}={digest}"))
    }
}

impl Intent {
    /// Reads what a child carries.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let own = words.next().filter(|own| !own.is_empty())?.to_owned();
        let templates = words.filter_map(|word| word.split_once('='));
        Some(Self { own, templates: templates.map(|(name, digest)| (name.to_owned(), digest.to_owned())).collect() })
    }

    /// Whether only templates have changed since `before`.
    fn follows_templates_alone(&self, before: &Self) -> bool {
        self.own == before.own && self.templates != before.templates
    }
}

/// A cluster whose children have the specs that they should have now.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The specs.
    pub resolved: ResolvedCluster,
    /// Annotations of the TopoServer.
    pub topo: Annotations,
    /// Annotations of the Cells, by cell.
    pub cells: BTreeMap<String, Annotations>,
    /// Annotations of the TableGroups, by database and name.
    pub table_groups: BTreeMap<(String, String), Annotations>,
    /// Whether something waits for the wave, and for whom.
    pub pending: Option<Turn>,
    /// Backup repositories that stay as they are although the cluster asks for others.
    pub repositories: Vec<repository::Held>,
    adoption: Adoption,
}

/// Annotations of an object.
pub type Annotations = BTreeMap<String, String>;

/// A Deployment of the cluster itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// multiadmin.
    Admin,
    /// Its web page.
    Web,
}

impl Settled {
    /// Decides which specs the children get. Pure.
    pub fn of(observed: &Observed, resolved: &ResolvedCluster, settings: &Settings) -> Result<Self, Error> {
        let adoption = observed.adopted.adoption();
        let turn = wave::turn(&observed.owner.name, &observed.peers, settings.template_wave);
        let held = turn != Turn::Go && !changed_templates(observed, resolved)?.is_empty();
        let (specs, repositories) = repository::settle(observed, resolved);
        let mut settled = Self {
            resolved: specs,
            topo: Annotations::new(),
            cells: BTreeMap::new(),
            table_groups: BTreeMap::new(),
            pending: held.then_some(turn),
            repositories,
            adoption,
        };
        let told: Annotations = adoption.told().into_iter().collect();
        // A pause holds back what restarts pods. What the children are told goes on: much of it restarts none.
        let adoption = if adoption == Adoption::Paused { Adoption::Lazy } else { adoption };
        if let GlobalTopo::Managed(spec) = &mut settled.resolved.global_topo {
            let live = observed.global_topo().map(|live| &live.metadata);
            settled.topo = place(spec, live, &Child::Topo.intent(observed, resolved)?, held, adoption)?;
            settled.topo.extend(told.clone());
        }
        for spec in &mut settled.resolved.cells {
            let names = std::mem::take(&mut spec.all_cells);
            let live = observed.cell(&spec.name).map(|live| &live.metadata);
            let mut annotations =
                place(spec, live, &Child::Cell(&spec.name).intent(observed, resolved)?, held, adoption)?;
            // A new neighbour is no change of the cell.
            spec.all_cells = names;
            annotations.extend(told.clone());
            settled.cells.insert(spec.name.clone(), annotations);
        }
        for spec in settled.resolved.databases.iter_mut().flat_map(|database| &mut database.table_groups) {
            let (database, group) = (spec.database_name.clone(), spec.table_group_name.clone());
            let live = observed.table_group(&database, &group).map(|live| &live.metadata);
            let mut annotations =
                place(spec, live, &Child::TableGroup(&database, &group).intent(observed, resolved)?, held, adoption)?;
            annotations.extend(told.clone());
            settled.table_groups.insert((database, group), annotations);
        }
        Ok(settled)
    }

    /// A Deployment of the cluster itself as it should be now.
    pub fn deployment(&self, observed: &Observed, part: Part, mut fresh: Deployment) -> Result<Deployment, Error> {
        let intent = Child::Part(part).intent(observed, &self.resolved)?;
        let live = part.live(observed);
        let kept = live.filter(|_| self.pending.is_some()).and_then(|live| {
            let text = held_intent::<k8s_openapi::api::core::v1::PodTemplateSpec>(&live.metadata, &intent)?;
            Some((live, text))
        });
        let Some((live, text)) = kept else {
            return revision::deployment(fresh, live, &intent.to_string(), self.adoption);
        };
        // The number of replicas is the template's, too, unless the cluster names one.
        let inherited = own(observed, &self.resolved).provenance.source(&format!("{}.replicas", part.field()));
        if inherited.is_none_or(|source| *source == Source::BuiltIn)
            && let (Some(spec), Some(before)) = (fresh.spec.as_mut(), live.spec.as_ref())
        {
            spec.replicas = before.replicas;
        }
        let adoption = if self.adoption == Adoption::Paused { Adoption::Paused } else { Adoption::Lazy };
        revision::deployment(fresh, Some(live), &text, adoption)
    }
}

impl Part {
    /// The Deployment that runs.
    pub fn live(self, observed: &Observed) -> Option<&Deployment> {
        match self {
            Self::Admin => observed.admin.as_deref(),
            Self::Web => observed.web.as_deref(),
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::Admin => "multiadmin",
            Self::Web => "multiadminWeb",
        }
    }
}

/// Puts the spec that a child should have now in the place of the fresh one, and returns the annotations that pin it.
fn place<T>(
    spec: &mut T,
    live: Option<&ObjectMeta>,
    intent: &Intent,
    held: bool,
    adoption: Adoption,
) -> Result<Annotations, Error>
where
    T: Serialize + DeserializeOwned + Default,
{
    let kept = live.filter(|_| held).and_then(|live| held_intent::<T>(live, intent));
    let adoption = if kept.is_some() { Adoption::Lazy } else { adoption };
    let intent = kept.unwrap_or_else(|| intent.to_string());
    let pinned = revision::pin(live, &intent, adoption, std::mem::take(spec))?;
    *spec = pinned.rendering;
    Ok(pinned.annotations)
}

/// The intent of a child that waits for the wave: the one that it has.
fn held_intent<T: DeserializeOwned>(live: &ObjectMeta, today: &Intent) -> Option<String> {
    let text = revision::intent_of(live)?;
    let before = Intent::parse(text)?;
    (today.follows_templates_alone(&before) && revision::is_pinned::<T>(live)).then(|| text.to_owned())
}

/// The templates of which some child has another version than the current one, with the digests of that. Children whose cluster has
/// changed what it says itself do not count: they get the current version at once.
pub fn changed_templates(observed: &Observed, resolved: &ResolvedCluster) -> Result<BTreeMap<String, String>, Error> {
    let mut changed = BTreeMap::new();
    let mut compare = |live: Option<&ObjectMeta>, child: Child<'_>| -> Result<(), Error> {
        let Some(before) = live.and_then(revision::intent_of).and_then(Intent::parse) else { return Ok(()) };
        // In nearly every pass the templates are as they were, which takes far less to see than what the cluster itself says.
        if child.templates(observed, resolved).digests == before.templates {
            return Ok(());
        }
        let today = child.intent(observed, resolved)?;
        if today.follows_templates_alone(&before) {
            let differs = |(name, digest): &(String, String)| before.templates.get(name) != Some(digest);
            changed.extend(today.templates.into_iter().filter(differs));
        }
        Ok(())
    };
    if resolved.managed_topo().is_some() {
        compare(observed.global_topo().map(|live| &live.metadata), Child::Topo)?;
    }
    for spec in &resolved.cells {
        compare(observed.cell(&spec.name).map(|live| &live.metadata), Child::Cell(&spec.name))?;
    }
    for spec in resolved.table_groups() {
        let (database, group) = (&spec.database_name, &spec.table_group_name);
        let live = observed.table_group(database, group).map(|live| &live.metadata);
        compare(live, Child::TableGroup(database, group))?;
    }
    for part in [Part::Admin, Part::Web] {
        compare(part.live(observed).map(|live| &live.metadata), Child::Part(part))?;
    }
    Ok(changed)
}

/// Something of which a user wants something: a child, or a Deployment of the cluster itself.
#[derive(Clone, Copy)]
enum Child<'a> {
    /// The TopoServer of the cluster.
    Topo,
    /// The Cell of this name.
    Cell(&'a str),
    /// The TableGroup of this database and name.
    TableGroup(&'a str, &'a str),
    /// A Deployment.
    Part(Part),
}

/// The templates that apply to a child.
struct Applied {
    /// Each as `Kind/name`.
    names: Vec<String>,
    /// What they say, by name.
    digests: BTreeMap<String, String>,
}

impl Child<'_> {
    /// What is wanted of it now.
    fn intent(self, observed: &Observed, resolved: &ResolvedCluster) -> Result<Intent, Error> {
        let content = match self {
            Self::Topo => topo(observed, resolved)?,
            Self::Cell(name) => cell(observed, resolved, name)?,
            Self::TableGroup(database, group) => table_group(observed, resolved, database, group)?,
            Self::Part(part) => deployment(observed, resolved, part)?,
        };
        let Applied { names, digests } = self.templates(observed, resolved);
        let said: Value = [("content", content), ("templates", Value::from(names))].into_iter().collect();
        Ok(Intent { own: revision::intent(&said), templates: digests })
    }

    /// The templates that apply to it, and what they say now.
    fn templates(self, observed: &Observed, resolved: &ResolvedCluster) -> Applied {
        let spec = &observed.cluster.spec;
        let defaults = spec.template_defaults.as_ref();
        let name = |kind: TemplateKind, reference: Option<&str>| template(kind, reference, defaults);
        let of_topo = || {
            let reference = spec.global_topo_server.as_ref().and_then(|topo| topo.template_ref.as_deref());
            name(TemplateKind::CoreTemplate, reference)
        };
        let names = match self {
            Self::Topo => vec![of_topo()],
            Self::Cell(cell) => {
                let config = spec.cells.iter().find(|config| config.name == cell);
                vec![name(TemplateKind::CellTemplate, config.and_then(|config| config.cell_template.as_deref()))]
            }
            Self::TableGroup(database, group) => {
                let config = spec.databases.iter().find(|config| config.name == database);
                let references = config.map(|config| shards(config, group));
                let references = references.filter(|references| !references.is_empty()).unwrap_or_else(|| vec![None]);
                references.iter().map(|reference| name(TemplateKind::ShardTemplate, reference.as_deref())).collect()
            }
            Self::Part(Part::Admin) => {
                let reference = spec.multiadmin.as_ref().and_then(|config| config.template_ref.as_deref());
                vec![name(TemplateKind::CoreTemplate, reference)]
            }
            Self::Part(Part::Web) => {
                let reference = spec.multiadmin_web.as_ref().and_then(|config| config.template_ref.as_deref());
                vec![name(TemplateKind::CoreTemplate, reference)]
            }
        };
        let known = |name: String| {
            let digest = observed.templates.get(&name).cloned().unwrap_or_default();
            (name, digest)
        };
        let mut digests: BTreeMap<String, String> = names.iter().cloned().map(known).collect();
        // One that talks to the managed global topology takes the root of its keys from that server's template, and nothing else of it.
        if self.is_in_topology() && resolved.managed_topo().is_some() {
            digests.extend([known(root_of(&of_topo()))]);
        }
        Applied { names, digests }
    }

    /// Whether it talks to the global topology.
    fn is_in_topology(self) -> bool {
        matches!(self, Self::Cell(_) | Self::TableGroup(..) | Self::Part(Part::Admin))
    }
}

/// What the cluster says without its templates; where that alone makes no sense, what it says with them.
fn own<'a>(observed: &'a Observed, resolved: &'a ResolvedCluster) -> &'a ResolvedCluster {
    observed.own.as_deref().unwrap_or(resolved)
}

fn topo(observed: &Observed, resolved: &ResolvedCluster) -> Result<Value, Error> {
    let said = own(observed, resolved);
    bare(&said.managed_topo(), "globalTopoServer", said)
}

fn cell(observed: &Observed, resolved: &ResolvedCluster, name: &str) -> Result<Value, Error> {
    let said = own(observed, resolved);
    let spec = said.cells.iter().find(|cell| cell.name == name);
    let spec = spec.map(|spec| CellSpec { all_cells: Vec::new(), ..spec.clone() });
    bare(&spec, &format!("cells[{name}]"), said)
}

fn table_group(observed: &Observed, resolved: &ResolvedCluster, database: &str, group: &str) -> Result<Value, Error> {
    let said = own(observed, resolved);
    let is = |spec: &&TableGroupSpec| spec.database_name == database && spec.table_group_name == group;
    bare(&said.table_groups().find(is), &format!("databases[{database}].tablegroups[{group}]"), said)
}

/// The template that each shard of a table group names.
fn shards(database: &DatabaseConfig, group: &str) -> Vec<Option<String>> {
    // What is wrong with them is reported where the cluster is resolved.
    let groups = resolve::table_groups(database, &At::Root(""), &mut Vec::new());
    let group = groups.iter().find(|config| config.name == group);
    group.into_iter().flat_map(|group| &group.shards).map(|shard| shard.shard_template.clone()).collect()
}

fn deployment(observed: &Observed, resolved: &ResolvedCluster, part: Part) -> Result<Value, Error> {
    let (spec, said) = (&observed.cluster.spec, own(observed, resolved));
    let stateless = match part {
        Part::Admin => &said.multiadmin,
        Part::Web => &said.multiadmin_web,
    };
    let mut content = bare(&stateless.spec, part.field(), said)?;
    if let Value::Object(fields) = &mut content {
        fields.remove("replicas");
    }
    let special = match part {
        Part::Admin => json!({
            "topology": said.global_topo_ref,
            "observability": spec.observability,
            "logLevel": spec.log_levels.and_then(|levels| levels.multiadmin),
            "internalTLS": spec.internal_tls,
            "certificates": observed.admin_certificates(),
        }),
        Part::Web => json!({ "user": said.postgres_superuser, "password": said.password.secret_ref }),
    };
    Ok(json!({
        "spec": content,
        "placement": stateless.placement,
        "image": stateless.image,
        "pullPolicy": said.image_pull_policy,
        "pullSecrets": said.image_pull_secrets,
        "special": special,
    }))
}

/// The template that applies, as `Kind/name`.
fn template(kind: TemplateKind, reference: Option<&str>, defaults: Option<&TemplateDefaults>) -> String {
    let default = defaults.and_then(|defaults| match kind {
        TemplateKind::CoreTemplate => defaults.core_template.as_deref(),
        TemplateKind::CellTemplate => defaults.cell_template.as_deref(),
        TemplateKind::ShardTemplate => defaults.shard_template.as_deref(),
    });
    let named = [reference, default].into_iter().flatten().find(|name| !name.is_empty());
    format!("{kind}/{}", named.unwrap_or(DEFAULT_TEMPLATE))
}

/// The key under which the root path that a CoreTemplate gives has a digest of its own. No template has a colon in its name.
pub fn root_of(template: &str) -> String {
    format!("{template}:rootPath")
}

/// A resolved spec without what the operator filled in. `at` is where the spec stands in the cluster.
fn bare<T: Serialize>(spec: &T, at: &str, said: &ResolvedCluster) -> Result<Value, Error> {
    let Value::Object(fields) = revision::value(spec)? else { return Ok(Value::Null) };
    let own = |(key, value): (String, Value)| {
        // Images are chosen by the cluster's own policy, and what is copied from the cluster stands elsewhere in it.
        let value = match key.as_str() {
            "images" => Some(value),
            "logLevels" => strip(value, "logLevels", said),
            "topoServer" => strip(value, &format!("{at}.localTopoServer"), said),
            _ => strip(value, &format!("{at}.{key}"), said),
        };
        Some((key, value?))
    };
    Ok(Value::Object(fields.into_iter().filter_map(own).collect()))
}

/// The last field of a path.
fn last(at: &str) -> &str {
    at.rsplit('.').next().unwrap_or_default()
}

fn strip(value: Value, at: &str, said: &ResolvedCluster) -> Option<Value> {
    match value {
        Value::Object(fields) => {
            let keyed = last(at) == "pools";
            let own = |(key, value): (String, Value)| {
                let at = if keyed { format!("{at}[{key}]") } else { format!("{at}.{key}") };
                Some((key, strip(value, &at, said)?))
            };
            let fields: Map<String, Value> = fields.into_iter().filter_map(own).collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        }
        Value::Array(items) if last(at) == "shards" => {
            let own = |item: Value| {
                let at = format!("{at}[{}]", item["name"].as_str().unwrap_or_default());
                strip(item, &at, said)
            };
            Some(items.into_iter().filter_map(own).collect())
        }
        // Without a list of its own a pool spans the cells of the cluster, which is for the user to say.
        said_here if last(at) == "cells" => Some(said_here),
        leaf => (said.provenance.source(at) != Some(&Source::BuiltIn)).then_some(leaf),
    }
}
