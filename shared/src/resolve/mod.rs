//! The one place that knows defaults: a cluster's spec and the templates of its namespace become what every child object asks for.
//!
//! Four levels, highest first: inline settings or an explicit template with its overrides, `spec.templateDefaults`, the template named
//! `default` in the namespace, built-in values. Exactly one template is selected per component. Nothing here fails on odd input: what
//! cannot be resolved is reported, all of it at once. Every resolved field knows which level it came from.

mod alias;
mod backup;
mod cell;
mod child;
mod core;
mod database;
pub mod defaults;
mod error;
mod notice;
mod provenance;
mod pvc;
mod repository;
mod shard;
mod template;

use std::collections::{BTreeMap, BTreeSet};

use crate::api::v1alpha1::{
    BackupConfig, CellSpec, CellTemplateSpec, ComponentLogLevels, CoreTemplateSpec, DurabilityPolicy,
    ExternalTopoServerSpec, GlobalTopoServerRef, ImageSource, MultigresClusterSpec, PodPlacementSpec,
    PostgresPasswordSecretRef, PullPolicy, ResolvedTemplates, ShardResolvedSpec, ShardTemplateSpec, StatelessSpec,
    TableGroupSpec, TopoServerSpec,
};
use crate::field_path::At;
use crate::image::{self, ImageSet};
use crate::name;
use k8s_openapi::api::core::v1::LocalObjectReference;

pub use alias::table_groups;
pub use cell::{REGION_LABEL, ZONE_LABEL, places};
pub use child::{poolers, shard};
pub use error::ResolveError;
pub use notice::Notice;
pub use provenance::{Provenance, Source, TemplateKind, Via};
pub use repository::{NoBucket, Repository, key_prefix};
pub use template::DEFAULT as DEFAULT_TEMPLATE;

use self::template::Selector;

/// The templates of the cluster's namespace, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Templates {
    /// Core templates.
    pub core: BTreeMap<String, CoreTemplateSpec>,
    /// Cell templates.
    pub cell: BTreeMap<String, CellTemplateSpec>,
    /// Shard templates.
    pub shard: BTreeMap<String, ShardTemplateSpec>,
}

/// What the operator's own configuration contributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of each component where the cluster pins none.
    pub images: ImageSet,
    /// Image of etcd where the spec of an etcd names none.
    pub etcd_image: String,
    /// Node label that a cell's `zoneId` selects.
    pub zone_id_label: String,
}

/// Node label that a cell's `zoneId` selects unless the operator is told otherwise.
pub const ZONE_ID_LABEL: &str = "topology.k8s.aws/zone-id";

impl Default for Settings {
    /// Returns what counts where the operator is told nothing.
    fn default() -> Self {
        Self {
            images: ImageSet::default(),
            etcd_image: image::ETCD.to_owned(),
            zone_id_label: ZONE_ID_LABEL.to_owned(),
        }
    }
}

/// Everything that a cluster asks for, with no field left open.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedCluster {
    /// Its name; empty while the API server has yet to make one up.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The global topology: ours or somebody else's.
    pub global_topo: GlobalTopo,
    /// How children reach the global topology.
    pub global_topo_ref: GlobalTopoServerRef,
    /// The admin service.
    pub multiadmin: ResolvedStateless,
    /// The web interface of the admin service.
    pub multiadmin_web: ResolvedStateless,
    /// Spec of each Cell object, in the order of the cluster.
    pub cells: Vec<CellSpec>,
    /// The databases with their table groups.
    pub databases: Vec<ResolvedDatabase>,
    /// Image of each component.
    pub images: ImageSet,
    /// Where the images come from.
    pub image_source: ImageSource,
    /// When images are pulled.
    pub image_pull_policy: PullPolicy,
    /// Secrets to pull images with.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Log level of each component; all are set.
    pub log_levels: ComponentLogLevels,
    /// Whether topology records that the spec no longer names are removed.
    pub topology_pruning: bool,
    /// The superuser's name.
    pub postgres_superuser: String,
    /// Where the superuser's password is.
    pub password: Password,
    /// Backup of the cluster level, before databases, table groups and shards say otherwise.
    pub backup: BackupConfig,
    /// Node label that `zoneId` of a cell selects.
    pub zone_id_label: String,
    /// Node labels that hold the pods of a cell, by cell.
    pub cell_topology_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// The templates that were used, implicit ones included.
    pub resolved_templates: ResolvedTemplates,
    /// What is legal but worth telling.
    pub notices: Vec<Notice>,
    /// Which level each field came from.
    pub provenance: Provenance,
}

/// The global topology.
#[derive(Debug, Clone, PartialEq)]
pub enum GlobalTopo {
    /// An etcd cluster of ours: the spec of its TopoServer object.
    Managed(Box<TopoServerSpec>),
    /// An etcd cluster that exists already.
    External(ExternalTopoServerSpec),
}

/// A component without data.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedStateless {
    /// Replicas, resources and pod metadata, all defaults applied.
    pub spec: StatelessSpec,
    /// Where its pods may run.
    pub placement: Option<PodPlacementSpec>,
    /// Its image.
    pub image: String,
}

/// Where the superuser's password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Password {
    /// Secret and key.
    pub secret_ref: PostgresPasswordSecretRef,
    /// Whether the operator has to make the Secret because the spec names none.
    pub generated: bool,
}

/// A database with its table groups.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedDatabase {
    /// Its name.
    pub name: String,
    /// Whether it is the default database.
    pub default: bool,
    /// The policy of its topology record: the strictest of its shards.
    pub durability_policy: DurabilityPolicy,
    /// Backup of the database level.
    pub backup: BackupConfig,
    /// The backup of its topology record: what its shards say, which is the same place for all of them.
    pub repository: BackupConfig,
    /// Spec of each TableGroup object, shards included, in the order of the cluster.
    pub table_groups: Vec<TableGroupSpec>,
}

/// What the parts of a resolution share.
struct Context<'a> {
    spec: &'a MultigresClusterSpec,
    settings: &'a Settings,
    templates: Selector<'a>,
    provenance: Provenance,
    errors: Vec<ResolveError>,
    notices: Vec<Notice>,
    /// All cell names, sorted.
    cell_names: Vec<&'a str>,
    represented: &'a Represented<'a>,
}

/// Parts of a cluster that others stand for, since they are alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Represented<'a> {
    /// Cells, by their places in the list: they are left out.
    pub cells: Vec<bool>,
    /// Table groups, by database and name: they are left out.
    pub table_groups: BTreeSet<(&'a str, &'a str)>,
}

impl Represented<'_> {
    fn cell(&self, index: usize) -> bool {
        self.cells.get(index).copied().unwrap_or_default()
    }

    fn table_group(&self, database: &str, name: &str) -> bool {
        !self.table_groups.is_empty() && self.table_groups.contains(&(database, name))
    }
}

impl ResolvedCluster {
    /// The spec of the TopoServer object, when the global topology is ours.
    pub fn managed_topo(&self) -> Option<&TopoServerSpec> {
        match &self.global_topo {
            GlobalTopo::Managed(spec) => Some(spec),
            GlobalTopo::External(_) => None,
        }
    }

    /// Calls `visit` with every shard and where it is.
    pub fn each_shard(&self, visit: &mut dyn FnMut(&At<'_>, &ShardResolvedSpec)) {
        let root = At::Root("databases");
        for database in &self.databases {
            let at = root.key(&database.name);
            let groups = at.field("tablegroups");
            for group in &database.table_groups {
                let at = groups.key(&group.table_group_name);
                let shards = at.field("shards");
                for shard in &group.shards {
                    visit(&shards.key(&shard.name), shard);
                }
            }
        }
    }

    /// All table groups of all databases.
    pub fn table_groups(&self) -> impl Iterator<Item = &TableGroupSpec> {
        self.databases.iter().flat_map(|database| &database.table_groups)
    }
}

/// Resolves a cluster, or reports everything that keeps it from being resolved.
pub fn cluster(
    name: &str,
    namespace: &str,
    spec: &MultigresClusterSpec,
    templates: &Templates,
    settings: &Settings,
) -> Result<ResolvedCluster, Vec<ResolveError>> {
    resolve(name, namespace, spec, templates, settings, Provenance::default(), &Represented::default())
}

/// Resolves a cluster as [`cluster`] does, for a judgement: where fields come from is not noted, and what children only copy from their
/// cluster (images, the names and places of all cells, how to reach the topology) is left out, as are the cells of orchestrators that name
/// none, and built-in resources of all components but PostgreSQL, whose settings follow from them. That takes a fraction of the time.
pub fn quietly(
    name: &str,
    namespace: &str,
    spec: &MultigresClusterSpec,
    templates: &Templates,
    settings: &Settings,
) -> Result<ResolvedCluster, Vec<ResolveError>> {
    quietly_without(&Represented::default(), name, namespace, spec, templates, settings)
}

/// Resolves a cluster as [`quietly`] does, without what other parts of it stand for.
pub fn quietly_without(
    represented: &Represented<'_>,
    name: &str,
    namespace: &str,
    spec: &MultigresClusterSpec,
    templates: &Templates,
    settings: &Settings,
) -> Result<ResolvedCluster, Vec<ResolveError>> {
    resolve(name, namespace, spec, templates, settings, Provenance::quiet(), represented)
}

fn resolve(
    name: &str,
    namespace: &str,
    spec: &MultigresClusterSpec,
    templates: &Templates,
    settings: &Settings,
    provenance: Provenance,
    represented: &Represented<'_>,
) -> Result<ResolvedCluster, Vec<ResolveError>> {
    let mut cell_names: Vec<&str> = spec.cells.iter().map(|cell| cell.name.as_str()).collect();
    cell_names.sort_unstable();
    cell_names.dedup();
    let mut context = Context {
        spec,
        settings,
        templates: Selector::new(templates, spec.template_defaults.as_ref(), namespace),
        provenance,
        errors: Vec::new(),
        notices: Vec::new(),
        cell_names,
        represented,
    };
    let context = &mut context;
    context.templates.check_defaults(&mut context.errors);

    let images = core::images(context);
    let (global_topo, global_topo_ref) = core::global_topo(context, name, namespace);
    let multiadmin = core::multiadmin(context, images.multiadmin.clone());
    let multiadmin_web = core::multiadmin_web(context, images.multiadmin_web.clone());
    let (image_pull_policy, image_pull_secrets) = core::pull(context);
    let shared = Shared {
        images,
        log_levels: core::log_levels(context),
        global_topo_ref,
        password: core::password(context, name::postgres_password(name)),
        postgres_superuser: core::superuser(context),
        topology_pruning: core::pruning(context),
        image_pull_policy,
        image_pull_secrets,
    };

    let own = spec.cells.iter().enumerate().filter(|(index, _)| !represented.cell(*index));
    let cells = own.map(|(_, config)| cell::resolve(context, config, &shared)).collect();
    if spec.cells.is_empty() {
        context.notices.push(Notice::NoCells);
    }
    let quiet = context.provenance.is_quiet();
    let cell_topology_labels = if quiet { BTreeMap::new() } else { cell::topology_labels(spec, settings) };
    let backup = backup::cluster_level(context);
    let databases = database::resolve_all(context, &shared, &cell_topology_labels);

    if !context.errors.is_empty() {
        return Err(std::mem::take(&mut context.errors));
    }
    Ok(ResolvedCluster {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        global_topo,
        global_topo_ref: shared.global_topo_ref,
        multiadmin,
        multiadmin_web,
        cells,
        databases,
        image_source: spec.images.as_ref().map_or(ImageSource::Defaults, |images| image::source(&images.components())),
        images: shared.images,
        image_pull_policy: shared.image_pull_policy,
        image_pull_secrets: shared.image_pull_secrets,
        log_levels: shared.log_levels,
        topology_pruning: shared.topology_pruning,
        postgres_superuser: shared.postgres_superuser,
        password: shared.password,
        backup,
        zone_id_label: settings.zone_id_label.clone(),
        cell_topology_labels,
        resolved_templates: context.templates.used(),
        notices: std::mem::take(&mut context.notices),
        provenance: std::mem::take(&mut context.provenance),
    })
}

/// What cells and table groups copy from the cluster.
struct Shared {
    images: ImageSet,
    log_levels: ComponentLogLevels,
    global_topo_ref: GlobalTopoServerRef,
    password: Password,
    postgres_superuser: String,
    topology_pruning: bool,
    image_pull_policy: PullPolicy,
    image_pull_secrets: Vec<LocalObjectReference>,
}

#[cfg(test)]
pub(crate) mod tests;
