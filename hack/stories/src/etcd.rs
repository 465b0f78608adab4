//! Looks into an etcd that runs in a pod, through the API server's proxy, finds the processes of one, and makes one that asks for certificates.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret, Service},
};
use kube::{Api, Client, api::PostParams};
use rustix::process::Pid;
use serde_json::{Value, json};
use shared::pki::{Authority, Request};

use crate::{
    bed::Bed,
    wait::{until, within},
};

/// Port of etcd's clients.
pub const PORT: u16 = 2379;
/// The certificates are made for one story.
const LIFE: SignedDuration = SignedDuration::from_hours(24);

/// All keys below `prefix`, sorted; nothing of their content.
pub async fn keys(client: &Client, namespace: &str, pod: &str, prefix: &str) -> Result<Vec<String>> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{PORT}/proxy/v3/kv/range");
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let bytes = |bytes: &[u8]| ByteString(bytes.to_vec());
    let body = json!({"key": bytes(prefix.as_bytes()), "range_end": bytes(&end), "keys_only": true});
    let request = http::Request::post(&path).header("content-type", "application/json");
    let answer: Value = client.request(request.body(serde_json::to_vec(&body)?)?).await.with_context(|| path)?;
    let found = answer["kvs"].as_array().into_iter().flatten();
    let key = |entry: &Value| -> Result<String> {
        let key: ByteString = serde_json::from_value(entry["key"].clone())?;
        Ok(String::from_utf8_lossy(&key.0).into_owned())
    };
    let mut keys: Vec<String> = found.map(key).collect::<Result<_>>()?;
    keys.sort();
    Ok(keys)
}

/// Makes an etcd of one member, called `etcd`, that shows a certificate and answers nobody without one; returns what a cluster in the same namespace
/// has to say about its global topology.
pub async fn with_mutual_tls(bed: &Bed, namespace: &str) -> Result<Value> {
    let host = format!("etcd.{namespace}.svc");
    let url = format!("https://{host}:{PORT}");
    let now = Timestamp::now();
    let authority = Authority::generate("etcd", now, LIFE)?;
    let issue = |name: &str| {
        let wanted = Request { common_name: name.to_owned(), dns_names: [host.clone()].into(), valid_for: LIFE };
        authority.issue(&wanted, now)
    };
    let (server, client) = (issue("etcd")?, issue("multigres")?);
    let trusted = &authority.pair().certificate;
    let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), namespace);
    for (name, texts) in [
        ("etcd-server", json!({"ca.crt": trusted, "tls.crt": server.certificate, "tls.key": server.key})),
        ("etcd-ca", json!({"ca.crt": trusted})),
        ("etcd-client", json!({"tls.crt": client.certificate, "tls.key": client.key})),
    ] {
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": name}, "stringData": texts}))?;
        secrets.create(&PostParams::default(), &secret).await.with_context(|| format!("making Secret {name}"))?;
    }
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "etcd"},
        "spec": {"clusterIP": "None", "selector": {"app": "etcd"}, "ports": [{"name": "client", "port": PORT}]},
    }))?;
    let services: Api<Service> = Api::namespaced(bed.client.clone(), namespace);
    services.create(&PostParams::default(), &service).await.context("making the Service of an etcd")?;
    let env = [
        ("ETCD_DATA_DIR", "/var/lib/etcd/data"),
        ("ETCD_LISTEN_CLIENT_URLS", "https://0.0.0.0:2379"),
        ("ETCD_ADVERTISE_CLIENT_URLS", url.as_str()),
        ("ETCD_LISTEN_METRICS_URLS", "http://0.0.0.0:2381"),
        ("ETCD_TRUSTED_CA_FILE", "/certificates/ca.crt"),
        ("ETCD_CERT_FILE", "/certificates/tls.crt"),
        ("ETCD_KEY_FILE", "/certificates/tls.key"),
        ("ETCD_CLIENT_CERT_AUTH", "true"),
    ]
    .map(|(name, value)| json!({"name": name, "value": value}));
    let container = json!({
        "name": "etcd", "image": shared::image::ETCD, "env": env,
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 2381}, "periodSeconds": 2},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/etcd"},
            {"name": "certificates", "mountPath": "/certificates", "readOnly": true},
        ],
    });
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "etcd", "labels": {"app": "etcd"}},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [container],
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "certificates", "secret": {"secretName": "etcd-server"}},
            ],
        },
    }))?;
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), namespace);
    pods.create(&PostParams::default(), &pod).await.context("making the pod of an etcd")?;
    // A name that nobody had when it was asked for stays unknown for a while.
    until("an etcd that serves", within(60), || async {
        ensure!(shared::health::is_ready(&pods.get("etcd").await?), "not yet");
        Ok(())
    })
    .await?;
    let external = json!({
        "endpoints": [url], "rootPath": "/multigres/story", "caSecret": "etcd-ca", "clientCertSecret": "etcd-client",
    });
    Ok(json!({"etcd": null, "external": external}))
}

/// The processes of the members with this token: pods of a bed are processes of its machine.
pub fn processes(token: &str) -> Result<Vec<Pid>> {
    let wanted = format!("ETCD_INITIAL_CLUSTER_TOKEN={token}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("listing processes")? {
        let entry = entry.context("listing processes")?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Those that ended meanwhile, and those of others, cannot be read.
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes()) {
            found.extend(Pid::from_raw(id));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_found_by_its_token_and_by_the_whole_of_it() {
        let token = format!("story-{}", std::process::id());
        let mut command = Command::new("sleep");
        command.arg("600").env("ETCD_INITIAL_CLUSTER_TOKEN", &token).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let found = processes(&token);
        let others = processes(&token[..token.len() - 1]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.unwrap(), [Pid::from_child(&child)]);
        assert!(others.unwrap().is_empty());
    }
}
