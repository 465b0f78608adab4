//! A real API server that asks the service of this process.

use std::{
    env,
    time::{Duration, Instant},
};

use admission::review::Endpoint;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhookConfiguration},
        core::v1::Namespace,
    },
};
use kube::{
    Client, Config, ResourceExt as _,
    api::{Api, DeleteParams, Patch, PatchParams, PostParams},
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions},
};
use serde_json::{Value, json};
use shared::{
    kubeutil::client,
    metrics::{Build, FrameworkMetrics, Metrics},
};
use strum::IntoEnumIterator as _;

use super::envelope::Answer;

const KUBECONFIG: &str = "MULTIGRES_TEST_KUBECONFIG";
/// How long anything that should happen may take; generous, because machines of tests are busy.
pub const DEADLINE: Duration = Duration::from_mins(1);
/// Label of the namespaces whose objects are reviewed by one test.
const LABEL: &str = "admission-test";

/// An API server, and what one test has put on it.
pub struct ApiServer {
    /// An administrator's client.
    pub client: Client,
    /// Tells this test's objects from those of others.
    pub run: String,
}

/// What an API server answered.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// HTTP status.
    pub status: u16,
    /// The object, or the `Status` of a refusal.
    pub body: Value,
    /// The warnings, from the headers.
    pub warnings: Vec<String>,
}

impl Outcome {
    /// Whether the request succeeded.
    pub fn allowed(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether the refusal came from a webhook, and not from the server itself.
    pub fn is_from_webhook(&self) -> bool {
        self.body["message"].as_str().is_some_and(|message| message.starts_with("admission webhook "))
    }

    /// The same in the service's own terms: the server's prefix of the message is gone.
    pub fn answer(&self, webhook: &str) -> Answer {
        if self.allowed() {
            return Answer { allowed: true, warnings: self.warnings.clone(), ..Answer::default() };
        }
        let mut answer = Answer { warnings: self.warnings.clone(), ..Answer::status(&self.body) };
        let prefix = format!("admission webhook {webhook:?} denied the request: ");
        if let Some(message) = answer.message.strip_prefix(&prefix) {
            answer = Answer { message: message.to_owned(), ..answer };
        }
        answer
    }

    /// Field paths of the causes.
    pub fn fields(&self) -> Vec<&str> {
        let causes = self.body["details"]["causes"].as_array().into_iter().flatten();
        causes.filter_map(|cause| cause["field"].as_str()).collect()
    }
}

/// A request to the API server.
pub struct Call<'c> {
    /// HTTP method.
    pub method: &'c str,
    /// Path, query included.
    pub path: String,
    /// Who asks: impersonated, with an administrator's rights; none is the administrator.
    pub user: Option<&'c str>,
    /// Content type of the body.
    pub content_type: &'c str,
    /// Body; `Null` for none.
    pub body: Value,
}

impl ApiServer {
    /// The server with our definitions; `None` without one, said loudly.
    pub async fn connect() -> Option<Self> {
        let Some(path) = env::var_os(KUBECONFIG) else {
            let required = ["CI", "MULTIGRES_TEST_REQUIRE"].iter().any(|name| env::var_os(name).is_some());
            assert!(!required, "{KUBECONFIG} is not set, and skipping is not allowed here");
            eprintln!("SKIPPED: {KUBECONFIG} is not set, so admission was NOT tried behind an API server");
            return None;
        };
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        // As the program makes it: the service's workers send requests with it, too.
        let metrics = Metrics::new(Build { version: "0", revision: "test" }).unwrap();
        let client = client::client(config, &FrameworkMetrics::new(&metrics).unwrap()).unwrap();
        install(&client).await;
        Some(Self { client, run: format!("{:08x}", rand_word()) })
    }

    /// A new namespace whose objects are reviewed.
    pub async fn namespace(&self, name: &str) -> String {
        let name = format!("admission-{}-{name}", self.run);
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {LABEL: self.run}}})).unwrap();
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        name
    }

    /// Makes the server ask the service at that port about our namespaces.
    pub async fn point_to(&self, port: u16, authority: &str) {
        let webhooks = |mutating: bool| -> Vec<Value> {
            Endpoint::iter()
                .filter(|endpoint| (endpoint.operation() == "DEFAULT") == mutating)
                .map(|endpoint| self.webhook(endpoint, port, authority))
                .collect()
        };
        let name = self.configuration();
        let mutating: MutatingWebhookConfiguration =
            serde_json::from_value(json!({"metadata": {"name": name}, "webhooks": webhooks(true)})).unwrap();
        Api::all(self.client.clone()).create(&PostParams::default(), &mutating).await.unwrap();
        let validating: ValidatingWebhookConfiguration =
            serde_json::from_value(json!({"metadata": {"name": name}, "webhooks": webhooks(false)})).unwrap();
        Api::all(self.client.clone()).create(&PostParams::default(), &validating).await.unwrap();
    }

    fn configuration(&self) -> String {
        format!("admission-test-{}", self.run)
    }

    fn webhook(&self, endpoint: Endpoint, port: u16, authority: &str) -> Value {
        let (operations, resources): (&[&str], Vec<String>) = match endpoint {
            Endpoint::MutateCluster | Endpoint::ValidateCluster => {
                (&["CREATE", "UPDATE"], vec![plural(endpoint.kind())])
            }
            Endpoint::ValidateShard => (&["CREATE", "UPDATE", "DELETE"], vec!["shards".into(), "shards/scale".into()]),
            _ => (&["CREATE", "UPDATE", "DELETE"], vec![plural(endpoint.kind())]),
        };
        let rule = RuleWithOperations {
            api_groups: Some(vec!["multigres.com".into()]),
            api_versions: Some(vec!["v1alpha1".into()]),
            operations: Some(operations.iter().map(|&operation| operation.to_owned()).collect()),
            resources: Some(resources),
            scope: Some("Namespaced".into()),
        };
        json!({
            "name": webhook_name(endpoint),
            "clientConfig": {
                "url": format!("https://localhost:{port}{}", endpoint.path()),
                "caBundle": ByteString(authority.as_bytes().to_vec()),
            },
            "rules": [rule],
            "namespaceSelector": {"matchLabels": {LABEL: self.run}},
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "timeoutSeconds": 10,
            "admissionReviewVersions": ["v1"],
        })
    }

    /// Sends a request.
    pub async fn call(&self, call: Call<'_>) -> Outcome {
        let mut request = http::Request::builder().method(call.method).uri(&call.path);
        if let Some(user) = call.user {
            request = request.header("impersonate-user", user).header("impersonate-group", "system:masters");
        }
        let body = if call.body.is_null() { Vec::new() } else { serde_json::to_vec(&call.body).unwrap() };
        let request = request.header("content-type", call.content_type).body(Body::from(body)).unwrap();
        let response = self.client.send(request).await.unwrap_or_else(|error| panic!("{}: {error}", call.path));
        let status = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings.map(|value| warning(std::str::from_utf8(value.as_bytes()).unwrap())).collect();
        let body = response.into_body().collect_bytes().await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
        Outcome { status, body, warnings }
    }

    /// Creates an object.
    pub async fn create(&self, object: &Value, user: Option<&str>, dry_run: bool) -> Outcome {
        let path = format!("{}{}", collection(object), if dry_run { "?dryRun=All" } else { "" });
        self.call(Call { method: "POST", path, user, content_type: "application/json", body: object.clone() }).await
    }

    /// Replaces an object, whatever its version.
    pub async fn replace(&self, object: &Value, user: Option<&str>, dry_run: bool) -> Outcome {
        let live = self.get(object).await;
        let mut next = object.clone();
        next["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        let path = format!("{}{}", place(object), if dry_run { "?dryRun=All" } else { "" });
        self.call(Call { method: "PUT", path, user, content_type: "application/json", body: next }).await
    }

    /// Deletes an object.
    pub async fn delete(&self, object: &Value, user: Option<&str>, dry_run: bool) -> Outcome {
        let path = format!("{}{}", place(object), if dry_run { "?dryRun=All" } else { "" });
        self.call(Call { method: "DELETE", path, user, content_type: "application/json", body: Value::Null }).await
    }

    /// Applies an object at the server.
    pub async fn apply(&self, object: &Value, dry_run: bool) -> Outcome {
        let dry_run = if dry_run { "&dryRun=All" } else { "" };
        let path = format!("{}?fieldManager=argocd-controller&force=true{dry_run}", place(object));
        let content_type = "application/apply-patch+yaml";
        self.call(Call { method: "PATCH", path, user: None, content_type, body: object.clone() }).await
    }

    /// The stored object.
    pub async fn get(&self, object: &Value) -> Value {
        let call = Call { method: "GET", path: place(object), user: None, content_type: "", body: Value::Null };
        let outcome = self.call(call).await;
        assert!(outcome.allowed(), "{outcome:?}");
        outcome.body
    }

    /// Removes the configurations and the given namespaces.
    pub async fn close(self, namespaces: impl IntoIterator<Item = String>) {
        let name = self.configuration();
        let params = DeleteParams::default();
        drop(Api::<MutatingWebhookConfiguration>::all(self.client.clone()).delete(&name, &params).await);
        drop(Api::<ValidatingWebhookConfiguration>::all(self.client.clone()).delete(&name, &params).await);
        let api = Api::<Namespace>::all(self.client.clone());
        for namespace in namespaces {
            drop(api.delete(&namespace, &params).await);
        }
    }
}

/// Name of the webhook of an endpoint, as in the chart.
pub fn webhook_name(endpoint: Endpoint) -> String {
    let kind = endpoint.kind().to_lowercase();
    format!("{}{kind}.kb.io", if endpoint == Endpoint::MutateCluster { 'm' } else { 'v' })
}

/// The resource of a kind.
fn plural(kind: &str) -> String {
    format!("{}s", kind.to_lowercase())
}

/// Path of the collection of an object.
pub fn collection(object: &Value) -> String {
    let (namespace, kind) = (&object["metadata"]["namespace"], &object["kind"]);
    let plural = plural(kind.as_str().unwrap());
    format!("/apis/multigres.com/v1alpha1/namespaces/{}/{plural}", namespace.as_str().unwrap())
}

/// Path of an object.
pub fn place(object: &Value) -> String {
    format!("{}/{}", collection(object), object["metadata"]["name"].as_str().unwrap())
}

/// The text of a `Warning` header.
fn warning(header: &str) -> String {
    let text = header.strip_prefix("299 - \"").and_then(|text| text.strip_suffix('"')).unwrap_or(header);
    text.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// Tries until it succeeds, and fails with the last error.
pub async fn eventually<T>(mut attempt: impl AsyncFnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
            answer => return answer,
        }
    }
}

async fn install(client: &Client) {
    let api = Api::all(client.clone());
    let params = PatchParams::apply("multigres-admission-test").force();
    let mut names = Vec::new();
    for crd in shared::api::crds() {
        let name = crd.name_any();
        api.patch(&name, &params, &Patch::Apply(&crd)).await.unwrap();
        names.push(name);
    }
    for name in &names {
        let established = await_condition(api.clone(), name, conditions::is_crd_established());
        tokio::time::timeout(DEADLINE, established).await.unwrap_or_else(|_| panic!("{name} is not served")).unwrap();
    }
}

/// A number that differs between runs.
fn rand_word() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    u32::try_from(RandomState::new().hash_one(std::process::id()) >> 32).unwrap()
}
