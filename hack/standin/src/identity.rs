//! Names of processes in the topology, and the host name that a process publishes.

use crate::flag::Values;
use crate::proto::clustermetadata::Id;
use crate::proto::clustermetadata::id::ComponentType;

/// An id of the given kind.
pub fn id(component: ComponentType, cell: &str, name: &str) -> Id {
    Id { component: component.into(), cell: cell.to_owned(), name: name.to_owned() }
}

/// The key component of an id, such as `multipooler-zone-a-p-0badcafe`.
pub fn component_id(id: &Id) -> String {
    let component = match id.component() {
        ComponentType::Multipooler => "multipooler",
        ComponentType::Multigateway => "multigateway",
        ComponentType::Multiorch => "multiorch",
        ComponentType::Unknown => "unknown",
    };
    format!("{component}-{}-{}", id.cell, id.name)
}

/// The name by which PostgreSQL and the rules know a pooler: cell, underscore, name.
pub fn cluster_name(id: &Id) -> String {
    format!("{}_{}", id.cell, id.name)
}

/// The service id of this process: given, or random as the real one draws it.
pub fn service_id(values: &Values) -> String {
    let given = values.text("service-id");
    if given.is_empty() { random_name() } else { given.to_owned() }
}

/// Eight random letters and digits of the alphabet that Kubernetes uses for names.
pub fn random_name() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..8).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}

/// The published host name: the flag, else the fully qualified name of an own address, else the system's name.
pub fn hostname(values: &Values) -> String {
    let given = values.text("hostname");
    if !given.is_empty() {
        return given.to_owned();
    }
    let system = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    fully_qualified(&std::fs::read_to_string("/etc/hosts").unwrap_or_default(), &system).unwrap_or(system)
}

/// The first dotted name of the line of a hosts file that names `system`: what kubelet writes for a pod with a subdomain.
fn fully_qualified(hosts: &str, system: &str) -> Option<String> {
    hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().split_whitespace().skip(1).collect::<Vec<_>>())
        .find(|names| names.contains(&system))
        .and_then(|names| names.into_iter().find(|name| name.contains('.')))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_rules_use_different_spellings_of_an_id() {
        let id = id(ComponentType::Multipooler, "zone-a", "p-0badcafe");
        assert_eq!(component_id(&id), "multipooler-zone-a-p-0badcafe");
        assert_eq!(cluster_name(&id), "zone-a_p-0badcafe");
    }

    #[test]
    fn the_hosts_file_of_a_pod_gives_the_full_name() {
        let hosts = "127.0.0.1 localhost\n10.244.0.7\tpod-0.pool.ns.svc.cluster.local\tpod-0\n";
        assert_eq!(fully_qualified(hosts, "pod-0").as_deref(), Some("pod-0.pool.ns.svc.cluster.local"));
        assert_eq!(fully_qualified("127.0.0.1 localhost box\n", "box"), None);
        assert_eq!(fully_qualified(hosts, "other"), None);
    }

    #[test]
    fn drawn_names_have_eight_characters() {
        assert_eq!(random_name().len(), 8);
    }
}
