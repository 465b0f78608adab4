//! Finds out what every replica behind the Service serves, by asking it.
//!
//! A handshake tells the truth about a replica, needs no right to write anywhere and leaves nothing behind. It decides only when
//! an old authority may leave; nothing becomes trusted because a replica shows it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, api::ListParams};
use shared::pki::Certificate;
use tokio::{net::TcpStream, time::timeout};
use tracing::debug;

use super::peer;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many replicas are asked at once.
const AT_ONCE: usize = 8;

/// What a replica behind the Service told.
#[derive(Debug)]
pub(super) enum Told {
    /// It serves this chain.
    Chain(Vec<Certificate>),
    /// Nothing, although it may be getting requests.
    Nothing,
}

/// Asks every replica behind a Service.
pub(super) async fn ask(client: &Client, namespace: &str, service: &str, server_name: &str) -> kube::Result<Vec<Told>> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let selector = format!("kubernetes.io/service-name={service}");
    let slices = api.list(&ListParams::default().labels(&selector)).await?;
    let addresses: Vec<(SocketAddr, bool)> = slices.iter().flat_map(addresses).collect();
    let asked = stream::iter(addresses).map(|(address, serving)| async move {
        match timeout(PATIENCE, handshake(address, server_name)).await {
            Ok(Ok(chain)) => Some(Told::Chain(chain)),
            Ok(Err(error)) => {
                debug!(%address, %error, "a replica does not tell what it serves");
                serving.then_some(Told::Nothing)
            }
            Err(_) => serving.then_some(Told::Nothing),
        }
    });
    Ok(asked.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await)
}

/// The addresses of a slice, and whether requests may go there.
fn addresses(slice: &EndpointSlice) -> Vec<(SocketAddr, bool)> {
    let ports = slice.ports.iter().flatten().filter_map(|port| port.port.and_then(|port| u16::try_from(port).ok()));
    let ports: Vec<u16> = ports.collect();
    let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
        // Addresses of one endpoint are interchangeable.
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let serving = conditions.serving.or(conditions.ready).unwrap_or(true);
        Some((address, serving))
    });
    endpoints
        .flat_map(|(address, serving)| ports.iter().map(move |port| (SocketAddr::new(address, *port), serving)))
        .collect()
}

async fn handshake(address: SocketAddr, server_name: &str) -> Result<Vec<Certificate>, peer::Error> {
    let seen = peer::look(TcpStream::connect(address).await?, server_name).await?;
    seen.ended?;
    Ok(seen.chain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_port_of_every_endpoint_is_asked_and_only_those_that_serve_have_to_answer() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "metadata": {"name": "hook-1"},
            "ports": [{"port": 9443}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": false}},
                {"addresses": ["10.0.0.4"]},
            ],
        }))
        .unwrap();
        let found: Vec<(String, bool)> =
            addresses(&slice).into_iter().map(|(address, serving)| (address.to_string(), serving)).collect();
        let expected = [("10.0.0.1", true), ("10.0.0.2", true), ("10.0.0.3", false), ("10.0.0.4", true)];
        assert_eq!(found, expected.map(|(address, serving)| (format!("{address}:9443"), serving)));
    }
}
