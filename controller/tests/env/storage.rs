//! StorageClasses that are missing, on a real API server: named in time, and over by itself.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`.

use std::time::Duration;

use super::bed::{Bed, condition, eventually, storage_class};
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

const CLUSTER: &str = "MultigresCluster/minimal";
/// How long a user waits for an explanation at most.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_class_that_is_missing_is_named_within_half_a_minute_and_the_cluster_goes_on_once_it_exists() {
    let Some(bed) = Bed::open().await else { return };
    let class = format!("gold-{}", bed.namespace);
    let mut spec = super::bed::minimal();
    spec["globalTopoServer"] = json!({"etcd": {"storage": {"class": class}}});
    let controller = bed.start().await;
    bed.create_cluster("minimal", &spec).await;
    let cluster = eventually(SOON, async || {
        let cluster = bed.object(CLUSTER).await;
        let missing = condition(&cluster, "StorageClassMissing");
        if missing["status"] == "True" { Ok(cluster) } else { Err(cluster["status"].to_string()) }
    })
    .await;
    let missing = condition(&cluster, "StorageClassMissing");
    assert_eq!(missing["reason"], "StorageClassNotFound");
    assert!(missing["message"].as_str().unwrap().contains(&class), "{missing}");
    assert_eq!(condition(&cluster, "SpecAccepted")["status"], "True", "it is carried out all the same");

    let classes = bed.storage_classes();
    let made = serde_json::from_value(storage_class(&class, false)).unwrap();
    classes.create(&PostParams::default(), &made).await.unwrap();
    eventually(SOON, async || {
        let cluster = bed.object(CLUSTER).await;
        let missing = condition(&cluster, "StorageClassMissing");
        if missing.is_null() { Ok(()) } else { Err(missing.to_string()) }
    })
    .await;
    // Taken away again it is told again, although nothing of the cluster changed.
    classes.delete(&class, &DeleteParams::default()).await.unwrap();
    eventually(SOON, async || {
        let cluster = bed.object(CLUSTER).await;
        if condition(&cluster, "StorageClassMissing")["status"] == "True" { Ok(()) } else { Err("silence".to_owned()) }
    })
    .await;
    controller.stop().await;
    bed.close().await;
}
