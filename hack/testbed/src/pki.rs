//! The certificates of a control plane: one authority, one server certificate and one client certificate per component.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The organization that Kubernetes lets do everything.
pub const MASTERS: &str = "system:masters";

/// Where the certificates of a control plane lie.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// The certificates below `dir`.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The path of a file, such as `ca.crt`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes authority, server certificate, service account keys and one client certificate per `(file, name, group)`; what is there stays.
    pub fn ensure(&self, addresses: &[IpAddr], clients: &[(String, String, String)]) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("creating {}", self.dir.display()))?;
        let key_file = self.file("ca.key");
        if !self.file("sa.pub").exists() {
            let key = KeyPair::generate()?;
            self.write("ca.key", &key.serialize_pem())?;
            let issuer = CertifiedIssuer::self_signed(authority(), key)?;
            self.write("ca.crt", &issuer.pem())?;
            let tokens = KeyPair::generate()?;
            self.write("sa.key", &tokens.serialize_pem())?;
            self.write("sa.pub", &tokens.public_key_pem())?;
        }
        let key = fs::read_to_string(&key_file).with_context(|| format!("reading {}", key_file.display()))?;
        let authority = authority();
        let issuer = rcgen::Issuer::from_params(&authority, KeyPair::from_pem(&key)?);
        if !self.file("apiserver.crt").exists() {
            let params = server(addresses)?;
            self.sign("apiserver", &params, &issuer)?;
        }
        for (file, name, group) in clients {
            if !self.file(&format!("{file}.crt")).exists() {
                self.sign(file, &client(name, group), &issuer)?;
            }
        }
        Ok(())
    }

    fn sign(&self, file: &str, params: &CertificateParams, issuer: &rcgen::Issuer<'_, KeyPair>) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, issuer).with_context(|| format!("signing {file}"))?;
        // The certificate is written last: its presence says that the pair is complete.
        self.write(&format!("{file}.key"), &key.serialize_pem())?;
        self.write(&format!("{file}.crt"), &certificate.pem())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.file(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        let mode = if path.extension().is_some_and(|extension| extension == "key") { 0o600 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("protecting {}", path.display()))
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "testbed-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn server(addresses: &[IpAddr]) -> Result<CertificateParams> {
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let mut params = CertificateParams::new(names.map(str::to_owned))?;
    params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn client(name: &str, group: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_keeps_the_authority_and_adds_only_missing_clients() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::at(dir.path());
        let addresses = ["127.0.0.1".parse().unwrap()];
        let first = [("admin".to_owned(), "admin".to_owned(), MASTERS.to_owned())];
        pki.ensure(&addresses, &first).unwrap();
        let before = fs::read(pki.file("ca.crt")).unwrap();
        let admin = fs::read(pki.file("admin.crt")).unwrap();
        let both =
            [first[0].clone(), ("node-0".to_owned(), "system:node:node-0".to_owned(), "system:nodes".to_owned())];
        pki.ensure(&addresses, &both).unwrap();
        assert_eq!(before, fs::read(pki.file("ca.crt")).unwrap());
        assert_eq!(admin, fs::read(pki.file("admin.crt")).unwrap());
        assert!(pki.file("node-0.crt").exists() && pki.file("apiserver.crt").exists());
        assert!(fs::read_to_string(pki.file("sa.pub")).unwrap().contains("PUBLIC KEY"));
    }
}
