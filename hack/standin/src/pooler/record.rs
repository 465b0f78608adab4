//! The pooler's own record: what it should say, and the writer that makes it so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fault::{Fault, Faults};
use crate::proto::clustermetadata::{
    Multipooler, PoolerLifecycle, PoolerLifecycleStatus, PoolerServingStatus, PoolerType, RoutingRole, RoutingState,
    RuleNumber,
};
use crate::topology::{Store, key};

/// The part of a record that changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutable {
    /// Whether queries are served.
    pub serving: PoolerServingStatus,
    /// Where in its life the pooler is.
    pub lifecycle: PoolerLifecycle,
    /// The rule under which it is the writable primary, if it is.
    pub primary_by: Option<RuleNumber>,
}

/// A lifecycle that begins now.
pub fn lifecycle(status: PoolerLifecycleStatus, reason: &str) -> PoolerLifecycle {
    PoolerLifecycle { status: status.into(), reason: reason.to_owned(), updated: Some(SystemTime::now().into()) }
}

/// The record as it goes to etcd: replicas publish no rule, a stopped pooler no role at all.
pub fn projected(base: &Multipooler, state: &Mutable) -> Multipooler {
    let shut_down = state.lifecycle.status() == PoolerLifecycleStatus::LifecycleShutdown;
    let (kind, routing_state) = match (shut_down, state.primary_by) {
        (true, _) => (PoolerType::Unknown, None),
        (false, Some(rule)) => {
            (PoolerType::Primary, Some(RoutingState { role: RoutingRole::Primary.into(), rule: Some(rule) }))
        }
        (false, None) => (PoolerType::Replica, Some(RoutingState { role: RoutingRole::Replica.into(), rule: None })),
    };
    Multipooler {
        r#type: kind.into(),
        serving_status: state.serving.into(),
        lifecycle_status: Some(state.lifecycle.clone()),
        routing_state,
        ..base.clone()
    }
}

/// Owns the record and writes it whenever it should read differently from what was written last. What others write
/// in between is not noticed, as with the real pooler.
pub struct Publisher {
    base: Multipooler,
    desired: watch::Sender<Mutable>,
    writer: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Publisher {
    /// Starts writing the record; a missing or slow etcd is retried in the background.
    pub fn start(store: Store, base: Multipooler, faults: Faults) -> Arc<Self> {
        let (desired, receiver) = watch::channel(Mutable {
            serving: PoolerServingStatus::Disabled,
            lifecycle: lifecycle(PoolerLifecycleStatus::LifecycleStarting, "pooler starting"),
            primary_by: None,
        });
        let writer = tokio::spawn(write(store, base.clone(), receiver, faults));
        Arc::new(Self { base, desired, writer: std::sync::Mutex::new(Some(writer)) })
    }

    /// The record's fixed part.
    pub fn base(&self) -> &Multipooler {
        &self.base
    }

    /// What the record should say now.
    pub fn state(&self) -> Mutable {
        self.desired.borrow().clone()
    }

    /// Changes what the record should say.
    pub fn change(&self, change: impl FnOnce(&mut Mutable)) {
        self.desired.send_if_modified(|state| {
            let before = state.clone();
            change(state);
            *state != before
        });
    }

    /// Ends the writer and writes the record of a stopped pooler.
    pub async fn finish(&self, store: &Store) -> Result<()> {
        if let Ok(mut writer) = self.writer.lock()
            && let Some(writer) = writer.take()
        {
            writer.abort();
        }
        self.change(|state| {
            state.primary_by = None;
            state.serving = PoolerServingStatus::Disabled;
            state.lifecycle = lifecycle(PoolerLifecycleStatus::LifecycleShutdown, "pooler shutdown");
        });
        publish(store, &projected(&self.base, &self.state())).await
    }
}

async fn publish(store: &Store, record: &Multipooler) -> Result<()> {
    let id = record.id.clone().unwrap_or_default();
    store.cell(&id.cell).await?.put(&key::pooler(&id), record.encode_to_vec()).await
}

async fn write(store: Store, base: Multipooler, mut desired: watch::Receiver<Mutable>, faults: Faults) {
    let mut written: Option<Multipooler> = None;
    let mut pause = Duration::from_millis(10);
    loop {
        let record = projected(&base, &desired.borrow_and_update());
        if faults.has(Fault::ForgetRegistration) {
            if written.take().is_some()
                && let Some(id) = &base.id
                && let Ok(cell) = store.cell(&id.cell).await
            {
                let _ = cell.delete(&key::pooler(id)).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        if written.as_ref() == Some(&record) {
            // The fault needs a look each second; the record itself waits for changes.
            let _ = tokio::time::timeout(Duration::from_secs(1), desired.changed()).await;
            continue;
        }
        match publish(&store, &record).await {
            Ok(()) => {
                if written.is_none() {
                    tracing::info!("successfully registered component with topology");
                }
                written = Some(record);
                pause = Duration::from_millis(10);
            }
            Err(error) => {
                tracing::warn!(%error, "failed to register component with topology");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(30));
            }
        }
    }
}

/// The ports a pooler publishes.
pub fn ports(grpc: u16, http: u16, postgres: u16, pgbackrest: u16) -> BTreeMap<String, i32> {
    [("grpc", grpc), ("http", http), ("postgres", postgres), ("pgbackrest", pgbackrest)]
        .into_iter()
        .map(|(name, port)| (name.to_owned(), i32::from(port)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(primary_by: Option<RuleNumber>, status: PoolerLifecycleStatus) -> Mutable {
        Mutable { serving: PoolerServingStatus::Serving, lifecycle: lifecycle(status, ""), primary_by }
    }

    #[test]
    fn only_a_primary_publishes_its_rule() {
        let rule = RuleNumber { coordinator_term: 3, leader_subterm: 1 };
        let active = PoolerLifecycleStatus::LifecycleActive;
        let primary = projected(&Multipooler::default(), &state(Some(rule), active));
        assert_eq!(primary.r#type(), PoolerType::Primary);
        assert_eq!(primary.routing_state.unwrap().rule, Some(rule));
        let replica = projected(&Multipooler::default(), &state(None, active));
        assert_eq!(replica.r#type(), PoolerType::Replica);
        assert_eq!(replica.routing_state.unwrap().rule, None);
    }

    #[test]
    fn a_stopped_pooler_has_no_role() {
        let rule = RuleNumber { coordinator_term: 3, leader_subterm: 1 };
        let record = projected(&Multipooler::default(), &state(Some(rule), PoolerLifecycleStatus::LifecycleShutdown));
        assert_eq!(record.r#type(), PoolerType::Unknown);
        assert_eq!(record.routing_state, None);
    }
}
