//! Keys of the topology tree. They are byte-equal to what the data plane reads and writes.

use super::{Component, Error, PoolerId, Result, ShardKey};

/// Directory of the cell records below the global root.
pub const CELLS: &str = "cells";
/// Directory of the database records below the global root.
pub const DATABASES: &str = "databases";
/// Directory of the pooler records below a cell's root.
pub const POOLERS: &str = "poolers";

/// Joins a root and a relative path: repeated slashes collapse, `.` and `..` resolve, no trailing slash, and no leading slash that
/// the root does not have.
pub fn join(root: &str, relative: &str) -> String {
    let absolute = root.starts_with('/') || (root.is_empty() && relative.starts_with('/'));
    let mut parts: Vec<&str> = Vec::new();
    for part in root.split('/').chain(relative.split('/')) {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                // Above the top of an absolute path is the top.
                _ if absolute => {}
                _ => parts.push(".."),
            },
            _ => parts.push(part),
        }
    }
    let path = parts.join("/");
    if absolute { format!("/{path}") } else { path }
}

/// Prefix of everything in a directory. The slash keeps `poolers` apart from `poolersX`.
pub fn directory(root: &str, relative: &str) -> String {
    let mut prefix = join(root, relative);
    prefix.push('/');
    prefix
}

/// Key of a cell record.
pub fn cell(root: &str, name: &str) -> Result<String> {
    Ok(join(root, &format!("{CELLS}/{}/Cell", segment("cell", name)?)))
}

/// Key of a database record.
pub fn database(root: &str, name: &str) -> Result<String> {
    Ok(join(root, &format!("{DATABASES}/{}/Database", segment("database", name)?)))
}

/// End of the keys that say of a shard that it was bootstrapped.
pub const BOOTSTRAPPED: &str = "/ShardInitClaim";

/// Key of the lease on the repository of a shard, and the start of those that its predecessors used.
pub fn backup_lease(root: &str, shard: &ShardKey) -> Result<String> {
    let (database, group) = (segment("database", &shard.database)?, segment("table group", &shard.table_group)?);
    Ok(join(root, &format!("backups/{database}/{group}/{}/lock", segment("shard", &shard.shard)?)))
}

/// Prefix of everything that the data plane keeps below a database.
pub fn bootstraps(root: &str, name: &str) -> Result<String> {
    Ok(directory(root, &format!("{DATABASES}/{}", segment("database", name)?)))
}

/// Key of a pooler record.
pub fn pooler(root: &str, id: &PoolerId) -> Result<String> {
    let component = pooler_component(segment("cell", &id.cell)?, segment("pooler", &id.name)?);
    Ok(join(root, &format!("{POOLERS}/{component}/Pooler")))
}

/// Key of a gateway or orchestrator record.
pub fn registration(root: &str, component: Component, cell: &str, name: &str) -> Result<String> {
    let id = registration_component(component, segment("cell", cell)?, segment("service", name)?);
    Ok(join(root, &format!("{}/{id}/{}", registrations(component), file(component))))
}

/// Directory of the records of a component below a cell's root.
pub fn registrations(component: Component) -> &'static str {
    match component {
        Component::Gateway => "gateways",
        Component::Orch => "orchs",
    }
}

/// File name of a record of a component.
pub fn file(component: Component) -> &'static str {
    match component {
        Component::Gateway => "Gateway",
        Component::Orch => "Orch",
    }
}

/// Path segment of a pooler: `multipooler-{cell}-{name}`.
pub fn pooler_component(cell: &str, name: &str) -> String {
    format!("multipooler-{cell}-{name}")
}

/// Path segment of a gateway or an orchestrator.
pub fn registration_component(component: Component, cell: &str, name: &str) -> String {
    let kind = match component {
        Component::Gateway => "multigateway",
        Component::Orch => "multiorch",
    };
    format!("{kind}-{cell}-{name}")
}

/// The middle segment of `{directory}{segment}/{file}`; `None` for everything else that lies below the directory.
pub fn entry<'a>(directory: &str, file: &str, key: &'a str) -> Option<&'a str> {
    let (segment, name) = key.strip_prefix(directory)?.split_once('/')?;
    (name == file && !segment.is_empty()).then_some(segment)
}

/// A name that may stand alone between two slashes. Anything else would reach records of others.
fn segment<'a>(kind: &str, name: &'a str) -> Result<&'a str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::Invalid {
            what: format!("{kind} name {name:?}"),
            detail: "it cannot be a part of a topology key".to_owned(),
        });
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/multigres/global", "cells/zone-a/Cell", "/multigres/global/cells/zone-a/Cell")]
    #[case("/multigres/global/", "cells", "/multigres/global/cells")]
    #[case("//multigres///global", "./cells", "/multigres/global/cells")]
    #[case("/multigres/x/../global", "cells/", "/multigres/global/cells")]
    #[case("multigres", "cells", "multigres/cells")]
    #[case("", "cells", "cells")]
    #[case("/", "cells", "/cells")]
    #[case("/../..", "cells", "/cells")]
    #[case("a/../..", "cells", "../cells")]
    fn roots_are_cleaned_and_never_made_absolute(#[case] root: &str, #[case] relative: &str, #[case] key: &str) {
        assert_eq!(join(root, relative), key);
    }

    #[test]
    fn keys_equal_those_of_the_data_plane() {
        let root = "/multigres/global";
        assert_eq!(cell(root, "zone-a").unwrap(), "/multigres/global/cells/zone-a/Cell");
        assert_eq!(database(root, "postgres").unwrap(), "/multigres/global/databases/postgres/Database");
        assert_eq!(
            pooler(root, &PoolerId::new("zone-a", "p-0badcafe")).unwrap(),
            "/multigres/global/poolers/multipooler-zone-a-p-0badcafe/Pooler"
        );
        assert_eq!(
            registration(root, Component::Gateway, "zone-a", "x1").unwrap(),
            "/multigres/global/gateways/multigateway-zone-a-x1/Gateway"
        );
        assert_eq!(
            registration(root, Component::Orch, "zone-a", "x1").unwrap(),
            "/multigres/global/orchs/multiorch-zone-a-x1/Orch"
        );
        assert_eq!(directory(root, POOLERS), "/multigres/global/poolers/");
        let shard = ShardKey::new("postgres", "default", "0-inf");
        assert_eq!(backup_lease(root, &shard).unwrap(), "/multigres/global/backups/postgres/default/0-inf/lock");
    }

    #[rstest]
    #[case("")]
    #[case("..")]
    #[case("a/b")]
    fn names_that_would_leave_their_directory_are_refused(#[case] name: &str) {
        assert_eq!(cell("/r", name).unwrap_err().reason(), "Invalid");
        assert_eq!(database("/r", name).unwrap_err().reason(), "Invalid");
        assert_eq!(pooler("/r", &PoolerId::new("zone-a", name)).unwrap_err().reason(), "Invalid");
    }

    #[test]
    fn locks_and_claims_below_a_database_are_not_records() {
        let directory = directory("/r", DATABASES);
        assert_eq!(entry(&directory, "Database", "/r/databases/postgres/Database"), Some("postgres"));
        assert_eq!(entry(&directory, "Database", "/r/databases/postgres/default/0-inf/ShardInitClaim"), None);
        assert_eq!(entry(&directory, "Database", "/r/databases/postgres/default/0-inf/locks/17"), None);
    }
}
