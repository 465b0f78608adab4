//! Who may write: the holder of a Lease, which it hands over to a replica that asks because its leaf is not accepted. A replica
//! that is told to be the only one needs no Lease.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease as Record;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use shared::lease::{self, Lease, State};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{FIELD_MANAGER, Settings, rotator::Rotator};

/// Annotation of the Lease by which a replica asks for it: who asks, and which time.
pub const HAND_OVER: &str = "multigres.com/hand-over-to";
/// How often the holder looks whether somebody asks.
const LOOK: Duration = Duration::from_secs(3);

/// The competition for the Lease and what is done while it is held.
pub(super) struct Election {
    pub client: Client,
    pub settings: Arc<Settings>,
    pub unaccepted: watch::Receiver<bool>,
    pub rotator: Rotator,
}

/// The Lease as a place for messages between its holder and those who want it.
struct Board {
    api: Api<Record>,
    lease: lease::Settings,
}

impl Election {
    /// Competes and works, or just works where there is nobody to compete with, until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let Some(lease) = self.settings.lease.clone() else {
            info!("leader election is off: this replica keeps the certificates as the only one");
            let _cancelled = token.run_until_cancelled(self.rotator.run()).await;
            return;
        };
        let board = Board { api: Api::namespaced(self.client.clone(), &lease.namespace), lease };
        self.compete(&board, token).await;
    }

    async fn compete(&mut self, board: &Board, token: CancellationToken) {
        let mut honoured = BTreeSet::new();
        while !token.is_cancelled() {
            let stop = token.child_token();
            // Whatever ends this, nobody goes on to renew a Lease under which nobody works.
            let guard = stop.clone().drop_guard();
            let lease = Lease::run(self.client.clone(), board.lease.clone(), stop.clone());
            let mut state = lease.state();
            let handed_over = tokio::select! {
                () = token.cancelled() => false,
                ended = state.wait_for(|state| *state == State::Lost) => { drop(ended); false },
                () = self.take_part(&lease, board, &mut honoured) => true,
            };
            // Cancelled only now: whoever writes has stopped.
            drop(guard);
            lease.ended().await;
            if handed_over {
                info!("the lease is handed over to a replica that asked for it");
                tokio::select! {
                    () = token.cancelled() => {}
                    () = sleep(board.lease.retry * 5) => {}
                }
            }
        }
    }

    /// Waits for the Lease, works while it is held, and returns when somebody else needs it more.
    async fn take_part(&mut self, lease: &Lease, board: &Board, honoured: &mut BTreeSet<String>) {
        tokio::select! {
            held = lease.held() => if !held { return std::future::pending().await },
            () = board.ask(&self.settings, &mut self.unaccepted) => {}
        }
        board.withdraw().await;
        tokio::select! {
            () = self.rotator.run() => {}
            () = board.asked(honoured) => {}
        }
    }
}

impl Board {
    /// Asks for the Lease, again and again, while what this replica serves is not accepted; never ends.
    async fn ask(&self, settings: &Settings, unaccepted: &mut watch::Receiver<bool>) {
        let mut count = 0_u64;
        loop {
            if unaccepted.wait_for(|unaccepted| *unaccepted).await.is_err() {
                return std::future::pending().await;
            }
            let until = Instant::now() + settings.patience;
            tokio::select! {
                accepted = unaccepted.wait_for(|unaccepted| !*unaccepted) => { drop(accepted); continue },
                () = sleep_until(until) => {}
            }
            count += 1;
            let request = format!("{}/{count}-{}", self.lease.identity, settings.clock.now().as_millisecond());
            info!("what this replica serves is not accepted; asking for the lease");
            self.annotate(&json!(request)).await;
        }
    }

    /// Takes an own request back.
    async fn withdraw(&self) {
        if self.requested().await.is_some_and(|request| asker(&request) == self.lease.identity) {
            self.annotate(&Value::Null).await;
        }
    }

    /// Waits until another replica asks for the Lease; each request counts once.
    async fn asked(&self, honoured: &mut BTreeSet<String>) {
        loop {
            sleep(LOOK).await;
            if let Some(request) = self.requested().await
                && asker(&request) != self.lease.identity
                && honoured.insert(request)
            {
                return;
            }
        }
    }

    async fn requested(&self) -> Option<String> {
        let record = self.api.get_metadata_opt(&self.lease.name).await;
        record.ok().flatten()?.annotations().get(HAND_OVER).cloned()
    }

    async fn annotate(&self, value: &Value) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {HAND_OVER: value}}}));
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        if let Err(error) = self.api.patch_metadata(&self.lease.name, &params, &patch).await {
            debug!(error = %error, "cannot annotate the lease");
        }
    }
}

fn asker(request: &str) -> &str {
    request.rsplit_once('/').map_or(request, |(identity, _)| identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_of_who_asks_is_all_before_the_last_slash() {
        assert_eq!(asker("admission-0/1-17"), "admission-0");
        assert_eq!(asker("a/b/2-18"), "a/b");
    }
}
