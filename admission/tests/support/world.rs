//! What the judges look up, made of plain objects.

use std::{collections::BTreeMap, sync::Arc};

use admission::{
    lookup::{Cluster, Fixed, Lookup, LookupError, World as Stored},
    reviewer::{Options, Reviewer},
};
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::{
    resolve::{self, Templates},
    validate::{NodeLabels, StorageClasses, Surroundings},
};

use super::{rule_cases::Case, specs};

/// User name of the controller.
pub const CONTROLLER: &str = "system:serviceaccount:multigres-operator:multigres-operator-controller-manager";
/// Users who may write children besides the controller.
pub const WRITERS: [&str; 3] = [
    "system:serviceaccount:kube-system:generic-garbage-collector",
    "system:serviceaccount:kube-system:namespace-controller",
    "system:kube-controller-manager",
];

/// What the operator's own configuration contributes.
pub fn settings() -> resolve::Settings {
    resolve::Settings::default()
}

/// The real reviewer over any lookup.
pub fn reviewer(lookup: Arc<dyn Lookup>) -> Arc<Reviewer> {
    let options = Options {
        settings: settings(),
        controller: CONTROLLER.to_owned(),
        writers: WRITERS.map(str::to_owned).to_vec(),
        writer_groups: Vec::new(),
    };
    Arc::new(Reviewer::new(lookup, options))
}

/// A lookup that has seen the objects beside which clusters are generated.
pub fn generated() -> Arc<dyn Lookup> {
    let mut templates = Templates::default();
    for object in specs::surroundings() {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let spec = object["spec"].clone();
        match object["kind"].as_str().unwrap() {
            "CoreTemplate" => drop(templates.core.insert(name, serde_json::from_value(spec).unwrap())),
            "CellTemplate" => drop(templates.cell.insert(name, serde_json::from_value(spec).unwrap())),
            "ShardTemplate" => drop(templates.shard.insert(name, serde_json::from_value(spec).unwrap())),
            kind => panic!("a {kind} is no template"),
        }
    }
    let classes = StorageClasses { names: [specs::STORAGE_CLASS.to_owned()].into(), has_default: true };
    Arc::new(Fixed::new(Stored {
        templates: [(specs::NAMESPACE.to_owned(), Arc::new(templates))].into(),
        surroundings: Arc::new(Surroundings { storage_classes: Some(classes), nodes: None }),
        ..Stored::default()
    }))
}

/// A lookup that has seen what exists in a case.
pub fn of_case(case: &Case, namespace: &str) -> Arc<dyn Lookup> {
    Arc::new(Fixed::new(Stored {
        templates: [(namespace.to_owned(), Arc::new(templates(case)))].into(),
        clusters: [(namespace.to_owned(), clusters(case))].into(),
        surroundings: Arc::new(surroundings(case)),
    }))
}

/// The templates that exist in a case, the one that is changed or deleted included.
pub fn templates(case: &Case) -> Templates {
    fn all<T: DeserializeOwned>(given: &BTreeMap<String, Value>) -> BTreeMap<String, T> {
        given.iter().map(|(name, spec)| (name.clone(), serde_json::from_value(spec.clone()).unwrap())).collect()
    }
    let mut given = case.templates.clone();
    let own = match case.kind.as_str() {
        "CoreTemplate" => Some(&mut given.core),
        "CellTemplate" => Some(&mut given.cell),
        "ShardTemplate" => Some(&mut given.shard),
        _ => None,
    };
    if let (Some(own), Some(old)) = (own, &case.old) {
        own.insert(case.name.clone(), old.clone());
    }
    Templates { core: all(&given.core), cell: all(&given.cell), shard: all(&given.shard) }
}

/// The clusters of a case.
pub fn clusters(case: &Case) -> Vec<Arc<Cluster>> {
    let cluster = |(name, spec): (&String, &Value)| {
        Arc::new(Cluster { name: name.clone(), spec: serde_json::from_value(spec.clone()).unwrap() })
    };
    case.clusters.iter().map(cluster).collect()
}

/// What a case knows of its Kubernetes cluster.
pub fn surroundings(case: &Case) -> Surroundings {
    let given = &case.surroundings;
    Surroundings {
        storage_classes: given.storage_classes.as_ref().map(|classes| StorageClasses {
            names: classes.names.iter().cloned().collect(),
            has_default: classes.default,
        }),
        nodes: given.nodes.as_ref().map(|nodes| {
            NodeLabels(nodes.iter().map(|(key, values)| (key.clone(), values.iter().cloned().collect())).collect())
        }),
    }
}

/// Templates and clusters as an API server has them, in surroundings that a case asks for.
pub struct Placed {
    /// The stores.
    pub stores: Arc<dyn Lookup>,
    /// The surroundings.
    pub around: Arc<Surroundings>,
}

impl Lookup for Placed {
    fn watches(&self, namespace: &str) -> bool {
        self.stores.watches(namespace)
    }

    fn templates(&self, namespace: &str) -> Result<Arc<Templates>, LookupError> {
        self.stores.templates(namespace)
    }

    fn clusters(&self, namespace: &str) -> Result<Vec<Arc<Cluster>>, LookupError> {
        self.stores.clusters(namespace)
    }

    fn surroundings(&self) -> Arc<Surroundings> {
        Arc::clone(&self.around)
    }

    fn templates_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Arc<Templates>, LookupError>> {
        self.stores.templates_live(namespace)
    }

    fn clusters_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Cluster>>, LookupError>> {
        self.stores.clusters_live(namespace)
    }

    fn storage_classes_live(&self) -> BoxFuture<'_, Result<Option<StorageClasses>, LookupError>> {
        Box::pin(async { Ok(self.around.storage_classes.clone()) })
    }
}
