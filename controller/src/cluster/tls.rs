//! Mutual TLS among the components of a cluster, as their pods and the controller's own calls use it.
//!
//! Processes read their certificates when they start and never again, so what is mounted is known by a digest: pods that were made with
//! another one are replaced.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, PodSpec, Secret},
};
use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};
use shared::{
    annotation::CERTIFICATES_HASH,
    name::{PUBLIC_CERTIFICATE, internal_identity},
    pki::{Certificate, Pair},
};

use crate::{
    context::{References, Seen},
    stores::Stores,
    upstream::{Credentials, Tls},
};

/// Key with the authorities that have signed the certificates of others.
pub const AUTHORITY: &str = "ca.crt";
/// Key with a certificate.
pub const CERTIFICATE: &str = "tls.crt";
/// Key with its private key.
pub const PRIVATE_KEY: &str = "tls.key";

/// The administration service.
pub const MULTIADMIN: &str = "multiadmin";
/// The gateways.
pub const MULTIGATEWAY: &str = "multigateway";
/// The orchestrators.
pub const MULTIORCH: &str = "multiorch";
/// The poolers.
pub const MULTIPOOLER: &str = "multipooler";
/// The controller itself.
pub const OPERATOR: &str = "operator";

/// Flag of a server that speaks TLS.
const SERVES_TLS: &str = "--grpc-cert";
/// Digits of a digest.
const DIGITS: usize = 16;

/// The texts in a Secret. Shows none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content(BTreeMap<String, String>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({})", self.digest())
    }
}

impl Content {
    /// What a Secret of ours holds. What is no text is no PEM either.
    pub fn of(secret: &Secret) -> Self {
        let data = secret.data.iter().flatten();
        Self(data.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?))).collect())
    }

    /// What a Secret of somebody else holds.
    pub fn seen(seen: &Seen) -> Self {
        let data = seen.data.iter();
        Self(data.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.clone()).ok()?))).collect())
    }

    /// The text under a key; none where there is none, or an empty one.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// A certificate and its key; empty where they are missing.
    pub fn pair(&self, [certificate, key]: [&str; 2]) -> Pair {
        let text = |key| self.get(key).unwrap_or_default().to_owned();
        Pair { certificate: text(certificate), key: text(key) }
    }

    /// Tells two contents apart by what they let a process prove and trust.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for key in [CERTIFICATE, AUTHORITY] {
            digest.update(self.get(key).unwrap_or_default());
            digest.update([0]);
        }
        hex::encode(digest.finalize())[..DIGITS].to_owned()
    }

    fn credentials(&self, name: &str) -> Result<Credentials, String> {
        let text =
            |key: &str| self.get(key).map(str::to_owned).ok_or_else(|| format!("Secret {name} has no key {key}"));
        let (authority, certificate, key) = (text(AUTHORITY)?, text(CERTIFICATE)?, text(PRIVATE_KEY)?);
        for (key, pem) in [(AUTHORITY, &authority), (CERTIFICATE, &certificate)] {
            Certificate::first(pem).map_err(|error| format!("key {key} of Secret {name}: {error}"))?;
        }
        Ok(Credentials { authority: Some(authority), identity: Some((certificate, key)) })
    }
}

/// Looks for a Secret: among our own first, because those are watched, then live. An error is the category of what went wrong.
pub async fn find(
    stores: &Stores,
    references: &References,
    namespace: &str,
    name: &str,
) -> Result<Option<Content>, &'static str> {
    if let Some(own) = stores.secrets.get(namespace, name) {
        return Ok(Some(Content::of(&own)));
    }
    match references.secret(namespace, name).await {
        Ok(found) => Ok(found.map(|seen| Content::seen(&seen))),
        Err(error) => Err(error.category()),
    }
}

/// What is known of the certificates that pods mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounted {
    /// Digest of what they are; none while that is not known.
    pub digest: Option<String>,
    /// What is not there, in words: pods wait for it.
    pub missing: Option<String>,
}

impl Mounted {
    /// Judges what was found under a name.
    pub fn of(name: &str, keys: &[&str], found: Result<Option<&Content>, &'static str>) -> Self {
        let missing = |what: String| Self { digest: None, missing: Some(what) };
        match found {
            // Nothing is known, and nothing is done about it.
            Err(_) => Self::default(),
            Ok(None) => missing(format!("Secret {name} does not exist")),
            Ok(Some(content)) => match keys.iter().find(|key| content.get(key).is_none()) {
                Some(key) => missing(format!("Secret {name} has no key {key}")),
                None => Self { digest: Some(content.digest()), missing: None },
            },
        }
    }

    /// All of them together: one that is not known leaves nothing to compare.
    pub fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let (mut digests, mut missing) = (Vec::new(), None);
        for part in parts {
            digests.push(part.digest);
            missing = missing.or(part.missing);
        }
        let digests: Option<Vec<String>> = digests.into_iter().collect();
        Self { digest: digests.filter(|digests| !digests.is_empty()).map(|digests| digests.join("-")), missing }
    }

    /// The digest that pods of a Deployment are to have: while nothing is known, the one that they have.
    pub fn stamp(&self, live: Option<&Deployment>) -> Option<String> {
        self.digest.clone().or_else(|| {
            let template = live?.spec.as_ref()?.template.metadata.as_ref()?;
            template.annotations.as_ref()?.get(CERTIFICATES_HASH).cloned()
        })
    }
}

/// The certificates of a component of a cluster with mutual TLS.
pub async fn component(
    stores: &Stores,
    references: &References,
    namespace: &str,
    cluster: &str,
    component: &str,
) -> Mounted {
    let name = internal_identity(component, cluster, namespace);
    let found = find(stores, references, namespace, &name).await;
    Mounted::of(
        &name,
        &[CERTIFICATE, PRIVATE_KEY, AUTHORITY],
        found.as_ref().map(Option::as_ref).map_err(|error| *error),
    )
}

/// The certificate that PostgreSQL clients see.
pub async fn public(stores: &Stores, references: &References, namespace: &str) -> Mounted {
    let found = find(stores, references, namespace, PUBLIC_CERTIFICATE).await;
    let found = found.as_ref().map(Option::as_ref).map_err(|error| *error);
    Mounted::of(PUBLIC_CERTIFICATE, &[CERTIFICATE, PRIVATE_KEY], found)
}

/// Marks the pods of a Deployment with the certificates that they mount, so that others make others.
pub fn mark(deployment: &mut Deployment, digest: Option<&str>) {
    if let (Some(spec), Some(digest)) = (deployment.spec.as_mut(), digest) {
        let metadata = spec.template.metadata.get_or_insert_default();
        metadata.annotations.get_or_insert_default().insert(CERTIFICATES_HASH.to_owned(), digest.to_owned());
    }
}

/// The digest that a pod was made with.
pub fn digest_of(pod: &Pod) -> Option<&str> {
    pod.annotations().get(CERTIFICATES_HASH).map(String::as_str)
}

/// Whether the services of a pod were made to speak TLS: its arguments say so, whatever its cluster asks for by now.
pub fn speaks(pod: Option<&PodSpec>) -> bool {
    let mut arguments =
        pod.iter().flat_map(|pod| &pod.containers).flat_map(|container| container.args.iter().flatten());
    arguments
        .any(|argument| argument.strip_prefix(SERVES_TLS).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
}

/// How the controller reaches the services of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    cluster: String,
    namespace: String,
    credentials: Result<Credentials, String>,
}

impl Client {
    /// Looks for the certificate of the controller. Users who bring their own certificates and made none for the controller have it use
    /// that of the administration service, which nobody else tells from it.
    pub async fn of(stores: &Stores, references: &References, namespace: &str, cluster: &str) -> Self {
        let client = |credentials| Self { cluster: cluster.to_owned(), namespace: namespace.to_owned(), credentials };
        for component in [OPERATOR, MULTIADMIN] {
            let name = internal_identity(component, cluster, namespace);
            match find(stores, references, namespace, &name).await {
                Ok(Some(content)) => return client(content.credentials(&name)),
                Ok(None) => {}
                Err(category) => return client(Err(format!("Secret {name} cannot be read ({category})"))),
            }
        }
        let name = internal_identity(OPERATOR, cluster, namespace);
        client(Err(format!("Secret {name} does not exist")))
    }

    /// With what a component is reached.
    pub fn to(&self, component: &str) -> Arc<Tls> {
        Arc::new(Tls {
            server_name: internal_identity(component, &self.cluster, &self.namespace),
            credentials: self.credentials.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use jiff::{SignedDuration, Timestamp};
    use k8s_openapi::{
        ByteString,
        api::{apps::v1::DeploymentSpec, core::v1::Container},
    };
    use kube::client::Body;
    use serde_json::json;
    use shared::pki::{Authority, Request as Wanted};

    use super::*;

    fn content(certificate: &str, key: &str, authority: &str) -> Content {
        let texts = [(CERTIFICATE, certificate), (PRIVATE_KEY, key), (AUTHORITY, authority)];
        Content(texts.into_iter().map(|(key, text)| (key.to_owned(), text.to_owned())).collect())
    }

    #[test]
    fn another_key_for_the_same_certificate_is_no_other_digest_and_another_authority_is() {
        assert_eq!(content("a", "k", "ca").digest(), content("a", "l", "ca").digest());
        assert_ne!(content("a", "k", "ca").digest(), content("a", "k", "cb").digest());
        assert_ne!(content("a", "k", "ca").digest(), content("b", "k", "ca").digest());
        assert!(!format!("{:?}", content("a", "secret", "ca")).contains("secret"));
    }

    #[test]
    fn what_is_missing_is_named_and_what_cannot_be_read_is_not_known() {
        let keys = [CERTIFICATE, PRIVATE_KEY, AUTHORITY];
        let missing = |found| Mounted::of("x", &keys, found).missing;
        assert_eq!(missing(Ok(None)).as_deref(), Some("Secret x does not exist"));
        assert_eq!(missing(Ok(Some(&content("a", "", "ca")))).as_deref(), Some("Secret x has no key tls.key"));
        assert_eq!(Mounted::of("x", &keys, Err("Forbidden")), Mounted::default());
        let whole = content("a", "k", "ca");
        assert_eq!(Mounted::of("x", &keys, Ok(Some(&whole))).digest, Some(whole.digest()));
    }

    #[test]
    fn certificates_of_which_one_is_not_known_have_no_digest_together() {
        let known = |digest: &str| Mounted { digest: Some(digest.to_owned()), missing: None };
        let missing = Mounted { digest: None, missing: Some("x".to_owned()) };
        assert_eq!(Mounted::all([]), Mounted::default());
        assert_eq!(Mounted::all([known("a"), known("b")]), known("a-b"));
        assert_eq!(Mounted::all([known("a"), Mounted::default()]), Mounted::default());
        assert_eq!(Mounted::all([known("a"), missing.clone()]), missing);
    }

    #[test]
    fn a_deployment_keeps_its_mark_while_nothing_is_known() {
        let mut live = Deployment { spec: Some(DeploymentSpec::default()), ..Deployment::default() };
        mark(&mut live, Some("old"));
        assert_eq!(Mounted::default().stamp(Some(&live)).as_deref(), Some("old"));
        let known = Mounted { digest: Some("new".into()), missing: None };
        assert_eq!(known.stamp(Some(&live)).as_deref(), Some("new"));
        assert_eq!(Mounted::default().stamp(None), None);
    }

    #[test]
    fn the_arguments_of_a_pod_tell_whether_it_speaks_tls() {
        let pod = |args: &[&str]| PodSpec {
            containers: vec![Container {
                args: Some(args.iter().map(|arg| (*arg).to_owned()).collect()),
                ..Container::default()
            }],
            ..PodSpec::default()
        };
        assert!(speaks(Some(&pod(&["multipooler", "--grpc-cert", "/tls.crt"]))));
        assert!(speaks(Some(&pod(&["--grpc-cert=/tls.crt"]))));
        assert!(!speaks(Some(&pod(&["--grpc-port=1", "--multipooler-grpc-cert", "/tls.crt", "--grpc-certificate-x"]))));
        assert!(!speaks(None));
    }

    /// References that find nothing.
    fn nothing() -> References {
        let answer = tower::service_fn(|_: Request<Body>| async {
            let body = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            Ok::<_, std::convert::Infallible>(Response::builder().status(404).body(body).unwrap())
        });
        References::new(kube::Client::new(answer, "prod"))
    }

    fn own(name: &str, authority: &Authority) -> Secret {
        let request = Wanted {
            common_name: name.to_owned(),
            dns_names: [name.to_owned()].into(),
            valid_for: SignedDuration::from_hours(24),
        };
        let leaf = authority.issue(&request, Timestamp::now()).unwrap();
        let texts = [
            (CERTIFICATE, leaf.certificate),
            (PRIVATE_KEY, leaf.key),
            (AUTHORITY, authority.pair().certificate.clone()),
        ];
        let mut secret = Secret {
            data: Some(texts.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).into()),
            ..Secret::default()
        };
        (secret.metadata.name, secret.metadata.namespace) = (Some(name.to_owned()), Some("prod".to_owned()));
        secret
    }

    #[tokio::test]
    async fn the_controller_shows_its_own_certificate_or_that_of_the_administration_service() {
        let authority = Authority::generate("CA", Timestamp::now(), SignedDuration::from_hours(24)).unwrap();
        let (stores, references) = (Stores::default(), nothing());
        let client = async || Client::of(&stores, &references, "prod", "demo").await;
        let shown = |client: &Client| client.to(MULTIPOOLER).credentials.clone().map(|it| it.identity.unwrap().0);
        assert_eq!(
            shown(&client().await),
            Err("Secret operator.demo.prod.multigres.internal does not exist".to_owned())
        );
        let of = |component| own(&internal_identity(component, "demo", "prod"), &authority);
        let (admin, operator) = (of(MULTIADMIN), of(OPERATOR));
        let text = |secret: &Secret| Content::of(secret).get(CERTIFICATE).unwrap().to_owned();
        stores.secrets.insert(Arc::new(admin.clone()));
        assert_eq!(shown(&client().await), Ok(text(&admin)));
        stores.secrets.insert(Arc::new(operator.clone()));
        assert_eq!(shown(&client().await), Ok(text(&operator)));
        assert_eq!(client().await.to(MULTIORCH).server_name, "multiorch.demo.prod.multigres.internal");
        let mut broken = operator;
        broken.data.as_mut().unwrap().insert(AUTHORITY.to_owned(), ByteString(b"junk".to_vec()));
        stores.secrets.insert(Arc::new(broken));
        let why = shown(&client().await).unwrap_err();
        assert!(why.starts_with("key ca.crt of Secret operator.demo.prod.multigres.internal"), "{why}");
    }
}
