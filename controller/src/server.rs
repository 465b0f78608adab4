//! What the versions of the API server and of the kubelets decide about what is rendered: the only place that compares them.

use std::fmt;

use anyhow::{Context as _, Result};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::version::Info};
use kube::{Api, Client, api::ListParams};

use crate::cli::Sidecars;

/// Nodes per page: they are large, and nothing but a version is kept of each.
const PAGE: u32 = 50;

/// A version of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1, so far.
    pub major: u32,
    /// What counts.
    pub minor: u32,
}

/// The oldest Kubernetes that is supported.
pub const OLDEST: Version = Version { major: 1, minor: 25 };
/// The first whose API server and kubelets run native sidecars without a feature gate.
const NATIVE_SIDECARS: Version = Version { major: 1, minor: 29 };
/// The first whose API server keeps `unhealthyPodEvictionPolicy` of disruption budgets without a feature gate.
const EVICTION_POLICY: Version = Version { major: 1, minor: 27 };
/// The first whose API server keeps `persistentVolumeClaimRetentionPolicy` of StatefulSets without a feature gate.
const CLAIM_POLICY: Version = Version { major: 1, minor: 27 };

impl Version {
    /// Reads `v1.29.3-gke.100`, `1.31+` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_start_matches('v').split('.').map(leading_number);
        Some(Self { major: parts.next()??, minor: parts.next()?? })
    }

    fn of(info: &Info) -> Option<Self> {
        // The two numbers are empty on servers that were built without them.
        let numbers = leading_number(&info.major).zip(leading_number(&info.minor));
        numbers.map(|(major, minor)| Self { major, minor }).or_else(|| Self::parse(&info.git_version))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// What is known about kubelets that may get pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubelets {
    /// There are none, or none has reported: they will be as new as the server.
    None,
    /// The oldest of them.
    Oldest(Version),
    /// We may not look.
    Unknown,
}

/// What may be rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Init containers that go on running (`restartPolicy: Always`). Older servers do not know the field, older kubelets would
    /// wait for such a container to end.
    pub native_sidecars: bool,
    /// Disruption budgets that say what may be done with pods that are not ready. A server without the field in its schema refuses the
    /// whole object.
    pub eviction_policy: bool,
    /// StatefulSets that say what becomes of their volumes. An older server drops that, so each start of the controller would write it again.
    pub claim_policy: bool,
}

impl Features {
    /// What the newest Kubernetes can do.
    pub const NEWEST: Self = Self { native_sidecars: true, eviction_policy: true, claim_policy: true };

    /// What a server with such kubelets can do; `sidecars` is what the user says about them.
    pub fn of(server: Version, kubelets: Kubelets, sidecars: Sidecars) -> Self {
        let native_sidecars = match (sidecars, kubelets) {
            (Sidecars::On, _) => true,
            (Sidecars::Off, _) | (Sidecars::Auto, Kubelets::Unknown) => false,
            (Sidecars::Auto, Kubelets::None) => server >= NATIVE_SIDECARS,
            (Sidecars::Auto, Kubelets::Oldest(kubelet)) => server.min(kubelet) >= NATIVE_SIDECARS,
        };
        Self { native_sidecars, eviction_policy: server >= EVICTION_POLICY, claim_policy: server >= CLAIM_POLICY }
    }
}

/// Asks the server for its version and, where that decides something, the nodes for theirs.
pub async fn discover(client: &Client, sidecars: Sidecars) -> Result<(Version, Features)> {
    let info = client.apiserver_version().await.context("asking the API server for its version")?;
    let server = Version::of(&info).with_context(|| format!("{:?} is no version", info.git_version))?;
    if server < OLDEST {
        tracing::warn!(%server, oldest = %OLDEST, "this Kubernetes is older than what is supported");
    }
    let asked = sidecars == Sidecars::Auto && server >= NATIVE_SIDECARS;
    let kubelets = if asked { kubelets(client).await? } else { Kubelets::None };
    Ok((server, Features::of(server, kubelets, sidecars)))
}

async fn kubelets(client: &Client) -> Result<Kubelets> {
    let api: Api<Node> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let mut oldest: Option<Version> = None;
    loop {
        let list = match api.list(&page).await {
            Ok(list) => list,
            Err(kube::Error::Api(status)) if status.code == 403 => {
                tracing::warn!(
                    "nodes may not be read, so pods get ordinary containers instead of native sidecars; \
                     --native-sidecars=on or off decides it without looking"
                );
                return Ok(Kubelets::Unknown);
            }
            Err(error) => return Err(error).context("listing nodes to see their kubelets' versions"),
        };
        let next = list.metadata.continue_.filter(|token| !token.is_empty());
        oldest = list.items.iter().filter_map(schedulable).chain(oldest).min();
        match next {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(oldest.map_or(Kubelets::None, Kubelets::Oldest)),
        }
    }
}

/// The version of a kubelet that may get pods; none before it has reported.
fn schedulable(node: &Node) -> Option<Version> {
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        return None;
    }
    Version::parse(&node.status.as_ref()?.node_info.as_ref()?.kubelet_version)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus, NodeSystemInfo};
    use rstest::rstest;

    use super::*;

    const fn minor(minor: u32) -> Version {
        Version { major: 1, minor }
    }

    /// Every supported server, with kubelets as old as the skew policy allows: from 1.25 to today.
    #[rstest]
    #[case(25, [false; 4])]
    #[case(26, [false; 4])]
    #[case(27, [false; 4])]
    #[case(28, [false; 4])]
    #[case(29, [true, false, false, false])]
    #[case(30, [true, true, false, false])]
    #[case(31, [true, true, true, false])]
    #[case(32, [true; 4])]
    #[case(33, [true; 4])]
    #[case(34, [true; 4])]
    #[case(35, [true; 4])]
    #[case(36, [true; 4])]
    fn native_sidecars_need_a_server_and_kubelets_of_1_29(#[case] server: u32, #[case] kubelets_behind: [bool; 4]) {
        let server = minor(server);
        for (behind, expected) in (0..).zip(kubelets_behind) {
            let kubelets = Kubelets::Oldest(minor(server.minor - behind));
            let features = |wish| Features::of(server, kubelets, wish);
            assert_eq!(features(Sidecars::Auto).native_sidecars, expected, "{server}, {kubelets:?}");
            assert!(features(Sidecars::On).native_sidecars && !features(Sidecars::Off).native_sidecars);
        }
        let alone = Features::of(server, Kubelets::None, Sidecars::Auto);
        assert_eq!(alone.native_sidecars, kubelets_behind[0], "nodes that are yet to come are as new as the server");
        assert_eq!(alone.eviction_policy, server >= minor(27), "{server}");
        assert_eq!(alone.claim_policy, server >= minor(27), "{server}");
        assert!(!Features::of(server, Kubelets::Unknown, Sidecars::Auto).native_sidecars);
    }

    #[rstest]
    #[case("v1.29.3", Some(minor(29)))]
    #[case("v1.30.4-gke.100", Some(minor(30)))]
    #[case("1.31+", Some(minor(31)))]
    #[case("v1.36.0-alpha.1+abc", Some(minor(36)))]
    #[case("v2.0.1", Some(Version { major: 2, minor: 0 }))]
    #[case("1", None)]
    #[case("", None)]
    #[case("v1.x", None)]
    fn versions_are_read_as_providers_write_them(#[case] text: &str, #[case] expected: Option<Version>) {
        assert_eq!(Version::parse(text), expected);
    }

    #[test]
    fn a_server_without_numbers_is_read_by_its_name() {
        let mut info = Info { git_version: "v1.27.2-eks".into(), ..Info::default() };
        assert_eq!(Version::of(&info), Some(minor(27)));
        (info.major, info.minor) = ("1".into(), "28+".into());
        assert_eq!(Version::of(&info), Some(minor(28)));
    }

    #[test]
    fn a_cordoned_node_gets_no_pods_and_decides_nothing() {
        let info = NodeSystemInfo { kubelet_version: "v1.28.1".into(), ..NodeSystemInfo::default() };
        let status = NodeStatus { node_info: Some(info), ..NodeStatus::default() };
        let mut node = Node { status: Some(status), ..Node::default() };
        assert_eq!(schedulable(&node), Some(minor(28)));
        node.spec = Some(NodeSpec { unschedulable: Some(true), ..NodeSpec::default() });
        assert_eq!(schedulable(&node), None);
        assert_eq!(schedulable(&Node::default()), None);
    }
}
