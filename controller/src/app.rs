//! Assembles the controller: client, watches, context, and one controller per kind, all under the lease.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::{NamespaceResourceScope, api::storage::v1::StorageClass};
use kube::{
    Client, Resource,
    runtime::{events::Reporter, reflector, watcher},
};
use serde::de::DeserializeOwned;
use shared::{api::v1alpha1::Shard, clock::Clock, kubeutil::event::Recorder, label, metrics::FrameworkMetrics};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    backup::{self, memory::Pace},
    classes,
    context::{Ctx, Events, References},
    execute::Executor,
    gate::{Gate, Scope},
    metrics::Metrics,
    requeue::Backoff,
    runner,
    settings::{Concurrency, Settings},
    stores::{Stores, Table},
    upstream::Upstream,
    watch::{self, Router, Shelf},
};

/// How often memory of settled writes and of objects that are gone is dropped.
const FORGET_EVERY: Duration = Duration::from_mins(1);
/// How long running passes may take after a stop was asked for.
const GRACE: Duration = Duration::from_secs(20);

/// Everything that `run` needs from the outside.
pub struct App {
    /// Authenticated client.
    pub client: Client,
    /// Validated settings.
    pub settings: Settings,
    /// Namespaces to watch; none means all.
    pub namespaces: Vec<String>,
    /// Namespaces that are left alone where all are watched.
    pub excluded: Vec<String>,
    /// Parallel passes per kind.
    pub concurrency: Concurrency,
    /// Where metrics are registered.
    pub metrics: shared::metrics::Metrics,
    /// Framework families, registered by the caller.
    pub framework: FrameworkMetrics,
    /// Name of this process in events.
    pub instance: String,
    /// The data plane.
    pub upstream: Upstream,
    /// How often repositories are looked at.
    pub backups: Pace,
    /// What the time is.
    pub clock: Arc<dyn Clock>,
}

impl App {
    /// Watches and reconciles until `stop`. `ready` is told once every watch has delivered its first list; namespaces that may
    /// not be read are not waited for.
    pub async fn run(self, stop: CancellationToken, ready: impl FnOnce() + Send) -> Result<()> {
        let stores = Arc::new(Stores::default());
        let metrics = Arc::new(Metrics::new(&self.metrics).context("registering metrics")?);
        let upstream = metrics.timed(self.upstream);
        let clock = self.clock;
        metrics.show(Arc::clone(&stores), Arc::clone(&clock));
        let reporter = Reporter { controller: "multigres-operator".into(), instance: Some(self.instance) };
        let ctx = Arc::new(Ctx {
            stores: Arc::clone(&stores),
            settings: self.settings,
            upstream: upstream.clone(),
            clock: Arc::clone(&clock),
            executor: Executor::new(self.client.clone(), Arc::clone(&stores), upstream, Arc::clone(&metrics)),
            references: References::new(self.client.clone()),
            backoff: Backoff::default(),
            metrics,
            events: Events::new(Recorder::new(self.client.clone(), reporter), clock),
            primaries: crate::shard::primary::Seen::default(),
            backups: backup::Memory::new(self.backups),
        });
        let gate = Arc::new(Gate::default());
        let (router, queues) = Router::new(Arc::clone(&stores), Arc::clone(&gate));
        let shard_queue = router.shards.clone();

        // Whoever is told to stay in some namespaces reads nothing outside of them.
        let counted = ctx.metrics.watches.clone();
        let classes = self.namespaces.is_empty().then(|| {
            let restarts = counted.of(&StorageClass::kind(&()));
            classes::watch(self.client.clone(), router.clone(), restarts)
        });
        let scopes = Scopes { namespaces: self.namespaces, elsewhere: watch::outside(&self.excluded) };
        let mut watches = Watches::new(self.client, router, Arc::clone(&gate), scopes, counted);
        let clusters = watches.ours(|s| &s.clusters);
        let cells = watches.ours(|s| &s.cells);
        let table_groups = watches.ours(|s| &s.table_groups);
        let shards = watches.ours(|s| &s.shards);
        let topo_servers = watches.ours(|s| &s.topo_servers);
        let backups = watches.ours(|s| &s.backups);
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

        let mut tasks = watches.start();
        if let Some(classes) = classes {
            tasks.spawn(classes);
        }
        let refused = tokio::select! {
            refused = gate.settled() => refused,
            () = stop.cancelled() => return Ok(()),
            ended = tasks.join_next() => return unexpected("a watch", ended),
        };
        if refused.is_empty() {
            tracing::info!("all watches are complete; reconciling");
        } else {
            let namespaces = refused.join(",");
            tracing::warn!(namespaces, "reconciling, but not in these namespaces, which may not be read yet");
        }
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

        controllers.spawn(runner::run(
            backups,
            queues.backups,
            Arc::clone(&ctx),
            self.framework.clone(),
            n,
            stop.clone(),
        ));
        // A queue whose controller has stopped takes nothing, and nobody minds.
        let wake = move |shard: &Shard| drop(shard_queue.send(reflector::ObjectRef::from_obj(shard)));
        controllers.spawn(backup::keeper::keep(Arc::clone(&ctx), wake, stop.clone()));

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
                    ctx.metrics.forget_gone(&ctx.stores);
                    ctx.backoff.forget_gone(&ctx.stores);
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

/// Where to watch.
struct Scopes {
    /// Namespaces to watch; none means all.
    namespaces: Vec<String>,
    /// Field selector of what is watched where all are; none for everything.
    elsewhere: Option<String>,
}

/// The watches under construction.
struct Watches {
    client: Client,
    router: Router,
    gate: Arc<Gate>,
    scopes: Vec<Scope>,
    /// Field selector of what is watched in the scope of all namespaces; none for everything.
    elsewhere: Option<String>,
    metrics: shared::metrics::Watches,
    /// What to start once all watches are announced.
    prepared: Vec<BoxFuture<'static, ()>>,
}

impl Watches {
    fn new(client: Client, router: Router, gate: Arc<Gate>, scopes: Scopes, metrics: shared::metrics::Watches) -> Self {
        let Scopes { namespaces, elsewhere } = scopes;
        let scopes = if namespaces.is_empty() { vec![None] } else { namespaces.into_iter().map(Some).collect() };
        Self { client, router, gate, scopes, elsewhere, metrics, prepared: Vec::new() }
    }

    /// A kind of ours that has a controller: its objects also feed a reflector store.
    fn ours<K>(&mut self, table: fn(&Stores) -> &Table<K>) -> reflector::Store<K>
    where
        K: Watched,
    {
        let (store, writer) = reflector::store();
        self.prepare(&watcher::Config::default(), table, Some(&Shelf::new(writer)));
        store
    }

    /// A kind of ours without a controller.
    fn plain<K: Watched>(&mut self, table: fn(&Stores) -> &Table<K>) {
        self.prepare(&watcher::Config::default(), table, None);
    }

    /// A kind of Kubernetes: only objects that carry our label ever leave the server.
    fn labelled<K: Watched>(&mut self, table: fn(&Stores) -> &Table<K>) {
        self.prepare(&watcher::Config::default().labels(label::OURS), table, None);
    }

    /// One watch per scope, into the same stores.
    fn prepare<K: Watched>(
        &mut self,
        config: &watcher::Config,
        table: fn(&Stores) -> &Table<K>,
        kept: Option<&Arc<Shelf<K>>>,
    ) {
        let restarts = self.metrics.of(&K::kind(&()));
        for scope in &self.scopes {
            self.gate.expect(scope);
            let (client, router, restarts) = (self.client.clone(), self.router.clone(), restarts.clone());
            let config = match &self.elsewhere {
                Some(selector) if scope.is_none() => config.clone().fields(selector),
                _ => config.clone(),
            };
            let watch = watch::run(client, config, scope.clone(), router, restarts, table, kept.map(Arc::clone));
            self.prepared.push(watch.boxed());
        }
    }

    fn start(self) -> JoinSet<()> {
        self.prepared.into_iter().collect()
    }
}

/// A kind that can be watched.
trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

fn unexpected(what: &str, ended: Option<Result<(), JoinError>>) -> Result<()> {
    match ended {
        Some(Err(error)) => Err(error).with_context(|| format!("{what} broke")),
        Some(Ok(())) | None => anyhow::bail!("{what} ended by itself"),
    }
}
