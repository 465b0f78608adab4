//! Certificates in a story: renewed by force, seen to roll pods, and done without on purpose.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use shared::{
    label, name,
    pki::{Certificate, Pair, matches},
};

use crate::{
    backup::in_bed,
    cluster::ClusterUnderTest,
    wait::{until, within},
};

/// gRPC port of a pooler.
pub const POOLER_GRPC: u16 = 15270;
/// gRPC port of pgctld, which speaks plain text always.
pub const PGCTLD_GRPC: u16 = 15470;
/// Port of pgBackRest's server in pool pods.
pub const PGBACKREST: u16 = 8432;
/// Key of a certificate in a Secret.
const CERTIFICATE: &str = "tls.crt";
/// Key of its private key.
const PRIVATE_KEY: &str = "tls.key";
/// Key of the authorities that have signed it.
const AUTHORITY: &str = "ca.crt";

/// Begins a conversation in HTTP/2 without TLS, and prints the first bytes of the answer in hexadecimal.
/// Fails only where nobody listens: who hangs up in the middle of the greeting does not answer it.
const GREET: &str = r#"trap '' PIPE; exec 3<>"/dev/tcp/$1/$2"
printf 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0' >&3
timeout 5 head -c 9 <&3 | od -An -v -tx1; exit 0"#;

/// Whether somebody speaks HTTP/2 without TLS at an address: whoever does begins with its settings.
pub async fn answers_in_plain_text(host: &str, port: u16) -> Result<bool> {
    let mut command = in_bed()?;
    command.args(["bash", "-c", GREET, "bash", host, &port.to_string()]);
    let output = command.output().await.context("starting a shell in the bed")?;
    ensure!(output.status.success(), "nobody listens at {host}:{port}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(are_settings(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether bytes in hexadecimal begin a frame of settings: three bytes of length, then the number of that kind.
fn are_settings(bytes: &str) -> bool {
    bytes.split_whitespace().nth(3) == Some("04")
}

/// The fingerprint of the certificate that a server shows, as the program `peer` finds it from inside the bed's network.
pub async fn shown(program: &str, host: &str, port: u16) -> Result<String> {
    let mut command = in_bed()?;
    command.args([program, host, &port.to_string()]);
    let output = command.output().await.context("starting a TLS client in the bed")?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{host}:{port} shows no certificate: {why}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The certificate that is in a Secret.
pub async fn stored(cluster: &ClusterUnderTest, secret: &str) -> Result<Certificate> {
    let secrets: Api<Secret> = cluster.namespaced();
    let pair = pair(&secrets.get(secret).await.with_context(|| format!("reading {secret}"))?)?;
    Ok(Certificate::first(&pair.certificate)?)
}

/// Deletes a Secret with a certificate, which has another one made at once; returns the new certificate.
pub async fn renew(cluster: &ClusterUnderTest, secret: &str) -> Result<Certificate> {
    let secrets: Api<Secret> = cluster.namespaced();
    let before = pair(&secrets.get(secret).await.with_context(|| format!("reading {secret}"))?)?;
    secrets.delete(secret, &DeleteParams::default()).await.with_context(|| format!("deleting {secret}"))?;
    until(&format!("another certificate in {secret}"), within(60), || async {
        let now = pair(&secrets.get(secret).await?)?;
        ensure!(now.certificate != before.certificate, "it is the same one");
        ensure!(matches(&now), "its key belongs to another certificate");
        Ok(Certificate::first(&now.certificate)?)
    })
    .await
}

/// The certificate that PostgreSQL clients see, and the authorities that it comes with, if it is all that is promised for a name.
pub async fn public(cluster: &ClusterUnderTest, host: &str) -> Result<(Certificate, String)> {
    let secrets: Api<Secret> = cluster.namespaced();
    let secret = secrets.get(name::PUBLIC_CERTIFICATE).await.context("reading the certificate for clients")?;
    let owned =
        secret.owner_references().iter().any(|owner| owner.kind == "MultigresCluster" && owner.name == cluster.name);
    ensure!(owned, "it does not go with the cluster: {:?}", secret.metadata.owner_references);
    let pair = pair(&secret)?;
    ensure!(matches(&pair), "its key belongs to another certificate");
    let certificate = Certificate::first(&pair.certificate)?;
    ensure!(certificate.common_name() == host, "it is made out to {}", certificate.common_name());
    let names = certificate.dns_names();
    let without = host.strip_prefix("db.").unwrap_or(host);
    ensure!([host, without].iter().all(|wanted| names.contains(*wanted)), "clients verify {names:?}");
    let now = Timestamp::now();
    ensure!(certificate.not_before() <= now && now < certificate.not_after(), "it ends at {}", certificate.not_after());
    let authorities = text(&secret, AUTHORITY)?;
    let signed = Certificate::all(&authorities)?.iter().any(|authority| certificate.signed_by(authority));
    ensure!(signed, "the authorities beside it have not signed it");
    let authority = secrets.get(&name::internal_authority(&cluster.name, &cluster.namespace)).await?;
    ensure!(text(&authority, AUTHORITY)? == authorities, "the authorities beside it are not those of the cluster");
    Ok((certificate, authorities))
}

fn pair(secret: &Secret) -> Result<Pair> {
    Ok(Pair { certificate: text(secret, CERTIFICATE)?, key: text(secret, PRIVATE_KEY)? })
}

fn text(secret: &Secret, key: &str) -> Result<String> {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).with_context(|| format!("no key {key}"))?;
    Ok(String::from_utf8(bytes.0.clone())?)
}

/// What was seen of the pool pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Identities by name, as they were last.
    now: BTreeMap<String, String>,
    /// Pods that went, in order.
    pub gone: Vec<String>,
    /// Most members that were away or not ready at the same time.
    pub most_down: usize,
}

impl Seen {
    fn look(&mut self, pods: &[(String, String, bool)], members: usize) {
        let now: BTreeMap<String, String> = pods.iter().map(|(name, uid, _)| (name.clone(), uid.clone())).collect();
        let gone = self.now.iter().filter(|(name, uid)| now.get(*name) != Some(*uid)).map(|(name, _)| name.clone());
        self.gone.extend(gone);
        let ready = pods.iter().filter(|(_, _, ready)| *ready).count();
        self.most_down = self.most_down.max(members.saturating_sub(ready));
        self.now = now;
    }

    /// Names of those that went, each once.
    pub fn names(&self) -> BTreeSet<&str> {
        self.gone.iter().map(String::as_str).collect()
    }
}

/// An eye on the pool pods of a cluster, which looks ten times a second until it is dropped.
pub struct Eye {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::AbortHandle,
}

impl Eye {
    /// Opens it on so many members.
    pub fn open(cluster: &ClusterUnderTest, members: usize) -> Self {
        let pods: Api<Pod> = cluster.namespaced();
        let labels = format!("{}={},{}=shard-pool", label::INSTANCE, cluster.name, label::COMPONENT);
        let query = ListParams::default().labels(&labels);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let writes = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                if let Ok(list) = pods.list(&query).await {
                    let known =
                        |pod: &Pod| (pod.name_any(), pod.uid().unwrap_or_default(), shared::health::is_ready(pod));
                    let list: Vec<_> = list.items.iter().map(known).collect();
                    writes.lock().unwrap_or_else(PoisonError::into_inner).look(&list, members);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { seen, task: task.abort_handle() }
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Eye {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_are_an_answer() {
        assert!(are_settings(" 00 00 06 04 00 00 00 00 00\n"));
        assert!(!are_settings(" 15 03 01 00 02 02 46\n"), "an alert of TLS");
        assert!(!are_settings(""), "a closed connection");
    }

    #[test]
    fn a_pod_that_was_replaced_has_gone_and_counts_as_down_until_it_is_ready() {
        let pod = |name: &str, uid: &str, ready| (name.to_owned(), uid.to_owned(), ready);
        let mut seen = Seen::default();
        seen.look(&[pod("a", "1", true), pod("b", "1", true)], 2);
        seen.look(&[pod("a", "1", true)], 2);
        seen.look(&[pod("a", "1", true), pod("b", "2", false)], 2);
        assert_eq!((seen.names().len(), seen.gone.len(), seen.most_down), (1, 1, 1));
    }
}
