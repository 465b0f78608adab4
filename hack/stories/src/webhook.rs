//! What the API server needs to reach admission: Secrets, trust bundles and pods, read and damaged through the API.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        core::v1::{Pod, Secret},
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use shared::pki::{Authority, Certificate, Pair, Request, matches};

use crate::{
    bed::{OPERATOR_NAMESPACE, is_long},
    wait::{until, within},
};

/// Name of the Deployment.
pub const DEPLOYMENT: &str = "multigres-operator-admission";
/// How the pods are found.
pub const PODS: &str = "app.kubernetes.io/component=admission";
/// Secret of the authority that admission makes itself.
pub const AUTHORITY_SECRET: &str = "multigres-operator-ca-secret";
/// Secret of the leaf that admission makes itself.
pub const LEAF_SECRET: &str = "multigres-webhook-certs";
/// Secret of the leaf that cert-manager makes.
pub const CERT_MANAGER_SECRET: &str = "multigres-operator-webhook-server-cert";
const MUTATING: &str = "multigres-operator-mutating-webhook-configuration";
const VALIDATING: &str = "multigres-operator-validating-webhook-configuration";

/// How long pods may take to be replaced. Two processors that answer requests all the time take minutes to start one.
pub fn patience() -> Duration {
    within(if is_long() { 600 } else { 120 })
}

/// What is stored at one moment.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The leaf with its key, from the Secret of the mode.
    pub leaf: Pair,
    /// The trust bundle of each webhook.
    pub bundles: Vec<String>,
}

impl Stored {
    /// The certificate of the leaf, if everything fits together now: the key belongs to it, it is valid, and every webhook
    /// trusts its authority.
    pub fn check(&self) -> Result<Certificate> {
        let leaf = Certificate::first(&self.leaf.certificate)?;
        ensure!(matches(&self.leaf), "the key belongs to another certificate");
        let now = Timestamp::now();
        ensure!(leaf.not_before() <= now && now < leaf.not_after(), "the leaf is valid until {}", leaf.not_after());
        ensure!(!self.bundles.is_empty(), "there are no webhooks");
        for bundle in &self.bundles {
            let authorities = Certificate::all(bundle)?;
            ensure!(
                authorities.iter().any(|authority| leaf.signed_by(authority)),
                "a webhook trusts none of the leaf's authorities"
            );
        }
        Ok(leaf)
    }
}

/// Admission's objects.
#[derive(Clone)]
pub struct Webhook {
    client: Client,
}

impl Webhook {
    /// Those of the installed chart.
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone() }
    }

    /// Secrets of the operator's namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE)
    }

    fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE)
    }

    /// Certificate and key of a Secret.
    pub async fn pair(&self, secret: &str, certificate: &str, key: &str) -> Result<Pair> {
        let data = self.secrets().get(secret).await?.data.unwrap_or_default();
        let text = |key: &str| -> Result<String> {
            let value = data.get(key).with_context(|| format!("{secret} has no {key}"))?;
            Ok(String::from_utf8_lossy(&value.0).into_owned())
        };
        Ok(Pair { certificate: text(certificate)?, key: text(key)? })
    }

    /// What is stored now; the leaf comes from the named Secret.
    pub async fn stored(&self, leaf_secret: &str) -> Result<Stored> {
        let leaf = self.pair(leaf_secret, "tls.crt", "tls.key").await?;
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let (mutating, validating) = (mutating.get(MUTATING).await?, validating.get(VALIDATING).await?);
        let text = |config: &WebhookClientConfig| {
            String::from_utf8_lossy(&config.ca_bundle.clone().unwrap_or_default().0).into_owned()
        };
        let mut bundles: Vec<String> =
            mutating.webhooks.unwrap_or_default().iter().map(|webhook| text(&webhook.client_config)).collect();
        bundles.extend(validating.webhooks.unwrap_or_default().iter().map(|webhook| text(&webhook.client_config)));
        Ok(Stored { leaf, bundles })
    }

    /// Waits until another leaf than `old` is stored and everything fits together.
    pub async fn another_leaf(&self, leaf_secret: &str, old: &Certificate, deadline: Duration) -> Result<Certificate> {
        until("another leaf that every webhook trusts", deadline, || async {
            let leaf = self.stored(leaf_secret).await?.check()?;
            ensure!(leaf.fingerprint() != old.fingerprint(), "still the old leaf");
            Ok(leaf)
        })
        .await
    }

    /// Empties every trust bundle, as a careless apply of the configurations would.
    pub async fn empty_bundles(&self) -> Result<()> {
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let webhooks = mutating.get(MUTATING).await?.webhooks.unwrap_or_default().len();
        mutating.patch(MUTATING, &PatchParams::default(), &Patch::<()>::Json(without_bundles(webhooks)?)).await?;
        let webhooks = validating.get(VALIDATING).await?.webhooks.unwrap_or_default().len();
        validating.patch(VALIDATING, &PatchParams::default(), &Patch::<()>::Json(without_bundles(webhooks)?)).await?;
        Ok(())
    }

    /// Overwrites keys of a Secret.
    pub async fn overwrite(&self, secret: &str, values: &[(&str, &str)]) -> Result<()> {
        let data: BTreeMap<&str, ByteString> =
            values.iter().map(|(key, value)| (*key, ByteString(value.as_bytes().to_vec()))).collect();
        let patch = Patch::Merge(json!({ "data": data }));
        self.secrets().patch(secret, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Stores a leaf of a new authority and the authority beside it, as users do who bring their own certificates.
    pub async fn provide(&self, secret: &str, dns_names: BTreeSet<String>) -> Result<()> {
        let (now, valid_for) = (Timestamp::now(), SignedDuration::from_hours(24 * 90));
        let authority = Authority::generate("Authority of a user", now, valid_for)?;
        let leaf =
            authority.issue_for_server(&Request { common_name: secret.to_owned(), dns_names, valid_for }, now)?;
        let texts = [("tls.crt", &leaf.certificate), ("tls.key", &leaf.key), ("ca.crt", &authority.pair().certificate)];
        let data: BTreeMap<&str, ByteString> =
            texts.into_iter().map(|(key, text)| (key, ByteString(text.as_bytes().to_vec()))).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": secret}, "data": data,
        });
        self.secrets().patch(secret, &PatchParams::apply("stories").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Deletes a Secret.
    pub async fn delete_secret(&self, secret: &str) -> Result<()> {
        self.secrets().delete(secret, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Names of the pods, those included that are about to end.
    pub async fn pods(&self) -> Result<BTreeSet<String>> {
        Ok(self
            .pods_api()
            .list(&ListParams::default().labels(PODS))
            .await?
            .iter()
            .map(kube::ResourceExt::name_any)
            .collect())
    }

    /// Deletes one pod as an eviction would, and waits until it is gone and all others are ready.
    pub async fn replace_pod(&self, name: &str) -> Result<()> {
        let before = self.pods().await?.len();
        self.pods_api().delete(name, &DeleteParams::default()).await?;
        self.ready(before).await
    }

    /// Kills all pods without grace.
    pub async fn kill_pods(&self) -> Result<()> {
        let all = ListParams::default().labels(PODS);
        self.pods_api().delete_collection(&DeleteParams::default().grace_period(0), &all).await?;
        Ok(())
    }

    /// Waits until there are exactly so many pods, all of them ready and none about to end.
    pub async fn ready(&self, count: usize) -> Result<()> {
        until("all admission pods", patience(), || async {
            let pods = self.pods_api().list(&ListParams::default().labels(PODS)).await?.items;
            let ready = |pod: &&Pod| {
                let conditions =
                    pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
                pod.metadata.deletion_timestamp.is_none()
                    && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
            };
            let names: Vec<String> = pods.iter().map(kube::ResourceExt::name_any).collect();
            ensure!(pods.len() == count && pods.iter().filter(ready).count() == count, "{names:?}, not all ready");
            Ok(())
        })
        .await
    }
}

fn without_bundles(webhooks: usize) -> Result<json_patch::Patch> {
    let steps: Vec<_> = (0..webhooks)
        .map(|index| json!({"op": "remove", "path": format!("/webhooks/{index}/clientConfig/caBundle")}))
        .collect();
    Ok(serde_json::from_value(steps.into())?)
}
