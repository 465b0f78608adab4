//! Quantities: compute resources, and what goes with them in an etcd cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::api::v1alpha1::EtcdSpec;
use crate::field_path::At;
use crate::quantity::Quantity;

use super::Findings;
use super::field::QUANTITY;

/// How many resources are remembered as right.
const REMEMBERED: usize = 8;

/// Quantities can be read, are not negative, and no limit is below its request.
pub fn resources(findings: &mut Findings<'_>, at: &At<'_>, resources: Option<&ResourceRequirements>) {
    let Some(resources) = resources else { return };
    if findings.right.contains(resources) {
        return;
    }
    let errors = findings.verdict.errors.len();
    let at = at.field("resources");
    amounts(findings, &at.field("requests"), resources.requests.as_ref());
    amounts(findings, &at.field("limits"), resources.limits.as_ref());
    for (resource, limit) in resources.limits.iter().flatten() {
        let request = resources.requests.as_ref().and_then(|requests| requests.get(resource));
        let Some(request) = request.filter(|request| *request != limit) else { continue };
        if let (Ok(low), Ok(high)) = (Quantity::try_from(request), Quantity::try_from(limit))
            && high < low
            && !high.is_negative()
        {
            findings.invalid(
                &at.field("limits").key(resource),
                &limit.0,
                format!("is below the request of {}; raise the limit or lower the request", request.0),
            );
        }
    }
    if errors == findings.verdict.errors.len() && findings.right.len() < REMEMBERED {
        findings.right.push(resources.clone());
    }
}

fn amounts(findings: &mut Findings<'_>, at: &At<'_>, amounts: Option<&BTreeMap<String, Wire>>) {
    for (resource, wire) in amounts.into_iter().flatten() {
        match Quantity::try_from(wire) {
            Ok(amount) if !amount.is_negative() => {}
            Ok(_) => findings.invalid(&at.key(resource), &wire.0, "must not be negative; write an amount such as 500m"),
            Err(_) => findings.invalid(&at.key(resource), &wire.0, QUANTITY),
        }
    }
}

/// An etcd cluster of ours.
pub fn etcd(findings: &mut Findings<'_>, at: &At<'_>, etcd: &EtcdSpec) {
    findings.fields(at, etcd);
    resources(findings, at, etcd.resources.as_ref());
    if etcd.replicas == Some(1) {
        findings.warn(&at.field("replicas"), "one member has no fault tolerance; 3 are recommended");
    }
}
