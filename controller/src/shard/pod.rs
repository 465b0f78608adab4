//! A pool pod: pgctld with PostgreSQL, multipooler and the exporter around one data volume.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt as _;
use shared::{annotation, kubeutil, label, name, pgconfig::Rendered};

use super::{
    certificate::Served,
    container, port,
    scope::{Member, Scope},
    volume,
};
use crate::{
    cluster::tls,
    settings::Settings,
    workload::{placement, security, telemetry::Inherited},
};

/// Seconds that a pod gets to stop. multipooler alone may take 45 (30 for its termination hooks, 10 for the closing ones, 5 for
/// telemetry), then pgctld takes its turn; a pod that is killed before leaves a record that still claims to serve.
const GRACE_SECONDS: i64 = 120;
/// Digits of the spec hash. The Go operator writes eight, so that the two are told apart by their length.
const HASH_DIGITS: usize = 16;

/// The pod of one member, made from a description. `certificates` is a digest of what it mounts for TLS among the components, `served` what
/// its pgBackRest server is started with.
pub fn build(
    scope: &Scope<'_>,
    member: &Member<'_>,
    spec: PodSpec,
    config: &Rendered,
    certificates: Option<&str>,
    served: Option<&Served>,
) -> Pod {
    let mut metadata = scope.meta(member.pod.clone(), scope.with_own_labels(label::of_pool(member.pool.id)));
    let mut annotations = annotations(scope, &spec, config);
    annotations.extend(certificates.map(|digest| (annotation::CERTIFICATES_HASH.to_owned(), digest.to_owned())));
    annotations.extend(served.map(|served| (annotation::PGBACKREST_CERTIFICATE.to_owned(), served.to_string())));
    metadata.annotations = Some(annotations);
    Pod { metadata, spec: Some(spec), status: None }
}

/// The description of the pod of one member, as it would be rendered today, with a pool of so many connections to the server.
pub fn spec(
    scope: &Scope<'_>,
    settings: &Settings,
    member: &Member<'_>,
    inherited: &Inherited,
    connections: u64,
) -> PodSpec {
    let spec = scope.spec();
    let pool = member.pool.spec;
    let of_postgres = container::telemetry_env(scope, inherited, "pgctld");
    let of_pooler = container::telemetry_env(scope, inherited, "multipooler");
    let postgres = container::postgres(scope, settings, member, &of_postgres);
    let pooler = container::multipooler(scope, settings, member, &of_pooler, connections);
    let mut containers = vec![pooler, container::exporter(scope, settings)];
    let mut init_containers = Vec::new();
    if settings.native_sidecars {
        init_containers.push(postgres);
    } else {
        containers.insert(0, postgres);
    }
    PodSpec {
        hostname: Some(member.pod.clone()),
        subdomain: Some(name::pool_headless(member.pool.id)),
        init_containers: placement::non_empty(&init_containers),
        containers,
        volumes: Some(volume::all(scope, member)),
        affinity: pool.affinity.as_deref().cloned(),
        tolerations: placement::non_empty(&pool.tolerations),
        node_selector: scope.node_selector(member.pool.id.cell),
        image_pull_secrets: placement::pull_secrets(&spec.images.image_pull_secrets),
        // Certificates and keys are readable for the group alone, and most drivers hand out volumes that belong to root.
        security_context: Some(security::pod(
            container::user(member),
            Some(pool.fs_group.unwrap_or(container::POSTGRES_USER)),
        )),
        service_account_name: scope
            .s3()
            .and_then(|s3| s3.service_account_name.clone())
            .filter(|account| !account.is_empty()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        ..PodSpec::default()
    }
}

fn annotations(scope: &Scope<'_>, spec: &PodSpec, config: &Rendered) -> BTreeMap<String, String> {
    [
        (annotation::PROJECT_REF, scope.project().to_owned()),
        (annotation::PROMETHEUS_SCRAPE, "true".to_owned()),
        (annotation::PROMETHEUS_PORT, port::METRICS.to_string()),
        (annotation::PROMETHEUS_PATH, "/metrics".to_owned()),
        (annotation::POSTGRES_CONFIG_HASH, config.restart_hash.clone()),
        (annotation::POSTGRES_RELOAD_HASH, config.reload_hash.clone()),
        (annotation::REPLICATION_SETTINGS, config.critical().to_string()),
        (annotation::SPEC_HASH, spec_hash(spec, &config.restart_hash)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// Digest of everything that decides about a pod.
fn spec_hash(spec: &PodSpec, restart_hash: &str) -> String {
    let rendered = serde_json::json!({ "spec": spec, "postgresConfig": restart_hash });
    kubeutil::digest(&rendered)[..HASH_DIGITS].to_owned()
}

/// The first difference between a running pod and what would be built today; none while they agree.
///
/// What others added to the pod does not count, nor what they rewrote while it was made (a registry mirror, an autoscaler of requests): a new
/// pod would be rewritten the same way, and rolled for ever. A pod that was made from today's description is current. Of the metadata only
/// settings and certificates that need a restart count: labels and other annotations change nothing in a running process.
pub fn drift(live: &Pod, desired: &Pod) -> Option<String> {
    let hashes = (ours(live), ours(desired));
    // Nobody knows which ones another operator's pod has read.
    let other_certificates = match (tls::digest_of(live), tls::digest_of(desired)) {
        (live, Some(desired)) if hashes.0.is_some() && live != Some(desired) => {
            Some("was started with other certificates".to_owned())
        }
        _ => None,
    };
    if let (Some(live), Some(desired)) = hashes
        && live == desired
    {
        return other_certificates;
    }
    let view = |pod: &Pod| {
        let hash = pod.annotations().get(annotation::POSTGRES_CONFIG_HASH);
        let spec = serde_json::to_value(&pod.spec).unwrap_or_default();
        let mut view = serde_json::json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec });
        if let Some(hash) = hash {
            view["metadata"]["annotations"][annotation::POSTGRES_CONFIG_HASH] = hash.as_str().into();
        }
        view
    };
    if let Err(difference) = kubeutil::is_superset(&view(live), &prune(view(desired))) {
        return Some(difference.to_string());
    }
    // The comparison above does not see what the pod has and a new one would not get. The digest does, where it is ours.
    match hashes {
        (Some(_), Some(_)) => Some("spec has fields that are no longer wanted".to_owned()),
        _ => other_certificates,
    }
}

/// The digest of a pod's description, if this operator has made the pod: those of others have another form.
fn ours(pod: &Pod) -> Option<&String> {
    pod.annotations().get(annotation::SPEC_HASH).filter(|hash| hash.len() == HASH_DIGITS)
}

/// Whether another operator has made the pod.
pub fn is_foreign(pod: &Pod) -> bool {
    ours(pod).is_none()
}

/// Without the nulls that stand for absent fields.
fn prune(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, member)| !member.is_null())
                .map(|(key, member)| (key, prune(member)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(prune).collect()),
        scalar => scalar,
    }
}

/// Whether a pod has ended: it will not come back by itself.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}
