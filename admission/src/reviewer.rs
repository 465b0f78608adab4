//! Brings each request to the judge of its kind.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::value::RawValue;
use shared::resolve::{self, TemplateKind};

use crate::{
    backup, child, cluster,
    lookup::Lookup,
    mutate::{self, TraceContext},
    review::{Answer, Denial, Endpoint, Operation, Request, Review},
    template,
};

/// What the judges know besides the objects.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the operator's own configuration contributes to a resolution; equal to the controller's.
    pub settings: resolve::Settings,
    /// User name of the controller: it may write children, and what it writes to clusters is not judged.
    pub controller: String,
    /// Users who may write children besides the controller.
    pub writers: Vec<String>,
    /// Groups whose members may write children.
    pub writer_groups: Vec<String>,
}

/// Answers all reviews.
pub struct Reviewer {
    lookup: Arc<dyn Lookup>,
    options: Options,
    tracer: fn() -> Option<TraceContext>,
}

impl Reviewer {
    /// A reviewer that records no trace.
    pub fn new(lookup: Arc<dyn Lookup>, options: Options) -> Self {
        Self { lookup, options, tracer: || None }
    }

    /// Asks `tracer` for the trace context of each request that stores a new spec.
    #[must_use]
    pub fn with_tracer(mut self, tracer: fn() -> Option<TraceContext>) -> Self {
        self.tracer = tracer;
        self
    }

    fn mutate(&self, request: &Request<'_>) -> Answer {
        let old = match request.operation {
            Operation::Create => None,
            Operation::Update => request.old_object.map(RawValue::get),
            Operation::Delete | Operation::Connect => return Answer::default(),
        };
        let Some(object) = request.object else {
            return Answer::denied(Denial::unreadable("the review contains no object"));
        };
        // What is not stored has no consequences, and the controller's writes continue its own trace.
        let followed = !request.dry_run.unwrap_or_default() && request.user_info.username != self.options.controller;
        let trace = followed.then(self.tracer).flatten();
        let mutation = mutate::cluster(old, object.get(), trace.as_ref());
        Answer { denial: None, warnings: mutation.warnings, patch: mutation.patch }
    }

    async fn answer(&self, endpoint: Endpoint, request: &Request<'_>) -> Answer {
        // Whoever watches that namespace judges there.
        if !self.lookup.watches(&request.namespace) {
            return Answer::default();
        }
        let lookup = self.lookup.as_ref();
        match endpoint {
            Endpoint::MutateCluster => self.mutate(request),
            Endpoint::ValidateCluster => cluster::validate(lookup, &self.options, request).await,
            Endpoint::ValidateCoreTemplate => {
                template::validate(TemplateKind::CoreTemplate, lookup, &self.options, request).await
            }
            Endpoint::ValidateCellTemplate => {
                template::validate(TemplateKind::CellTemplate, lookup, &self.options, request).await
            }
            Endpoint::ValidateShardTemplate => {
                template::validate(TemplateKind::ShardTemplate, lookup, &self.options, request).await
            }
            Endpoint::ValidateBackup => backup::validate(lookup, request),
            Endpoint::ValidateCell
            | Endpoint::ValidateShard
            | Endpoint::ValidateTableGroup
            | Endpoint::ValidateTopoServer => child::validate(endpoint.kind(), &self.options, request),
        }
    }
}

impl Review for Reviewer {
    fn review<'a>(&'a self, endpoint: Endpoint, request: Request<'a>) -> BoxFuture<'a, Answer> {
        async move { self.answer(endpoint, &request).await }.boxed()
    }
}

#[cfg(test)]
mod tests;
