//! Selection of the one template that a component uses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::v1alpha1::{
    CellTemplateSpec, CoreTemplateSpec, ResolvedTemplates, ShardTemplateSpec, TemplateDefaults,
};

use crate::field_path::At;

use super::provenance::{Source, TemplateKind, Via};
use super::{ResolveError, Templates};

/// Name of the template that applies when nothing is named.
pub const DEFAULT: &str = "default";

/// Selects templates and remembers which ones were used.
pub struct Selector<'a> {
    templates: &'a Templates,
    defaults: Option<&'a TemplateDefaults>,
    namespace: &'a str,
    used: BTreeSet<(TemplateKind, String)>,
}

/// A selected template with its place in the chain.
pub struct Selected<'a, T> {
    /// Its content.
    pub spec: &'a T,
    /// Its name, for messages.
    pub name: String,
    /// The level of what it provides.
    pub source: Source,
}

impl<'a> Selector<'a> {
    /// A selector over the templates of a namespace.
    pub fn new(templates: &'a Templates, defaults: Option<&'a TemplateDefaults>, namespace: &'a str) -> Self {
        Self { templates, defaults, namespace, used: BTreeSet::new() }
    }

    /// Selects the CoreTemplate for a reference at that path.
    pub fn core(
        &mut self,
        reference: Option<&str>,
        field: &At<'_>,
        errors: &mut Vec<ResolveError>,
    ) -> Option<Selected<'a, CoreTemplateSpec>> {
        let default = self.defaults.and_then(|defaults| defaults.core_template.as_deref());
        self.select(TemplateKind::CoreTemplate, &self.templates.core, reference, default, field, errors)
    }

    /// Selects the CellTemplate for a reference at that path.
    pub fn cell(
        &mut self,
        reference: Option<&str>,
        field: &At<'_>,
        errors: &mut Vec<ResolveError>,
    ) -> Option<Selected<'a, CellTemplateSpec>> {
        let default = self.defaults.and_then(|defaults| defaults.cell_template.as_deref());
        self.select(TemplateKind::CellTemplate, &self.templates.cell, reference, default, field, errors)
    }

    /// Selects the ShardTemplate for a reference at that path.
    pub fn shard(
        &mut self,
        reference: Option<&str>,
        field: &At<'_>,
        errors: &mut Vec<ResolveError>,
    ) -> Option<Selected<'a, ShardTemplateSpec>> {
        let default = self.defaults.and_then(|defaults| defaults.shard_template.as_deref());
        self.select(TemplateKind::ShardTemplate, &self.templates.shard, reference, default, field, errors)
    }

    /// Reports the entries of `spec.templateDefaults` that do not exist, whether a component uses them or not.
    pub fn check_defaults(&mut self, errors: &mut Vec<ResolveError>) {
        let Some(defaults) = self.defaults else { return };
        let used = std::mem::take(&mut self.used);
        if defaults.core_template.is_some() {
            self.core(None, &At::Root(""), errors);
        }
        if defaults.cell_template.is_some() {
            self.cell(None, &At::Root(""), errors);
        }
        if defaults.shard_template.is_some() {
            self.shard(None, &At::Root(""), errors);
        }
        self.used = used;
    }

    /// Names of the used templates, sorted.
    pub fn used(&self) -> ResolvedTemplates {
        let of = |kind| self.used.iter().filter(|(used, _)| *used == kind).map(|(_, name)| name.clone()).collect();
        ResolvedTemplates {
            core_templates: of(TemplateKind::CoreTemplate),
            cell_templates: of(TemplateKind::CellTemplate),
            shard_templates: of(TemplateKind::ShardTemplate),
        }
    }

    fn select<'r, T>(
        &mut self,
        kind: TemplateKind,
        existing: &'a BTreeMap<String, T>,
        reference: Option<&'r str>,
        cluster_default: Option<&'r str>,
        field: &At<'_>,
        errors: &mut Vec<ResolveError>,
    ) -> Option<Selected<'a, T>> {
        let named = |name: Option<&'r str>| name.filter(|name| !name.is_empty());
        let (name, via) = match (named(reference), named(cluster_default)) {
            (Some(name), _) => (name, Via::Explicit),
            (None, Some(name)) => (name, Via::ClusterDefault),
            (None, None) => (DEFAULT, Via::NamespaceDefault),
        };
        if let Some(spec) = existing.get(name) {
            let name = name.to_owned();
            self.used.insert((kind, name.clone()));
            return Some(Selected {
                spec,
                source: Source::Template { kind, name: Arc::from(name.as_str()), via },
                name,
            });
        }
        // A missing `default` counts as empty even when it is written out, so that deleting it never breaks a cluster.
        if name != DEFAULT {
            let existing = match existing.len() {
                0 => "(there are none)".to_owned(),
                _ => existing.keys().take(10).cloned().collect::<Vec<_>>().join(", "),
            };
            let field = match via {
                Via::ClusterDefault => format!("templateDefaults.{}", json_name(kind)),
                Via::Explicit | Via::NamespaceDefault => field.to_string(),
            };
            let (name, namespace) = (name.to_owned(), self.namespace.to_owned());
            let error = ResolveError::MissingTemplate { field, kind, name, namespace, existing };
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        None
    }
}

fn json_name(kind: TemplateKind) -> &'static str {
    match kind {
        TemplateKind::CoreTemplate => "coreTemplate",
        TemplateKind::CellTemplate => "cellTemplate",
        TemplateKind::ShardTemplate => "shardTemplate",
    }
}
