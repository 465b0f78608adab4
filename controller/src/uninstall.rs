//! The check before `helm uninstall`: it refuses while there are clusters, and then takes the webhooks away.
//!
//! A MultigresCluster that is deleted while there is no controller never goes, because nobody takes its finalizer away. And webhooks that
//! stayed longer than the pods behind them would refuse every change of what is left.

use std::fmt::Debug;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use serde::de::DeserializeOwned;
use shared::api::v1alpha1::MultigresCluster;

use crate::watch;

/// How many clusters a refusal names.
const NAMED: usize = 10;
/// How many are asked for: one more shows that there are more.
const ASKED: u32 = 11;

/// Flags of the check.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// Namespaces to look for clusters in; none means all.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Namespaces whose clusters are somebody else's.
    #[arg(long, env = "EXCLUDE_NAMESPACES", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,
    /// Configuration of the mutating webhook to delete; none is deleted without a name.
    #[arg(long, env = "MUTATING_WEBHOOK_CONFIGURATION")]
    pub mutating_webhook_configuration: Option<String>,
    /// Configuration of the validating webhooks to delete; none is deleted without a name.
    #[arg(long, env = "VALIDATING_WEBHOOK_CONFIGURATION")]
    pub validating_webhook_configuration: Option<String>,
}

/// Why the operator may not go yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody would clean up after these.
    #[error(
        "the operator is still needed, by the MultigresClusters {0}. To remove them, delete them first: kubectl delete multigresclusters \
         --all --namespace NAMESPACE. To leave them running without an operator: helm uninstall --no-hooks, but not with crds.keep=false, \
         which takes them along"
    )]
    StillNeeded(String),
    /// Whether there are clusters is not known.
    #[error("cannot list MultigresClusters: {0}; helm uninstall --no-hooks does without this check")]
    List(#[source] kube::Error),
    /// A configuration stays.
    #[error(
        "cannot delete the webhook configuration {name}: {source}; helm uninstall --no-hooks does without this check"
    )]
    Delete {
        /// Its name.
        name: String,
        /// The answer.
        source: kube::Error,
    },
}

/// Runs the check; answers one line for each thing that was found or done.
pub async fn run(client: &Client, args: &Args) -> Result<Vec<String>, Error> {
    let clusters = clusters(client, args).await?;
    if !clusters.is_empty() {
        return Err(Error::StillNeeded(named(&clusters)));
    }
    let mut lines = vec!["there are no MultigresClusters".to_owned()];
    if let Some(name) = &args.mutating_webhook_configuration {
        lines.push(remove::<MutatingWebhookConfiguration>(client, name).await?);
    }
    if let Some(name) = &args.validating_webhook_configuration {
        lines.push(remove::<ValidatingWebhookConfiguration>(client, name).await?);
    }
    Ok(lines)
}

/// The first clusters of each place, as namespace/name.
async fn clusters(client: &Client, args: &Args) -> Result<Vec<String>, Error> {
    let mut places: Vec<Api<MultigresCluster>> = args
        .watch_namespaces
        .iter()
        .filter(|namespace| !namespace.is_empty())
        .map(|namespace| Api::namespaced(client.clone(), namespace))
        .collect();
    if places.is_empty() {
        places.push(Api::all(client.clone()));
    }
    let mut wanted = ListParams::default().limit(ASKED);
    wanted.field_selector = watch::outside(&args.exclude_namespaces);
    let mut found = Vec::new();
    for place in places {
        match place.list_metadata(&wanted).await {
            Ok(list) => found.extend(list.items.iter().map(|cluster| {
                let namespace = cluster.namespace().unwrap_or_default();
                format!("{namespace}/{}", cluster.name_any())
            })),
            // Where there is no such kind, there are no clusters.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(source) => return Err(Error::List(source)),
        }
    }
    Ok(found)
}

/// The clusters as a sentence names them.
fn named(clusters: &[String]) -> String {
    let shown = clusters[..clusters.len().min(NAMED)].join(", ");
    if clusters.len() > NAMED { format!("{shown} and others") } else { shown }
}

/// Deletes a configuration; one that is not there is none.
async fn remove<K>(client: &Client, name: &str) -> Result<String, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    match Api::<K>::all(client.clone()).delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(format!("deleted {} {name}", K::kind(&()))),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(format!("there is no {} {name}", K::kind(&()))),
        Err(source) => Err(Error::Delete { name: name.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// Requests as method and path.
    type Seen = Arc<Mutex<Vec<String>>>;

    /// An API server with these clusters, or without the kind, that deletes whatever it is asked to.
    fn server(clusters: Option<Vec<(&str, String)>>) -> (Client, Seen) {
        let seen = Seen::default();
        let kinds = ("meta.k8s.io/v1", "PartialObjectMetadata");
        let one = |(namespace, name): (&str, String)| json!({ "apiVersion": kinds.0, "kind": kinds.1, "metadata": { "namespace": namespace, "name": name } });
        let items: Option<Vec<Value>> = clusters.map(|clusters| clusters.into_iter().map(one).collect());
        let requests = Arc::clone(&seen);
        let service = tower::service_fn(move |request: Request<Body>| {
            requests.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
            let (code, answer) = match (&items, request.uri().path()) {
                (Some(items), path) if path.ends_with("/multigresclusters") => (
                    200,
                    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items }),
                ),
                (_, path) if path.ends_with("/gone") || path.ends_with("/multigresclusters") => (
                    404,
                    json!({ "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "none" }),
                ),
                _ => (200, json!({ "kind": "Status", "status": "Success", "code": 200 })),
            };
            let body = Body::from(answer.to_string().into_bytes());
            async move { Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap()) }
        });
        (Client::new(service, "default"), seen)
    }

    fn args(mutating: &str, validating: &str) -> Args {
        let name = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
        Args {
            watch_namespaces: Vec::new(),
            exclude_namespaces: Vec::new(),
            mutating_webhook_configuration: name(mutating),
            validating_webhook_configuration: name(validating),
        }
    }

    #[tokio::test]
    async fn clusters_keep_the_operator_and_its_webhooks() {
        let (client, seen) = server(Some(vec![("prod", "main".to_owned())]));
        let refused = run(&client, &args("m", "v")).await.unwrap_err().to_string();
        assert!(refused.contains("MultigresClusters prod/main."), "{refused}");
        assert!(refused.contains("--no-hooks, but not with crds.keep=false"), "{refused}");
        assert_eq!(*seen.lock().unwrap(), ["GET /apis/multigres.com/v1alpha1/multigresclusters"]);
    }

    #[tokio::test]
    async fn without_clusters_the_webhooks_go_first() {
        let (client, seen) = server(Some(Vec::new()));
        let lines = run(&client, &args("m", "gone")).await.unwrap();
        let expected = [
            "there are no MultigresClusters",
            "deleted MutatingWebhookConfiguration m",
            "there is no ValidatingWebhookConfiguration gone",
        ];
        assert_eq!(lines, expected);
        let kinds = "DELETE /apis/admissionregistration.k8s.io/v1";
        assert_eq!(seen.lock().unwrap()[1], format!("{kinds}/mutatingwebhookconfigurations/m"));
        assert_eq!(seen.lock().unwrap()[2], format!("{kinds}/validatingwebhookconfigurations/gone"));
    }

    #[tokio::test]
    async fn without_names_or_the_kind_there_is_nothing_to_do() {
        let (client, seen) = server(None);
        assert_eq!(run(&client, &args("", "")).await.unwrap(), ["there are no MultigresClusters"]);
        assert_eq!(seen.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn only_watched_namespaces_are_looked_at() {
        let (client, seen) = server(Some(Vec::new()));
        let watched = Args { watch_namespaces: vec!["a".to_owned(), String::new(), "b".to_owned()], ..args("", "") };
        run(&client, &watched).await.unwrap();
        let path =
            |namespace: &str| format!("GET /apis/multigres.com/v1alpha1/namespaces/{namespace}/multigresclusters");
        assert_eq!(*seen.lock().unwrap(), [path("a"), path("b")]);
    }

    #[test]
    fn a_refusal_names_some_clusters() {
        let many: Vec<String> = (0..11).map(|number| format!("n/c{number}")).collect();
        assert!(named(&many).ends_with("n/c9 and others"), "{}", named(&many));
        assert_eq!(named(&many[..2]), "n/c0, n/c1");
    }
}
