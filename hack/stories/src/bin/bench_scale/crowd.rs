//! Many clusters that are alike.

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    path::Path,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde_json::{Value, json};
use shared::api::v1alpha1::{MultigresCluster, Phase};

use crate::{TELL, access::apply};

/// How clusters are made and waited for.
pub struct Crowd {
    client: Client,
    manifest: Value,
    per_namespace: usize,
    at_once: usize,
    /// Port of the etcd that holds their topologies, unless each has one of its own.
    topology: Option<u16>,
}

impl Crowd {
    /// Clusters as the manifest has them.
    pub fn new(
        client: Client,
        manifest: &Path,
        per_namespace: usize,
        at_once: usize,
        topology: Option<u16>,
    ) -> Result<Self> {
        let text = fs::read_to_string(manifest).with_context(|| format!("reading {}", manifest.display()))?;
        let manifest = serde_saphyr::from_str(&text).with_context(|| format!("parsing {}", manifest.display()))?;
        Ok(Self { client, manifest, per_namespace, at_once, topology })
    }

    /// Names of the topology servers of the clusters up to a number. Each cluster dials its own, and so has a connection of its own.
    pub fn hosts(&self, most: usize) -> impl Iterator<Item = String> + use<> {
        // One more for the number 0.
        let count = self.topology.map_or(0, |_| most + 1);
        (0..count).map(host)
    }

    /// Namespace of a cluster. The first one is alone in its own.
    fn namespace(&self, number: usize) -> String {
        match number.checked_sub(1) {
            None => "bench-pattern".to_owned(),
            Some(index) => format!("bench-{:03}", index / self.per_namespace),
        }
    }

    fn cluster(&self, number: usize) -> Value {
        let mut manifest = self.manifest.clone();
        manifest["metadata"]["name"] = json!(format!("cluster-{number:04}"));
        manifest["metadata"]["namespace"] = json!(self.namespace(number));
        if let Some(port) = self.topology {
            let endpoint = format!("http://{}:{port}", host(number));
            let root = format!("/bench/{number:04}/global");
            manifest["spec"]["globalTopoServer"] = json!({"external": {"endpoints": [endpoint], "rootPath": root}});
        }
        manifest
    }

    /// Makes their namespaces.
    pub async fn prepare(&self, numbers: Range<usize>) -> Result<()> {
        let namespaces: BTreeSet<String> = numbers.map(|number| self.namespace(number)).collect();
        self.side_by_side(namespaces, |name| async move {
            let namespaces: Api<Namespace> = Api::all(self.client.clone());
            apply(&namespaces, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
            // Pods are refused without it, and where there are no nodes nobody else makes it.
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &name);
            apply(&accounts, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}))
                .await
        })
        .await
        .context("making namespaces")
    }

    /// Applies them, all at once as far as the number of requests side by side allows.
    pub async fn apply(&self, numbers: Range<usize>) -> Result<()> {
        self.side_by_side(numbers, |number| async move {
            let api: Api<MultigresCluster> = Api::namespaced(self.client.clone(), &self.namespace(number));
            apply(&api, self.cluster(number)).await
        })
        .await
        .context("applying clusters")
    }

    async fn side_by_side<T, F>(&self, items: impl IntoIterator<Item = T>, each: impl Fn(T) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        stream::iter(items).map(each).buffer_unordered(self.at_once).try_collect::<Vec<()>>().await.map(drop)
    }

    /// Waits until so many clusters are Healthy at the same time.
    pub async fn healthy(&self, wanted: usize, deadline: Duration) -> Result<()> {
        let api: Api<MultigresCluster> = Api::all(self.client.clone());
        let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
        let (end, mut told) = (tokio::time::Instant::now() + deadline, Instant::now());
        let mut healthy = BTreeSet::new();
        while healthy.len() < wanted {
            let Ok(event) = tokio::time::timeout_at(end, events.next()).await else {
                bail!("{} of {wanted} clusters are Healthy after {} s", healthy.len(), deadline.as_secs());
            };
            match event.context("the watch of clusters ended")? {
                Ok(Event::Init) => healthy.clear(),
                Ok(Event::InitDone) => {}
                Ok(Event::InitApply(cluster) | Event::Apply(cluster)) if is_healthy(&cluster) => {
                    healthy.insert(key(&cluster));
                }
                Ok(Event::InitApply(cluster) | Event::Apply(cluster) | Event::Delete(cluster)) => {
                    healthy.remove(&key(&cluster));
                }
                Err(error) => eprintln!("watching clusters: {error}"),
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                eprintln!("{} of {wanted} clusters are Healthy", healthy.len());
            }
        }
        Ok(())
    }
}

fn host(number: usize) -> String {
    format!("topology-{number:04}.bench")
}

fn key(cluster: &MultigresCluster) -> (String, String) {
    (cluster.namespace().unwrap_or_default(), cluster.name_any())
}

fn is_healthy(cluster: &MultigresCluster) -> bool {
    cluster.status.as_ref().is_some_and(|status| {
        status.phase == Some(Phase::Healthy) && status.observed_generation == cluster.metadata.generation
    })
}
