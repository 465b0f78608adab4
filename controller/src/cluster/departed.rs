//! Records that gateways and orchestrators of this cluster left behind in the topology.
//!
//! A process takes its record along when it is stopped, and leaves it for ever when it crashes. A record names no pod, only the
//! address of one, so it counts as left behind when no pod of this cluster that could have written it has that address, or is about to
//! get one. That is asked of the API server once more before a record goes, and it goes only if it is still the one that was read. A
//! pod whose process was restarted keeps the records of its former lives until it goes itself: nobody can tell them apart.
//!
//! A topology of somebody else may hold gateways that users run themselves in a cell of ours. What such a record lacks of what each of
//! ours has keeps it: the drawn name, because ours are given none, and for gateways the ports.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use shared::{label, label::Labels};

use super::{Observed, topology::Sight};
use crate::{
    plan::{Action, TopoWrite},
    upstream::{Component, Registration, TopoAddress},
    workload::port::{GATEWAY_GRPC, GATEWAY_HTTP, GATEWAY_POSTGRES, GATEWAY_REPLICA},
};

/// Length of the name that a process draws when it is given none.
const DRAWN_NAME: usize = 8;
/// The ports that a gateway of ours registers.
const GATEWAY_PORTS: [(&str, i32); 4] = [
    ("grpc", GATEWAY_GRPC),
    ("http", GATEWAY_HTTP),
    ("postgres", GATEWAY_POSTGRES),
    ("postgres_replica", GATEWAY_REPLICA),
];

/// The cells whose registrations are looked up: those of this cluster that the topology knows.
pub(super) fn cells(observed: &Observed) -> BTreeSet<String> {
    let Sight::Seen { cells, .. } = &observed.topology else { return BTreeSet::new() };
    let ours = observed.registered_names().0;
    cells.records.iter().map(|record| record.name.clone()).filter(|name| ours.contains(name)).collect()
}

/// What removes the records that were left behind.
pub(super) fn removals(observed: &Observed, at: &TopoAddress) -> Vec<Action> {
    // Pods of another cluster are not to be seen here.
    if observed.leftovers.strangers {
        return Vec::new();
    }
    let ours = cells(observed);
    // With the cluster go the records of its cells, and nothing serves in there any more, whoever runs it.
    let shared = observed.external_topology.is_some() && observed.cluster.metadata.deletion_timestamp.is_none();
    let counts = |seen: &Registration| ours.contains(&seen.cell) && (!shared || is_like_ours(seen));
    let gone = observed.registrations.iter().filter(|seen| counts(seen) && is_gone(observed, seen));
    gone.map(|seen| {
        let absent = Action::RequireNoPodAt {
            namespace: observed.owner.namespace.clone(),
            selector: writers(observed, seen),
            address: seen.hostname.clone(),
        };
        let write = TopoWrite::DeleteRegistration(seen.clone());
        Action::Sequence(vec![absent, Action::Topology { at: at.clone(), write }])
    })
    .collect()
}

/// The pods that write such records, in any cell: who was moved keeps its address.
fn writers(observed: &Observed, seen: &Registration) -> Labels {
    let component = match seen.component {
        Component::Gateway => label::Component::Multigateway,
        Component::Orch => label::Component::Multiorch,
    };
    let pairs = [(label::COMPONENT, component.as_str()), (label::INSTANCE, observed.owner.name.as_str())];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Whether a process that this operator runs registers like that.
fn is_like_ours(seen: &Registration) -> bool {
    let drawn = seen.name.len() == DRAWN_NAME
        && seen.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    drawn
        && match seen.component {
            Component::Gateway => {
                seen.ports.len() == GATEWAY_PORTS.len()
                    && GATEWAY_PORTS
                        .iter()
                        .all(|(name, number)| seen.ports.get(*name).copied().map(i32::from) == Some(*number))
            }
            Component::Orch => true,
        }
}

fn is_gone(observed: &Observed, seen: &Registration) -> bool {
    let writers = writers(observed, seen);
    let of = |pod: &&Arc<Pod>| label::matches(&writers, pod.labels());
    no_pod_at(observed.pods.iter().filter(of).map(AsRef::as_ref), &seen.hostname)
}

/// Whether it is certain that none of these pods has an address. A pod without any may just be getting it, and of a name nobody
/// knows whose it is.
pub fn no_pod_at<'a>(pods: impl IntoIterator<Item = &'a Pod>, address: &str) -> bool {
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    pods.into_iter().all(|pod| {
        let status = pod.status.as_ref();
        let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
        let mut all = all.chain(status.and_then(|status| status.pod_ip.as_deref())).peekable();
        all.peek().is_some() && all.all(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip != address))
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn registration(component: Component, name: &str, ports: &[(&str, u16)]) -> Registration {
        Registration {
            component,
            cell: "a".to_owned(),
            name: name.to_owned(),
            hostname: "10.0.0.9".to_owned(),
            ports: ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect(),
        }
    }

    const OURS: &[(&str, u16)] = &[("grpc", 15170), ("http", 15100), ("postgres", 5432), ("postgres_replica", 5433)];

    #[rstest]
    #[case::ours(Component::Gateway, "b7xk2qzt", OURS, true)]
    #[case::named_by_a_user(Component::Gateway, "my-gateway", OURS, false)]
    #[case::named_as_long(Component::Gateway, "gw-north", OURS, false)]
    #[case::on_other_ports(Component::Gateway, "b7xk2qzt", &[("grpc", 15170), ("http", 15100), ("postgres", 15432)], false)]
    #[case::one_port_differs(
        Component::Gateway,
        "b7xk2qzt",
        &[("grpc", 15170), ("http", 15100), ("postgres", 15432), ("postgres_replica", 5433)],
        false,
    )]
    #[case::one_port_more(
        Component::Gateway,
        "b7xk2qzt",
        &[("grpc", 15170), ("http", 15100), ("postgres", 5432), ("postgres_replica", 5433), ("debug", 6060)],
        false,
    )]
    #[case::without_ports(Component::Gateway, "b7xk2qzt", &[], false)]
    #[case::our_orchestrator(Component::Orch, "b7xk2qzt", &[("grpc", 15370), ("http", 15300)], true)]
    #[case::orchestrator_of_a_user(Component::Orch, "my-orch", &[("grpc", 15370), ("http", 15300)], false)]
    fn a_record_in_a_shared_topology_is_like_ours_by_name_and_ports(
        #[case] component: Component,
        #[case] name: &str,
        #[case] ports: &[(&str, u16)],
        #[case] ours: bool,
    ) {
        assert_eq!(is_like_ours(&registration(component, name, ports)), ours);
    }

    #[rstest]
    #[case::of_nobody("10.0.0.9", true)]
    #[case::of_a_living_pod("10.0.0.1", false)]
    #[case::second_address("fd00::1", false)]
    #[case::written_differently("FD00:0::1", false)]
    #[case::a_name("gateway-0", false)]
    fn an_address_is_gone_when_no_pod_has_it(#[case] address: &str, #[case] gone: bool) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"}, "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        }))
        .unwrap();
        assert_eq!(no_pod_at([&pod], address), gone);
        assert_eq!(no_pod_at([], address), address != "gateway-0");
        let starting = Pod::default();
        assert!(!no_pod_at([&pod, &starting], "10.0.0.9"), "it may be the one that registered");
    }
}
