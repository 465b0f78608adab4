//! The two Secrets: their keys, what is in them, and how they are written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{apps::v1::Deployment, core::v1::Secret},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, PostParams, Preconditions},
};
use shared::{
    label,
    pki::{self, Certificate, Pair, Reason, rotation::Anchor},
};

use super::{
    FIELD_MANAGER, Settings,
    material::{self, Parts},
};

pub(super) const CA_CERTIFICATE: &str = "ca.crt";
pub(super) const CA_KEY: &str = "ca.key";
pub(super) const CERTIFICATE: &str = "tls.crt";
pub(super) const KEY: &str = "tls.key";

/// Returns the serving certificate of a Secret.
pub(super) fn parts(secret: &Secret) -> Parts {
    Parts {
        certificate: bytes(secret, CERTIFICATE).to_vec(),
        key: bytes(secret, KEY).to_vec(),
        trust: bytes(secret, CA_CERTIFICATE).to_vec(),
    }
}

/// The authority of a Secret, as far as it can be used.
pub(super) struct Stored {
    /// What signs, or why nothing does.
    pub own: Result<Anchor, Reason>,
    /// What can be taken up for signing.
    pub pair: Option<Pair>,
    /// Every certificate, the newest first.
    pub all: Vec<Certificate>,
}

/// Reads the authority of a Secret.
pub(super) fn authority(secret: Option<&Secret>, now: Timestamp) -> Stored {
    let nothing = |reason| Stored { own: Err(reason), pair: None, all: vec![] };
    let Some(secret) = secret else { return nothing(Reason::Missing) };
    let all = material::certificates(bytes(secret, CA_CERTIFICATE)).unwrap_or_default();
    let text = |key| String::from_utf8(bytes(secret, key).to_vec()).unwrap_or_default();
    let pair = Pair { certificate: text(CA_CERTIFICATE), key: text(CA_KEY) };
    match all.first() {
        Some(first) if first.is_authority() && pki::matches(&pair) => {
            let own = if first.not_after() <= now { Err(Reason::Expiring) } else { Ok(material::anchor(first, false)) };
            Stored { own, pair: Some(pair), all }
        }
        _ => Stored { all, ..nothing(Reason::Unusable) },
    }
}

fn bytes<'s>(secret: &'s Secret, key: &str) -> &'s [u8] {
    secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice()).unwrap_or_default()
}

/// Writes a Secret in the place of the one that was seen, or of none; refused if it has changed since.
pub(super) async fn write(
    client: &Client,
    settings: &Settings,
    name: &str,
    seen: Option<&Secret>,
    data: impl IntoIterator<Item = (&'static str, String)>,
) -> kube::Result<Secret> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let mut next = seen.cloned().unwrap_or_else(|| Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    });
    next.metadata.managed_fields = None;
    next.labels_mut().insert(label::MANAGED_BY.to_owned(), label::MANAGER.to_owned());
    if next.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) {
        next.metadata.owner_references = owner(client, settings).await?.map(|owner| vec![owner]);
    }
    let data = data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
    next.data = Some(data.collect::<BTreeMap<_, _>>());
    let Some(seen) = seen else { return api.create(&params, &next).await };
    if seen.immutable != Some(true) {
        return api.replace(name, &params, &next).await;
    }
    // What cannot be changed has to make room.
    let exactly = Preconditions { uid: seen.uid(), resource_version: seen.resource_version() };
    api.delete(name, &DeleteParams::default().preconditions(exactly)).await?;
    next.immutable = None;
    next.metadata.resource_version = None;
    next.metadata.uid = None;
    api.create(&params, &next).await
}

/// The Deployment as an owner, so that uninstalling removes the Secrets; none when it does not exist.
async fn owner(client: &Client, settings: &Settings) -> kube::Result<Option<OwnerReference>> {
    let Some(name) = &settings.deployment else { return Ok(None) };
    let api: Api<Deployment> = Api::namespaced(client.clone(), &settings.namespace);
    let found = api.get_metadata_opt(name).await?;
    Ok(found.and_then(|found| found.uid()).map(|uid| OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: name.clone(),
        uid,
        controller: Some(true),
        block_owner_deletion: None,
    }))
}
