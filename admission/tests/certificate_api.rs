//! The keeper of the certificates against a real API server: whatever happens to Secrets, bundles, processes and issuers, a client
//! that trusts only the `caBundle` of a configuration keeps getting through to every replica that is ready.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. Nothing but the API server runs there. Each test has
//! configurations of its own, so tests may run side by side.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test helpers outside of test functions"
)]

#[path = "certificate_api/bed.rs"]
mod bed;

use std::{path::Path, time::Duration};

use admission::certificate::Mode;
use bed::{Bed, CA, CERTS, DEADLINE, FOREIGN, Mount, SERVICE, eventually};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::events::v1::Event};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use shared::pki::{self, Authority, Certificate, Pair, Request, rotation::Policy};

/// How long a repair may take.
const REPAIR: Duration = Duration::from_secs(10);
const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn policy() -> Policy {
    Policy { overlap: Duration::from_secs(3), ..Policy::default() }
}

fn issue(authority: &Authority, namespace: &str, now: Timestamp, valid_for: SignedDuration) -> Pair {
    let request = Request {
        common_name: SERVICE.to_owned(),
        dns_names: [format!("{SERVICE}.{namespace}.svc")].into(),
        valid_for,
    };
    authority.issue(&request, now).unwrap()
}

fn first(pair: &Pair) -> Certificate {
    Certificate::first(&pair.certificate).unwrap()
}

/// The pair of a Secret, if it is as it should be and none of `not`.
async fn sound(bed: &Bed, name: &str, not: &[&Pair]) -> Result<Pair, String> {
    let pair = bed.pair(name).await.ok_or_else(|| format!("{name} is missing"))?;
    let certificate = Certificate::first(&pair.certificate).map_err(|error| error.to_string())?;
    if !pki::matches(&pair) || certificate.not_after() < Timestamp::now() {
        return Err(format!("{name} cannot be used"));
    }
    if not.contains(&&pair) {
        return Err(format!("{name} is still the same"));
    }
    Ok(pair)
}

/// Waits until everything fits together and nothing else is trusted.
async fn settled(bed: &Bed) -> (Pair, Pair) {
    eventually(DEADLINE, async || {
        let (ca, leaf) = (sound(bed, CA, &[]).await?, sound(bed, CERTS, &[]).await?);
        let bundle = bed.bundle().await?;
        if bundle != [first(&ca)] {
            return Err(format!("{} certificates are trusted", bundle.len()));
        }
        if first(&leaf).signed_by(&bundle[0]) { Ok((ca, leaf)) } else { Err("the leaf is another's".to_owned()) }
    })
    .await
}

async fn put(bed: &Bed, name: &str, pair: &Pair) {
    let (certificate, key) = if name == CA { ("ca.crt", "ca.key") } else { ("tls.crt", "tls.key") };
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data = json!({"data": {certificate: bytes(&pair.certificate), key: bytes(&pair.key)}});
    let api = bed.api::<k8s_openapi::api::core::v1::Secret>();
    api.patch(name, &PatchParams::default(), &Patch::Merge(data)).await.unwrap();
}

async fn delete(bed: &Bed, name: &str) {
    bed.api::<k8s_openapi::api::core::v1::Secret>().delete(name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_replica_keeps_the_certificates_without_a_lease() {
    let Some(mut bed) = Bed::open(policy()).await else { return };
    let one = bed.sole_replica(Mode::SelfSigned).await;
    one.ready().await;
    bed.connect_all_the_time();
    let (_, leaf) = settled(&bed).await;
    delete(&bed, CERTS).await;
    eventually(REPAIR, async || sound(&bed, CERTS, &[&leaf]).await).await;
    settled(&bed).await;
    let leases = bed.api::<k8s_openapi::api::coordination::v1::Lease>().list(&ListParams::default()).await.unwrap();
    assert!(leases.items.is_empty(), "{leases:?}");
    bed.assert_served(3);
    // It ends when it is told to.
    bed.remove(one).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_broken_is_repaired_in_time_and_no_client_notices() {
    let Some(mut bed) = Bed::open(policy()).await else { return };
    let (one, two) =
        (bed.replica(Mode::SelfSigned, Path::new("")).await, bed.replica(Mode::SelfSigned, Path::new("")).await);
    one.ready().await;
    two.ready().await;
    bed.connect_all_the_time();
    let (mut ca, mut leaf) = settled(&bed).await;
    assert_eq!(first(&leaf).dns_names().len(), 2);
    for name in [CA, CERTS] {
        let secret = bed.secret(name).await.unwrap();
        assert_eq!(secret.labels()["app.kubernetes.io/managed-by"], "multigres-operator");
        assert_eq!(secret.owner_references()[0].kind, "Deployment");
    }

    let other = Authority::generate("another", Timestamp::now(), HOUR * 24 * 365).unwrap();
    let then = Timestamp::now() - HOUR * 5;
    let expired = Authority::generate("expired", then, HOUR).unwrap();
    let garbage = Pair { certificate: "garbage".to_owned(), key: "garbage".to_owned() };
    for harm in 0..9 {
        let (name, bad) = match harm {
            0 => (CERTS, None),
            1 => (CA, None),
            2 => (CERTS, Some(garbage.clone())),
            3 => (CA, Some(garbage.clone())),
            4 => (CERTS, Some(Pair { key: other.pair().key.clone(), ..leaf.clone() })),
            5 => (CA, Some(Pair { key: other.pair().key.clone(), ..ca.clone() })),
            6 => (CERTS, Some(issue(&other, &bed.namespace, Timestamp::now(), HOUR * 24 * 365))),
            7 => (CERTS, Some(issue(&Authority::load(ca.clone()).unwrap(), &bed.namespace, then, HOUR))),
            _ => (CA, Some(expired.pair().clone())),
        };
        match &bad {
            None => delete(&bed, name).await,
            Some(bad) => put(&bed, name, bad).await,
        }
        let not: Vec<&Pair> = [&ca, &leaf].into_iter().chain(&bad).collect();
        // A leaf of somebody else waits for the same grace as any new leaf.
        let within = if harm == 6 { REPAIR * 2 } else { REPAIR };
        eventually(within, async || sound(&bed, name, &not).await).await;
        (ca, leaf) = settled(&bed).await;
        bed.assert_served(1);
    }
    delete(&bed, CA).await;
    delete(&bed, CERTS).await;
    eventually(REPAIR, async || sound(&bed, CERTS, &[&leaf]).await).await;
    (ca, _) = settled(&bed).await;

    for (mutating, bundle) in [(true, ""), (false, ""), (true, "garbage"), (false, other.pair().certificate.as_str())] {
        bed.tamper(mutating, &format!("{FOREIGN}{bundle}")).await;
        eventually(REPAIR, async || {
            let bundles = bed.bundles().await;
            let good = |bundle: &String| Certificate::first(bundle).is_ok_and(|newest| newest == first(&ca));
            if bundles.iter().all(good) { Ok(()) } else { Err("a bundle is not repaired".to_owned()) }
        })
        .await;
        settled(&bed).await;
    }
    bed.assert_served(200);

    let events = bed.api::<Event>().list(&ListParams::default()).await.unwrap();
    let told = |reason: &str| events.iter().any(|event| event.reason.as_deref() == Some(reason));
    assert!(told("Generated") && told("Repaired") && told("Rotated"), "{events:?}");
    bed.remove(one).await;
    bed.remove(two).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lived_authorities_and_leaves_are_rotated_without_a_failure() {
    let second = SignedDuration::from_secs(1);
    let short = Policy {
        authority_validity: second * 40,
        leaf_validity: second * 24,
        renew_before: second * 20,
        grace: Duration::from_secs(3),
        urgent_grace: Duration::from_secs(1),
        overlap: Duration::from_secs(2),
        ..Policy::default()
    };
    let Some(mut bed) = Bed::open(short).await else { return };
    let (one, two) =
        (bed.replica(Mode::SelfSigned, Path::new("")).await, bed.replica(Mode::SelfSigned, Path::new("")).await);
    one.ready().await;
    two.ready().await;
    bed.connect_all_the_time();
    for _ in 0..2 {
        let before = bed.pair(CA).await.unwrap();
        let next = eventually(DEADLINE, async || sound(&bed, CA, &[&before]).await).await;
        eventually(DEADLINE, async || {
            let bundle = bed.bundle().await?;
            if bundle.contains(&first(&next)) && !bundle.contains(&first(&before)) {
                return Ok(());
            }
            Err("the old authority is still trusted, or the new one is not".to_owned())
        })
        .await;
    }
    bed.assert_served(200);
    bed.remove(one).await;
    bed.remove(two).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_goes_on_when_the_holder_of_the_lease_dies() {
    let Some(mut bed) = Bed::open(policy()).await else { return };
    let one = bed.replica(Mode::SelfSigned, Path::new("")).await;
    one.ready().await;
    let two = bed.replica(Mode::SelfSigned, Path::new("")).await;
    two.ready().await;
    bed.connect_all_the_time();
    let (_, leaf) = settled(&bed).await;
    assert_eq!(bed.holder().await.as_ref(), Some(&one.identity));
    bed.kill(one).await;
    delete(&bed, CERTS).await;
    eventually(DEADLINE, async || sound(&bed, CERTS, &[&leaf]).await).await;
    settled(&bed).await;
    assert_eq!(bed.holder().await.as_ref(), Some(&two.identity));
    bed.assert_served(20);
    bed.remove(two).await;
    assert_eq!(bed.holder().await, None, "the lease is given back");
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_somebody_else_are_followed_without_a_failure() {
    let Some(mut bed) = Bed::open(policy()).await else { return };
    let authority = || Authority::generate("issuer", Timestamp::now(), HOUR * 24 * 365).unwrap();
    let (old, new) = (authority(), authority());
    let pair = issue(&old, &bed.namespace, Timestamp::now(), HOUR * 24);
    let mounts = [0, 1].map(|_| Mount::new(&pair, &old.pair().certificate));
    let one = bed.replica(Mode::Files, &mounts[0].path()).await;
    let two = bed.replica(Mode::Files, &mounts[1].path()).await;
    one.ready().await;
    two.ready().await;
    bed.connect_all_the_time();
    assert_eq!(bed.bundle().await, Ok(vec![first(old.pair())]));

    // Another authority, which reaches the replicas one after the other, and in both orders.
    let next = issue(&new, &bed.namespace, Timestamp::now(), HOUR * 24);
    for (pair, authority, order) in [(&next, &new, [0, 1]), (&pair, &old, [1, 0])] {
        mounts[order[0]].update(pair, &authority.pair().certificate);
        // No wait for a condition: kubelets refresh mounted files at different times, and this is the difference.
        tokio::time::sleep(Duration::from_secs(3)).await;
        mounts[order[1]].update(pair, &authority.pair().certificate);
        eventually(DEADLINE, async || {
            let bundle = bed.bundle().await?;
            if bundle == [first(authority.pair())] { Ok(()) } else { Err(format!("{} are trusted", bundle.len())) }
        })
        .await;
    }
    // Files that cannot be served change nothing.
    mounts[0].update(&Pair { key: next.key.clone(), ..pair.clone() }, &old.pair().certificate);
    bed.tamper(true, FOREIGN).await;
    eventually(REPAIR, async || {
        let bundle = bed.bundle().await?;
        if bundle.is_empty() { Err("not repaired".to_owned()) } else { Ok(()) }
    })
    .await;
    assert!(bed.secret(CA).await.is_none() && bed.secret(CERTS).await.is_none(), "nothing is issued in this mode");
    bed.assert_served(100);
    bed.remove(one).await;
    bed.remove(two).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_updates_between_the_modes_work_in_both_directions() {
    let Some(mut bed) = Bed::open(policy()).await else { return };
    let issuer = Authority::generate("issuer", Timestamp::now(), HOUR * 24 * 365).unwrap();
    let mount = Mount::new(&issue(&issuer, &bed.namespace, Timestamp::now(), HOUR * 24), &issuer.pair().certificate);
    let mut replicas = vec![];
    for _ in 0..2 {
        replicas.push(bed.replica(Mode::SelfSigned, Path::new("")).await);
    }
    for replica in &replicas {
        replica.ready().await;
    }
    bed.connect_all_the_time();
    for mode in [Mode::Files, Mode::SelfSigned, Mode::Files] {
        for _ in 0..2 {
            // One more first, and only when it is ready one less.
            let next = bed.replica(mode, &mount.path()).await;
            next.ready().await;
            replicas.push(next);
            bed.remove(replicas.remove(0)).await;
        }
        bed.assert_served(1);
    }
    eventually(DEADLINE, async || {
        let bundle = bed.bundle().await?;
        if bundle == [first(issuer.pair())] { Ok(()) } else { Err(format!("{} are trusted", bundle.len())) }
    })
    .await;
    bed.assert_served(200);
    for replica in replicas {
        bed.remove(replica).await;
    }
    bed.close().await;
}
