//! What the data of a shard was made with: wishes that count when a data directory or a volume is made, and never again.
//!
//! The first data volume remembers them, and every later one takes them over. Pods keep running with them: a superuser that was never
//! made could not log in, and a restart for arguments that nobody reads any more would be for nothing. What the spec asks for
//! instead is told in condition `ChangeHasNoEffect`.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{annotation, api::v1alpha1::Shard, label};

use super::{
    claim,
    observe::{Observed, by_name, is_deleting},
    pod,
    scope::{Member, Scope},
};
use crate::plan::{Action, Target};

/// The wishes that `initdb` read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Origin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initdb_args: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    postgres_superuser: Option<String>,
}

impl Origin {
    fn of(shard: &Shard) -> Self {
        Self { initdb_args: shard.spec.initdb_args.clone(), postgres_superuser: shard.spec.postgres_superuser.clone() }
    }

    /// What the first volume that remembers says.
    fn remembered(observed: &Observed) -> Option<Self> {
        let mut claims: Vec<_> = observed.claims.iter().filter(|claim| holds_data(claim)).collect();
        claims.sort_by_key(|claim| (claim.metadata.creation_timestamp.clone(), claim.name_any()));
        claims.into_iter().find_map(|claim| serde_json::from_str(claim.annotations().get(annotation::MADE_WITH)?).ok())
    }
}

/// Whether a volume is that of a member, and stays.
pub fn holds_data(claim: &PersistentVolumeClaim) -> bool {
    claim.labels().contains_key(label::POOL) && !is_deleting(claim)
}

/// The shard as its data was made, and as it goes on.
pub fn settled(observed: &Observed) -> Cow<'_, Shard> {
    match Origin::remembered(observed) {
        Some(origin) if origin != Origin::of(&observed.shard) => {
            let mut shard = (*observed.shard).clone();
            (shard.spec.initdb_args, shard.spec.postgres_superuser) = (origin.initdb_args, origin.postgres_superuser);
            Cow::Owned(shard)
        }
        _ => Cow::Borrowed(&observed.shard),
    }
}

/// What a data volume has to remember.
pub fn annotations(scope: &Scope<'_>) -> BTreeMap<String, String> {
    BTreeMap::from([(annotation::MADE_WITH.to_owned(), json!(Origin::of(scope.shard)).to_string())])
}

/// Lets an existing volume remember, which one of an earlier operator does not.
pub fn remember(scope: &Scope<'_>, live: &PersistentVolumeClaim) -> Option<Action> {
    if !holds_data(live) || live.annotations().contains_key(annotation::MADE_WITH) {
        return None;
    }
    Some(Action::Merge {
        target: Target::of(live)?,
        patch: json!({ "metadata": { "annotations": annotations(scope) } }),
    })
}

/// What the spec asks for too late, by field, with what there is instead. `scope` is that of the settled shard.
pub fn too_late(scope: &Scope<'_>, observed: &Observed) -> BTreeMap<String, String> {
    let mut late = BTreeMap::new();
    let (wanted, made) = (&observed.shard.spec, scope.spec());
    let shown = |text: &Option<String>| text.clone().unwrap_or_default();
    if wanted.initdb_args != made.initdb_args {
        late.insert("initdbArgs".to_owned(), format!("made with {:?}", shown(&made.initdb_args)));
    }
    if wanted.postgres_superuser != made.postgres_superuser {
        late.insert("postgresSuperuser".to_owned(), format!("made with {:?}", shown(&made.postgres_superuser)));
    }
    let live = by_name(&observed.claims);
    // Members move to volumes of another class, unless another operator has made their pods.
    let foreign = |pod: &str| observed.pods.iter().any(|live| live.name_any() == pod && pod::is_foreign(live));
    let data = |member: &Member<'_>| {
        (format!("pools[{}].storage", member.pool.id.pool), claim::data(scope, member), !foreign(&member.pod))
    };
    let backups = claim::backups(scope).into_iter().map(|claim| ("backup.filesystem.storage".to_owned(), claim, false));
    for (field, wanted, moves) in scope.members().iter().map(data).chain(backups) {
        if let Some(live) = live.get(&wanted.name_any()).filter(|live| !is_deleting(**live)) {
            for (part, value) in deviations(live, &wanted).into_iter().filter(|(part, _)| !moves || *part != "class") {
                late.entry(format!("{field}.{part}")).or_insert_with(|| format!("volumes have {value}"));
            }
        }
    }
    late
}

/// Where a volume differs for good from what would be asked for today. Its size is no part of it: it grows.
fn deviations(live: &PersistentVolumeClaim, wanted: &PersistentVolumeClaim) -> Vec<(&'static str, String)> {
    let (Some(live), Some(wanted)) = (&live.spec, &wanted.spec) else { return Vec::new() };
    let mut found = Vec::new();
    // A volume that asked for no class got the default one or none; either is what was asked for.
    if wanted.storage_class_name.is_some() && wanted.storage_class_name != live.storage_class_name {
        found.push(("class", format!("{:?}", live.storage_class_name.as_deref().unwrap_or_default())));
    }
    if live.access_modes != wanted.access_modes {
        found.push(("accessModes", live.access_modes.clone().unwrap_or_default().join(", ")));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::name;

    use super::*;
    use crate::shard::tests::fixture::{carry_out, minimal, observed, pass, status};

    const ANNOTATION: &str = annotation::MADE_WITH;

    fn made() -> Observed {
        let mut observed = observed(minimal());
        carry_out(&mut observed);
        observed
    }

    fn condition(observed: &Observed) -> Option<String> {
        let status = status(observed);
        let found = shared::condition::find(&status.conditions, "ChangeHasNoEffect")?;
        assert_eq!(found.status, "True");
        Some(found.message.clone())
    }

    #[test]
    fn data_volumes_remember_what_initdb_read() {
        let observed = made();
        assert_eq!(condition(&observed), None);
        for claim in observed.claims.iter().filter(|claim| name::pod_of_data_pvc(&claim.name_any()).is_some()) {
            let remembered: Origin = serde_json::from_str(&claim.annotations()[ANNOTATION]).unwrap();
            assert_eq!(remembered, Origin::of(&observed.shard));
        }
    }

    #[test]
    fn pods_keep_what_the_data_was_made_with_and_the_status_tells() {
        let mut observed = made();
        let before = pass(&observed);
        let spec = &mut Arc::make_mut(&mut observed.shard).spec;
        (spec.initdb_args, spec.postgres_superuser) = (Some("--no-locale".to_owned()), Some("root".to_owned()));
        let message = condition(&observed).unwrap();
        assert!(message.contains("initdbArgs") && message.contains("postgresSuperuser"), "{message}");
        let pods = |plan: &crate::plan::Plan<_>| -> Vec<String> {
            let created = plan.writes.iter().filter_map(|write| match &write.action {
                Action::CreateOnce(object) if object.gvk.kind == "Pod" => Some(object.value.to_string()),
                _ => None,
            });
            created.collect()
        };
        assert_eq!(pods(&pass(&observed)), pods(&before), "a pod that is replaced is made as the data was");
        assert!(status(&observed).drift.is_empty());
    }

    #[test]
    fn a_later_volume_takes_over_what_the_first_remembers() {
        let mut observed = made();
        let spec = &mut Arc::make_mut(&mut observed.shard).spec;
        spec.initdb_args = Some("--no-locale".to_owned());
        spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(3);
        carry_out(&mut observed);
        let all: std::collections::BTreeSet<_> =
            observed.claims.iter().filter_map(|claim| claim.annotations().get(ANNOTATION)).collect();
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn a_volume_of_an_earlier_operator_learns_to_remember() {
        let mut observed = made();
        for claim in &mut observed.claims {
            Arc::make_mut(claim).metadata.annotations = None;
        }
        let merged: Vec<_> = pass(&observed)
            .writes
            .into_iter()
            .filter(|write| write.reason == "Origin")
            .map(|write| write.action)
            .collect();
        assert_eq!(merged.len(), 2);
        assert!(
            matches!(&merged[0], Action::Merge { patch, .. } if patch["metadata"]["annotations"][ANNOTATION].is_string())
        );
        assert_eq!(condition(&observed), None);
    }

    #[test]
    fn volumes_that_stay_as_they_are_are_told() {
        let mut observed = made();
        let storage =
            Arc::make_mut(&mut observed.shard).spec.pools.get_mut("default").unwrap().storage.as_mut().unwrap();
        (storage.class, storage.size) = (Some("fast".to_owned()), Some("5Gi".to_owned()));
        storage.access_modes = vec!["ReadWriteOncePod".to_owned()];
        let message = condition(&observed).unwrap();
        assert!(message.contains("pools[default].storage.accessModes"), "{message}");
        assert!(!message.contains("size"), "volumes grow: {message}");
        assert!(!message.contains("class"), "members move to another one: {message}");
        let storage =
            Arc::make_mut(&mut observed.shard).spec.pools.get_mut("default").unwrap().storage.as_mut().unwrap();
        (storage.class, storage.size, storage.access_modes) = (None, Some("1024Mi".to_owned()), Vec::new());
        assert_eq!(condition(&observed), None, "the same size in other words, and the default class");
    }
}
