//! Rules of templates: their own content, what a change of it does to the clusters that use it, and who needs one that is to go.

use std::collections::BTreeSet;

use crate::api::v1alpha1::{CellTemplateSpec, CoreTemplateSpec, MultigresClusterSpec, ShardTemplateSpec};
use crate::field_path::At;
use crate::resolve::{self, ResolveError, ResolvedCluster, Settings, TemplateKind, Templates};

use super::{
    Before, FieldError, Findings, Surroundings, Verdict, Warning, postgres, reason, resource, shard, unresolved,
    written,
};

/// A cluster of the namespace that is not on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Consumer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its spec.
    pub spec: &'a MultigresClusterSpec,
}

/// The content of a template.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Content<'a> {
    /// Cluster-wide components.
    Core(&'a CoreTemplateSpec),
    /// Cells.
    Cell(&'a CellTemplateSpec),
    /// Shards.
    Shard(&'a ShardTemplateSpec),
}

impl Content<'_> {
    /// The kind of the template.
    pub fn kind(&self) -> TemplateKind {
        match self {
            Self::Core(_) => TemplateKind::CoreTemplate,
            Self::Cell(_) => TemplateKind::CellTemplate,
            Self::Shard(_) => TemplateKind::ShardTemplate,
        }
    }

    fn put(&self, name: &str, templates: &mut Templates) {
        match *self {
            Self::Core(spec) => drop(templates.core.insert(name.to_owned(), spec.clone())),
            Self::Cell(spec) => drop(templates.cell.insert(name.to_owned(), spec.clone())),
            Self::Shard(spec) => drop(templates.shard.insert(name.to_owned(), spec.clone())),
        }
    }
}

fn take(kind: TemplateKind, name: &str, templates: &mut Templates) {
    match kind {
        TemplateKind::CoreTemplate => drop(templates.core.remove(name)),
        TemplateKind::CellTemplate => drop(templates.cell.remove(name)),
        TemplateKind::ShardTemplate => drop(templates.shard.remove(name)),
    }
}

/// A judgement that goes from one cluster to the next. How long it takes grows with what the namespace holds, so whoever makes it can let
/// others have their turn after each of them.
pub struct Judgement<'a> {
    /// None where there is no cluster to look at.
    change: Option<Change<'a>>,
    consumers: std::slice::Iter<'a, Consumer<'a>>,
    /// Where the template is wrong on its own, which is told once, not for each cluster again.
    own: BTreeSet<String>,
    verdict: Verdict,
}

impl<'a> Judgement<'a> {
    fn new(change: Option<Change<'a>>, consumers: &'a [Consumer<'a>], verdict: Verdict) -> Self {
        let own = verdict.errors.iter().map(|error| error.path.clone()).collect();
        Self { change, consumers: consumers.iter(), own, verdict }
    }

    /// Looks at the next cluster that may use the template; false when there is none.
    pub fn step(&mut self) -> bool {
        let Some(change) = &self.change else { return false };
        let Some(consumer) = self.consumers.find(|consumer| change.concerns(consumer)) else { return false };
        let found = change.consumer(consumer);
        self.verdict.errors.extend(found.errors.into_iter().filter(|error| !self.own.contains(&error.path)));
        self.verdict.warnings.extend(found.warnings);
        true
    }

    /// Looks at all that are left.
    pub fn finish(mut self) -> Verdict {
        while self.step() {}
        self.verdict
    }
}

/// The judgement of a template that is written, on its own and through the clusters that use it.
///
/// Each of them is resolved with the stored content, which `old` takes precedence over, and with the new one. What was wrong before does
/// not count, so a template can be repaired step by step.
#[expect(clippy::too_many_arguments, reason = "a judgement of everything that is known")]
pub fn written<'a>(
    namespace: &'a str,
    name: &'a str,
    old: Option<Content<'_>>,
    new: Content<'_>,
    consumers: &'a [Consumer<'a>],
    templates: &Templates,
    settings: &'a Settings,
    around: &'a Surroundings,
) -> Judgement<'a> {
    if old == Some(new) {
        return Judgement::new(None, consumers, Verdict::default());
    }
    let kind = new.kind();
    let mut stored = templates.clone();
    take(kind, name, &mut stored);
    let mut incoming = stored.clone();
    if let Some(old) = old {
        old.put(name, &mut stored);
    }
    new.put(name, &mut incoming);
    let change = Change { namespace, kind, name, stored, incoming, gone: false, settings, around };
    Judgement::new(Some(change), consumers, content(new))
}

/// Who names the template, as `cluster: field`.
pub fn users(kind: TemplateKind, name: &str, consumers: &[Consumer<'_>]) -> Vec<String> {
    let mut users = Vec::new();
    for Consumer { name: cluster, spec } in consumers {
        references(kind, spec, &mut |field, reference| {
            if reference == name {
                users.push(format!("{cluster}: {field}"));
            }
        });
    }
    users.sort();
    users
}

/// The judgement of the removal of a template: whoever names it needs it, and so do clusters that would be refused without it.
pub fn deleted<'a>(
    namespace: &'a str,
    name: &'a str,
    old: Content<'_>,
    consumers: &'a [Consumer<'a>],
    templates: &Templates,
    settings: &'a Settings,
    around: &'a Surroundings,
) -> Judgement<'a> {
    let kind = old.kind();
    let users = users(kind, name, consumers);
    if !users.is_empty() {
        let error = FieldError {
            path: "metadata.name".to_owned(),
            value: name.to_owned(),
            message: format!("{kind} {name:?} is in use by {}; let them use another one first", users.join(", ")),
            source: None,
            reason: reason::FORBIDDEN,
        };
        return Judgement::new(None, consumers, Verdict { errors: vec![error], warnings: Vec::new() });
    }
    let mut stored = templates.clone();
    old.put(name, &mut stored);
    let mut incoming = stored.clone();
    take(kind, name, &mut incoming);
    let change = Change { namespace, kind, name, stored, incoming, gone: true, settings, around };
    Judgement::new(Some(change), consumers, Verdict::default())
}

/// Judges what a template says on its own, whatever other levels add to it.
pub fn content(content: Content<'_>) -> Verdict {
    let mut findings = Findings::new(None);
    let root = At::Root("");
    match content {
        Content::Core(spec) => core(&mut findings, &root, spec),
        Content::Cell(spec) => cell(&mut findings, &root, spec),
        Content::Shard(spec) => shard_template(&mut findings, &root, spec),
    }
    findings.verdict
}

fn core(findings: &mut Findings<'_>, root: &At<'_>, spec: &CoreTemplateSpec) {
    if let Some(topo) = &spec.global_topo_server {
        let at = root.field("globalTopoServer");
        written::etcd(findings, &at.field("etcd"), topo.etcd.as_ref());
        if let Some(etcd) = &topo.etcd {
            resource::etcd(findings, &at.field("etcd"), etcd);
        }
        if let Some(placement) = &topo.placement {
            findings.fields(&at.field("placement"), placement);
        }
    }
    for (name, spec) in [("multiadmin", &spec.multiadmin), ("multiadminWeb", &spec.multiadmin_web)] {
        if let Some(spec) = spec {
            findings.fields(&root.field(name), spec);
            resource::resources(findings, &root.field(name), spec.resources.as_ref());
        }
    }
    for (name, placement) in [
        ("multiadminPlacement", &spec.multiadmin_placement),
        ("multiadminWebPlacement", &spec.multiadmin_web_placement),
    ] {
        if let Some(placement) = placement {
            findings.fields(&root.field(name), placement);
        }
    }
}

fn cell(findings: &mut Findings<'_>, root: &At<'_>, spec: &CellTemplateSpec) {
    if let Some(gateway) = &spec.multigateway {
        let at = root.field("multigateway");
        findings.fields(&at, gateway);
        super::cluster::gateway(findings, &at, gateway, false);
    }
    if let Some(placement) = &spec.multigateway_placement {
        findings.fields(&root.field("multigatewayPlacement"), placement);
    }
    if let Some(local) = &spec.local_topo_server {
        let at = root.field("localTopoServer");
        written::local_topology(findings, &at, local);
        super::cluster::local_topology(findings, &at, local);
    }
}

fn shard_template(findings: &mut Findings<'_>, root: &At<'_>, spec: &ShardTemplateSpec) {
    if let Some(multiorch) = &spec.multiorch {
        let at = root.field("multiorch");
        findings.fields(&at, multiorch);
        resource::resources(findings, &at, multiorch.resources.as_ref());
    }
    let at = root.field("pools");
    written::pools(findings, &at, spec.pools.iter());
    findings.at_most(&at, spec.pools.len(), super::limits::POOLS, "pools are supported");
    for (name, pool) in &spec.pools {
        shard::check_pool(findings, &at.key(name), name, pool);
    }
    if let Some(reference) = &spec.postgres_config_ref {
        findings.fields(&root.field("postgresConfigRef"), reference);
    }
    postgres::check(findings, &root.field("postgresConfig"), &spec.postgres_config);
}

/// Calls `visit` with every field that names a template of the kind, and the name.
fn references(kind: TemplateKind, spec: &MultigresClusterSpec, visit: &mut dyn FnMut(At<'_>, &str)) {
    let mut named = |at: At<'_>, reference: Option<&str>| {
        if let Some(reference) = reference.filter(|reference| !reference.is_empty()) {
            visit(at, reference);
        }
    };
    let defaults = spec.template_defaults.as_ref();
    let default = |pick: fn(&crate::api::v1alpha1::TemplateDefaults) -> Option<&str>| defaults.and_then(pick);
    match kind {
        TemplateKind::CoreTemplate => {
            named(At::Root("templateDefaults.coreTemplate"), default(|all| all.core_template.as_deref()));
            let admin = spec.multiadmin.as_ref().and_then(|admin| admin.template_ref.as_deref());
            named(At::Root("multiadmin.templateRef"), admin);
            let topo = spec.global_topo_server.as_ref().and_then(|topo| topo.template_ref.as_deref());
            named(At::Root("globalTopoServer.templateRef"), topo);
            let web = spec.multiadmin_web.as_ref().and_then(|web| web.template_ref.as_deref());
            named(At::Root("multiadminWeb.templateRef"), web);
        }
        TemplateKind::CellTemplate => {
            named(At::Root("templateDefaults.cellTemplate"), default(|all| all.cell_template.as_deref()));
            let at = At::Root("cells");
            for cell in &spec.cells {
                named(at.key(&cell.name).field("cellTemplate"), cell.cell_template.as_deref());
            }
        }
        TemplateKind::ShardTemplate => {
            named(At::Root("templateDefaults.shardTemplate"), default(|all| all.shard_template.as_deref()));
            let at = At::Root("databases");
            for database in &spec.databases {
                let at = at.key(&database.name);
                let groups = at.field("tablegroups");
                for group in resolve::table_groups(database, &at, &mut Vec::new()).iter() {
                    let at = groups.key(&group.name);
                    let shards = at.field("shards");
                    for shard in &group.shards {
                        named(shards.key(&shard.name).field("shardTemplate"), shard.shard_template.as_deref());
                    }
                }
            }
        }
    }
}

/// One template, before and after.
struct Change<'a> {
    namespace: &'a str,
    kind: TemplateKind,
    name: &'a str,
    stored: Templates,
    incoming: Templates,
    /// Whether there is none after.
    gone: bool,
    settings: &'a Settings,
    around: &'a Surroundings,
}

/// What can be told apart about an error: what was there before does not count.
fn identity(error: &FieldError) -> (&str, &str, &str) {
    (&error.path, &error.value, &error.message)
}

impl Change<'_> {
    /// Whether the cluster may use the template at all.
    fn concerns(&self, consumer: &Consumer<'_>) -> bool {
        let mut named = self.name == resolve::DEFAULT_TEMPLATE;
        references(self.kind, consumer.spec, &mut |_, reference| named |= reference == self.name);
        named
    }

    fn resolve(&self, consumer: &Consumer<'_>, templates: &Templates) -> Result<ResolvedCluster, Vec<ResolveError>> {
        resolve::quietly(consumer.name, self.namespace, consumer.spec, templates, self.settings)
    }

    /// What the change makes of one cluster, in the words of the template.
    fn consumer(&self, consumer: &Consumer<'_>) -> Verdict {
        let Consumer { name, spec } = *consumer;
        // A cluster that was broken before has nothing to lose.
        let Ok(before) = self.resolve(consumer, &self.stored) else { return Verdict::default() };
        let after = match self.resolve(consumer, &self.incoming) {
            Ok(after) => after,
            Err(errors) => return self.told(consumer, unresolved(&errors)),
        };
        let mut new = super::cluster(Some(Before { spec, resolved: &before }), name, spec, &after, self.around);
        // Most changes are right, so what was wrong before is only looked at where something is now.
        if new == Verdict::default() {
            return new;
        }
        let old = super::cluster(None, name, spec, &before, self.around);
        let known: BTreeSet<_> = old.errors.iter().map(identity).collect();
        new.errors.retain(|error| !known.contains(&identity(error)));
        new.warnings.retain(|warning| !old.warnings.contains(warning));
        self.told(consumer, new)
    }

    /// Findings about a cluster as findings about the template.
    fn told(&self, consumer: &Consumer<'_>, verdict: Verdict) -> Verdict {
        let cluster = consumer.name;
        if self.gone {
            let error = |error: FieldError| FieldError {
                message: format!(
                    "without this {}, in cluster {cluster:?} at {}: {}",
                    self.kind, error.path, error.message
                ),
                path: "metadata.name".to_owned(),
                value: self.name.to_owned(),
                source: None,
                ..error
            };
            return Verdict { errors: verdict.errors.into_iter().map(error).collect(), warnings: Vec::new() };
        }
        let error = |error: FieldError| FieldError {
            message: format!("in cluster {cluster:?} at {}: {}", error.path, error.message),
            path: self.own_path(&error.path),
            source: None,
            ..error
        };
        let warning = |warning: Warning| Warning {
            message: format!("in cluster {cluster:?}: {}", warning.message),
            path: self.own_path(&warning.path),
        };
        Verdict {
            errors: verdict.errors.into_iter().map(error).collect(),
            warnings: verdict.warnings.into_iter().map(warning).collect(),
        }
    }

    /// The path in the template of what has that path in a cluster.
    fn own_path(&self, path: &str) -> String {
        let prefix = match self.kind {
            TemplateKind::CoreTemplate => "",
            TemplateKind::CellTemplate => "cells[",
            TemplateKind::ShardTemplate => "databases[",
        };
        let own = match self.kind {
            TemplateKind::CoreTemplate => Some(path),
            TemplateKind::CellTemplate => path.split_once("].").map(|(_, own)| own),
            TemplateKind::ShardTemplate => {
                path.split_once(".shards[").and_then(|(_, rest)| rest.split_once("].")).map(|(_, own)| own)
            }
        };
        own.filter(|_| path.starts_with(prefix)).unwrap_or(path).to_owned()
    }
}
