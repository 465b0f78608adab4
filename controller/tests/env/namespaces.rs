//! The real controller with nothing but Roles in the namespaces that it watches, on a real API server.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. The controller acts as a user of its own there, who has
//! the rights that the chart gives: a right that is missing fails the test.

use std::{collections::BTreeSet, time::Duration};

use super::bed::{Bed, DEADLINE, Objects, eventually, minimal};
use controller::{cli::Sidecars, server};
use serde_json::Value;

const CLUSTER: &str = "MultigresCluster/minimal";
/// What the controller may do in a namespace.
const RIGHTS: &str = "controller.yaml";
/// The last object of a cluster whose etcd is played.
const LAST: &str = "Deployment/minimal-zone-a-multigateway";

fn user(bed: &Bed) -> String {
    format!("system:serviceaccount:{}:operator", bed.namespace)
}

/// Waits until a cluster has all that it gets without kubelets; returns its objects.
async fn complete(bed: &Bed) -> Objects {
    eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        let pods = objects.keys().filter(|id| id.starts_with("Pod/")).count();
        if pods > 0 && objects.keys().any(|id| id.starts_with(LAST)) {
            Ok(objects)
        } else {
            Err(format!("{:?}", objects.keys()))
        }
    })
    .await
}

fn names(objects: &Objects) -> BTreeSet<&str> {
    objects.keys().map(String::as_str).collect()
}

/// Whether nobody has touched a cluster.
async fn untouched(bed: &Bed) {
    let objects = bed.objects().await;
    assert_eq!(names(&objects), BTreeSet::from([CLUSTER]));
    assert!(objects[CLUSTER]["metadata"]["finalizers"].is_null() && objects[CLUSTER]["status"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_roles_alone_two_namespaces_are_reconciled_and_a_third_is_left_alone() {
    let Some(first) = Bed::open().await else { return };
    let (second, third) = (first.another().await, first.another().await);
    let user = user(&first);
    for bed in [&first, &second] {
        bed.grant(&user, RIGHTS).await;
    }
    for bed in [&first, &second, &third] {
        bed.create_cluster("minimal", &minimal()).await;
    }
    let controller = first.start_as(&user, &[&first, &second]).await;
    let (of_first, of_second) = (complete(&first).await, complete(&second).await);
    assert_eq!(names(&of_first), names(&of_second));
    untouched(&third).await;
    controller.quiet(Duration::from_secs(3)).await;

    // Another controller finds everything as it should be, and forgets nothing of one namespace for the lists of the other.
    controller.stop().await;
    let controller = first.start_as(&user, &[&second, &first]).await;
    first.edit(CLUSTER, serde_json::json!({"spec": {"multiadmin": {"spec": {"replicas": 2}}}})).await;
    eventually(DEADLINE, async || match &first.object("Deployment/minimal-multiadmin").await["spec"]["replicas"] {
        replicas if *replicas == 2 => Ok(()),
        replicas => Err(replicas.to_string()),
    })
    .await;

    // Nothing that a removal needs is missing either, and it does not concern the cluster of the same name next door.
    first.delete(CLUSTER).await;
    eventually(DEADLINE, async || {
        first.collect_garbage().await;
        match first.object(CLUSTER).await {
            Value::Null => Ok(()),
            cluster => Err(cluster["metadata"].to_string()),
        }
    })
    .await;
    assert_eq!(names(&second.objects().await), names(&of_second));
    untouched(&third).await;
    assert_eq!(controller.wire.forbidden(), Vec::<String>::new());
    controller.stop().await;
    for bed in [first, second, third] {
        bed.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_look_at_nodes_takes_what_every_kubelet_can() {
    let Some(bed) = Bed::open().await else { return };
    let user = user(&bed);
    let native = async |sidecars| {
        let (server, features) = server::discover(&bed.client_as(&user), sidecars).await.unwrap();
        assert!(server >= server::OLDEST, "{server}");
        (server, features.native_sidecars)
    };
    assert!(!native(Sidecars::Auto).await.1);
    assert!(native(Sidecars::On).await.1);
    bed.grant_everywhere(&user, "controller-nodes.yaml").await;
    eventually(DEADLINE, async || {
        let (server, native) = native(Sidecars::Auto).await;
        if native == (server.minor >= 29) { Ok(()) } else { Err(format!("{server}: {native}")) }
    })
    .await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_without_a_role_holds_up_nobody_and_joins_once_it_has_one() {
    let Some(first) = Bed::open().await else { return };
    let late = first.another().await;
    let user = user(&first);
    first.grant(&user, RIGHTS).await;
    for bed in [&first, &late] {
        bed.create_cluster("minimal", &minimal()).await;
    }
    let controller = first.start_as(&user, &[&late, &first]).await;
    complete(&first).await;
    untouched(&late).await;
    assert!(controller.wire.forbidden().iter().all(|request| request.contains(&late.namespace)));
    late.grant(&user, RIGHTS).await;
    complete(&late).await;
    controller.stop().await;
    for bed in [first, late] {
        bed.close().await;
    }
}
