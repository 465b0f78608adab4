//! The pinned Go programs: which there are, where they are built, and building those that are missing.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::home::Home;
use crate::process;

/// A program that the testbed builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The program's file name.
    pub name: &'static str,
    /// The directory below `hack/tools` with its pins.
    pub module: &'static str,
    /// The package that is built.
    pub package: &'static str,
    /// The required module whose version is the program's version.
    pub source: &'static str,
}

const fn tool(name: &'static str, module: &'static str, package: &'static str, source: &'static str) -> Tool {
    Tool { name, module, package, source }
}

const KUBERNETES: &str = "k8s.io/kubernetes";
const APISERVER: &str = "kube-apiserver";
const OLDEST_APISERVER: &str = "kube-apiserver-oldest";
const CONTAINERD: &str = "github.com/containerd/containerd/v2";

/// All programs, the quick ones of a light control plane first.
pub const ALL: [Tool; 15] = [
    tool("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
    tool(APISERVER, "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", KUBERNETES),
    tool("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl", KUBERNETES),
    tool("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", KUBERNETES),
    tool("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", KUBERNETES),
    tool("kubelet", "kubernetes", "k8s.io/kubernetes/cmd/kubelet", KUBERNETES),
    tool("kube-proxy", "kubernetes", "k8s.io/kubernetes/cmd/kube-proxy", KUBERNETES),
    tool("containerd", "containerd", "github.com/containerd/containerd/v2/cmd/containerd", CONTAINERD),
    tool(
        "containerd-shim-runc-v2",
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        CONTAINERD,
    ),
    tool("ctr", "containerd", "github.com/containerd/containerd/v2/cmd/ctr", CONTAINERD),
    tool("coredns", "coredns", ".", "github.com/coredns/coredns"),
    tool(
        "local-path-provisioner",
        "local-path-provisioner",
        "github.com/rancher/local-path-provisioner",
        "github.com/rancher/local-path-provisioner",
    ),
    tool("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok", "sigs.k8s.io/kwok"),
    tool("helm", "helm", "helm.sh/helm/v4/cmd/helm", "helm.sh/helm/v4"),
    tool("etcdctl", "etcdctl", "go.etcd.io/etcd/etcdctl/v3", "go.etcd.io/etcd/etcdctl/v3"),
];

/// Tools that only checks of rendered manifests need.
pub const CHECKS: [Tool; 1] = [tool(
    "kubeconform",
    "kubeconform",
    "github.com/yannh/kubeconform/cmd/kubeconform",
    "github.com/yannh/kubeconform",
)];

/// Programs that only some tests need. They have a directory of their own, so that their pins do not rebuild Kubernetes.
pub const ADDONS: [Tool; 1] = [tool("cert-manager", "cert-manager", ".", "github.com/cert-manager/cert-manager")];

/// The API server of the oldest Kubernetes that can be built here; in a directory of its own for the same reason.
pub const OLDEST: [Tool; 1] =
    [tool(OLDEST_APISERVER, "kubernetes-oldest", "k8s.io/kubernetes/cmd/kube-apiserver", KUBERNETES)];

/// An object store, which only stories with the real data plane need; in a directory of its own, too.
pub const STORES: [Tool; 1] = [tool("rclone", "rclone", ".", "github.com/rclone/rclone")];

const PROMETHEUS: &str = "github.com/prometheus/prometheus";

/// Prometheus and its checker of rules; in a directory of their own, too.
pub const MONITORING: [Tool; 2] = [
    tool("promtool", "prometheus", "github.com/prometheus/prometheus/cmd/promtool", PROMETHEUS),
    tool("prometheus", "prometheus", "github.com/prometheus/prometheus/cmd/prometheus", PROMETHEUS),
];

const PROMETHEUS_OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator";

/// What runs beside Prometheus in the evaluation stack, and what finds its targets; few need them, and they take minutes.
pub const STACK: [Tool; 3] = [
    tool("otelcol", "otelcol", ".", "go.opentelemetry.io/collector/otelcol"),
    tool(
        "prometheus-operator",
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator/cmd/operator",
        PROMETHEUS_OPERATOR,
    ),
    tool(
        "prometheus-config-reloader",
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator/cmd/prometheus-config-reloader",
        PROMETHEUS_OPERATOR,
    ),
];

/// Programs whose modules ship manifests, and the folder or the file with them.
const MANIFESTS: [(&str, &str); 2] = [("cert-manager", "deploy/crds"), ("prometheus-operator", "bundle.yaml")];

/// What only tests of the charts need: the Helm before, and unit tests of templates; in a directory of their own, too.
pub const CHARTS: [Tool; 2] = [
    tool("helm3", "helm3", "helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3"),
    tool(
        "helm-unittest",
        "helm-unittest",
        "github.com/helm-unittest/helm-unittest/cmd/helm-unittest",
        "github.com/helm-unittest/helm-unittest",
    ),
];

/// The programs that are built when none is named.
pub fn usual() -> impl Iterator<Item = &'static Tool> {
    ALL.iter().chain(&CHECKS).chain(&ADDONS).chain(&MONITORING).chain(&CHARTS)
}

/// All programs there are.
pub fn every() -> impl Iterator<Item = &'static Tool> {
    usual().chain(&OLDEST).chain(&STORES).chain(&STACK)
}

/// What a light control plane needs besides an API server.
pub const CONTROL_PLANE: [&str; 2] = ["etcd", "kubectl"];
/// What a bed of simulated nodes needs.
pub const KWOK_BED: [&str; 6] =
    ["etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kwok"];
/// What a bed of real nodes needs.
pub const KUBELET_BED: [&str; 12] = [
    "etcd",
    "kube-apiserver",
    "kubectl",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "coredns",
    "local-path-provisioner",
];

/// The built programs of one set of pins.
#[derive(Clone, Debug)]
pub struct Tools {
    home: Home,
    pins: PathBuf,
    dir: PathBuf,
    addons: PathBuf,
    oldest: PathBuf,
    monitoring: PathBuf,
    stores: PathBuf,
    stack: PathBuf,
    charts: PathBuf,
    apiserver: &'static str,
}

/// Which Kubernetes a control plane runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kubernetes {
    /// The one that beds run.
    #[default]
    Newest,
    /// The oldest that can be built here.
    Oldest,
}

impl FromStr for Kubernetes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "newest" => Ok(Self::Newest),
            "oldest" => Ok(Self::Oldest),
            _ => bail!("there is no Kubernetes {text:?}; there are newest and oldest"),
        }
    }
}

impl Tools {
    /// The tools of the pins in `hack/tools`; nothing is built yet.
    pub fn locate(home: &Home) -> Result<Self> {
        let pins = match std::env::var_os("MULTIGRES_TESTBED_PINS") {
            Some(dir) => PathBuf::from(dir),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools"),
        };
        let pins = pins.canonicalize().with_context(|| {
            format!(
                "the pinned Go modules are not at {}; set MULTIGRES_TESTBED_PINS to hack/tools of a checkout",
                pins.display()
            )
        })?;
        let dir = home.tools(&pins_hash(&pins, ALL.iter().chain(&CHECKS))?);
        let addons = home.tools(&pins_hash(&pins, ADDONS.iter())?);
        let oldest = home.tools(&pins_hash(&pins, OLDEST.iter())?);
        let monitoring = home.tools(&pins_hash(&pins, MONITORING.iter())?);
        let stores = home.tools(&pins_hash(&pins, STORES.iter())?);
        let stack = home.tools(&pins_hash(&pins, STACK.iter())?);
        let charts = home.tools(&pins_hash(&pins, CHARTS.iter())?);
        let (home, apiserver) = (home.clone(), APISERVER);
        Ok(Self { home, pins, dir, addons, oldest, monitoring, stores, stack, charts, apiserver })
    }

    /// The same tools with the API server of another Kubernetes.
    #[must_use]
    pub fn with(self, kubernetes: Kubernetes) -> Self {
        let apiserver = match kubernetes {
            Kubernetes::Newest => APISERVER,
            Kubernetes::Oldest => OLDEST_APISERVER,
        };
        Self { apiserver, ..self }
    }

    /// The name of the API server's program.
    pub fn apiserver(&self) -> &'static str {
        self.apiserver
    }

    /// The directory of the programs.
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// The path of one program; it is there after [`Tools::ensure`].
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir_of(name).join("bin").join(name)
    }

    /// The directory of the manifests that belong to a program; they are there after [`Tools::ensure`].
    pub fn manifests(&self, name: &str) -> PathBuf {
        self.dir_of(name).join("manifests").join(name)
    }

    fn dir_of(&self, name: &str) -> &Path {
        let among = |tools: &[Tool]| tools.iter().any(|tool| tool.name == name);
        if among(&ADDONS) {
            &self.addons
        } else if among(&OLDEST) {
            &self.oldest
        } else if among(&MONITORING) {
            &self.monitoring
        } else if among(&STORES) {
            &self.stores
        } else if among(&STACK) {
            &self.stack
        } else if among(&CHARTS) {
            &self.charts
        } else {
            &self.dir
        }
    }

    /// Builds helm if needed and returns its path.
    pub fn helm(&self) -> Result<PathBuf> {
        self.ensure(&["helm"])?;
        Ok(self.path("helm"))
    }

    /// Builds kubeconform if needed and returns its path.
    pub fn kubeconform(&self) -> Result<PathBuf> {
        self.ensure(&["kubeconform"])?;
        Ok(self.path("kubeconform"))
    }

    /// The path of kubectl, which every set of tools holds.
    pub fn kubectl(&self) -> PathBuf {
        self.path("kubectl")
    }

    /// Builds what is missing of the named programs.
    pub fn ensure(&self, names: &[&str]) -> Result<()> {
        let wanted = names.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
        if wanted.iter().all(|tool| self.path(tool.name).exists()) {
            return Ok(());
        }
        let _guard = self.home.lock("tools")?;
        for (position, tool) in wanted.iter().enumerate() {
            if !self.path(tool.name).exists() {
                self.build(tool, position + 1, wanted.len())?;
            }
        }
        Ok(())
    }

    /// The pinned version of a program, without the leading `v`.
    pub fn version(&self, tool: &Tool) -> Result<String> {
        let path = self.pins.join(tool.module).join("go.mod");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        required_version(&text, tool.source)
            .with_context(|| format!("{} does not require {}", path.display(), tool.source))
    }

    fn build(&self, tool: &Tool, position: usize, count: usize) -> Result<()> {
        let version = self.version(tool)?;
        eprint!("[{position}/{count}] building {} {version} … ", tool.name);
        std::io::stderr().flush().context("writing progress")?;
        let started = Instant::now();
        let (bin, logs) = (self.dir_of(tool.name).join("bin"), self.dir_of(tool.name).join("log"));
        for dir in [&bin, &logs] {
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        if let Some((_, from)) = MANIFESTS.iter().find(|(name, _)| *name == tool.name) {
            self.copy_manifests(tool, from)?;
        }
        let log_path = logs.join(format!("{}.log", tool.name));
        let log = fs::File::create(&log_path).with_context(|| format!("creating {}", log_path.display()))?;
        // A build that is cut off must not leave a program that looks finished.
        let unfinished = bin.join(format!(".{}.unfinished", tool.name));
        let status = Command::new("go")
            .args(["build", "-tags", tags(tool), "-ldflags", &ldflags(tool, &version), "-o"])
            .arg(&unfinished)
            .arg(tool.package)
            .current_dir(self.pins.join(tool.module))
            .env("CGO_ENABLED", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("duplicating the log's handle")?)
            .stderr(log)
            .status()
            .context("starting `go`; install Go 1.26 or newer and put it on PATH")?;
        if !status.success() {
            eprintln!("failed");
            bail!(
                "building {} failed; the log is {}, which ends with:\n{}",
                tool.name,
                log_path.display(),
                process::tail(&log_path, 20)
            );
        }
        fs::rename(&unfinished, self.path(tool.name)).with_context(|| format!("placing {}", tool.name))?;
        eprintln!("{} s", started.elapsed().as_secs());
        Ok(())
    }
}

impl Tools {
    /// Copies what a module ships for the API server, so that using the program needs no module cache.
    fn copy_manifests(&self, tool: &Tool, from: &str) -> Result<()> {
        let mut list = Command::new("go");
        list.args(["list", "-m", "-f", "{{.Dir}}", tool.source]).current_dir(self.pins.join(tool.module));
        // The path of a module is known only once the module is there.
        let mut download = Command::new("go");
        download.args(["mod", "download", tool.source]).current_dir(self.pins.join(tool.module));
        process::output(&mut download)?;
        let source = PathBuf::from(process::output(&mut list)?.trim()).join(from);
        let target = self.manifests(tool.name);
        fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
        let files: Vec<PathBuf> = if source.is_dir() {
            let entries = fs::read_dir(&source).with_context(|| format!("listing {}", source.display()))?;
            let paths = entries.map(|entry| Ok(entry.with_context(|| format!("listing {}", source.display()))?.path()));
            paths.collect::<Result<_>>()?
        } else {
            vec![source]
        };
        for path in files {
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                let copy = target.join(path.file_name().unwrap_or_default());
                fs::write(&copy, text).with_context(|| format!("writing {}", copy.display()))?;
            }
        }
        Ok(())
    }
}

/// The tool of this name.
pub fn find(name: &str) -> Result<Tool> {
    let found = every().find(|tool| tool.name == name).copied();
    found.with_context(|| {
        let names: Vec<&str> = every().map(|tool| tool.name).collect();
        format!("there is no tool {name:?}; there are {}", names.join(", "))
    })
}

fn tags(tool: &Tool) -> &'static str {
    match tool.module {
        "containerd" => "no_btrfs,no_zfs,no_devmapper",
        // Of the ways to find targets only those that somebody uses here: the others are the libraries of every cloud.
        "prometheus" => "remove_all_sd,enable_kubernetes_sd",
        _ => "",
    }
}

fn ldflags(tool: &Tool, version: &str) -> String {
    if tool.source != KUBERNETES {
        return "-s -w".to_owned();
    }
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let set = |package: &str| {
        format!(" -X {package}.gitVersion=v{version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}")
    };
    let mut flags = format!("-s -w{}", set("k8s.io/component-base/version"));
    if OLDEST.contains(tool) {
        // Old API servers answer /version from the client's copy of the package.
        flags.push_str(&set("k8s.io/client-go/pkg/version"));
    }
    flags
}

fn required_version(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let words: Vec<&str> = line.trim().trim_start_matches("require ").split_whitespace().collect();
        match words.as_slice() {
            [name, version, ..] if *name == module => Some(version.trim_start_matches('v').to_owned()),
            _ => None,
        }
    })
}

/// A hash over everything that decides what the programs are: the modules and how they are built.
fn pins_hash<'a>(pins: &Path, tools: impl Iterator<Item = &'a Tool>) -> Result<String> {
    let mut hash = Sha256::new();
    for tool in tools {
        hash.update(format!("{} {} {} {}\n", tool.name, tool.package, tags(tool), ldflags(tool, "0.0.0")));
        let dir = pins.join(tool.module);
        ensure!(dir.join("go.mod").exists(), "{} has no go.mod", dir.display());
        let mut files: Vec<PathBuf> = fs::read_dir(&dir)
            .with_context(|| format!("listing {}", dir.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "go" || e == "mod" || e == "sum"))
            .collect();
        files.sort();
        for file in files {
            let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            hash.update(format!("{} {}\n", file.file_name().unwrap_or_default().to_string_lossy(), bytes.len()));
            hash.update(&bytes);
        }
    }
    Ok(hex::encode(hash.finalize())[..16].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_of_pins() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for tool in every() {
            let module = dir.path().join(tool.module);
            fs::create_dir_all(&module).unwrap();
            fs::write(module.join("go.mod"), format!("module x/{}\n", tool.module)).unwrap();
        }
        dir
    }

    #[test]
    fn the_hash_of_the_pins_changes_with_a_version_and_not_with_other_files() {
        let pins = copy_of_pins();
        let hash = || pins_hash(pins.path(), ALL.iter()).unwrap();
        let before = hash();
        fs::write(pins.path().join("helm/notes.txt"), "nothing").unwrap();
        assert_eq!(hash(), before);
        fs::write(pins.path().join("helm/go.mod"), "module x/helm\nrequire y v1.0.1\n").unwrap();
        assert_ne!(hash(), before);
    }

    #[test]
    fn the_pins_of_an_addon_leave_the_other_programs_where_they_are() {
        let home = tempfile::tempdir().unwrap();
        let tools = Tools::locate(&Home::at(home.path()).unwrap()).unwrap();
        assert_eq!(tools.path("helm").parent(), tools.path("kubelet").parent());
        assert_ne!(tools.path("cert-manager").parent(), tools.path("helm").parent());
        assert_ne!(tools.path(OLDEST_APISERVER).parent(), tools.path(APISERVER).parent());
        assert_ne!(tools.path(OLDEST_APISERVER).parent(), tools.path("cert-manager").parent());
        assert_ne!(tools.path("promtool").parent(), tools.path("helm").parent());
        assert_ne!(tools.path("rclone").parent(), tools.path("cert-manager").parent());
        assert_ne!(tools.path("helm3").parent(), tools.path("helm").parent());
        assert_eq!(tools.path("helm3").parent(), tools.path("helm-unittest").parent());
        assert_ne!(tools.path("otelcol").parent(), tools.path("prometheus").parent());
        assert_eq!(tools.path("otelcol").parent(), tools.path("prometheus-operator").parent());
        for name in ["rclone", "otelcol", "prometheus-operator"] {
            assert!(usual().all(|tool| tool.name != name), "{name} takes minutes, and few need it");
        }
        assert!(tools.manifests("cert-manager").starts_with(tools.path("cert-manager").ancestors().nth(2).unwrap()));
    }

    #[test]
    fn versions_are_read_from_single_lines_and_from_blocks() {
        let text =
            "module a\n\nrequire k8s.io/kubernetes v1.36.3\n\nrequire (\n\tsigs.k8s.io/kwok v0.8.0 // indirect\n)\n";
        assert_eq!(required_version(text, "k8s.io/kubernetes").as_deref(), Some("1.36.3"));
        assert_eq!(required_version(text, "sigs.k8s.io/kwok").as_deref(), Some("0.8.0"));
        assert_eq!(required_version(text, "k8s.io"), None);
    }

    #[test]
    fn kubernetes_programs_carry_their_version() {
        let flags = ldflags(&find("kubelet").unwrap(), "1.36.3");
        assert!(flags.contains("version.gitVersion=v1.36.3") && flags.contains("gitMinor=36"), "{flags}");
        let flags = ldflags(&OLDEST[0], "1.25.16");
        assert!(flags.contains("client-go/pkg/version.gitMinor=25"), "{flags}");
        assert_eq!(ldflags(&find("etcd").unwrap(), "3.6.8"), "-s -w");
    }

    #[test]
    fn every_set_names_tools_that_exist_and_are_pinned() {
        let home = tempfile::tempdir().unwrap();
        let tools = Tools::locate(&Home::at(home.path()).unwrap()).unwrap();
        for tool in every() {
            let version = tools.version(tool).unwrap();
            assert!(version.contains('.'), "{} {version}", tool.name);
        }
        for name in CONTROL_PLANE.iter().chain(&KWOK_BED).chain(&KUBELET_BED) {
            find(name).unwrap();
        }
    }
}
