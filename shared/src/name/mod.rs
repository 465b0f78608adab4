//! Names of every object that the operator makes.
//!
//! Names are identity: volumes, topology records and running pods are found by them, so the functions here never change
//! what they return for the same input. Names made of user-chosen parts carry a hash of the parts; singletons of a
//! cluster are the cluster's name and a fixed suffix, because a cluster's name is unique and short.

mod join;
mod tls;

pub use join::{DEFAULT, Limit, POD, SERVICE, STATEFUL_SET, hash, join};
pub use tls::{PUBLIC_CERTIFICATE, common_name, internal_authority, internal_identity};

/// Which shard a name belongs to, in the user's own words (never an already hashed object name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardId<'a> {
    /// Name of the MultigresCluster.
    pub cluster: &'a str,
    /// Name of the database.
    pub database: &'a str,
    /// Name of the table group.
    pub table_group: &'a str,
    /// Name of the shard, such as `0-inf`.
    pub shard: &'a str,
}

/// Which pool of a shard, in which cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId<'a> {
    /// The shard that the pool serves.
    pub shard: ShardId<'a>,
    /// Key of the pool in the shard's `pools`.
    pub pool: &'a str,
    /// Name of the cell.
    pub cell: &'a str,
}

/// Object name of a Cell.
pub fn cell(cluster: &str, cell: &str) -> String {
    join(DEFAULT, &[cluster, cell])
}

/// Object name of a TableGroup.
pub fn table_group(cluster: &str, database: &str, table_group: &str) -> String {
    join(DEFAULT, &[cluster, database, table_group])
}

/// Object name of a Shard.
pub fn shard(id: ShardId<'_>) -> String {
    join(DEFAULT, &[id.cluster, id.database, id.table_group, id.shard])
}

/// Name of the global TopoServer, its StatefulSet and its client Service.
pub fn global_topo(cluster: &str) -> String {
    format!("{cluster}-global-topo")
}

/// Name of a cell's local TopoServer, its StatefulSet and its client Service.
///
/// It is built from the Cell's *object* name: a hash over a hashed name, kept for compatibility.
pub fn local_topo(cell_object: &str) -> String {
    join(STATEFUL_SET, &[cell_object, "topo"])
}

/// Name of the headless Service that gives etcd members their addresses.
pub fn topo_headless(topo_server: &str) -> String {
    format!("{topo_server}-headless")
}

/// Name of the ConfigMap with the list from which etcd members start.
pub fn topo_members(topo_server: &str) -> String {
    format!("{topo_server}-members")
}

/// Name of the disruption budget of an etcd ensemble.
pub fn topo_budget(topo_server: &str) -> String {
    topo_server.to_owned()
}

/// Name that a StatefulSet gives to the data volume of one etcd member.
pub fn topo_pvc(topo_server: &str, ordinal: u32) -> String {
    format!("data-{topo_server}-{ordinal}")
}

/// Name of the multiadmin Deployment and Service.
pub fn multiadmin(cluster: &str) -> String {
    format!("{cluster}-multiadmin")
}

/// Name of the multiadmin-web Deployment and Service.
pub fn multiadmin_web(cluster: &str) -> String {
    format!("{cluster}-multiadmin-web")
}

/// Name of the cluster-wide gateway Service (read and write, port 5432).
pub fn cluster_gateway(cluster: &str) -> String {
    format!("{cluster}-multigateway")
}

/// Name of the cluster-wide gateway Service for reads from replicas (port 5433).
pub fn cluster_gateway_replica(cluster: &str) -> String {
    format!("{cluster}-multigateway-replica")
}

/// Name of the Secret with the generated superuser password.
pub fn postgres_password(cluster: &str) -> String {
    format!("{cluster}-postgres-password")
}

/// Name of the Secret with the keys of a cluster's bucket, for clusters that take them from the environment and name no Secret.
pub fn s3_credentials(cluster: &str) -> String {
    format!("{cluster}-s3-credentials")
}

/// Name of a cell's gateway Deployment.
pub fn gateway_deployment(cluster: &str, cell: &str) -> String {
    join(DEFAULT, &[cluster, cell, "multigateway"])
}

/// Name of a cell's gateway Service.
pub fn gateway_service(cluster: &str, cell: &str) -> String {
    join(SERVICE, &[cluster, cell, "multigateway"])
}

/// Name of the disruption budget of a cell's gateways.
pub fn gateway_budget(cluster: &str, cell: &str) -> String {
    gateway_service(cluster, cell)
}

/// Name of a shard's orchestrator Deployment in one cell.
pub fn multiorch_deployment(id: ShardId<'_>, cell: &str) -> String {
    join(DEFAULT, &[id.cluster, id.database, id.table_group, id.shard, "multiorch", cell])
}

/// Name of a shard's orchestrator Service in one cell.
pub fn multiorch_service(id: ShardId<'_>, cell: &str) -> String {
    join(SERVICE, &[id.cluster, id.database, id.table_group, id.shard, "multiorch", cell])
}

/// What the names of all pods of a pool in a cell start with.
pub fn pool_base(id: PoolId<'_>) -> String {
    join(POD, &pool_parts(id))
}

/// Name of one pool pod.
pub fn pool_pod(id: PoolId<'_>, index: u32) -> String {
    format!("{}-{index}", pool_base(id))
}

/// Name of the data volume claim of a pod; longer than 63 characters at times, which is legal for claims.
pub fn data_pvc(pod: &str) -> String {
    format!("data-{pod}")
}

/// Name of the pod whose data a volume claim holds, when the claim is a data volume.
pub fn pod_of_data_pvc(pvc: &str) -> Option<&str> {
    pvc.strip_prefix("data-").filter(|pod| !pod.is_empty())
}

/// The index at the end of a pool pod's name; none when there is no decimal number after the last hyphen.
pub fn pod_index(pod: &str) -> Option<u32> {
    let (_, digits) = pod.rsplit_once('-')?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Name of the headless Service of a pool in a cell, which is also the subdomain of its pods.
pub fn pool_headless(id: PoolId<'_>) -> String {
    let mut parts = pool_parts(id).to_vec();
    parts.push("headless");
    join(SERVICE, &parts)
}

/// Name of the per-pool, per-cell disruption budget that the Go operator makes.
///
/// Differs: this operator keeps two budgets per shard instead and needs the old name only to remove the object.
pub fn pool_budget(id: PoolId<'_>) -> String {
    let mut parts = pool_parts(id).to_vec();
    parts.push("pdb");
    join(SERVICE, &parts)
}

/// Name of the disruption budget that protects a shard's primary.
pub fn primary_budget(id: ShardId<'_>) -> String {
    join(SERVICE, &[id.cluster, id.database, id.table_group, id.shard, "pdb", "primary"])
}

/// Name of the disruption budget that protects a shard's standbys.
pub fn standby_budget(id: ShardId<'_>) -> String {
    join(SERVICE, &[id.cluster, id.database, id.table_group, id.shard, "pdb", "standby"])
}

/// Name of the backup volume that all cells of a shard share (filesystem backups with scope `Shard`).
pub fn shard_backup_pvc(id: ShardId<'_>) -> String {
    join(SERVICE, &["backup-data", id.cluster, id.database, id.table_group, id.shard])
}

/// Name of a shard's backup volume in one cell (filesystem backups with scope `Cell`).
///
/// The documented form `backup-data-{cluster}-{db}-{tg}-{shard}-{cell}` has no hash; only parts that Kubernetes would
/// refuse as a name fall back to the hashed form.
pub fn cell_backup_pvc(id: ShardId<'_>, cell: &str) -> String {
    let parts = ["backup-data", id.cluster, id.database, id.table_group, id.shard, cell];
    let plain = parts.join("-");
    let legal = plain.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if legal && plain.len() <= DEFAULT.max && !plain.ends_with('-') { plain } else { join(DEFAULT, &parts) }
}

/// Name of the ConfigMap with a shard's `pg_hba.conf` template.
pub fn pg_hba(shard_object: &str) -> String {
    format!("{shard_object}-pg-hba")
}

/// Name of the ConfigMap with a shard's PostgreSQL settings.
pub fn postgres_config(shard_object: &str) -> String {
    format!("{shard_object}-postgres-config")
}

/// Name of the ConfigMap with the queries of the PostgreSQL exporter.
pub fn exporter_queries(shard_object: &str) -> String {
    format!("{shard_object}-exporter-queries")
}

/// Name of the Secret with the CA of a shard's backup TLS.
pub fn pgbackrest_ca(shard_object: &str) -> String {
    format!("{shard_object}-pgbackrest-ca")
}

/// Name of the Secret with the certificate of a shard's backup TLS.
pub fn pgbackrest_tls(shard_object: &str) -> String {
    format!("{shard_object}-pgbackrest-tls")
}

/// The id under which a pool pod registers itself in the topology; ten characters, stable for a pod name.
pub fn pooler_service_id(pod: &str) -> String {
    format!("p-{}", hash(&[pod]))
}

fn pool_parts(id: PoolId<'_>) -> [&str; 7] {
    let ShardId { cluster, database, table_group, shard } = id.shard;
    [cluster, database, table_group, shard, "pool", id.pool, id.cell]
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const LONG_CLUSTER: &str = "abcdefghijklmnopqrstuvwxy";
    const LONG_CELL: &str = "abcdefghijklmnopqrstuvwxyz0123";

    fn id(cluster: &str) -> ShardId<'_> {
        ShardId { cluster, database: "postgres", table_group: "default", shard: "0-inf" }
    }

    fn pool<'a>(cluster: &'a str, pool: &'a str, cell: &'a str) -> PoolId<'a> {
        PoolId { shard: id(cluster), pool, cell }
    }

    #[test]
    fn custom_resources_match_the_vectors() {
        assert_eq!(cell("inline", "z1"), "inline-z1-42ad6e9b");
        assert_eq!(cell("demo-multi-az", "us-east-1a"), "demo-multi-az-us-east-1a-1a7d100f");
        assert_eq!(cell("minimal", "zone-a"), "minimal-zone-a-96c88ae0");
        assert_eq!(cell("9lives", "z1"), "9lives-z1-6e10407c");
        assert_eq!(table_group("inline", "postgres", "default"), "inline-postgres-default-c1e5b08e");
        assert_eq!(table_group("minimal", "postgres", "default"), "minimal-postgres-default-f7d4ad4a");
        assert_eq!(shard(id("inline")), "inline-postgres-default-0-inf-6245c788");
        assert_eq!(shard(id("minimal")), "minimal-postgres-default-0-inf-1e3c045c");
        assert_eq!(shard(id("my-cluster")), "my-cluster-postgres-default-0-inf-42ee41a0");
    }

    #[test]
    fn topology_servers_match_the_vectors() {
        assert_eq!(global_topo("minimal"), "minimal-global-topo");
        assert_eq!(local_topo("inline-z1-42ad6e9b"), "inline-z1-42ad6e9b-topo-79f95118");
        assert_eq!(local_topo("minimal-zone-a-96c88ae0"), "minimal-zone-a-96c88ae0-topo-26e28848");
        assert_eq!(local_topo("demo-multi-az-us-east-1a-1a7d100f"), "demo-multi-az-us-east-1a-1a7d100f-topo-c0078b9b");
        assert_eq!(local_topo(&cell(LONG_CLUSTER, LONG_CELL)), "abcdefghijklmnopqrstuvwxy-abcdefghijklmno---d32d6075");
        let nested = cell("a-cluster-name-25-chars-x", "a-cell-name-that-is-30-chars-x");
        assert_eq!(nested, "a-cluster-name-25-chars-x-a-cell-name-that-is-30-chars-x-7f3cd06c");
        assert_eq!(local_topo(&nested), "a-cluster-name-25-chars-x-a-cell-name-tha---1b7b4106");
        assert_eq!(topo_headless("minimal-global-topo"), "minimal-global-topo-headless");
        assert_eq!(topo_pvc("minimal-global-topo", 2), "data-minimal-global-topo-2");
    }

    #[test]
    fn singletons_of_a_cluster_carry_no_hash() {
        assert_eq!(multiadmin("demo"), "demo-multiadmin");
        assert_eq!(multiadmin_web("demo"), "demo-multiadmin-web");
        assert_eq!(cluster_gateway("demo"), "demo-multigateway");
        assert_eq!(cluster_gateway_replica("demo"), "demo-multigateway-replica");
        assert_eq!(postgres_password("demo"), "demo-postgres-password");
    }

    #[test]
    fn gateways_match_the_vectors() {
        assert_eq!(gateway_deployment("inline", "z1"), "inline-z1-multigateway-76752f56");
        assert_eq!(gateway_service("inline", "z1"), "inline-z1-multigateway-76752f56");
        assert_eq!(gateway_service("minimal", "zone-a"), "minimal-zone-a-multigateway-0ccc2e8b");
        assert_eq!(gateway_service("demo-multi-az", "us-east-1a"), "demo-multi-az-us-east-1a-multigateway-a107ef12");
        assert_eq!(gateway_service("9lives", "z1"), "x9lives-z1-multigateway-f0a615af");
        assert_eq!(gateway_service("1abc", "z1"), "x1abc-z1-multigateway-928a3236");
        assert_eq!(
            gateway_deployment(LONG_CLUSTER, LONG_CELL),
            "abcdefghijklmnopqrstuvwxy-abcdefghijklmnopqrstuvwxyz0123-multigateway-7f8e35e0"
        );
        assert_eq!(
            gateway_service(LONG_CLUSTER, LONG_CELL),
            "abcdefghijklmnopqrstuvwxy-abcdefghijklmnopqrstuvwxyz---7f8e35e0"
        );
    }

    #[test]
    fn orchestrators_match_the_vectors() {
        let expected = "inline-postgres-default-0-inf-multiorch-z1-5222da14";
        assert_eq!(multiorch_deployment(id("inline"), "z1"), expected);
        assert_eq!(multiorch_service(id("inline"), "z1"), expected);
        assert_eq!(multiorch_service(id("demo"), "zone-a"), "demo-postgres-default-0-inf-multiorch-zone-a-cb7d310d");
        assert_eq!(
            multiorch_service(id("demo-multi-az"), "us-east-1a"),
            "demo-multi-az-postgres-default-0-inf-multiorch-us-ea---480ae470"
        );
    }

    #[rstest]
    #[case("inline", "main", "z1", "inline-postgres-default-0-inf-pool-main-z1-168f1440")]
    #[case("inline", "default", "z1", "inline-postgres-default-0-inf-pool-default-z1-7ba83e54")]
    #[case("minimal", "default", "zone-a", "minimal-postgres-default-0-inf-pool-default-zone-a-a3a0d77b")]
    #[case("demo", "default", "zone-a", "demo-postgres-default-0-inf-pool-default-zone-a-ec5c12b9")]
    #[case("demo-multi-az", "default", "us-east-1a", "demo-multi-az-postgres-default-0-inf-pool-default---572b4c34")]
    #[case("demo-multi-az", "default", "zone-a", "demo-multi-az-postgres-default-0-inf-pool-default---8a186ab1")]
    #[case("9lives", "main", "z1", "x9lives-postgres-default-0-inf-pool-main-z1-6cbadc31")]
    #[case(LONG_CLUSTER, LONG_CLUSTER, LONG_CELL, "abcdefghijklmnopqrstuvwxy-postgres-default-0-inf----dc8d014c")]
    fn pool_bases_match_the_vectors(
        #[case] cluster: &str,
        #[case] name: &str,
        #[case] cell: &str,
        #[case] expected: &str,
    ) {
        let id = pool(cluster, name, cell);
        assert_eq!(pool_base(id), expected);
        assert_eq!(pool_pod(id, 10), format!("{expected}-10"));
        assert!(pool_pod(id, 99).len() <= 63);
    }

    #[rstest]
    #[case(pool("inline", "main", "z1"), "inline-postgres-default-0-inf-pool-main-z1-headless-46b78f61")]
    #[case(pool("inline", "default", "z1"), "inline-postgres-default-0-inf-pool-default-z1-headless-ca2f91ed")]
    #[case(pool("demo", "default", "zone-a"), "demo-postgres-default-0-inf-pool-default-zone-a-head---3e22ea4e")]
    #[case(
        pool("demo-multi-az", "default", "us-east-1a"),
        "demo-multi-az-postgres-default-0-inf-pool-default-us---78d6ae8d"
    )]
    fn headless_services_match_the_vectors(#[case] id: PoolId<'_>, #[case] expected: &str) {
        assert_eq!(pool_headless(id), expected);
    }

    #[rstest]
    #[case(pool("inline", "main", "z1"), "inline-postgres-default-0-inf-pool-main-z1-pdb-4cc90cae")]
    #[case(pool("demo", "default", "zone-a"), "demo-postgres-default-0-inf-pool-default-zone-a-pdb-57532397")]
    #[case(
        pool("demo-multi-az", "default", "us-east-1a"),
        "demo-multi-az-postgres-default-0-inf-pool-default-us---74917d6a"
    )]
    fn pool_budgets_match_the_vectors(#[case] id: PoolId<'_>, #[case] expected: &str) {
        assert_eq!(pool_budget(id), expected);
    }

    #[test]
    fn the_two_budgets_of_a_shard_differ_and_fit_a_service_name() {
        let long = ShardId { table_group: LONG_CELL, ..id(LONG_CLUSTER) };
        assert_ne!(primary_budget(long), standby_budget(long));
        assert_eq!(primary_budget(long).len(), 63);
    }

    #[rstest]
    #[case("inline", "backup-data-inline-postgres-default-0-inf-61412b9f")]
    #[case("demo", "backup-data-demo-postgres-default-0-inf-8c57684d")]
    #[case("demo-multi-az", "backup-data-demo-multi-az-postgres-default-0-inf-250d2f03")]
    #[case(LONG_CLUSTER, "backup-data-abcdefghijklmnopqrstuvwxy-postgres-defau---6fce0911")]
    fn shared_backup_volumes_match_the_vectors(#[case] cluster: &str, #[case] expected: &str) {
        assert_eq!(shard_backup_pvc(id(cluster)), expected);
    }

    #[test]
    fn backup_volume_of_a_cell_has_the_documented_name() {
        assert_eq!(cell_backup_pvc(id("my-cluster"), "zone-a"), "backup-data-my-cluster-postgres-default-0-inf-zone-a");
        let odd = ShardId { table_group: "Orders", ..id("demo") };
        assert!(cell_backup_pvc(odd, "z1").starts_with("backup-data-demo-postgres-orders-0-inf-z1-"));
    }

    #[test]
    fn data_volume_is_named_after_its_pod() {
        let pod = pool_pod(pool("demo-multi-az", "default", "us-east-1a"), 0);
        let pvc = data_pvc(&pod);
        assert_eq!(pvc, "data-demo-multi-az-postgres-default-0-inf-pool-default---572b4c34-0");
        assert_eq!(pod_of_data_pvc(&pvc), Some(pod.as_str()));
        assert_eq!(pod_of_data_pvc("backup-data-x"), None);
    }

    #[rstest]
    #[case("a-168f1440-0", Some(0))]
    #[case("a-168f1440-12", Some(12))]
    #[case("a-168f1440-x", None)]
    #[case("a-168f1440-", None)]
    #[case("a-168f1440-+1", None)]
    #[case("nodash", None)]
    #[case("a-99999999999", None)]
    fn pod_index_is_the_number_after_the_last_hyphen(#[case] pod: &str, #[case] expected: Option<u32>) {
        // An empty text passes `all`, so the parse itself has to refuse it.
        assert_eq!(pod_index(pod), expected);
    }

    #[rstest]
    #[case("inline-postgres-default-0-inf-pool-main-z1-168f1440-0", "p-28919e16")]
    #[case("demo-multi-az-postgres-default-0-inf-pool-default---572b4c34-0", "p-379b651c")]
    #[case("demo-multi-az-postgres-default-0-inf-pool-default---572b4c34-1", "p-5d9ddf85")]
    #[case("demo-postgres-default-0-inf-pool-default-zone-a-ec5c12b9-0", "p-f41134e5")]
    #[case("demo-postgres-default-0-inf-pool-main-app-zone-a-f6aa09ac-0", "p-c85c25b8")]
    fn pooler_service_ids_match_the_vectors(#[case] pod: &str, #[case] expected: &str) {
        assert_eq!(pooler_service_id(pod), expected);
    }

    #[test]
    fn objects_of_a_shard_extend_its_object_name() {
        let shard = shard(id("minimal"));
        assert_eq!(pg_hba(&shard), "minimal-postgres-default-0-inf-1e3c045c-pg-hba");
        assert_eq!(postgres_config(&shard), "minimal-postgres-default-0-inf-1e3c045c-postgres-config");
        assert_eq!(exporter_queries(&shard), "minimal-postgres-default-0-inf-1e3c045c-exporter-queries");
        assert_eq!(pgbackrest_ca(&shard), "minimal-postgres-default-0-inf-1e3c045c-pgbackrest-ca");
        assert_eq!(pgbackrest_tls(&shard), "minimal-postgres-default-0-inf-1e3c045c-pgbackrest-tls");
    }
}
