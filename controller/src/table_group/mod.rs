//! Reconciles `TableGroup`: one Shard per shard of the group, and their state summed up.

pub mod leaving;
mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::ResourceExt as _;
use shared::{
    annotation,
    api::v1alpha1::{Shard, ShardResolvedSpec, TableGroup, TableGroupStatus},
    kubeutil::ObjectKey,
    label,
    label::Component,
    name,
    name::ShardId,
    resolve,
};
use tracing::debug_span;

use crate::{
    context::Ctx,
    error::Error,
    plan::{Plan, Requeue},
    workload::{
        owner::{Owner, annotations},
        revision::Adoption,
        want,
    },
};

/// How often a shard on its way out is looked at: its last steps may wake somebody else.
const WAIT_FOR_SHARDS: Duration = Duration::from_secs(2);

/// What a pass reads.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The object.
    pub group: Arc<TableGroup>,
    /// Its identity.
    pub owner: Owner,
    /// Name of its cluster.
    pub cluster: String,
    /// Its Shards, sorted by name.
    pub shards: Vec<Arc<Shard>>,
}

impl Observed {
    /// The live Shard of a shard that the group asks for.
    fn live(&self, name: &str) -> Option<&Arc<Shard>> {
        self.shards.iter().find(|shard| shard.spec.shard_name == name)
    }

    /// Live Shards that the group no longer asks for.
    fn orphans(&self) -> impl Iterator<Item = &Arc<Shard>> {
        let wanted = self.wanted();
        self.shards.iter().filter(move |shard| !wanted.iter().any(|wanted| wanted.name == shard.spec.shard_name))
    }

    /// What it asks for: nothing once its cluster has asked it to leave.
    fn wanted(&self) -> &[ShardResolvedSpec] {
        if leaving::is_asked(&*self.group) { &[] } else { &self.group.spec.shards }
    }
}

/// References, observation and decision of one pass.
#[expect(clippy::unused_async, reason = "the runner awaits the pass of every kind alike")]
pub async fn plan(group: &TableGroup, ctx: &Ctx) -> Result<Plan<TableGroupStatus>, Error> {
    if group.metadata.deletion_timestamp.is_some() {
        return Ok(Plan { requeue: Requeue::Never, ..Plan::nothing() });
    }
    let observed = debug_span!("Observe").in_scope(|| observe(group, ctx))?;
    debug_span!("Decide").in_scope(|| decide(&observed, ctx.clock.now()))
}

fn observe(group: &TableGroup, ctx: &Ctx) -> Result<Observed, Error> {
    let owner = Owner::of(group)?;
    let cluster = group.labels().get(label::CLUSTER).or_else(|| group.labels().get(label::INSTANCE)).cloned();
    let cluster = cluster
        .ok_or_else(|| Error::NoClusterLabel { object: ObjectKey::of(group).to_string(), label: label::CLUSTER })?;
    let shards = ctx.stores.shards.of_cluster(&owner.namespace, &cluster).into_iter().filter(|shard| {
        shard.spec.database_name == group.spec.database_name
            && shard.spec.table_group_name == group.spec.table_group_name
    });
    Ok(Observed { shards: shards.collect(), group: Arc::new(group.clone()), owner, cluster })
}

/// What should be, and what is said about it. Pure.
pub fn decide(observed: &Observed, now: Timestamp) -> Result<Plan<TableGroupStatus>, Error> {
    let mut plan = Plan::nothing();
    for shard in desired(observed) {
        // A Shard that is being deleted keeps the name until its volumes are dealt with; its successor comes after it.
        if leaving::keep(observed.live(&shard.spec.shard_name).map(AsRef::as_ref), &mut plan) {
            want(&mut plan, "Desired", &shard)?;
        }
    }
    for orphan in observed.orphans() {
        leaving::carry_out(orphan.as_ref(), now, &mut plan);
        plan.requeue = plan.requeue.sooner(Requeue::After(WAIT_FOR_SHARDS));
    }
    let status = status::status(observed, now);
    if let Some(wait) = status::named_in(&status, now) {
        plan.requeue = plan.requeue.sooner(Requeue::After(wait));
    }
    plan.status = Some(status);
    Ok(plan)
}

/// The Shards that the group asks for.
fn desired(observed: &Observed) -> Vec<Shard> {
    let spec = &observed.group.spec;
    let project = observed.group.metadata.annotations.as_ref().and_then(|all| all.get(annotation::PROJECT_REF));
    let project = project.filter(|project| !project.is_empty());
    let said = |key: &&str| Some(((*key).to_owned(), observed.group.annotations().get(*key)?.clone()));
    let words: BTreeMap<String, String> = annotation::HANDED_DOWN.iter().filter_map(said).collect();
    observed
        .wanted()
        .iter()
        .map(|shard| {
            let id = ShardId {
                cluster: &observed.cluster,
                database: &spec.database_name,
                table_group: &spec.table_group_name,
                shard: &shard.name,
            };
            let mut metadata = observed.owner.meta(name::shard(id), label::of_shard(id, Component::Shard));
            let project = project.map(|project| (annotation::PROJECT_REF.to_owned(), project.clone()));
            let told = Adoption::of(&observed.group.metadata).told();
            metadata.annotations = annotations(project.into_iter().chain(words.clone()).chain(told).collect());
            Shard { metadata, spec: resolve::shard(spec, shard), status: None }
        })
        .collect()
}

#[cfg(test)]
mod tests;
