//! The check behind `helm test`: asks the API server itself, with dry runs, whether admission works from end to end.
//!
//! Readiness of the pods does not prove that the API server reaches them, trusts their certificate and asks them at all.
//! These requests do: a good cluster has to pass and come back with its databases, a bad one and a child kind have to be
//! refused by name.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind, Status},
};
use serde_json::json;
use tokio::time::Instant;

/// Name of the objects that are never stored.
const NAME: &str = "admission-self-test";
/// A template that nobody has.
const NO_TEMPLATE: &str = "admission-self-test-does-not-exist";
/// How long to wait between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Flags of the check.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// Namespace of the dry runs.
    #[arg(long, env = "POD_NAMESPACE", default_value = "multigres-operator")]
    pub namespace: String,
    /// Expect that child kinds are refused, too.
    #[arg(
        long, env = "CHILD_PROTECTION", default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = clap::ArgAction::Set
    )]
    pub child_protection: bool,
    /// How long to try again before a failure counts.
    #[arg(long, env = "SELF_TEST_PATIENCE", default_value = "30s", value_parser = shared::cli::parse_duration)]
    pub patience: Duration,
}

/// What does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What has to pass was refused, or could not be asked.
    #[error("a good cluster was not accepted: {0}")]
    GoodRefused(kube::Error),
    /// The good cluster came back as it was sent.
    #[error("a cluster came back without databases: the mutating webhook was not asked")]
    NotMutated,
    /// What has to be refused passed.
    #[error("{0} was accepted: the API server does not ask the validating webhook")]
    BadAccepted(&'static str),
    /// It was refused, but by somebody else.
    #[error("{what} was refused, but not by us: {source}")]
    RefusedElsewhere {
        /// What was sent.
        what: &'static str,
        /// The answer.
        source: kube::Error,
    },
}

/// Runs the check until it succeeds or its patience ends; returns one line for each thing that was proven.
pub async fn run(client: &Client, args: &Args) -> Result<Vec<String>, Error> {
    let end = Instant::now() + args.patience;
    loop {
        match attempt(client, args).await {
            Err(error) if Instant::now() < end => {
                tracing::info!(error = %error, "not yet");
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

async fn attempt(client: &Client, args: &Args) -> Result<Vec<String>, Error> {
    let mut proven = vec![good(client, &args.namespace).await?];
    let bad = json!({ "cells": [{ "name": "zone-a" }], "templateDefaults": { "coreTemplate": NO_TEMPLATE } });
    let what = "a cluster with a template that does not exist";
    proven.push(refused(client, &args.namespace, "MultigresCluster", bad, what, judged_by_us).await?);
    if args.child_protection {
        let what = "a TopoServer";
        proven.push(refused(client, &args.namespace, "TopoServer", json!({}), what, protected).await?);
    }
    Ok(proven)
}

async fn good(client: &Client, namespace: &str) -> Result<String, Error> {
    let spec = json!({ "cells": [{ "name": "zone-a" }] });
    let stored = dry_run(client, namespace, "MultigresCluster", spec).await.map_err(Error::GoodRefused)?;
    let databases = stored.data.pointer("/spec/databases").and_then(|databases| databases.as_array());
    if databases.is_none_or(Vec::is_empty) {
        return Err(Error::NotMutated);
    }
    Ok("a good cluster is accepted and gets its databases".to_owned())
}

async fn refused(
    client: &Client,
    namespace: &str,
    kind: &str,
    spec: serde_json::Value,
    what: &'static str,
    expected: fn(&Status) -> bool,
) -> Result<String, Error> {
    match dry_run(client, namespace, kind, spec).await {
        Ok(_) => Err(Error::BadAccepted(what)),
        Err(kube::Error::Api(status)) if expected(&status) => Ok(format!("{what} is refused: {}", status.message)),
        Err(source) => Err(Error::RefusedElsewhere { what, source }),
    }
}

async fn dry_run(
    client: &Client,
    namespace: &str,
    kind: &str,
    spec: serde_json::Value,
) -> Result<DynamicObject, kube::Error> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("multigres.com", "v1alpha1", kind));
    let object = DynamicObject::new(NAME, &resource).within(namespace).data(json!({ "spec": spec }));
    let params = PostParams { dry_run: true, ..PostParams::default() };
    Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource).create(&params, &object).await
}

/// The API server quotes the webhook that refused, which tells a judgement from an unreachable or distrusted webhook.
fn judged_by_us(status: &Status) -> bool {
    status.message.contains("multigrescluster.kb.io\" denied the request") && status.message.contains(NO_TEMPLATE)
}

fn protected(status: &Status) -> bool {
    status.code == 403
        && (status.message.contains("vtoposerver.kb.io\" denied the request")
            || status.message.contains("ValidatingAdmissionPolicy"))
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    const JUDGED: &str = "admission webhook \"vmultigrescluster.kb.io\" denied the request: spec.templateDefaults.coreTemplate: \
                          admission-self-test-does-not-exist does not exist";
    const PROTECTED: &str =
        "admission webhook \"vtoposerver.kb.io\" denied the request: TopoServers are written by the operator";

    /// An API server with fixed answers for a good cluster, a bad one and a child.
    fn server(good: (u16, Value), bad: (u16, Value), child: (u16, Value)) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let answers = [good.clone(), bad.clone(), child.clone()];
            async move {
                assert!(request.uri().query().is_some_and(|query| query.contains("dryRun=All")), "stored for real");
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect_bytes().await.expect("body");
                let index = if path.ends_with("/toposervers") {
                    2
                } else {
                    usize::from(String::from_utf8_lossy(&body).contains(NO_TEMPLATE))
                };
                let (code, answer) = answers[index].clone();
                Ok::<_, std::convert::Infallible>(
                    Response::builder()
                        .status(code)
                        .body(Body::from(answer.to_string().into_bytes()))
                        .expect("response"),
                )
            }
        });
        Client::new(service, "default")
    }

    fn accepted(spec: &Value) -> (u16, Value) {
        (
            201,
            json!({ "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster", "metadata": { "name": NAME }, "spec": spec }),
        )
    }

    fn denied(message: &str) -> (u16, Value) {
        let status = json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": message,
        });
        (403, status)
    }

    fn mutated() -> (u16, Value) {
        accepted(&json!({ "databases": [{ "name": "postgres", "default": true }] }))
    }

    fn args(child_protection: bool) -> Args {
        Args { namespace: "here".to_owned(), child_protection, patience: Duration::ZERO }
    }

    #[tokio::test]
    async fn working_admission_passes_with_one_line_for_each_proof() {
        let client = server(mutated(), denied(JUDGED), denied(PROTECTED));
        assert_eq!(run(&client, &args(true)).await.expect("proofs").len(), 3);
        let client = server(mutated(), denied(JUDGED), mutated());
        assert_eq!(run(&client, &args(false)).await.expect("proofs").len(), 2);
    }

    #[tokio::test]
    async fn a_policy_may_protect_the_children() {
        let policy = denied("ValidatingAdmissionPolicy 'p' with binding 'p' denied request: no");
        run(&server(mutated(), denied(JUDGED), policy), &args(true)).await.expect("proofs");
    }

    #[tokio::test]
    async fn missing_webhooks_are_noticed() {
        let outcome = run(&server(accepted(&json!({})), denied(JUDGED), denied(PROTECTED)), &args(true)).await;
        assert!(matches!(outcome, Err(Error::NotMutated)), "{outcome:?}");
        let outcome = run(&server(mutated(), mutated(), denied(PROTECTED)), &args(true)).await;
        assert!(matches!(outcome, Err(Error::BadAccepted(_))), "{outcome:?}");
        let outcome = run(&server(mutated(), denied(JUDGED), mutated()), &args(true)).await;
        assert!(matches!(outcome, Err(Error::BadAccepted("a TopoServer"))), "{outcome:?}");
    }

    #[tokio::test]
    async fn refusals_that_are_no_judgement_do_not_count() {
        let distrusted = denied("failed calling webhook \"vmultigrescluster.kb.io\": x509: unknown authority");
        let outcome = run(&server(mutated(), distrusted.clone(), denied(PROTECTED)), &args(true)).await;
        assert!(matches!(outcome, Err(Error::RefusedElsewhere { .. })), "{outcome:?}");
        let outcome =
            run(&server(mutated(), denied(JUDGED), denied("toposervers is forbidden: no RBAC")), &args(true)).await;
        assert!(matches!(outcome, Err(Error::RefusedElsewhere { .. })), "{outcome:?}");
        let outcome = run(&server(distrusted, denied(JUDGED), denied(PROTECTED)), &args(true)).await;
        assert!(matches!(outcome, Err(Error::GoodRefused(_))), "{outcome:?}");
    }
}
