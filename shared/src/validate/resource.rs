//! Quantities: compute resources and volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::api::v1alpha1::{EtcdSpec, StorageSpec};
use crate::quantity::Quantity;

use super::{Findings, limits};

/// Quantities can be read, are not negative, and no limit is below its request.
pub fn resources(findings: &mut Findings<'_>, at: &str, resources: Option<&ResourceRequirements>) {
    let Some(resources) = resources else { return };
    let mut read = |name: &str, map: Option<&BTreeMap<String, Wire>>| {
        let mut amounts = BTreeMap::new();
        for (resource, wire) in map.into_iter().flatten() {
            let path = format!("{at}.resources.{name}[{resource}]");
            match Quantity::try_from(wire) {
                Ok(amount) if !amount.is_negative() => {
                    amounts.insert(resource.clone(), amount);
                }
                Ok(_) => findings.error(&path, &wire.0, "must not be negative"),
                Err(_) => findings.error(&path, &wire.0, QUANTITY),
            }
        }
        amounts
    };
    let requests = read("requests", resources.requests.as_ref());
    let limits = read("limits", resources.limits.as_ref());
    for (resource, limit) in &limits {
        if let Some(request) = requests.get(resource).filter(|request| *request > limit) {
            findings.error(
                &format!("{at}.resources.limits[{resource}]"),
                limit,
                format!("is below the request of {request}; raise the limit or lower the request"),
            );
        }
    }
}

/// A volume's size can be read and is positive, and its access modes exist.
pub fn storage(findings: &mut Findings<'_>, at: &str, storage: Option<&StorageSpec>) {
    let Some(storage) = storage else { return };
    if let Some(size) = &storage.size {
        match size.parse::<Quantity>() {
            Ok(amount) if !amount.is_negative() && !amount.is_zero() => {}
            Ok(_) => findings.error(&format!("{at}.size"), size, "must be more than zero"),
            Err(_) => findings.error(&format!("{at}.size"), size, QUANTITY),
        }
    }
    for mode in storage.access_modes.iter().filter(|mode| !limits::ACCESS_MODES.contains(&mode.as_str())) {
        findings.error(
            &format!("{at}.accessModes"),
            mode,
            format!("must be one of {}", limits::ACCESS_MODES.join(", ")),
        );
    }
}

/// An etcd cluster of ours.
pub fn etcd(findings: &mut Findings<'_>, at: &str, etcd: &EtcdSpec) {
    resources(findings, at, etcd.resources.as_ref());
    storage(findings, &format!("{at}.storage"), etcd.storage.as_ref());
    let replicas = etcd.replicas.unwrap_or(1);
    if replicas < 1 || replicas % 2 == 0 {
        findings.error(
            &format!("{at}.replicas"),
            replicas,
            "must be odd and at least 1; an even number of members tolerates no more failures; use 1, 3 or 5",
        );
    } else if replicas == 1 {
        findings.warn(&format!("{at}.replicas"), "one member has no fault tolerance; 3 are recommended");
    }
}

/// Replicas of a component without data.
pub fn replicas(findings: &mut Findings<'_>, at: &str, replicas: Option<i32>) {
    if let Some(replicas) = replicas.filter(|replicas| !limits::REPLICAS.contains(replicas)) {
        let (low, high) = limits::REPLICAS.into_inner();
        findings.error(&format!("{at}.replicas"), replicas, format!("must be between {low} and {high}"));
    }
}

const QUANTITY: &str = "is not a quantity; write a number with an optional suffix, such as 500m, 512Mi or 10Gi";
