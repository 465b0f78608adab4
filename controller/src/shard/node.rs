//! What a node says about its future: the part of it that disruptions depend on.

use k8s_openapi::api::core::v1::{Node as Object, Taint, Toleration};

use super::disruption::Node;

/// Taints by which autoscalers announce that they take a node away, although they only keep new pods off.
const ANNOUNCED: [&str; 3] = ["ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted", "karpenter.sh/disruption"];
/// A node that somebody declared dead.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A node, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    cordoned: bool,
    taints: Vec<Taint>,
}

impl Seen {
    /// Condenses a node.
    pub fn of(node: &Object) -> Self {
        let spec = node.spec.as_ref();
        let cordoned = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        Self { cordoned, taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default() }
    }

    /// What it means for a pod with these tolerations.
    pub fn for_pod(&self, tolerations: &[Toleration]) -> Node {
        let drains = |taint: &&Taint| {
            taint.key == OUT_OF_SERVICE
                || ANNOUNCED.contains(&taint.key.as_str())
                || (taint.effect == "NoExecute" && !stays(taint, tolerations))
        };
        if self.taints.iter().any(|taint| drains(&taint)) {
            Node::Draining
        } else if self.cordoned {
            Node::Cordoned
        } else {
            Node::Fine
        }
    }
}

/// Whether a pod may stay for ever in spite of a taint.
fn stays(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let key_fits = if key.is_empty() { exists } else { key == taint.key };
        let value_fits =
            exists || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
        let effect_fits = toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect);
        key_fits && value_fits && effect_fits && toleration.toleration_seconds.is_none()
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn judge(spec: &Value, tolerations: &Value) -> Node {
        let node: Object = serde_json::from_value(json!({ "spec": spec })).unwrap();
        let tolerations: Vec<Toleration> = serde_json::from_value(tolerations.clone()).unwrap();
        Seen::of(&node).for_pod(&tolerations)
    }

    #[rstest]
    #[case::plain(json!({}), Node::Fine)]
    #[case::cordoned(json!({"unschedulable": true}), Node::Cordoned)]
    #[case::evicting(json!({"taints": [{"key": "maintenance", "effect": "NoExecute"}]}), Node::Draining)]
    #[case::unreachable(json!({"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}), Node::Draining)]
    #[case::dedicated(json!({"taints": [{"key": "dedicated", "value": "db", "effect": "NoExecute"}]}), Node::Fine)]
    #[case::keeps_off(json!({"taints": [{"key": "other", "effect": "NoSchedule"}]}), Node::Fine)]
    #[case::autoscaler(json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}), Node::Draining)]
    #[case::dead(json!({"taints": [{"key": OUT_OF_SERVICE, "effect": "NoSchedule"}]}), Node::Draining)]
    fn a_node_tells_its_future(#[case] spec: Value, #[case] expected: Node) {
        let tolerations = json!([
            {"key": "dedicated", "operator": "Equal", "value": "db", "effect": "NoExecute"},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        ]);
        assert_eq!(judge(&spec, &tolerations), expected);
    }

    #[test]
    fn a_pod_that_tolerates_everything_stays() {
        let spec = json!({"taints": [{"key": "maintenance", "effect": "NoExecute"}]});
        assert_eq!(judge(&spec, &json!([{"operator": "Exists"}])), Node::Fine);
    }
}
