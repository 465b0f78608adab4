//! How clients reach a topology server of others over TLS: what our own client reads, and what pods of the data plane mount.

use k8s_openapi::api::core::v1::{KeyToPath, SecretVolumeSource, Volume, VolumeMount};
use shared::{api::v1alpha1::GlobalTopoServerRef, pki::Certificate};

use crate::{context::References, upstream::Credentials, workload::tls::Certificates};

/// Key with the authority that signed the servers' certificates.
const AUTHORITY: &str = "ca.crt";
/// Key with the certificate that clients show.
const CERTIFICATE: &str = "tls.crt";
/// Key with its private key.
const PRIVATE_KEY: &str = "tls.key";
/// Volumes, and where they are mounted.
const AUTHORITY_MOUNT: (&str, &str) = ("topo-ca", "/etc/multigres/topo-ca");
const IDENTITY_MOUNT: (&str, &str) = ("topo-client", "/etc/multigres/topo-client");
/// Mode of mounted certificates: the processes run under various users.
const MODE: i32 = 0o444;

/// The Secrets that lead to a topology server; none of them for a server that speaks plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secrets<'a> {
    /// Secret with the authority, under `ca.crt`.
    pub authority: Option<&'a str>,
    /// Secret with the client's certificate and key, under `tls.crt` and `tls.key`.
    pub identity: Option<&'a str>,
}

impl<'a> Secrets<'a> {
    /// Those of the topology that a cluster or a child is pointed to.
    pub fn of_reference(reference: &'a GlobalTopoServerRef) -> Self {
        Self::named(reference.ca_secret.as_deref(), reference.client_cert_secret.as_deref())
    }

    /// By name; an empty name is none.
    pub fn named(authority: Option<&'a str>, identity: Option<&'a str>) -> Self {
        let named = |name: Option<&'a str>| name.filter(|name| !name.is_empty());
        Self { authority: named(authority), identity: named(identity) }
    }

    /// What they hold now; none without Secrets. What is wrong with them is told in words.
    pub async fn read(&self, references: &References, namespace: &str) -> Result<Option<Credentials>, String> {
        if *self == Self::default() {
            return Ok(None);
        }
        let mut credentials = Credentials { authority: None, identity: None };
        if let Some(name) = self.authority {
            let [authority] = values(references, namespace, name, [AUTHORITY]).await?;
            credentials.authority = Some(certificate(name, AUTHORITY, authority)?);
        }
        if let Some(name) = self.identity {
            let [leaf, key] = values(references, namespace, name, [CERTIFICATE, PRIVATE_KEY]).await?;
            credentials.identity = Some((certificate(name, CERTIFICATE, leaf)?, key));
        }
        Ok(Some(credentials))
    }

    /// What a container of the data plane gets for them.
    pub fn mounted(&self) -> Certificates {
        let mut all = Certificates::default();
        if let Some(name) = self.authority {
            let flags = [("--topo-etcd-tls-ca", AUTHORITY)];
            all.add(mount(name, AUTHORITY_MOUNT, &flags));
        }
        if let Some(name) = self.identity {
            let flags = [("--topo-etcd-tls-cert", CERTIFICATE), ("--topo-etcd-tls-key", PRIVATE_KEY)];
            all.add(mount(name, IDENTITY_MOUNT, &flags));
        }
        all
    }
}

async fn values<const N: usize>(
    references: &References,
    namespace: &str,
    name: &str,
    keys: [&str; N],
) -> Result<[String; N], String> {
    let secret = references.secret(namespace, name).await;
    let secret = secret.map_err(|error| format!("Secret {name} cannot be read ({})", error.category()))?;
    let secret = secret.ok_or_else(|| format!("Secret {name} does not exist"))?;
    let mut values = [const { String::new() }; N];
    for (value, key) in values.iter_mut().zip(keys) {
        let found = secret.data.get(key).cloned().and_then(|found| String::from_utf8(found).ok());
        let found = found.filter(|found| !found.is_empty());
        *value = found.ok_or_else(|| format!("Secret {name} has no key {key}"))?;
    }
    Ok(values)
}

fn certificate(name: &str, key: &str, pem: String) -> Result<String, String> {
    match Certificate::first(&pem) {
        Ok(_) => Ok(pem),
        Err(error) => Err(format!("key {key} of Secret {name} holds no certificate: {error}")),
    }
}

/// Only the named keys are mounted: a Secret of an authority may hold its private key, too.
fn mount(secret: &str, (volume, folder): (&str, &str), flags: &[(&str, &str)]) -> Certificates {
    let item = |key: &str| KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None };
    Certificates {
        args: flags.iter().map(|(flag, key)| format!("{flag}={folder}/{key}")).collect(),
        volumes: vec![Volume {
            name: volume.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.to_owned()),
                items: Some(flags.iter().map(|(_, key)| item(key)).collect()),
                default_mode: Some(MODE),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }],
        mounts: vec![VolumeMount {
            name: volume.to_owned(),
            mount_path: folder.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }],
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use jiff::{SignedDuration, Timestamp};
    use kube::{Client, client::Body};
    use serde_json::json;
    use shared::pki::Authority;

    use super::*;

    /// References that find one Secret of each of these names, with these keys.
    fn references(secrets: &'static [(&'static str, &'static [(&'static str, &'static str)])]) -> References {
        let answer = move |request: Request<Body>| async move {
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let found = secrets.iter().find(|(known, _)| *known == name);
            let (code, body) = match found {
                Some((_, keys)) => {
                    let data: serde_json::Map<_, _> = keys
                        .iter()
                        .map(|(key, value)| {
                            let value = if *value == "PEM" { pem() } else { (*value).to_owned() };
                            ((*key).to_owned(), json!(base64(&value)))
                        })
                        .collect();
                    let metadata = json!({"name": name, "namespace": "prod"});
                    (200, json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}))
                }
                None => (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})),
            };
            Ok::<_, std::convert::Infallible>(
                Response::builder().status(code).body(Body::from(serde_json::to_vec(&body).unwrap())).unwrap(),
            )
        };
        References::new(Client::new(tower::service_fn(answer), "prod"))
    }

    fn base64(text: &str) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    fn pem() -> String {
        let authority = Authority::generate("etcd-ca", Timestamp::now(), SignedDuration::from_hours(1)).unwrap();
        authority.pair().certificate.clone()
    }

    #[tokio::test]
    async fn secrets_are_read_and_what_is_wrong_with_them_is_said() {
        let all = references(&[
            ("ca", &[("ca.crt", "PEM")]),
            ("client", &[("tls.crt", "PEM"), ("tls.key", "key")]),
            ("half", &[("tls.crt", "PEM")]),
            ("junk", &[("ca.crt", "junk")]),
        ]);
        let read = async |authority, identity| Secrets::named(authority, identity).read(&all, "prod").await;
        assert_eq!(read(None, Some("")).await, Ok(None));
        let found = read(Some("ca"), Some("client")).await.unwrap().unwrap();
        assert!(found.authority.is_some());
        assert_eq!(found.identity.map(|(_, key)| key).as_deref(), Some("key"));
        let refused = async |authority, identity| read(authority, identity).await.unwrap_err();
        assert_eq!(refused(Some("none"), None).await, "Secret none does not exist");
        assert_eq!(refused(Some("ca"), Some("half")).await, "Secret half has no key tls.key");
        let junk = refused(Some("junk"), None).await;
        assert!(junk.starts_with("key ca.crt of Secret junk holds no certificate"), "{junk}");
    }

    #[test]
    fn containers_get_a_flag_for_every_file_that_is_mounted() {
        let all = Secrets::named(Some("etcd-ca"), Some("etcd-client")).mounted();
        assert_eq!(
            all.args,
            [
                "--topo-etcd-tls-ca=/etc/multigres/topo-ca/ca.crt",
                "--topo-etcd-tls-cert=/etc/multigres/topo-client/tls.crt",
                "--topo-etcd-tls-key=/etc/multigres/topo-client/tls.key"
            ]
        );
        let sources: Vec<_> = all.volumes.iter().filter_map(|volume| volume.secret.as_ref()).collect();
        assert_eq!(sources[0].secret_name.as_deref(), Some("etcd-ca"));
        let mounted: Vec<_> = sources[0].items.iter().flatten().map(|item| item.path.as_str()).collect();
        assert_eq!(mounted, ["ca.crt"], "the key of an authority stays where it is");
        assert_eq!(all.mounts.len(), 2);
        assert_eq!(Secrets::named(None, Some("")).mounted(), Certificates::default());
    }
}
