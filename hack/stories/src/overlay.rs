//! The evaluation stack of `monitoring/overlay` on a bed: the programs themselves, built from their modules, with the manifests that users apply.
//!
//! `adapted` below is all that is different there. The programs go by the names of the images that the manifests ask for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    bed::{Bed, OPERATOR_NAMESPACE},
    fault::Faults,
    helm::{Ended, Tools},
    lesson,
    prometheus::{Server, manifest, tool},
    wait::{until, within},
};

/// The folder of the stack.
const FOLDER: &str = "monitoring/overlay";
/// The Prometheus of the testbed's pins, which is newer than the one of the stack.
const PROMETHEUS: &str = "localhost/prometheus:pinned";
/// What the module of the Prometheus Operator ships to install it, below the directory of its programs.
const BUNDLE: &str = "manifests/prometheus-operator/bundle.yaml";
/// The flag by which the Prometheus Operator is told of the program that reloads a configuration.
const RELOADER: &str = "--prometheus-config-reloader=";
/// The pods of the stack's Prometheus.
const PROMETHEUS_PODS: &str = "prometheus=multigres";

/// The stack, ready to be installed.
pub struct Overlay {
    tools: Tools,
    bundle: PathBuf,
    // The files of the objects go with it.
    dir: TempDir,
}

impl Overlay {
    /// Has the programs built, gives them to the nodes, and has the collector judge its configuration. Nothing is installed yet. Spans end
    /// at the address `spans`.
    pub async fn prepare(tools: &Tools, spans: &str) -> Result<Self> {
        let operator = tool("prometheus-operator").await?;
        let bundle = operator.ancestors().nth(2).context("the directory of the Prometheus Operator")?.join(BUNDLE);
        let text = fs::read_to_string(&bundle).with_context(|| format!("reading {}", bundle.display()))?;
        let objects = adapted(spans)?;
        let nodes = Faults::from_env()?;
        for (name, image) in images(&objects, &text)? {
            nodes.provide_program(&tool(name).await?, &qualified(&image)).await?;
        }
        let dir = tempfile::tempdir().context("making a directory for the stack")?;
        let config = dir.path().join("collector.yaml");
        let given = of_kind(&objects, "ConfigMap")?["data"]["config.yaml"].as_str().context("a configuration")?;
        fs::write(&config, given).with_context(|| format!("writing {}", config.display()))?;
        judged(&tool("otelcol").await?, &config).await?;
        let stack = Self { tools: tools.clone(), bundle, dir };
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        fs::write(stack.objects(), list.to_string()).context("writing the objects of the stack")?;
        Ok(stack)
    }

    fn objects(&self) -> PathBuf {
        self.dir.path().join("objects.json")
    }

    /// Installs the Prometheus Operator as its own manifests say. The chart asks for its kinds.
    pub async fn install_operator(&self) -> Result<()> {
        self.apply(&self.bundle).await?;
        let wait = ["wait", "--for=condition=Available", "--timeout=180s", "--namespace=default"];
        self.kubectl(&[&wait[..], &["deployment/prometheus-operator"]].concat()).await.map(drop)
    }

    /// Installs the stack and waits until all of it is available.
    pub async fn install(&self) -> Result<()> {
        self.apply(&self.objects()).await?;
        let namespace = format!("--namespace={OPERATOR_NAMESPACE}");
        let wait = ["wait", "--for=condition=Available", "--timeout=180s", &namespace];
        self.kubectl(&[&wait[..], &["deployment/otel-collector", "deployment/tempo"]].concat()).await?;
        self.kubectl(&[&wait[..], &["prometheuses.monitoring.coreos.com/multigres"]].concat()).await.map(drop)
    }

    /// Removes the stack and the Prometheus Operator, as far as they are there, and what the latter has made for itself.
    pub async fn remove(&self) -> Result<()> {
        let kind = "customresourcedefinition/prometheuses.monitoring.coreos.com";
        let known = self.kubectl(&["get", kind, "--ignore-not-found", "--output=name"]).await?;
        if !known.trim().is_empty() {
            self.delete(&self.objects()).await?;
            let namespace = format!("--namespace={OPERATOR_NAMESPACE}");
            until("the end of Prometheus", within(120), || async {
                let pods = self.kubectl(&["get", "pods", &namespace, "-l", PROMETHEUS_PODS, "--output=name"]).await?;
                ensure!(pods.trim().is_empty(), "{pods}");
                Ok(())
            })
            .await?;
        }
        self.delete(&self.bundle).await?;
        let kubelets = ["delete", "service,endpoints", "kubelet", "--namespace=kube-system", "--ignore-not-found"];
        self.kubectl(&kubelets).await.map(drop)
    }

    /// Shows what became of it, to whoever wants to know why something went wrong.
    pub async fn show(&self) {
        let namespace = format!("--namespace={OPERATOR_NAMESPACE}");
        let of_prometheus = ["logs", &namespace, "-l", PROMETHEUS_PODS, "--all-containers", "--prefix", "--tail=30"];
        let asked: [&[&str]; 6] = [
            &["get", "pods,prometheuses,servicemonitors,podmonitors", &namespace, "--output=wide"],
            &["get", "events", &namespace, "--sort-by=.lastTimestamp"],
            &["logs", &namespace, "deployment/otel-collector", "--tail=30"],
            &["logs", &namespace, "deployment/tempo", "--tail=30"],
            &of_prometheus,
            &["logs", "--namespace=default", "deployment/prometheus-operator", "--tail=30"],
        ];
        for words in asked {
            match self.tools.run("kubectl", words).await {
                Ok(Ended { output, errors, .. }) => eprintln!("kubectl {}:\n{output}{errors}", words.join(" ")),
                Err(error) => eprintln!("kubectl {}: {error:#}", words.join(" ")),
            }
        }
    }

    /// Its Prometheus, by the Service that Grafana asks.
    pub async fn prometheus(&self, bed: &Bed) -> Result<Server> {
        Ok(Server::behind(bed.impatient().await?.client, OPERATOR_NAMESPACE, "prometheus", "web"))
    }

    async fn apply(&self, file: &Path) -> Result<()> {
        let file = file.to_str().context("the path of a manifest is text")?;
        // What an earlier try has left may belong to others.
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "--filename", file]).await.map(drop)
    }

    async fn delete(&self, file: &Path) -> Result<()> {
        let file = file.to_str().context("the path of a manifest is text")?;
        self.kubectl(&["delete", "--ignore-not-found", "--timeout=180s", "--filename", file]).await.map(drop)
    }

    async fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.tools.succeed("kubectl", words).await
    }
}

/// The file of values that the chart is given beside the stack.
pub fn values() -> PathBuf {
    lesson::root().join(FOLDER).join("values.yaml")
}

/// The attributes of resources that its Prometheus makes labels of.
pub fn promoted() -> Result<Vec<String>> {
    Ok(serde_json::from_value(manifest::promoted()?)?)
}

/// The ConfigMaps that its Grafana takes dashboards from.
pub fn dashboards() -> Result<Vec<String>> {
    let grafana = documents("grafana")?;
    let volumes = &of_kind(&grafana, "Deployment")?["spec"]["template"]["spec"]["volumes"];
    let volumes = volumes.as_array().into_iter().flatten();
    let sources = volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    let names = sources.map(|source| source["configMap"]["name"].as_str().map(str::to_owned));
    let names: Option<Vec<String>> = names.collect();
    names.filter(|names| !names.is_empty()).context("Grafana takes dashboards from nowhere")
}

/// Pushes one value to the collector by OTLP, as the programs of a cluster do, from a resource with these attributes.
pub async fn push(client: &Client, metric: &str, value: f64, attributes: &[(String, String)]) -> Result<()> {
    let path = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/services/otel-collector:otlp-http/proxy/v1/metrics");
    let body = export(metric, value, attributes, Timestamp::now());
    let request = http::Request::post(&path).header("content-type", "application/json");
    let request = request.body(serde_json::to_vec(&body)?)?;
    client.request_text(request).await.with_context(|| path).map(drop)
}

/// An export of one gauge, in the words of OTLP.
fn export(metric: &str, value: f64, attributes: &[(String, String)], now: Timestamp) -> Value {
    let attributes: Vec<Value> =
        attributes.iter().map(|(key, text)| json!({ "key": key, "value": { "stringValue": text } })).collect();
    let point = json!({ "asDouble": value, "timeUnixNano": now.as_nanosecond().to_string() });
    let metrics = json!([{ "name": metric, "gauge": { "dataPoints": [point] } }]);
    let resource = json!({ "attributes": attributes });
    json!({ "resourceMetrics": [{ "resource": resource, "scopeMetrics": [{ "metrics": metrics }] }] })
}

/// The objects of the stack as a bed runs them. There is no registry to pull from, so
///
/// - Prometheus is the one that the testbed builds;
/// - the collector stands in for Tempo, which is not built here: it listens as Tempo's configuration says, and passes spans on to `spans`;
/// - Grafana, which is not built here either, is left out.
fn adapted(spans: &str) -> Result<Vec<Value>> {
    let mut objects = documents("collector")?;
    let collector = of_kind(&objects, "Deployment")?["spec"]["template"]["spec"]["containers"][0].clone();
    let mut prometheus = documents("prometheus")?;
    of_kind_mut(&mut prometheus, "Prometheus")?["spec"]["image"] = PROMETHEUS.into();
    let mut tempo = documents("tempo")?;
    stand_in(&mut tempo, &collector, spans)?;
    objects.extend(prometheus);
    objects.extend(tempo);
    Ok(objects)
}

/// Puts the collector where Tempo was.
fn stand_in(tempo: &mut [Value], collector: &Value, spans: &str) -> Result<()> {
    let config = of_kind_mut(tempo, "ConfigMap")?;
    let text = config["data"]["tempo.yaml"].as_str().context("no configuration of Tempo")?;
    let own: Value = serde_saphyr::from_str(text).context("parsing the configuration of Tempo")?;
    let port = own["server"]["http_listen_port"].as_u64().context("Tempo has no port")?;
    let passes_on = json!({
        "extensions": { "health_check": { "endpoint": format!("0.0.0.0:{port}") } },
        "receivers": own["distributor"]["receivers"],
        // The story reads messages as they are.
        "exporters": { "otlphttp": { "endpoint": spans, "compression": "none" } },
        "service": {
            "extensions": ["health_check"],
            "pipelines": { "traces": { "receivers": ["otlp"], "exporters": ["otlphttp"] } },
        },
    });
    config["data"] = json!({ "config.yaml": passes_on.to_string() });
    let container = &mut of_kind_mut(tempo, "Deployment")?["spec"]["template"]["spec"]["containers"][0];
    for field in ["image", "args", "volumeMounts", "readinessProbe"] {
        container[field] = collector[field].clone();
    }
    container["readinessProbe"]["httpGet"]["port"] = "http".into();
    // It keeps nothing.
    of_kind_mut(tempo, "Deployment")?["spec"]["template"]["spec"]["volumes"]
        .as_array_mut()
        .context("Tempo has no volumes")?
        .retain(|volume| volume["emptyDir"].is_null());
    Ok(())
}

/// The programs that the nodes need, by the names of their images in the manifests.
fn images(objects: &[Value], bundle: &str) -> Result<[(&'static str, String); 4]> {
    let parts = manifest::parts(bundle);
    // The definitions of its kinds are long, and nobody asks for them here.
    let operator = parts.iter().find(|part| part.lines().any(|line| line == "kind: Deployment"));
    let operator: Value = serde_saphyr::from_str(operator.context("no Deployment of the Prometheus Operator")?)?;
    let operator = &operator["spec"]["template"]["spec"]["containers"][0];
    let collector = &of_kind(objects, "Deployment")?["spec"]["template"]["spec"]["containers"][0];
    let image = |container: &Value| container["image"].as_str().map(str::to_owned).context("a container without image");
    let mut args = operator["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let reloader = args.find_map(|arg| arg.strip_prefix(RELOADER)).context("nothing reloads configurations")?;
    Ok([
        ("otelcol", image(collector)?),
        ("prometheus", PROMETHEUS.to_owned()),
        ("prometheus-operator", image(operator)?),
        ("prometheus-config-reloader", reloader.to_owned()),
    ])
}

/// The name by which nodes know an image: where no registry is named, Docker Hub is meant.
fn qualified(image: &str) -> String {
    let registry = image.split_once('/').map_or("", |(first, _)| first);
    if registry == "localhost" || registry.contains(['.', ':']) {
        image.to_owned()
    } else {
        format!("docker.io/{image}")
    }
}

/// The collector's own word on a configuration.
async fn judged(collector: &Path, config: &Path) -> Result<()> {
    let mut command = Command::new(collector);
    command.arg("validate").arg("--config").arg(config).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("starting {}", collector.display()))?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "the collector refuses its configuration: {}", String::from_utf8_lossy(&said));
    Ok(())
}

/// The documents of a file of the stack.
fn documents(part: &str) -> Result<Vec<Value>> {
    let path = lesson::root().join(FOLDER).join(format!("{part}.yaml"));
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    manifest::documents(&text).with_context(|| format!("parsing {}", path.display()))
}

/// The first object of a kind.
fn of_kind<'o>(objects: &'o [Value], kind: &str) -> Result<&'o Value> {
    objects.iter().find(|object| object["kind"] == kind).with_context(|| format!("there is no {kind}"))
}

fn of_kind_mut<'o>(objects: &'o mut [Value], kind: &str) -> Result<&'o mut Value> {
    objects.iter_mut().find(|object| object["kind"] == kind).with_context(|| format!("there is no {kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helm::RELEASE;

    const PARTS: [&str; 4] = ["collector", "prometheus", "tempo", "grafana"];

    fn all() -> Vec<Value> {
        PARTS.iter().flat_map(|part| documents(part).unwrap()).collect()
    }

    fn read(path: &str) -> String {
        fs::read_to_string(lesson::root().join(path)).unwrap()
    }

    /// The version that a module of the testbed's tools requires of another one.
    fn pinned(tool: &str, module: &str) -> String {
        let pins = read(&format!("hack/tools/{tool}/go.mod"));
        let words = pins.lines().map(|line| line.trim_start_matches("require ").split_whitespace().collect::<Vec<_>>());
        let mut versions = words.filter(|words| words.first() == Some(&module)).map(|words| words[1].to_owned());
        versions.next().unwrap_or_else(|| panic!("{tool} does not require {module}"))
    }

    #[test]
    fn every_address_within_the_stack_is_a_port_of_one_of_its_services() {
        let objects = all();
        let mut ports: Vec<(String, String)> = Vec::new();
        for service in objects.iter().filter(|object| object["kind"] == "Service") {
            let name = service["metadata"]["name"].as_str().unwrap();
            for port in service["spec"]["ports"].as_array().unwrap() {
                ports.push((name.to_owned(), port["port"].to_string()));
            }
        }
        let behind = format!(".{OPERATOR_NAMESPACE}.svc:");
        let mut found = 0;
        for part in PARTS.iter().chain(&["values"]) {
            let text = read(&format!("{FOLDER}/{part}.yaml"));
            for (at, _) in text.match_indices(&behind) {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
                let name = text[..at].rsplit(|c| !is_name(c)).next().unwrap();
                let port = text[at + behind.len()..].split(|c: char| !c.is_ascii_digit()).next().unwrap();
                let named = (name.to_owned(), port.to_owned());
                assert!(ports.contains(&named), "{part}.yaml: {named:?} is none of {ports:?}");
                found += 1;
            }
        }
        assert!(found >= 6, "{found} addresses");
    }

    #[test]
    fn every_port_of_a_service_is_one_of_the_pods_behind_it() {
        let objects = all();
        for service in objects.iter().filter(|object| object["kind"] == "Service") {
            let name = &service["metadata"]["name"];
            let selector = &service["spec"]["selector"];
            let called =
                |object: &Value| object["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"].clone();
            let mut deployments = objects.iter().filter(|object| object["kind"] == "Deployment");
            let behind = deployments.find(|object| called(object) == selector["app.kubernetes.io/name"]);
            let Some(behind) = behind else {
                // Its pods are made by the Prometheus Operator, which calls them after the object and their port `web`.
                let prometheus = of_kind(&objects, "Prometheus").unwrap();
                assert_eq!(*selector, json!({ "prometheus": prometheus["metadata"]["name"] }), "{name}");
                assert_eq!(service["spec"]["ports"][0]["targetPort"], "web");
                continue;
            };
            let ports = behind["spec"]["template"]["spec"]["containers"][0]["ports"].as_array().unwrap();
            for port in service["spec"]["ports"].as_array().unwrap() {
                let found = ports.iter().find(|of_pod| of_pod["name"] == port["targetPort"]);
                let found = found.unwrap_or_else(|| panic!("{name}: nothing is called {}", port["targetPort"]));
                assert_eq!(found["containerPort"], port["port"], "{name}");
            }
        }
    }

    #[test]
    fn grafana_names_data_sources_and_dashboards_that_are_there() {
        let grafana = documents("grafana").unwrap();
        let config = &of_kind(&grafana, "ConfigMap").unwrap()["data"];
        let sources: Value = serde_saphyr::from_str(config["datasources.yaml"].as_str().unwrap()).unwrap();
        let sources = sources["datasources"].as_array().unwrap();
        let mut named = Vec::new();
        for source in sources {
            let settings = &source["jsonData"];
            for part in ["tracesToMetrics", "serviceMap"] {
                named.extend(settings[part]["datasourceUid"].as_str());
            }
            for destination in settings["exemplarTraceIdDestinations"].as_array().into_iter().flatten() {
                named.extend(destination["datasourceUid"].as_str());
            }
        }
        assert_eq!(named.len(), 3);
        for uid in named {
            assert!(sources.iter().any(|source| source["uid"] == uid), "{uid}");
        }
        let files = fs::read_dir(lesson::root().join("charts/multigres-operator/files/monitoring/dashboards")).unwrap();
        let mut expected: Vec<String> = files
            .map(|file| format!("{RELEASE}-dashboard-{}", file.unwrap().path().file_stem().unwrap().display()))
            .collect();
        expected.sort();
        let mut taken = dashboards().unwrap();
        taken.sort();
        assert_eq!(taken, expected);
        let providers: Value = serde_saphyr::from_str(config["dashboards.yaml"].as_str().unwrap()).unwrap();
        let folder = &providers["providers"][0]["options"]["path"];
        let container = &of_kind(&grafana, "Deployment").unwrap()["spec"]["template"]["spec"]["containers"][0];
        let mut mounts = container["volumeMounts"].as_array().unwrap().iter();
        assert!(mounts.any(|mount| mount["name"] == "dashboards" && mount["mountPath"] == *folder), "{folder}");
    }

    #[test]
    fn whoever_scrapes_secured_metrics_may_read_them() {
        let values: Value = serde_saphyr::from_str(&read(&format!("{FOLDER}/values.yaml"))).unwrap();
        let prometheus = documents("prometheus").unwrap();
        let server = of_kind(&prometheus, "Prometheus").unwrap();
        let account =
            json!({ "name": server["spec"]["serviceAccountName"], "namespace": server["metadata"]["namespace"] });
        assert_eq!(values["metrics"]["readers"], json!([account]));
        let subjects = &of_kind(&prometheus, "ClusterRoleBinding").unwrap()["subjects"];
        assert_eq!((&subjects[0]["name"], &subjects[0]["namespace"]), (&account["name"], &account["namespace"]));
    }

    #[test]
    fn what_runs_on_a_bed_has_the_version_that_users_get() {
        let collector = documents("collector").unwrap();
        let image = &of_kind(&collector, "Deployment").unwrap()["spec"]["template"]["spec"]["containers"][0]["image"];
        let version = pinned("otelcol", "go.opentelemetry.io/collector/otelcol");
        assert_eq!(*image, format!("otel/opentelemetry-collector-contrib:{}", version.trim_start_matches('v')));
        let version = pinned("prometheus-operator", "github.com/prometheus-operator/prometheus-operator");
        for page in [format!("{FOLDER}/README.md"), "hack/kind-deploy.sh".to_owned()] {
            assert!(read(&page).contains(&version), "{page} does not speak of {version}");
        }
    }

    #[test]
    fn a_bed_differs_in_prometheus_tempo_and_grafana_alone() {
        let objects = adapted("http://10.0.0.1:4318").unwrap();
        let own = all();
        let of = |object: &Value| (object["kind"].clone(), object["metadata"]["name"].clone());
        let mut changed = Vec::new();
        for object in &own {
            match objects.iter().find(|other| of(other) == of(object)) {
                Some(other) if other == object => {}
                Some(_) => changed.push(of(object)),
                None => assert!(object["metadata"]["name"].as_str().unwrap().starts_with("grafana"), "{object}"),
            }
        }
        let expected = [("Prometheus", "multigres"), ("ConfigMap", "tempo-config"), ("Deployment", "tempo")];
        assert_eq!(changed, expected.map(|(kind, name)| (json!(kind), json!(name))));
        let mut deployments = objects.iter().filter(|object| object["kind"] == "Deployment");
        let tempo = deployments.find(|object| object["metadata"]["name"] == "tempo").unwrap();
        let pod = &tempo["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["readinessProbe"]["httpGet"], json!({ "path": "/", "port": "http" }));
        assert_eq!(pod["volumes"], json!([{ "name": "config", "configMap": { "name": "tempo-config" } }]));
        let config = objects.iter().find(|object| object["metadata"]["name"] == "tempo-config").unwrap();
        let config: Value = serde_json::from_str(config["data"]["config.yaml"].as_str().unwrap()).unwrap();
        assert_eq!(config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"], "0.0.0.0:4317");
    }

    #[test]
    fn images_are_known_by_their_whole_name() {
        assert_eq!(qualified("otel/collector:1"), "docker.io/otel/collector:1");
        for image in ["quay.io/prometheus/prometheus:v1", "localhost/a:1", "localhost:5000/a:1"] {
            assert_eq!(qualified(image), image);
        }
        let bundle = "kind: ClusterRole\n---\nkind: Deployment\nspec: { template: { spec: { containers: [{ image: quay.io/x/operator:v1, \
            args: [--a=b, --prometheus-config-reloader=quay.io/x/reloader:v1] }] } } }\n";
        let names = images(&adapted("http://10.0.0.1:4318").unwrap(), bundle).unwrap();
        let of = |tool: &str| names.iter().find(|(name, _)| *name == tool).unwrap().1.clone();
        assert_eq!(of("prometheus"), PROMETHEUS);
        assert_eq!(of("prometheus-operator"), "quay.io/x/operator:v1");
        assert_eq!(of("prometheus-config-reloader"), "quay.io/x/reloader:v1");
    }

    #[test]
    fn a_value_is_pushed_in_the_words_of_otlp() {
        let attributes = [("multigres.cluster".to_owned(), "a".to_owned())];
        let export = export("story.pushed", 7.0, &attributes, Timestamp::from_second(2).unwrap());
        let of_resource = &export["resourceMetrics"][0];
        assert_eq!(of_resource["resource"]["attributes"][0]["value"]["stringValue"], "a");
        let point = &of_resource["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"][0];
        assert_eq!(*point, json!({ "asDouble": 7.0, "timeUnixNano": "2000000000" }));
    }
}
