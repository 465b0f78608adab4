//! The stores with nothing but Roles in the namespaces that they watch, on a real API server.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. The stores act as a user of their own there, who has the
//! rights that the chart gives, and none in the whole cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{fs, path::Path};

use admission::lookup::{Lookup as _, Settings, Stores};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use shared::{admin::Readiness, resolve};
use support::api_server::{ApiServer, eventually};
use tokio_util::sync::CancellationToken;

const USER: &str = "system:serviceaccount:operator:admission";

/// A client with no rights but those that are granted.
async fn client() -> Client {
    let kubeconfig = Kubeconfig::read_from(std::env::var_os("MULTIGRES_TEST_KUBECONFIG").unwrap()).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info.impersonate = Some(USER.to_owned());
    Client::try_from(config).unwrap()
}

/// Gives the rights that the chart gives in a watched namespace.
async fn grant(server: &ApiServer, namespace: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/multigres-operator/files/rbac/admission.yaml");
    let rules: Vec<PolicyRule> = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(!rules.is_empty());
    let role: Role = serde_json::from_value(json!({"metadata": {"name": "granted"}, "rules": rules})).unwrap();
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "granted"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "granted"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    }))
    .unwrap();
    let params = PostParams::default();
    Api::namespaced(server.client.clone(), namespace).create(&params, &role).await.unwrap();
    Api::namespaced(server.client.clone(), namespace).create(&params, &binding).await.unwrap();
}

/// Creates a template and a cluster that uses it.
async fn fill(server: &ApiServer, namespace: &str) {
    let of = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "multigres.com/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec});
    let template = of("CellTemplate", "t", json!({"multigateway": {"replicas": 1}}));
    let cluster = of("MultigresCluster", "c", json!({"cells": [{"name": "a", "cellTemplate": "t"}]}));
    for object in [template, cluster] {
        let outcome = server.create(&object, None, false).await;
        assert!(outcome.allowed(), "{outcome:?}");
    }
}

fn seen(stores: &Stores, namespace: &str) -> (usize, usize) {
    (stores.templates(namespace).unwrap().cell.len(), stores.clusters(namespace).unwrap().len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_roles_alone_the_watched_namespaces_are_known_and_one_without_a_role_holds_up_nobody() {
    let Some(server) = ApiServer::connect().await else { return };
    let mut namespaces = Vec::new();
    for name in ["first", "second", "late", "foreign"] {
        namespaces.push(server.namespace(name).await);
        fill(&server, namespaces.last().unwrap()).await;
    }
    let [first, second, late, foreign] = &namespaces[..] else { panic!("four namespaces") };
    for namespace in [first, second] {
        grant(&server, namespace).await;
    }

    let (token, readiness) = (CancellationToken::new(), Readiness::default());
    let watched = vec![first.clone(), second.clone(), late.clone()];
    let settings = Settings { namespaces: watched, zone_id_label: resolve::ZONE_ID_LABEL.to_owned() };
    let (stores, _) = Stores::start(client().await, token.clone(), &readiness, settings, &support::watches());
    let complete = async || {
        let missing = readiness.missing();
        if missing.is_empty() { Ok(()) } else { Err(format!("waiting for {missing:?}")) }
    };
    eventually(complete).await.unwrap();
    // Rights take a moment to come into force, so the first lists of these may have been refused, too.
    for namespace in [first, second] {
        eventually(async || match seen(&stores, namespace) {
            (1, 1) => Ok(()),
            seen => Err(format!("{namespace}: {seen:?}")),
        })
        .await
        .unwrap();
        assert!(stores.watches(namespace));
        assert_eq!(stores.templates_live(namespace).await.unwrap().cell.len(), 1);
    }
    assert_eq!(seen(&stores, foreign), (0, 0));
    assert!(!stores.watches(foreign));

    // What cannot be seen is not taken for missing: the live read says why.
    assert_eq!(seen(&stores, late), (0, 0));
    assert!(stores.templates_live(late).await.is_err());
    grant(&server, late).await;
    eventually(async || match seen(&stores, late) {
        (1, 1) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await
    .unwrap();
    token.cancel();
    server.close(namespaces).await;
}
