//! Generated certificates for pgBackRest: an authority and one leaf per shard, renewed long before they end.
//!
//! Key material is random, so it is made while observing and handed to `decide` as a value. The leaf is made only from an authority
//! that is stored already: two passes that race then agree about who signed it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use shared::{
    label::Component,
    name,
    pki::{self, Authority, Pair, Policy, Request},
};

use super::scope::Scope;
use crate::{error::Error, stores::Stores};

/// Name that pgBackRest's server authorises.
const COMMON_NAME: &str = "pgbackrest";
const AUTHORITY_NAME: &str = "Multigres CA";
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);

const CA_KEYS: [&str; 2] = ["ca.crt", "ca.key"];
const LEAF_KEYS: [&str; 2] = ["tls.crt", "tls.key"];

/// What has to be written, and whether pods can mount what there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Certificates {
    /// Secrets that do not exist.
    pub create: Vec<Secret>,
    /// Secrets whose content is replaced.
    pub renew: Vec<Secret>,
    /// Whether authority and leaf both exist.
    pub ready: bool,
}

/// Looks at the stored Secrets and makes what is due. Nothing is due without backups or with the user's own certificates.
pub fn observe(
    scope: &Scope<'_>,
    stores: &Stores,
    cluster_domain: &str,
    now: Timestamp,
) -> Result<Certificates, Error> {
    if scope.backup().is_none() || scope.user_tls_secret().is_some() {
        return Ok(Certificates::default());
    }
    let ca_name = name::pgbackrest_ca(scope.object);
    let leaf_name = name::pgbackrest_tls(scope.object);
    let ca = stores.secrets.get(scope.namespace, &ca_name);
    let leaf = stores.secrets.get(scope.namespace, &leaf_name);
    due(scope, ca.as_deref(), leaf.as_deref(), cluster_domain, now)
        .map_err(|source| Error::Pki { object: format!("Secrets {ca_name} and {leaf_name}"), source })
}

fn due(
    scope: &Scope<'_>,
    ca: Option<&Secret>,
    leaf: Option<&Secret>,
    cluster_domain: &str,
    now: Timestamp,
) -> Result<Certificates, pki::Error> {
    let mut due = Certificates { ready: ca.is_some() && leaf.is_some(), ..Certificates::default() };
    let wanted =
        Request { common_name: COMMON_NAME.into(), dns_names: names(scope, cluster_domain), valid_for: LEAF_LIFE };
    let ca_pair = ca.map(|secret| pair(secret, CA_KEYS));
    let leaf_pair = leaf.map(|secret| pair(secret, LEAF_KEYS));
    let mut write =
        |exists: bool, secret: Secret| if exists { due.renew.push(secret) } else { due.create.push(secret) };
    match (pki::plan(ca_pair.as_ref(), leaf_pair.as_ref(), &wanted, Policy::default(), now), ca_pair) {
        (pki::Plan::Keep, _) => {}
        (pki::Plan::RenewLeaf(_), Some(authority)) => {
            let issued = Authority::load(authority)?.issue(&wanted, now)?;
            write(leaf.is_some(), secret(scope, name::pgbackrest_tls(scope.object), LEAF_KEYS, issued));
        }
        (pki::Plan::RenewAuthority(_) | pki::Plan::RenewLeaf(_), before) => {
            let mut next = Authority::generate(AUTHORITY_NAME, now, AUTHORITY_LIFE)?.pair().clone();
            if let Some(before) = before {
                // Those who trust the predecessor must not be cut off while the successor spreads.
                next.certificate = pki::bundle(&next.certificate, &before.certificate, now)?;
            }
            write(ca.is_some(), secret(scope, name::pgbackrest_ca(scope.object), CA_KEYS, next));
        }
    }
    Ok(due)
}

/// Every name under which a pgBackRest server of the shard is dialled.
fn names(scope: &Scope<'_>, cluster_domain: &str) -> BTreeSet<String> {
    let hosts = scope.pools().into_iter().map(|pool| format!("*.{}", name::pool_headless(pool.id)));
    hosts
        .chain([COMMON_NAME.to_owned()])
        .flat_map(|host| {
            let short = format!("{host}.{}.svc", scope.namespace);
            [format!("{short}.{cluster_domain}"), short]
        })
        .collect()
}

fn pair(secret: &Secret, [certificate, key]: [&str; 2]) -> Pair {
    let text = |key: &str| {
        let bytes =
            secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone()).unwrap_or_default();
        // What is no text is no PEM either, and an empty one is renewed.
        String::from_utf8(bytes).unwrap_or_default()
    };
    Pair { certificate: text(certificate), key: text(key) }
}

fn secret(scope: &Scope<'_>, name: String, [certificate, key]: [&str; 2], pair: Pair) -> Secret {
    Secret {
        metadata: scope.meta(name, scope.labels(Component::PgbackrestTls)),
        type_: Some("Opaque".into()),
        data: Some(BTreeMap::from([
            (certificate.to_owned(), ByteString(pair.certificate.into_bytes())),
            (key.to_owned(), ByteString(pair.key.into_bytes())),
        ])),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::shard::tests::fixture;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn days(days: i64) -> Timestamp {
        NOW + SignedDuration::from_hours(24 * days)
    }

    /// Carries out what is due, until nothing is.
    fn settle(scope: &Scope<'_>, stores: &Stores, now: Timestamp) -> usize {
        for round in 0..10 {
            let due = observe(scope, stores, "cluster.local", now).unwrap();
            if due.create.is_empty() && due.renew.is_empty() {
                assert!(due.ready);
                return round;
            }
            due.create.into_iter().chain(due.renew).for_each(|secret| stores.secrets.insert(Arc::new(secret)));
        }
        panic!("certificates do not settle");
    }

    #[test]
    fn the_authority_comes_first_then_the_leaf() {
        let shard = fixture::minimal();
        let scope = Scope::of(&shard).unwrap();
        let stores = Stores::default();
        let first = observe(&scope, &stores, "cluster.local", NOW).unwrap();
        assert_eq!(first.create.len(), 1);
        assert!(!first.ready);
        assert_eq!(
            first.create[0].metadata.name.as_deref(),
            Some("minimal-postgres-default-0-inf-1e3c045c-pgbackrest-ca")
        );
        assert_eq!(settle(&scope, &stores, NOW), 2);
        let leaf = stores.secrets.get("prod", "minimal-postgres-default-0-inf-1e3c045c-pgbackrest-tls").unwrap();
        let certificate = pki::Certificate::first(&pair(&leaf, LEAF_KEYS).certificate).unwrap();
        assert_eq!(certificate.common_name(), "pgbackrest");
        assert_eq!(certificate.dns_names().len(), 4);
    }

    #[test]
    fn both_are_renewed_a_month_before_they_end() {
        let shard = fixture::minimal();
        let scope = Scope::of(&shard).unwrap();
        let stores = Stores::default();
        settle(&scope, &stores, NOW);
        assert_eq!(settle(&scope, &stores, days(300)), 0);
        assert_eq!(settle(&scope, &stores, days(340)), 1);
        assert!(settle(&scope, &stores, days(3630)) >= 1);
        let ca = stores.secrets.get("prod", "minimal-postgres-default-0-inf-1e3c045c-pgbackrest-ca").unwrap();
        assert_eq!(pki::Certificate::all(&pair(&ca, CA_KEYS).certificate).unwrap().len(), 2, "overlap");
    }

    #[test]
    fn own_certificates_of_the_user_leave_nothing_to_do() {
        let mut shard = fixture::minimal();
        shard.spec.backup.as_mut().unwrap().pgbackrest_tls =
            Some(shared::api::v1alpha1::PgbackrestTlsConfig { secret_name: Some("mine".into()) });
        let scope = Scope::of(&shard).unwrap();
        assert_eq!(observe(&scope, &Stores::default(), "cluster.local", NOW).unwrap(), Certificates::default());
    }
}
