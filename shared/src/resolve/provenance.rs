//! Where each resolved field came from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::field_path::At;
use crate::merge::{Event, Merge, Path, Provided, replace};

/// The level that a resolved field came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Written on the component itself.
    Inline,
    /// Written as an override of the component's template.
    Overrides,
    /// Taken from the selected template.
    Template {
        /// Kind of the template.
        kind: TemplateKind,
        /// Name of the template.
        name: Arc<str>,
        /// How it came to be selected.
        via: Via,
    },
    /// Inherited from the table group.
    TableGroup,
    /// Inherited from the database.
    Database,
    /// Inherited from the cluster.
    Cluster,
    /// The operator's own default.
    BuiltIn,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline => f.write_str("inline"),
            Self::Overrides => f.write_str("overrides"),
            Self::Template { kind, name, via } => write!(f, "{kind} {name} ({via})"),
            Self::TableGroup => f.write_str("table group"),
            Self::Database => f.write_str("database"),
            Self::Cluster => f.write_str("cluster"),
            Self::BuiltIn => f.write_str("built-in"),
        }
    }
}

/// Kind of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::Display, strum::AsRefStr)]
pub enum TemplateKind {
    /// Cluster-wide components.
    CoreTemplate,
    /// Cells.
    CellTemplate,
    /// Shards.
    ShardTemplate,
}

/// How a template came to be selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::Display)]
pub enum Via {
    /// Named on the component.
    #[strum(serialize = "explicit")]
    Explicit,
    /// Named in `spec.templateDefaults`.
    #[strum(serialize = "templateDefaults")]
    ClusterDefault,
    /// Named `default` in the namespace.
    #[strum(serialize = "namespace default")]
    NamespaceDefault,
}

/// The level that each resolved field came from, by path such as `cells[zone-a].multigateway.replicas`.
///
/// A quiet one notes nothing: most of the work of resolving a large cluster is writing down paths that nobody reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    levels: BTreeMap<String, Source>,
    quiet: bool,
}

impl Provenance {
    /// One that notes nothing.
    pub(super) fn quiet() -> Self {
        Self { levels: BTreeMap::new(), quiet: true }
    }

    /// Whether it notes nothing.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// The level of a field; of a field inside of a block that was taken as a whole, the level of the block.
    pub fn source(&self, path: &str) -> Option<&Source> {
        let mut path = path;
        loop {
            if let Some(source) = self.levels.get(path) {
                return Some(source);
            }
            path = parent(path)?;
        }
    }

    /// All paths with their levels, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.levels.iter().map(|(path, source)| (path.as_str(), source))
    }

    /// Notes the level of a field.
    pub(super) fn set(&mut self, at: &At<'_>, source: &Source) {
        if !self.quiet {
            self.levels.insert(at.to_string(), source.clone());
        }
    }

    /// Notes that a field has the level of another one.
    pub(super) fn same(&mut self, at: &At<'_>, other: &At<'_>) {
        if !self.quiet
            && let Some(source) = self.source(&other.to_string()).cloned()
        {
            self.levels.insert(at.to_string(), source);
        }
    }

    /// Lays `upper` over `lower` and notes what it provides.
    pub(super) fn overlay<T: Merge<U>, U>(&mut self, lower: &mut T, upper: &U, at: &At<'_>, source: &Source) {
        if self.quiet {
            lower.merge(upper);
            return;
        }
        let mut report = |event: Event<'_>| self.hear(event, source);
        lower.overlay(upper, &mut Path::reporting(at.to_string(), &mut report));
    }

    /// Replaces `lower` when `upper` is provided, and notes it.
    pub(super) fn replace<T: Provided + Clone>(&mut self, lower: &mut T, upper: &T, at: &At<'_>, source: &Source) {
        if self.quiet {
            replace(lower, upper, &mut Path::silent());
            return;
        }
        let mut report = |event: Event<'_>| self.hear(event, source);
        replace(lower, upper, &mut Path::reporting(at.to_string(), &mut report));
    }

    /// Fills an unset field with the operator's default, and notes it.
    pub(super) fn fill<T>(&mut self, field: &mut Option<T>, at: &At<'_>, name: &str, value: impl FnOnce() -> T) {
        if field.is_none() {
            *field = Some(value());
            self.set(&at.field(name), &Source::BuiltIn);
        }
    }

    /// Fills unset resources with the operator's default, and notes it. A quiet one leaves them open: there is nothing to judge in what the
    /// operator says itself.
    pub(super) fn fill_resources(
        &mut self,
        field: &mut Option<ResourceRequirements>,
        at: &At<'_>,
        value: impl FnOnce() -> ResourceRequirements,
    ) {
        if !self.quiet {
            self.fill(field, at, "resources", value);
        }
    }

    /// Fills an empty list with the operator's default, and notes it.
    pub(super) fn fill_list<S: ToString>(&mut self, list: &mut Vec<String>, at: &At<'_>, name: &str, value: &[S]) {
        if list.is_empty() {
            list.extend(value.iter().map(ToString::to_string));
            self.set(&at.field(name), &Source::BuiltIn);
        }
    }

    fn hear(&mut self, event: Event<'_>, source: &Source) {
        match event {
            Event::Provided(path) => {
                self.levels.insert(path.to_owned(), source.clone());
            }
            Event::Discarded(path) => {
                self.levels.retain(|key, _| {
                    !key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                });
            }
        }
    }
}

/// The path without its last field or key.
fn parent(path: &str) -> Option<&str> {
    let mut depth = 0_usize;
    for (index, byte) in path.bytes().enumerate().rev() {
        match byte {
            b']' => depth += 1,
            b'[' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(&path[..index]);
                }
            }
            b'.' if depth == 0 => return Some(&path[..index]),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_inside_of_a_block_has_the_level_of_the_block() {
        let mut provenance = Provenance::default();
        provenance.set(&At::Root("cells[a.b].multigateway.resources"), &Source::Overrides);
        assert_eq!(provenance.source("cells[a.b].multigateway.resources.limits[cpu.x/y]"), Some(&Source::Overrides));
        assert_eq!(provenance.source("cells[a.b].multigateway.replicas"), None);
        assert_eq!(provenance.source("cells[a.b]"), None);
    }
}
