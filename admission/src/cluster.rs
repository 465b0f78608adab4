//! Judges MultigresClusters by what they resolve to.

use std::sync::Arc;

use serde_json::value::RawValue;
use shared::{
    api::v1alpha1::MultigresClusterSpec,
    resolve::Templates,
    validate::{self, Subject, Surroundings, Verdict},
};

use crate::{
    lookup::{Lookup, LookupError},
    review::{Answer, Denial, Operation, Request, text},
    reviewer::Options,
};

/// Answers the creation or the update of a cluster.
pub async fn validate(lookup: &dyn Lookup, options: &Options, request: &Request<'_>) -> Answer {
    let old = match request.operation {
        Operation::Create => None,
        Operation::Update => request.old_object.map(RawValue::get),
        Operation::Delete | Operation::Connect => return Answer::default(),
    };
    if request.sub_resource.is_some() || request.user_info.username == options.controller {
        return Answer::default();
    }
    let Some(object) = request.object.map(RawValue::get) else {
        return Answer::denied(Denial::unreadable("the review contains no object"));
    };
    if text::is_deleting(object) || old.is_some_and(|old| text::same_spec(old, object)) {
        return Answer::default();
    }
    let spec = match parse(object) {
        Ok(spec) => spec,
        Err(denial) => return Answer::denied(denial),
    };
    // An old spec that cannot be read sets no limits to the new one.
    let old = old.and_then(|old| parse(old).ok());
    if old.as_ref() == Some(&spec) {
        return Answer::default();
    }
    let name = text::name(object).unwrap_or(&request.name);
    let case = Case { namespace: &request.namespace, name, spec: &spec, old: old.as_ref(), options };
    case.decide(lookup).await.unwrap_or_else(|error| Answer::denied(Denial::unavailable(error.to_string())))
}

fn parse(object: &str) -> Result<MultigresClusterSpec, Denial> {
    let spec = text::read_spec(object).ok_or_else(|| Denial::unreadable("the object has no spec"))?;
    spec.map_err(|error| Denial::unreadable(format!("spec cannot be read: {error}")))
}

/// A cluster to judge.
struct Case<'a> {
    namespace: &'a str,
    name: &'a str,
    spec: &'a MultigresClusterSpec,
    old: Option<&'a MultigresClusterSpec>,
    options: &'a Options,
}

impl Case<'_> {
    /// Judges by the stores, and before a refusal that they may have a part in once more by what the API server has.
    async fn decide(&self, lookup: &dyn Lookup) -> Result<Answer, LookupError> {
        let templates = lookup.templates(self.namespace)?;
        let around = lookup.surroundings();
        let verdict = self.judge(&templates, &around);
        // What the spec says wrongly on its own stays wrong, whatever the API server has besides. All else may have to do with a template
        // that the stores have not seen yet, also where none was named: one called default holds unasked.
        if verdict.is_accepted() || verdict.errors.len() == validate::alone(self.name, self.spec).errors.len() {
            return Ok(Answer::of(&verdict));
        }
        let (templates_now, around_now) =
            tokio::try_join!(lookup.templates_live(self.namespace), current(lookup, &around))?;
        if templates_now == templates && around_now == around {
            return Ok(Answer::of(&verdict));
        }
        Ok(Answer::of(&self.judge(&templates_now, &around_now)))
    }

    fn judge(&self, templates: &Templates, around: &Surroundings) -> Verdict {
        let Self { namespace, name, spec, old, options } = *self;
        validate::review(old, &Subject { name, namespace, spec, templates, settings: &options.settings }, around)
    }
}

/// The surroundings with storage classes read again, when the lack of a default one may be why something is refused.
pub async fn current(lookup: &dyn Lookup, around: &Arc<Surroundings>) -> Result<Arc<Surroundings>, LookupError> {
    if around.storage_classes.as_ref().is_none_or(|classes| classes.has_default) {
        return Ok(Arc::clone(around));
    }
    let storage_classes = lookup.storage_classes_live().await?;
    Ok(Arc::new(Surroundings { storage_classes, nodes: around.nodes.clone() }))
}

#[cfg(test)]
mod tests;
