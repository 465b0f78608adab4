//! One `MultigresCluster` in a story: applied, waited for, looked at, removed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use shared::api::v1alpha1::{MultigresCluster, Phase, Shard};

use crate::{
    bed::Bed,
    secret::stay_hidden,
    wait::{until, within},
};

/// A cluster in its namespace.
pub struct ClusterUnderTest {
    /// Where it runs.
    pub bed: Bed,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A pool pod as the topology and the API server see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Pod name.
    pub pod: String,
    /// `PRIMARY` or `REPLICA`.
    pub role: String,
    /// Value of the zone label of its node.
    pub zone: String,
}

impl ClusterUnderTest {
    /// Applies a manifest as a user would, with `kubectl apply`'s field manager, in a namespace.
    pub async fn apply(bed: &Bed, namespace: &str, manifest: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(manifest).with_context(|| format!("reading {}", manifest.display()))?;
        let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("parsing {}", manifest.display()))?;
        Self::apply_value(bed, namespace, &value).await
    }

    /// Applies a manifest given as a value.
    pub async fn apply_value(bed: &Bed, namespace: &str, manifest: &Value) -> Result<Self> {
        let name = manifest["metadata"]["name"].as_str().context("the manifest has a name")?.to_owned();
        let api: Api<MultigresCluster> = Api::namespaced(bed.client.clone(), namespace);
        api.patch(&name, &PatchParams::apply("story").force(), &Patch::Apply(manifest))
            .await
            .context("applying the manifest")?;
        Ok(Self { bed: bed.clone(), namespace: namespace.to_owned(), name })
    }

    fn api(&self) -> Api<MultigresCluster> {
        Api::namespaced(self.bed.client.clone(), &self.namespace)
    }

    /// The typed handle of another kind in the cluster's namespace.
    pub fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.bed.client.clone(), &self.namespace)
    }

    /// Applies a JSON patch, as `kubectl patch --type=json` does.
    pub async fn patch(&self, patch: &str) -> Result<()> {
        let patch: json_patch::Patch = serde_json::from_str(patch)?;
        self.api().patch(&self.name, &PatchParams::default(), &Patch::<()>::Json(patch)).await?;
        Ok(())
    }

    /// Waits until the cluster is Healthy for its current generation.
    pub async fn healthy(&self, seconds: u64) -> Result<MultigresCluster> {
        let api = self.api();
        until(&format!("a Healthy {}/{}", self.namespace, self.name), within(seconds), || async {
            let cluster = api.get(&self.name).await?;
            let status = cluster.status.clone().unwrap_or_default();
            ensure!(
                status.phase == Some(Phase::Healthy) && status.observed_generation == cluster.metadata.generation,
                "phase {:?}, message {:?}, conditions {:?}",
                status.phase,
                status.message,
                status
                    .conditions
                    .iter()
                    .map(|c| format!("{}={} {} {}", c.type_, c.status, c.reason, c.message))
                    .collect::<Vec<_>>()
            );
            Ok(cluster)
        })
        .await
    }

    /// The cluster's only shard.
    pub async fn shard(&self) -> Result<Shard> {
        let api: Api<Shard> = self.namespaced();
        let mut list = api.list(&self.mine()).await?.items;
        ensure!(list.len() == 1, "{} shards instead of one", list.len());
        list.pop().context("one shard")
    }

    /// The pod of the only shard's confirmed primary.
    pub async fn primary(&self) -> Result<String> {
        self.shard().await?.status.unwrap_or_default().primary.context("a confirmed primary")
    }

    /// List parameters that select this cluster's objects.
    pub fn mine(&self) -> ListParams {
        ListParams::default().labels(&format!("app.kubernetes.io/instance={}", self.name))
    }

    /// The members of the only shard with the roles of the status and the zones of their nodes.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let roles: BTreeMap<String, String> = self.shard().await?.status.unwrap_or_default().pod_roles;
        let pods: Api<Pod> = self.namespaced();
        let nodes: Api<Node> = Api::all(self.bed.client.clone());
        let mut members = Vec::new();
        for pod in pods
            .list(
                &self.mine().labels(&format!(
                    "app.kubernetes.io/instance={},app.kubernetes.io/component=shard-pool",
                    self.name
                )),
            )
            .await?
        {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).context("a scheduled pod")?;
            let node = nodes.get(&node).await?;
            let zone = node.labels().get("topology.kubernetes.io/zone").cloned().unwrap_or_default();
            let name = pod.name_any();
            let role = roles.get(&name).cloned().unwrap_or_default();
            members.push(Member { pod: name, role, zone });
        }
        Ok(members)
    }

    /// Waits until the only shard has one PRIMARY and `replicas` REPLICA.
    pub async fn roles(&self, replicas: usize, seconds: u64) -> Result<Vec<Member>> {
        until(&format!("one PRIMARY and {replicas} REPLICA"), within(seconds), || async {
            let members = self.members().await?;
            let count = |role: &str| members.iter().filter(|member| member.role == role).count();
            ensure!(
                count("PRIMARY") == 1 && count("REPLICA") == replicas && members.len() == replicas + 1,
                "{members:?}"
            );
            Ok(members)
        })
        .await
    }

    /// A field of the Service of the gateways that somebody has changed comes back: the cluster is cared for.
    pub async fn drift_is_reverted(&self, seconds: u64) -> Result<()> {
        let services: Api<Service> = self.namespaced();
        let name = format!("{}-multigateway", self.name);
        let drift = json!({"spec": {"ports": [{"name": "postgres", "port": 15432, "targetPort": "postgres"}]}});
        services.patch(&name, &PatchParams::default(), &Patch::Merge(&drift)).await.context("changing a port")?;
        until("the revert of a changed port", within(seconds), || async {
            let ports = services.get(&name).await?.spec.unwrap_or_default().ports.unwrap_or_default();
            ensure!(ports.iter().all(|port| port.port == 5432), "still 15432");
            Ok(())
        })
        .await
    }

    /// Deletes the cluster and waits until nothing of it runs; answers how long that took. Fails before that if anything to be read in the
    /// cluster's life shows what one of its Secrets holds.
    pub async fn delete(&self, seconds: u64) -> Result<Duration> {
        stay_hidden(&self.bed.client, &self.namespace).await?;
        let api = self.api();
        let asked = Instant::now();
        api.delete(&self.name, &DeleteParams::default()).await?;
        until("the cluster's removal", within(seconds), || async {
            if let Some(left) = api.get_opt(&self.name).await? {
                bail!("the cluster is still there with finalizers {:?}", left.metadata.finalizers);
            }
            let pods: Api<Pod> = self.namespaced();
            let left: Vec<String> = pods.list(&self.mine()).await?.iter().map(kube::ResourceExt::name_any).collect();
            ensure!(left.is_empty(), "pods are left: {left:?}");
            Ok(())
        })
        .await?;
        let took = asked.elapsed();
        eprintln!("cluster {}/{} is gone after {:.1} s", self.namespace, self.name, took.as_secs_f64());
        Ok(took)
    }

    /// Removes the cluster, and the namespace that the story has made for it.
    pub async fn done(&self) -> Result<()> {
        self.delete(240).await?;
        self.bed.remove_namespace(&self.namespace).await
    }

    /// A cluster that is there already, made by somebody else's hand.
    pub fn existing(bed: &Bed, namespace: &str, name: &str) -> Self {
        Self { bed: bed.clone(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The cluster as it is now.
    pub async fn get(&self) -> Result<MultigresCluster> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Pods of some components (all if none is named) with their identity and the number of starts of all their containers: the same
    /// answer twice means that nobody replaced or restarted any.
    pub async fn starts(&self, components: &[&str]) -> Result<BTreeMap<String, (String, i32)>> {
        let pods: Api<Pod> = self.namespaced();
        let of = |pod: &Pod| {
            let component = pod.labels().get("app.kubernetes.io/component").map(String::as_str);
            components.is_empty() || components.iter().any(|wanted| component == Some(*wanted))
        };
        let starts = |pod: &Pod| {
            let status = pod.status.clone().unwrap_or_default();
            let containers = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
            containers.map(|container| container.restart_count).sum()
        };
        let list = pods.list(&self.mine()).await?.items;
        let entry = |pod: &Pod| (pod.name_any(), (pod.uid().unwrap_or_default(), starts(pod)));
        Ok(list.iter().filter(|pod| of(pod)).map(entry).collect())
    }

    /// Names of the cluster's volume claims, sorted.
    pub async fn claims(&self) -> Result<Vec<String>> {
        let api: Api<PersistentVolumeClaim> = self.namespaced();
        let mut names: Vec<String> = api.list(&self.mine()).await?.iter().map(kube::ResourceExt::name_any).collect();
        names.sort();
        Ok(names)
    }

    /// Where the data of a claim is on this machine.
    pub async fn directory(&self, claim: &str) -> Result<PathBuf> {
        let claims: Api<PersistentVolumeClaim> = self.namespaced();
        let volume = claims.get(claim).await?.spec.and_then(|spec| spec.volume_name).context("a bound volume")?;
        let volumes: Api<PersistentVolume> = Api::all(self.bed.client.clone());
        let spec = volumes.get(&volume).await?.spec.unwrap_or_default();
        let path = spec.host_path.map(|host| host.path).or(spec.local.map(|local| local.path));
        let path = path.with_context(|| format!("volume {volume} is no directory of the host"))?;
        // Whatever is below it may be about to go.
        let ours = format!("_{}_{claim}", self.namespace);
        ensure!(path.ends_with(&ours), "{path} is not the directory of {claim}");
        Ok(PathBuf::from(path))
    }
}
