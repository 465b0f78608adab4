//! Secured metrics before a real API server: only a token whose owner may get the path reads them.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. Without it the test is skipped loudly, and fails
//! where skipping is not allowed (`CI` or `MULTIGRES_TEST_REQUIRE` set).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{env, fs, sync::Arc, time::Duration};

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client as Http, rt::TokioExecutor};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{authentication::v1::TokenRequest, core::v1::ServiceAccount};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use shared::{
    admin::{self, Bind, Guard, Readiness, Security, Server, Source, State},
    metrics::{Build, Metrics},
    pki,
};
use tokio_util::sync::CancellationToken;

const KUBECONFIG: &str = "MULTIGRES_TEST_KUBECONFIG";
const DEADLINE: Duration = Duration::from_mins(1);

async fn connect() -> Option<Client> {
    let Some(path) = env::var_os(KUBECONFIG) else {
        let required = ["CI", "MULTIGRES_TEST_REQUIRE"].iter().any(|name| env::var_os(name).is_some());
        assert!(!required, "{KUBECONFIG} is not set, and skipping is not allowed here");
        eprintln!("SKIPPED: {KUBECONFIG} is not set, so secured metrics were NOT tried on an API server");
        return None;
    };
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Some(Client::try_from(config).unwrap())
}

async fn create(client: &Client, group: &str, kind: &str, namespace: Option<&str>, object: Value) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

async fn token(client: &Client, namespace: &str, account: &str) -> String {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": []}})).unwrap();
    api.create_token_request(account, &PostParams::default(), &request).await.unwrap().status.unwrap().token.unwrap()
}

#[tokio::test]
async fn metrics_are_read_by_whom_the_api_server_lets() {
    let Some(client) = connect().await else { return };
    let name = format!("metrics-{:08x}", rand::random::<u32>());
    let rbac = "rbac.authorization.k8s.io";
    create(
        &client,
        "",
        "Namespace",
        None,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
    )
    .await;
    for account in ["reader", "nobody"] {
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
        create(&client, "", "ServiceAccount", Some(&name), object).await;
    }
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
        "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
    });
    create(&client, rbac, "ClusterRole", None, role).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": name}],
    });
    create(&client, rbac, "ClusterRoleBinding", None, binding).await;

    // A certificate in files, whose authority the scraper trusts.
    let (now, day) = (Timestamp::now(), SignedDuration::from_hours(24));
    let authority = pki::Authority::generate("metrics-test", now, day).unwrap();
    let names = ["localhost".to_owned()].into();
    let wanted = pki::Request { common_name: "localhost".to_owned(), dns_names: names, valid_for: day };
    let pair = authority.issue(&wanted, now).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = Source::Files { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
    fs::write(folder.path().join("tls.crt"), pair.certificate).unwrap();
    fs::write(folder.path().join("tls.key"), pair.key).unwrap();

    let metrics = Metrics::new(Build { version: "1", revision: "a" }).unwrap();
    let state = State { metrics, readiness: Readiness::default(), log: None };
    let local = Bind::Host("127.0.0.1".to_owned(), 0);
    let security = Security { tls: admin::tls(&source).unwrap(), guard: Guard::new(client.clone()) };
    let server = Server::bind(&local, &Bind::Off, state).unwrap().secured(security).unwrap();
    let address = server.metrics_address().unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(server.run(stop.clone()));

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pair().certificate.as_bytes()).unwrap()).unwrap();
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    let http: Http<_, Empty<&'static [u8]>> = Http::builder(TokioExecutor::new()).build(connector);
    let get = async |scheme: &str, token: Option<&str>| {
        let mut request = Request::get(format!("{scheme}://localhost:{}/metrics", address.port()));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let exchange = http.request(request.body(Empty::new()).unwrap());
        let answer = tokio::time::timeout(DEADLINE, exchange).await.unwrap().ok()?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    };

    let (reader, nobody) = (token(&client, &name, "reader").await, token(&client, &name, "nobody").await);
    // Rights take effect a moment after they were given, and a no is remembered: so this waits without asking.
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{name}:reader"),
            "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        },
    });
    let reviews: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &ApiResource::from_gvk(&GroupVersionKind::gvk("authorization.k8s.io", "v1", "SubjectAccessReview")),
    );
    let in_force = async {
        loop {
            let answer = reviews.create(&PostParams::default(), &serde_json::from_value(review.clone()).unwrap()).await;
            if answer.unwrap().data["status"]["allowed"] == true {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, in_force).await.expect("the rights are in force");

    let (status, text) = get("https", Some(&reader)).await.unwrap();
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("multigres_operator_build_info"), "{text}");
    assert_eq!(get("https", Some(&nobody)).await.unwrap().0, 403);
    assert_eq!(get("https", Some("made.up.token")).await.unwrap().0, 401);
    assert_eq!(get("https", None).await.unwrap().0, 401);
    assert!(get("http", Some(&reader)).await.is_none_or(|(status, _)| status != 200), "there is no way around TLS");

    stop.cancel();
    tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap().unwrap();
    for kind in ["ClusterRoleBinding", "ClusterRole"] {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(rbac, "v1", kind));
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        api.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Namespace"));
    Api::<DynamicObject>::all_with(client, &resource).delete(&name, &DeleteParams::default()).await.unwrap();
}
