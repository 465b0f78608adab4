//! How far a workload has come, and whether its pods crash.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ContainerStatus, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::api::v1alpha1::Phase;

/// Restarts after which a container that has just ended counts as crashing.
const MANY_RESTARTS: i32 = 3;

/// How long the scheduler may look for a node before somebody is told.
const PATIENCE: SignedDuration = SignedDuration::from_secs(15);

/// Reasons for which a container waits that do not go away by themselves.
const STUCK: [&str; 7] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "OOMKilled",
];

/// A container that does not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Name of the pod.
    pub pod: String,
    /// Name of the container.
    pub container: String,
    /// Why, in one word of the kubelet.
    pub reason: String,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "container {} of pod {} is crash-looping ({})", self.container, self.pod, self.reason)
    }
}

/// The state of a Deployment or StatefulSet and its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    exists: bool,
    observed: bool,
    desired: i32,
    total: i32,
    updated: i32,
    ready: i32,
    crash: Option<Crash>,
}

impl Rollout {
    /// Reads a Deployment that may not exist yet.
    pub fn of_deployment<'a>(workload: Option<&Deployment>, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let crash = pods.into_iter().find_map(crash);
        let Some(workload) = workload else { return Self { crash, ..Self::default() } };
        let status = workload.status.clone().unwrap_or_default();
        Self {
            exists: true,
            observed: is_observed(workload.metadata.generation, status.observed_generation),
            desired: workload.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            total: status.replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            crash,
        }
    }

    /// Reads a StatefulSet that may not exist yet.
    pub fn of_stateful_set<'a>(workload: Option<&StatefulSet>, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let crash = pods.into_iter().find_map(crash);
        let Some(workload) = workload else { return Self { crash, ..Self::default() } };
        let status = workload.status.clone().unwrap_or_default();
        let total = status.replicas;
        // With one revision everywhere the server may leave the count of updated replicas out.
        let settled = status.current_revision == status.update_revision;
        Self {
            exists: true,
            observed: is_observed(workload.metadata.generation, status.observed_generation),
            desired: workload.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            total,
            updated: if settled { total } else { status.updated_replicas.unwrap_or(0) },
            ready: status.ready_replicas.unwrap_or(0),
            crash,
        }
    }

    /// Returns how many replicas are ready.
    pub fn ready(&self) -> i32 {
        self.ready
    }

    /// Returns how many replicas the spec asks for.
    pub fn desired(&self) -> i32 {
        self.desired
    }

    /// Returns how many replicas exist.
    pub fn total(&self) -> i32 {
        self.total
    }

    /// Returns the first container that does not come up.
    pub fn crash(&self) -> Option<&Crash> {
        self.crash.as_ref()
    }

    /// Returns whether at least one replica serves.
    pub fn is_available(&self) -> bool {
        self.ready > 0
    }

    /// Returns whether the workload runs exactly what its spec says.
    pub fn is_complete(&self) -> bool {
        self.exists
            && self.observed
            && self.total == self.desired
            && self.updated == self.desired
            && self.ready == self.desired
    }

    /// Returns the phase.
    ///
    /// Differs: a workload that is scaled to zero on purpose is Healthy, and one whose old replicas still serve while new
    /// ones start is Progressing.
    pub fn phase(&self) -> Phase {
        if self.crash.is_some() {
            Phase::Degraded
        } else if self.is_complete() {
            Phase::Healthy
        } else if !self.exists || (self.observed && self.total == 0) {
            Phase::Initializing
        } else {
            Phase::Progressing
        }
    }

    /// Returns a sentence about the workload for its user.
    pub fn message(&self, component: &str) -> String {
        match &self.crash {
            Some(crash) => format!("{component}: {crash}"),
            None if self.is_complete() => "Ready".to_owned(),
            None if !self.exists => format!("{component} does not exist yet"),
            None if !self.observed => format!("{component} is progressing"),
            None => format!("{component}: {}/{} replicas ready", self.ready, self.desired),
        }
    }
}

/// Returns whether a pod is ready to serve and stays.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    !is_terminating(pod)
        && conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Returns since when a pod has been ready to serve; `None` if it is not, or is about to end.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref().filter(|_| is_ready(pod))?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    ready.last_transition_time.as_ref().map(|since| since.0)
}

/// Returns why the scheduler finds no node for a pod, once it has looked for [`PATIENCE`]: a volume that is being made, or a node that
/// is about to come, is no news.
pub fn unscheduled(pod: &Pod, now: Timestamp) -> Option<&str> {
    if is_terminating(pod) {
        return None;
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| {
        let waits = |since: &Time| now.duration_since(since.0) >= PATIENCE;
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.last_transition_time.as_ref().is_none_or(waits)
    })?;
    condition.message.as_deref().or(condition.reason.as_deref())
}

/// Returns whether a pod is being deleted.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Returns the first container of a pod that does not come up; a pod that is being deleted has none.
pub fn crash(pod: &Pod) -> Option<Crash> {
    crashes(pod).into_iter().next()
}

/// Returns the containers of a pod that do not come up; a pod that is being deleted has none.
///
/// Init containers count, because sidecars report there.
pub fn crashes(pod: &Pod) -> Vec<Crash> {
    let Some(status) = pod.status.as_ref().filter(|_| !is_terminating(pod)) else { return Vec::new() };
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let found = containers.into_iter().flatten().flatten().filter_map(|container| {
        Some(Crash {
            pod: pod.metadata.name.clone().unwrap_or_default(),
            container: container.name.clone(),
            reason: crash_reason(container)?,
        })
    });
    found.collect()
}

fn crash_reason(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(reason) = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()) {
        // The kubelet says the one while it tries and the other until it tries again: one word, or every try would be news.
        let reason = match reason {
            "ErrImagePull" => "ImagePullBackOff",
            "RunContainerError" => "CrashLoopBackOff",
            other => other,
        };
        return STUCK.contains(&reason).then(|| reason.to_owned());
    }
    let ended = state.terminated.as_ref()?;
    // An init container that did its work is not crashing, however often the node made it run.
    (container.restart_count >= MANY_RESTARTS && ended.exit_code != 0)
        .then(|| ended.reason.clone().unwrap_or_else(|| "Error".to_owned()))
}

fn is_observed(generation: Option<i64>, observed: Option<i64>) -> bool {
    observed.unwrap_or(0) >= generation.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn deployment(replicas: i32, generation: i64, status: &Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"generation": generation},
            "spec": {"replicas": replicas, "selector": {}, "template": {}},
            "status": status,
        }))
        .unwrap()
    }

    fn pod(section: &str, state: &Value, restarts: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "status": {section: [{
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": restarts, "state": state,
            }]},
        }))
        .unwrap()
    }

    fn waiting(reason: &str) -> Value {
        json!({"waiting": {"reason": reason}})
    }

    #[rstest]
    #[case::just_now("2026-01-01T00:00:50Z", "False", None)]
    #[case::for_a_while("2026-01-01T00:00:45Z", "False", Some("0/3 nodes are available"))]
    #[case::no_longer("2026-01-01T00:00:00Z", "True", None)]
    fn pod_without_a_node_is_told_of_after_a_while(
        #[case] since: &str,
        #[case] status: &str,
        #[case] expected: Option<&str>,
    ) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "status": {"conditions": [{
                "type": "PodScheduled", "status": status, "lastTransitionTime": since, "message": "0/3 nodes are available",
            }]},
        }))
        .unwrap();
        assert_eq!(unscheduled(&pod, "2026-01-01T00:01:00Z".parse().unwrap()), expected);
    }

    #[rstest]
    #[case::new(2, json!({}), Phase::Progressing, "gateway is progressing")]
    #[case::no_pods(2, json!({"observedGeneration": 3}), Phase::Initializing, "gateway: 0/2 replicas ready")]
    #[case::starting(
        2,
        json!({"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 1}),
        Phase::Progressing,
        "gateway: 1/2 replicas ready"
    )]
    #[case::old_ones_serve(
        2,
        json!({"observedGeneration": 3, "replicas": 2, "updatedReplicas": 1, "readyReplicas": 2}),
        Phase::Progressing,
        "gateway: 2/2 replicas ready"
    )]
    #[case::surplus(
        2,
        json!({"observedGeneration": 3, "replicas": 3, "updatedReplicas": 2, "readyReplicas": 3}),
        Phase::Progressing,
        "gateway: 3/2 replicas ready"
    )]
    #[case::stale(
        2,
        json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}),
        Phase::Progressing,
        "gateway is progressing"
    )]
    #[case::done(
        2,
        json!({"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}),
        Phase::Healthy,
        "Ready"
    )]
    #[case::scaled_to_zero(0, json!({"observedGeneration": 3}), Phase::Healthy, "Ready")]
    fn phase_of_a_deployment(
        #[case] replicas: i32,
        #[case] status: Value,
        #[case] phase: Phase,
        #[case] message: &str,
    ) {
        let rollout = Rollout::of_deployment(Some(&deployment(replicas, 3, &status)), []);
        assert_eq!(rollout.phase(), phase);
        assert_eq!(rollout.message("gateway"), message);
    }

    #[test]
    fn missing_workload_is_initializing() {
        let rollout = Rollout::of_deployment(None, []);
        assert_eq!(rollout.phase(), Phase::Initializing);
        assert!(!rollout.is_available());
    }

    #[rstest]
    #[case::one_revision("a", "a", None, Phase::Healthy)]
    #[case::rolling("a", "b", Some(1), Phase::Progressing)]
    #[case::rolled("a", "b", Some(3), Phase::Healthy)]
    fn phase_of_a_stateful_set(
        #[case] current: &str,
        #[case] update: &str,
        #[case] updated: Option<i32>,
        #[case] phase: Phase,
    ) {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"generation": 1},
            "spec": {"replicas": 3, "selector": {}, "template": {}, "serviceName": "s"},
            "status": {
                "observedGeneration": 1, "replicas": 3, "readyReplicas": 3, "updatedReplicas": updated,
                "currentRevision": current, "updateRevision": update,
            },
        }))
        .unwrap();
        assert_eq!(Rollout::of_stateful_set(Some(&set), []).phase(), phase);
    }

    #[rstest]
    #[case(waiting("CrashLoopBackOff"), 1, Some("CrashLoopBackOff"))]
    #[case(waiting("ImagePullBackOff"), 0, Some("ImagePullBackOff"))]
    #[case(waiting("ErrImagePull"), 0, Some("ImagePullBackOff"))]
    #[case(waiting("CreateContainerConfigError"), 0, Some("CreateContainerConfigError"))]
    #[case(waiting("CreateContainerError"), 0, Some("CreateContainerError"))]
    #[case(waiting("RunContainerError"), 1, Some("CrashLoopBackOff"))]
    #[case(waiting("InvalidImageName"), 0, Some("InvalidImageName"))]
    #[case(waiting("ContainerCreating"), 0, None)]
    #[case(json!({"terminated": {"exitCode": 1, "reason": "Error"}}), 3, Some("Error"))]
    #[case(json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), 5, Some("OOMKilled"))]
    #[case(json!({"terminated": {"exitCode": 1, "reason": "Error"}}), 2, None)]
    #[case(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), 4, None)]
    #[case(json!({"running": {}}), 50, None)]
    fn crash_is_told_from_waiting(#[case] state: Value, #[case] restarts: i32, #[case] expected: Option<&str>) {
        for section in ["containerStatuses", "initContainerStatuses"] {
            let found = crash(&pod(section, &state, restarts));
            assert_eq!(found.map(|crash| crash.reason).as_deref(), expected);
        }
    }

    #[test]
    fn crash_degrades_whatever_the_counts_say() {
        let status = json!({"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2});
        let crashing = pod("containerStatuses", &waiting("CrashLoopBackOff"), 9);
        let rollout = Rollout::of_deployment(Some(&deployment(2, 3, &status)), [&crashing]);
        assert_eq!(rollout.phase(), Phase::Degraded);
        assert_eq!(rollout.message("gateway"), "gateway: container c of pod p is crash-looping (CrashLoopBackOff)");
    }

    #[test]
    fn pod_that_is_deleted_neither_crashes_nor_serves() {
        let mut leaving = pod("containerStatuses", &waiting("CrashLoopBackOff"), 9);
        leaving.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(crash(&leaving), None);
        let ready = json!({"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let mut pod: Pod = serde_json::from_value(ready).unwrap();
        assert!(is_ready(&pod));
        pod.metadata.deletion_timestamp = leaving.metadata.deletion_timestamp;
        assert!(!is_ready(&pod));
    }
}
