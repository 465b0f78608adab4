//! Certificates that pods of the data plane mount, and the flags that name them.

use k8s_openapi::api::core::v1::{SecretVolumeSource, Volume, VolumeMount};
use shared::name::internal_identity;

/// Mode of mounted certificates: the processes run under various users.
const MODE: i32 = 0o444;

/// What a container gets for one set of certificates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Certificates {
    /// Flags, to be appended in this order.
    pub args: Vec<String>,
    /// Volumes of the pod.
    pub volumes: Vec<Volume>,
    /// Mounts of the container.
    pub mounts: Vec<VolumeMount>,
}

impl Certificates {
    /// Appends another set.
    pub fn add(&mut self, other: Self) {
        self.args.extend(other.args);
        self.volumes.extend(other.volumes);
        self.mounts.extend(other.mounts);
    }
}

/// Mutual TLS among the components, for one that also calls poolers.
pub fn internal(component: &str, cluster: &str, namespace: &str, volume: &str, dir: &str) -> Certificates {
    let file = |name: &str| format!("{dir}/{name}");
    let args = [
        ("--grpc-cert", file("tls.crt")),
        ("--grpc-key", file("tls.key")),
        ("--grpc-ca", file("ca.crt")),
        ("--grpc-server-ca", file("ca.crt")),
        ("--multipooler-grpc-cert", file("tls.crt")),
        ("--multipooler-grpc-key", file("tls.key")),
        ("--multipooler-grpc-ca", file("ca.crt")),
        ("--multipooler-grpc-server-name", internal_identity("multipooler", cluster, namespace)),
    ];
    let mut args: Vec<String> = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    args.push("--multipooler-grpc-require-tls".to_owned());
    mounted(args, internal_identity(component, cluster, namespace), volume, dir)
}

/// The certificate that PostgreSQL clients see.
pub fn public(secret: &str, volume: &str, dir: &str) -> Certificates {
    let args = ["--pg-tls-cert-file", &format!("{dir}/tls.crt"), "--pg-tls-key-file", &format!("{dir}/tls.key")];
    mounted(args.map(str::to_owned).to_vec(), secret.to_owned(), volume, dir)
}

fn mounted(args: Vec<String>, secret: String, volume: &str, dir: &str) -> Certificates {
    Certificates {
        args,
        volumes: vec![Volume {
            name: volume.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret),
                default_mode: Some(MODE),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }],
        mounts: vec![VolumeMount {
            name: volume.to_owned(),
            mount_path: dir.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_tls_has_nine_flags_and_verifies_the_pooler_identity() {
        let tls = internal("multiadmin", "demo", "prod", "tls-certs", "/etc/multiadmin/tls");
        assert_eq!(tls.args.len(), 17);
        assert_eq!(tls.args[15], "multipooler.demo.prod.multigres.internal");
        assert_eq!(tls.args[16], "--multipooler-grpc-require-tls");
        let secret = tls.volumes[0].secret.as_ref().and_then(|s| s.secret_name.as_deref());
        assert_eq!(secret, Some("multiadmin.demo.prod.multigres.internal"));
    }
}
