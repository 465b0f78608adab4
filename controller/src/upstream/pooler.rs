//! The management service of poolers over gRPC: one lazily connected channel per address, one deadline per call.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, timeout};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use super::{
    Error, Limits, MAX_DEADLINE, Pooler, PoolerAddress, PoolerStatus, Result, error,
    idle::IdleCache,
    pb::{
        multipoolermanager::multipooler_manager_client::MultipoolerManagerClient, multipoolermanagerdata::StatusRequest,
    },
};

/// A pod that does not accept within this time is not there.
const CONNECT: Duration = Duration::from_secs(2);
/// A dead peer is noticed by its silence while a request is open.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// [`Pooler`] over gRPC.
pub struct GrpcPooler {
    channels: IdleCache<PoolerAddress, Channel>,
}

impl GrpcPooler {
    /// No connection is made before the first call.
    pub fn new(limits: Limits) -> Self {
        Self { channels: IdleCache::new(limits.poolers, limits.idle) }
    }

    /// Drops idle connections.
    pub fn sweep(&self) {
        self.channels.sweep();
    }

    fn channel(&self, address: &PoolerAddress) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|cause| Error::Invalid { what: address.to_string(), detail: error::chain(&cause) })?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1);
        Ok(self.channels.get_or_insert(address, || endpoint.connect_lazy()))
    }
}

impl Pooler for GrpcPooler {
    fn status<'a>(&'a self, address: &'a PoolerAddress, deadline: Duration) -> BoxFuture<'a, Result<PoolerStatus>> {
        async move {
            let deadline = deadline.min(MAX_DEADLINE);
            let mut client = MultipoolerManagerClient::new(self.channel(address)?);
            let mut request = Request::new(StatusRequest {});
            // Travels with the call, so that the server stops working for nobody.
            request.set_timeout(deadline);
            let started = Instant::now();
            let target = address.to_string();
            match timeout(deadline, client.status(request)).await {
                Ok(Ok(response)) => PoolerStatus::from_response(response.into_inner())
                    .ok_or_else(|| Error::Unavailable { target, detail: "it answers without a status".to_owned() }),
                Ok(Err(status)) if started.elapsed() < deadline => Err(Error::from_grpc(&target, &status, deadline)),
                Ok(Err(_)) | Err(_) => {
                    // The name may lead to another pod by now: the next call dials anew.
                    self.channels.remove(address);
                    Err(Error::Slow { target, after: deadline })
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
#[path = "pooler_tests.rs"]
mod tests;
