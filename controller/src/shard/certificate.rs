//! Generated certificates for pgBackRest: an authority and one leaf per shard, renewed long before they end.
//!
//! Key material is random, so it is made while observing and handed to `decide` as a value. The leaf is made only from an authority
//! that is stored already: two passes that race then agree about who signed it.
//!
//! A pgBackRest server reads its certificate and its authorities when it starts. Pods remember what that was: a new authority is brought to
//! all of them before it signs anything, and a new leaf with the next replacement, or when the old one is about to end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ContainerStatus, Pod, Secret},
};
use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};
use shared::{
    annotation::PGBACKREST_CERTIFICATE,
    label::Component,
    name,
    pki::{self, Authority, Certificate, Pair, Policy, Request},
};

use super::{pod::is_foreign, scope::Scope};
use crate::{cluster::tls::Content, error::Error, stores::Stores};

/// Name that pgBackRest's server authorises.
const COMMON_NAME: &str = "pgbackrest";
const AUTHORITY_NAME: &str = "Multigres CA";
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// How long before the end of what a server was started with its pod is replaced for the sake of it.
const ADOPT_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 14);
/// How long before its end a Secret of the user's is worth a word: as early as one of ours would be renewed.
const TELL_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// A new authority signs nothing before every pod has been replaced with it, which takes as long as a rollout.
const OVERLAP: SignedDuration = SignedDuration::from_hours(24 * 7);
/// Digits of the digest of an authority.
const DIGITS: usize = 16;

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
    /// What a server would be started with now.
    pub served: Option<Served>,
}

/// What a pgBackRest server is started with, as far as it matters later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The end of its certificate, or of the authority that has signed it.
    until: Timestamp,
    /// Digest of the newest authority that it trusts.
    authority: String,
}

impl Served {
    /// Reads a certificate and the authorities beside it; none where they are not fit to be served.
    pub fn of(authorities: &str, leaf: &str) -> Option<Self> {
        let authorities = Certificate::all(authorities).ok()?;
        let leaf = Certificate::first(leaf).ok()?;
        let signer = authorities.iter().find(|authority| leaf.signed_by(authority));
        let until = signer.map_or(leaf.not_after(), |signer| signer.not_after().min(leaf.not_after()));
        let authority = hex::encode(Sha256::digest(authorities.first()?.der()))[..DIGITS].to_owned();
        Some(Self { until, authority })
    }

    /// What is in a Secret of the user's.
    pub fn of_user(content: &Content) -> Option<Self> {
        Self::of(content.get(CA_KEYS[0])?, content.get(LEAF_KEYS[0])?)
    }

    /// When it ends, where that is so soon that whoever provides it should hear of it.
    pub fn ends_soon(&self, now: Timestamp) -> Option<Timestamp> {
        (self.until.duration_since(now) < TELL_BEFORE).then_some(self.until)
    }

    /// Judges a running pod by what it would be started with now.
    ///
    /// A pod without a mark was made while nobody could say what its files were to hold, as while a Secret of the user's could not be read.
    /// What a server reads is what its Secret holds when it starts: one that has not started yet starts with what is known by now, or with
    /// something newer. One that has started may have read anything that was there before, which ends at any time, so it is made anew.
    pub fn judge(&self, pod: &Pod, now: Timestamp) -> Standing {
        let mark: Option<Self> = pod.annotations().get(PGBACKREST_CERTIFICATE).and_then(|mark| mark.parse().ok());
        let Some(live) = mark else { return unmarked(pod) };
        if live.authority != self.authority {
            return Standing::Outlived("pgBackRest was started with another authority".to_owned());
        }
        if live.until.duration_since(now) < ADOPT_BEFORE && live.until < self.until {
            return Standing::Outlived(format!(
                "the certificate that pgBackRest was started with ends at {}",
                live.until
            ));
        }
        Standing::Fine
    }
}

/// How a running pod stands to what its pgBackRest server would be started with now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can stay as it is.
    Fine,
    /// It was made without a mark and has not started its server yet: it gets the mark of what it starts with.
    Unmarked,
    /// It should be made anew, for this reason.
    Outlived(String),
}

/// How a pod stands that does not remember what it was made with.
fn unmarked(pod: &Pod) -> Standing {
    // Another operator remembers nothing of the kind, and its pods stay as they are.
    if is_foreign(pod) {
        return Standing::Fine;
    }
    if has_started(pod) {
        return Standing::Outlived("nobody knows which certificate pgBackRest was started with".to_owned());
    }
    Standing::Unmarked
}

/// Whether a process of a pod runs or has run.
fn has_started(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let ran = |container: &ContainerStatus| {
        let state = container.state.as_ref();
        container.restart_count > 0 || state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    let pending = status.phase.as_deref().is_none_or(|phase| phase == "Pending");
    !pending || containers.into_iter().flatten().flatten().any(ran)
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.until, self.authority)
    }
}

/// A text that names no time and no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

impl FromStr for Served {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let (until, authority) = text.split_once(' ').ok_or(Unreadable)?;
        Ok(Self { until: until.parse().map_err(|_| Unreadable)?, authority: authority.to_owned() })
    }
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
    let policy = Policy { overlap: OVERLAP, ..Policy::default() };
    let wanted =
        Request { common_name: COMMON_NAME.into(), dns_names: names(scope, cluster_domain), valid_for: LEAF_LIFE };
    let ca_pair = ca.map(|secret| pair(secret, CA_KEYS));
    let leaf_pair = leaf.map(|secret| pair(secret, LEAF_KEYS));
    due.served =
        ca_pair.as_ref().zip(leaf_pair.as_ref()).and_then(|(ca, leaf)| Served::of(&ca.certificate, &leaf.certificate));
    let mut write =
        |exists: bool, secret: Secret| if exists { due.renew.push(secret) } else { due.create.push(secret) };
    match (pki::plan(ca_pair.as_ref(), leaf_pair.as_ref(), &wanted, policy, now), ca_pair) {
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

    use k8s_openapi::api::core::v1::{ContainerState, ContainerStateRunning, ContainerStateWaiting, PodStatus};
    use shared::annotation::SPEC_HASH;

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
        (2..11).for_each(|year| assert_eq!(settle(&scope, &stores, days(340 * year)), 1, "year {year}"));
        let before = served(&scope, &stores);
        assert_eq!(settle(&scope, &stores, days(3630)), 1);
        let ca = stores.secrets.get("prod", "minimal-postgres-default-0-inf-1e3c045c-pgbackrest-ca").unwrap();
        assert_eq!(pki::Certificate::all(&pair(&ca, CA_KEYS).certificate).unwrap().len(), 2, "overlap");
        // The successor signs when every server has it.
        let during = served(&scope, &stores);
        assert!(during.authority != before.authority && during.until == before.until, "{during} after {before}");
        assert_eq!(settle(&scope, &stores, days(3636)), 0);
        assert_eq!(settle(&scope, &stores, days(3638)), 1);
        assert!(served(&scope, &stores).until > during.until);
    }

    fn served(scope: &Scope<'_>, stores: &Stores) -> Served {
        observe(scope, stores, "cluster.local", NOW).unwrap().served.unwrap()
    }

    /// A pod of ours with a server that runs.
    fn running() -> Pod {
        let mut pod = Pod::default();
        pod.annotations_mut().insert(SPEC_HASH.to_owned(), "0123456789abcdef".to_owned());
        pod.status = Some(PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() });
        pod
    }

    fn made_with(served: &Served) -> Pod {
        let mut pod = running();
        pod.annotations_mut().insert(PGBACKREST_CERTIFICATE.to_owned(), served.to_string());
        pod
    }

    /// Why a pod should be made anew.
    fn why(served: &Served, pod: &Pod, now: Timestamp) -> Option<String> {
        match served.judge(pod, now) {
            Standing::Outlived(why) => Some(why),
            Standing::Fine => None,
            Standing::Unmarked => panic!("it has a mark"),
        }
    }

    #[test]
    fn a_server_gets_its_next_certificate_two_weeks_before_the_end_of_its_own() {
        let shard = fixture::minimal();
        let scope = Scope::of(&shard).unwrap();
        let stores = Stores::default();
        settle(&scope, &stores, NOW);
        let pod = made_with(&served(&scope, &stores));
        settle(&scope, &stores, days(340));
        let next = served(&scope, &stores);
        assert_eq!(why(&next, &pod, days(340)), None, "there is time");
        let said = why(&next, &pod, days(352)).unwrap();
        assert!(said.starts_with("the certificate that pgBackRest was started with ends at "), "{said}");
        assert_eq!(why(&next, &made_with(&next), days(352)), None);
    }

    #[test]
    fn a_pod_without_a_mark_gets_one_before_it_starts_and_is_made_anew_after() {
        let served: Served = format!("{} 0123456789abcdef", days(365)).parse().unwrap();
        let container = |state: ContainerState, restart_count| ContainerStatus {
            name: "postgres".to_owned(),
            state: Some(state),
            restart_count,
            ..ContainerStatus::default()
        };
        let waiting =
            || ContainerState { waiting: Some(ContainerStateWaiting::default()), ..ContainerState::default() };
        let pending = |sidecar| {
            let mut pod = running();
            pod.status = Some(PodStatus {
                phase: Some("Pending".to_owned()),
                init_container_statuses: Some(vec![sidecar]),
                ..PodStatus::default()
            });
            pod
        };
        // Files are mounted before anything starts, and a pod waits for a Secret that is away.
        assert_eq!(served.judge(&pending(container(waiting(), 0)), NOW), Standing::Unmarked);
        let mut nowhere = running();
        nowhere.status = None;
        assert_eq!(served.judge(&nowhere, NOW), Standing::Unmarked);

        let runs = ContainerState { running: Some(ContainerStateRunning::default()), ..ContainerState::default() };
        let unknown = Some("nobody knows which certificate pgBackRest was started with".to_owned());
        for pod in [running(), pending(container(runs, 0)), pending(container(waiting(), 1))] {
            assert_eq!(why(&served, &pod, NOW), unknown, "{:?}", pod.status);
        }
        let mut garbled = running();
        garbled.annotations_mut().insert(PGBACKREST_CERTIFICATE.to_owned(), "garbage".to_owned());
        assert_eq!(why(&served, &garbled, NOW), unknown);
        // Another operator's.
        let mut foreign = running();
        foreign.annotations_mut().insert(SPEC_HASH.to_owned(), "01234567".to_owned());
        assert_eq!(why(&served, &foreign, NOW), None);
    }

    #[test]
    fn a_server_gets_a_new_authority_at_once() {
        let old = Authority::generate("CA", NOW, AUTHORITY_LIFE).unwrap();
        let new = Authority::generate("CA", NOW, AUTHORITY_LIFE).unwrap();
        let wanted = Request { common_name: COMMON_NAME.into(), dns_names: BTreeSet::new(), valid_for: LEAF_LIFE };
        let leaf = old.issue(&wanted, NOW).unwrap().certificate;
        let both = pki::bundle(&new.pair().certificate, &old.pair().certificate, NOW).unwrap();
        let before = Served::of(&old.pair().certificate, &leaf).unwrap();
        let after = Served::of(&both, &leaf).unwrap();
        assert_eq!(before.until, after.until);
        let said = why(&after, &made_with(&before), NOW);
        assert_eq!(said.as_deref(), Some("pgBackRest was started with another authority"));
        assert_eq!(why(&after, &made_with(&after), NOW), None);
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
