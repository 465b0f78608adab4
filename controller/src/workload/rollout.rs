//! What a Deployment or StatefulSet of ours means for a status: few states, and sentences that do not count along.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::Pod,
};
use shared::{api::v1alpha1::Phase, health};

/// How far a workload has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    state: health::Rollout,
    /// A Deployment that may not create its pods, or gave up waiting for them, in its own words.
    overdue: Option<String>,
    /// A pod for which there is no node.
    unplaced: Option<String>,
}

impl Rollout {
    /// Judges a Deployment and its pods.
    pub fn of_deployment(deployment: Option<&Deployment>, pods: &[Arc<Pod>]) -> Self {
        let conditions = deployment.and_then(|d| d.status.as_ref()).and_then(|status| status.conditions.as_ref());
        // Pods that the API server refuses (a quota, a policy) are never created, so no pod can tell of it.
        let overdue = conditions.into_iter().flatten().find(|condition| match condition.type_.as_str() {
            "ReplicaFailure" => condition.status == "True",
            "Progressing" => {
                condition.status == "False" && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
            }
            _ => false,
        });
        Self {
            state: health::Rollout::of_deployment(deployment, by_name(pods)),
            overdue: overdue.map(|c| c.message.clone().unwrap_or_else(|| "the rollout makes no progress".to_owned())),
            unplaced: None,
        }
    }

    /// Judges a StatefulSet and its pods.
    pub fn of_stateful_set(set: Option<&StatefulSet>, pods: &[Arc<Pod>]) -> Self {
        Self { state: health::Rollout::of_stateful_set(set, by_name(pods)), overdue: None, unplaced: None }
    }

    /// Adds what the scheduler says of the pods by now.
    #[must_use]
    pub fn placed(self, pods: &[Arc<Pod>], now: Timestamp) -> Self {
        Self { unplaced: unplaced(pods, now), ..self }
    }

    /// Pods that exist.
    pub fn replicas(&self) -> i32 {
        self.state.total()
    }

    /// Whether pods are missing that the workload should have by its own description.
    pub fn lacks_pods(&self) -> bool {
        self.state.total() < self.state.desired()
    }

    /// Pods that are ready.
    pub fn ready(&self) -> i32 {
        self.state.ready()
    }

    /// Whether the workload runs exactly what is asked for; also true where no pods at all are asked for.
    pub fn complete(&self) -> bool {
        self.state.is_complete() && self.state.crash().is_none()
    }

    /// Whether the workload is complete without a single pod.
    pub fn empty(&self) -> bool {
        self.state.is_complete() && self.state.desired() == 0
    }

    /// Whether something keeps the workload from coming up by itself.
    pub fn broken(&self) -> bool {
        self.state.crash().is_some() || self.overdue.is_some()
    }

    /// The phase that the workload alone justifies. Initialising counts as progress, because the change from one to the other
    /// would cost a status write and tell nobody anything.
    pub fn phase(&self) -> Phase {
        if self.broken() {
            Phase::Degraded
        } else if self.complete() {
            Phase::Healthy
        } else {
            Phase::Progressing
        }
    }

    /// One sentence about the phase. It carries no counters while things move: each step would be a write.
    pub fn message(&self, what: &str) -> String {
        if let Some(crash) = self.state.crash() {
            return format!("{what}: {crash}");
        }
        match &self.overdue {
            Some(overdue) => format!("{what}: {overdue}"),
            None if self.complete() => "Ready".to_owned(),
            None => match &self.unplaced {
                Some(unplaced) => format!("{what}: {unplaced}"),
                None => format!("{what} is progressing"),
            },
        }
    }

    /// What the conditions say: the counters once they stand still, a constant before that is true of every step.
    pub fn counts(&self) -> String {
        if self.complete() || self.broken() {
            format!("{}/{} ready", self.state.ready(), self.state.desired())
        } else {
            "not all replicas are ready yet".to_owned()
        }
    }
}

/// The first pod that waits for a node, and what the scheduler says about it.
pub fn unplaced(pods: &[Arc<Pod>], now: Timestamp) -> Option<String> {
    by_name(pods).into_iter().find_map(|pod| {
        let why = health::unscheduled(pod, now)?;
        Some(format!("pod {} finds no node: {why}", pod.metadata.name.as_deref().unwrap_or_default()))
    })
}

/// Pods in one order, so that the same pod is named on every pass.
fn by_name(pods: &[Arc<Pod>]) -> Vec<&Pod> {
    let mut sorted: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
    sorted.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    sorted
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentSpec, DeploymentStatus};
    use rstest::rstest;

    use super::*;

    fn deployment(desired: i32, replicas: i32, updated: i32, ready: i32) -> Deployment {
        let mut deployment = Deployment {
            spec: Some(DeploymentSpec { replicas: Some(desired), ..DeploymentSpec::default() }),
            status: Some(DeploymentStatus {
                observed_generation: Some(2),
                replicas: Some(replicas),
                updated_replicas: Some(updated),
                ready_replicas: Some(ready),
                ..DeploymentStatus::default()
            }),
            ..Deployment::default()
        };
        deployment.metadata.generation = Some(2);
        deployment
    }

    #[rstest]
    #[case(2, 2, 2, 2, Phase::Healthy)]
    #[case(2, 3, 1, 2, Phase::Progressing)] // Old pods still carry the traffic.
    #[case(2, 2, 2, 1, Phase::Progressing)]
    #[case(2, 0, 0, 0, Phase::Progressing)]
    #[case(0, 0, 0, 0, Phase::Healthy)]
    fn phase_follows_current_and_ready_pods(
        #[case] desired: i32,
        #[case] replicas: i32,
        #[case] updated: i32,
        #[case] ready: i32,
        #[case] expected: Phase,
    ) {
        let rollout = Rollout::of_deployment(Some(&deployment(desired, replicas, updated, ready)), &[]);
        assert_eq!(rollout.phase(), expected);
    }

    #[test]
    fn an_unseen_generation_is_not_healthy() {
        let mut deployment = deployment(1, 1, 1, 1);
        deployment.metadata.generation = Some(3);
        assert_eq!(Rollout::of_deployment(Some(&deployment), &[]).phase(), Phase::Progressing);
        assert_eq!(Rollout::of_deployment(None, &[]).phase(), Phase::Progressing);
    }

    #[test]
    fn a_deployment_past_its_deadline_is_degraded() {
        let mut deployment = deployment(1, 1, 1, 0);
        let condition = DeploymentCondition {
            type_: "Progressing".into(),
            status: "False".into(),
            reason: Some("ProgressDeadlineExceeded".into()),
            message: Some("timed out".into()),
            ..DeploymentCondition::default()
        };
        deployment.status.get_or_insert_default().conditions = Some(vec![condition]);
        let rollout = Rollout::of_deployment(Some(&deployment), &[]);
        assert_eq!((rollout.phase(), rollout.message("Gateway")), (Phase::Degraded, "Gateway: timed out".to_owned()));
    }

    #[test]
    fn a_deployment_whose_pods_are_refused_is_degraded_and_says_why() {
        let mut deployment = deployment(1, 0, 0, 0);
        let refused = DeploymentCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some("exceeded quota".into()),
            ..DeploymentCondition::default()
        };
        deployment.status.get_or_insert_default().conditions = Some(vec![refused]);
        let rollout = Rollout::of_deployment(Some(&deployment), &[]);
        let told = (rollout.phase(), rollout.message("Gateway"));
        assert_eq!(told, (Phase::Degraded, "Gateway: exceeded quota".to_owned()));
    }

    #[test]
    fn progress_messages_do_not_count() {
        let one = Rollout::of_deployment(Some(&deployment(3, 3, 3, 1)), &[]);
        let two = Rollout::of_deployment(Some(&deployment(3, 3, 3, 2)), &[]);
        assert_eq!((one.message("Gateway"), one.counts()), (two.message("Gateway"), two.counts()));
    }
}
