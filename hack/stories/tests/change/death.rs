//! A controller that dies while it takes a pod out of service, in each state of that.
//!
//! The API server is told to refuse the step after each state, so that the controller dies in that state and not somewhere near it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    coordination::v1::Lease,
    core::v1::Pod,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use shared::annotation::{self, DrainState};
use stories::{Bed, ClusterUnderTest, backup::small, bed::OPERATOR_NAMESPACE, until, within};

use super::watch::{Eye, POOL, nobody_goes, only_long, only_stand_in, pool_pods};

/// What the API server says about a step that is refused.
const REFUSED: &str = "the story has not let go of this state yet";
/// The states of a drain and what follows each; the removal of the pod follows the last one.
const STATES: [(DrainState, Option<DrainState>); 4] = [
    (DrainState::Requested, Some(DrainState::Draining)),
    (DrainState::Draining, Some(DrainState::Acknowledged)),
    (DrainState::Acknowledged, Some(DrainState::ReadyForDeletion)),
    (DrainState::ReadyForDeletion, None),
];

/// A state that no pod of a namespace gets out of.
struct Hold {
    state: DrainState,
    next: Option<DrainState>,
    name: String,
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
}

impl Hold {
    fn new(cluster: &ClusterUnderTest, state: DrainState, next: Option<DrainState>) -> Self {
        let client = &cluster.bed.client;
        Self {
            state,
            next,
            name: format!("{}-{state}", cluster.namespace),
            policies: Api::all(client.clone()),
            bindings: Api::all(client.clone()),
        }
    }

    /// Refuses the step, and waits until it is refused.
    async fn take(&self, cluster: &ClusterUnderTest) -> Result<()> {
        let key = annotation::DRAIN_STATE;
        let (operation, expression) = match self.next {
            Some(next) => (
                "UPDATE",
                format!(
                    "!has(object.metadata.annotations) || !('{key}' in object.metadata.annotations) || \
                     object.metadata.annotations['{key}'] != '{next}'"
                ),
            ),
            None => ("DELETE", "false".to_owned()),
        };
        let policy = serde_json::from_value(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": self.name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": [operation], "resources": ["pods"],
                }]},
                // Neither a lack of rights nor a fault of the request: something that may pass.
                "validations": [{"expression": expression, "message": REFUSED, "reason": "RequestEntityTooLarge"}],
            },
        }))?;
        self.policies.create(&PostParams::default(), &policy).await.context("making a policy")?;
        let binding = serde_json::from_value(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": self.name},
            "spec": {
                "policyName": self.name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": cluster.namespace},
                }},
            },
        }))?;
        self.bindings.create(&PostParams::default(), &binding).await.context("binding a policy")?;
        let pods: Api<Pod> = cluster.namespaced();
        let pod = pods.list(&pool_pods(cluster)).await?.items.pop().context("a pool pod")?.name_any();
        until(&format!("the step after {} to be refused", self.state), within(60), || async {
            let tried = match self.next {
                Some(next) => {
                    let marks = json!({"metadata": {"annotations": {key: next.to_string()}}});
                    pods.patch(&pod, &PatchParams::default().dry_run(), &Patch::Merge(&marks)).await.map(drop)
                }
                None => pods.delete(&pod, &DeleteParams::default().dry_run()).await.map(drop),
            };
            match tried {
                Ok(()) => bail!("it is not refused yet"),
                Err(error) => ensure!(error.to_string().contains(REFUSED), "refused otherwise: {error}"),
            }
            Ok(())
        })
        .await
    }

    /// Lets go, whether it was taken or not.
    async fn let_go(&self) -> Result<()> {
        let gone = |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
        if let Err(error) = self.bindings.delete(&self.name, &DeleteParams::default()).await
            && !gone(&error)
        {
            return Err(error).context("removing the binding of a policy");
        }
        if let Err(error) = self.policies.delete(&self.name, &DeleteParams::default()).await
            && !gone(&error)
        {
            return Err(error).context("removing a policy");
        }
        Ok(())
    }
}

/// The states of drains that go on, by pod.
async fn drains(cluster: &ClusterUnderTest) -> Result<Vec<(String, String)>> {
    let pods: Api<Pod> = cluster.namespaced();
    let state = |pod: &Pod| pod.annotations().get(annotation::DRAIN_STATE).cloned();
    let list = pods.list(&pool_pods(cluster)).await?.items;
    Ok(list.iter().filter_map(|pod| Some((pod.name_any(), state(pod)?))).collect())
}

/// Ends the controller without grace, and waits until another one leads.
async fn kill(bed: &Bed) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), OPERATOR_NAMESPACE);
    let controllers = ListParams::default().labels("app.kubernetes.io/component=controller");
    let old: BTreeSet<String> = pods.list(&controllers).await?.iter().map(Pod::name_any).collect();
    bed.crash_controller().await?;
    until("other pods of the controller", within(120), || async {
        let now: Vec<Pod> = pods.list(&controllers).await?.items;
        let new = now.iter().all(|pod| !old.contains(&pod.name_any()) && shared::health::is_ready(pod));
        ensure!(new && !now.is_empty(), "{:?}", now.iter().map(Pod::name_any).collect::<Vec<_>>());
        Ok(())
    })
    .await?;
    bed.controller_ready().await?;
    let leases: Api<Lease> = Api::namespaced(bed.client.clone(), OPERATOR_NAMESPACE);
    until("another controller that leads", within(120), || async {
        let held = leases.list(&ListParams::default()).await?.items;
        let holders: Vec<String> = held.into_iter().filter_map(|lease| lease.spec?.holder_identity).collect();
        ensure!(!holders.iter().any(|holder| old.iter().any(|pod| holder.contains(pod))), "{holders:?}");
        Ok(())
    })
    .await
}

/// Lets the clock of a pod's state begin anew. After a minute the operator goes on without the data plane's word, and how long this machine
/// takes to start a controller must not be the reason.
async fn restart_clock(cluster: &ClusterUnderTest, pod: &str) -> Result<()> {
    let pods: Api<Pod> = cluster.namespaced();
    let now = jiff::Timestamp::now().to_string();
    let marks = json!({"metadata": {"annotations": {annotation::DRAIN_STATE_SINCE: now}}});
    pods.patch(pod, &PatchParams::default(), &Patch::Merge(&marks)).await.context("beginning a clock anew")?;
    Ok(())
}

/// A member leaves while the controller dies in each state of its way out.
async fn dies_in_each(cluster: &ClusterUnderTest, holds: &[Hold]) -> Result<()> {
    for hold in holds {
        hold.take(cluster).await?;
    }
    let eye = Eye::open(cluster, 2);
    let patch: Value = json!([{"op": "replace", "path": format!("{POOL}/replicasPerCell"), "value": 2}]);
    cluster.patch(&patch.to_string()).await?;
    let mut victim: Option<String> = None;
    for hold in holds {
        let wanted = hold.state.to_string();
        let in_state = || async {
            let drains = drains(cluster).await?;
            let [(pod, state)] = drains.as_slice() else { bail!("not one pod on its way out: {drains:?}") };
            ensure!(*state == wanted, "{pod} is {state}");
            Ok(pod.clone())
        };
        let pod = until(&format!("a pod that is {wanted}"), within(90), in_state).await?;
        kill(&cluster.bed).await?;
        nobody_goes(&eye, 0, 2).await?;
        ensure!(in_state().await? == pod, "another pod was chosen after {pod}");
        ensure!(victim.as_ref().is_none_or(|before| *before == pod), "{victim:?} before, {pod} now");
        restart_clock(cluster, &pod).await?;
        victim = Some(pod);
        hold.let_go().await?;
    }
    let victim = victim.context("a pod on its way out")?;
    cluster.roles(1, 120).await?;
    cluster.healthy(180).await?;
    let course = eye.latest().await?;
    ensure!(course.gone == [(victim.clone(), false)], "{victim} goes, once and not as the primary: {course:?}");
    ensure!(course.led.len() <= 2, "one switchover at most: {course:?}");
    ensure!(course.most_down == 0, "those that stay are there all the time: {course:?}");
    let claims = cluster.claims().await?;
    ensure!(claims.contains(&shared::name::data_pvc(&victim)), "the volume of {victim} is kept: {claims:?}");
    Ok(())
}

#[tokio::test]
async fn the_controller_may_die_in_each_state_of_a_drain() -> Result<()> {
    if only_long() || only_stand_in() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let namespace = bed.namespace("dies").await?;
    let cluster = ClusterUnderTest::apply_value(&bed, &namespace, &small("dies", 3, &json!({}))).await?;
    cluster.healthy(300).await?;
    cluster.roles(2, 60).await?;
    let holds = STATES.map(|(state, next)| Hold::new(&cluster, state, next));
    let outcome = dies_in_each(&cluster, &holds).await;
    // Whatever came of it: pods of the namespace have to be able to go.
    for hold in &holds {
        hold.let_go().await?;
    }
    outcome?;
    cluster.done().await
}
