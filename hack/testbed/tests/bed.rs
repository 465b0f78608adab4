//! Brings a real bed up, uses what it promises, and takes it down without a trace. Runs with `MULTIGRES_TESTBED_TESTS=1`, as root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use testbed::image::builtin::BUSYBOX_IMAGE;
use testbed::{Bed, ControlPlane, NodeMode, Options, bed, host, network, process};

const SWITCH: &str = "MULTIGRES_TESTBED_TESTS";

fn switched_on(test: &str) -> bool {
    let on = std::env::var(SWITCH).is_ok_and(|value| value == "1");
    if !on {
        eprintln!("SKIPPED {test}: it starts a cluster on this machine; set {SWITCH}=1 to run it");
    }
    on
}

fn kubectl(bed: &Bed, args: &[&str]) -> String {
    let mut command = bed.kubectl();
    command.args(args);
    process::output(&mut command).unwrap()
}

fn apply(bed: &Bed, manifest: &serde_json::Value) {
    let mut command = bed.kubectl();
    command.args(["apply", "-f", "-"]);
    process::feed(&mut command, &manifest.to_string()).unwrap();
}

/// What a bed could leave on the host, as lines that can be compared.
fn traces(dir: &Path, namespace: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    found.extend(host::mounts_below(dir).unwrap().iter().map(|point| format!("mount {}", point.display())));
    found.extend(host::cgroups("testbed-ittest-0").unwrap().iter().map(|group| format!("cgroup {}", group.display())));
    found.extend(host::pids_in_namespace(namespace).iter().map(|pid| format!("process {pid}")));
    for path in [dir, &network::namespace_file(namespace), &Path::new("/etc/netns").join(namespace)]
        .into_iter()
        .filter(|p| p.exists())
    {
        found.insert(format!("path {}", path.display()));
    }
    for pid in process::all_pids() {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&dir.display().to_string()) {
            found.insert(format!("command {pid} {}", String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}

/// What all beds of a machine share, and the last one to go restores.
fn shared_traces() -> BTreeSet<String> {
    let paths = ["/var/lib/kubelet", "/var/lib/cni", "/run/containerd", "/var/log/containers", "/run/xtables.lock"];
    let mut found: BTreeSet<String> =
        paths.iter().filter(|path| Path::new(path).exists()).map(|path| format!("path {path}")).collect();
    for name in ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"] {
        let value = std::fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap();
        found.insert(format!("setting {name} {}", value.trim()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(" /run/netns ")).map(|_| "mount /run/netns".to_owned()));
    found
}

fn claim(name: &str, class: &str, mode: &str) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": name },
        "spec": { "storageClassName": class, "accessModes": [mode], "resources": { "requests": { "storage": "1Mi" } } },
    })
}

#[test]
fn a_bed_runs_pods_with_storage_and_dns_and_leaves_nothing_behind() {
    if !switched_on("a_bed_runs_pods_with_storage_and_dns_and_leaves_nothing_behind") {
        return;
    }
    let name = "ittest";
    bed::down(name).unwrap();
    let home = testbed::home::Home::from_env().unwrap();
    let (dir, namespace) = (home.bed(name), format!("testbed-{name}"));
    let before = traces(&dir, &namespace);
    assert!(before.is_empty(), "something of an earlier run is left: {before:?}");
    let alone = !home.host_record().exists();
    let shared_before = shared_traces();

    let bed = Bed::up(&Options::new(name, NodeMode::Kubelet(1))).unwrap();
    let pid_of =
        |bed: &Bed| bed.components().unwrap().into_iter().map(|c| (c.name, c.process.pid)).collect::<BTreeSet<_>>();
    let pids = pid_of(&bed);
    let bed = Bed::up(&Options { name: bed.name().unwrap(), nodes: NodeMode::Auto }).unwrap();
    assert_eq!(pids, pid_of(&bed), "a second up starts nothing that runs");

    apply(&bed, &claim("own", "local-path", "ReadWriteOnce"));
    apply(&bed, &claim("shared", "local-path-rwx", "ReadWriteMany"));
    let script = "set -e; nslookup kubernetes.default.svc.cluster.local; echo kept > /own/file; cat /own/file; touch /shared/file";
    apply(
        &bed,
        &serde_json::json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "probe" },
            "spec": {
                "restartPolicy": "Never",
                "securityContext": { "runAsUser": 999, "runAsNonRoot": true },
                "containers": [{
                    "name": "probe",
                    "image": BUSYBOX_IMAGE,
                    "command": ["sh", "-c", script],
                    "volumeMounts": [{ "name": "own", "mountPath": "/own" }, { "name": "shared", "mountPath": "/shared" }],
                }],
                "volumes": [
                    { "name": "own", "persistentVolumeClaim": { "claimName": "own" } },
                    { "name": "shared", "persistentVolumeClaim": { "claimName": "shared" } },
                ],
            },
        }),
    );
    let mut phase = String::new();
    let ended = process::wait_until(Duration::from_secs(90), || {
        phase = kubectl(&bed, &["get", "pod", "probe", "-o", "jsonpath={.status.phase}"]);
        phase == "Succeeded" || phase == "Failed"
    });
    let log = if ended { kubectl(&bed, &["logs", "probe"]) } else { kubectl(&bed, &["describe", "pod", "probe"]) };
    assert_eq!(phase, "Succeeded", "{log}");
    assert!(log.contains("10.96.0.1") && log.contains("kept"), "{log}");
    assert_eq!(kubectl(&bed, &["get", "pvc", "-o", "jsonpath={.items[*].status.phase}"]), "Bound Bound");

    let mut inside = bed.exec_in_netns(&["getent", "hosts", "kubernetes.default"].map(str::to_owned)).unwrap();
    assert!(
        process::output(&mut inside).unwrap().contains("10.96.0.1"),
        "host processes in the namespace resolve Services"
    );

    let audit = std::fs::read_to_string(bed.audit_log()).unwrap();
    let event = audit.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).find(|event| {
        event["verb"] == "create" && event["objectRef"]["resource"] == "pods" && event["objectRef"]["name"] == "probe"
    });
    assert!(event.unwrap()["userAgent"].as_str().unwrap().starts_with("kubectl"));

    let link = Path::new("/sys/class/net").join(format!("testbed{}", bed.network().range));
    assert!(link.exists());
    bed.down().unwrap();
    assert_eq!(BTreeSet::new(), traces(&dir, &namespace));
    assert!(!link.exists(), "{} is left", link.display());
    if alone && !home.host_record().exists() {
        assert_eq!(shared_before, shared_traces());
    } else {
        eprintln!("SKIPPED the check of what beds share: another bed is up on this machine");
    }
}

#[test]
fn a_simulated_bed_binds_claims_and_makes_pods_ready() {
    if !switched_on("a_simulated_bed_binds_claims_and_makes_pods_ready") {
        return;
    }
    let name = "itsim";
    bed::down(name).unwrap();
    let bed = Bed::up(&Options::new(name, NodeMode::Kwok(3))).unwrap();
    apply(&bed, &claim("shared", "local-path-rwx", "ReadWriteMany"));
    kubectl(&bed, &["create", "deployment", "app", "--image=none", "--replicas=6"]);
    kubectl(&bed, &["wait", "--for=condition=Available", "deployment/app", "--timeout=60s"]);
    kubectl(&bed, &["wait", "--for=jsonpath={.status.phase}=Bound", "pvc/shared", "--timeout=60s"]);
    let zones =
        kubectl(&bed, &["get", "nodes", "-o", r"jsonpath={.items[*].metadata.labels.topology\.kubernetes\.io/zone}"]);
    assert_eq!(zones, "zone-a zone-b zone-c");
    let processes: Vec<_> = bed.components().unwrap().into_iter().map(|component| component.process).collect();
    bed.down().unwrap();
    assert!(processes.iter().all(|process| !process.alive()));
}

#[test]
fn a_light_control_plane_answers_and_ends_with_its_owner() {
    if !switched_on("a_light_control_plane_answers_and_ends_with_its_owner") {
        return;
    }
    let control_plane = ControlPlane::start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let version = runtime.block_on(async { control_plane.client().await.unwrap().apiserver_version().await.unwrap() });
    assert_eq!(version.minor, "36");
    let kubeconfig = control_plane.kubeconfig();
    let server = control_plane.server();
    drop(control_plane);
    assert!(!kubeconfig.exists());
    let port = server.rsplit(':').next().unwrap();
    let listening = Command::new("ss").args(["-Hltn", &format!("sport = :{port}")]).output().unwrap();
    assert!(listening.stdout.is_empty(), "something still listens on {server}");
}
