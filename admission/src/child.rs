//! Guards the kinds that the operator writes: users change the MultigresCluster instead.

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use shared::{annotation, api::v1alpha1::MultigresCluster, label};

use crate::{
    review::{Answer, Denial, Operation, Request, User, text},
    reviewer::Options,
};

/// Answers a write to an object of such a kind or to its scale.
pub fn validate(kind: &str, options: &Options, request: &Request<'_>) -> Answer {
    // Access to the status is a matter of roles alone.
    if request.operation == Operation::Connect || request.sub_resource.as_deref() == Some("status") {
        return Answer::default();
    }
    if may_write(options, &request.user_info) {
        return Answer::default();
    }
    let old = request.old_object.map(RawValue::get);
    let new = request.object.map(RawValue::get);
    // What is going away anyway must never get stuck here.
    if old.is_some_and(text::is_deleting) || (request.operation == Operation::Update && changes_nothing(old, new)) {
        return Answer::default();
    }
    Answer::denied(Denial::forbidden(refusal(kind, request, new.or(old))))
}

fn may_write(options: &Options, user: &User) -> bool {
    user.username == options.controller
        || options.writers.contains(&user.username)
        || options.writer_groups.iter().any(|group| user.groups.contains(group))
}

/// What of an object matters to the operator.
#[derive(Default, Deserialize)]
struct Object<'t> {
    #[serde(default)]
    metadata: Metadata,
    #[serde(borrow, default)]
    spec: Option<&'t RawValue>,
}

#[derive(Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    labels: Option<Map<String, Value>>,
    annotations: Option<Map<String, Value>>,
    owner_references: Option<Vec<Value>>,
    finalizers: Option<Vec<Value>>,
}

impl Metadata {
    /// What of it is the operator's alone, with empty members absent, as the API server may store either. Annotations of others are not:
    /// API servers that know match conditions do not even ask about them.
    fn compact(mut self) -> Self {
        if let Some(annotations) = &mut self.annotations {
            annotations.retain(|key, _| key.starts_with(annotation::RESERVED_PREFIX));
        }
        self.labels = self.labels.filter(|labels| !labels.is_empty());
        self.annotations = self.annotations.filter(|annotations| !annotations.is_empty());
        self.owner_references = self.owner_references.filter(|owners| !owners.is_empty());
        self.finalizers = self.finalizers.filter(|finalizers| !finalizers.is_empty());
        self
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key)?.as_str()
    }

    /// Name of the owner that is a MultigresCluster.
    fn owner(&self) -> Option<&str> {
        let cluster = <MultigresCluster as kube::Resource>::kind(&());
        let owner = self.owner_references.iter().flatten().find(|owner| owner["kind"] == *cluster)?;
        owner["name"].as_str()
    }
}

/// Whether an update stores what is there already, as the migration of stored versions does.
fn changes_nothing(old: Option<&str>, new: Option<&str>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return false };
    if old == new {
        return true;
    }
    let (Ok(old), Ok(new)) = (serde_json::from_str::<Object<'_>>(old), serde_json::from_str::<Object<'_>>(new)) else {
        return false;
    };
    old.metadata.compact() == new.metadata.compact() && same_value(old.spec, new.spec)
}

fn same_value(old: Option<&RawValue>, new: Option<&RawValue>) -> bool {
    let (old, new) = (old.map_or("null", RawValue::get), new.map_or("null", RawValue::get));
    let parse = serde_json::from_str::<Value>;
    old == new || matches!((parse(old), parse(new)), (Ok(old), Ok(new)) if old == new)
}

fn refusal(kind: &str, request: &Request<'_>, object: Option<&str>) -> String {
    let metadata =
        object.and_then(|object| serde_json::from_str::<Object<'_>>(object).ok()).unwrap_or_default().metadata;
    let name = metadata.name.as_deref().unwrap_or(&request.name);
    let subject = match request.sub_resource.as_deref() {
        Some(sub) => format!("the {sub} of {kind} {name:?}"),
        None => format!("{kind} {name:?}"),
    };
    let cluster = match metadata.label(label::INSTANCE).or_else(|| metadata.owner()) {
        Some(cluster) => format!("MultigresCluster {cluster:?}"),
        None => "the MultigresCluster that it belongs to".to_owned(),
    };
    let (what, remedy) = match request.operation {
        Operation::Create => ("created", "its objects follow"),
        Operation::Delete => ("deleted", "what it no longer asks for is deleted"),
        Operation::Update | Operation::Connect => ("changed", "its objects follow"),
    };
    format!(
        "{subject} is {what} by the operator alone, not by user {:?}; change {cluster} instead, and {remedy}",
        request.user_info.username
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;
    use shared::resolve;

    use super::*;

    const CONTROLLER: &str = "system:serviceaccount:multigres:controller";

    fn options() -> Options {
        Options {
            settings: resolve::Settings::default(),
            controller: CONTROLLER.to_owned(),
            writers: vec!["system:serviceaccount:kube-system:generic-garbage-collector".to_owned()],
            writer_groups: vec!["break-glass".to_owned()],
        }
    }

    fn shard() -> Value {
        json!({
            "kind": "Shard",
            "metadata": {
                "name": "demo-x", "labels": {"app.kubernetes.io/instance": "demo"}, "finalizers": ["f"],
                "resourceVersion": "1", "managedFields": [{"time": 1}],
                "annotations": {"example.com/note": "old", "multigres.com/intent": "old"},
            },
            "spec": {"a": 1, "b": [1, 2]},
        })
    }

    fn answer(operation: &str, user: (&str, &str), sub: Option<&str>, old: &Value, new: &Value) -> Answer {
        let request = json!({
            "uid": "1", "operation": operation, "name": "demo-x", "namespace": "prod", "subResource": sub,
            "userInfo": {"username": user.0, "groups": [user.1]}, "oldObject": old, "object": new,
        })
        .to_string();
        validate("Shard", &options(), &serde_json::from_str(&request).unwrap())
    }

    #[rstest]
    #[case::controller(CONTROLLER, "", true)]
    #[case::garbage_collector("system:serviceaccount:kube-system:generic-garbage-collector", "", true)]
    #[case::break_glass("jane", "break-glass", true)]
    #[case::administrator("kubernetes-admin", "system:masters", false)]
    #[case::same_account_elsewhere("system:serviceaccount:other:controller", "", false)]
    fn only_listed_users_and_groups_write(#[case] user: &str, #[case] group: &str, #[case] allowed: bool) {
        let mut changed = shard();
        changed["spec"]["a"] = 2.into();
        for (operation, old, new) in
            [("CREATE", Value::Null, shard()), ("UPDATE", shard(), changed), ("DELETE", shard(), Value::Null)]
        {
            let answer = answer(operation, (user, group), None, &old, &new);
            assert_eq!(answer.denial.is_none(), allowed, "{operation}: {answer:?}");
        }
    }

    #[rstest]
    #[case::no_op("/metadata/resourceVersion", json!("2"), true)]
    #[case::managed_fields("/metadata/managedFields", json!([]), true)]
    #[case::spec("/spec/b", json!([2, 1]), false)]
    #[case::label("/metadata/labels/app.kubernetes.io~1instance", json!("other"), false)]
    #[case::finalizers("/metadata/finalizers", json!([]), false)]
    #[case::annotation_of_a_user("/metadata/annotations/example.com~1note", json!("new"), true)]
    #[case::annotation_of_the_operator("/metadata/annotations/multigres.com~1intent", json!("new"), false)]
    fn an_update_passes_when_it_changes_nothing(#[case] path: &str, #[case] value: Value, #[case] allowed: bool) {
        let mut changed = shard();
        *changed.pointer_mut(path).unwrap() = value;
        let answer = answer("UPDATE", ("jane", ""), None, &shard(), &changed);
        assert_eq!(answer.denial.is_none(), allowed, "{answer:?}");
    }

    #[test]
    fn the_order_of_keys_and_empty_members_are_no_change() {
        let old = r#"{"metadata":{"name":"x","labels":{}},"spec":{"a":1,"b":2}}"#;
        let new = r#"{"metadata":{"name":"x"},"spec":{"b":2,"a":1}}"#;
        assert!(changes_nothing(Some(old), Some(new)));
        assert!(!changes_nothing(Some(old), Some(r#"{"metadata":{"name":"x"},"spec":{"b":2}}"#)));
        assert!(!changes_nothing(None, Some(new)));
    }

    #[test]
    fn the_first_annotation_of_a_user_is_no_change_and_losing_one_of_the_operator_is() {
        let bare = r#"{"metadata":{"name":"x"},"spec":{}}"#;
        assert!(changes_nothing(Some(bare), Some(r#"{"metadata":{"name":"x","annotations":{"a":"b"}},"spec":{}}"#)));
        let ours = r#"{"metadata":{"name":"x","annotations":{"multigres.com/intent":"i"}},"spec":{}}"#;
        assert!(!changes_nothing(Some(ours), Some(bare)) && !changes_nothing(Some(bare), Some(ours)));
    }

    #[test]
    fn a_shard_is_not_scaled_by_hand() {
        let scale =
            |replicas: i32| json!({"kind": "Scale", "metadata": {"name": "demo-x"}, "spec": {"replicas": replicas}});
        let denied = answer("UPDATE", ("jane", ""), Some("scale"), &scale(1), &scale(2)).denial.unwrap();
        assert!(denied.message.starts_with(r#"the scale of Shard "demo-x""#), "{}", denied.message);
        assert!(answer("UPDATE", (CONTROLLER, ""), Some("scale"), &scale(1), &scale(2)).denial.is_none());
        assert!(answer("UPDATE", ("jane", ""), Some("status"), &shard(), &json!({})).denial.is_none());
    }

    #[test]
    fn a_child_that_is_going_away_is_not_held() {
        let mut old = shard();
        old["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!([]);
        assert!(answer("UPDATE", ("jane", ""), None, &old, &new).denial.is_none());
        assert!(answer("DELETE", ("jane", ""), None, &old, &Value::Null).denial.is_none());
    }

    #[test]
    fn the_refusal_names_the_object_and_what_to_change() {
        let denial = answer("DELETE", ("jane", ""), None, &shard(), &Value::Null).denial.unwrap();
        assert_eq!((denial.code, denial.reason), (403, "Forbidden"));
        assert_eq!(
            denial.message,
            r#"Shard "demo-x" is deleted by the operator alone, not by user "jane"; change MultigresCluster "demo" instead, and what it no longer asks for is deleted"#
        );
        let mut owned = shard();
        owned["metadata"]["labels"] = json!({});
        owned["metadata"]["ownerReferences"] = json!([{"kind": "MultigresCluster", "name": "owner"}]);
        let denial = answer("CREATE", ("jane", ""), None, &Value::Null, &owned).denial.unwrap();
        assert!(denial.message.contains(r#"change MultigresCluster "owner" instead"#), "{}", denial.message);
        let denial = answer("CREATE", ("jane", ""), None, &Value::Null, &json!(5)).denial.unwrap();
        assert!(denial.message.contains(r#"Shard "demo-x""#), "{}", denial.message);
    }
}
