//! Label keys, the identity labels of every object, and the selectors made from them.
//!
//! Identity labels never change during the life of an object. Selectors use a fixed subset of them, because selectors of
//! Deployments and StatefulSets are immutable.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use strum::{AsRefStr, Display, EnumIter, EnumString, IntoStaticStr};

use crate::name::{PoolId, ShardId};

/// Name of the application: always [`APPLICATION`].
pub const NAME: &str = "app.kubernetes.io/name";
/// Name of the cluster.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// What an object is for: a [`Component`].
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// What the application belongs to: always [`APPLICATION`].
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// Who writes the object: always [`MANAGER`]; watches and the volume collector select on it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Name of the MultigresCluster.
pub const CLUSTER: &str = "multigres.com/cluster";
/// Name of the cell.
pub const CELL: &str = "multigres.com/cell";
/// Name of the database.
pub const DATABASE: &str = "multigres.com/database";
/// Name of the table group.
pub const TABLE_GROUP: &str = "multigres.com/tablegroup";
/// Name of the shard.
pub const SHARD: &str = "multigres.com/shard";
/// Name of the pool.
pub const POOL: &str = "multigres.com/pool";
/// Availability zone id of the cell; descriptive, never selected on.
pub const ZONE_ID: &str = "multigres.com/zone-id";
/// Region of the cell; descriptive, never selected on.
pub const REGION: &str = "multigres.com/region";
/// Role of a pool pod, where it has a special one.
pub const ROLE: &str = "multigres.com/role";
/// Value of [`ROLE`] on the pod of the confirmed primary; no other pod carries it.
pub const PRIMARY: &str = "primary";
/// Since when a volume claim waits for its delayed deletion, see [`orphan_since`].
pub const ORPHAN_SINCE: &str = "multigres.com/orphan-since";
/// Marks a cluster that refers to a CoreTemplate.
pub const USES_CORE_TEMPLATE: &str = "multigres.com/uses-core-template";
/// Marks a cluster that refers to a CellTemplate.
pub const USES_CELL_TEMPLATE: &str = "multigres.com/uses-cell-template";
/// Marks a cluster that refers to a ShardTemplate.
pub const USES_SHARD_TEMPLATE: &str = "multigres.com/uses-shard-template";

/// Value of [`NAME`] and [`PART_OF`].
pub const APPLICATION: &str = "multigres";
/// Value of [`MANAGED_BY`].
pub const MANAGER: &str = "multigres-operator";
/// The label selector of everything that this operator writes.
pub const OURS: &str = "app.kubernetes.io/managed-by=multigres-operator";

/// Node label that `zone` of a cell selects.
pub const NODE_ZONE: &str = "topology.kubernetes.io/zone";
/// Node label that `region` of a cell selects.
pub const NODE_REGION: &str = "topology.kubernetes.io/region";
/// Node label that `zoneId` of a cell selects by default.
pub const NODE_ZONE_ID: &str = "topology.k8s.aws/zone-id";

/// The keys that selectors are made of.
const SELECTOR_KEYS: [&str; 8] = [COMPONENT, INSTANCE, CLUSTER, DATABASE, TABLE_GROUP, SHARD, POOL, CELL];

/// Labels of an object or of a selector.
pub type Labels = BTreeMap<String, String>;

/// What an object is for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, AsRefStr, Display, EnumIter, EnumString, IntoStaticStr,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Component {
    /// A Cell object.
    Cell,
    /// A TableGroup object.
    #[strum(serialize = "tablegroup")]
    TableGroup,
    /// A Shard object.
    Shard,
    /// The TopoServer object of a whole cluster.
    GlobalTopo,
    /// The TopoServer object of one cell.
    LocalTopo,
    /// The workload of a TopoServer.
    #[strum(serialize = "toposerver")]
    TopoServer,
    /// The management API.
    Multiadmin,
    /// The management web page.
    MultiadminWeb,
    /// The gateways that speak PostgreSQL to applications.
    Multigateway,
    /// The orchestrators of a shard.
    Multiorch,
    /// Pods, volumes and Services of a pool.
    ShardPool,
    /// ConfigMap with the client authentication rules.
    PgHbaConfig,
    /// ConfigMap with PostgreSQL settings.
    PostgresConfig,
    /// ConfigMap with the exporter's queries.
    PostgresExporterQueries,
    /// Secrets of the backup TLS.
    PgbackrestTls,
    /// Secret with the generated superuser password.
    PostgresPassword,
    /// Secrets of the TLS among the components.
    InternalTls,
    /// Secret with the certificate that PostgreSQL clients see.
    PublicTls,
}

impl Component {
    /// Returns the label value.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The labels that every object of a cluster carries.
pub fn standard(cluster: &str, component: Component) -> Labels {
    labels([
        (NAME, APPLICATION),
        (INSTANCE, cluster),
        (COMPONENT, component.as_str()),
        (PART_OF, APPLICATION),
        (MANAGED_BY, MANAGER),
    ])
}

/// Labels of objects that belong to the cluster as a whole: multiadmin, the global TopoServer, the gateway Services.
pub fn of_cluster(cluster: &str, component: Component) -> Labels {
    with(standard(cluster, component), [(CLUSTER, cluster)])
}

/// Labels of a Cell or of its local TopoServer.
pub fn of_cell(cluster: &str, cell: &str, component: Component) -> Labels {
    with(of_cluster(cluster, component), [(CELL, cell)])
}

/// Labels of a TableGroup.
pub fn of_table_group(cluster: &str, database: &str, table_group: &str) -> Labels {
    with(of_cluster(cluster, Component::TableGroup), [(DATABASE, database), (TABLE_GROUP, table_group)])
}

/// Labels of a Shard, of its ConfigMaps and of its shared backup volume.
pub fn of_shard(id: ShardId<'_>, component: Component) -> Labels {
    with(of_cluster(id.cluster, component), [(DATABASE, id.database), (TABLE_GROUP, id.table_group), (SHARD, id.shard)])
}

/// Labels of what a shard has once per cell: its orchestrators and, with scope `Cell`, its backup volume.
pub fn of_shard_in_cell(id: ShardId<'_>, cell: &str, component: Component) -> Labels {
    with(of_shard(id, component), [(CELL, cell)])
}

/// Labels of the pods, data volumes and Services of a pool in a cell.
pub fn of_pool(id: PoolId<'_>) -> Labels {
    with(of_shard_in_cell(id.shard, id.cell, Component::ShardPool), [(POOL, id.pool)])
}

/// Labels of a cell's gateway Deployment, Service and pods.
///
/// They lack [`CLUSTER`]: the selector of existing Deployments was made without it and cannot change.
pub fn of_gateway(cluster: &str, cell: &str, zone_id: Option<&str>, region: Option<&str>) -> Labels {
    let mut all = with(standard(cluster, Component::Multigateway), [(CELL, cell)]);
    for (key, value) in [(ZONE_ID, zone_id), (REGION, region)] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            all.insert(key.to_owned(), value.to_owned());
        }
    }
    all
}

/// Labels of the StatefulSet and Services of a TopoServer: those of the TopoServer, with the workload's component.
pub fn of_topo_workload(cluster: &str, topo_server: &Labels) -> Labels {
    over(Some(topo_server), standard(cluster, Component::TopoServer))
}

/// Selects the gateways of all cells of a cluster.
pub fn all_gateways(cluster: &str) -> Labels {
    labels([(COMPONENT, Component::Multigateway.as_str()), (INSTANCE, cluster)])
}

/// Selects the pool pods of a shard in all pools and cells; the component keeps the orchestrators out.
pub fn all_pool_pods(id: ShardId<'_>) -> Labels {
    selector(&of_shard(id, Component::ShardPool))
}

/// Returns the part of an object's labels that selectors may use.
pub fn selector(labels: &Labels) -> Labels {
    labels
        .iter()
        .filter(|(key, _)| SELECTOR_KEYS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Lays the operator's labels over a user's: the operator wins.
pub fn over(user: Option<&Labels>, operator: Labels) -> Labels {
    let mut all = user.cloned().unwrap_or_default();
    all.extend(operator);
    all
}

/// Returns whether `object` carries every label of `selector`.
pub fn matches(selector: &Labels, object: &Labels) -> bool {
    selector.iter().all(|(key, value)| object.get(key) == Some(value))
}

/// Writes labels as a label selector for a list or watch request.
pub fn query(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Layout of [`ORPHAN_SINCE`]: UTC, with hyphens because a label value may not hold colons.
const ORPHAN_LAYOUT: &str = "%Y-%m-%dT%H-%M-%SZ";

/// Writes a time as the value of [`ORPHAN_SINCE`].
pub fn orphan_since(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime(ORPHAN_LAYOUT).to_string()
}

/// Reads the value of [`ORPHAN_SINCE`]; none when it is not a time in that layout.
pub fn parse_orphan_since(value: &str) -> Option<Timestamp> {
    let local = DateTime::strptime(ORPHAN_LAYOUT, value).ok()?;
    local.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    with(Labels::new(), pairs)
}

fn with<const N: usize>(mut all: Labels, pairs: [(&str, &str); N]) -> Labels {
    all.extend(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    all
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator as _;

    use super::*;

    const SHARD_ID: ShardId<'_> =
        ShardId { cluster: "demo", database: "postgres", table_group: "default", shard: "0-inf" };

    fn text(labels: &Labels) -> Vec<String> {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn component_values_are_those_of_the_go_operator() {
        let values: Vec<&str> = Component::iter().map(Component::as_str).collect();
        assert_eq!(
            values,
            [
                "cell",
                "tablegroup",
                "shard",
                "global-topo",
                "local-topo",
                "toposerver",
                "multiadmin",
                "multiadmin-web",
                "multigateway",
                "multiorch",
                "shard-pool",
                "pg-hba-config",
                "postgres-config",
                "postgres-exporter-queries",
                "pgbackrest-tls",
                "postgres-password",
                // Certificates of the operator's own making, which the Go operator asks somebody else for.
                "internal-tls",
                "public-tls",
            ]
        );
        assert_eq!("tablegroup".parse(), Ok(Component::TableGroup));
    }

    #[test]
    fn standard_labels_are_the_five_recommended_ones() {
        assert_eq!(
            text(&standard("demo", Component::PgbackrestTls)),
            [
                "app.kubernetes.io/component=pgbackrest-tls",
                "app.kubernetes.io/instance=demo",
                "app.kubernetes.io/managed-by=multigres-operator",
                "app.kubernetes.io/name=multigres",
                "app.kubernetes.io/part-of=multigres",
            ]
        );
    }

    #[test]
    fn pool_objects_carry_the_whole_path_and_select_on_it() {
        let labels = of_pool(PoolId { shard: SHARD_ID, pool: "main", cell: "z1" });
        assert_eq!(labels.len(), 11);
        assert_eq!(
            text(&selector(&labels)),
            [
                "app.kubernetes.io/component=shard-pool",
                "app.kubernetes.io/instance=demo",
                "multigres.com/cell=z1",
                "multigres.com/cluster=demo",
                "multigres.com/database=postgres",
                "multigres.com/pool=main",
                "multigres.com/shard=0-inf",
                "multigres.com/tablegroup=default",
            ]
        );
    }

    #[test]
    fn gateway_selector_has_neither_cluster_nor_zone() {
        let labels = of_gateway("demo", "z1", Some("use1-az1"), Some("us-east-1"));
        assert_eq!(labels[ZONE_ID], "use1-az1");
        assert_eq!(labels[REGION], "us-east-1");
        assert_eq!(
            text(&selector(&labels)),
            ["app.kubernetes.io/component=multigateway", "app.kubernetes.io/instance=demo", "multigres.com/cell=z1"]
        );
        assert!(!of_gateway("demo", "z1", None, Some("")).contains_key(REGION));
        assert!(matches(&all_gateways("demo"), &labels));
        assert!(!matches(&all_gateways("other"), &labels));
    }

    #[test]
    fn orchestrators_are_no_pool_pods() {
        let orchestrator = of_shard_in_cell(SHARD_ID, "z1", Component::Multiorch);
        assert_eq!(orchestrator[SHARD], "0-inf");
        assert!(!matches(&all_pool_pods(SHARD_ID), &orchestrator));
        assert!(matches(&all_pool_pods(SHARD_ID), &of_pool(PoolId { shard: SHARD_ID, pool: "main", cell: "z1" })));
    }

    #[test]
    fn topology_workload_keeps_the_cell_and_changes_the_component() {
        let labels = of_topo_workload("demo", &of_cell("demo", "z1", Component::LocalTopo));
        assert_eq!(labels[COMPONENT], "toposerver");
        assert_eq!(labels[CELL], "z1");
        assert_eq!(labels[CLUSTER], "demo");
    }

    #[test]
    fn operator_labels_win_over_user_labels() {
        let user = labels([(COMPONENT, "mine"), ("team", "a")]);
        let merged = over(Some(&user), standard("demo", Component::Multiorch));
        assert_eq!(merged[COMPONENT], "multiorch");
        assert_eq!(merged["team"], "a");
    }

    #[test]
    fn query_joins_labels_with_commas() {
        assert_eq!(
            query(&all_gateways("demo")),
            "app.kubernetes.io/component=multigateway,app.kubernetes.io/instance=demo"
        );
        assert_eq!(query(&labels([(MANAGED_BY, MANAGER)])), OURS);
    }

    #[test]
    fn orphan_time_survives_the_round_trip() {
        let at: Timestamp = "2026-03-04T05:06:07.9Z".parse().unwrap();
        assert_eq!(orphan_since(at), "2026-03-04T05-06-07Z");
        assert_eq!(parse_orphan_since("2026-03-04T05-06-07Z"), Some("2026-03-04T05:06:07Z".parse().unwrap()));
        assert_eq!(parse_orphan_since("2026-03-04T05:06:07Z"), None);
        assert_eq!(parse_orphan_since("soon"), None);
    }
}
