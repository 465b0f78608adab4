//! The network of a bed: a namespace of its own with a veth pair to the host, or free ports on loopback.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::process;

/// The range of Service addresses, the same in every bed.
pub const SERVICES: &str = "10.96.0.0/16";
/// The address of the Service `kubernetes`.
pub const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The range of Pod addresses, the same in every bed.
pub const PODS: &str = "10.244.0.0/16";
/// Where simulated nodes take Pod addresses from: large enough for thousands of clusters.
pub const SIMULATED_PODS: &str = "10.128.0.0/9";

/// The ports of a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// kube-apiserver.
    pub api: u16,
    /// etcd for clients.
    pub etcd: u16,
    /// etcd for peers.
    pub etcd_peer: u16,
    /// kube-controller-manager.
    pub controller_manager: u16,
    /// kube-scheduler.
    pub scheduler: u16,
    /// The simulated nodes' kubelet.
    pub kwok: u16,
}

/// Where a control plane listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The network namespace, or nothing for the host's loopback.
    pub namespace: Option<String>,
    /// Which of the 10.200.x.0/24 ranges the veth pair has; only with a namespace.
    pub range: u8,
    /// The ports.
    pub ports: Ports,
}

impl Network {
    /// A network on loopback with free ports.
    pub fn loopback() -> Result<Self> {
        let ports = free_ports(6)?;
        let ports = Ports {
            api: ports[0],
            etcd: ports[1],
            etcd_peer: ports[2],
            controller_manager: ports[3],
            scheduler: ports[4],
            kwok: ports[5],
        };
        Ok(Self { namespace: None, range: 0, ports })
    }

    /// A network in a namespace with this range.
    pub fn in_namespace(namespace: &str, range: u8) -> Self {
        let ports =
            Ports { api: 6443, etcd: 2379, etcd_peer: 2380, controller_manager: 10257, scheduler: 10259, kwok: 10247 };
        Self { namespace: Some(namespace.to_owned()), range, ports }
    }

    /// The address of the API server.
    pub fn address(&self) -> IpAddr {
        if self.namespace.is_some() { Ipv4Addr::new(10, 200, self.range, 2).into() } else { Ipv4Addr::LOCALHOST.into() }
    }

    /// The address under which processes in the namespace reach the host.
    pub fn host_address(&self) -> IpAddr {
        if self.namespace.is_some() { Ipv4Addr::new(10, 200, self.range, 1).into() } else { Ipv4Addr::LOCALHOST.into() }
    }

    /// The address of a node.
    pub fn node_address(&self, index: usize) -> IpAddr {
        let last = u8::try_from(10 + index).unwrap_or(u8::MAX);
        Ipv4Addr::new(10, 200, self.range, last).into()
    }

    /// The URL of the API server.
    pub fn server(&self) -> String {
        format!("https://{}:{}", self.address(), self.ports.api)
    }

    /// The words that make a command run in this network; empty on loopback.
    ///
    /// `nsenter` rather than `ip netns exec`: the latter mounts a fresh /sys, which hides the cgroups from a kubelet.
    pub fn enter(&self) -> Vec<String> {
        self.namespace
            .iter()
            .flat_map(|ns| ["nsenter".to_owned(), format!("--net={}", namespace_file(ns).display())])
            .collect()
    }

    fn host_interface(&self) -> String {
        format!("testbed{}", self.range)
    }

    /// Creates the namespace, the veth pair and the addresses of `nodes` nodes; what is there stays.
    pub fn create(&self, nodes: usize) -> Result<()> {
        let Some(namespace) = &self.namespace else { return Ok(()) };
        if !namespace_file(namespace).exists() {
            process::run("ip", ["netns", "add", namespace])?;
        }
        let host = self.host_interface();
        if !interface_exists(&host) {
            let inner = format!("{host}n");
            process::run("ip", ["link", "add", &host, "type", "veth", "peer", "name", &inner])?;
            process::run("ip", ["link", "set", &inner, "netns", namespace, "name", "eth0"])?;
        }
        process::run("ip", ["addr", "replace", &format!("{}/24", self.host_address()), "dev", &host])?;
        process::run("ip", ["link", "set", &host, "up"])?;
        let inside = |words: &[&str]| process::run("ip", [&["-n", namespace][..], words].concat());
        inside(&["link", "set", "lo", "up"])?;
        inside(&["addr", "replace", &format!("{}/24", self.address()), "dev", "eth0"])?;
        for node in 0..nodes {
            inside(&["addr", "replace", &format!("{}/24", self.node_address(node)), "dev", "eth0"])?;
        }
        inside(&["link", "set", "eth0", "up"])?;
        inside(&["route", "replace", "default", "via", &self.host_address().to_string()])?;
        let mut words = self.enter();
        words.extend(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"].map(str::to_owned));
        process::run(&words[0], &words[1..]).context("switching on forwarding in the bed's namespace")?;
        let etc = resolver_dir(namespace);
        fs::create_dir_all(&etc).with_context(|| format!("creating {}", etc.display()))?;
        let resolver =
            format!("nameserver {}\nsearch svc.cluster.local cluster.local\noptions ndots:5\n", self.address());
        fs::write(etc.join("resolv.conf"), resolver).with_context(|| format!("writing {}", etc.display()))
    }

    /// Deletes the namespace, the veth pair and the namespace's resolver configuration.
    pub fn delete(&self) -> Result<()> {
        let Some(namespace) = &self.namespace else { return Ok(()) };
        let host = self.host_interface();
        if interface_exists(&host) {
            process::run("ip", ["link", "del", &host])?;
        }
        if namespace_file(namespace).exists() {
            process::run("ip", ["netns", "del", namespace])?;
        }
        let etc = resolver_dir(namespace);
        if etc.exists() {
            fs::remove_dir_all(&etc).with_context(|| format!("removing {}", etc.display()))?;
            remove_if_empty(Path::new("/etc/netns"));
        }
        Ok(())
    }
}

// Asked of the kernel and not of /sys, which may show another namespace than the one this process is in.
fn interface_exists(name: &str) -> bool {
    process::run("ip", ["link", "show", "dev", name]).is_ok()
}

/// Where a named network namespace is mounted.
pub fn namespace_file(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

fn resolver_dir(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

/// Removes a directory if it is empty; one in use stays.
pub fn remove_if_empty(dir: &Path) {
    // `remove_dir` refuses a directory that holds something, which is the point.
    let _in_use = fs::remove_dir(dir);
}

/// Ports on loopback that nobody listens on.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port"))
        .collect::<Result<Vec<_>>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr().context("reading a port")?.port())).collect()
}

/// An IPv4 range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    address: u32,
    bits: u8,
}

impl Range {
    /// Reads `a.b.c.d/n` or a single address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, bits.parse().ok().filter(|bits| *bits <= 32)?),
            None => (text, 32),
        };
        Some(Self { address: address.parse::<Ipv4Addr>().ok()?.into(), bits })
    }

    /// Whether both ranges have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let bits = self.bits.min(other.bits);
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        self.address & mask == other.address & mask
    }
}

/// The first 10.200.x.0/24 that overlaps with nothing taken.
pub fn choose_range(taken: &[Range]) -> Result<u8> {
    let free = (0..=u8::MAX).find(|index| {
        let address = u32::from(Ipv4Addr::new(10, 200, *index, 0));
        let range = Range { address, bits: 24 };
        !taken.iter().any(|other| other.overlaps(&range))
    });
    free.context("all of 10.200.0.0/16 is in use on this host; take beds down with `testbed down`")
}

/// The ranges that the host's interfaces and routes use.
pub fn host_ranges() -> Result<Vec<Range>> {
    let addresses = process::run("ip", ["-4", "-o", "addr", "show"])?;
    let routes = process::run("ip", ["-4", "route", "show", "table", "all"])?;
    Ok(ranges_in(&addresses, &routes))
}

fn ranges_in(addresses: &str, routes: &str) -> Vec<Range> {
    let of_interfaces = addresses.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "inet");
        words.nth(1)
    });
    let of_routes = routes.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        if ["broadcast", "local", "unreachable", "blackhole", "prohibit"].contains(&first) {
            words.next()
        } else {
            Some(first)
        }
    });
    of_interfaces.chain(of_routes).filter_map(Range::parse).collect()
}

/// Refuses a namespace that somebody else made.
pub fn check_namespace_is_free(namespace: &str) -> Result<()> {
    ensure!(namespace.len() < 200, "the namespace name {namespace} is too long");
    if namespace_file(namespace).exists() {
        bail!(
            "the network namespace {namespace} exists but no bed here owns it; if another {} made it, take that bed down, \
             else delete it with `ip netns del {namespace}`",
            crate::home::HOME_VARIABLE
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<Range> {
        texts.iter().map(|text| Range::parse(text).unwrap()).collect()
    }

    #[test]
    fn the_first_free_range_is_chosen() {
        assert_eq!(choose_range(&ranges(&["192.168.0.0/16", "10.0.0.0/16"])).unwrap(), 0);
        assert_eq!(choose_range(&ranges(&["10.200.0.1/24", "10.200.1.7"])).unwrap(), 2);
        assert_eq!(choose_range(&ranges(&["10.200.0.0/22"])).unwrap(), 4);
    }

    #[test]
    fn a_host_that_uses_all_of_it_gets_an_error_with_the_remedy() {
        let error = choose_range(&ranges(&["10.0.0.0/8"])).unwrap_err().to_string();
        assert!(error.contains("testbed down"), "{error}");
    }

    #[test]
    fn ranges_of_interfaces_and_routes_are_found() {
        let addresses =
            "1: lo    inet 127.0.0.1/8 scope host lo\n4: eth0    inet 192.0.2.2/24 brd 192.0.2.255 scope global eth0\n";
        let routes = "default via 192.0.2.1 dev eth0\n10.200.0.0/24 dev testbed0 proto kernel\nlocal 127.0.0.1 dev lo table local\n";
        let found = ranges_in(addresses, routes);
        assert_eq!(found, ranges(&["127.0.0.1/8", "192.0.2.2/24", "10.200.0.0/24", "127.0.0.1"]));
        assert_eq!(choose_range(&found).unwrap(), 1);
    }

    #[test]
    fn a_default_route_takes_nothing() {
        assert!(Range::parse("default").is_none());
        assert!(Range::parse("10.0.0.0/33").is_none());
    }

    #[test]
    fn beds_with_other_ranges_have_other_addresses() {
        let network = Network::in_namespace("testbed-x", 7);
        assert_eq!(network.address().to_string(), "10.200.7.2");
        assert_eq!(network.node_address(2).to_string(), "10.200.7.12");
        assert_eq!(network.enter(), ["nsenter", "--net=/run/netns/testbed-x"]);
        assert_eq!(network.host_interface(), "testbed7");
    }
}
