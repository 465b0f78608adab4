//! The three ConfigMaps of a shard: client authentication, exporter queries and PostgreSQL settings.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::api::resource::Quantity as KubeQuantity};
use shared::{
    annotation,
    label::Component,
    name,
    pgconfig::{self, Basis, Change, Critical, Identity, Rendered, Sizing},
    quantity::Quantity,
};

use super::{rendering::Packed, scope::Scope};

/// Key of the client authentication rules.
pub const HBA_KEY: &str = "pg_hba_template.conf";
/// Key of the exporter's queries.
pub const QUERIES_KEY: &str = "queries.yml";
/// Key of the PostgreSQL settings.
pub const POSTGRES_KEY: &str = "postgresql.conf";

/// The client authentication rules. pgctld reads them once, when it initialises a data directory.
pub fn hba(scope: &Scope<'_>) -> ConfigMap {
    map(scope, name::pg_hba(scope.object), Component::PgHbaConfig, HBA_KEY, include_str!("pg_hba.conf"))
}

/// What the exporter asks PostgreSQL besides its built-in queries.
pub fn exporter_queries(scope: &Scope<'_>) -> ConfigMap {
    map(
        scope,
        name::exporter_queries(scope.object),
        Component::PostgresExporterQueries,
        QUERIES_KEY,
        include_str!("exporter-queries.yml"),
    )
}

/// The rendered PostgreSQL settings, with the renderings of the shard's pods, and what the last primary had or the first one is to have.
pub fn postgres(scope: &Scope<'_>, rendered: &Rendered, packed: &Packed, floor: &Critical) -> ConfigMap {
    let name = name::postgres_config(scope.object);
    let mut map = map(scope, name, Component::PostgresConfig, POSTGRES_KEY, &rendered.text);
    packed.keep_in(&mut map);
    let annotations = map.metadata.annotations.get_or_insert_default();
    annotations.insert(annotation::REPLICATION_SETTINGS.to_owned(), floor.to_string());
    map
}

/// Renders the settings of a shard. `reference` is the text of the ConfigMap that the user refers to.
pub fn render(scope: &Scope<'_>, reference: Option<&str>) -> Rendered {
    let id = scope.id();
    let identity = Identity {
        cluster: id.cluster,
        database: id.database,
        table_group: id.table_group,
        shard: id.shard,
        object: scope.object,
    };
    pgconfig::render(&identity, &Sizing::of(basis(scope)), reference, &scope.spec().postgres_config)
}

/// Reads settings that were rendered before: they stay in force while what the user refers to cannot be read.
pub fn reread(text: &str) -> Rendered {
    let mut parsed = pgconfig::parse(text);
    parsed.settings.remove(pgconfig::RELOAD_MARKER);
    let (reload, restart): (BTreeMap<_, _>, BTreeMap<_, _>) =
        parsed.settings.into_iter().partition(|(name, _)| pgconfig::change(name) == Change::Reload);
    let mut hashed = restart.clone();
    if !parsed.includes.is_empty() {
        hashed.insert("include".to_owned(), parsed.includes.join("\n"));
    }
    Rendered {
        text: text.to_owned(),
        restart_hash: pgconfig::hash::digest(&hashed),
        reload_hash: pgconfig::hash::digest(&reload),
        restart,
        reload,
        includes: parsed.includes,
    }
}

/// What the settings are sized by: the largest container and the smallest volume over all pools, because all members share one file.
fn basis(scope: &Scope<'_>) -> Basis {
    let mut basis =
        Basis { segment: pgconfig::sizing::segment_of(scope.spec().initdb_args.as_deref()), ..Basis::default() };
    for pool in scope.spec().pools.values() {
        let resources = pool.postgres.as_ref().and_then(|container| container.resources.as_ref());
        let amount = |resource: &str| {
            let of = |list: Option<&BTreeMap<String, KubeQuantity>>| parse(&list?.get(resource)?.0);
            let resources = resources?;
            of(resources.limits.as_ref()).or_else(|| of(resources.requests.as_ref()))
        };
        let memory = amount("memory").and_then(|amount| u64::try_from(amount.value()).ok()).unwrap_or(0);
        let cpu = amount("cpu").and_then(|amount| u64::try_from(amount.milli_value()).ok()).unwrap_or(0);
        basis.memory = basis.memory.max(memory);
        basis.cpu = basis.cpu.max(cpu);
        let size = pool.storage.as_ref().and_then(|storage| storage.size.as_ref()).and_then(|size| parse(size));
        if let Some(size) = size.and_then(|size| u64::try_from(size.value()).ok()).filter(|size| *size > 0) {
            basis.disk = if basis.disk == 0 { size } else { basis.disk.min(size) };
        }
    }
    basis
}

fn parse(text: &str) -> Option<Quantity> {
    text.parse().ok()
}

fn map(scope: &Scope<'_>, name: String, component: Component, key: &str, text: &str) -> ConfigMap {
    ConfigMap {
        metadata: scope.meta(name, scope.labels(component)),
        data: Some(BTreeMap::from([(key.to_owned(), text.to_owned())])),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_read_back_have_the_same_hashes() {
        let inline = BTreeMap::from([("work_mem".to_owned(), "9MB".to_owned())]);
        let reference = "max_connections = 200\ninclude_dir = 'conf.d'\n";
        let rendered = pgconfig::render(&Identity::default(), &Sizing::of(Basis::default()), Some(reference), &inline);
        assert_eq!(reread(&rendered.text), rendered);
    }
}
