//! Volumes for simulated nodes: every claim of the testbed's storage classes gets a volume that exists on paper only.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};

use crate::addons::{SHARED_STORAGE_CLASS, STORAGE_CLASS};
use crate::control_plane;

/// The provisioner's name in the storage classes.
pub const PROVISIONER: &str = "testbed/simulated";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// Serves claims until it is killed.
pub async fn serve(kubeconfig: &Path) -> Result<()> {
    let client = control_plane::client(kubeconfig).await?;
    let claims =
        watcher(Api::<PersistentVolumeClaim>::all(client.clone()), watcher::Config::default()).default_backoff();
    let volumes = watcher(Api::<PersistentVolume>::all(client.clone()), watcher::Config::default()).default_backoff();
    let bind = claims
        .applied_objects()
        .map_err(anyhow::Error::from)
        .try_for_each_concurrent(8, |claim| provide(client.clone(), claim));
    let clean = volumes
        .applied_objects()
        .map_err(anyhow::Error::from)
        .try_for_each_concurrent(8, |volume| clean(client.clone(), volume));
    tokio::try_join!(bind, clean).context("serving volumes").map(|_| ())
}

async fn provide(client: Client, claim: PersistentVolumeClaim) -> Result<()> {
    let Some(volume) = volume_for(&claim) else { return Ok(()) };
    match Api::<PersistentVolume>::all(client).create(&PostParams::default(), &volume).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => {
            eprintln!("creating {}: {error}", volume.name_any());
            Ok(())
        }
    }
}

async fn clean(client: Client, volume: PersistentVolume) -> Result<()> {
    if !is_released(&volume) {
        return Ok(());
    }
    if let Err(error) = Api::<PersistentVolume>::all(client).delete(&volume.name_any(), &DeleteParams::default()).await
    {
        eprintln!("deleting {}: {error}", volume.name_any());
    }
    Ok(())
}

fn volume_for(claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let spec = claim.spec.as_ref()?;
    let class = spec.storage_class_name.as_deref()?;
    let ours = [STORAGE_CLASS, SHARED_STORAGE_CLASS].contains(&class);
    if !ours || spec.volume_name.is_some() || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let uid = claim.uid()?;
    let name = format!("pvc-{uid}");
    let capacity = spec.resources.as_ref().and_then(|resources| resources.requests.clone());
    Some(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some(BTreeMap::from([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes.clone(),
            capacity,
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("PersistentVolumeClaim".into()),
                name: claim.metadata.name.clone(),
                namespace: claim.namespace(),
                uid: Some(uid),
                ..ObjectReference::default()
            }),
            host_path: Some(HostPathVolumeSource { path: format!("/simulated/{name}"), type_: None }),
            persistent_volume_reclaim_policy: Some("Delete".into()),
            storage_class_name: Some(class.to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        ..PersistentVolume::default()
    })
}

fn is_released(volume: &PersistentVolume) -> bool {
    let ours = volume.annotations().get(PROVISIONED_BY).is_some_and(|by| by == PROVISIONER);
    let deletes =
        volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    ours && deletes && matches!(phase, Some("Released" | "Failed")) && volume.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(class: &str, volume: Option<&str>) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": { "name": "data", "namespace": "apps", "uid": "u-1" },
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": class,
                "volumeName": volume,
                "resources": { "requests": { "storage": "1Gi" } },
            },
        }))
        .unwrap()
    }

    #[test]
    fn an_open_claim_gets_a_volume_that_only_it_can_bind() {
        let volume = volume_for(&claim(SHARED_STORAGE_CLASS, None)).unwrap();
        let spec = volume.spec.unwrap();
        let reference = spec.claim_ref.unwrap();
        assert_eq!(
            (reference.namespace.unwrap(), reference.name.unwrap(), reference.uid.unwrap()),
            ("apps".into(), "data".into(), "u-1".into())
        );
        assert_eq!(spec.access_modes.unwrap(), ["ReadWriteMany"]);
        assert_eq!(spec.capacity.unwrap()["storage"].0, "1Gi");
    }

    #[test]
    fn bound_claims_and_foreign_classes_are_left_alone() {
        assert!(volume_for(&claim(STORAGE_CLASS, Some("pvc-u-1"))).is_none());
        assert!(volume_for(&claim("fast-ssd", None)).is_none());
    }

    #[test]
    fn only_our_released_volumes_are_deleted() {
        let volume = |by: &str, phase: &str, policy: &str| -> PersistentVolume {
            serde_json::from_value(json!({
                "metadata": { "name": "x", "annotations": { PROVISIONED_BY: by } },
                "spec": { "persistentVolumeReclaimPolicy": policy },
                "status": { "phase": phase },
            }))
            .unwrap()
        };
        assert!(is_released(&volume(PROVISIONER, "Released", "Delete")));
        assert!(!is_released(&volume(PROVISIONER, "Bound", "Delete")));
        assert!(!is_released(&volume(PROVISIONER, "Released", "Retain")));
        assert!(!is_released(&volume("someone/else", "Released", "Delete")));
    }
}
