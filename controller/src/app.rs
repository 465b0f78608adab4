//! Assembles the controller: client, watches, context, and one controller per kind, all under the lease.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Node};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::ListParams,
    runtime::{
        events::Reporter,
        reflector::{self, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use shared::{clock::System, kubeutil::event::Recorder, label, metrics::FrameworkMetrics};
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::Sidecars,
    context::{Ctx, Events, References},
    execute::Executor,
    metrics::Metrics,
    requeue::Backoff,
    runner,
    settings::Settings,
    stores::{Stores, Table},
    upstream::Upstream,
    watch::{self, Router},
};

/// The first minor version whose kubelets run native sidecars without a feature gate.
const NATIVE_SIDECARS_SINCE: u32 = 29;
/// How often memory of settled writes is dropped.
const FORGET_EVERY: Duration = Duration::from_mins(1);
/// How long running passes may take after a stop was asked for.
const GRACE: Duration = Duration::from_secs(20);

/// Everything that `run` needs from the outside.
pub struct App {
    /// Authenticated client.
    pub client: Client,
    /// Validated settings.
    pub settings: Settings,
    /// Parallel passes per kind.
    pub concurrency: u16,
    /// Where metrics are registered.
    pub metrics: shared::metrics::Metrics,
    /// Framework families, registered by the caller.
    pub framework: FrameworkMetrics,
    /// Name of this process in events.
    pub instance: String,
    /// The data plane.
    pub upstream: Upstream,
}

impl App {
    /// Watches and reconciles until `stop`. `ready` is told once every watch has delivered its first list.
    pub async fn run(self, stop: CancellationToken, ready: impl FnOnce() + Send) -> Result<()> {
        let stores = Arc::new(Stores::default());
        let metrics = Arc::new(Metrics::new(&self.metrics).context("registering metrics")?);
        let upstream = self.upstream;
        let clock = Arc::new(System);
        let reporter = Reporter { controller: "multigres-operator".into(), instance: Some(self.instance) };
        let ctx = Arc::new(Ctx {
            stores: Arc::clone(&stores),
            settings: self.settings,
            upstream: upstream.clone(),
            clock: clock.clone(),
            executor: Executor::new(
                self.client.clone(),
                Arc::clone(&stores),
                upstream,
                Arc::clone(&metrics),
                self.framework.clone(),
            ),
            references: References::new(self.client.clone()),
            backoff: Backoff::default(),
            metrics,
            events: Events::new(Recorder::new(self.client.clone(), reporter), clock),
            primaries: crate::shard::primary::Seen::default(),
        });
        let (router, queues) = Router::new(Arc::clone(&stores));

        let mut watches = Watches { client: self.client, router, tasks: JoinSet::new(), ready: Vec::new() };
        let clusters = watches.ours(|s| &s.clusters);
        let cells = watches.ours(|s| &s.cells);
        let table_groups = watches.ours(|s| &s.table_groups);
        let shards = watches.ours(|s| &s.shards);
        let topo_servers = watches.ours(|s| &s.topo_servers);
        watches.plain(|s| &s.core_templates);
        watches.plain(|s| &s.cell_templates);
        watches.plain(|s| &s.shard_templates);
        watches.labelled(|s| &s.deployments);
        watches.labelled(|s| &s.stateful_sets);
        watches.labelled(|s| &s.services);
        watches.labelled(|s| &s.pods);
        watches.labelled(|s| &s.claims);
        watches.labelled(|s| &s.secrets);
        watches.labelled(|s| &s.config_maps);
        watches.labelled(|s| &s.budgets);

        let Watches { mut tasks, ready: lists, .. } = watches;
        tokio::select! {
            () = complete(lists) => {}
            () = stop.cancelled() => return Ok(()),
            ended = tasks.join_next() => return unexpected("a watch", ended),
        }
        tracing::info!("all watches are complete; reconciling");
        ready();

        let mut controllers = JoinSet::new();
        let n = self.concurrency;
        controllers.spawn(runner::run(
            clusters,
            queues.clusters,
            Arc::clone(&ctx),
            self.framework.clone(),
            n,
            stop.clone(),
        ));
        controllers.spawn(runner::run(cells, queues.cells, Arc::clone(&ctx), self.framework.clone(), n, stop.clone()));
        controllers.spawn(runner::run(
            table_groups,
            queues.table_groups,
            Arc::clone(&ctx),
            self.framework.clone(),
            n,
            stop.clone(),
        ));
        controllers.spawn(runner::run(
            shards,
            queues.shards,
            Arc::clone(&ctx),
            self.framework.clone(),
            n,
            stop.clone(),
        ));
        controllers.spawn(runner::run(
            topo_servers,
            queues.topo_servers,
            Arc::clone(&ctx),
            self.framework.clone(),
            n,
            stop.clone(),
        ));

        let mut forget = tokio::time::interval(FORGET_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                ended = tasks.join_next() => return unexpected("a watch", ended),
                ended = controllers.join_next() => {
                    if stop.is_cancelled() { break }
                    return unexpected("a controller", ended);
                }
                _ = forget.tick() => {
                    ctx.executor.forget_settled();
                    let shards: HashSet<String> = stores.shards.all().iter().filter_map(|shard| shard.uid()).collect();
                    ctx.metrics.forget_shards(|uid| shards.contains(uid));
                }
            }
        }
        let drained = async { while controllers.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, drained).await.is_err() {
            tracing::warn!(seconds = GRACE.as_secs(), "passes still running are cut off; the next leader repeats them");
        }
        Ok(())
    }
}

/// The watches under construction.
struct Watches {
    client: Client,
    router: Router,
    tasks: JoinSet<()>,
    ready: Vec<oneshot::Receiver<()>>,
}

impl Watches {
    /// A kind of ours that has a controller: its objects also feed a reflector store.
    fn ours<K>(&mut self, table: impl Fn(&Stores) -> &Table<K> + Send + 'static) -> reflector::Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (store, writer) = reflector::store();
        self.start(watcher::Config::default(), table, Some(writer));
        store
    }

    /// A kind of ours without a controller.
    fn plain<K>(&mut self, table: impl Fn(&Stores) -> &Table<K> + Send + 'static)
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.start(watcher::Config::default(), table, None);
    }

    /// A kind of Kubernetes: only objects that carry our label ever leave the server.
    fn labelled<K>(&mut self, table: impl Fn(&Stores) -> &Table<K> + Send + 'static)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        self.start(watcher::Config::default().labels(label::OURS), table, None);
    }

    fn start<K>(
        &mut self,
        config: watcher::Config,
        table: impl Fn(&Stores) -> &Table<K> + Send + 'static,
        writer: Option<Writer<K>>,
    ) where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (ready, wait) = oneshot::channel();
        self.ready.push(wait);
        let api = Api::all(self.client.clone());
        self.tasks.spawn(watch::run(api, config, self.router.clone(), table, writer, ready));
    }
}

async fn complete(lists: Vec<oneshot::Receiver<()>>) {
    for list in lists {
        // An error means that the watch ended, which the caller sees on its own.
        if list.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn unexpected(what: &str, ended: Option<Result<(), JoinError>>) -> Result<()> {
    match ended {
        Some(Err(error)) => Err(error).with_context(|| format!("{what} broke")),
        Some(Ok(())) | None => anyhow::bail!("{what} ended by itself"),
    }
}

/// Whether pool pods use native sidecars: as told, or as the server and all its kubelets can.
pub async fn native_sidecars(client: &Client, wish: Sidecars) -> Result<bool> {
    match wish {
        Sidecars::On => return Ok(true),
        Sidecars::Off => return Ok(false),
        Sidecars::Auto => {}
    }
    let server = client.apiserver_version().await.context("asking the API server for its version")?;
    if !minor_is_enough(&server.minor) {
        return Ok(false);
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list(&ListParams::default()).await.context("listing nodes to see their kubelets' versions")?;
    Ok(nodes.items.iter().all(|node| {
        let version =
            node.status.as_ref().and_then(|status| status.node_info.as_ref()).map(|info| &info.kubelet_version);
        // A node that has not reported yet is as new as the server.
        version.is_none_or(|version| version.split('.').nth(1).is_none_or(minor_is_enough))
    }))
}

fn minor_is_enough(minor: &str) -> bool {
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u32>().is_ok_and(|minor| minor >= NATIVE_SIDECARS_SINCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_versions_of_cloud_providers_are_understood() {
        assert!(minor_is_enough("29"));
        assert!(minor_is_enough("31+"));
        assert!(!minor_is_enough("28"));
        assert!(!minor_is_enough(""));
    }
}
