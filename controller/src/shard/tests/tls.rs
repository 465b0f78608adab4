//! Certificates of a shard, for its components and for pgBackRest: pods wait for them, and are replaced with them.

use std::sync::Arc;

use http::{Request, Response};
use k8s_openapi::{
    ByteString,
    api::{apps::v1::Deployment, core::v1::Secret},
};
use kube::{ResourceExt as _, client::Body};
use shared::{
    annotation::{CERTIFICATES_HASH, PGBACKREST_CERTIFICATE},
    api::v1alpha1::PgbackrestTlsConfig,
    condition,
};

use super::fixture::*;
use crate::{
    cluster::tls::{Client, MULTIORCH, MULTIPOOLER, Mounted},
    context::References,
    plan::Action,
    shard::{InternalTls, Observed, certificate::Served, observe::secure, scope::Scope},
    stores::Stores,
    upstream::PoolerRecord,
};

fn known(digest: &str) -> Mounted {
    Mounted { digest: Some(digest.to_owned()), missing: None }
}

fn missing() -> Mounted {
    Mounted { digest: None, missing: Some("Secret x does not exist".to_owned()) }
}

fn mount(observed: &mut Observed, poolers: Mounted, orchestrators: Mounted) {
    observed.internal_tls = InternalTls { poolers, orchestrators, client: None };
}

/// A shard whose pods were all made with the same certificates.
fn running() -> Observed {
    let mut observed = observed(three_cells());
    mount(&mut observed, known("one"), known("one"));
    carry_out(&mut observed);
    register(&mut observed);
    elect(&mut observed, 0);
    observed
}

fn marks(deployments: &[Arc<Deployment>]) -> Vec<Option<String>> {
    let template = |deployment: &Arc<Deployment>| deployment.spec.as_ref()?.template.metadata.clone();
    deployments.iter().map(|it| template(it)?.annotations?.get(CERTIFICATES_HASH).cloned()).collect()
}

#[test]
fn new_pods_and_orchestrators_wait_for_their_certificates() {
    let mut observed = observed(three_cells());
    mount(&mut observed, missing(), missing());
    let plan = pass(&observed);
    assert!(written(&plan, "Pod").is_empty() && written(&plan, "Deployment").is_empty());
    let conditions = plan.status.unwrap().conditions;
    let said = condition::find(&conditions, "SecretsMissing").unwrap();
    assert!(said.message.contains("Secret x does not exist"), "{}", said.message);
}

#[test]
fn pods_that_have_read_other_certificates_are_outdated() {
    let mut observed = running();
    assert!(observed.pods.iter().all(|pod| pod.annotations()[CERTIFICATES_HASH] == "one"));
    assert!(status(&observed).drift.is_empty());
    mount(&mut observed, known("two"), known("one"));
    let drift = status(&observed).drift;
    assert_eq!(drift.len(), 3);
    assert!(drift.values().all(|why| why == "was started with other certificates"), "{drift:?}");
}

#[test]
fn pods_that_run_stay_while_their_certificates_are_away() {
    let mut observed = running();
    let before = observed.deployments.clone();
    for away in [missing(), Mounted::default()] {
        mount(&mut observed, away.clone(), away);
        assert!(status(&observed).drift.is_empty());
        carry_out(&mut observed);
        assert_eq!(marks(&observed.deployments), marks(&before));
    }
}

#[test]
fn pods_from_before_certificates_were_known_are_outdated() {
    let mut observed = observed(three_cells());
    carry_out(&mut observed);
    register(&mut observed);
    elect(&mut observed, 0);
    assert!(status(&observed).drift.is_empty());
    mount(&mut observed, known("one"), Mounted::default());
    assert_eq!(status(&observed).drift.len(), 3);
}

#[test]
fn orchestrators_are_replaced_with_their_certificates_and_with_no_others() {
    let mut observed = running();
    assert!(marks(&observed.deployments).iter().all(|mark| mark.as_deref() == Some("one")));
    mount(&mut observed, known("two"), known("one"));
    carry_out(&mut observed);
    assert!(marks(&observed.deployments).iter().all(|mark| mark.as_deref() == Some("one")));
    mount(&mut observed, known("two"), known("two"));
    carry_out(&mut observed);
    assert!(marks(&observed.deployments).iter().all(|mark| mark.as_deref() == Some("two")));
}

/// What a pgBackRest server would be started with, until the end of a year.
fn served(year: u16) -> Served {
    format!("{year}-12-31T00:00:00Z 0123456789abcdef").parse().unwrap()
}

/// Marks that a pass puts on running pods, by pod.
fn new_marks(observed: &Observed) -> Vec<(String, String)> {
    let mark = |action: &Action| match action {
        Action::Merge { target, patch } => {
            let mark = patch["metadata"]["annotations"][PGBACKREST_CERTIFICATE].as_str()?.to_owned();
            Some((target.key.name.clone(), mark))
        }
        _ => None,
    };
    pass(observed).writes.iter().filter_map(|write| mark(&write.action)).collect()
}

#[test]
fn pods_that_were_made_while_nobody_could_read_the_certificate_of_pgbackrest_are_replaced_once_it_is_known() {
    let mut observed = healthy(three_cells());
    assert!(observed.pods.iter().all(|pod| !pod.annotations().contains_key(PGBACKREST_CERTIFICATE)));
    assert!(status(&observed).drift.is_empty());
    observed.certificates.served = Some(served(2030));
    let drift = status(&observed).drift;
    assert_eq!(drift.len(), 3, "{drift:?}");
    assert!(drift.values().all(|why| why == "nobody knows which certificate pgBackRest was started with"), "{drift:?}");
    assert!(new_marks(&observed).is_empty());

    // While it is away again nobody is replaced: another pod would know no more.
    observed.certificates.served = None;
    assert!(status(&observed).drift.is_empty());
}

#[test]
fn pods_that_are_made_while_the_certificate_of_pgbackrest_is_known_are_marked_and_stay() {
    let mut observed = observed(three_cells());
    observed.certificates.served = Some(served(2030));
    carry_out(&mut observed);
    register(&mut observed);
    elect(&mut observed, 0);
    assert_eq!(observed.pods.len(), 3);
    let known = served(2030).to_string();
    assert!(observed.pods.iter().all(|pod| pod.annotations()[PGBACKREST_CERTIFICATE] == known));
    assert!(status(&observed).drift.is_empty() && new_marks(&observed).is_empty());
}

#[test]
fn a_pod_that_waits_for_the_certificate_of_pgbackrest_is_marked_when_it_is_known_and_stays() {
    let mut observed = healthy(three_cells());
    let waits = members(&three_cells())[1].clone();
    observed.certificates.served = Some(served(2030));
    let known = served(2030).to_string();
    for pod in members(&three_cells()) {
        with_pod(&mut observed, &pod, |live| {
            if pod == waits {
                live.status.as_mut().unwrap().phase = Some("Pending".to_owned());
            } else {
                live.annotations_mut().insert(PGBACKREST_CERTIFICATE.to_owned(), known.clone());
            }
        });
    }
    assert_eq!(new_marks(&observed), [(waits.clone(), known.clone())]);
    assert!(status(&observed).drift.is_empty());

    with_pod(&mut observed, &waits, |pod| {
        pod.annotations_mut().insert(PGBACKREST_CERTIFICATE.to_owned(), known.clone());
        pod.status.as_mut().unwrap().phase = Some("Running".to_owned());
    });
    assert!(new_marks(&observed).is_empty() && status(&observed).drift.is_empty());
    // From then on it follows renewals as the others do.
    observed.certificates.served = Some("2040-12-31T00:00:00Z fedcba9876543210".parse().unwrap());
    assert_eq!(status(&observed).drift.len(), 3);
}

#[test]
fn a_certificate_of_the_users_for_pgbackrest_is_told_of_before_it_ends() {
    let mut shard = three_cells();
    shard.spec.backup.as_mut().unwrap().pgbackrest_tls = Some(PgbackrestTlsConfig { secret_name: Some("mine".into()) });
    let mut observed = healthy(shard);
    let until = |end: &str| -> Option<Served> { format!("{end}T00:00:00Z 0123456789abcdef").parse().ok() };
    let said = |observed: &Observed| {
        let plan = pass(observed);
        let told = plan.notes.iter().any(|note| note.reason == "CertificateEnding");
        let conditions = plan.status.unwrap().conditions;
        (condition::find(&conditions, "CertificateEnding").map(|it| (it.reason.clone(), it.message.clone())), told)
    };
    // It is the 15th of January.
    observed.certificates.served = until("2027-02-20");
    assert_eq!(said(&observed), (None, false));
    observed.certificates.served = until("2027-02-10");
    let (soon, told) = said(&observed);
    let (reason, message) = soon.unwrap();
    assert!(reason == "EndsSoon" && message.contains("Secret mine") && message.contains("2027-02-10"), "{message}");
    assert!(told);
    remember(&mut observed);
    assert!(!said(&observed).1, "once");
    observed.certificates.served = until("2027-01-01");
    let (ended, told) = said(&observed);
    assert!(ended.unwrap().0 == "Ended" && told);
}

async fn client() -> Client {
    let stores = Stores::default();
    let mut secret =
        Secret { data: Some([("tls.crt".to_owned(), ByteString(b"junk".to_vec()))].into()), ..Secret::default() };
    secret.metadata.name = Some("operator.demo.prod.multigres.internal".to_owned());
    secret.metadata.namespace = Some("prod".to_owned());
    stores.secrets.insert(Arc::new(secret));
    let nobody = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, std::convert::Infallible>(Response::builder().status(500).body(Body::empty()).unwrap())
    });
    Client::of(&stores, &References::new(kube::Client::new(nobody, "prod")), "prod", "demo").await
}

fn reached(records: &[PoolerRecord]) -> Vec<Option<&str>> {
    records.iter().map(|record| record.tls.as_ref().map(|tls| tls.server_name.as_str())).collect()
}

#[tokio::test]
async fn poolers_are_called_as_their_pods_were_made_for() {
    const NAME: Option<&str> = Some("multipooler.demo.prod.multigres.internal");
    let mut observed = running();
    observed.internal_tls.client = Some(client().await);
    let plain = observed.pods[0].name_any();
    with_pod(&mut observed, &plain, |pod| {
        for container in &mut pod.spec.as_mut().unwrap().containers {
            container.args.get_or_insert_default().retain(|arg| arg != "--grpc-cert");
        }
    });
    let gone = observed.pods.pop().unwrap().name_any();
    let shard = Arc::clone(&observed.shard);
    let (pods, tls) = (observed.pods.clone(), observed.internal_tls.clone());
    secure(&mut observed.topology, &Scope::of(&shard).unwrap(), &pods, &tls);
    let records = observed.records();
    let mut wanted: Vec<Option<&str>> = Vec::new();
    for record in &records {
        wanted.push(if record.is_of_pod(&plain) { None } else { NAME });
    }
    assert_eq!(reached(&records), wanted, "{gone} is called as its shard asks for");
    assert_eq!(wanted.iter().filter(|name| name.is_none()).count(), 1);
    assert!(tls.to(&pods[0], MULTIORCH).is_none());
    let orchestrators = tls.to(&pods[1], MULTIORCH).unwrap();
    assert_eq!(orchestrators.server_name, "multiorch.demo.prod.multigres.internal");
    assert_ne!(tls.to(&pods[1], MULTIPOOLER).unwrap().server_name, orchestrators.server_name);
}
