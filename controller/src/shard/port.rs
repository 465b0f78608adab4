//! Ports of the processes of a shard.

/// PostgreSQL itself.
pub const POSTGRES: i32 = 5432;
/// HTTP of pgctld.
pub const PGCTLD_HTTP: i32 = 15400;
/// gRPC of pgctld, dialled inside the pod only.
pub const PGCTLD_GRPC: i32 = 15470;
/// TLS server of pgBackRest.
pub const PGBACKREST: i32 = 8432;
/// HTTP of multipooler.
pub const POOLER_HTTP: i32 = 15200;
/// gRPC of multipooler.
pub const POOLER_GRPC: i32 = 15270;
/// The exporter.
pub const METRICS: i32 = 9187;
/// HTTP of multiorch.
pub const ORCH_HTTP: i32 = 15300;
/// gRPC of multiorch.
pub const ORCH_GRPC: i32 = 15370;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::port::{ADMIN_GRPC, ETCD_CLIENT};

    #[test]
    fn the_network_policy_of_the_chart_lets_the_controller_reach_whom_it_calls() {
        let policy = include_str!("../../../charts/multigres-operator/templates/networkpolicy.yaml");
        for port in [ETCD_CLIENT, POOLER_GRPC, ORCH_GRPC, ADMIN_GRPC, METRICS] {
            assert!(policy.contains(&format!("- {{ port: {port}, protocol: TCP }}\n")), "{port}");
        }
    }
}
