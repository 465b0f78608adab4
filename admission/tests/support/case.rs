//! The cases of the rules: as questions, and as the pure function judges them.

use std::path::Path;

use admission::{
    mutate,
    review::{self, Endpoint},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::{
    api::v1alpha1::MultigresClusterSpec,
    validate::{
        self, Subject, Verdict,
        template::{self, Consumer, Content},
    },
};
use strum::IntoEnumIterator as _;

use super::{
    envelope::{Answer, Question, USER},
    rule_cases::{Case, cases},
    world,
};

/// The namespace that the cases speak of.
pub const NAMESPACE: &str = "prod";

/// All cases.
pub fn all() -> Vec<Case> {
    cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/tests/data/rules"))
}

/// Where objects of a kind are judged.
pub fn endpoint(kind: &str) -> Endpoint {
    Endpoint::iter().find(|endpoint| endpoint.kind() == kind && *endpoint != Endpoint::MutateCluster).unwrap()
}

/// An object of ours.
pub fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "multigres.com/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

/// The case as a question to the service.
pub fn question(case: &Case, namespace: &str) -> Question {
    let object = |spec: &Value| object(&case.kind, namespace, &case.name, spec);
    Question {
        kind: case.kind.clone(),
        namespace: namespace.to_owned(),
        name: case.name.clone(),
        user: USER.to_owned(),
        old: case.old.as_ref().map(object),
        object: case.object.as_ref().map(object),
    }
}

/// The case as it looks behind the mutating webhook, and what that webhook warns of.
pub fn mutated(case: &Case, namespace: &str) -> (Case, Vec<String>) {
    let question = question(case, namespace);
    let (Some(mut object), "MultigresCluster") = (question.object, case.kind.as_str()) else {
        return (case.clone(), Vec::new());
    };
    let old = question.old.map(|old| old.to_string());
    let mutation = mutate::cluster(old.as_deref(), &object.to_string(), None);
    if let Some(patch) = &mutation.patch {
        json_patch::patch(&mut object, patch).unwrap();
    }
    (Case { object: Some(object["spec"].take()), ..case.clone() }, mutation.warnings)
}

/// What the pure function says, in the terms of an answer.
pub fn pure(case: &Case, namespace: &str) -> Answer {
    let verdict = match case.kind.as_str() {
        "MultigresCluster" => cluster(case, namespace),
        "MultigresBackup" => run(case),
        kind => written(case, namespace, kind),
    };
    let answer = review::Answer::of(&verdict);
    let denial = answer.denial.as_ref();
    let causes = denial.iter().flat_map(|denial| &denial.causes);
    Answer {
        allowed: denial.is_none(),
        code: denial.map_or(0, |denial| denial.code.into()),
        message: denial.map(|denial| denial.message.clone()).unwrap_or_default(),
        causes: causes.map(|cause| [cause.reason.to_owned(), cause.field.clone(), cause.message.clone()]).collect(),
        warnings: answer.warnings,
        patch: None,
    }
}

fn parse<T: DeserializeOwned>(spec: &Value) -> T {
    serde_json::from_value(spec.clone()).unwrap()
}

fn cluster(case: &Case, namespace: &str) -> Verdict {
    let Some(new) = &case.object else { return Verdict::default() };
    let (templates, settings) = (world::templates(case), world::settings());
    let new: MultigresClusterSpec = parse(new);
    let old: Option<MultigresClusterSpec> = case.old.as_ref().map(parse);
    let subject = Subject { name: &case.name, namespace, spec: &new, templates: &templates, settings: &settings };
    validate::review(old.as_ref(), &subject, &world::surroundings(case))
}

fn run(case: &Case) -> Verdict {
    let clusters = world::clusters(case);
    let known: Vec<_> = clusters.iter().map(|cluster| (cluster.name.as_str(), &cluster.spec)).collect();
    case.object.as_ref().map(|run| validate::backup_run(&parse(run), Some(known.as_slice()))).unwrap_or_default()
}

fn written(case: &Case, namespace: &str, kind: &str) -> Verdict {
    let (templates, settings, around) = (world::templates(case), world::settings(), world::surroundings(case));
    let clusters = world::clusters(case);
    let consumers: Vec<Consumer<'_>> =
        clusters.iter().map(|cluster| Consumer { name: &cluster.name, spec: &cluster.spec }).collect();
    let name = &case.name;
    macro_rules! judge {
        ($content:ident) => {{
            let old = case.old.as_ref().map(parse);
            let old = old.as_ref().map(Content::$content);
            match (&case.object, old) {
                (Some(new), old) => {
                    let new = parse(new);
                    let new = Content::$content(&new);
                    template::written(namespace, name, old, new, &consumers, &templates, &settings, &around).finish()
                }
                (None, Some(old)) => {
                    template::deleted(namespace, name, old, &consumers, &templates, &settings, &around).finish()
                }
                (None, None) => panic!("nothing happens in {:?}", case.case),
            }
        }};
    }
    match kind {
        "CoreTemplate" => judge!(Core),
        "CellTemplate" => judge!(Cell),
        "ShardTemplate" => judge!(Shard),
        _ => panic!("no rule speaks of a {kind}"),
    }
}
