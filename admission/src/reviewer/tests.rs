use serde_json::{Value, json};
use shared::{
    resolve::Templates,
    validate::{StorageClasses, Surroundings},
};
use strum::IntoEnumIterator as _;

use super::*;
use crate::lookup::{Cluster, Fixed, LookupError};

fn reviewer(lookup: impl Lookup) -> Reviewer {
    let settings = resolve::Settings::default();
    let options =
        Options { settings, controller: "controller".to_owned(), writers: Vec::new(), writer_groups: Vec::new() };
    Reviewer::new(Arc::new(lookup), options)
}

async fn review(reviewer: &Reviewer, endpoint: Endpoint, operation: &str, object: Option<&Value>) -> Answer {
    let mut request = json!({"uid": "1", "operation": operation, "namespace": "prod"});
    if let Some(object) = object {
        request["object"] = object.clone();
    }
    let request = request.to_string();
    reviewer.review(endpoint, serde_json::from_str(&request).unwrap()).await
}

#[tokio::test]
async fn every_endpoint_has_its_judge() {
    let reviewer = reviewer(Fixed::default());
    let broken = json!({"metadata": {"name": "x"}, "spec": {
        "globalTopoServer": {"etcd": {"replicas": 2}, "templateRef": "gone"},
        "multigateway": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
        "pools": {"UPPER": {}},
    }});
    for endpoint in Endpoint::iter() {
        let answer = review(&reviewer, endpoint, "CREATE", Some(&broken)).await;
        match endpoint {
            Endpoint::MutateCluster => assert!(answer.patch.is_some() && answer.denial.is_none()),
            Endpoint::ValidateBackup => assert_eq!(answer.denial.map(|denial| denial.code), Some(400)),
            _ => assert_eq!(answer.denial.map(|denial| denial.code), Some(403), "{endpoint:?}"),
        }
    }
}

#[tokio::test]
async fn a_review_without_an_object_is_answered() {
    let reviewer = reviewer(Fixed::default());
    for endpoint in Endpoint::iter() {
        for operation in ["CREATE", "UPDATE", "DELETE", "CONNECT"] {
            let answer = review(&reviewer, endpoint, operation, None).await;
            assert!(answer.denial.is_none_or(|denial| denial.code < 500), "{endpoint:?} {operation}");
        }
    }
}

#[tokio::test]
async fn the_trace_of_a_request_is_recorded_when_there_is_one() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let reviewer = reviewer(Fixed::default())
        .with_tracer(|| TraceContext::new("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None, 1));
    let object = json!({"metadata": {}, "spec": {"databases": []}});
    let answer = review(&reviewer, Endpoint::MutateCluster, "CREATE", Some(&object)).await;
    assert!(serde_json::to_string(&answer.patch).unwrap().contains(parent));
}

/// Watches another namespace.
struct Elsewhere;

impl Lookup for Elsewhere {
    fn watches(&self, namespace: &str) -> bool {
        namespace == "elsewhere"
    }

    fn templates(&self, _: &str) -> Result<Arc<Templates>, LookupError> {
        Err(LookupError::Incomplete)
    }

    fn clusters(&self, _: &str) -> Result<Vec<Arc<Cluster>>, LookupError> {
        Err(LookupError::Incomplete)
    }

    fn surroundings(&self) -> Arc<Surroundings> {
        Arc::default()
    }

    fn templates_live<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Arc<Templates>, LookupError>> {
        async { Err(LookupError::Incomplete) }.boxed()
    }

    fn clusters_live<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Cluster>>, LookupError>> {
        async { Err(LookupError::Incomplete) }.boxed()
    }

    fn storage_classes_live(&self) -> BoxFuture<'_, Result<Option<StorageClasses>, LookupError>> {
        async { Err(LookupError::Incomplete) }.boxed()
    }
}

#[tokio::test]
async fn objects_of_other_namespaces_are_left_to_those_who_watch_them() {
    let reviewer = reviewer(Elsewhere);
    for endpoint in Endpoint::iter() {
        assert_eq!(review(&reviewer, endpoint, "CREATE", Some(&json!({"spec": {}}))).await, Answer::default());
    }
}

#[tokio::test]
async fn incomplete_stores_ask_to_try_again() {
    /// Watches this namespace and knows nothing yet.
    struct Starting;
    impl Lookup for Starting {
        fn watches(&self, _: &str) -> bool {
            true
        }
        fn templates(&self, namespace: &str) -> Result<Arc<Templates>, LookupError> {
            Elsewhere.templates(namespace)
        }
        fn clusters(&self, namespace: &str) -> Result<Vec<Arc<Cluster>>, LookupError> {
            Elsewhere.clusters(namespace)
        }
        fn surroundings(&self) -> Arc<Surroundings> {
            Arc::default()
        }
        fn templates_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Arc<Templates>, LookupError>> {
            Elsewhere.templates_live(namespace)
        }
        fn clusters_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Cluster>>, LookupError>> {
            Elsewhere.clusters_live(namespace)
        }
        fn storage_classes_live(&self) -> BoxFuture<'_, Result<Option<StorageClasses>, LookupError>> {
            Elsewhere.storage_classes_live()
        }
    }
    let answer = review(&reviewer(Starting), Endpoint::ValidateCluster, "CREATE", Some(&json!({"spec": {}}))).await;
    assert_eq!(answer.denial.unwrap().code, 503);
}
