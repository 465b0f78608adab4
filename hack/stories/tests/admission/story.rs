//! What the stories of admission do again and again: load, disturbances, damage, and looking at the outcome.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use kube::{
    Api,
    api::{DynamicObject, ListParams},
    discovery::ApiResource,
};
use serde_json::{Value, json};
use shared::{api::v1alpha1::MultigresCluster, pki::Authority};
use stories::{
    Bed, ClusterUnderTest, Load, Tools, Webhook,
    bed::{OPERATOR_NAMESPACE, is_long},
    load::{Case, Expected, Outcome, Report},
    until,
    webhook::{AUTHORITY_SECRET, CERT_MANAGER_SECRET, DEPLOYMENT, LEAF_SECRET, patience},
    within,
};
use tokio::time::MissedTickBehavior;

/// Requests per second that the long form has to reach.
const PROMISED: f64 = 200.0;
/// Admission pods of the chart.
pub const REPLICAS: usize = 2;
/// Longest time from a damage to its repair, in seconds.
const REPAIR: u64 = 10;

/// Secret of the mode in which users bring their own certificates.
const PROVIDED_SECRET: &str = "story-webhook-certificate";

/// Requests per second. The long form asks for somewhat more than what is promised, because a machine is never quite free. The short one
/// leaves room for the disturbances: two processors that only answer requests take minutes to replace a pod.
fn rate() -> u32 {
    if is_long() { 220 } else { 60 }
}

/// What becomes of requests that were due while the processors replaced a pod. The long form sends them afterwards, as users do who do not
/// wait for each other: left out, they would be missing from the rate that is promised.
fn late() -> MissedTickBehavior {
    if is_long() { MissedTickBehavior::Burst } else { MissedTickBehavior::Delay }
}

/// How long the certificates of a mode may take to be in force.
fn settling() -> Duration {
    within(if is_long() { 300 } else { 90 })
}

/// A spec that every webhook accepts.
pub fn good_spec() -> Value {
    json!({ "cells": [{"name": "zone-a", "zone": "zone-a"}] })
}

/// A spec that the schema accepts and a rule refuses: the pool lies in a cell that does not exist.
fn bad_spec() -> Value {
    let shard = json!({"name": "0-inf", "spec": {"pools": {"main": {"type": "readWrite", "cells": ["nowhere"]}}}});
    json!({
        "cells": [{"name": "zone-a", "zone": "zone-a"}],
        "databases": [{"name": "postgres", "default": true, "tablegroups": [
            {"name": "default", "default": true, "shards": [shard]},
        ]}],
    })
}

/// Creates and updates, good and bad, of clusters and templates. `stored` is a cluster of the namespace.
fn cases(namespace: &str, stored: &str) -> Vec<Case> {
    let (plural, kind) = ("multigresclusters", "MultigresCluster");
    let bad_template = json!({"pools": {"main": {"type": "readWrite", "postgres": {"resources": {
        "requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"},
    }}}}});
    let good = Case::create("a good cluster", Expected::Accepted, namespace, plural, kind, &good_spec());
    let bad = Case::create("a bad cluster", Expected::Refused, namespace, plural, kind, &bad_spec());
    let change = json!({"spec": {"logLevels": {"multigateway": "debug"}}});
    let good_change = Case::update("a good change", Expected::Accepted, namespace, plural, stored, change);
    // Wrong as it is written, where the bad cluster is wrong in what it resolves to. The schema lets the address through.
    let change = json!({"spec": {"externalGateway": {"enabled": true, "externalIPs": ["300.1.1.1"]}}});
    let bad_change = Case::update("a bad change", Expected::Refused, namespace, plural, stored, change);
    let (plural, kind) = ("shardtemplates", "ShardTemplate");
    let template = json!({"pools": {"main": {"type": "readWrite", "replicasPerCell": 2}}});
    let good_template = Case::create("a good template", Expected::Accepted, namespace, plural, kind, &template);
    let bad_template = Case::create("a bad template", Expected::Refused, namespace, plural, kind, &bad_template);
    // Mostly new objects. An update of a stored cluster costs the API server itself three times as much as a new one, so that more of them
    // would put a load on it rather than on admission. Refused templates are rare: before it refuses one, admission reads everything that
    // may use it.
    let mut cases: Vec<Case> = [good, bad].iter().cycle().take(12).cloned().collect();
    cases.extend([good_change, good_template.clone(), bad_change, good_template, bad_template]);
    cases
}

async fn expect(bed: &Bed, case: Case) -> Result<()> {
    match case.send(&bed.client).await {
        Outcome::Right => Ok(()),
        outcome => bail!("{}: {outcome:?}", case.title),
    }
}

/// Both verdicts are right: admission answers, and knows what it says.
pub async fn answers(bed: &Bed, namespace: &str) -> Result<()> {
    let (plural, kind) = ("multigresclusters", "MultigresCluster");
    expect(bed, Case::create("a good cluster", Expected::Accepted, namespace, plural, kind, &good_spec())).await?;
    expect(bed, Case::create("a bad cluster", Expected::Refused, namespace, plural, kind, &bad_spec())).await
}

/// A bed with a namespace, admission's objects and the tools of a user.
pub struct Story {
    pub bed: Bed,
    pub namespace: String,
    pub webhook: Webhook,
    pub tools: Tools,
}

impl Story {
    pub async fn begin(name: &str) -> Result<Option<Self>> {
        let Some(bed) = Bed::connect().await? else { return Ok(None) };
        let namespace = bed.namespace(name).await?;
        let webhook = Webhook::new(&bed.client);
        // An earlier story may have failed half-way.
        webhook.ready(REPLICAS).await?;
        Ok(Some(Self { webhook, tools: Tools::from_env()?, namespace, bed }))
    }

    /// A cluster whose pods cannot start: enough to be changed by requests, and cheap.
    pub async fn stored_cluster(&self) -> Result<String> {
        self.bed.forbid_pods(&self.namespace).await?;
        let manifest = json!({
            "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster",
            "metadata": {"name": "stored"}, "spec": good_spec(),
        });
        Ok(ClusterUnderTest::apply_value(&self.bed, &self.namespace, &manifest).await?.name)
    }

    pub async fn end(self) -> Result<()> {
        self.bed.remove_namespace(&self.namespace).await
    }

    /// Sends the load while `disturbance` happens, and for `more` requests afterwards; every request has to be judged rightly.
    pub async fn under_load<F>(&self, title: &str, stored: &str, more: u64, disturbance: F) -> Result<Report>
    where
        F: Future<Output = Result<()>>,
    {
        // A client that asks again would hide what admission could not judge.
        let impatient = self.bed.impatient().await?;
        let load = Load::start(&impatient.client, cases(&self.namespace, stored), rate(), late())?;
        load.another(u64::from(rate()), within(60)).await?;
        let started = Instant::now();
        let disturbed = disturbance.await;
        let took = started.elapsed();
        load.another(more, within(300)).await?;
        let report = load.finish().await?;
        eprintln!("{title}: {:.1} s; {report}", took.as_secs_f64());
        disturbed.with_context(|| title.to_owned())?;
        report.check().with_context(|| title.to_owned())?;
        if is_long() {
            report.check_rate(PROMISED).with_context(|| title.to_owned())?;
        }
        Ok(report)
    }

    pub async fn restart(&self) -> Result<()> {
        let deployment = format!("deployment/{DEPLOYMENT}");
        self.tools.succeed("kubectl", &["-n", OPERATOR_NAMESPACE, "rollout", "restart", &deployment]).await?;
        self.rolled_out().await
    }

    pub async fn rolled_out(&self) -> Result<()> {
        let deployment = format!("deployment/{DEPLOYMENT}");
        let timeout = format!("--timeout={}s", patience().as_secs());
        let wait = ["-n", OPERATOR_NAMESPACE, "rollout", "status", &deployment, &timeout];
        self.tools.succeed("kubectl", &wait).await?;
        self.webhook.ready(REPLICAS).await
    }

    pub async fn delete_a_pod(&self) -> Result<()> {
        let pod = self.webhook.pods().await?.pop_first().context("an admission pod")?;
        self.webhook.replace_pod(&pod).await
    }

    pub async fn delete_every_pod_in_turn(&self) -> Result<()> {
        for pod in self.webhook.pods().await? {
            self.webhook.replace_pod(&pod).await?;
        }
        Ok(())
    }

    pub async fn renew_leaf(&self, secret: &str) -> Result<()> {
        let old = self.webhook.stored(secret).await?.check()?;
        self.webhook.delete_secret(secret).await?;
        self.webhook.another_leaf(secret, &old, settling()).await.map(drop)
    }

    /// Loses the authority: a new one takes over, and signs the leaf once every webhook trusts it.
    pub async fn rotate_authority(&self) -> Result<()> {
        let old = self.webhook.stored(LEAF_SECRET).await?.check()?;
        self.webhook.delete_secret(AUTHORITY_SECRET).await?;
        self.webhook.another_leaf(LEAF_SECRET, &old, within(300)).await.map(drop)
    }

    pub async fn upgrade(&self, values: &[&str]) -> Result<()> {
        self.tools.upgrade(values).await?;
        self.rolled_out().await
    }

    pub async fn to_cert_manager(&self) -> Result<()> {
        self.upgrade(&["certificates.mode=cert-manager"]).await?;
        self.trusted(CERT_MANAGER_SECRET).await
    }

    /// The user brings the certificates.
    pub async fn to_provided(&self) -> Result<()> {
        let names = self.webhook.stored(LEAF_SECRET).await?.check()?.dns_names().clone();
        self.webhook.provide(PROVIDED_SECRET, names).await?;
        let secret = format!("certificates.provided.secretName={PROVIDED_SECRET}");
        self.upgrade(&["certificates.mode=provided", &secret]).await?;
        self.trusted(PROVIDED_SECRET).await
    }

    pub async fn to_self_signed(&self) -> Result<()> {
        // The chart refuses a Secret that its mode does not use.
        self.upgrade(&["certificates.mode=self-signed", "certificates.provided.secretName="]).await?;
        self.trusted(LEAF_SECRET).await
    }

    pub async fn trusted(&self, secret: &str) -> Result<()> {
        until("a leaf that every webhook trusts", settling(), || async {
            self.webhook.stored(secret).await?.check().map(drop)
        })
        .await
    }

    /// Damages something and measures how long it takes until everything fits together and requests are judged again.
    pub async fn repaired<F>(&self, title: &str, damage: F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        damage.await.with_context(|| title.to_owned())?;
        let started = Instant::now();
        until(&format!("repair of: {title}"), within(REPAIR), || async {
            let authority = self.webhook.pair(AUTHORITY_SECRET, "ca.crt", "ca.key").await?;
            Authority::load(authority.clone())?;
            ensure!(shared::pki::matches(&authority), "the key of the authority belongs to another certificate");
            self.webhook.stored(LEAF_SECRET).await?.check()?;
            answers(&self.bed, &self.namespace).await
        })
        .await?;
        eprintln!("{title}: repaired after {:.1} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    pub fn children(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: "multigres.com".into(),
            version: "v1alpha1".into(),
            api_version: "multigres.com/v1alpha1".into(),
            kind: kind.into(),
            plural: plural.into(),
        };
        Api::namespaced_with(self.bed.client.clone(), &self.namespace, &resource)
    }

    /// Applies a manifest, and sees no difference: neither at once, nor after the controller has written what it writes.
    pub async fn unchanged_after_apply(&self, manifest: &str, how: &[&str]) -> Result<()> {
        let words = |verb: &'static str| {
            let mut words = vec!["-n", self.namespace.as_str(), verb, "-f", manifest];
            words.extend(how);
            words
        };
        // A diff reads twice: a status that the controller writes in between is shown, too, and is gone the next time.
        let no_difference = || async { self.tools.succeed("kubectl", &words("diff")).await.map(drop) };
        self.tools.succeed("kubectl", &words("apply")).await?;
        until("no difference after apply", within(30), no_difference).await?;
        let clusters: Api<MultigresCluster> = Api::namespaced(self.bed.client.clone(), &self.namespace);
        until("the controller's first word", within(60), || async {
            let clusters = clusters.list(&ListParams::default()).await?.items;
            let seen = |cluster: &MultigresCluster| {
                let status = cluster.status.as_ref();
                status.is_some_and(|status| status.observed_generation == cluster.metadata.generation)
            };
            ensure!(clusters.iter().all(seen), "a status is still old");
            Ok(())
        })
        .await?;
        until("no difference after the controller's writes", within(30), no_difference).await
    }

    /// A field of the cluster's gateway Service that somebody changed comes back.
    pub async fn drift_is_reverted(&self, cluster: &str) -> Result<()> {
        ClusterUnderTest::existing(&self.bed, &self.namespace, cluster).drift_is_reverted(30).await
    }
}
