//! What a bed remembers on disk: enough to find every process again and to take the bed down after any crash.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::network::Network;
use crate::options::NodeMode;
use crate::process::Recorded;

/// The state of a bed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The bed's name.
    pub name: String,
    /// Its nodes; never `Auto`.
    pub nodes: NodeMode,
    /// Its network.
    pub network: Network,
    /// The administrator's token.
    pub token: String,
    /// Its processes by component.
    pub processes: BTreeMap<String, Recorded>,
}

/// The state together with its file: every change is on disk before the call returns.
#[derive(Debug)]
pub struct Ledger {
    file: PathBuf,
    state: Mutex<State>,
}

impl State {
    /// Reads the state of the bed in `dir`, if there is one.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let file = file_in(dir);
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let state = serde_json::from_str(&text)
            .with_context(|| format!("{} is not the state of a bed; `testbed down` cleans up", file.display()))?;
        Ok(Some(state))
    }

    /// How many real nodes the bed has.
    pub fn kubelets(&self) -> usize {
        if let NodeMode::Kubelet(count) = self.nodes { count } else { 0 }
    }
}

impl Ledger {
    /// Keeps `state` in `dir`, writing it at once.
    pub fn create(dir: &Path, state: State) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let ledger = Self::open(dir, state);
        ledger.update(|_| ())?;
        Ok(ledger)
    }

    /// Keeps a state that was read from `dir`, writing nothing until it changes.
    pub fn open(dir: &Path, state: State) -> Self {
        Self { file: file_in(dir), state: Mutex::new(state) }
    }

    /// A copy of the state.
    pub fn state(&self) -> Result<State> {
        Ok(self.state.lock().map_err(|_| anyhow!("another thread failed while it changed the bed's state"))?.clone())
    }

    /// Changes the state and writes it.
    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T> {
        let mut state =
            self.state.lock().map_err(|_| anyhow!("another thread failed while it changed the bed's state"))?;
        let answer = change(&mut state);
        let text = serde_json::to_string_pretty(&*state).context("rendering the bed's state")?;
        let unfinished = self.file.with_extension("unfinished");
        fs::write(&unfinished, text).with_context(|| format!("writing {}", unfinished.display()))?;
        fs::rename(&unfinished, &self.file).with_context(|| format!("placing {}", self.file.display()))?;
        Ok(answer)
    }

    /// The recorded process of a component, if it still runs.
    pub fn running(&self, component: &str) -> Result<Option<Recorded>> {
        Ok(self.state()?.processes.get(component).filter(|process| process.alive()).cloned())
    }

    /// Records a component's process.
    pub fn record(&self, component: &str, process: &Recorded) -> Result<()> {
        self.update(|state| {
            state.processes.insert(component.to_owned(), process.clone());
        })
    }
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join("bed.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_process_is_on_disk_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let network = Network::in_namespace("testbed-x", 3);
        let state = State {
            name: "x".into(),
            nodes: NodeMode::Kubelet(2),
            network,
            token: "t".into(),
            processes: BTreeMap::new(),
        };
        let ledger = Ledger::create(dir.path(), state).unwrap();
        let process = Recorded { pid: 1, start_time: 0, log: "/x.log".into() };
        ledger.record("etcd", &process).unwrap();
        let read = State::load(dir.path()).unwrap().unwrap();
        assert_eq!(read, ledger.state().unwrap());
        assert_eq!(read.processes["etcd"], process);
        assert!(ledger.running("etcd").unwrap().is_none(), "pid 1 with another start time is not ours");
        assert_eq!(read.kubelets(), 2);
    }

    #[test]
    fn a_directory_without_state_holds_no_bed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(State::load(dir.path()).unwrap().is_none());
    }
}
