use shared::{
    api::v1alpha1::{CellStatus, TableGroupStatus, TopoServerStatus},
    condition::{ConditionSet, find, is_true},
    resolve::Templates,
};

use super::*;
use crate::{
    upstream::{DatabaseRecord, Listing},
    workload::fixture::{applied, assert_owned, now, outline, rolled_out, settings, stored, writes},
};

mod backups;
mod exposure;
mod leaving;
mod pinned;
mod places;
mod removal;
mod storage;

const MINIMAL: &str = "
metadata: {name: minimal, namespace: prod}
spec:
  cells:
    - {name: zone-a, zone: eu-1a}
";

const THREE_CELLS: &str = "
metadata:
  name: three
  namespace: prod
  annotations: {multigres.com/project-ref: proj-42}
spec:
  images: {imagePullPolicy: Always, imagePullSecrets: [{name: regcred}]}
  postgresPasswordSecretRef: {name: mine, key: pw}
  durabilityPolicy: MULTI_CELL_AT_LEAST_2
  backup: {type: s3, s3: {bucket: b, region: r}}
  externalGateway: {enabled: true, externalIPs: [198.51.100.10], annotations: {a.example.com/b: c}}
  multiadmin: {spec: {replicas: 2}}
  observability: {otlpEndpoint: 'http://otel:4318', samplingConfigRef: {name: sampling}}
  internalTLS: {enabled: true}
  cells:
    - {name: a, zoneId: use1-az1}
    - {name: b, zoneId: use1-az2}
    - name: c
      zoneId: use1-az3
      spec: {localTopoServer: {etcd: {replicas: 1}}}
";

const EXTERNAL: &str = "
metadata: {name: ext, namespace: prod}
spec:
  globalTopoServer:
    external: {endpoints: ['http://e0:2379', 'http://e1:2379'], rootPath: /my/root}
  cells: [{name: a, zone: z}]
";

/// A cluster as the server stores it, and what a first pass sees of it.
fn observed(yaml: &str) -> Observed {
    let mut cluster: MultigresCluster = parse(yaml);
    cluster.metadata.finalizers = Some(vec![CLUSTER_FINALIZER.to_owned()]);
    if let Some(record) = Adopted::of(&cluster, &settings()).record {
        cluster.annotations_mut().insert(annotation::APPLIED_IMAGES.to_owned(), record);
    }
    let cluster = stored(cluster, 1);
    let owner = Owner::of(&cluster).unwrap();
    let adopted = Adopted::of(&cluster, &settings());
    let resolved = observe::resolved(&cluster, &owner, &Templates::default(), &adopted, &settings()).unwrap();
    let external = resolved.managed_topo().is_none();
    Observed {
        external_topology: external.then(|| topology::address(&resolved.global_topo_ref)),
        retained_topology: None,
        leftovers: Leftovers::default(),
        registrations: Vec::new(),
        own: observe::own(&cluster, &owner, &Templates::default(), &adopted),
        templates: BTreeMap::new(),
        peers: Vec::new(),
        adopted,
        resolved: Ok(resolved),
        password: Password::Present,
        password_secret: None,
        certificates: Certificates::default(),
        topology: Sight::NotServing,
        topo_servers: Vec::new(),
        cells: Vec::new(),
        table_groups: Vec::new(),
        shards: Vec::new(),
        admin: None,
        web: None,
        gateway_service: None,
        web_service: None,
        pods: Vec::new(),
        claims: Vec::new(),
        missing_classes: Vec::new(),
        inherited: Inherited::default(),
        cluster: Arc::new(cluster),
        owner,
    }
}

fn parse(yaml: &str) -> MultigresCluster {
    let yaml = format!("apiVersion: multigres.com/v1alpha1\nkind: MultigresCluster\n{yaml}");
    serde_saphyr::from_str(&yaml).unwrap()
}

fn run(observed: &Observed) -> Plan<MultigresClusterStatus> {
    decide(observed, &settings(), now()).unwrap()
}

fn available(generation: Option<i64>) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    ConditionSet::continuing(&[], generation, now()).set("Available", true, "Test", "").finish()
}

/// Everything that the plan applies exists and is healthy, and the topology holds nothing.
fn healthy_children(observed: &mut Observed) {
    let plan = run(observed);
    let name = observed.owner.name.clone();
    let mut servers = Vec::new();
    if let Some(mut server) = applied::<TopoServer, _>(&plan, &name::global_topo(&name)) {
        server.status = Some(TopoServerStatus {
            observed_generation: Some(1),
            phase: Some(Phase::Healthy),
            conditions: available(Some(1)),
            ..TopoServerStatus::default()
        });
        servers.push(Arc::new(server));
    }
    let resolved = observed.resolved.clone().unwrap();
    let cells = resolved.cells.iter().map(|cell| {
        let mut cell: Cell = applied(&plan, &name::cell(&name, &cell.name)).unwrap();
        cell.status = Some(CellStatus {
            observed_generation: Some(1),
            phase: Some(Phase::Healthy),
            conditions: available(Some(1)),
            gateway_replicas: 1,
            gateway_ready_replicas: 1,
            ..CellStatus::default()
        });
        Arc::new(cell)
    });
    let groups = resolved.table_groups().map(|group| {
        let name = name::table_group(&name, &group.database_name, &group.table_group_name);
        let mut group: TableGroup = applied(&plan, &name).unwrap();
        group.status = Some(TableGroupStatus {
            observed_generation: Some(1),
            phase: Some(Phase::Healthy),
            conditions: available(Some(1)),
            ready_shards: 1,
            total_shards: 1,
            ..TableGroupStatus::default()
        });
        Arc::new(group)
    });
    observed.cells = cells.collect();
    observed.table_groups = groups.collect();
    observed.topo_servers = servers;
    observed.admin = applied(&plan, &name::multiadmin(&name)).map(rolled_out);
    observed.web = applied(&plan, &name::multiadmin_web(&name)).map(rolled_out);
    observed.gateway_service = applied(&plan, &name::cluster_gateway(&name)).map(Arc::new);
    observed.web_service = applied(&plan, &name::multiadmin_web(&name)).map(Arc::new);
    observed.topology = seen(&[], &[]);
}

fn seen(cells: &[CellRecord], databases: &[DatabaseRecord]) -> Sight {
    Sight::Seen {
        cells: Listing { records: cells.to_vec(), malformed: Vec::new() },
        databases: Listing { records: databases.to_vec(), malformed: Vec::new() },
    }
}

/// The topology holds what the cluster wants in it.
fn register_all(observed: &mut Observed) {
    let resolved = observed.resolved.clone().unwrap();
    let (resolved, _) = repository::settle(observed, &resolved);
    let wanted = observed.wanted_records(&resolved, now());
    observed.topology = seen(&wanted.cells, &wanted.databases);
}

fn healthy(yaml: &str) -> Observed {
    let mut observed = observed(yaml);
    healthy_children(&mut observed);
    register_all(&mut observed);
    observed
}

fn phase(observed: &Observed) -> Option<Phase> {
    run(observed).status.and_then(|status| status.phase)
}

fn edit<K: Clone>(list: &mut [Arc<K>], change: impl FnOnce(&mut K)) {
    let mut object = (*list[0]).clone();
    change(&mut object);
    list[0] = Arc::new(object);
}

#[test]
fn a_minimal_cluster() {
    let observed = observed(MINIMAL);
    let plan = run(&observed);
    assert_owned(&plan, "minimal", &observed.owner.uid);
    insta::assert_yaml_snapshot!(writes(&plan));
}

#[test]
fn a_cluster_of_three_cells() {
    let observed = observed(THREE_CELLS);
    let plan = run(&observed);
    assert_owned(&plan, "three", &observed.owner.uid);
    insta::assert_yaml_snapshot!(writes(&plan));
}

#[test]
fn a_cluster_with_an_external_topology() {
    let observed = observed(EXTERNAL);
    let plan = run(&observed);
    assert_owned(&plan, "ext", &observed.owner.uid);
    assert!(!outline(&plan).iter().any(|line| line.contains("TopoServer")));
    insta::assert_yaml_snapshot!(writes(&plan));
}

#[test]
fn status_of_a_healthy_cluster() {
    insta::assert_yaml_snapshot!(run(&healthy(THREE_CELLS_SERVING)).status);
}

/// The same without a local topology, whose TopoServer belongs to its cell.
const THREE_CELLS_SERVING: &str = "
metadata: {name: three, namespace: prod}
spec:
  backup: {type: s3, s3: {bucket: b, region: r}}
  externalGateway: {enabled: true, externalIPs: [198.51.100.10]}
  cells: [{name: a}, {name: b}, {name: c}]
";

#[test]
fn names_of_the_longest_cluster_fit() {
    let yaml = "
metadata: {name: abcdefghijklmnopqrstuvwxy, namespace: prod}
spec:
  cells: [{name: abcdefghijklmnopqrstuvwxyz0123, zone: z}]
";
    let observed = observed(yaml);
    assert_owned(&run(&observed), "abcdefghijklmnopqrstuvwxy", &observed.owner.uid);
}

#[test]
fn the_finalizer_comes_first_and_keeps_those_of_others() {
    let mut observed = observed(MINIMAL);
    let mut cluster = (*observed.cluster).clone();
    cluster.metadata.finalizers = Some(vec!["example.com/other".to_owned()]);
    observed.cluster = Arc::new(cluster);
    let Action::Merge { patch, .. } = run(&observed).writes.remove(0).action else { panic!("no merge") };
    assert_eq!(patch["metadata"]["finalizers"], json!(["example.com/other", CLUSTER_FINALIZER]));
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
}

#[test]
fn a_healthy_cluster_is_settled_and_its_status_is_a_fixed_point() {
    for yaml in [MINIMAL, EXTERNAL, THREE_CELLS_SERVING] {
        let mut observed = healthy(yaml);
        let plan = run(&observed);
        assert_eq!(plan, run(&observed));
        assert_eq!((plan.requeue, plan.notes.len()), (Requeue::Settled, 0));
        let status = plan.status.unwrap();
        assert_eq!(status.phase, Some(Phase::Healthy), "{:?}", status.message);
        assert!(is_true(&status.conditions, "Available"));
        let mut cluster = (*observed.cluster).clone();
        cluster.status = Some(status.clone());
        observed.cluster = Arc::new(cluster);
        let later = now() + jiff::SignedDuration::from_mins(5);
        assert_eq!(decide(&observed, &settings(), later).unwrap().status, Some(status));
    }
}

#[test]
fn healthy_needs_every_child_with_a_current_status() {
    type Case = (&'static str, fn(&mut Observed), Phase);
    let cases: [Case; 9] = [
        ("topology server absent", |o| o.topo_servers.clear(), Phase::Progressing),
        ("cell absent", |o| o.cells.clear(), Phase::Progressing),
        ("table group absent", |o| o.table_groups.clear(), Phase::Progressing),
        ("multiadmin absent", |o| o.admin = None, Phase::Progressing),
        ("web absent", |o| o.web = None, Phase::Progressing),
        ("stale cell", |o| edit(&mut o.cells, |c| c.metadata.generation = Some(2)), Phase::Progressing),
        ("not registered", |o| o.topology = seen(&[], &[]), Phase::Progressing),
        (
            "degraded group",
            |o| edit(&mut o.table_groups, |g| g.status.as_mut().unwrap().phase = Some(Phase::Degraded)),
            Phase::Degraded,
        ),
        (
            "degraded but stale group",
            |o| {
                edit(&mut o.table_groups, |g| {
                    g.status.as_mut().unwrap().phase = Some(Phase::Degraded);
                    g.metadata.generation = Some(2);
                });
            },
            Phase::Progressing,
        ),
    ];
    for (what, change, expected) in cases {
        let mut observed = healthy(MINIMAL);
        change(&mut observed);
        assert_eq!(phase(&observed), Some(expected), "{what}");
    }
}

#[test]
fn an_unreachable_topology_holds_back_nothing_else() {
    let failed = Sight::Failed { reason: "Unavailable".into(), message: "refused".into() };
    let mut first = observed(MINIMAL);
    let all = outline(&run(&first));
    first.topology = failed.clone();
    assert_eq!(outline(&run(&first)), all);
    let mut running = healthy(MINIMAL);
    running.topology = failed;
    let plan = run(&running);
    assert_eq!(plan.requeue, Requeue::After(TRY_AGAIN));
    let status = plan.status.unwrap();
    let reachable = find(&status.conditions, "TopologyReachable").unwrap();
    assert_eq!((reachable.status.as_str(), reachable.reason.as_str()), ("False", "Unavailable"));
    assert_ne!(status.phase, Some(Phase::Healthy));
}

#[test]
fn a_cell_that_waits_for_its_local_topology_does_not_hold_back_the_others() {
    let mut observed = observed(THREE_CELLS);
    healthy_children(&mut observed);
    let lines = outline(&run(&observed));
    let records: Vec<&String> = lines.iter().filter(|line| line.starts_with("topology")).collect();
    assert_eq!(records.len(), 3, "{records:?}");
    assert!(records[0].contains("PutCell") && records[2].contains("PutDatabase"));
    assert!(!records.iter().any(|line| line.contains("PutCell(CellRecord { name: \"c\"")));

    let cell = name::cell("three", "c");
    let mut local = (*observed.topo_servers[0]).clone();
    local.metadata.name = Some(name::local_topo(&cell));
    observed.topo_servers.push(Arc::new(local));
    let records = observed.wanted_records(observed.resolved.as_ref().unwrap(), now());
    assert!(records.waiting.is_empty());
    let address = format!("{}.prod.svc:2379", name::local_topo(&cell));
    assert_eq!((&records.cells[2].server_addresses[0], records.cells[2].root.as_str()), (&address, "/multigres/c"));
}

#[test]
fn records_of_a_cell_without_its_own_topology_name_the_global_one() {
    let observed = observed(MINIMAL);
    let wanted = observed.wanted_records(observed.resolved.as_ref().unwrap(), now());
    assert_eq!(wanted.cells[0].server_addresses, ["minimal-global-topo.prod.svc:2379"]);
    assert_eq!(wanted.cells[0].root, "/multigres/global");
    let external = self::observed(EXTERNAL);
    let wanted = external.wanted_records(external.resolved.as_ref().unwrap(), now());
    assert_eq!(wanted.cells[0].server_addresses, ["http://e0:2379", "http://e1:2379"]);
    assert_eq!((wanted.cells[0].root.as_str(), wanted.databases[0].cells.len()), ("/my/root", 1));
}

#[test]
fn a_switch_to_an_external_topology_removes_the_clusters_own_server_alone() {
    let mut observed = observed(EXTERNAL);
    let spec = shared::api::v1alpha1::TopoServerSpec::default();
    let own = children::topo_server(&observed.owner, &spec, &Annotations::new());
    let mut local = own.clone();
    local.metadata.name = Some("ext-a-topo".into());
    observed.topo_servers = vec![Arc::new(stored(own, 1)), Arc::new(stored(local, 1))];
    let deleted: Vec<String> = outline(&run(&observed)).into_iter().filter(|line| line.starts_with("delete")).collect();
    assert_eq!(deleted, ["delete TopoServer prod/ext-global-topo"]);
}

#[test]
fn a_refused_spec_keeps_what_was_accepted_last_and_says_so() {
    let mut observed = healthy(MINIMAL);
    let before = run(&observed).status.unwrap();
    let mut cluster = (*observed.cluster).clone();
    cluster.status = Some(before.clone());
    observed.cluster = Arc::new(cluster);
    let refusal = |message: &str| Refusal { reason: "TemplateMissing".into(), message: message.into() };
    observed.resolved = Err(vec![refusal("one"), refusal("two")]);
    let accepted: BTreeMap<String, _> = writes_by_name(&run(&healthy(MINIMAL)));
    let plan = run(&observed);
    for (object, value) in writes_by_name(&plan) {
        assert_eq!(accepted.get(&object), Some(&value), "{object}");
    }
    assert_eq!(plan.notes.len(), 2);
    let status = plan.status.unwrap();
    let accepted = find(&status.conditions, "SpecAccepted").unwrap();
    assert_eq!((accepted.status.as_str(), accepted.reason.as_str()), ("False", "TemplateMissing"));
    assert_eq!(accepted.message, "one; two; what exists stays as it was accepted last");
    assert_eq!(status.phase, Some(Phase::Degraded));
    assert_eq!((status.cells, status.images), (before.cells, before.images));
    assert!(is_true(&status.conditions, "Available"), "what was known stays");
}

/// What a plan applies, by kind and name.
fn writes_by_name(plan: &Plan<MultigresClusterStatus>) -> BTreeMap<String, serde_json::Value> {
    let object = |write: &crate::plan::Write| match &write.action {
        Action::Apply(object) => Some((format!("{} {}", object.gvk.kind, object.name), object.value.clone())),
        _ => None,
    };
    plan.writes.iter().filter_map(object).collect()
}

#[test]
fn a_spec_is_judged_without_admission() {
    let refused = |spec: &str| {
        let cluster = stored(parse(&format!("metadata: {{name: bad, namespace: prod}}\nspec: {spec}")), 1);
        let owner = Owner::of(&cluster).unwrap();
        observe::resolved(&cluster, &owner, &Templates::default(), &Adopted::of(&cluster, &settings()), &settings())
            .unwrap_err()
    };
    let missing = refused("{cells: [{name: a, cellTemplate: nowhere}], templateDefaults: {coreTemplate: neither}}");
    assert!(missing.len() >= 2, "all errors at once: {missing:?}");
    assert!(missing.iter().all(|refusal| refusal.reason == "TemplateMissing"));
    let cells = "{cells: [{name: a, spec: {localTopoServer: {etcd: {replicas: 2}}}}]}";
    assert_eq!(refused(cells)[0].reason, "InvalidSpec");
}

#[test]
fn a_password_is_created_once_and_outlives_the_cluster() {
    let mut observed = observed(MINIMAL);
    observed.password = Password::Fresh("p4ssw0rd".into());
    let plan = run(&observed);
    let secret = writes(&plan).into_iter().find(|write| write.get("create").is_some()).unwrap();
    assert_eq!(secret["create"]["metadata"]["name"], "minimal-postgres-password");
    assert_eq!(secret["create"]["metadata"]["ownerReferences"], serde_json::Value::Null);
    assert_eq!(secret["create"]["metadata"]["labels"]["app.kubernetes.io/managed-by"], "multigres-operator");
    observed.password = Password::Present;
    assert!(!outline(&run(&observed)).iter().any(|line| line.starts_with("create")));
}

#[test]
fn a_lost_password_is_reported_with_its_remedy_and_not_replaced() {
    for (password, reason) in [
        (Password::Lost, "DeletedWithData"),
        (Password::NotProvided { wanted: "mine with key pw".into() }, "NotProvided"),
    ] {
        let mut observed = healthy(MINIMAL);
        observed.password = password;
        let plan = run(&observed);
        assert!(!outline(&plan).iter().any(|line| line.starts_with("create")));
        assert_eq!(plan.notes.len(), 1);
        let status = plan.status.unwrap();
        assert_eq!(find(&status.conditions, "PasswordSecretMissing").map(|c| c.reason.as_str()), Some(reason));
        assert_eq!(status.phase, Some(Phase::Degraded));
    }
}

#[test]
fn a_cluster_without_cells_says_so() {
    let observed = observed("metadata: {name: empty, namespace: prod}\nspec: {}");
    let status = run(&observed).status.unwrap();
    assert!(is_true(&status.conditions, "NoCells") && !is_true(&status.conditions, "Available"));
    assert_eq!(status.phase, Some(Phase::Initializing));
}

#[test]
fn filesystem_backups_per_cell_degrade_a_cluster_of_several_cells() {
    let yaml = "
metadata: {name: local, namespace: prod}
spec:
  cells: [{name: a}, {name: b}]
";
    let mut observed = healthy(yaml);
    observed.topo_servers.truncate(1);
    let status = run(&observed).status.unwrap();
    assert!(is_true(&status.conditions, "CellLocalRepository"));
    assert_eq!(status.phase, Some(Phase::Degraded));
}

#[test]
fn exposure_needs_an_address_and_somebody_behind_it() {
    let condition = |observed: &Observed| {
        let status = run(observed).status.unwrap();
        let reason = find(&status.conditions, "GatewayExternalReady").map(|c| c.reason.clone());
        (reason.unwrap_or_default(), status.gateway.map(|gateway| gateway.external_endpoint).unwrap_or_default())
    };
    let mut observed = healthy(THREE_CELLS_SERVING);
    assert_eq!(condition(&observed), ("EndpointReady".to_owned(), "198.51.100.10".to_owned()));
    observed.cells.clear();
    assert_eq!(condition(&observed).0, "NoReadyGateways");
    observed.gateway_service = None;
    assert_eq!(condition(&observed).0, "AwaitingEndpoint");
    assert_eq!(condition(&healthy(MINIMAL)), (String::new(), String::new()));
}

#[test]
fn the_web_page_knows_the_password_and_multiadmin_the_real_topology() {
    let plan = run(&observed(EXTERNAL));
    let pod = |name: &str| {
        let deployment: Deployment = applied(&plan, name).unwrap();
        deployment.spec.and_then(|spec| spec.template.spec).unwrap().containers.remove(0)
    };
    let env = pod("ext-multiadmin-web").env.unwrap();
    let password = env.iter().find(|variable| variable.name == "POSTGRES_PASSWORD").unwrap();
    let source = password.value_from.as_ref().and_then(|source| source.secret_key_ref.as_ref()).unwrap();
    assert_eq!((source.name.as_str(), source.key.as_str()), ("ext-postgres-password", "password"));
    let args = pod("ext-multiadmin").args.unwrap();
    assert!(args.contains(&"--topo-global-server-addresses=http://e0:2379,http://e1:2379".to_owned()), "{args:?}");
    assert!(args.contains(&"--topo-global-root=/my/root".to_owned()));
}

#[test]
fn images_that_are_all_pinned_are_explicit() {
    let yaml = "
metadata: {name: pinned, namespace: prod}
spec:
  images: {multigateway: g, multiorch: o, multipooler: p, multiadmin: a, multiadminWeb: w, postgres: d}
  cells: [{name: a}]
";
    let status = run(&observed(yaml)).status.unwrap();
    let images = status.images.unwrap();
    assert_eq!((images.source.to_string().as_str(), images.applied), ("explicit", None));
    let minimal = run(&observed(MINIMAL)).status.unwrap().images.unwrap();
    assert_eq!(minimal.available_revision.as_deref(), Some("51818592d94d"));
}

#[test]
fn the_secrets_of_an_external_topology_reach_every_component() {
    let external = "globalTopoServer: {external: {endpoints: ['https://e0:2379', 'https://e1:2379'], \
                    caSecret: etcd-ca, clientCertSecret: etcd-client, rootPath: /r}}";
    let yaml = format!("metadata: {{name: ext, namespace: prod}}\nspec: {{{external}, cells: [{{name: a}}]}}");
    let plan = run(&observed(&yaml));
    let cell: Cell = applied(&plan, &name::cell("ext", "a")).unwrap();
    let group: TableGroup = applied(&plan, &name::table_group("ext", "postgres", "default")).unwrap();
    for reference in [cell.spec.global_topo_server, group.spec.global_topo_server] {
        assert_eq!(reference.address, "https://e0:2379,https://e1:2379");
        assert_eq!(reference.ca_secret.as_deref(), Some("etcd-ca"));
        assert_eq!(reference.client_cert_secret.as_deref(), Some("etcd-client"));
    }
    let admin: Deployment = applied(&plan, &name::multiadmin("ext")).unwrap();
    let pod = admin.spec.and_then(|spec| spec.template.spec).unwrap();
    let args = pod.containers[0].args.clone().unwrap();
    assert!(args.contains(&"--topo-etcd-tls-cert=/etc/multigres/topo-client/tls.crt".to_owned()), "{args:?}");
    assert_eq!(pod.volumes.map(|volumes| volumes.len()), Some(2));
}

/// A pod that the scheduler has found no node for since long before.
fn unplaced() -> Arc<Pod> {
    let pod = serde_json::json!({ "metadata": { "name": "stray" }, "status": { "phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
    }] } });
    Arc::new(serde_json::from_value(pod).unwrap())
}

#[test]
fn a_pod_without_a_node_is_named() {
    let mut observed = healthy(MINIMAL);
    observed.cells.clear();
    observed.pods.push(unplaced());
    let status = run(&observed).status.unwrap();
    assert_eq!(status.phase, Some(Phase::Progressing));
    assert_eq!(status.message.as_deref(), Some("pod stray finds no node: 0/3 nodes are available"));
}

#[test]
fn a_child_whose_passes_fail_makes_its_cluster_degraded() {
    let mut observed = healthy(MINIMAL);
    let failing = |message: &str| {
        ConditionSet::continuing(&[], Some(1), now()).set("Reconciled", false, "Write", message).finish()
    };
    let told = |observed: &Observed| {
        let status = run(observed).status.unwrap();
        (status.phase, status.message.unwrap_or_default())
    };
    let mut shard = shared::api::v1alpha1::Shard::new("s", shared::api::v1alpha1::ShardSpec::default());
    shard.spec.shard_name = "0-inf".into();
    shard.status = Some(shared::api::v1alpha1::ShardStatus {
        conditions: failing("exceeded quota"),
        ..shared::api::v1alpha1::ShardStatus::default()
    });
    observed.shards.push(Arc::new(shard));
    assert_eq!(told(&observed), (Some(Phase::Degraded), "shard 0-inf: exceeded quota".to_owned()));
    edit(&mut observed.shards, |shard| shard.status.as_mut().unwrap().conditions.clear());
    assert_eq!(told(&observed).0, Some(Phase::Healthy));
    edit(&mut observed.cells, |cell| cell.status.as_mut().unwrap().conditions.extend(failing("no such class")));
    assert_eq!(told(&observed), (Some(Phase::Degraded), "cell zone-a: no such class".to_owned()));
}

#[test]
fn what_a_cluster_waits_for_is_named_after_a_while() {
    let mut observed = healthy(MINIMAL);
    edit(&mut observed.cells, |cell| {
        let status = cell.status.as_mut().unwrap();
        (status.phase, status.message) = (Some(Phase::Progressing), Some("Gateway is progressing".into()));
    });
    edit(&mut observed.table_groups, |group| {
        let status = group.status.as_mut().unwrap();
        (status.phase, status.message) = (Some(Phase::Progressing), Some("shard 0-inf: no backup".into()));
        status.conditions = ConditionSet::continuing(&[], Some(1), now()).set("Available", false, "Test", "").finish();
    });
    let status = |observed: &Observed, minutes| {
        decide(observed, &settings(), now() + jiff::SignedDuration::from_mins(minutes)).unwrap().status.unwrap()
    };
    let first = status(&observed, 0);
    assert_eq!(first.message.as_deref(), Some("Cluster is progressing"));
    Arc::make_mut(&mut observed.cluster).status = Some(first.clone());
    assert_eq!(status(&observed, 1), first, "a start costs no further write");
    let told = status(&observed, 2);
    assert_eq!(told.message.as_deref(), Some("table group default: shard 0-inf: no backup"));
    edit(&mut observed.table_groups, |group| group.metadata.generation = Some(2));
    let told = status(&observed, 2);
    assert_eq!(told.message.as_deref(), Some("table group default: says nothing about its current spec yet"));
}

#[test]
fn a_change_of_the_phase_is_told_once() {
    use crate::runner::Kind as _;
    let mut observed = healthy(MINIMAL);
    let change = |observed: &Observed| observed.cluster.phase_change(&run(observed).status.unwrap());
    let before = Arc::make_mut(&mut observed.cluster);
    before.status = None;
    assert!(change(&observed).is_some_and(|note| !note.warning));
    let status = run(&observed).status;
    Arc::make_mut(&mut observed.cluster).status = status;
    assert_eq!(change(&observed), None);
    edit(&mut observed.table_groups, |group| group.status.as_mut().unwrap().phase = Some(Phase::Degraded));
    assert!(change(&observed).is_some_and(|note| note.warning));
}

#[test]
fn a_table_group_that_left_the_spec_is_asked_and_then_deleted() {
    let mut observed = healthy(MINIMAL);
    let mut extra = (*observed.table_groups[0]).clone();
    extra.metadata.name = Some("extra".into());
    extra.metadata.annotations = None;
    extra.spec.table_group_name = "extra".into();
    observed.table_groups.push(Arc::new(extra));
    let about = |observed: &Observed| -> Vec<String> {
        outline(&run(observed)).into_iter().filter(|line| line.contains("extra")).collect()
    };
    let asks = about(&observed);
    assert!(asks.len() == 1 && asks[0].starts_with("merge TableGroup"), "{asks:?}");
    let pending = run(&observed).status.unwrap();
    assert!(find(&pending.conditions, "TableGroupRemovalPending").unwrap().message.starts_with("extra: "));
    let extra = Arc::make_mut(&mut observed.table_groups[1]);
    extra.metadata.annotations = Some([(annotation::PENDING_DELETION.to_owned(), "now".to_owned())].into());
    assert!(about(&observed).is_empty(), "it is waited for");
    let conditions = shared::condition::ConditionSet::continuing(&[], Some(1), now());
    Arc::make_mut(&mut observed.table_groups[1]).status.as_mut().unwrap().conditions =
        conditions.set("ReadyForDeletion", true, "Drained", "").finish();
    let gone = about(&observed);
    assert!(gone.len() == 1 && gone[0].starts_with("delete TableGroup"), "{gone:?}");
}
