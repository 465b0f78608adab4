//! What a Prometheus server answers: in the network of the bed, or through the API server where it is behind a Service.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::wait::{until, within};

/// A server that answers queries, wherever it runs.
pub struct Server(Way);

/// How it is reached.
enum Way {
    /// At an address of its own.
    Address(SocketAddr),
    /// Through the API server, below this path.
    Proxy(Client, String),
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

/// Something that is scraped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The labels of its series.
    pub labels: BTreeMap<String, String>,
    /// Where it is scraped.
    pub url: String,
    /// `up`, `down`, or `unknown` before the first time.
    pub health: String,
    /// What went wrong the last time; empty where nothing did.
    pub error: String,
}

impl Server {
    /// The one that listens at an address.
    pub(super) fn at(address: SocketAddr) -> Self {
        Self(Way::Address(address))
    }

    /// The one behind a Service and one of its ports.
    pub fn behind(client: Client, namespace: &str, service: &str, port: &str) -> Self {
        Self(Way::Proxy(client, format!("/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy")))
    }

    /// What it answers to a path, with its query.
    pub(super) async fn fetch(&self, path: &str) -> Result<String> {
        match &self.0 {
            Way::Address(address) => fetch(*address, path).await,
            Way::Proxy(client, below) => {
                let request = http::Request::get(format!("{below}{path}")).body(Vec::new())?;
                client.request_text(request).await.with_context(|| path.to_owned())
            }
        }
    }

    async fn ask(&self, path: &str, words: &[(&str, &str)]) -> Result<Value> {
        let words: Vec<String> =
            words.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
        let path = if words.is_empty() { path.to_owned() } else { format!("{path}?{}", words.join("&")) };
        let text = self.fetch(&path).await?;
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

    /// All that is scraped.
    pub async fn targets(&self) -> Result<Vec<Target>> {
        let data = self.ask("/api/v1/targets", &[("state", "active")]).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = |target: &Value| -> Result<Target> {
            Ok(Target {
                labels: labels(&target["labels"])?,
                url: text(&target["scrapeUrl"]),
                health: text(&target["health"]),
                error: text(&target["lastError"]),
            })
        };
        data["activeTargets"].as_array().into_iter().flatten().map(target).collect()
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

    /// Waits until every alert that the server knows was evaluated, and says which could not be.
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
    use serde_json::json;

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
