//! Calls over mutual TLS: who is believed, who is let in, and what renewed certificates do.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use shared::pki::{self, Authority, Pair};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::*;
use crate::upstream::{
    Credentials, Tls,
    pb::{
        clustermetadata::{ConsensusStatus, Id},
        multipoolermanager::multipooler_manager_server::{MultipoolerManager, MultipoolerManagerServer},
    },
};

const POOLER: &str = "multipooler.demo.prod.multigres.internal";
const OPERATOR: &str = "operator.demo.prod.multigres.internal";
const DEADLINE: Duration = Duration::from_secs(5);

struct Manager;

#[tonic::async_trait]
impl MultipoolerManager for Manager {
    async fn status(&self, _: Request<data::StatusRequest>) -> Result<Response<data::StatusResponse>, Status> {
        Ok(Response::new(data::StatusResponse {
            status: Some(data::Status::default()),
            consensus_status: Some(ConsensusStatus {
                id: Some(Id { component: 1, cell: "zone-a".to_owned(), name: "p-1".to_owned() }),
                ..ConsensusStatus::default()
            }),
            availability_status: None,
        }))
    }
}

/// A running server; it ends with the value.
struct Running {
    address: PoolerAddress,
    _stop: oneshot::Sender<()>,
}

fn authority(name: &str) -> Authority {
    Authority::generate(name, Timestamp::now(), SignedDuration::from_hours(24)).unwrap()
}

fn leaf(authority: &Authority, name: &str) -> Pair {
    let request = pki::Request {
        common_name: name.to_owned(),
        dns_names: [name.to_owned()].into(),
        valid_for: SignedDuration::from_hours(24),
    };
    authority.issue(&request, Timestamp::now()).unwrap()
}

fn pem(authority: &Authority) -> String {
    authority.pair().certificate.clone()
}

/// A pooler with a leaf, that lets in whom `trusted` has signed, as the data plane does: it serves its authorities along.
async fn serve(leaf: &Pair, trusted: &str) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = listener.local_addr().unwrap();
    let chain = format!("{}{trusted}", leaf.certificate);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(chain, &leaf.key))
        .client_ca_root(Certificate::from_pem(trusted));
    let (stop, stopped) = oneshot::channel::<()>();
    let mut server = Server::builder().tls_config(tls).unwrap();
    let server = server.add_service(MultipoolerManagerServer::new(Manager));
    tokio::spawn(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
        let _ = stopped.await;
    }));
    Running { address: PoolerAddress::new(socket.ip().to_string(), socket.port()), _stop: stop }
}

fn tls(server_name: &str, leaf: &Pair, trusted: &str) -> Arc<Tls> {
    let identity = Some((leaf.certificate.clone(), leaf.key.clone()));
    let credentials = Ok(Credentials { authority: Some(trusted.to_owned()), identity });
    Arc::new(Tls { server_name: server_name.to_owned(), credentials })
}

fn poolers() -> GrpcPooler {
    GrpcPooler::new(Limits::default())
}

async fn ask(poolers: &GrpcPooler, server: &Running, tls: Option<Arc<Tls>>) -> Result<PoolerStatus> {
    poolers.status(&server.address.clone().over(tls), DEADLINE).await
}

#[tokio::test]
async fn a_pooler_is_known_by_its_identity_and_not_by_its_address() {
    let ca = authority("CA");
    let server = serve(&leaf(&ca, POOLER), &pem(&ca)).await;
    let operator = leaf(&ca, OPERATOR);
    let status = ask(&poolers(), &server, Some(tls(POOLER, &operator, &pem(&ca)))).await.unwrap();
    assert_eq!(status.id, Some(PoolerId::new("zone-a", "p-1")));
    let other =
        ask(&poolers(), &server, Some(tls("multiorch.demo.prod.multigres.internal", &operator, &pem(&ca)))).await;
    assert_eq!(other.unwrap_err().reason(), "Unavailable", "somebody else answers");
}

#[tokio::test]
async fn only_members_of_the_cluster_are_let_in_and_believed() {
    let (ca, stranger) = (authority("CA"), authority("stranger"));
    let server = serve(&leaf(&ca, POOLER), &pem(&ca)).await;
    let foreign = ask(&poolers(), &server, Some(tls(POOLER, &leaf(&stranger, OPERATOR), &pem(&ca)))).await;
    assert!(foreign.is_err(), "it is let in with a certificate of another authority");
    let nameless = Credentials { authority: Some(pem(&ca)), identity: None };
    let nameless = Tls { server_name: POOLER.to_owned(), credentials: Ok(nameless) };
    assert!(ask(&poolers(), &server, Some(Arc::new(nameless))).await.is_err(), "it is let in without a certificate");
    let disbelieved = ask(&poolers(), &server, Some(tls(POOLER, &leaf(&ca, OPERATOR), &pem(&stranger)))).await;
    assert_eq!(disbelieved.unwrap_err().reason(), "Unavailable");
    assert!(ask(&poolers(), &server, None).await.is_err(), "it is let in without TLS");
}

#[tokio::test]
async fn nobody_is_called_without_credentials() {
    let ca = authority("CA");
    let server = serve(&leaf(&ca, POOLER), &pem(&ca)).await;
    let poolers = poolers();
    let none = Tls { server_name: POOLER.to_owned(), credentials: Err("Secret x does not exist".to_owned()) };
    let error = ask(&poolers, &server, Some(Arc::new(none))).await.unwrap_err();
    assert!(error.unreachable());
    let told = format!("{} cannot be reached over TLS: Secret x does not exist", server.address);
    assert_eq!(error.to_string(), told);
    let junk = Pair { certificate: "junk".to_owned(), key: "junk".to_owned() };
    let error = ask(&poolers, &server, Some(tls(POOLER, &junk, &pem(&ca)))).await.unwrap_err();
    assert_eq!(error.reason(), "NoCredentials");
    assert_eq!(poolers.channels.len(), 0);
}

#[tokio::test]
async fn renewed_certificates_and_a_new_authority_make_a_channel_of_their_own() {
    let (old, new) = (authority("CA"), authority("CA"));
    let both = pki::bundle(&pem(&new), &pem(&old), Timestamp::now()).unwrap();
    let (before, after) = (serve(&leaf(&old, POOLER), &both).await, serve(&leaf(&new, POOLER), &both).await);
    let poolers = poolers();
    for operator in [leaf(&old, OPERATOR), leaf(&new, OPERATOR)] {
        for server in [&before, &after] {
            ask(&poolers, server, Some(tls(POOLER, &operator, &both))).await.unwrap();
        }
    }
    assert_eq!(poolers.channels.len(), 4);
}
