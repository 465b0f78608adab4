//! The samples do what their page says: its own commands make, change and remove each of them.
//!
//! The short form tries one that keeps its volumes and one that does not; the long form all of them at once. With the real data plane
//! those are tried that need no bucket, one after the other: real databases need the machine.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::{try_join, try_join_all};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use shared::{
    api::v1alpha1::{CellTemplate, MultigresCluster, PvcRetention, Shard},
    condition,
};
use stories::{
    Bed, ClusterUnderTest, Lesson, Tools,
    audit::{CONTROLLER_USER, Mark},
    backup::is_real,
    bed::{OPERATOR_NAMESPACE, is_long},
    etcd, inventory,
    secret::stay_hidden,
    until, within,
};

/// What is tried in the short form: one cluster that deletes its volumes, and one whose topology is somebody else's.
const SHORT: [&str; 2] = ["overrides", "external-etcd"];
/// What is tried with the real data plane.
const REAL: [&str; 4] = ["minimal", "overrides", "external-etcd", "demo-multi-az-shared-volume"];
/// Namespace of the etcd that the sample brings along.
const ETCD_NAMESPACE: &str = "external-etcd";
/// Root of the sample's keys in it.
const ETCD_ROOT: &str = "/multigres/external-etcd/";
/// Components of the data plane that hold state or lead it.
const DATABASE: [&str; 2] = ["shard-pool", "multiorch"];

/// A lesson in a namespace of its own.
struct Attempt {
    lesson: Lesson,
    cluster: ClusterUnderTest,
    tools: Tools,
}

impl Attempt {
    async fn apply(bed: &Bed, lesson: Lesson) -> Result<Self> {
        let namespace = bed.namespace(&lesson.title).await?;
        let tools = Tools::from_env()?;
        let name = name_of(&lesson)?;
        if lesson.title == "external-etcd" {
            // Its etcd has a namespace of fixed name, which a story that failed leaves behind, and a cluster that is still on its way out
            // takes its records from whatever answers there.
            let earlier: Api<MultigresCluster> = Api::all(bed.client.clone());
            let same_name = ListParams::default().fields(&format!("metadata.name={name}"));
            until("the end of an earlier try", within(180), || async {
                let left = earlier.list(&same_name).await?.items;
                ensure!(left.is_empty(), "{} of the same name", left.len());
                Ok(())
            })
            .await?;
            let left = ["delete", "namespace", ETCD_NAMESPACE, "--ignore-not-found", "--timeout=120s"];
            tools.succeed("kubectl", &left).await?;
        }
        Lesson::carry_out(&tools, &lesson.apply, &namespace).await.with_context(|| lesson.title.clone())?;
        Ok(Self { cluster: ClusterUnderTest::existing(bed, &namespace, &name), lesson, tools })
    }

    /// Carries out the change and looks for what the page says about it.
    async fn change(&self) -> Result<()> {
        let title = self.lesson.title.as_str();
        self.before(title).await.with_context(|| format!("{title}, before the change"))?;
        let database = self.cluster.starts(&DATABASE).await?;
        let primary = self.cluster.shard().await?.status.unwrap_or_default().primary;
        Lesson::carry_out(&self.tools, std::slice::from_ref(&self.lesson.change), &self.cluster.namespace).await?;
        self.after(title).await.with_context(|| format!("{title}, after `{}`", self.lesson.change))?;
        self.cluster.healthy(240).await?;
        // Every change of the page leaves what runs alone, and may add to it.
        let now = self.cluster.starts(&DATABASE).await?;
        let kept = database.iter().all(|(pod, starts)| now.get(pod) == Some(starts));
        ensure!(kept, "{title}: the change touched the database: {database:?}, then {now:?}");
        let shard = self.cluster.shard().await?.status.unwrap_or_default();
        ensure!(shard.primary == primary, "{title}: the primary moved from {primary:?} to {:?}", shard.primary);
        Ok(())
    }

    /// What the page says about the sample as it is applied.
    async fn before(&self, title: &str) -> Result<()> {
        match title {
            "minimal" => ensure!(self.cluster.members().await?.len() == 2, "two PostgreSQL pods"),
            "templated-cluster" => {
                ensure!(self.gateways().await? == [2, 2], "two gateways in each of two cells");
                ensure!(self.cluster.members().await?.len() == 4, "two PostgreSQL pods in each cell");
            }
            "default-templates" => {
                ensure!(self.gateways().await? == [2], "two gateways");
                ensure!(self.etcd_members().await? == 1, "one etcd member");
            }
            "overrides" => {
                ensure!(self.gateways().await? == [3], "three gateways");
                self.gateway_says("--buffer-window", "5s").await?;
                ensure!(self.etcd_members().await? == 1, "one etcd member");
                self.merged().await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What the page says about the change.
    async fn after(&self, title: &str) -> Result<()> {
        match title {
            "minimal" => {
                until("a gateway that says more", within(120), || self.gateway_says("--log-level", "debug")).await
            }
            "templated-cluster" => {
                self.gateways_become(&[3, 3]).await?;
                let templates: Api<CellTemplate> = self.cluster.namespaced();
                let refused = templates.delete("standard-ha-cell", &DeleteParams::default()).await;
                let refused = refused.err().context("a template in use was deleted")?;
                ensure!(refused.to_string().contains("denied the request"), "{refused}");
                Ok(())
            }
            "default-templates" => self.cluster.roles(2, 240).await.map(drop),
            "overrides" => {
                self.gateways_become(&[2]).await?;
                until("a gateway of the template", within(120), || self.gateway_says("--buffer-window", "10s")).await
            }
            "no-templates" => until("a gateway that is open to the outside", within(60), || self.exposed()).await,
            "external-etcd" => {
                self.gateways_become(&[2]).await?;
                // The record of a gateway that was restarted stays until its pod is gone and the operator looks again.
                until("two registered gateways", within(180), || async {
                    let keys = self.keys().await?;
                    let gateways = keys.iter().filter(|key| key.ends_with("/Gateway")).count();
                    ensure!(gateways == 2, "{keys:?}");
                    Ok(())
                })
                .await
            }
            "demo-multi-az-shared-volume" => self.cluster.roles(5, 300).await.map(drop),
            "demo-multi-az" => {
                until("two orchestrators in each zone", within(120), || async {
                    let ready = self.ready("multiorch").await?;
                    ensure!(ready == [2, 2, 2], "{ready:?}");
                    Ok(())
                })
                .await
            }
            other => bail!("this story does not know what the change of section {other:?} does"),
        }
    }

    /// Carries out the removal; only what the page names is left.
    async fn remove(&self) -> Result<()> {
        stay_hidden(&self.cluster.bed.client, &self.cluster.namespace).await?;
        let claims = self.cluster.claims().await?;
        ensure!(!claims.is_empty(), "{}: the cluster has volumes", self.lesson.title);
        let policy = self.cluster.get().await?.spec.pvc_deletion_policy.unwrap_or_default();
        let deletes = policy.when_deleted == Some(PvcRetention::Delete);
        // The second command of the page takes the etcd away, so that is looked into in between.
        let (first, others) = self.lesson.remove.split_first().context("a command of removal")?;
        Lesson::carry_out(&self.tools, std::slice::from_ref(first), &self.cluster.namespace).await?;
        if self.lesson.title == "external-etcd" {
            self.nothing_in_the_etcd().await?;
        }
        Lesson::carry_out(&self.tools, others, &self.cluster.namespace).await?;
        let mut due: BTreeSet<String> = BTreeSet::new();
        if !deletes {
            due.extend(claims.iter().map(|claim| format!("persistentvolumeclaim/{claim}")));
            due.insert(format!("secret/{}-postgres-password", self.cluster.name));
        }
        until("a namespace with nothing but what is retained", within(120), || async {
            let left = inventory::objects(&self.tools, &self.cluster.namespace).await?;
            let too_much: Vec<&String> = left.difference(&due).collect();
            let lost: Vec<&String> = due.difference(&left).collect();
            ensure!(too_much.is_empty() && lost.is_empty(), "left over: {too_much:?}; lost: {lost:?}");
            Ok(())
        })
        .await
        .with_context(|| self.lesson.title.clone())?;
        self.cluster.bed.remove_namespace(&self.cluster.namespace).await
    }

    /// Waits until every shard with backups says whether WAL is archived.
    async fn archives(&self) -> Result<()> {
        until("a word about WAL", within(180), || async {
            let shards: Api<Shard> = self.cluster.namespaced();
            for shard in shards.list(&ListParams::default()).await? {
                let conditions = shard.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
                let told = condition::find(conditions, "WALArchiving").is_some();
                ensure!(told || shard.spec.backup.is_none(), "{}: {conditions:?}", shard.name_any());
            }
            Ok(())
        })
        .await
    }

    async fn keys(&self) -> Result<Vec<String>> {
        etcd::keys(&self.cluster.bed.client, ETCD_NAMESPACE, "etcd-0", ETCD_ROOT).await
    }

    async fn nothing_in_the_etcd(&self) -> Result<()> {
        until("an etcd without the cluster's records", within(60), || async {
            let keys = self.keys().await?;
            ensure!(keys.is_empty(), "{keys:?}");
            Ok(())
        })
        .await
    }

    async fn deployments(&self, component: &str) -> Result<Vec<Deployment>> {
        let api: Api<Deployment> = self.cluster.namespaced();
        let wanted =
            format!("app.kubernetes.io/instance={},app.kubernetes.io/component={component}", self.cluster.name);
        Ok(api.list(&ListParams::default().labels(&wanted)).await?.items)
    }

    /// Ready pods of each Deployment of a component.
    async fn ready(&self, component: &str) -> Result<Vec<i32>> {
        let deployments = self.deployments(component).await?;
        let ready = |d: Deployment| d.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        Ok(deployments.into_iter().map(ready).collect())
    }

    async fn gateways(&self) -> Result<Vec<i32>> {
        self.ready("multigateway").await
    }

    async fn gateways_become(&self, wanted: &[i32]) -> Result<()> {
        until("the gateways that the page promises", within(180), || async {
            let deployments = self.deployments("multigateway").await?;
            let asked: Vec<i32> =
                deployments.iter().map(|d| d.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)).collect();
            let ready = self.gateways().await?;
            ensure!(asked == wanted && ready == wanted, "{asked:?} asked for, {ready:?} ready");
            Ok(())
        })
        .await
    }

    /// Every gateway that runs was started with this argument.
    async fn gateway_says(&self, flag: &str, value: &str) -> Result<()> {
        let says = |args: &[String]| args.windows(2).any(|pair| pair[0] == flag && pair[1] == value);
        let pods: Api<Pod> = self.cluster.namespaced();
        let wanted =
            format!("app.kubernetes.io/instance={},app.kubernetes.io/component=multigateway", self.cluster.name);
        let running = pods.list(&ListParams::default().labels(&wanted)).await?.items;
        ensure!(!running.is_empty(), "no gateway runs");
        for pod in running {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let args: Vec<String> =
                containers.flat_map(|container| container.args.clone().unwrap_or_default()).collect();
            ensure!(says(&args), "{} runs without {flag} {value}: {args:?}", pod.name_any());
        }
        Ok(())
    }

    async fn etcd_members(&self) -> Result<i32> {
        let api: Api<StatefulSet> = self.cluster.namespaced();
        let set = api.get(&format!("{}-global-topo", self.cluster.name)).await?;
        set.spec.and_then(|spec| spec.replicas).context("a number of members")
    }

    /// Overrides are merged, not put in the template's place.
    async fn merged(&self) -> Result<()> {
        let maps: Api<ConfigMap> = self.cluster.namespaced();
        let maps = maps.list(&self.cluster.mine()).await?.items;
        let texts: Vec<&String> = maps.iter().flat_map(|map| map.data.iter().flatten()).map(|(_, text)| text).collect();
        for setting in ["work_mem", "max_connections"] {
            ensure!(texts.iter().any(|text| text.contains(setting)), "no {setting} in {texts:?}");
        }
        ensure!(texts.iter().any(|text| text.contains("32MB")), "work_mem of the override in {texts:?}");
        let admin = self.deployments("multiadmin").await?;
        let template = admin.first().and_then(|d| d.spec.clone()).map(|spec| spec.template).context("MultiAdmin")?;
        let labels = template.metadata.and_then(|meta| meta.labels).unwrap_or_default();
        ensure!(labels.get("team").is_some_and(|team| team == "dba"), "{labels:?}");
        let resources = template.spec.and_then(|pod| pod.containers.into_iter().next()).and_then(|c| c.resources);
        let memory = resources.and_then(|r| r.limits).and_then(|limits| limits.get("memory").cloned());
        ensure!(memory.is_some_and(|memory| memory.0 == "256Mi"), "the resources of the template");
        let claims: Api<PersistentVolumeClaim> = self.cluster.namespaced();
        let size = |claim: &PersistentVolumeClaim| {
            let requests = claim.spec.clone().and_then(|spec| spec.resources).and_then(|r| r.requests)?;
            Some((claim.name_any(), requests.get("storage")?.0.clone()))
        };
        let sizes: Vec<(String, String)> = claims.list(&self.cluster.mine()).await?.iter().filter_map(size).collect();
        let pool = sizes.iter().filter(|(name, _)| name.contains("-pool-"));
        ensure!(pool.clone().count() == 2 && pool.clone().all(|(_, size)| size == "2Gi"), "{sizes:?}");
        Ok(())
    }

    async fn exposed(&self) -> Result<()> {
        let api: Api<Service> = self.cluster.namespaced();
        let service = api.get(&format!("{}-multigateway", self.cluster.name)).await?.spec.unwrap_or_default();
        let address = vec!["198.51.100.10".to_owned()];
        ensure!(service.external_ips.as_ref() == Some(&address), "{:?}", service.external_ips);
        let status = self.cluster.get().await?.status.unwrap_or_default();
        let endpoint = status.gateway.map(|gateway| gateway.external_endpoint);
        ensure!(endpoint.as_ref() == address.first(), "endpoint {endpoint:?}");
        ensure!(condition::is_true(&status.conditions, "GatewayExternalReady"), "{:?}", status.conditions);
        Ok(())
    }
}

/// The name of the cluster that a lesson makes: what its change or its removal speaks of.
fn name_of(lesson: &Lesson) -> Result<String> {
    let file = lesson
        .apply
        .iter()
        .flat_map(|command| command.split(' '))
        .filter(|word| std::path::Path::new(word).extension().is_some_and(|kind| kind == "yaml"));
    for file in file {
        let text = std::fs::read_to_string(stories::lesson::root().join(file)).with_context(|| file.to_owned())?;
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text)?;
        let cluster = documents.iter().find(|document| document["kind"] == "MultigresCluster");
        if let Some(name) = cluster.and_then(|document| document["metadata"]["name"].as_str()) {
            return Ok(name.to_owned());
        }
    }
    bail!("section {:?} applies no cluster", lesson.title)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_do_what_their_page_says_and_cost_nothing_while_idle() -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let mut lessons = stories::lesson::all()?;
    let some: Option<&[&str]> = match (is_long(), is_real()) {
        (false, _) => Some(&SHORT),
        (true, true) => Some(&REAL),
        (true, false) => None,
    };
    if let Some(some) = some {
        lessons.retain(|lesson| some.contains(&lesson.title.as_str()));
        ensure!(lessons.len() == some.len(), "the page has no longer all of {some:?}");
    }
    let at_once = if is_real() { 1 } else { lessons.len() };
    for lessons in lessons.chunks(at_once) {
        together(&bed, lessons).await?;
    }
    Ok(())
}

/// Makes these at once, looks at what they cost, and changes and removes one after the other.
async fn together(bed: &Bed, lessons: &[Lesson]) -> Result<()> {
    let attempts = try_join_all(lessons.iter().map(|lesson| Attempt::apply(bed, lesson.clone()))).await?;
    let patience = if is_long() { 900 } else { 300 };
    try_join_all(attempts.iter().map(|attempt| attempt.cluster.healthy(patience))).await?;

    // On a busy machine the first look at backups misses an exporter that is still starting, and the next one comes a minute later.
    try_join_all(attempts.iter().map(Attempt::archives)).await?;
    // A parent's last status may trail the phase that was waited for. Other namespaces belong to stories beside this one.
    let log = bed.audit_log.clone().context("the audit log of the bed")?;
    let namespaces: BTreeSet<&str> = attempts.iter().map(|attempt| attempt.cluster.namespace.as_str()).collect();
    let ours = |namespace: &str| namespaces.contains(namespace) || namespace == OPERATOR_NAMESPACE;
    Mark::quiet(&log, CONTROLLER_USER, ours, 20, within(180)).await?;
    let mark = Mark::now(&log)?;
    tokio::time::sleep(Duration::from_secs(if is_long() { 120 } else { 20 })).await;
    let idle = mark.since(CONTROLLER_USER, ours)?;
    ensure!(idle.total() + idle.events == 0, "an idle operator wrote: {idle:?}");
    ensure!(idle.reads > 0 || idle.leases > 0, "the audit log knows nothing of the controller, so it proves nothing");

    // One after the other, so that what a change does is not mistaken for what another did. Each goes while the next one is
    // changed, or three nodes would not have room for what the last ones ask for.
    let mut done: Option<&Attempt> = None;
    for attempt in &attempts {
        let removal = async {
            match done {
                Some(done) => done.remove().await,
                None => Ok(()),
            }
        };
        try_join(attempt.change(), removal).await?;
        done = Some(attempt);
    }
    match done {
        Some(last) => last.remove().await,
        None => Ok(()),
    }
}
