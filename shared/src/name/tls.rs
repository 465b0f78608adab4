//! Names in certificates of the data plane.

use sha2::{Digest as _, Sha256};

/// The Secret with the certificate that PostgreSQL clients see; one per namespace.
pub const PUBLIC_CERTIFICATE: &str = "generated-certs";

/// Longest common name that X.509 allows, in bytes.
const MAX_COMMON_NAME: usize = 64;

/// The identity of a component under internal TLS; it names the Certificate, its Secret and the server name to verify.
///
/// Empty when any part is empty.
pub fn internal_identity(component: &str, cluster: &str, namespace: &str) -> String {
    if component.is_empty() || cluster.is_empty() || namespace.is_empty() {
        return String::new();
    }
    format!("{component}.{cluster}.{namespace}.multigres.internal")
}

/// Name of the Secret with the authority that signs the certificates of a cluster. Nothing mounts it.
pub fn internal_authority(cluster: &str, namespace: &str) -> String {
    internal_identity("ca", cluster, namespace)
}

/// Fits an identity into a common name: unchanged up to 64 bytes, else its first 55 bytes and part of its SHA-256.
pub fn common_name(identity: &str) -> String {
    if identity.len() <= MAX_COMMON_NAME {
        return identity.to_owned();
    }
    let digest = hex::encode(Sha256::digest(identity.as_bytes()));
    let cut = identity.floor_char_boundary(55);
    format!("{}-{}", &identity[..cut], &digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_names_component_cluster_and_namespace() {
        assert_eq!(internal_identity("multipooler", "demo", "prod"), "multipooler.demo.prod.multigres.internal");
        assert_eq!(internal_identity("multipooler", "", "prod"), "");
    }

    #[test]
    fn the_authority_of_a_cluster_is_named_like_its_members() {
        assert_eq!(internal_authority("demo", "prod"), "ca.demo.prod.multigres.internal");
    }

    #[test]
    fn long_identity_is_hashed_down_to_64_bytes() {
        let identity = internal_identity("multigateway", "a-cluster-name-25-chars-x", "some-long-namespace-name-here");
        let name = common_name(&identity);
        assert_eq!(name, "multigateway.a-cluster-name-25-chars-x.some-long-namesp-706be302");
        assert_eq!(name.len(), 64);
        assert_eq!(common_name("short"), "short");
    }
}
