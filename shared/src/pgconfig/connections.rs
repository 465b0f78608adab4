//! How many connections to its server a pooler may keep open.

use std::collections::BTreeMap;

use super::replication::whole;

/// Size of the pool beside a server with the settings of the baseline.
pub const USUAL_POOL: u64 = 40;

/// Connections that are left for everybody who does not come through the pool: the pooler's own administration, the exporter, backups,
/// and people.
const OTHERS: u64 = 17;

/// Size of the pool beside a server that takes `max_connections` and has these settings otherwise. It follows the server, or a user who
/// gives it more connections would not get more through a gateway, and one who gives it fewer would be refused some.
pub fn pool_size(max_connections: u64, settings: &BTreeMap<String, String>) -> u64 {
    let value = |name: &str, built_in: u64| settings.get(name).and_then(|text| whole(name, text)).unwrap_or(built_in);
    let reserved = value("superuser_reserved_connections", 3) + value("reserved_connections", 0);
    // Of very few connections the pool gets a third, whoever is left out then.
    max_connections.saturating_sub(OTHERS + reserved).max(max_connections / 3).max(1)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::{Basis, Identity, Sizing, render};
    use super::*;

    #[rstest]
    #[case::as_it_is(&[], USUAL_POOL)]
    #[case::more(&[("max_connections", "300")], 280)]
    #[case::fewer(&[("max_connections", "30")], 10)]
    #[case::hardly_any(&[("max_connections", "2")], 1)]
    #[case::reserved(&[("max_connections", "100"), ("reserved_connections", "10")], 70)]
    #[case::reserved_for_superusers(&[("max_connections", "100"), ("superuser_reserved_connections", "13")], 70)]
    fn the_pool_follows_the_server(#[case] settings: &[(&str, &str)], #[case] expected: u64) {
        let inline = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let rendered = render(&Identity::default(), &Sizing::of(Basis::default()), None, &inline);
        let connections = rendered.critical().max_connections().unwrap();
        assert_eq!(pool_size(connections, &rendered.restart), expected);
    }
}
