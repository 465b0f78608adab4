//! What is scraped: the targets of the chart's monitors, found and selected as the Prometheus Operator does it, and the kubelets.
//!
//! Pods are asked themselves, as their monitors say; kubelets through the API server, which knows who may ask them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

/// How often kubelets are asked: their page is long, and it changes once a minute.
const KUBELET_INTERVAL: &str = "10s";
/// What is kept of it.
const KUBELET_SERIES: &str = "kubelet_volume_stats_.*";

/// How the API server is reached.
pub(super) struct Access {
    /// Its host and port.
    host: String,
    /// `tls_config` and `authorization`, as every client of Prometheus has them.
    client: Map<String, Value>,
}

impl Access {
    /// That of the present context of a kubeconfig; what it holds inline becomes files in `dir`.
    pub(super) fn read(kubeconfig: &Path, dir: &Path) -> Result<Self> {
        let text = fs::read_to_string(kubeconfig).with_context(|| format!("reading {}", kubeconfig.display()))?;
        let value: Value =
            serde_saphyr::from_str(&text).with_context(|| format!("parsing {}", kubeconfig.display()))?;
        Self::parse(&value, dir).with_context(|| format!("in {}", kubeconfig.display()))
    }

    fn parse(value: &Value, dir: &Path) -> Result<Self> {
        let context = &named(&value["contexts"], &value["current-context"])?["context"];
        let cluster = &named(&value["clusters"], &context["cluster"])?["cluster"];
        let user = &named(&value["users"], &context["user"])?["user"];
        let server = cluster["server"].as_str().context("no server")?;
        let host = server.strip_prefix("https://").with_context(|| format!("{server} is not https"))?;
        let mut tls = Map::new();
        for (entry, key, name) in [
            (cluster, "certificate-authority", "ca_file"),
            (user, "client-certificate", "cert_file"),
            (user, "client-key", "key_file"),
        ] {
            if let Some(file) = file(entry, key, dir)? {
                tls.insert(name.to_owned(), json!(file));
            }
        }
        let mut client = Map::new();
        if let Some(token) = user["token"].as_str() {
            client.insert("authorization".to_owned(), json!({ "credentials": token }));
        }
        ensure!(tls.contains_key("cert_file") || !client.is_empty(), "neither a token nor a client certificate");
        client.insert("tls_config".to_owned(), tls.into());
        Ok(Self { host: host.trim_end_matches('/').to_owned(), client })
    }

    /// Finds objects of a role, everywhere or in some namespaces.
    fn discovery(&self, role: &str, namespaces: &Value) -> Value {
        let mut found = self.client.clone();
        found.insert("api_server".to_owned(), format!("https://{}", self.host).into());
        found.insert("role".to_owned(), role.into());
        if !namespaces.is_null() {
            found.insert("namespaces".to_owned(), json!({ "names": namespaces }));
        }
        found.into()
    }
}

/// A job whose targets are asked in some way: `scheme` and, with TLS, how.
fn scraped(
    mut job: Map<String, Value>,
    name: &str,
    interval: &str,
    honor_labels: bool,
    discovery: Value,
    relabelings: Vec<Value>,
) -> Value {
    job.insert("job_name".to_owned(), name.into());
    job.insert("scrape_interval".to_owned(), interval.into());
    job.insert("scrape_timeout".to_owned(), interval.into());
    job.insert("honor_labels".to_owned(), honor_labels.into());
    // Not everybody says what kind of text it is.
    job.insert("fallback_scrape_protocol".to_owned(), "PrometheusText0.0.4".into());
    job.insert("kubernetes_sd_configs".to_owned(), Value::Array(vec![discovery]));
    job.insert("relabel_configs".to_owned(), relabelings.into());
    job.into()
}

/// How a monitor wants its pods to be asked. The file of its token is one of the Prometheus that the monitor is for; `token` takes its place.
fn manner(endpoint: &Value, token: Option<&Path>) -> Result<Map<String, Value>> {
    let mut how = Map::new();
    let scheme = endpoint["scheme"].as_str().unwrap_or("http");
    how.insert("scheme".to_owned(), scheme.into());
    if !endpoint["bearerTokenFile"].is_null() {
        let token = token.context("the monitor shows a token, and this server has none")?;
        how.insert("authorization".to_owned(), json!({ "credentials_file": token }));
    }
    if !endpoint["tlsConfig"].is_null() {
        how.insert("tls_config".to_owned(), snake(&endpoint["tlsConfig"])?);
    }
    Ok(how)
}

/// The entry of a kubeconfig's list that has this name.
fn named<'a>(list: &'a Value, name: &Value) -> Result<&'a Value> {
    let found = list.as_array().into_iter().flatten().find(|entry| entry["name"] == *name);
    found.with_context(|| format!("nothing is named {name}"))
}

/// The file that an entry names, or one with what it holds inline.
fn file(entry: &Value, key: &str, dir: &Path) -> Result<Option<PathBuf>> {
    if let Some(path) = entry[key].as_str() {
        return Ok(Some(path.into()));
    }
    let inline = &entry[format!("{key}-data")];
    if inline.is_null() {
        return Ok(None);
    }
    let ByteString(bytes) = serde_json::from_value(inline.clone()).with_context(|| format!("{key}-data"))?;
    let path = dir.join(key);
    fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(Some(path))
}

/// The jobs of all monitors, and one for the kubelets. A monitor that shows a token shows the one in this file.
pub(super) fn configs(manifests: &[Value], access: &Access, token: Option<&Path>) -> Result<Vec<Value>> {
    let mut jobs = Vec::new();
    for manifest in manifests {
        let name = format!("{}/{}", text(&manifest["metadata"]["namespace"])?, text(&manifest["metadata"]["name"])?);
        let (role, endpoints) = match manifest["kind"].as_str() {
            Some("ServiceMonitor") => (Role::EndpointSlice, &manifest["spec"]["endpoints"]),
            Some("PodMonitor") => (Role::Pod, &manifest["spec"]["podMetricsEndpoints"]),
            _ => continue,
        };
        for endpoint in endpoints.as_array().with_context(|| format!("{name} has no endpoints"))? {
            let how = manner(endpoint, token).with_context(|| name.clone())?;
            jobs.push(job(access, role, &name, &manifest["spec"], endpoint, how).with_context(|| name.clone())?);
        }
    }
    ensure!(!jobs.is_empty(), "the chart renders no monitors");
    jobs.push(kubelets(access));
    Ok(jobs)
}

/// Where the targets of a monitor come from.
#[derive(Clone, Copy)]
enum Role {
    /// Services, by their endpoints.
    EndpointSlice,
    /// Pods themselves.
    Pod,
}

fn job(
    access: &Access,
    role: Role,
    name: &str,
    spec: &Value,
    endpoint: &Value,
    how: Map<String, Value>,
) -> Result<Value> {
    let port = text(&endpoint["port"])?;
    let (role, of, port_name) = match role {
        Role::EndpointSlice => ("endpointslice", "service", "__meta_kubernetes_endpointslice_port_name"),
        Role::Pod => ("pod", "pod", "__meta_kubernetes_pod_container_port_name"),
    };
    let selected = spec["selector"]["matchLabels"].as_object().context("it selects nothing")?;
    let mut relabelings = vec![keep("__meta_kubernetes_pod_name", ".+")];
    for (label, value) in selected {
        let source =
            format!("__meta_kubernetes_{of}_label_{}", label.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
        relabelings.push(keep(&source, text(value)?));
    }
    relabelings.push(keep(port_name, port));
    relabelings.push(
        json!({ "action": "drop", "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "Failed|Succeeded" }),
    );
    for (source, target) in [("namespace", "namespace"), ("pod_name", "pod"), ("pod_container_name", "container")] {
        relabelings.push(copy(&format!("__meta_kubernetes_{source}"), target));
    }
    relabelings.push(json!({ "target_label": "endpoint", "replacement": port }));
    if of == "service" {
        relabelings.push(copy("__meta_kubernetes_service_name", "service"));
        relabelings.push(copy("__meta_kubernetes_service_name", "job"));
    } else {
        relabelings.push(json!({ "target_label": "job", "replacement": name }));
    }
    for own in endpoint["relabelings"].as_array().into_iter().flatten() {
        relabelings.push(snake(own)?);
    }
    let namespaces = &spec["namespaceSelector"]["matchNames"];
    let honor_labels = endpoint["honorLabels"].as_bool().unwrap_or_default();
    let discovery = access.discovery(role, namespaces);
    Ok(scraped(how, &format!("{of}/{name}"), text(&endpoint["interval"])?, honor_labels, discovery, relabelings))
}

fn kubelets(access: &Access) -> Value {
    let relabelings = vec![
        json!({ "target_label": "job", "replacement": "kubelet" }),
        copy("__meta_kubernetes_node_name", "instance"),
        json!({
            "source_labels": ["__meta_kubernetes_node_name"], "regex": "(.+)", "target_label": "__metrics_path__",
            "replacement": "/api/v1/nodes/$1/proxy/metrics",
        }),
        json!({ "target_label": "__address__", "replacement": access.host }),
    ];
    let mut how = access.client.clone();
    how.insert("scheme".to_owned(), "https".into());
    let discovery = access.discovery("node", &Value::Null);
    let mut job = scraped(how, "kubelet", KUBELET_INTERVAL, true, discovery, relabelings);
    job["metric_relabel_configs"] = json!([keep("__name__", KUBELET_SERIES)]);
    job
}

fn keep(source: &str, pattern: &str) -> Value {
    json!({ "action": "keep", "source_labels": [source], "regex": pattern })
}

fn copy(source: &str, target: &str) -> Value {
    json!({ "source_labels": [source], "target_label": target })
}

/// A part of a monitor in the words of Prometheus.
fn snake(part: &Value) -> Result<Value> {
    let fields = part.as_object().context("a part of a monitor without fields")?;
    let renamed = fields.iter().map(|(name, value)| {
        let mut words = String::new();
        for letter in name.chars() {
            if letter.is_ascii_uppercase() {
                words.push('_');
            }
            words.push(letter.to_ascii_lowercase());
        }
        (words, value.clone())
    });
    Ok(Value::Object(renamed.collect()))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(dir: &Path) -> Access {
        let kubeconfig = json!({
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "clusters": [
                { "name": "b", "cluster": {} },
                { "name": "c", "cluster": { "server": "https://10.0.0.1:6443/", "certificate-authority": "/pki/ca.crt" } },
            ],
            "users": [{ "name": "u", "user": { "token": "secret", "client-key-data": "a2V5" } }],
            "current-context": "x",
        });
        Access::parse(&kubeconfig, dir).unwrap()
    }

    #[test]
    fn the_api_server_is_reached_as_the_kubeconfig_says() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        assert_eq!(access.host, "10.0.0.1:6443");
        assert_eq!(access.client["authorization"]["credentials"], "secret");
        assert_eq!(access.client["tls_config"]["ca_file"], "/pki/ca.crt");
        assert_eq!(fs::read_to_string(dir.path().join("client-key")).unwrap(), "key");
        assert!(Access::parse(&json!({ "current-context": "y" }), dir.path()).is_err());
    }

    #[test]
    fn a_monitor_becomes_a_job_that_selects_what_the_monitor_does() {
        let dir = tempfile::tempdir().unwrap();
        let monitor = json!({
            "kind": "ServiceMonitor", "metadata": { "namespace": "n", "name": "m" },
            "spec": {
                "namespaceSelector": { "matchNames": ["n"] },
                "selector": { "matchLabels": { "app.kubernetes.io/component": "controller" } },
                "endpoints": [{
                    "port": "metrics", "interval": "3s", "honorLabels": true,
                    "relabelings": [{ "action": "replace", "sourceLabels": ["a"], "targetLabel": "b" }],
                }],
            },
        });
        let jobs = configs(
            &[monitor, json!({ "kind": "PrometheusRule", "metadata": { "namespace": "n", "name": "r" } })],
            &access(dir.path()),
            None,
        );
        let jobs = jobs.unwrap();
        assert_eq!(jobs.len(), 2, "one of the monitor and one of the kubelets");
        let job = &jobs[0];
        assert_eq!((&job["job_name"], &job["honor_labels"]), (&json!("service/n/m"), &json!(true)));
        assert_eq!((&job["scheme"], &job["authorization"]), (&json!("http"), &Value::Null));
        assert_eq!(job["kubernetes_sd_configs"][0]["namespaces"]["names"], json!(["n"]));
        let relabelings = job["relabel_configs"].as_array().unwrap();
        assert_eq!(relabelings[1], keep("__meta_kubernetes_service_label_app_kubernetes_io_component", "controller"));
        assert!(relabelings.contains(&json!({ "action": "replace", "source_labels": ["a"], "target_label": "b" })));
        let kubelets = &jobs[1];
        assert_eq!(
            (&kubelets["scheme"], &kubelets["authorization"]["credentials"]),
            (&json!("https"), &json!("secret"))
        );
        let last = &kubelets["relabel_configs"].as_array().unwrap().last().unwrap()["replacement"];
        assert_eq!(last, "10.0.0.1:6443");
    }

    #[test]
    fn secured_pods_are_shown_the_token_of_the_story() {
        let dir = tempfile::tempdir().unwrap();
        let monitor = json!({
            "kind": "PodMonitor", "metadata": { "namespace": "n", "name": "m" },
            "spec": {
                "selector": { "matchLabels": { "a": "b" } },
                "podMetricsEndpoints": [{
                    "port": "metrics", "interval": "3s", "scheme": "https",
                    "bearerTokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token",
                    "tlsConfig": { "insecureSkipVerify": true },
                }],
            },
        });
        let all = std::slice::from_ref(&monitor);
        let jobs = configs(all, &access(dir.path()), Some(Path::new("/dir/token"))).unwrap();
        let how = (&jobs[0]["scheme"], &jobs[0]["authorization"], &jobs[0]["tls_config"]);
        let (token, tls) = (json!({ "credentials_file": "/dir/token" }), json!({ "insecure_skip_verify": true }));
        assert_eq!(how, (&json!("https"), &token, &tls));
        let error = configs(all, &access(dir.path()), None).unwrap_err();
        assert!(format!("{error:#}").contains("token"), "{error:#}");
    }
}
