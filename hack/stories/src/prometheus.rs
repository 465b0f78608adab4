//! A Prometheus server beside the pods: it scrapes the bed as the chart's monitors say, takes what is pushed to it by OTLP, evaluates the
//! chart's alerts, and answers queries.
//!
//! It runs in the network of the bed, so it reaches pods, and pods reach it.

pub mod dashboard;
mod manifest;
mod scrape;

use std::{
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Child,
};

use crate::{
    backup::in_bed,
    bed::{Bed, KUBECONFIG},
    fault::TESTBED,
    helm::Tools,
    object_store::{UNTIL_END_OF_INPUT, node_address},
    wait::{until, within},
};

/// How often is scraped and evaluated.
const INTERVAL: &str = "3s";
/// What the windows of the alerts' expressions are shortened to: a story has no ten minutes for an alert to be over.
const WINDOW: &str = "30s";
/// How much of the server's log an error quotes, in lines.
const QUOTED: usize = 20;
/// Ports that a server may get: the first, and how many. Nobody else in the network of the bed listens on them.
const PORTS: (u16, u16) = (12_000, 3_000);
/// How long it may take to write its data down when it ends.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How late a sample may be that is pushed.
const LATE: &str = "10m";

/// Servers that this process has started.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running server; it ends with this value, and so does its data.
pub struct Prometheus {
    child: Mutex<Child>,
    address: SocketAddr,
    // The directory goes after the process.
    dir: TempDir,
}

/// One sample of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value; NaN where there was nothing to calculate with.
    pub value: f64,
}

/// An alert that is pending or fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its labels, `alertname` among them.
    pub labels: BTreeMap<String, String>,
    /// `pending` or `firing`.
    pub state: String,
}

impl Alert {
    /// Whether it is the named one and has these labels.
    pub fn is(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        let has = |label: &str, value: &str| self.labels.get(label).is_some_and(|found| found == value);
        has("alertname", name) && labels.iter().all(|(label, value)| has(label, value))
    }
}

impl Prometheus {
    /// Starts a server with the monitors and alerts of the chart, rendered with these values, and waits until it answers. To secured pods it
    /// shows the `token`.
    ///
    /// The windows of the alerts are cut to half a minute; thresholds and delays are values of the chart.
    pub async fn start(bed: &Bed, tools: &Tools, values: &[String], token: Option<&str>) -> Result<Self> {
        let program = program().await?;
        let manifests = manifest::render(tools, INTERVAL, values).await?;
        let dir = tempfile::tempdir().context("making a directory for Prometheus")?;
        let rules = dir.path().join("rules.yaml");
        write(&rules, &json!({ "groups": manifest::groups(&manifests, WINDOW)? }))?;
        let kubeconfig = env::var_os(KUBECONFIG).with_context(|| format!("{KUBECONFIG} is not set"))?;
        let access = scrape::Access::read(Path::new(&kubeconfig), dir.path())?;
        let config = dir.path().join("prometheus.yaml");
        let global = json!({
            "scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL,
        });
        let shown = dir.path().join("token");
        if let Some(token) = token {
            fs::write(&shown, token).context("writing the token")?;
        }
        let scraped = scrape::configs(&manifests, &access, token.map(|_| shown.as_path()))?;
        let pushed = json!({ "promote_resource_attributes": manifest::promoted()? });
        let storage = json!({ "tsdb": { "out_of_order_time_window": LATE } });
        write(
            &config,
            &json!({ "global": global, "rule_files": [rules], "scrape_configs": scraped, "otlp": pushed, "storage": storage }),
        )?;
        let host: IpAddr = node_address(bed).await?.parse().context("the address of a node")?;
        let address = SocketAddr::new(host, port());
        let log = fs::File::create(dir.path().join("log")).context("making the log of Prometheus")?;
        let mut command = in_bed()?;
        command.args(["bash", "-c", UNTIL_END_OF_INPUT, "bash"]).arg(&program);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.args(["--web.enable-otlp-receiver", "--log.level=warn"]);
        // The end of its input ends it, and an end of our own is one.
        command.kill_on_drop(false).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let server = Self { child: Mutex::new(child), address, dir };
        server.ready().await?;
        Ok(server)
    }

    async fn ready(&self) -> Result<()> {
        let answered = until("an answer of Prometheus", within(60), || async {
            // One that ended will not answer however long somebody waits, and says why in its log.
            if let Some(status) = self.ended()? {
                return Ok(Err(anyhow::anyhow!("Prometheus ended with {status}")));
            }
            fetch(self.address, "/-/ready").await.map(Ok)
        });
        answered.await.flatten().with_context(|| format!("its log ends with:\n{}", self.log())).map(drop)
    }

    /// Where exporters push series to by OTLP over HTTP, as `OTEL_EXPORTER_OTLP_ENDPOINT` names it.
    pub fn otlp(&self) -> String {
        format!("http://{}/api/v1/otlp", self.address)
    }

    fn ended(&self) -> Result<Option<std::process::ExitStatus>> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.try_wait().context("looking after Prometheus")
    }

    /// The end of the server's log.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(QUOTED)..].join("\n")
    }

    async fn ask(&self, path: &str, words: &[(&str, &str)]) -> Result<Value> {
        let words: Vec<String> =
            words.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
        let path = if words.is_empty() { path.to_owned() } else { format!("{path}?{}", words.join("&")) };
        let text = fetch(self.address, &path).await?;
        let mut answer: Value = serde_json::from_str(&text).with_context(|| format!("the answer to {path}"))?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer["data"].take())
    }

    /// What an expression yields now.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let data = self.ask("/api/v1/query", &[("query", expression)]).await.with_context(|| expression.to_owned())?;
        ensure!(data["resultType"] == "vector", "{expression} yields no vector: {data}");
        let samples = data["result"].as_array().into_iter().flatten();
        samples.map(|sample| sampled(sample).with_context(|| format!("{expression}: {sample}"))).collect()
    }

    /// The values of a label of the series that a selector selects.
    pub async fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        let path = format!("/api/v1/label/{}/values", encoded(label));
        let data = self.ask(&path, &[("match[]", selector)]).await?;
        Ok(serde_json::from_value(data)?)
    }

    /// All alerts that are pending or fire.
    pub async fn alerts(&self) -> Result<Vec<Alert>> {
        let data = self.ask("/api/v1/alerts", &[]).await?;
        let alerts = data["alerts"].as_array().into_iter().flatten();
        let alert = |alert: &Value| -> Result<Alert> {
            Ok(Alert {
                labels: labels(&alert["labels"])?,
                state: alert["state"].as_str().unwrap_or_default().to_owned(),
            })
        };
        alerts.map(alert).collect()
    }

    /// Waits until an expression yields something.
    pub async fn holds(&self, expression: &str, seconds: u64) -> Result<Vec<Sample>> {
        until(&format!("something for {expression}"), within(seconds), || async {
            let found = self.query(expression).await?;
            ensure!(!found.is_empty(), "nothing");
            Ok(found)
        })
        .await
    }

    /// Waits until an alert with these labels fires.
    pub async fn fires(&self, name: &str, labels: &[(&str, &str)], seconds: u64) -> Result<Alert> {
        until(&format!("{name} with {labels:?}"), within(seconds), || async {
            let alerts = self.alerts().await?;
            let found = alerts.iter().find(|alert| alert.is(name, labels) && alert.state == "firing");
            found.cloned().with_context(|| format!("there are {alerts:?}"))
        })
        .await
    }

    /// Waits until no alert with these labels fires or is about to.
    pub async fn resolves(&self, name: &str, labels: &[(&str, &str)], seconds: u64) -> Result<()> {
        until(&format!("the end of {name} with {labels:?}"), within(seconds), || async {
            let left: Vec<Alert> = self.alerts().await?.into_iter().filter(|alert| alert.is(name, labels)).collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await
    }

    /// Waits until every alert of the chart was evaluated, and says which could not be.
    pub async fn rules_work(&self, seconds: u64) -> Result<usize> {
        until("alerts that can be evaluated", within(seconds), || async {
            let data = self.ask("/api/v1/rules", &[]).await?;
            let groups = data["groups"].as_array().into_iter().flatten();
            let rules: Vec<&Value> = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten()).collect();
            let failed: Vec<String> = rules
                .iter()
                .filter(|rule| rule["health"] != "ok")
                .map(|rule| format!("{} is {}: {}", rule["name"], rule["health"], rule["lastError"]))
                .collect();
            ensure!(failed.is_empty() && !rules.is_empty(), "of {} rules {failed:?}", rules.len());
            Ok(rules.len())
        })
        .await
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(child.stdin.take());
        // Its directory goes after it, and nobody scrapes any more when this returns.
        let end = Instant::now() + ENDS_WITHIN;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A port for the next server of this process. Processes that run side by side have ids side by side.
fn port() -> u16 {
    let number = std::process::id().wrapping_mul(4).wrapping_add(STARTED.fetch_add(1, Ordering::Relaxed));
    PORTS.0 + u16::try_from(number % u32::from(PORTS.1)).unwrap_or_default()
}

/// The server's program; the testbed builds it if need be.
async fn program() -> Result<PathBuf> {
    let testbed = env::var_os(TESTBED).with_context(|| format!("{TESTBED} does not name the testbed's command"))?;
    let mut command = tokio::process::Command::new(&testbed);
    command.args(["tools", "prometheus"]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().await.with_context(|| format!("starting {}", testbed.display()))?;
    ensure!(output.status.success(), "`testbed tools prometheus` ended with {}", output.status);
    let text = String::from_utf8(output.stdout).context("the testbed's answer")?;
    let dir = text.lines().last().context("the testbed does not say where Prometheus is")?;
    Ok(Path::new(dir).join("prometheus"))
}

/// Writes a configuration; JSON is the YAML that Prometheus reads.
fn write(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// One request; the oldest HTTP has no parts to put together and ends with the connection.
async fn fetch(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await.context("connecting to Prometheus")?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.context("reading the answer of Prometheus")?;
    let answer = String::from_utf8(answer).context("the answer of Prometheus")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let code = head.split_whitespace().nth(1).unwrap_or_default();
    ensure!(code == "200", "{path} was answered with {code}: {body}");
    Ok(body.to_owned())
}

/// The text as a part of an address.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let letter = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(letter).collect()
}

fn labels(value: &Value) -> Result<BTreeMap<String, String>> {
    serde_json::from_value(value.clone()).with_context(|| format!("labels {value}"))
}

fn sampled(sample: &Value) -> Result<Sample> {
    let value = sample["value"][1].as_str().context("no value")?;
    Ok(Sample { labels: labels(&sample["metric"])?, value: value.parse().with_context(|| value.to_owned())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_survive_being_part_of_an_address() {
        assert_eq!(encoded(r#"a{b=~"c|d"} > 1"#), "a%7Bb%3D~%22c%7Cd%22%7D%20%3E%201");
        assert_eq!(encoded("match[]"), "match%5B%5D");
    }

    #[test]
    fn values_that_are_no_numbers_are_read_as_such() {
        let sample = |value: &str| sampled(&json!({ "metric": { "a": "b" }, "value": [1.5, value] })).unwrap();
        assert_eq!(sample("2"), Sample { labels: [("a".to_owned(), "b".to_owned())].into(), value: 2.0 });
        assert!(sample("NaN").value.is_nan());
        assert!(sample("+Inf").value.is_infinite());
        assert!(sampled(&json!({ "metric": {}, "value": [1.5, "much"] })).is_err());
    }

    #[test]
    fn an_alert_is_told_by_its_name_and_by_some_of_its_labels() {
        let labels = [("alertname", "Down"), ("namespace", "a"), ("severity", "page")];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
        let alert = Alert { labels, state: "firing".to_owned() };
        assert!(alert.is("Down", &[("namespace", "a")]) && alert.is("Down", &[]));
        assert!(!alert.is("Down", &[("namespace", "b")]) && !alert.is("Up", &[]) && !alert.is("Down", &[("pod", "a")]));
    }
}
