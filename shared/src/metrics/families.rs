//! The list of all metric families: name, type, labels and buckets are an interface, and this is where they are written down.
//!
//! Rules, dashboards, runbooks and docs are checked against it, and so is what both programs register.

use prometheus::proto::MetricType;

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// The word of the text format.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The same type in the words of the registry; none for a type that no family of ours has.
    pub fn of(kind: MetricType) -> Option<Self> {
        match kind {
            MetricType::COUNTER => Some(Self::Counter),
            MetricType::GAUGE => Some(Self::Gauge),
            MetricType::HISTOGRAM => Some(Self::Histogram),
            _ => None,
        }
    }
}

/// Which programs have a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Program {
    /// The controller.
    Controller,
    /// The admission service.
    Admission,
    /// Both.
    Both,
}

/// One family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
    /// Bounds of a histogram.
    pub buckets: &'static [f64],
    /// Who has it.
    pub program: Program,
}

/// Buckets of a pass, in seconds.
pub const RECONCILE_SECONDS: [f64; 40] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5,
    1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0,
];
/// Buckets of waiting and working in a queue, in seconds.
pub const QUEUE_SECONDS: [f64; 12] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];
/// Buckets of an admission request as the Go operator has them, in seconds.
pub const REQUEST_SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Buckets of an admission request where it is fast, in seconds.
pub const LATENCY_SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];
/// Buckets of taking a pod out of service, in seconds.
pub const DRAIN_SECONDS: [f64; 10] = [1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Buckets of a call of the data plane, in seconds.
pub const CALL_SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

const fn counter(name: &'static str, labels: &'static [&'static str], program: Program, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, labels, help, buckets: &[], program }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], program: Program, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, labels, help, buckets: &[], program }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    program: Program,
    buckets: &'static [f64],
    help: &'static str,
) -> Family {
    Family { name, kind: Kind::Histogram, labels, help, buckets, program }
}

use Program::{Admission, Both, Controller};

/// All families.
pub const ALL: [Family; 90] = [
    gauge(
        "multigres_operator_build_info",
        &["version", "revision"],
        Both,
        "Version and commit of the running program, always 1.",
    ),
    counter(
        "controller_runtime_reconcile_total",
        &["controller", "result"],
        Controller,
        "Passes per controller and result.",
    ),
    counter("controller_runtime_reconcile_errors_total", &["controller"], Controller, "Passes that failed."),
    counter(
        "controller_runtime_terminal_reconcile_errors_total",
        &["controller"],
        Controller,
        "Passes that failed and are not retried before a change.",
    ),
    counter("controller_runtime_reconcile_panics_total", &["controller"], Controller, "Passes that panicked."),
    histogram(
        "controller_runtime_reconcile_time_seconds",
        &["controller"],
        Controller,
        &RECONCILE_SECONDS,
        "Time that a pass took.",
    ),
    gauge(
        "controller_runtime_max_concurrent_reconciles",
        &["controller"],
        Controller,
        "Passes that may run at the same time.",
    ),
    gauge("controller_runtime_active_workers", &["controller"], Controller, "Passes that run now."),
    gauge("workqueue_depth", &["name", "controller"], Controller, "Objects that wait for a pass."),
    counter("workqueue_adds_total", &["name", "controller"], Controller, "Objects that were queued for a pass."),
    counter(
        "workqueue_retries_total",
        &["name", "controller"],
        Controller,
        "Objects that were queued after a failure.",
    ),
    histogram(
        "workqueue_queue_duration_seconds",
        &["name", "controller"],
        Controller,
        &QUEUE_SECONDS,
        "Time that an object waited for its pass.",
    ),
    histogram(
        "workqueue_work_duration_seconds",
        &["name", "controller"],
        Controller,
        &QUEUE_SECONDS,
        "Time that the pass of an object took.",
    ),
    gauge(
        "workqueue_unfinished_work_seconds",
        &["name", "controller"],
        Controller,
        "Time that the running passes have taken so far, summed up.",
    ),
    gauge(
        "workqueue_longest_running_processor_seconds",
        &["name", "controller"],
        Controller,
        "Time that the longest running pass has taken so far.",
    ),
    counter(
        "rest_client_requests_total",
        &["code", "method", "host"],
        Both,
        "Requests to the API server per status code, method and host.",
    ),
    gauge("leader_election_master_status", &["name"], Controller, "Whether this process holds the lease: 1 or 0."),
    gauge(
        "multigres_operator_cluster_info",
        &["name", "namespace", "phase"],
        Controller,
        "Phase of a cluster, always 1.",
    ),
    gauge("multigres_operator_cluster_cells", &["cluster", "namespace"], Controller, "Cells of a cluster."),
    gauge(
        "multigres_operator_cluster_cells_total",
        &["cluster", "namespace"],
        Controller,
        "Cells of a cluster; the older name of multigres_operator_cluster_cells.",
    ),
    gauge("multigres_operator_cluster_shards", &["cluster", "namespace"], Controller, "Shards of a cluster."),
    gauge(
        "multigres_operator_cluster_shards_total",
        &["cluster", "namespace"],
        Controller,
        "Shards of a cluster; the older name of multigres_operator_cluster_shards.",
    ),
    gauge(
        "multigres_operator_cell_gateway_replicas",
        &["cluster", "cell", "namespace", "state"],
        Controller,
        "Gateways of a cell (name of the Cell object): desired and ready.",
    ),
    gauge(
        "multigres_operator_shard_pool_replicas",
        &["cluster", "shard", "pool", "cell", "namespace", "state"],
        Controller,
        "Pods of a pool in a cell: desired and ready.",
    ),
    gauge(
        "multigres_operator_pool_pods",
        &["cluster", "shard", "pool", "cell", "namespace", "state"],
        Controller,
        "Pods of a pool in a cell: ready, not_ready, draining, missing; of these also drifted and quarantined.",
    ),
    gauge(
        "multigres_operator_pool_pods_drifted",
        &["cluster", "shard", "pool", "cell", "namespace"],
        Controller,
        "Pods of a pool that would be built differently today.",
    ),
    gauge(
        "multigres_operator_rolling_update_in_progress",
        &["cluster", "shard", "pool", "cell", "namespace"],
        Controller,
        "Whether pods of a pool are outdated or on their way out: 1 or 0.",
    ),
    gauge(
        "multigres_operator_toposerver_replicas",
        &["cluster", "name", "namespace", "state"],
        Controller,
        "Members of a topology server: desired and ready.",
    ),
    gauge(
        "multigres_operator_last_backup_age_seconds",
        &["cluster", "shard", "namespace"],
        Controller,
        "Age of the newest complete backup of a shard.",
    ),
    gauge(
        "multigres_operator_last_backup_timestamp_seconds",
        &["cluster", "shard", "namespace", "type"],
        Controller,
        "Unix time of the newest complete backup of a shard.",
    ),
    gauge(
        "multigres_operator_backup_healthy",
        &["cluster", "shard", "namespace"],
        Controller,
        "Whether the backups of a shard are healthy: 1 or 0, nothing while it is not known.",
    ),
    gauge(
        "multigres_operator_wal_archiving",
        &["cluster", "shard", "namespace"],
        Controller,
        "Whether the WAL of a shard reaches its repository: 1 or 0, nothing while it is not known.",
    ),
    gauge(
        "multigres_operator_backup_next_run_timestamp_seconds",
        &["cluster", "shard", "namespace"],
        Controller,
        "Unix time of the next scheduled backup of a shard; nothing without a schedule.",
    ),
    gauge(
        "multigres_operator_backup_runs",
        &["cluster", "namespace", "phase"],
        Controller,
        "MultigresBackups of a cluster by their phase.",
    ),
    gauge(
        "multigres_operator_certificate_expiry_timestamp_seconds",
        &["cluster", "namespace", "secret"],
        Controller,
        "Unix time at which a certificate ends that the operator has made for a cluster, by its Secret.",
    ),
    gauge(
        "multigres_operator_disruption_blocked",
        &["cluster", "shard", "namespace", "reason"],
        Controller,
        "1 while a change to a shard waits, by the reason for which it does.",
    ),
    counter(
        "multigres_operator_drain_operations_total",
        &["cluster", "shard", "namespace", "result"],
        Controller,
        "Pods that were taken out of service, by result: success, timeout, cancelled, error.",
    ),
    histogram(
        "multigres_operator_drain_duration_seconds",
        &["reason", "result"],
        Controller,
        &DRAIN_SECONDS,
        "Time from the choice of a pod that is to leave service to the end of that, by the reason of the choice.",
    ),
    gauge(
        "multigres_operator_shard_info",
        &["cluster", "shard", "namespace", "shard_name", "database", "tablegroup"],
        Controller,
        "Identity of a shard, always 1.",
    ),
    gauge(
        "multigres_operator_shard_created_timestamp_seconds",
        &["cluster", "shard", "namespace"],
        Controller,
        "Unix time at which a shard was made.",
    ),
    gauge(
        "multigres_operator_shard_primary_present",
        &["cluster", "shard", "namespace", "shard_name"],
        Controller,
        "Whether a pooler confirms that it is the primary of a shard: 1 or 0.",
    ),
    counter(
        "multigres_operator_shard_primary_changes_total",
        &["cluster", "shard", "namespace", "shard_name"],
        Controller,
        "Changes of the primary of a shard that this process saw.",
    ),
    gauge(
        "multigres_operator_shard_required_poolers",
        &["cluster", "shard", "namespace"],
        Controller,
        "Poolers that have to be ready for the durability policy of a shard.",
    ),
    gauge(
        "multigres_operator_topology_connected",
        &["cluster", "cell", "namespace"],
        Controller,
        "Whether the operator can read the topology of a cluster: 1 or 0; a cell means its records, no cell all of it.",
    ),
    gauge(
        "multigres_operator_object_phase",
        &["kind", "namespace", "name", "cluster", "phase"],
        Controller,
        "Phase of an object, always 1.",
    ),
    gauge(
        "multigres_operator_object_condition",
        &["kind", "namespace", "name", "cluster", "type"],
        Controller,
        "Condition of a cluster or shard: 1, 0, or -1 when it is not known.",
    ),
    gauge(
        "multigres_operator_object_generation_lag",
        &["kind", "namespace", "name", "cluster"],
        Controller,
        "Generations of an object that its status does not know yet.",
    ),
    gauge(
        "multigres_operator_object_last_success_timestamp_seconds",
        &["kind", "namespace", "name"],
        Controller,
        "Unix time of the last pass without an error; before the first, of the first pass.",
    ),
    gauge(
        "multigres_operator_object_failed_passes",
        &["controller", "kind", "namespace", "name"],
        Controller,
        "Passes of an object that failed in a row.",
    ),
    gauge(
        "multigres_operator_object_deletion_timestamp_seconds",
        &["kind", "namespace", "name"],
        Controller,
        "Unix time at which an object that still exists was deleted.",
    ),
    counter(
        "multigres_operator_reconcile_errors_total",
        &["controller", "name", "namespace", "class"],
        Controller,
        "Failed passes of an object, by class of the error: transient or bug.",
    ),
    gauge(
        "multigres_operator_image_revision_info",
        &["namespace", "cluster", "revision", "pending"],
        Controller,
        "Revision of the default images that a cluster took over, always 1; pending while the operator offers another.",
    ),
    gauge(
        "multigres_operator_template_consumers",
        &["kind", "namespace", "name"],
        Controller,
        "Clusters that use a template.",
    ),
    gauge("multigres_operator_pvc_orphaned", &["namespace"], Controller, "Volume claims that wait for their removal."),
    gauge(
        "multigres_operator_volume_claim_info",
        &["namespace", "persistentvolumeclaim", "cluster", "component"],
        Controller,
        "A volume claim of a cluster, always 1.",
    ),
    gauge("multigres_operator_cache_objects", &["kind"], Controller, "Objects that the watches hold in memory."),
    counter(
        "multigres_operator_watch_restarts_total",
        &["kind"],
        Both,
        "Watches that an error ended, so that they began anew.",
    ),
    counter(
        "multigres_operator_writes_total",
        &["reason"],
        Controller,
        "Writes sent to the API server or a topology server, by reason.",
    ),
    histogram(
        "multigres_operator_topology_request_duration_seconds",
        &["operation", "result"],
        Controller,
        &CALL_SECONDS,
        "Time of a request to a topology server.",
    ),
    histogram(
        "multigres_operator_pooler_rpc_duration_seconds",
        &["method", "code"],
        Controller,
        &CALL_SECONDS,
        "Time of a call of a pooler.",
    ),
    counter(
        "multigres_operator_webhook_request_total",
        &["operation", "resource", "result"],
        Admission,
        "Admission requests, dry runs excepted, by result: success, denied or error.",
    ),
    counter(
        "multigres_operator_webhook_dry_run_total",
        &["operation", "resource", "result"],
        Admission,
        "Admission requests whose object will not be stored, by result: success, denied or error.",
    ),
    counter(
        "multigres_operator_webhook_failures_total",
        &["operation", "resource", "reason"],
        Admission,
        "Admission requests that could not be judged, dry runs included, by reason.",
    ),
    counter(
        "multigres_operator_webhook_denials_total",
        &["operation", "resource", "rule"],
        Admission,
        "Refused admission requests, dry runs excepted, by the kind of rule that was broken; each counts once for each kind.",
    ),
    histogram(
        "multigres_operator_webhook_request_duration_seconds",
        &["operation", "resource"],
        Admission,
        &REQUEST_SECONDS,
        "Time from the head of an admission request to its answer.",
    ),
    counter(
        "controller_runtime_webhook_requests_total",
        &["webhook", "code"],
        Admission,
        "Admission requests by path and HTTP status.",
    ),
    gauge(
        "controller_runtime_webhook_requests_in_flight",
        &["webhook"],
        Admission,
        "Admission requests that are being answered.",
    ),
    histogram(
        "controller_runtime_webhook_latency_seconds",
        &["webhook"],
        Admission,
        &LATENCY_SECONDS,
        "Time from the head of an admission request to its answer.",
    ),
    counter(
        "controller_runtime_webhook_panics_total",
        &["webhook"],
        Admission,
        "Admission requests whose judgement panicked.",
    ),
    gauge(
        "multigres_operator_webhook_certificate_expiry_timestamp_seconds",
        &["certificate"],
        Admission,
        "Unix time at which a certificate of the webhook ends.",
    ),
    counter(
        "multigres_operator_webhook_certificate_rotations_total",
        &["certificate"],
        Admission,
        "Certificates made by this process.",
    ),
    counter(
        "multigres_operator_webhook_certificate_failures_total",
        &[],
        Admission,
        "Rounds of the certificate's keeper that failed and will be tried again.",
    ),
    counter(
        "multigres_operator_webhook_bundle_writes_total",
        &[],
        Admission,
        "Writes of the bundle of authorities into webhook configurations.",
    ),
    gauge(
        "multigres_operator_ca_bundle_in_sync",
        &["configuration"],
        Admission,
        "Whether every bundle of a webhook configuration accepts the certificate that this replica serves: 1 or 0.",
    ),
    counter("certwatcher_read_certificate_total", &[], Admission, "Serving certificates that were taken up."),
    counter(
        "certwatcher_read_certificate_errors_total",
        &[],
        Admission,
        "Serving certificates that could not be taken up.",
    ),
    counter("process_cpu_seconds_total", &[], Both, "CPU time of the process."),
    gauge("process_open_fds", &[], Both, "Open files of the process."),
    gauge("process_max_fds", &[], Both, "Files that the process may open."),
    gauge("process_virtual_memory_bytes", &[], Both, "Address space of the process."),
    gauge(
        "process_virtual_memory_max_bytes",
        &[],
        Both,
        "Address space that the process may take; without a limit, the largest number of 64 bits.",
    ),
    gauge("process_resident_memory_bytes", &[], Both, "Resident memory of the process."),
    gauge("process_start_time_seconds", &[], Both, "Unix time at which the process started."),
    gauge("process_threads", &[], Both, "Threads of the process."),
    counter(
        "process_network_receive_bytes_total",
        &[],
        Both,
        "Bytes that came in over the network of the process: that of its pod, unless the pod uses that of the node.",
    ),
    counter("process_network_transmit_bytes_total", &[], Both, "Bytes that went out over the same network."),
    gauge("tokio_workers", &[], Both, "Threads that run tasks: passes and watches; servers have threads of their own."),
    gauge("tokio_alive_tasks", &[], Both, "Tasks that have begun and not ended."),
    gauge("tokio_global_queue_depth", &[], Both, "Tasks that wait for any of these threads."),
    counter("tokio_workers_busy_seconds_total", &[], Both, "Time that these threads spent with tasks, summed up."),
];

/// The family of a name.
pub fn find(name: &str) -> Option<&'static Family> {
    ALL_STATIC.iter().find(|family| family.name == name)
}

static ALL_STATIC: [Family; ALL.len()] = ALL;

/// What both programs show from the moment that they are ready, whatever there is in Kubernetes, and whether or not they lead.
const OF_READY: [&str; 4] =
    ["multigres_operator_build_info", "rest_client_requests_total", "tokio_workers", "tokio_alive_tasks"];
/// What admission shows besides. What is the controller's own comes with the Lease, or with objects.
const OF_READY_ADMISSION: [&str; 4] = [
    "multigres_operator_webhook_request_total",
    "multigres_operator_webhook_request_duration_seconds",
    "controller_runtime_webhook_requests_in_flight",
    "certwatcher_read_certificate_total",
];

/// Names of families that every ready replica of a program shows, whatever there is in Kubernetes, and whether or not it leads.
pub fn of_ready(program: Program) -> Vec<&'static str> {
    let own: &[&'static str] = if program == Admission { &OF_READY_ADMISSION } else { &[] };
    OF_READY.iter().chain(own).copied().collect()
}

/// Series of others that rules, dashboards and runbooks use, with who exports them.
pub const FOREIGN: [(&str, &str); 36] = [
    ("up", "Prometheus"),
    ("kubelet_volume_stats_available_bytes", "kubelet"),
    ("kubelet_volume_stats_capacity_bytes", "kubelet"),
    ("apiserver_request_total", "API server"),
    ("etcd_server_has_leader", "etcd"),
    ("etcd_mvcc_db_total_size_in_bytes", "etcd"),
    ("etcd_server_quota_backend_bytes", "etcd"),
    ("pg_up", "postgres_exporter"),
    ("pg_replication_is_replica", "postgres_exporter"),
    ("pg_database_size_mb", "postgres_exporter with our queries"),
    ("pg_wal_size_mb", "postgres_exporter with our queries"),
    ("physical_replication_lag_seconds", "postgres_exporter with our queries"),
    ("physical_replication_lag_is_wal_replay_paused", "postgres_exporter with our queries"),
    ("physical_replication_lag_is_connected_to_primary", "postgres_exporter with our queries"),
    ("connection_stats_connection_count", "postgres_exporter with our queries"),
    ("max_connections_connection_count", "postgres_exporter with our queries"),
    ("mg_gateway_query_duration_seconds", "multigateway"),
    ("mg_gateway_query_errors_total", "multigateway"),
    ("mg_gateway_client_connections", "multigateway"),
    ("multigateway_buffer_requests_buffered_total", "multigateway"),
    ("multigateway_buffer_requests_evicted_total", "multigateway"),
    ("mg_pooler_server_connections", "multipooler"),
    ("mg_pooler_client_waiting_connections", "multipooler"),
    ("db_client_connection_count", "multipooler"),
    ("pgbackrest_wal_archive_lag_seconds", "multipooler"),
    ("pgbackrest_backup_last_success_age_seconds", "multipooler"),
    ("multiorch_recovery_action_duration_milliseconds", "multiorch"),
    ("multiorch_recovery_detected_problems", "multiorch"),
    ("multiorch_recovery_stream_connected", "multiorch"),
    ("multiorch_recovery_stream_snapshots_received", "multiorch"),
    ("multiorch_recovery_pooler_store_size", "multiorch"),
    ("rpc_client_call_duration_seconds", "all programs of the data plane"),
    ("rpc_server_call_duration_seconds", "all programs of the data plane"),
    ("rpcclient_connection_cache_size", "all programs of the data plane"),
    ("topoclient_lock_duration_seconds", "all programs of the data plane"),
    ("http_server_request_duration_seconds", "all programs of the data plane"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_family_is_listed_once() {
        let names: BTreeSet<&str> =
            ALL.iter().map(|family| family.name).chain(FOREIGN.iter().map(|(n, _)| *n)).collect();
        assert_eq!(names.len(), ALL.len() + FOREIGN.len());
    }

    #[test]
    fn what_ready_programs_show_is_listed_as_theirs() {
        for program in [Controller, Admission] {
            for name in of_ready(program) {
                let family = find(name).unwrap_or_else(|| panic!("{name} is not listed"));
                assert!([program, Both].contains(&family.program), "{name}");
            }
        }
    }

    #[test]
    fn only_histograms_have_buckets_and_they_ascend() {
        for family in &ALL {
            assert_eq!(family.kind == Kind::Histogram, !family.buckets.is_empty(), "{}", family.name);
            assert!(family.buckets.windows(2).all(|pair| pair[0] < pair[1]), "{}", family.name);
        }
    }

    /// What users of the Go operator have in their dashboards and rules, as it was promised to them.
    #[test]
    fn promised_families_have_the_promised_labels() {
        for (name, kind, labels) in [
            ("multigres_operator_cluster_info", Kind::Gauge, "name namespace phase"),
            ("multigres_operator_cluster_cells_total", Kind::Gauge, "cluster namespace"),
            ("multigres_operator_cluster_shards_total", Kind::Gauge, "cluster namespace"),
            ("multigres_operator_cell_gateway_replicas", Kind::Gauge, "cell namespace state"),
            ("multigres_operator_shard_pool_replicas", Kind::Gauge, "cluster shard pool cell namespace state"),
            ("multigres_operator_pool_pods_drifted", Kind::Gauge, "cluster shard pool cell namespace"),
            ("multigres_operator_toposerver_replicas", Kind::Gauge, "name namespace state"),
            ("multigres_operator_webhook_request_total", Kind::Counter, "operation resource result"),
            ("multigres_operator_webhook_request_duration_seconds", Kind::Histogram, "operation resource"),
            ("multigres_operator_last_backup_age_seconds", Kind::Gauge, "cluster shard namespace"),
            ("multigres_operator_drain_operations_total", Kind::Counter, "cluster shard result"),
            ("multigres_operator_rolling_update_in_progress", Kind::Gauge, "cluster shard pool cell namespace"),
            ("multigres_operator_reconcile_errors_total", Kind::Counter, "controller name namespace"),
            ("controller_runtime_reconcile_total", Kind::Counter, "controller result"),
            ("controller_runtime_reconcile_errors_total", Kind::Counter, "controller"),
            ("controller_runtime_reconcile_time_seconds", Kind::Histogram, "controller"),
            ("workqueue_depth", Kind::Gauge, "name controller"),
            ("rest_client_requests_total", Kind::Counter, "code method host"),
            ("leader_election_master_status", Kind::Gauge, "name"),
        ] {
            let family = find(name).unwrap_or_else(|| panic!("{name} is not listed"));
            assert_eq!(family.kind, kind, "{name}");
            for label in labels.split(' ') {
                assert!(family.labels.contains(&label), "{name} has no label {label}");
            }
        }
    }
}
