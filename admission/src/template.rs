//! Judges templates by what becomes of the clusters that use them.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use shared::{
    api::v1alpha1::{CellTemplateSpec, CoreTemplateSpec, ShardTemplateSpec},
    resolve::{TemplateKind, Templates},
    validate::{
        Surroundings, Verdict,
        template::{self, Consumer, Content, Judgement},
    },
};

use crate::{
    cluster::current,
    lookup::{Cluster, Lookup, LookupError},
    review::{Answer, Denial, Operation, Request, text},
    reviewer::Options,
};

/// Answers the creation, the update or the deletion of a template.
pub async fn validate(kind: TemplateKind, lookup: &dyn Lookup, options: &Options, request: &Request<'_>) -> Answer {
    let old = request.old_object.map(RawValue::get);
    let decided = match request.operation {
        Operation::Create | Operation::Update => {
            let Some(object) = request.object.map(RawValue::get) else {
                return Answer::denied(Denial::unreadable("the review contains no object"));
            };
            if text::is_deleting(object) || old.is_some_and(|old| text::same_spec(old, object)) {
                return Answer::default();
            }
            let name = text::name(object).unwrap_or(&request.name);
            match Owned::parse(kind, object) {
                Err(denial) => return Answer::denied(denial),
                Ok(new) => {
                    let old = old.and_then(|old| Owned::parse(kind, old).ok());
                    if old.as_ref() == Some(&new) {
                        return Answer::default();
                    }
                    written(
                        Written { namespace: &request.namespace, name, old: old.as_ref(), new: &new, options },
                        lookup,
                    )
                    .await
                }
            }
        }
        Operation::Delete => {
            // A second deletion of what is going away already does nothing.
            if old.is_some_and(text::is_deleting) {
                return Answer::default();
            }
            // Requests for a whole collection carry the name in the object alone.
            let name = old.and_then(text::name).unwrap_or(&request.name);
            let content = old.and_then(|old| Owned::parse(kind, old).ok()).unwrap_or_else(|| Owned::empty(kind));
            deleted(&content, &request.namespace, name, lookup, options).await
        }
        Operation::Connect => return Answer::default(),
    };
    match decided {
        Ok(verdict) => Answer::of(&verdict),
        Err(error) => Answer::denied(Denial::unavailable(error.to_string())),
    }
}

/// The content of a template.
#[derive(PartialEq)]
enum Owned {
    Core(Box<CoreTemplateSpec>),
    Cell(Box<CellTemplateSpec>),
    Shard(Box<ShardTemplateSpec>),
}

impl Owned {
    fn parse(kind: TemplateKind, object: &str) -> Result<Self, Denial> {
        fn spec<T: DeserializeOwned>(object: &str) -> Result<Box<T>, Denial> {
            let spec = text::read_spec(object).ok_or_else(|| Denial::unreadable("the object has no spec"))?;
            spec.map_err(|error| Denial::unreadable(format!("spec cannot be read: {error}")))
        }
        Ok(match kind {
            TemplateKind::CoreTemplate => Self::Core(spec(object)?),
            TemplateKind::CellTemplate => Self::Cell(spec(object)?),
            TemplateKind::ShardTemplate => Self::Shard(spec(object)?),
        })
    }

    fn empty(kind: TemplateKind) -> Self {
        match kind {
            TemplateKind::CoreTemplate => Self::Core(Box::default()),
            TemplateKind::CellTemplate => Self::Cell(Box::default()),
            TemplateKind::ShardTemplate => Self::Shard(Box::default()),
        }
    }

    fn content(&self) -> Content<'_> {
        match self {
            Self::Core(spec) => Content::Core(spec),
            Self::Cell(spec) => Content::Cell(spec),
            Self::Shard(spec) => Content::Shard(spec),
        }
    }
}

/// A template as it shall be stored.
struct Written<'a> {
    namespace: &'a str,
    name: &'a str,
    old: Option<&'a Owned>,
    new: &'a Owned,
    options: &'a Options,
}

impl Written<'_> {
    async fn judge(&self, clusters: &[Arc<Cluster>], templates: &Templates, around: &Surroundings) -> Verdict {
        let consumers = consumers(clusters);
        let old = self.old.map(Owned::content);
        let (namespace, name, settings) = (self.namespace, self.name, &self.options.settings);
        let new = self.new.content();
        in_turns(template::written(namespace, name, old, new, &consumers, templates, settings, around)).await
    }
}

/// Lets others have their turn after each cluster: many large ones take long, and a deadline only passes while this thread is given up.
async fn in_turns(mut judgement: Judgement<'_>) -> Verdict {
    while judgement.step() {
        tokio::task::yield_now().await;
    }
    judgement.finish()
}

fn consumers(clusters: &[Arc<Cluster>]) -> Vec<Consumer<'_>> {
    clusters.iter().map(|cluster| Consumer { name: &cluster.name, spec: &cluster.spec }).collect()
}

async fn written(written: Written<'_>, lookup: &dyn Lookup) -> Result<Verdict, LookupError> {
    let around = lookup.surroundings();
    let clusters = lookup.clusters(written.namespace)?;
    let templates = lookup.templates(written.namespace)?;
    let verdict = written.judge(&clusters, &templates, &around).await;
    // What the template says wrongly on its own stays wrong, whatever the API server has besides.
    if verdict.is_accepted() || !template::content(written.new.content()).is_accepted() {
        return Ok(verdict);
    }
    // A user may have changed or gone since the stores last heard of it.
    let (clusters, templates, around) = tokio::try_join!(
        lookup.clusters_live(written.namespace),
        lookup.templates_live(written.namespace),
        current(lookup, &around)
    )?;
    Ok(written.judge(&clusters, &templates, &around).await)
}

/// Deletions are rare and cannot be undone, so they are judged by what the API server has, whichever way it goes.
async fn deleted(
    content: &Owned,
    namespace: &str,
    name: &str,
    lookup: &dyn Lookup,
    options: &Options,
) -> Result<Verdict, LookupError> {
    let around = lookup.surroundings();
    let (clusters, templates, around) =
        tokio::try_join!(lookup.clusters_live(namespace), lookup.templates_live(namespace), current(lookup, &around))?;
    let (consumers, settings) = (consumers(&clusters), &options.settings);
    let content = content.content();
    Ok(in_turns(template::deleted(namespace, name, content, &consumers, &templates, settings, &around)).await)
}

#[cfg(test)]
mod tests;
