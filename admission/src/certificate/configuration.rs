//! The two webhook configurations: what their bundles carry, and how a bundle is written.

use std::{collections::BTreeSet, fmt::Debug};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use shared::pki::{
    Certificate,
    rotation::{Carried, Leaf},
};

use super::material;

/// Field manager of the bundles, and of nothing else in the configurations.
pub const FIELD_MANAGER: &str = "multigres-operator-cert";

/// One of the two kinds.
pub(super) trait Configuration {
    /// Name and client of each webhook.
    fn clients(&self) -> Vec<(&str, &WebhookClientConfig)>;
}

impl Configuration for MutatingWebhookConfiguration {
    fn clients(&self) -> Vec<(&str, &WebhookClientConfig)> {
        self.webhooks.iter().flatten().map(|webhook| (webhook.name.as_str(), &webhook.client_config)).collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    fn clients(&self) -> Vec<(&str, &WebhookClientConfig)> {
        self.webhooks.iter().flatten().map(|webhook| (webhook.name.as_str(), &webhook.client_config)).collect()
    }
}

/// What matters of a configuration that has webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    version: String,
    names: Vec<String>,
    /// What the bundles carry.
    pub carried: Carried,
    /// Every certificate in any bundle.
    pub certificates: Vec<Certificate>,
    /// When our field manager wrote last.
    pub written: Option<Timestamp>,
}

impl View {
    /// Reads a configuration; none when it has no webhooks.
    pub fn of<K: Configuration + Resource>(configuration: &K) -> Option<Self> {
        let mut view = Self {
            version: configuration.resource_version().unwrap_or_default(),
            names: vec![],
            carried: Carried::default(),
            certificates: vec![],
            written: configuration
                .managed_fields()
                .iter()
                .filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER))
                .filter_map(|entry| entry.time.as_ref().map(|time| time.0))
                .max(),
        };
        for (name, client) in configuration.clients() {
            let bundle = client.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()).unwrap_or_default();
            let found = material::certificates(bundle);
            view.carried.unreadable |= found.is_err() && !bundle.is_empty();
            let found = found.unwrap_or_default();
            let ids: BTreeSet<_> = found.iter().map(Certificate::fingerprint).collect();
            let first = found.first().map(Certificate::fingerprint);
            if view.names.is_empty() {
                (view.carried.all, view.carried.first) = (ids.clone(), first);
            } else {
                view.carried.all = &view.carried.all & &ids;
                view.carried.first = view.carried.first.filter(|known| first == Some(*known));
            }
            view.carried.any.extend(ids);
            view.certificates.extend(found);
            view.names.push(name.to_owned());
        }
        (!view.names.is_empty()).then_some(view)
    }

    /// Whether the bundle of every webhook makes a leaf trusted.
    pub fn accepts(&self, leaf: &Leaf) -> bool {
        self.carried.all.iter().any(|anchor| leaf.trusted_by.contains(anchor))
    }

    /// Makes every webhook carry a bundle; refused if the configuration has changed since it was read.
    ///
    /// Only the bundle is applied, so that everything else stays with whoever installed the configuration.
    pub async fn write<K: Configuration + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug>(
        &self,
        client: &Client,
        name: &str,
        bundle: &str,
    ) -> kube::Result<()> {
        let bundle = STANDARD.encode(bundle);
        let webhooks: Vec<_> =
            self.names.iter().map(|name| json!({"name": name, "clientConfig": {"caBundle": bundle}})).collect();
        let apply = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name, "resourceVersion": self.version},
            "webhooks": webhooks,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        Api::<K>::all(client.clone()).patch_metadata(name, &params, &Patch::Apply(&apply)).await.map(drop)
    }
}

/// Reads a configuration from the API server; none when it does not exist or has no webhooks.
pub(super) async fn read<K>(client: &Client, name: &str) -> kube::Result<Option<View>>
where
    K: Configuration + Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    Ok(Api::<K>::all(client.clone()).get_opt(name).await?.and_then(|found| View::of(&found)))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use shared::pki::{Authority, Request};

    use super::*;

    const HOST: &str = "hook.ns.svc";

    #[test]
    fn a_leaf_is_accepted_where_every_bundle_carries_its_authority() {
        let (now, life) = (Timestamp::constant(1_800_000_000, 0), SignedDuration::from_hours(100));
        let authority = |name: &str| Authority::generate(name, now, life).unwrap();
        let (own, other) = (authority("own"), authority("other"));
        let names = [HOST.to_owned()].into();
        let request = Request { common_name: HOST.to_owned(), dns_names: names, valid_for: life };
        let chain = Certificate::all(&own.issue(&request, now).unwrap().certificate).unwrap();
        let (own, other) = (own.pair().certificate.clone(), other.pair().certificate.clone());
        let both = format!("{other}{own}");
        let accepts = |bundles: &[&str]| {
            let webhook = |(number, bundle): (usize, &&str)| {
                json!({
                    "name": format!("w{number}"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
                    "clientConfig": { "caBundle": STANDARD.encode(bundle) },
                })
            };
            let webhooks: Vec<_> = bundles.iter().enumerate().map(webhook).collect();
            let configuration = json!({ "metadata": { "name": "x" }, "webhooks": webhooks });
            let configuration: ValidatingWebhookConfiguration = serde_json::from_value(configuration).unwrap();
            let view = View::of(&configuration).unwrap();
            view.accepts(&material::leaf(&chain, &view.certificates, HOST).unwrap())
        };
        assert!(accepts(&[&own, &both]));
        assert!(!accepts(&[&own, &other]), "one webhook refuses it");
        assert!(!accepts(&[&own, ""]), "somebody emptied a bundle");
        assert!(!accepts(&[&other]));
    }
}
