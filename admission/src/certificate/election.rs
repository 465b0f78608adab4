//! Who may write: the holder of a Lease, which it hands over to a replica that asks because its leaf is not accepted.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease as Record;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use shared::lease::{Lease, State};
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

impl Election {
    /// Competes until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let mut honoured = BTreeSet::new();
        while !token.is_cancelled() {
            let stop = token.child_token();
            // Whatever ends this, nobody goes on to renew a Lease under which nobody works.
            let guard = stop.clone().drop_guard();
            let lease = Lease::run(self.client.clone(), self.settings.lease.clone(), stop.clone());
            let mut state = lease.state();
            let handed_over = tokio::select! {
                () = token.cancelled() => false,
                ended = state.wait_for(|state| *state == State::Lost) => { drop(ended); false },
                () = self.take_part(&lease, &mut honoured) => true,
            };
            // Cancelled only now: whoever writes has stopped.
            drop(guard);
            lease.ended().await;
            if handed_over {
                info!("the lease is handed over to a replica that asked for it");
                tokio::select! {
                    () = token.cancelled() => {}
                    () = sleep(self.settings.lease.retry * 5) => {}
                }
            }
        }
    }

    /// Waits for the Lease, works while it is held, and returns when somebody else needs it more.
    async fn take_part(&mut self, lease: &Lease, honoured: &mut BTreeSet<String>) {
        tokio::select! {
            held = lease.held() => if !held { return std::future::pending().await },
            () = ask(&self.client, &self.settings, &mut self.unaccepted) => {}
        }
        withdraw(&self.client, &self.settings).await;
        tokio::select! {
            () = self.rotator.run() => {}
            () = asked(&self.client, &self.settings, honoured) => {}
        }
    }
}

fn leases(client: &Client, settings: &Settings) -> Api<Record> {
    Api::namespaced(client.clone(), &settings.lease.namespace)
}

/// Asks for the Lease, again and again, while what this replica serves is not accepted; never ends.
async fn ask(client: &Client, settings: &Settings, unaccepted: &mut watch::Receiver<bool>) {
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
        let request = format!("{}/{count}-{}", settings.lease.identity, settings.clock.now().as_millisecond());
        info!("what this replica serves is not accepted; asking for the lease");
        annotate(client, settings, &json!(request)).await;
    }
}

/// Takes an own request back.
async fn withdraw(client: &Client, settings: &Settings) {
    if requested(client, settings).await.is_some_and(|request| asker(&request) == settings.lease.identity) {
        annotate(client, settings, &Value::Null).await;
    }
}

/// Waits until another replica asks for the Lease; each request counts once.
async fn asked(client: &Client, settings: &Settings, honoured: &mut BTreeSet<String>) {
    loop {
        sleep(LOOK).await;
        if let Some(request) = requested(client, settings).await
            && asker(&request) != settings.lease.identity
            && honoured.insert(request)
        {
            return;
        }
    }
}

fn asker(request: &str) -> &str {
    request.rsplit_once('/').map_or(request, |(identity, _)| identity)
}

async fn requested(client: &Client, settings: &Settings) -> Option<String> {
    let record = leases(client, settings).get_metadata_opt(&settings.lease.name).await;
    record.ok().flatten()?.annotations().get(HAND_OVER).cloned()
}

async fn annotate(client: &Client, settings: &Settings, value: &Value) {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {HAND_OVER: value}}}));
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    if let Err(error) = leases(client, settings).patch_metadata(&settings.lease.name, &params, &patch).await {
        debug!(error = %error, "cannot annotate the lease");
    }
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
