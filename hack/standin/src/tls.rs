//! Certificates from flags: what a server shows and demands, and how poolers are dialled.

use anyhow::{Context as _, Result, bail};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

use crate::flag::Values;
use crate::proto::clustermetadata::Multipooler;

/// The server side that the `--grpc-*` flags ask for.
pub fn server(values: &Values) -> Result<Option<ServerTlsConfig>> {
    if !values.text("grpc-crl").is_empty() {
        bail!("grpc server create: --grpc-crl is not implemented yet");
    }
    if values.is_on("grpc-enable-optional-tls") {
        bail!("grpc server create: --grpc-enable-optional-tls is not implemented yet");
    }
    let (cert, key) = (values.text("grpc-cert"), values.text("grpc-key"));
    match values.text("grpc-auth-mode") {
        "mtls" if cert.is_empty() || key.is_empty() => {
            bail!("grpc server create: --grpc-auth-mode=mtls requires --grpc-cert and --grpc-key for transport TLS")
        }
        "" | "mtls" => {}
        other => bail!("grpc server create: get auth plugin \"{other}\": no such plugin"),
    }
    if cert.is_empty() || key.is_empty() {
        return Ok(None);
    }
    let mut chain = read(cert)?;
    let server_ca = values.text("grpc-server-ca");
    if !server_ca.is_empty() {
        chain.push(b'\n');
        chain.extend(read(server_ca)?);
    }
    let mut config = ServerTlsConfig::new().identity(Identity::from_pem(chain, read(key)?));
    let ca = values.text("grpc-ca");
    if !ca.is_empty() {
        config = config.client_ca_root(Certificate::from_pem(read(ca)?));
    }
    Ok(Some(config))
}

/// How this process dials poolers.
#[derive(Clone, Default)]
pub struct PoolerDialer {
    tls: Option<ClientTlsConfig>,
}

impl PoolerDialer {
    /// Reads the `--multipooler-grpc-*` flags.
    pub fn from_flags(values: &Values) -> Result<Self> {
        let [cert, key, ca, name] =
            ["cert", "key", "ca", "server-name"].map(|part| values.text(&format!("multipooler-grpc-{part}")));
        if ca.is_empty() && cert.is_empty() {
            if values.is_on("multipooler-grpc-require-tls") {
                bail!("failed to configure multipooler TLS: multipooler gRPC TLS is required but not configured");
            }
            return Ok(Self::default());
        }
        let mut config = ClientTlsConfig::new();
        if !ca.is_empty() {
            config = config.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if !cert.is_empty() {
            config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        if !name.is_empty() {
            config = config.domain_name(name);
        }
        Ok(Self { tls: Some(config) })
    }

    /// A lazily connected channel to the address in a record.
    pub fn dial(&self, record: &Multipooler) -> Result<Channel> {
        let port = record.port_map.get("grpc").copied().unwrap_or_default();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let host =
            if record.hostname.contains(':') { format!("[{}]", record.hostname) } else { record.hostname.clone() };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{port}"))?
            .connect_timeout(std::time::Duration::from_secs(1));
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone())?;
        }
        Ok(endpoint.connect_lazy())
    }
}

fn read(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("failed to configure gRPC TLS: open {path}"))
}
