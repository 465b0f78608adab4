//! A real API server accepts the definitions, every example, every manifest of the documentation and every update, and refuses every negative.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. Without it the test is skipped loudly, and fails
//! where skipping is not allowed (`CI` or `MULTIGRES_TEST_REQUIRE` set).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api_data;

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

use api_data::{Manifest, manifests, pages};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};

const KUBECONFIG: &str = "MULTIGRES_TEST_KUBECONFIG";
const DEADLINE: Duration = Duration::from_mins(1);

/// The server under test and the namespace that the test may use.
struct Server {
    client: Client,
    namespace: String,
    plurals: BTreeMap<String, String>,
}

#[tokio::test]
async fn the_api_server_agrees_with_the_examples() {
    let Some(path) = env::var_os(KUBECONFIG) else {
        let required = ["CI", "MULTIGRES_TEST_REQUIRE"].iter().any(|name| env::var_os(name).is_some());
        assert!(!required, "{KUBECONFIG} is not set, and skipping is not allowed here");
        eprintln!("SKIPPED: {KUBECONFIG} is not set, so the definitions were NOT tried on an API server");
        return;
    };
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let plurals = install(&client).await;
    let server = Server { namespace: create_namespace(&client).await, client, plurals };

    let mut failures = Vec::new();
    for manifest in manifests("examples").into_iter().chain(pages()) {
        failures.extend(server.accepts(&manifest).await.err());
    }
    for manifest in manifests("updates") {
        failures.extend(server.accepts_update(&manifest).await.err());
    }
    for manifest in manifests("negatives") {
        failures.extend(server.refuses(&manifest).await.err());
    }

    Api::<Namespace>::all(server.client.clone()).delete(&server.namespace, &DeleteParams::default()).await.unwrap();
    assert!(failures.is_empty(), "{} manifests failed:\n{}", failures.len(), failures.join("\n"));
}

/// Installs the definitions and returns the plural of each kind.
async fn install(client: &Client) -> BTreeMap<String, String> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply("multigres-api-test").force();
    let mut plurals = BTreeMap::new();
    for crd in shared::api::crds() {
        let name = crd.name_any();
        api.patch(&name, &params, &Patch::Apply(&crd)).await.unwrap();
        let established = await_condition(api.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(DEADLINE, established).await.unwrap_or_else(|_| panic!("{name} is not served")).unwrap();
        let live = api.get(&name).await.unwrap();
        for condition in live.status.and_then(|status| status.conditions).unwrap_or_default() {
            assert!(
                condition.type_ != "NonStructuralSchema" || condition.status != "True",
                "{name} is not structural: {:?}",
                condition.message
            );
        }
        plurals.insert(crd.spec.names.kind, crd.spec.names.plural);
    }
    plurals
}

async fn create_namespace(client: &Client) -> String {
    let name = format!("api-test-{:08x}", rand::random::<u32>());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    name
}

impl Server {
    async fn accepts(&self, manifest: &Manifest) -> Result<(), String> {
        for document in &manifest.documents {
            eventually(async || self.create(document, true).await.map_err(|error| failed(manifest, &error))).await?;
            if let Some(status) = document.get("status") {
                self.keeps_status(document, status).await.map_err(|error| failed(manifest, &error))?;
            }
        }
        Ok(())
    }

    /// Writes the status of a stored object and expects to get all of it back.
    async fn keeps_status(&self, document: &Value, status: &Value) -> Result<(), String> {
        self.create(document, false).await?;
        let place = format!("{}/{}", self.path(document), name(document));
        let patch = Patch::Merge(json!({"status": status}));
        let request = Request::new(self.path(document))
            .patch_subresource("status", name(document), &PatchParams::default(), &patch)
            .map_err(|error| error.to_string())?;
        let written = self.client.request::<Value>(request).await.map_err(|error| error.to_string());
        self.delete(document).await;
        let written = written?;
        if written["status"] == *status { Ok(()) } else { Err(format!("{place} lost status: {}", written["status"])) }
    }

    async fn accepts_update(&self, manifest: &Manifest) -> Result<(), String> {
        let [old, new] = manifest.documents.as_slice() else {
            return Err(failed(manifest, "an update has two documents"));
        };
        self.update(old, new).await.map_err(|error| failed(manifest, &error))
    }

    async fn refuses(&self, manifest: &Manifest) -> Result<(), String> {
        eventually(async || {
            let answer = match manifest.documents.as_slice() {
                [document] => self.create(document, true).await,
                [old, new] => self.update(old, new).await,
                _ => return Err(failed(manifest, "a refusal has one or two documents")),
            };
            match answer {
                Err(message) if message.contains(manifest.refusal()) => Ok(()),
                Err(message) => Err(failed(manifest, &format!("expected {:?}, got {message}", manifest.refusal()))),
                Ok(()) => Err(failed(manifest, "was accepted")),
            }
        })
        .await
    }

    async fn create(&self, document: &Value, dry_run: bool) -> Result<(), String> {
        let params = PostParams { dry_run, field_manager: None };
        let request = Request::new(self.path(document)).create(&params, self.body(document));
        self.send(request.map_err(|error| error.to_string())?).await.map(drop)
    }

    /// Stores `old`, tries to replace it by `new` and removes it again.
    async fn update(&self, old: &Value, new: &Value) -> Result<(), String> {
        self.create(old, false).await?;
        let path = self.path(old);
        let live = Request::new(&path).get(name(old), &kube::api::GetParams::default());
        let live = self.send(live.map_err(|error| error.to_string())?).await?;
        let mut next: Value = serde_json::from_slice(&self.body(new)).map_err(|error| error.to_string())?;
        next["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        let params = PostParams { dry_run: true, field_manager: None };
        let body = serde_json::to_vec(&next).map_err(|error| error.to_string())?;
        let request = Request::new(&path).replace(name(new), &params, body);
        let answer = self.send(request.map_err(|error| error.to_string())?).await.map(drop);
        self.delete(old).await;
        answer
    }

    async fn delete(&self, document: &Value) {
        let request = Request::new(self.path(document)).delete(name(document), &DeleteParams::default()).unwrap();
        self.client.request::<Value>(request).await.unwrap();
    }

    /// Sends a request that does not let unknown fields pass.
    async fn send<T: Into<Vec<u8>>>(&self, request: http::Request<T>) -> Result<Value, String> {
        let (mut parts, body) = request.into_parts();
        let glue = if parts.uri.query().is_some() { '&' } else { '?' };
        let strict = format!("{}{glue}fieldValidation=Strict", parts.uri);
        parts.uri = strict.parse().map_err(|error| format!("{strict}: {error}"))?;
        let request = http::Request::from_parts(parts, body.into());
        self.client.request::<Value>(request).await.map_err(|error| match error {
            kube::Error::Api(status) => status.message,
            other => other.to_string(),
        })
    }

    fn path(&self, document: &Value) -> String {
        let kind = document["kind"].as_str().unwrap();
        format!("/apis/multigres.com/v1alpha1/namespaces/{}/{}", self.namespace, self.plurals[kind])
    }

    fn body(&self, document: &Value) -> Vec<u8> {
        let mut document = document.clone();
        document["metadata"]["namespace"] = Value::from(self.namespace.clone());
        serde_json::to_vec(&document).unwrap()
    }
}

fn name(document: &Value) -> &str {
    document["metadata"]["name"].as_str().unwrap()
}

fn failed(manifest: &Manifest, message: &str) -> String {
    format!("{}: {message}", manifest.name)
}

/// Tries again for a while, because a server takes a moment to serve a definition that changed.
async fn eventually(attempt: impl AsyncFn() -> Result<(), String>) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match attempt().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(250)).await,
            answer => return answer,
        }
    }
}
