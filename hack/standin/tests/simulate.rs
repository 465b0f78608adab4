//! Simulated poolers answer under the address that their records name.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use standin::proto::multipoolermanager::multipooler_manager_client::MultipoolerManagerClient;
use standin::proto::multipoolermanager::multipooler_manager_server::MultipoolerManagerServer;
use standin::proto::multipoolermanagerdata::{
    BackupRequest, GetBackupsRequest, ResignLeadershipRequest, StatusRequest, StatusResponse,
};
use standin::quorum;
use standin::simulate::pods;
use standin::simulate::service::Everybody;
use standin::simulate::world::{Place, World};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

fn pod(name: &str) -> Pod {
    let mut args = vec!["multipooler".to_owned()];
    args.extend(
        [
            "--topo-global-server-addresses=e:2379",
            "--topo-global-root=/root",
            "--cell=a",
            "--database=postgres",
            "--table-group=default",
            "--shard=0-inf",
        ]
        .map(str::to_owned),
    );
    args.push(format!("--service-id={name}"));
    let mut pod = Pod {
        spec: Some(PodSpec {
            containers: vec![Container { args: Some(args), ..Container::default() }],
            ..PodSpec::default()
        }),
        status: Some(PodStatus { phase: Some("Running".into()), ..PodStatus::default() }),
        ..Pod::default()
    };
    pod.metadata.name = Some(name.into());
    pod.metadata.namespace = Some("ns".into());
    pod.metadata.uid = Some(name.into());
    pod
}

struct Scene {
    world: Arc<Mutex<World>>,
    place: Place,
    port: u16,
}

impl Scene {
    async fn with_poolers(names: &[&str]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let world = Arc::new(Mutex::new(World::default()));
        for name in names {
            world.lock().unwrap().appeared(pods::process(&pod(name)).unwrap().unwrap(), port);
        }
        let service = MultipoolerManagerServer::new(Everybody(Arc::clone(&world)));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        let place = world.lock().unwrap().shards.keys().next().unwrap().clone();
        Self { world, place, port }
    }

    fn elect(&self) {
        let policy = quorum::named("AT_LEAST_2").unwrap();
        let mut world = self.world.lock().unwrap();
        assert!(world.shards.get_mut(&self.place).unwrap().elect(&policy, Duration::ZERO, Instant::now()));
    }

    fn hostname(&self, name: &str) -> String {
        self.world.lock().unwrap().shards[&self.place].poolers[&format!("multipooler-a-{name}")].base.hostname.clone()
    }

    fn leader(&self) -> String {
        self.world.lock().unwrap().shards[&self.place].leader().unwrap().id.name.clone()
    }

    fn client(&self, name: &str) -> MultipoolerManagerClient<Channel> {
        let address = format!("http://{}:{}", self.hostname(name), self.port);
        MultipoolerManagerClient::new(Endpoint::from_shared(address).unwrap().connect_lazy())
    }

    async fn status(&self, name: &str) -> StatusResponse {
        self.client(name).status(StatusRequest {}).await.unwrap().into_inner()
    }
}

#[tokio::test]
async fn every_pooler_answers_for_itself() {
    let scene = Scene::with_poolers(&["p1", "p2"]).await;
    scene.elect();
    for name in ["p1", "p2"] {
        let answer = scene.status(name).await;
        assert_eq!(answer.consensus_status.unwrap().id.unwrap().name, name);
        assert_eq!(answer.status.unwrap().primary_status.is_some(), scene.leader() == name);
    }
}

#[tokio::test]
async fn a_switchover_moves_the_primary() {
    let scene = Scene::with_poolers(&["p1", "p2", "p3"]).await;
    scene.elect();
    let first = scene.leader();
    let standby = ["p1", "p2"].into_iter().find(|name| *name != first).unwrap();
    assert!(scene.client(standby).resign_leadership(ResignLeadershipRequest {}).await.is_err());
    scene.client(&first).resign_leadership(ResignLeadershipRequest {}).await.unwrap();
    scene.elect();
    assert_ne!(scene.leader(), first);
    assert!(scene.status(&first).await.status.unwrap().replication_status.is_some());
}

#[tokio::test]
async fn a_backup_shows_in_the_list() {
    let scene = Scene::with_poolers(&["p1", "p2"]).await;
    scene.elect();
    let standby = ["p1", "p2"].into_iter().find(|name| *name != scene.leader()).unwrap();
    let asked = BackupRequest { r#type: "incremental".into(), job_id: "j".into(), ..BackupRequest::default() };
    scene.client(standby).backup(asked).await.unwrap();
    let all = scene.client(standby).get_backups(GetBackupsRequest { limit: 0 }).await.unwrap().into_inner().backups;
    assert_eq!(all.iter().map(|backup| backup.r#type.as_str()).collect::<Vec<_>>(), ["full", "incr"]);
}

#[tokio::test]
async fn a_vanished_pod_does_not_answer() {
    let scene = Scene::with_poolers(&["p1", "p2"]).await;
    scene.world.lock().unwrap().vanished("ns/p1");
    let refusal = scene.client("p1").status(StatusRequest {}).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unavailable);
}
