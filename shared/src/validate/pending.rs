//! What manifests may say and this version cannot do. What would be ignored is told; what could only go wrong is refused.

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::api::v1alpha1::{
    BackupConfig, BackupType, EtcdSpec, ExternalTopoServerSpec, KeyPrefixScope, MultigresClusterSpec,
};
use crate::field_path::At;
use crate::merge::Merge;
use crate::name::PUBLIC_CERTIFICATE;
use crate::resolve::{self, GlobalTopo, ResolvedCluster, defaults};

use super::{Findings, field};

/// What the spec itself shows.
pub fn written(findings: &mut Findings<'_>, spec: &MultigresClusterSpec) {
    certificates(findings, spec);
    bootstrap(findings, spec);
    one_location(findings, spec);
}

/// What shows in what the spec resolves to.
pub fn resolved(findings: &mut Findings<'_>, resolved: &ResolvedCluster) {
    match &resolved.global_topo {
        GlobalTopo::External(external) => topology(findings, &At::Root("globalTopoServer.external"), external),
        GlobalTopo::Managed(topo) => etcd(findings, &At::Root("globalTopoServer.etcd"), topo.etcd.as_ref()),
    }
    claims(findings, &At::Root("multiadmin"), resolved.multiadmin.spec.resources.as_ref());
    claims(findings, &At::Root("multiadminWeb"), resolved.multiadmin_web.spec.resources.as_ref());
    let cells = At::Root("cells");
    for cell in &resolved.cells {
        let at = cells.key(&cell.name);
        claims(findings, &at.field("multigateway"), cell.multigateway.resources.as_ref());
        if let Some(local) = &cell.topo_server {
            let at = at.field("localTopoServer");
            etcd(findings, &at.field("etcd"), local.etcd.as_ref());
            if let Some(external) = &local.external {
                topology(findings, &at.field("external"), external);
            }
        }
    }
    resolved.each_shard(&mut |at, shard| {
        claims(findings, &at.field("multiorch"), shard.multiorch.resources.as_ref());
        let pools = at.field("pools");
        for (name, pool) in &shard.pools {
            let at = pools.key(name);
            for (name, container) in [("postgres", &pool.postgres), ("multipooler", &pool.multipooler)] {
                let resources = container.as_ref().and_then(|one| one.resources.as_ref());
                claims(findings, &at.field(name), resources);
            }
        }
    });
}

/// A topology server is spoken to in its own protocol, and there is one that we know.
fn topology(findings: &mut Findings<'_>, at: &At<'_>, external: &ExternalTopoServerSpec) {
    let known = defaults::TOPO_IMPLEMENTATION;
    if let Some(given) = external.implementation.as_deref().filter(|given| *given != known) {
        let message = format!("the data plane and the operator speak only {known:?}; write that, or leave it out");
        findings.invalid(&at.field("implementation"), given, message);
    }
}

fn etcd(findings: &mut Findings<'_>, at: &At<'_>, etcd: Option<&EtcdSpec>) {
    claims(findings, at, etcd.and_then(|etcd| etcd.resources.as_ref()));
}

/// A container can only ask for what its pod declares, and nothing here says what that would be: the API server refuses such pods.
fn claims(findings: &mut Findings<'_>, at: &At<'_>, resources: Option<&ResourceRequirements>) {
    let given = resources.and_then(|resources| resources.claims.as_ref()).filter(|claims| !claims.is_empty());
    if let Some(given) = given {
        let names = given.iter().map(|claim| claim.name.as_str()).collect::<Vec<_>>().join(", ");
        let message = "pods declare no resource claims, so none of their containers can ask for one; remove it";
        findings.invalid(&at.field("resources").field("claims"), names, message);
    }
}

/// A certificate that clients have no reason to trust.
fn certificates(findings: &mut Findings<'_>, spec: &MultigresClusterSpec) {
    if let Some(name) = spec.cert_common_name.as_deref().filter(|name| !name.is_empty()) {
        let at = At::Root("certCommonName");
        if !is_host(name) {
            findings.invalid(
                &at,
                name,
                "is no DNS name, so no client could verify it; write one such as db.example.com",
            );
            return;
        }
        let message = format!(
            "unless Secret {PUBLIC_CERTIFICATE} is there already, the certificate for {name} is signed by the cluster's own authority, \
             which clients have to be given (key ca.crt of that Secret)"
        );
        findings.warn(&at, message);
    }
}

/// Whether certificates can be made out to a name, of which the first part may stand for all.
fn is_host(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name).to_ascii_lowercase();
    name.split('.').all(|label| label.len() <= 63 && field::is_label(label))
}

/// The data plane restores into an empty data directory the newest backup of the repository that its shard itself writes to. It takes no
/// other repository, no backup by name and no time.
fn bootstrap(findings: &mut Findings<'_>, spec: &MultigresClusterSpec) {
    let databases = At::Root("databases");
    for database in &spec.databases {
        let Some(bootstrap) = &database.bootstrap else { continue };
        let from = &bootstrap.from_backup;
        let given = [("repository", &from.repository), ("set", &from.set), ("targetTime", &from.target_time)];
        let shown: Vec<String> =
            given.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?))).collect();
        findings.forbidden(
            &databases.key(&database.name).field("bootstrap").field("fromBackup"),
            shown.join(", "),
            "the data plane cannot begin a database with a backup of another repository, with a backup of your choice or at a point in \
             time: a shard restores only the newest backup of the repository that it writes to itself; remove bootstrap, and bring the \
             rows into the new cluster with a dump",
        );
    }
}

/// The data plane keeps one repository location per database, so all shards of a database have to name the same one.
fn one_location(findings: &mut Findings<'_>, spec: &MultigresClusterSpec) {
    let databases = At::Root("databases");
    for database in &spec.databases {
        let at = databases.key(&database.name);
        // What cannot be read under the other spelling keeps the cluster from being resolved, which tells.
        let groups = resolve::table_groups(database, &at, &mut Vec::new());
        let place = Location::of([spec.backup.as_ref(), database.backup.as_ref()].into_iter().flatten());
        if groups.len() > 1 && place.text.starts_with("s3://") {
            let message = format!(
                "all of them would keep their backups in {}, below one path: the data plane has no path of its own for each, so only \
                 the first one can be bootstrapped; use one table group, or backups of type filesystem",
                place.text
            );
            findings.warn(&at.field("tablegroups"), message);
        }
        let own = |group: &crate::api::v1alpha1::TableGroupConfig| {
            group.backup.is_some() || group.shards.iter().any(|shard| shard.backup.is_some())
        };
        if !groups.iter().any(own) {
            continue;
        }
        let mut first: Option<(Location, String)> = None;
        let list = at.field("tablegroups");
        for group in groups.iter() {
            let at = list.key(&group.name);
            let shards = at.field("shards");
            let above = [spec.backup.as_ref(), database.backup.as_ref(), group.backup.as_deref()];
            let named = group.shards.iter().map(|shard| (shards.key(&shard.name), shard.backup.as_deref()));
            // A group without shards has one, which inherits everything.
            let sole = group.shards.is_empty().then(|| (shards.key(defaults::SHARD), None));
            for (at, backup) in named.chain(sole) {
                let location = Location::of(above.into_iter().chain([backup]).flatten());
                match &first {
                    None => first = Some((location, at.to_string())),
                    Some((known, _)) if *known == location => {}
                    Some((_, other)) => findings.forbidden(
                        &at.field("backup"),
                        &location.text,
                        format!(
                            "shards of one database keep their backups in one place, and {other} has another one; set it on the \
                             database, or make it the same for all of them"
                        ),
                    ),
                }
            }
        }
    }
}

/// What the data plane is told about a repository.
#[derive(PartialEq)]
struct Location {
    text: String,
    scope: Option<KeyPrefixScope>,
    endpoint: Option<String>,
    region: Option<String>,
    from_environment: bool,
    encrypted: bool,
}

impl Location {
    /// Of levels laid over each other, the lowest first.
    fn of<'b>(levels: impl Iterator<Item = &'b BackupConfig>) -> Self {
        let mut backup: Option<BackupConfig> = None;
        for level in levels {
            let fresh = || BackupConfig { r#type: level.r#type, ..BackupConfig::default() };
            backup.get_or_insert_with(fresh).merge(level);
        }
        let backup = backup.unwrap_or_default();
        let s3 = backup.s3.as_ref().filter(|_| backup.r#type == BackupType::S3);
        let path = backup.filesystem.as_ref().and_then(|files| files.path.as_deref()).filter(|path| !path.is_empty());
        let text = match s3 {
            Some(s3) => {
                let prefix = s3.key_prefix.as_deref().unwrap_or_default();
                let scope = s3.key_prefix_scope.map(|scope| format!(" (keyPrefixScope {scope})")).unwrap_or_default();
                format!("s3://{}/{prefix}{scope}", s3.bucket)
            }
            None => path.unwrap_or(defaults::BACKUP_PATH).to_owned(),
        };
        Self {
            text,
            scope: s3.and_then(|s3| s3.key_prefix_scope),
            endpoint: s3.and_then(|s3| s3.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
            region: s3.map(|s3| s3.region.clone()),
            from_environment: s3.and_then(|s3| s3.use_env_credentials).unwrap_or_default(),
            encrypted: backup.encryption.is_some(),
        }
    }
}
