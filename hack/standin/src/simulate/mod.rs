//! One process that plays the pods of simulated nodes: it registers them, elects primaries and answers their calls.

pub mod pods;
pub mod service;
pub mod world;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use self::pods::Process;
use self::service::Everybody;
use self::world::{Place, World};
use crate::identity;
use crate::launch::{self, Role};
use crate::proto::clustermetadata::id::ComponentType;
use crate::proto::clustermetadata::{DurabilityPolicy, Multigateway, Multiorch, Multipooler, ShardInitClaim};
use crate::proto::multiorch::multiorch_service_server::MultiorchServiceServer;
use crate::proto::multipoolermanager::multipooler_manager_server::MultipoolerManagerServer;
use crate::topology::{Connection, Store, key};

const PODS: &str = "app.kubernetes.io/managed-by=multigres-operator";

/// Plays the pods of simulated nodes.
#[derive(Clone, Debug, Parser)]
#[command(name = "standin simulate")]
pub struct Options {
    /// The kubeconfig of the cluster whose pods are played.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// The etcd that holds every topology, whatever addresses the pods and the Cell records name.
    #[arg(long)]
    pub etcd: Option<String>,
    /// The port on which the calls of all processes are answered.
    #[arg(long, default_value_t = 15270)]
    pub port: u16,
    /// How long a shard stays without a leader before it gets a new one.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub failover_delay: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::flag::parse_duration(text).ok_or_else(|| format!("invalid duration {text}"))
}

/// Runs the simulation until it is told to stop.
pub fn run(args: &[String]) -> Result<()> {
    let words = std::iter::once("standin simulate".to_owned()).chain(args.iter().cloned());
    let options = match Options::try_parse_from(words) {
        Ok(options) => options,
        Err(error) if !error.use_stderr() => {
            print!("{error}");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    tracing_subscriber::fmt().with_target(false).with_ansi(false).init();
    launch::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(simulate(options));
    runtime.shutdown_background();
    outcome
}

async fn simulate(options: Options) -> Result<()> {
    let kubeconfig = Kubeconfig::read_from(&options.kubeconfig).context("read the kubeconfig")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let world = Arc::new(Mutex::new(World::default()));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, options.port))
        .await
        .with_context(|| format!("cannot listen on port {}", options.port))?;
    // The whole 127/8 can only be had with the wildcard; who comes from elsewhere is turned away.
    let local = TcpListenerStream::new(listener).try_filter(|stream| {
        let inside = stream.local_addr().is_ok_and(|address| address.ip().is_loopback());
        std::future::ready(inside)
    });
    let everybody = Everybody(Arc::clone(&world));
    let server = Server::builder()
        .add_service(MultipoolerManagerServer::new(everybody.clone()))
        .add_service(MultiorchServiceServer::new(everybody))
        .serve_with_incoming(local);
    let publisher = Publisher::new(options.clone(), Arc::clone(&world));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tracing::info!(port = options.port, "simulation started");
    tokio::select! {
        ended = server => ended.context("answer calls"),
        watched = watch_pods(client, world, options.port) => watched,
        () = publisher.run() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn watch_pods(client: Client, world: Arc<Mutex<World>>, port: u16) -> Result<()> {
    let pods: Api<Pod> = Api::all(client);
    let stream = watcher(pods, watcher::Config::default().labels(PODS)).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut seen: Vec<String> = Vec::new();
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "pod watch");
                continue;
            }
        };
        let mut world = world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            watcher::Event::Init => seen.clear(),
            watcher::Event::InitApply(pod) => {
                seen.push(name(&pod));
                note(&mut world, &pod, port);
            }
            watcher::Event::InitDone => {
                let gone: Vec<String> = world.processes.keys().filter(|pod| !seen.contains(pod)).cloned().collect();
                for pod in gone {
                    world.vanished(&pod);
                }
            }
            watcher::Event::Apply(pod) => note(&mut world, &pod, port),
            watcher::Event::Delete(pod) => drop(world.vanished(&name(&pod))),
        }
    }
    Ok(())
}

fn name(pod: &Pod) -> String {
    format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    )
}

fn note(world: &mut World, pod: &Pod, port: u16) {
    match pods::process(pod) {
        Ok(Some(process)) => {
            let replaced = world.processes.get(&process.pod).is_some_and(|known| known.uid != process.uid);
            if replaced {
                world.vanished(&process.pod);
            }
            world.appeared(process, port);
        }
        Ok(None) => drop(world.vanished(&name(pod))),
        Err(error) => {
            tracing::error!(%error, "the real process would not start");
            world.vanished(&name(pod));
        }
    }
}

/// Writes the records that the world asks for.
struct Publisher {
    options: Options,
    world: Arc<Mutex<World>>,
    stores: tokio::sync::Mutex<BTreeMap<String, Store>>,
    written: Mutex<BTreeMap<(String, String), Vec<u8>>>,
    others: Mutex<BTreeMap<String, (Process, String)>>,
}

impl Publisher {
    fn new(options: Options, world: Arc<Mutex<World>>) -> Self {
        Self {
            options,
            world,
            stores: tokio::sync::Mutex::default(),
            written: Mutex::default(),
            others: Mutex::default(),
        }
    }

    fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        look(&mut world)
    }

    async fn run(&self) {
        let mut full_look = Instant::now();
        loop {
            if full_look.elapsed() > Duration::from_secs(30) {
                full_look = Instant::now();
                self.world(|world| {
                    let leaderless: Vec<Place> = world
                        .shards
                        .iter()
                        .filter(|(_, shard)| shard.leader().is_none())
                        .map(|(place, _)| place.clone())
                        .collect();
                    world.dirty.extend(leaderless);
                });
            }
            let dirty = self.world(|world| std::mem::take(&mut world.dirty));
            futures::stream::iter(dirty)
                .for_each_concurrent(16, |place| async move {
                    match self.settle(&place).await {
                        Ok(true) => {}
                        Ok(false) => self.later(place),
                        Err(error) => {
                            tracing::debug!(root = %place.root, error = format!("{error:#}"), "shard");
                            self.later(place);
                        }
                    }
                })
                .await;
            self.publish_others().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn later(&self, place: Place) {
        self.world(|world| world.dirty.extend([place]));
    }

    async fn store(&self, root: &str, addresses: &[String]) -> Result<Store> {
        let mut stores = self.stores.lock().await;
        if let Some(store) = stores.get(root) {
            return Ok(store.clone());
        }
        let store = match &self.options.etcd {
            Some(etcd) => {
                let global = match stores.values().next() {
                    Some(store) => store.global.rooted(root),
                    None => Connection::open(std::slice::from_ref(etcd), root, None).await?,
                };
                Store::single(global)
            }
            None => Store::at(addresses, root, None).await?,
        };
        stores.insert(root.to_owned(), store.clone());
        Ok(store)
    }

    fn addresses(&self, root: &str) -> Vec<String> {
        self.world(|world| {
            world
                .processes
                .values()
                .find(|process| process.values.text("topo-global-root") == root)
                .map(|process| process.values.list("topo-global-server-addresses"))
                .unwrap_or_default()
        })
    }

    /// Elects and publishes; tells whether nothing is left to do.
    async fn settle(&self, place: &Place) -> Result<bool> {
        let store = self.store(&place.root, &self.addresses(&place.root)).await?;
        let database = store.database(&place.shard.0).await?.context("no database record yet")?;
        let policy: DurabilityPolicy = database.bootstrap_durability_policy.unwrap_or_default();
        let unknown = self.world(|world| world.shards.get(place).is_some_and(|shard| shard.rule.is_none()));
        if unknown {
            let mut records = Vec::new();
            for cell in store.cell_names().await? {
                records.extend(
                    store.poolers(&cell).await?.into_iter().filter(|record| record.shard_key == Some(place.key())),
                );
            }
            self.world(|world| {
                if let Some(shard) = world.shards.get_mut(place) {
                    shard.adopt(&records, &policy);
                }
            });
        }
        let delay = self.options.failover_delay;
        let (elected, first, records, done) = self.world(|world| {
            let watched = world.is_watched(place);
            let Some(shard) = world.shards.get_mut(place) else { return (false, false, Vec::new(), true) };
            let first = shard.rule.is_none();
            let elected = watched && shard.elect(&policy, delay, Instant::now());
            if watched {
                shard.reconcile_cohort(&policy);
            }
            let records: Vec<Multipooler> = shard.poolers.values().map(|pooler| shard.record(pooler)).collect();
            let anybody = shard.poolers.values().any(|pooler| pooler.alive);
            (elected, first, records, shard.leader().is_some() || !anybody)
        });
        if elected && first {
            let claim = ShardInitClaim {
                claimer_id: Some(identity::id(ComponentType::Multiorch, "simulated", "simulated")),
                cohort_members: records.iter().filter_map(|record| record.id.clone()).collect(),
            };
            store.global.swap(&key::claim(&place.key()), claim.encode_to_vec(), 0).await?;
        }
        for record in records {
            let id = record.id.clone().unwrap_or_default();
            // The time of the lifecycle is no change of its own.
            let mut compared = record.clone();
            if let Some(lifecycle) = &mut compared.lifecycle_status {
                lifecycle.updated = None;
            }
            let name = (place.root.clone(), identity::component_id(&id));
            let encoded = compared.encode_to_vec();
            let same = self.written.lock().is_ok_and(|written| written.get(&name) == Some(&encoded));
            if !same {
                store.cell(&id.cell).await?.put(&key::pooler(&id), record.encode_to_vec()).await?;
                if let Ok(mut written) = self.written.lock() {
                    written.insert(name, encoded);
                }
            }
        }
        Ok(done)
    }

    /// Registers gateways and orchestrators, and takes the records of those away that ended.
    async fn publish_others(&self) {
        let running: BTreeMap<String, Process> = self.world(|world| {
            world
                .processes
                .iter()
                .filter(|(_, process)| process.role != Role::Pooler)
                .map(|(_, process)| (process.uid.clone(), process.clone()))
                .collect()
        });
        let known: BTreeMap<String, (Process, String)> =
            self.others.lock().map(|others| others.clone()).unwrap_or_default();
        for (uid, process) in running.iter().filter(|(uid, _)| !known.contains_key(*uid)) {
            let name = match process.values.text("service-id") {
                "" => identity::random_name(),
                given => given.to_owned(),
            };
            match self.other(process, &name, true).await {
                Ok(()) => {
                    if let Ok(mut others) = self.others.lock() {
                        others.insert(uid.clone(), (process.clone(), name));
                    }
                }
                Err(error) => tracing::debug!(pod = %process.pod, error = format!("{error:#}"), "registration"),
            }
        }
        for (uid, (process, name)) in known.iter().filter(|(uid, _)| !running.contains_key(*uid)) {
            if self.other(process, name, false).await.is_ok()
                && let Ok(mut others) = self.others.lock()
            {
                others.remove(uid);
            }
        }
    }

    async fn other(&self, process: &Process, name: &str, running: bool) -> Result<()> {
        let values = &process.values;
        let store = self.store(values.text("topo-global-root"), &values.list("topo-global-server-addresses")).await?;
        let cell = store.cell(values.text("cell")).await?;
        let address = self.world(|world| world.address(&process.uid)).to_string();
        let port = i32::from(self.options.port);
        let port_map: BTreeMap<String, i32> =
            [("grpc", port), ("http", port)].map(|(name, port)| (name.to_owned(), port)).into();
        let (path, record) = if process.role == Role::Orch {
            let id = identity::id(ComponentType::Multiorch, values.text("cell"), name);
            (key::orch(&id), Multiorch { id: Some(id), hostname: address, port_map }.encode_to_vec())
        } else {
            let id = identity::id(ComponentType::Multigateway, values.text("cell"), name);
            let prefix = u32::try_from(self.others.lock().map_or(0, |others| others.len())).unwrap_or_default();
            let record =
                Multigateway { id: Some(id.clone()), hostname: address, port_map, pid_prefix: prefix % 4095 + 1 };
            (key::gateway(&id), record.encode_to_vec())
        };
        if running { cell.put(&path, record).await } else { cell.delete(&path).await }
    }
}
