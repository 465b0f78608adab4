//! A whole cluster: bringing it up (again and again, if need be), looking at it, and taking it down without a trace.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::addons;
use crate::cert_manager;
use crate::control_plane::{self, Plan};
use crate::home::Home;
use crate::host;
use crate::image::builtin;
use crate::kwok;
use crate::network::{self, Network};
use crate::node::{self, Node};
use crate::options::{self, NodeMode, Options};
use crate::probe;
use crate::process::{self, Lifetime, Recorded};
use crate::progress::Progress;
use crate::state::{Ledger, State};
use crate::tools::{self, Tools};

/// A cluster that is up, or at least recorded. Dropping it leaves it up; [`Bed::down`] takes it down.
#[derive(Debug)]
pub struct Bed {
    home: Home,
    plan: Plan,
    ledger: Ledger,
}

/// What `testbed status` shows of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Its process.
    pub process: Recorded,
    /// Whether it runs.
    pub alive: bool,
}

impl Bed {
    /// Brings a bed up and waits until nodes are Ready and Services work; what runs already stays.
    pub fn up(options: &Options) -> Result<Self> {
        options::check_name(&options.name)?;
        let home = Home::from_env()?;
        let _guard = home.lock(&format!("bed-{}", options.name))?;
        let progress = Progress::start(format!("testbed {}", options.name));
        let tools = Tools::locate(&home)?;
        let dir = home.bed(&options.name);
        let recorded = State::load(&dir)?;
        let nodes = decide_nodes(options.nodes, recorded.as_ref().map(|state| state.nodes), &progress)?;
        tools.ensure(if matches!(nodes, NodeMode::Kubelet(_)) { &tools::KUBELET_BED } else { &tools::KWOK_BED })?;
        let ledger = match recorded {
            Some(state) => Ledger::create(&dir, State { nodes, ..state })?,
            None => Self::allot(&home, &options.name, nodes)?,
        };
        let state = ledger.state()?;
        let plan = Plan { dir, network: state.network.clone(), tools, token: state.token.clone() };
        let bed = Self { home, plan, ledger };
        let archives = if state.kubelets() > 0 {
            host::Record::ensure(&bed.home.host_record())?;
            state.network.create(state.kubelets())?;
            builtin::ensure(&bed.home, &bed.plan.tools)?
        } else {
            Vec::new()
        };
        bed.plan.write_files(state.kubelets())?;
        bed.start_control_plane(&progress)?;
        match nodes {
            NodeMode::Kubelet(count) => bed.start_real_nodes(count, &archives, &progress)?,
            NodeMode::Kwok(count) => bed.start_simulated_nodes(count, &progress)?,
            NodeMode::Auto => bail!("the kind of nodes was not decided"),
        }
        progress.say(format!("up: {nodes}; kubeconfig {}", bed.kubeconfig().display()));
        Ok(bed)
    }

    /// The bed of this name, if there is one; nothing is started.
    pub fn find(name: &str) -> Result<Option<Self>> {
        options::check_name(name)?;
        let home = Home::from_env()?;
        let dir = home.bed(name);
        let Some(state) = State::load(&dir)? else { return Ok(None) };
        let tools = Tools::locate(&home)?;
        let plan = Plan { dir: dir.clone(), network: state.network.clone(), tools, token: state.token.clone() };
        Ok(Some(Self { home, plan, ledger: Ledger::open(&dir, state) }))
    }

    /// Like [`Bed::find`], but a missing bed is an error that says how to make one.
    pub fn get(name: &str) -> Result<Self> {
        Self::find(name)?.with_context(|| format!("there is no bed {name:?}; `testbed --name {name} up` makes one"))
    }

    fn allot(home: &Home, name: &str, nodes: NodeMode) -> Result<Ledger> {
        let _guard = home.lock("network")?;
        let network = if matches!(nodes, NodeMode::Kubelet(_)) {
            let namespace = format!("testbed-{name}");
            network::check_namespace_is_free(&namespace)?;
            let mut taken = network::host_ranges()?;
            // A bed that was just allotted may not have its interface yet.
            for other in home.bed_names()? {
                if let Some(state) = State::load(&home.bed(&other))? {
                    taken.extend(network::Range::parse(&format!("10.200.{}.0/24", state.network.range)));
                }
            }
            Network::in_namespace(&namespace, network::choose_range(&taken)?)
        } else {
            Network::loopback()?
        };
        let token = control_plane::random_token()?;
        Ledger::create(
            &home.bed(name),
            State { name: name.to_owned(), nodes, network, token, processes: BTreeMap::new() },
        )
    }

    fn start_control_plane(&self, progress: &Progress) -> Result<()> {
        self.ensure_running("etcd", || self.plan.etcd())?;
        let apiserver = self.ensure_running("kube-apiserver", || self.plan.apiserver())?;
        self.plan.wait_for_api(&apiserver)?;
        progress.say(format!("kube-apiserver answers at {}", self.plan.network.server()));
        self.ensure_running("kube-controller-manager", || self.plan.controller_manager())?;
        self.ensure_running("kube-scheduler", || self.plan.scheduler())?;
        Ok(())
    }

    fn start_real_nodes(&self, count: usize, archives: &[PathBuf], progress: &Progress) -> Result<()> {
        self.on_every_node(|node| node.start(&self.ledger, archives))?;
        progress.say(format!("{count} kubelet(s) started, images imported"));
        addons::start_dns(&self.plan, &self.ledger)?;
        addons::start_storage(&self.plan, &self.ledger)?;
        addons::start_proxy(&self.plan, &self.ledger)?;
        addons::wait_for_nodes(&self.plan, &self.ledger, count)?;
        progress.say(format!("{count} node(s) Ready"));
        addons::wait_for_services(&self.plan, &self.ledger)?;
        if let Some(provisioner) = self.ledger.state()?.processes.get("local-path-provisioner") {
            addons::check_alive("local-path-provisioner", provisioner)?;
        }
        progress.say("Services and DNS work");
        Ok(())
    }

    fn start_simulated_nodes(&self, count: usize, progress: &Progress) -> Result<()> {
        kwok::start(&self.plan, &self.ledger, count)?;
        addons::wait_for_nodes(&self.plan, &self.ledger, count)?;
        progress.say(format!("{count} simulated node(s) Ready"));
        Ok(())
    }

    fn ensure_running(&self, component: &str, words: impl FnOnce() -> Vec<String>) -> Result<Recorded> {
        if let Some(process) = self.ledger.running(component)? {
            return Ok(process);
        }
        let process = self.plan.start(component, words(), Lifetime::Detached)?;
        self.ledger.record(component, &process)?;
        Ok(process)
    }

    fn on_every_node(&self, work: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
        let state = self.ledger.state()?;
        let nodes: Vec<Node> = (0..state.kubelets()).map(|index| Node::new(&self.plan, &state.name, index)).collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                nodes.iter().map(|node| scope.spawn(|| work(node).with_context(|| node.name()))).collect();
            let mut answer = Ok(());
            for thread in threads {
                let one = thread.join().unwrap_or_else(|_| Err(anyhow!("the thread of a node failed")));
                if answer.is_ok() {
                    answer = one;
                }
            }
            answer
        })
    }

    /// The bed's name.
    pub fn name(&self) -> Result<String> {
        Ok(self.ledger.state()?.name)
    }

    /// The bed's nodes.
    pub fn nodes(&self) -> Result<NodeMode> {
        Ok(self.ledger.state()?.nodes)
    }

    /// The bed's directory.
    pub fn dir(&self) -> PathBuf {
        self.plan.dir.clone()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.plan.kubeconfig()
    }

    /// A client with the administrator's rights; call it from within a Tokio runtime.
    pub async fn client(&self) -> Result<kube::Client> {
        control_plane::client(&self.kubeconfig()).await
    }

    /// The API server's audit log: one JSON event per line with user agent, verb and resource.
    pub fn audit_log(&self) -> PathBuf {
        self.plan.audit_log()
    }

    /// The built programs.
    pub fn tools(&self) -> &Tools {
        &self.plan.tools
    }

    /// Where the bed listens.
    pub fn network(&self) -> &Network {
        &self.plan.network
    }

    /// A command of kubectl as the administrator.
    pub fn kubectl(&self) -> Command {
        self.plan.kubectl()
    }

    /// Imports image archives into every node, all nodes at once; simulated nodes need none.
    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        for archive in archives {
            crate::image::archive::identity(archive)?;
        }
        self.on_every_node(|node| node.import(archives))
    }

    /// Gives an image that the nodes have another name on all of them.
    pub fn tag(&self, image: &str, name: &str) -> Result<()> {
        self.on_every_node(|node| node.tag(image, name))
    }

    /// Starts cert-manager unless it runs, and waits until its definitions are served.
    pub fn start_cert_manager(&self) -> Result<()> {
        let _guard = self.home.lock(&format!("bed-{}", self.name()?))?;
        cert_manager::start(&self.plan, &self.ledger)
    }

    /// A command that runs in the bed's network with the bed's name resolution; on simulated nodes it runs on the host.
    pub fn exec_in_netns(&self, words: &[String]) -> Result<Command> {
        let (program, args) = words.split_first().context("no command was given")?;
        let mut command = match &self.plan.network.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(args);
        self.prepare(&mut command);
        Ok(command)
    }

    /// Sets KUBECONFIG, PATH and the bed's name for a command.
    pub fn prepare(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("PATH", format!("{}:{path}", self.plan.tools.bin().display()))
            .env("TESTBED_DIR", &self.plan.dir)
            .env("TESTBED_AUDIT_LOG", self.audit_log());
    }

    /// The bed's components with whether they run.
    pub fn components(&self) -> Result<Vec<Component>> {
        let processes = self.ledger.state()?.processes;
        Ok(processes.into_iter().map(|(name, process)| Component { alive: process.alive(), name, process }).collect())
    }

    /// Takes the bed down without a trace.
    pub fn down(self) -> Result<()> {
        let name = self.name()?;
        drop(self);
        down(&name)
    }
}

/// Takes the bed of this name down; a half-made or half-removed one as well. No bed is no error.
pub fn down(name: &str) -> Result<()> {
    options::check_name(name)?;
    let home = Home::from_env()?;
    let _guard = home.lock(&format!("bed-{name}"))?;
    let dir = home.bed(name);
    if !dir.exists() {
        return Ok(());
    }
    let progress = Progress::start(format!("testbed {name}"));
    let state = match State::load(&dir) {
        Ok(state) => state,
        Err(error) => {
            eprintln!("testbed {name}: {error:#}; cleaning up what is known without it");
            None
        }
    };
    let real = dir.join("node-0").exists() || state.as_ref().is_some_and(|state| state.kubelets() > 0);
    if let Some(state) = &state {
        let processes: Vec<Recorded> = state.processes.values().cloned().collect();
        // The bed is thrown away: whoever does not end at once is killed.
        process::stop_all(&processes, Duration::from_millis(500))?;
        progress.say("components stopped");
    }
    if real {
        probe::check_root().context("taking real nodes down")?;
        let network =
            state.map_or_else(|| Network::in_namespace(&format!("testbed-{name}"), u8::MAX), |state| state.network);
        if let Some(namespace) = &network.namespace {
            host::empty_namespace(namespace)?;
        }
        node::remove_traces(name, &dir)?;
        host::unmount_below(&dir)?;
        network.delete()?;
        progress.say("containers, mounts, cgroups and network removed");
    }
    // Deleting through a mount would delete what is mounted.
    ensure!(host::mounts_below(&dir)?.is_empty(), "there are still mounts below {}", dir.display());
    fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    network::remove_if_empty(&home.beds());
    if real && !other_real_beds(&home)? {
        host::Record::restore(&home.host_record())?;
    }
    progress.say("down");
    Ok(())
}

fn other_real_beds(home: &Home) -> Result<bool> {
    for name in home.bed_names()? {
        if State::load(&home.bed(&name))?.is_none_or(|state| state.kubelets() > 0) {
            return Ok(true);
        }
    }
    // Beds of another directory share the host's settings.
    let namespaces = fs::read_dir("/run/netns")
        .map(|entries| entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("testbed-")));
    Ok(namespaces.unwrap_or(false))
}

fn decide_nodes(wanted: NodeMode, existing: Option<NodeMode>, progress: &Progress) -> Result<NodeMode> {
    let decided = match (wanted, existing) {
        (NodeMode::Auto, Some(existing)) => existing,
        (NodeMode::Auto, None) => match probe::real_nodes() {
            Ok(()) => NodeMode::Kubelet(1),
            Err(error) => {
                progress.say(format!("simulated nodes only, because real ones do not work here: {error:#}"));
                NodeMode::Kwok(3)
            }
        },
        (wanted, None) => wanted,
        (wanted, Some(existing)) => grown(wanted, existing)?,
    };
    if matches!(decided, NodeMode::Kubelet(_)) {
        probe::check_root()?;
        probe::check_programs()?;
    }
    Ok(decided)
}

fn grown(wanted: NodeMode, existing: NodeMode) -> Result<NodeMode> {
    match (wanted, existing) {
        (NodeMode::Kubelet(wanted), NodeMode::Kubelet(existing)) if wanted >= existing => Ok(NodeMode::Kubelet(wanted)),
        (NodeMode::Kwok(wanted), NodeMode::Kwok(existing)) if wanted >= existing => Ok(NodeMode::Kwok(wanted)),
        _ => {
            bail!("the bed has {existing} and cannot become {wanted}; `testbed down` it first, or take another --name")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bed_may_grow_but_neither_shrink_nor_change_its_kind() {
        assert_eq!(grown(NodeMode::Kubelet(3), NodeMode::Kubelet(1)).unwrap(), NodeMode::Kubelet(3));
        assert_eq!(grown(NodeMode::Kwok(3), NodeMode::Kwok(3)).unwrap(), NodeMode::Kwok(3));
        assert!(grown(NodeMode::Kubelet(1), NodeMode::Kubelet(3)).is_err());
        let error = grown(NodeMode::Kwok(3), NodeMode::Kubelet(1)).unwrap_err().to_string();
        assert!(error.contains("testbed down"), "{error}");
    }

    #[test]
    fn without_a_wish_an_existing_bed_stays_what_it_is() {
        let progress = Progress::start("test");
        let decided = decide_nodes(NodeMode::Auto, Some(NodeMode::Kwok(7)), &progress).unwrap();
        assert_eq!(decided, NodeMode::Kwok(7));
    }
}
