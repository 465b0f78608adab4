//! What commands of pages may say: verbs and flags of kubectl and helm, and kinds. A page that needs another one adds it here.

/// Flags of kubectl that every verb takes, with a value.
pub const EVERYWHERE: &[&str] = &["-n", "--namespace", "--context", "--kubeconfig", "--as", "--request-timeout"];
/// Flags of kubectl that choose objects, with a value.
pub const CHOOSING: &[&str] = &["-l", "--selector", "--field-selector", "-f", "--filename"];

/// What a verb takes besides: flags with a value, and flags without.
pub type Verb = (&'static str, &'static [&'static str], &'static [&'static str]);

/// The verbs of kubectl that pages use.
pub const KUBECTL: &[Verb] = &[
    ("annotate", &[], &["--overwrite", "--all"]),
    ("api-resources", &["--api-group", "-o"], &[]),
    ("apply", &["-k", "--field-manager"], &["--server-side", "--force-conflicts"]),
    ("auth", &["--as-group"], &["-A", "--all-namespaces"]),
    ("cordon", &[], &[]),
    ("create", &["--from-literal", "--from-file", "--image"], &[]),
    ("delete", &["--grace-period", "--cascade", "--timeout"], &["--all", "--ignore-not-found", "--now"]),
    ("describe", &[], &["-A", "--all-namespaces"]),
    ("diff", &[], &["--server-side"]),
    ("drain", &["--timeout"], &["--ignore-daemonsets", "--delete-emptydir-data"]),
    ("exec", &["-c", "--container"], &["-i", "-t", "-it"]),
    ("explain", &[], &["--recursive"]),
    (
        "get",
        &["-o", "--output", "--sort-by", "--raw", "-L", "--label-columns"],
        &[
            "-A",
            "--all-namespaces",
            "-w",
            "--watch",
            "--no-headers",
            "--show-labels",
            "--ignore-not-found",
            "--show-managed-fields",
        ],
    ),
    ("label", &[], &["--overwrite", "--all"]),
    (
        "logs",
        &["-c", "--container", "--tail", "--since"],
        &["--prefix", "--previous", "-f", "--follow", "--all-containers"],
    ),
    ("patch", &["-p", "--patch", "--type", "--subresource"], &[]),
    ("port-forward", &[], &[]),
    ("rollout", &["--timeout"], &["--watch"]),
    ("run", &["--image", "--env", "--restart"], &["--rm", "-i", "-t", "-it"]),
    ("scale", &["--replicas"], &[]),
    ("taint", &[], &[]),
    ("top", &[], &["-A", "--containers"]),
    ("uncordon", &[], &[]),
    ("wait", &["--for", "--timeout"], &["--all", "-A", "--all-namespaces"]),
];
/// Verbs whose first word is a kind.
pub const OF_KINDS: [&str; 9] = ["annotate", "delete", "describe", "explain", "get", "label", "patch", "scale", "wait"];
/// Verbs whose second word is a kind and a name.
pub const OF_OBJECTS: [&str; 1] = ["rollout"];

/// Flags of helm that every command takes, with a value.
pub const HELM_EVERYWHERE: &[&str] = &["-n", "--namespace", "--kube-context", "--timeout"];
const SETTING: &[&str] =
    &["--set", "--set-string", "--set-json", "-f", "--values", "--version", "--kube-version", "--api-versions"];
const INSTALLING: &[&str] = &[
    "-i",
    "--install",
    "--create-namespace",
    "--wait",
    "--reset-values",
    "--reuse-values",
    "--reset-then-reuse-values",
    "--take-ownership",
    "--force-conflicts",
    "--rollback-on-failure",
    "--dry-run",
    "--server-side",
];
/// The commands of helm that pages use.
pub const HELM: &[Verb] = &[
    ("get", &["-o", "--output", "--revision"], &["-a", "--all"]),
    ("history", &["-o", "--output", "--max"], &[]),
    ("install", SETTING, INSTALLING),
    ("list", &["-o", "--output"], &["-A", "--all-namespaces"]),
    ("rollback", &[], &["--wait", "--force-conflicts"]),
    ("status", &["-o", "--output"], &[]),
    ("template", SETTING, &["--no-hooks"]),
    ("test", &[], &["--logs"]),
    ("uninstall", &[], &["--wait", "--no-hooks", "--keep-history", "--ignore-not-found"]),
    ("upgrade", SETTING, INSTALLING),
];

/// Kinds of Kubernetes and of others that pages speak of, in every spelling that kubectl takes and a page uses.
pub const KINDS: &[&str] = &[
    "certificaterequests.cert-manager.io",
    "certificates.cert-manager.io",
    "clusterrole",
    "clusterrolebinding",
    "configmap",
    "crd",
    "crds",
    "cronjob",
    "deployment",
    "deployments",
    "endpointslices",
    "events",
    "events.events.k8s.io",
    "hpa",
    "issuers.cert-manager.io",
    "lease",
    "mutatingwebhookconfiguration",
    "namespace",
    "node",
    "nodes",
    "pod",
    "pods",
    "poddisruptionbudgets",
    "pvc",
    "replicaset",
    "resourcequota",
    "role",
    "rolebinding",
    "secret",
    "secrets",
    "service",
    "serviceaccount",
    "services",
    "statefulset",
    "storageclass",
    "validatingadmissionpolicy",
    "validatingadmissionpolicybinding",
    "validatingwebhookconfiguration",
    "validatingwebhookconfigurations",
];
/// Folders of the repository whose files pages name.
pub const FOLDERS: [&str; 4] = ["charts/", "crds/", "monitoring/", "samples/"];
