//! The operator of the bed: taken away, brought back, and seen to work.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use shared::health;
use stories::{
    Bed, Tools, Webhook,
    bed::OPERATOR_NAMESPACE,
    helm::{Apply, RELEASE},
    load::{Case, Expected, Outcome},
    until,
    webhook::LEAF_SECRET,
    within,
};
use tempfile::NamedTempFile;

/// The Lease of the controller that leads.
const LEASE: &str = "multigres-operator.multigres.com";
/// Pods of both programs.
const PODS: &str = "app.kubernetes.io/name=multigres-operator,app.kubernetes.io/component in (controller, admission)";
/// What the chart makes for the whole Kubernetes, apart from the definitions.
const CLUSTER_WIDE: &str = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,\
    validatingadmissionpolicies,validatingadmissionpolicybindings";

/// The release that all stories of the bed share.
pub struct Operator {
    pub bed: Bed,
    pub tools: Tools,
    /// The values that it has to have again at the end, in a file.
    pub own: NamedTempFile,
    values: Value,
    webhook: Webhook,
}

impl Operator {
    /// The one of the bed, as it is.
    pub async fn begin() -> Result<Option<Self>> {
        let Some(bed) = Bed::connect().await? else { return Ok(None) };
        let tools = Tools::from_env()?;
        // An earlier story may have failed half-way.
        bed.controller_ready().await?;
        let values = tools.values().await?;
        let mut own = tempfile::Builder::new().suffix(".json").tempfile().context("making a file for values")?;
        own.write_all(values.to_string().as_bytes()).context("writing values")?;
        let webhook = Webhook::new(&bed.client);
        Ok(Some(Self { bed, tools, own, values, webhook }))
    }

    /// Makes the release what it was at the beginning, unless it is so.
    pub async fn back(&self) -> Result<()> {
        let is_back = self.tools.values().await.is_ok_and(|values| values == self.values);
        if !is_back {
            self.tools.deploy(Apply::Server, &[self.own.path()]).await.context("bringing back the bed's release")?;
        }
        self.works("default").await
    }

    /// What keeps users from uninstalling it while there are clusters does so, if the chart has such a thing; and all works on.
    pub async fn stays(&self, namespace: &str) -> Result<()> {
        let hooks = ["get", "hooks", RELEASE, "--namespace", OPERATOR_NAMESPACE];
        if !self.tools.succeed("helm", &hooks).await?.contains("pre-delete") {
            return Ok(());
        }
        let uninstall = ["uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--timeout", "2m"];
        let ended = self.tools.run("helm", &uninstall).await?;
        ensure!(ended.code != 0, "uninstalled in spite of a cluster: {}{}", ended.output, ended.errors);
        // Helm upgrades no release that it calls "uninstalling". A rollback to where it is makes it "deployed" again.
        self.tools.rollback(self.tools.revision().await?).await.context("after an uninstallation that was refused")?;
        self.works(namespace).await
    }

    /// Whether there are clusters anywhere.
    pub async fn has_clusters(&self) -> Result<bool> {
        let all = ["get", "multigresclusters", "--all-namespaces", "-o", "name"];
        Ok(!self.tools.succeed("kubectl", &all).await?.is_empty())
    }

    /// Uninstalls it, and waits until nothing of it runs or is asked any more.
    pub async fn leave(&self) -> Result<()> {
        self.tools.uninstall().await?;
        let pods = self.pods();
        until("the end of the operator's pods", within(120), || async {
            let left = pods.list(&ListParams::default().labels(PODS)).await?.items;
            let left: Vec<String> = left.iter().map(kube::ResourceExt::name_any).collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
        // A check before the removal that failed leaves its own role behind.
        let ours = format!("app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component!=uninstall");
        let left = self.tools.succeed("kubectl", &["get", CLUSTER_WIDE, "-l", &ours, "-o", "name"]).await?;
        ensure!(left.is_empty(), "left behind: {left}");
        Ok(())
    }

    /// Waits until somebody leads, and admission judges rightly in a namespace.
    pub async fn works(&self, namespace: &str) -> Result<()> {
        self.leads().await?;
        until("a certificate that every webhook trusts", within(60), || async {
            self.webhook.stored(LEAF_SECRET).await?.check().map(drop)
        })
        .await?;
        let cells = json!([{"name": "zone-a", "zone": "zone-a"}]);
        let nowhere =
            json!({"name": "0-inf", "spec": {"pools": {"main": {"type": "readWrite", "cells": ["nowhere"]}}}});
        let groups = json!([{"name": "default", "default": true, "shards": [nowhere]}]);
        let databases = json!([{"name": "postgres", "default": true, "tablegroups": groups}]);
        let (plural, kind) = ("multigresclusters", "MultigresCluster");
        let good = json!({ "cells": cells });
        let bad = json!({ "cells": cells, "databases": databases });
        let good = Case::create("a good cluster", Expected::Accepted, namespace, plural, kind, &good);
        let bad = Case::create("a bad cluster", Expected::Refused, namespace, plural, kind, &bad);
        until("both verdicts of admission", within(60), || async {
            for case in [&good, &bad] {
                let outcome = case.send(&self.bed.client).await;
                ensure!(outcome == Outcome::Right, "{}: {outcome:?}", case.title);
            }
            Ok(())
        })
        .await
    }

    /// Whoever holds the Lease is a pod that runs, is ready, and stays.
    async fn leads(&self) -> Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.bed.client.clone(), OPERATOR_NAMESPACE);
        let pods = self.pods();
        until("a controller that leads", within(90), || async {
            let holder = leases.get(LEASE).await?.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            let pod = pods.get_opt(&holder).await.with_context(|| format!("looking for the holder {holder:?}"))?;
            ensure!(pod.is_some_and(|pod| health::is_ready(&pod)), "the Lease is held by {holder:?}");
            Ok(())
        })
        .await
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.bed.client.clone(), OPERATOR_NAMESPACE)
    }
}
