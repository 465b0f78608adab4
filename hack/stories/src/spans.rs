//! Spans that are exported while a story runs: taken by the program `spans` in the network of the bed, and kept here.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

use crate::{
    backup::in_bed,
    bed::{Bed, OPERATOR_NAMESPACE},
    object_store::node_address,
    wait::{until, within},
    webhook::Webhook,
};

/// The name by which the controller is known in traces.
pub const CONTROLLER: &str = "multigres-operator";
/// The name by which admission is known in traces.
pub const ADMISSION: &str = "multigres-operator-admission";
/// The variables by which the chart tells the operator's pods where spans go: the first for spans alone, the second where clusters inherit
/// the address from the controller.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// Admission's pods.
const REVIEWERS: usize = 2;

/// One span.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The trace that it belongs to, in hexadecimal digits.
    pub trace: String,
    /// Its own identity.
    pub id: String,
    /// That of its parent; empty for a root.
    pub parent: String,
    /// What it is about.
    pub name: String,
    /// Who has sent it.
    pub service: String,
    /// What is said of it.
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    /// Whether the operator has sent it.
    pub fn is_ours(&self) -> bool {
        self.service == CONTROLLER || self.service == ADMISSION
    }
}

/// The names of the spans around a span and its own, from the outermost that has arrived on.
pub fn path<'a>(all: &'a [Span], span: &'a Span) -> Vec<&'a str> {
    let by_id: BTreeMap<&str, &Span> = all.iter().map(|one| (one.id.as_str(), one)).collect();
    let mut names = vec![span.name.as_str()];
    let mut inner = span;
    // No path is longer than there are spans, whatever has arrived.
    while let Some(outer) = by_id.get(inner.parent.as_str()).filter(|_| names.len() < all.len()) {
        names.push(outer.name.as_str());
        inner = outer;
    }
    names.reverse();
    names
}

/// The environment of a container.
pub fn environment(container: &Container) -> BTreeMap<&str, &str> {
    let variables = container.env.iter().flatten();
    variables.map(|variable| (variable.name.as_str(), variable.value.as_deref().unwrap_or_default())).collect()
}

/// Waits until the pods of the operator export spans, or none of them does; those from before are gone.
pub async fn operator_exports(bed: &Bed, spans: bool) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), OPERATOR_NAMESPACE);
    until(&format!("an operator with spans: {spans}"), within(180), || async {
        let mut ready = 0;
        for component in ["controller", "admission"] {
            let labels = format!("app.kubernetes.io/component={component}");
            for pod in pods.list(&ListParams::default().labels(&labels)).await?.items {
                let spec = pod.spec.as_ref().context("a description")?;
                let mut variables = spec.containers.iter().map(environment);
                let exports = variables.any(|set| ENDPOINTS.iter().any(|endpoint| set.contains_key(endpoint)));
                ensure!(exports == spans && shared::health::is_ready(&pod), "{} is not yet as wanted", pod.name_any());
                ready += 1;
            }
        }
        ensure!(ready > REVIEWERS, "{ready} pods");
        Ok(())
    })
    .await?;
    // Whoever changes something now is answered by those.
    Webhook::new(&bed.client).ready(REVIEWERS).await
}

/// A collector that takes spans until it is dropped.
pub struct Spans {
    /// What exporters are to be told, without a path.
    pub endpoint: String,
    received: Arc<Mutex<Vec<Span>>>,
    served: Child,
}

impl Spans {
    /// Starts the program `spans` where pods reach it.
    pub async fn receive(bed: &Bed, program: &str) -> Result<Self> {
        let host = node_address(bed).await?;
        let mut command = in_bed()?;
        // The end of its input ends it, and an end of our own is one.
        command.args([program, "--host", &host]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(false);
        let mut served = command.spawn().context("starting the collector")?;
        let mut lines = BufReader::new(served.stdout.take().context("the collector's output")?).lines();
        let first =
            tokio::time::timeout(within(30), lines.next_line()).await.context("the collector does not start")??;
        let address = first.context("the collector has ended at once")?;
        let received: Arc<Mutex<Vec<Span>>> = Arc::default();
        let kept = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(span) => kept.lock().unwrap_or_else(PoisonError::into_inner).push(span),
                    Err(error) => eprintln!("story: {line:?} is no span: {error}"),
                }
            }
        });
        Ok(Self { endpoint: format!("http://{address}"), received, served })
    }

    /// What has arrived.
    pub fn all(&self) -> Vec<Span> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many spans of the operator have arrived.
    pub fn ours(&self) -> usize {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|span| span.is_ours()).count()
    }

    /// What has arrived of a trace.
    pub fn of_trace(&self, trace: &str) -> Vec<Span> {
        let mut all = self.all();
        all.retain(|span| span.trace == trace);
        all
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        drop(self.served.stdin.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_from_the_outermost_span_that_has_arrived() {
        let span = |id: &str, parent: &str| Span {
            id: id.to_owned(),
            parent: parent.to_owned(),
            name: format!("span {id}"),
            ..Span::default()
        };
        let all = [span("c", "b"), span("b", "a"), span("d", "gone"), span("a", "")];
        assert_eq!(path(&all, &all[0]), ["span a", "span b", "span c"]);
        assert_eq!(path(&all, &all[2]), ["span d"]);
        // A circle makes no sense, and ends.
        let circle = [span("a", "b"), span("b", "a")];
        assert_eq!(path(&circle, &circle[0]).len(), 2);
    }
}
