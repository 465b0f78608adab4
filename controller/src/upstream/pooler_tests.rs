//! Status calls against a server in this process: one that answers, one that refuses, one that hangs, and none.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::{self, Either};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::*;
use crate::upstream::{
    PoolerId,
    pb::{
        clustermetadata::{ConsensusStatus, Id, PoolerType},
        multipoolermanager::multipooler_manager_server::{MultipoolerManager, MultipoolerManagerServer},
        multipoolermanagerdata::{StatusRequest, StatusResponse},
    },
};

/// What the server does with a call.
#[derive(Clone)]
enum Script {
    Answer(Box<StatusResponse>),
    Refuse(Status),
    Hang,
}

struct Manager {
    script: Script,
    calls: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl MultipoolerManager for Manager {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match &self.script {
            Script::Answer(response) => Ok(Response::new((**response).clone())),
            Script::Refuse(status) => Err(status.clone()),
            Script::Hang => std::future::pending().await,
        }
    }
}

/// A running server; it ends with the value and closes its connections.
struct Running {
    address: PoolerAddress,
    calls: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

fn address_of(socket: SocketAddr) -> PoolerAddress {
    PoolerAddress::new(socket.ip().to_string(), socket.port())
}

fn serve_on(listener: TcpListener, script: Script) -> Running {
    let address = address_of(listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    let manager = Manager { script, calls: calls.clone() };
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(Server::builder().add_service(MultipoolerManagerServer::new(manager)).serve_with_incoming_shutdown(
        TcpListenerStream::new(listener),
        async {
            let _ = stopped.await;
        },
    ));
    Running { address, calls, _stop: stop }
}

async fn serve(script: Script) -> Running {
    serve_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
}

fn poolers() -> GrpcPooler {
    GrpcPooler::new(Limits::default())
}

fn primary() -> Script {
    Script::Answer(Box::new(StatusResponse {
        status: Some(data::Status {
            pooler_type: PoolerType::Primary.into(),
            postgres_status: data::PostgresStatus::Primary.into(),
            postgres_ready: true,
            primary_status: Some(data::PrimaryStatus { ready: true, lsn: "0/10".to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        consensus_status: Some(ConsensusStatus {
            id: Some(Id { component: 1, cell: "zone-a".to_owned(), name: "p-1".to_owned() }),
            ..Default::default()
        }),
        availability_status: None,
    }))
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_primary_answers_with_its_identity() {
    let server = serve(primary()).await;
    let poolers = poolers();
    for _ in 0..2 {
        let status = poolers.status(&server.address, SECOND * 5).await.unwrap();
        assert!(status.is_serving_primary());
        assert_eq!(status.id, Some(PoolerId::new("zone-a", "p-1")));
    }
    assert_eq!(server.calls.load(Ordering::SeqCst), 2);
    assert_eq!(poolers.channels.len(), 1);
}

#[tokio::test]
async fn a_manager_that_is_starting_up_is_unavailable() {
    let server = serve(Script::Refuse(Status::unavailable("manager is still starting up"))).await;
    let error = poolers().status(&server.address, SECOND * 5).await.unwrap_err();
    assert_eq!(
        error,
        Error::Unavailable { target: server.address.to_string(), detail: "manager is still starting up".to_owned() }
    );
}

#[tokio::test]
async fn an_empty_answer_is_unavailable() {
    let server = serve(Script::Answer(Box::default())).await;
    assert_eq!(poolers().status(&server.address, SECOND * 5).await.unwrap_err().reason(), "Unavailable");
}

#[tokio::test]
async fn a_missing_certificate_is_denied() {
    let server = serve(Script::Refuse(Status::unauthenticated("client certificate required"))).await;
    assert_eq!(poolers().status(&server.address, SECOND * 5).await.unwrap_err().reason(), "Denied");
}

#[tokio::test]
async fn nobody_on_the_port_is_unavailable_and_names_the_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = address_of(listener.local_addr().unwrap());
    drop(listener);
    let error = poolers().status(&address, SECOND * 5).await.unwrap_err();
    assert_eq!(error.reason(), "Unavailable");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_hanging_server_is_slow_after_the_deadline() {
    let server = serve(Script::Hang).await;
    let poolers = poolers();
    let deadline = Duration::from_millis(300);
    let started = Instant::now();
    let error = poolers.status(&server.address, deadline).await.unwrap_err();
    assert_eq!(error, Error::Slow { target: server.address.to_string(), after: deadline });
    assert!(started.elapsed() < MAX_DEADLINE);
    assert_eq!(server.calls.load(Ordering::SeqCst), 1);
    assert_eq!(poolers.channels.len(), 0, "the connection is given up");
}

#[tokio::test]
async fn a_peer_that_never_speaks_http_is_slow_after_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = address_of(listener.local_addr().unwrap());
    let error = poolers().status(&address, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.reason(), "Slow");
}

#[tokio::test]
async fn no_deadline_is_longer_than_the_longest() {
    let server = serve(Script::Hang).await;
    let poolers = poolers();
    let mut call = poolers.status(&server.address, SECOND * 3600);
    let end = Instant::now() + SECOND * 10;
    while server.calls.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < end, "the call does not arrive");
        let pause = std::pin::pin!(tokio::time::sleep(Duration::from_millis(5)));
        match future::select(call, pause).await {
            Either::Left((answer, _)) => panic!("answered: {answer:?}"),
            Either::Right(((), unfinished)) => call = unfinished,
        }
    }
    // Now that it waits for nothing but time.
    tokio::time::pause();
    tokio::time::advance(MAX_DEADLINE).await;
    assert!(matches!(call.await, Err(Error::Slow { after, .. }) if after == MAX_DEADLINE));
}

#[tokio::test]
async fn a_restarted_pooler_is_reached_again() {
    let first = serve(Script::Refuse(Status::unavailable("going down"))).await;
    let address = first.address.clone();
    let poolers = poolers();
    poolers.status(&address, SECOND * 5).await.unwrap_err();
    drop(first);
    // The port is free as soon as the stopped server has let go of its socket.
    let end = Instant::now() + SECOND * 10;
    let listener = loop {
        match TcpListener::bind((address.host.as_str(), address.port)).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        assert!(Instant::now() < end, "the port is still taken");
    };
    let second = serve_on(listener, primary());
    while poolers.status(&address, SECOND * 5).await.is_err() {
        assert!(Instant::now() < end, "the pooler is not reached again");
    }
    assert!(second.calls.load(Ordering::SeqCst) >= 1);
}

#[tokio::test]
async fn a_host_name_that_cannot_be_dialled_is_invalid() {
    let address = PoolerAddress::new("not a host", 1);
    assert_eq!(poolers().status(&address, SECOND).await.unwrap_err().reason(), "Invalid");
    assert_eq!(PoolerAddress::new("::1", 1).to_string(), "[::1]:1");
}

#[tokio::test]
async fn connections_are_bounded() {
    let poolers = GrpcPooler::new(Limits { poolers: 2, ..Limits::default() });
    for port in 1..=5 {
        poolers.channel(&PoolerAddress::new("127.0.0.1", port)).unwrap();
    }
    assert_eq!(poolers.channels.len(), 2);
}
