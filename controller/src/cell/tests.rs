use k8s_openapi::api::core::v1::Service;
use shared::{
    annotation,
    api::v1alpha1::{
        BufferConfig, CellImages, CellSpec, EtcdSpec, GlobalTopoServerRef, InternalTlsConfig, MultigatewaySpec,
        PoolSpec, ShardSpec,
    },
    condition::{find, is_true},
};

use super::*;
use crate::workload::fixture::{applied, assert_owned, now, outline, rolled_out, settings, stored, writes};

fn spec() -> CellSpec {
    CellSpec {
        name: "zone-a".into(),
        images: CellImages { multigateway: "gateway:1".into(), ..CellImages::default() },
        multigateway: MultigatewaySpec {
            buffer: Some(Box::new(BufferConfig { enabled: Some(true), ..BufferConfig::default() })),
            ..MultigatewaySpec::default()
        },
        global_topo_server: GlobalTopoServerRef {
            address: "minimal-global-topo.prod.svc:2379".into(),
            root_path: "/multigres/global".into(),
            implementation: "etcd".into(),
            ..GlobalTopoServerRef::default()
        },
        ..CellSpec::default()
    }
}

fn observed(spec: CellSpec) -> Observed {
    let mut cell = Cell::new(&name::cell("minimal", &spec.name), spec);
    cell.metadata.labels = Some(label::of_cell("minimal", &cell.spec.name, Component::Cell));
    let cell = stored(cell, 1);
    Observed {
        owner: Owner::of(&cell).unwrap(),
        cluster: "minimal".to_owned(),
        global_topo: Some(Arc::new(serving(name::global_topo("minimal"), None))),
        local_topo: None,
        deployment: None,
        budget: None,
        pods: Vec::new(),
        shards: Vec::new(),
        shard_pods: Vec::new(),
        certificates: Mounted::default(),
        inherited: Inherited::default(),
        cell: Arc::new(cell),
    }
}

fn serving(name: String, owner: Option<&Owner>) -> TopoServer {
    let mut server = TopoServer::new(&name, TopoServerSpec::default());
    if let Some(owner) = owner {
        server.metadata = owner.meta(name, label::Labels::new());
    }
    let conditions = shared::condition::ConditionSet::continuing(&[], Some(1), now());
    server.status = Some(shared::api::v1alpha1::TopoServerStatus {
        conditions: conditions.set("Available", true, "Quorum", "").finish(),
        ..shared::api::v1alpha1::TopoServerStatus::default()
    });
    stored(server, 1)
}

fn run(observed: &Observed) -> Plan<CellStatus> {
    decide(observed, &settings(), now()).unwrap()
}

fn gateway(plan: &Plan<CellStatus>) -> Option<Deployment> {
    applied(plan, "minimal-zone-a-multigateway-0ccc2e8b")
}

fn args(plan: &Plan<CellStatus>) -> String {
    let pod = gateway(plan).and_then(|d| d.spec).and_then(|spec| spec.template.spec).unwrap();
    pod.containers[0].args.clone().unwrap().join(" ")
}

#[test]
fn a_plain_cell() {
    let observed = observed(spec());
    let plan = run(&observed);
    assert_owned(&plan, "minimal", &observed.owner.uid);
    insta::assert_yaml_snapshot!(writes(&plan));
}

#[test]
fn a_cell_with_everything() {
    let mut spec = spec();
    spec.zone = Some("eu-1a".into());
    spec.multigateway.replicas = Some(2);
    spec.multigateway.pod_annotations =
        [("prometheus.io/scrape", "true"), ("team", "a")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    spec.multigateway.buffer = Some(Box::new(BufferConfig {
        enabled: Some(false),
        window: Some("20s".into()),
        max_failover_duration: Some("30s".into()),
        min_time_between_failovers: Some("1m0s".into()),
        size: Some(2000),
        drain_concurrency: Some(4),
    }));
    spec.internal_tls = Some(InternalTlsConfig { enabled: Some(true) });
    spec.cert_common_name = Some("db.example.com".into());
    spec.topo_server = Some(LocalTopoServerSpec { etcd: Some(EtcdSpec::default()), external: None });
    let mut observed = observed(spec);
    observed.local_topo = Some(Arc::new(serving(name::local_topo(&observed.owner.name), Some(&observed.owner))));
    let plan = run(&observed);
    assert_owned(&plan, "minimal", &observed.owner.uid);
    insta::assert_yaml_snapshot!(writes(&plan));
}

#[test]
fn starting_a_gateway_does_not_depend_on_poolers() {
    let plan = run(&observed(spec()));
    let pod = gateway(&plan).and_then(|d| d.spec).and_then(|spec| spec.template.spec).unwrap();
    let startup = pod.containers[0].startup_probe.clone().and_then(|probe| probe.http_get).unwrap();
    assert_eq!(startup.path.as_deref(), Some("/live"));
}

#[test]
fn unset_buffer_keys_give_no_flag() {
    assert!(args(&run(&observed(spec()))).ends_with("--lameduck-period 5s --buffer-enabled=true"));
    let mut bare = spec();
    bare.multigateway.buffer = None;
    assert!(!args(&run(&observed(bare))).contains("--buffer"));
}

#[test]
fn gateways_wait_for_their_certificates_and_are_replaced_with_them() {
    let mut spec = spec();
    spec.internal_tls = Some(InternalTlsConfig { enabled: Some(true) });
    let mut observed = observed(spec);
    observed.certificates.missing = Some("Secret x does not exist".to_owned());
    let plan = run(&observed);
    assert!(gateway(&plan).is_none());
    let status = plan.status.unwrap();
    let ready = find(&status.conditions, "Ready").unwrap();
    assert_eq!(
        (ready.reason.as_str(), ready.message.as_str()),
        ("CertificatesMissing", "waiting for certificates: Secret x does not exist")
    );

    let digest = |plan: &Plan<CellStatus>| {
        let template = gateway(plan).unwrap().spec.unwrap().template;
        template.metadata.unwrap().annotations.unwrap().get(annotation::CERTIFICATES_HASH).cloned()
    };
    observed.certificates = Mounted { digest: Some("one".to_owned()), missing: None };
    let first = run(&observed);
    assert_eq!(digest(&first).as_deref(), Some("one"));
    observed.deployment = gateway(&first).map(rolled_out);
    observed.certificates = Mounted { digest: None, missing: Some("Secret x does not exist".to_owned()) };
    assert_eq!(gateway(&run(&observed)), gateway(&first), "gateways that run stay as they are");
    observed.certificates = Mounted { digest: Some("two".to_owned()), missing: None };
    assert_eq!(digest(&run(&observed)).as_deref(), Some("two"));
}

#[test]
fn a_gateway_waits_for_a_local_topology() {
    let mut spec = spec();
    spec.topo_server = Some(LocalTopoServerSpec { etcd: Some(EtcdSpec::default()), external: None });
    let mut observed = observed(spec);
    let plan = run(&observed);
    assert!(gateway(&plan).is_none());
    assert!(applied::<TopoServer, _>(&plan, &name::local_topo(&observed.owner.name)).is_some());
    assert_eq!(plan.requeue, Requeue::After(WAIT_FOR_TOPOLOGY));
    let status = plan.status.unwrap();
    assert_eq!(find(&status.conditions, "Ready").map(|c| c.reason.as_str()), Some("LocalTopoServerNotReady"));

    let running = run(&self::observed(self::spec()));
    observed.deployment = gateway(&running).map(rolled_out);
    assert!(gateway(&run(&observed)).is_some(), "a gateway that runs follows its spec");
}

#[test]
fn a_gateway_waits_for_the_clusters_own_topology_but_not_for_one_of_others() {
    let mut waiting = observed(spec());
    waiting.global_topo = None;
    assert!(gateway(&run(&waiting)).is_none());
    let mut spec = spec();
    spec.global_topo_server.address = "http://etcd.infra:2379".into();
    let mut external = observed(spec);
    external.global_topo = None;
    assert!(gateway(&run(&external)).is_some());
}

#[test]
fn a_foreign_object_with_the_name_of_the_local_topology_is_an_error_only_when_one_is_wanted() {
    let mut observed = observed(spec());
    observed.local_topo = Some(Arc::new(serving(name::local_topo(&observed.owner.name), None)));
    let plan = run(&observed);
    assert!(!outline(&plan).iter().any(|line| line.contains("TopoServer")));
    assert!(gateway(&plan).is_some());

    let mut wanted = (*observed.cell).clone();
    wanted.spec.topo_server = Some(LocalTopoServerSpec { etcd: Some(EtcdSpec::default()), external: None });
    observed.cell = Arc::new(wanted);
    let plan = run(&observed);
    assert!(!outline(&plan).iter().any(|line| line.contains("TopoServer")));
    assert_eq!(plan.status.and_then(|status| status.phase), Some(Phase::Degraded));
    assert_eq!(plan.notes.len(), 1);
}

#[test]
fn a_local_topology_that_is_no_longer_wanted_goes() {
    let mut observed = observed(spec());
    observed.local_topo = Some(Arc::new(serving(name::local_topo(&observed.owner.name), Some(&observed.owner))));
    assert!(outline(&run(&observed)).iter().any(|line| line.starts_with("delete TopoServer prod/minimal-zone-a")));
}

#[test]
fn a_budget_goes_when_a_single_gateway_is_left() {
    let mut two = spec();
    two.multigateway.replicas = Some(2);
    let budget: PodDisruptionBudget =
        applied(&run(&observed(two)), &name::gateway_budget("minimal", "zone-a")).unwrap();
    let mut one = observed(spec());
    one.budget = Some(Arc::new(budget));
    assert!(outline(&run(&one)).iter().any(|line| line.starts_with("delete PodDisruptionBudget")));
}

#[test]
fn status_follows_the_gateways_and_is_a_fixed_point() {
    let mut observed = observed(spec());
    let first = run(&observed);
    let status = first.status.clone().unwrap();
    assert_eq!((status.phase, is_true(&status.conditions, "Available")), (Some(Phase::Progressing), false));
    assert_eq!(status.gateway_service_name.as_deref(), Some("minimal-zone-a-multigateway-0ccc2e8b"));

    observed.deployment = gateway(&first).map(rolled_out);
    let plan = run(&observed);
    assert_eq!(plan, run(&observed));
    let healthy = plan.status.clone().unwrap();
    assert_eq!((healthy.phase, plan.requeue), (Some(Phase::Healthy), Requeue::Settled));
    assert_eq!((healthy.gateway_replicas, healthy.gateway_ready_replicas), (1, 1));
    assert!(is_true(&healthy.conditions, "Ready"));

    let mut cell = (*observed.cell).clone();
    cell.status = Some(healthy.clone());
    observed.cell = Arc::new(cell);
    let later = now() + jiff::SignedDuration::from_mins(5);
    assert_eq!(decide(&observed, &settings(), later).unwrap().status, Some(healthy));
}

#[test]
fn a_cell_without_gateways_is_healthy_and_not_available() {
    let mut spec = spec();
    spec.multigateway.replicas = Some(0);
    let mut observed = observed(spec);
    observed.deployment = gateway(&run(&observed)).map(rolled_out);
    let status = run(&observed).status.unwrap();
    assert_eq!(status.phase, Some(Phase::Healthy));
    assert!(!is_true(&status.conditions, "Available"));
}

#[test]
fn pods_carry_the_project_or_the_cluster() {
    let mut observed = observed(spec());
    let project = |plan: &Plan<CellStatus>| {
        let template = gateway(plan).and_then(|d| d.spec).and_then(|spec| spec.template.metadata).unwrap();
        template.annotations.unwrap()[annotation::PROJECT_REF].clone()
    };
    assert_eq!(project(&run(&observed)), "minimal");
    let mut cell = (*observed.cell).clone();
    cell.metadata.annotations = Some([(annotation::PROJECT_REF.to_owned(), "proj-42".to_owned())].into());
    observed.cell = Arc::new(cell);
    assert_eq!(project(&run(&observed)), "proj-42");
}

#[test]
fn the_service_leads_to_every_port_of_the_gateway() {
    let service: Service = applied(&run(&observed(spec())), "minimal-zone-a-multigateway-0ccc2e8b").unwrap();
    let ports: Vec<i32> = service.spec.and_then(|spec| spec.ports).unwrap().iter().map(|port| port.port).collect();
    assert_eq!(ports, [15100, 15170, 5432, 5433]);
}

/// A cell that runs and is asked to leave.
fn leaving() -> Observed {
    let mut observed = observed(spec());
    observed.deployment = gateway(&run(&observed)).map(rolled_out);
    let mut cell = (*observed.cell).clone();
    cell.metadata.annotations =
        Some([(annotation::PENDING_DELETION.to_owned(), "2026-01-02T03:04:05Z".to_owned())].into());
    observed.cell = Arc::new(cell);
    observed
}

fn ready_for_deletion(plan: &Plan<CellStatus>) -> (String, String) {
    let status = plan.status.clone().unwrap();
    assert_eq!(status.phase, Some(Phase::Progressing));
    let condition = find(&status.conditions, leaving::READY_FOR_DELETION).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

fn replicas(plan: &Plan<CellStatus>) -> Option<i32> {
    gateway(plan).and_then(|deployment| deployment.spec).and_then(|spec| spec.replicas)
}

fn said(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn gateways_of_a_cell_on_its_way_out_serve_until_the_shards_have_left_it() {
    let mut observed = leaving();
    let pool = PoolSpec { cells: vec!["zone-a".into()], ..PoolSpec::default() };
    let spec = ShardSpec { pools: [("default".to_owned(), pool)].into(), ..ShardSpec::default() };
    observed.shards = vec![Arc::new(stored(Shard::new("shard-1", spec), 1))];
    let plan = run(&observed);
    assert_eq!(ready_for_deletion(&plan), said("False", "ShardsUseCell"));
    assert_eq!((replicas(&plan), plan.requeue), (Some(1), Requeue::After(WAIT_FOR_SHARDS)));

    observed.shards.clear();
    let mut pod = Pod::default();
    pod.metadata.name = Some("pod-1".to_owned());
    pod.metadata.labels = Some(label::of_cell("minimal", "zone-a", Component::ShardPool));
    observed.shard_pods = vec![Arc::new(pod)];
    let plan = run(&observed);
    assert_eq!((ready_for_deletion(&plan), replicas(&plan)), (said("False", "PodsRemain"), Some(1)));

    observed.shard_pods.clear();
    let plan = run(&observed);
    assert_eq!((ready_for_deletion(&plan), replicas(&plan)), (said("False", "GatewaysStopping"), Some(0)));
}

#[test]
fn a_cell_without_gateways_and_shards_is_ready_for_deletion_and_keeps_its_own_topology() {
    let mut observed = leaving();
    let mut cell = (*observed.cell).clone();
    cell.spec.topo_server = Some(LocalTopoServerSpec { etcd: Some(EtcdSpec::default()), external: None });
    observed.cell = Arc::new(cell);
    let stopped = gateway(&run(&observed)).map(rolled_out);
    assert_eq!(stopped.as_ref().and_then(|d| d.spec.as_ref()).and_then(|spec| spec.replicas), Some(0));
    observed.deployment = stopped;
    let mut pod = Pod::default();
    pod.metadata.name = Some("gateway-1".to_owned());
    observed.pods = vec![Arc::new(pod)];
    assert_eq!(ready_for_deletion(&run(&observed)), said("False", "GatewaysStopping"));
    observed.pods.clear();
    let plan = run(&observed);
    assert_eq!(ready_for_deletion(&plan), said("True", "Drained"));
    // Its records can be removed only through it; it goes with the Cell.
    assert!(applied::<TopoServer, _>(&plan, &name::local_topo(&observed.owner.name)).is_some());
    assert!(!outline(&plan).iter().any(|line| line.starts_with("delete TopoServer")));

    observed.deployment = None;
    let plan = run(&observed);
    assert_eq!(ready_for_deletion(&plan), said("True", "Drained"));
    assert!(gateway(&plan).is_none(), "gateways that never ran are not made for the way out");
}

#[test]
fn a_cell_whose_removal_is_called_off_gets_its_gateways_back() {
    let mut observed = leaving();
    observed.deployment = gateway(&run(&observed)).map(rolled_out);
    let mut cell = (*observed.cell).clone();
    cell.metadata.annotations = None;
    cell.status = run(&observed).status;
    observed.cell = Arc::new(cell);
    let plan = run(&observed);
    assert_eq!(replicas(&plan), Some(1));
    assert!(find(&plan.status.unwrap().conditions, leaving::READY_FOR_DELETION).is_none());
}

#[test]
fn gateways_reach_a_secured_topology() {
    let mut spec = spec();
    spec.global_topo_server.ca_secret = Some("etcd-ca".into());
    spec.global_topo_server.client_cert_secret = Some("etcd-client".into());
    let plan = run(&observed(spec));
    assert!(args(&plan).contains("--topo-etcd-tls-ca=/etc/multigres/topo-ca/ca.crt --topo-etcd-tls-cert="));
    let pod = gateway(&plan).and_then(|d| d.spec).and_then(|spec| spec.template.spec).unwrap();
    assert_eq!(pod.volumes.map(|volumes| volumes.len()), Some(2));
    assert_eq!(pod.containers[0].volume_mounts.as_ref().map(Vec::len), Some(2));
    assert!(!args(&run(&observed(self::spec()))).contains("--topo-etcd"));
}

/// A pod that the scheduler has found no node for since long before.
fn unplaced() -> Arc<Pod> {
    let pod = serde_json::json!({ "metadata": { "name": "stray" }, "status": { "phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
    }] } });
    Arc::new(serde_json::from_value(pod).unwrap())
}

#[test]
fn a_gateway_without_a_node_is_named() {
    let mut observed = observed(spec());
    observed.pods = vec![unplaced()];
    let status = run(&observed).status.unwrap();
    assert_eq!(status.phase, Some(Phase::Progressing));
    assert!(status.message.unwrap().contains("pod stray finds no node: 0/3 nodes are available"));
}

#[test]
fn a_change_of_the_phase_is_told_once() {
    use crate::runner::Kind as _;
    let mut observed = observed(spec());
    let status = run(&observed).status;
    let change = |observed: &Observed| observed.cell.phase_change(&run(observed).status.unwrap());
    assert_eq!(change(&observed).map(|note| (note.warning, note.reason)), Some((false, "PhaseChange".into())));
    Arc::make_mut(&mut observed.cell).status = status;
    assert_eq!(change(&observed), None);
}
