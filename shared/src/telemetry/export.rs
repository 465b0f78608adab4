//! Sends spans to where the environment says, from a thread of its own.

use std::{
    error::Error as StdError,
    fmt, fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig, Identity},
};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{Sampler, SdkTracerProvider},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::runtime::Handle;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, filter_fn},
    registry::LookupSpan,
};

use super::{
    Service,
    environment::{Compression, Files, Protocol, Sampling, Tracing},
    limit::{self, Cut},
};

/// Longest answer of a collector that is read.
const MAX_ANSWER: usize = 64 * 1024;
/// Crates whose spans are exported.
const OURS: [&str; 3] = ["controller", "admission", "shared"];

/// Spans cannot be exported as the environment asks for it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// A file is no PEM of the right kind.
    #[error("{0} holds no certificate or no key in PEM")]
    Pem(PathBuf, #[source] rustls::pki_types::pem::Error),
    /// Certificates and keys are of no use.
    #[error("the certificates for exports cannot be used")]
    Tls(#[source] rustls::Error),
    /// Only one of certificate and key is named.
    #[error("a client certificate needs its key, and a key its certificate")]
    Pair,
    /// The endpoint is no address. What it is instead may be anybody's secret.
    #[error("the endpoint is no address")]
    Address(#[source] http::uri::InvalidUri),
    /// The exporter refuses its settings.
    #[error("the exporter cannot be set up")]
    Build(#[source] ExporterBuildError),
}

/// Makes what spans are recorded with; none where they are not exported.
pub(super) fn provider(service: Service, tracing: &Tracing) -> Result<Option<SdkTracerProvider>, Error> {
    if !tracing.enabled {
        return Ok(None);
    }
    let exporter = Cut { inner: exporter(tracing)?, longest: tracing.limits.text };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_span_limits(limit::of(tracing.limits))
        .with_sampler(sampler(tracing.sampling))
        .with_resource(resource(service, tracing))
        .build();
    Ok(Some(provider))
}

/// The layer that records our own spans, whatever is logged. Events become part of their span from the level `info` on.
pub(super) fn layer<S>(provider: &SdkTracerProvider, scope: &'static str) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let ours = |metadata: &Metadata<'_>| {
        let name = metadata.target().split("::").next().unwrap_or_default();
        let least = if metadata.is_span() { Level::DEBUG } else { Level::INFO };
        *metadata.level() <= least && OURS.contains(&name)
    };
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(scope))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_error_events_to_status(true)
        .with_filter(filter_fn(ours).with_max_level_hint(LevelFilter::DEBUG))
}

/// Who speaks. What the environment says wins over what we know ourselves.
fn resource(service: Service, tracing: &Tracing) -> Resource {
    let known = [
        Some(KeyValue::new("service.name", service.name)),
        Some(KeyValue::new("service.version", service.version)),
        tracing.pod.clone().map(|pod| KeyValue::new("k8s.pod.name", pod)),
        tracing.namespace.clone().map(|namespace| KeyValue::new("k8s.namespace.name", namespace)),
    ];
    let named = tracing.service.clone().map(|name| KeyValue::new("service.name", name));
    Resource::builder_empty()
        .with_attributes(known.into_iter().flatten())
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())])
        .with_attributes(named)
        .build()
}

fn sampler(sampling: Sampling) -> Sampler {
    let parent = |root| Sampler::ParentBased(Box::new(root));
    match sampling {
        Sampling::On => Sampler::AlwaysOn,
        Sampling::Off => Sampler::AlwaysOff,
        Sampling::Ratio(ratio) => Sampler::TraceIdRatioBased(ratio),
        Sampling::ParentOn => parent(Sampler::AlwaysOn),
        Sampling::ParentOff => parent(Sampler::AlwaysOff),
        Sampling::ParentRatio(ratio) => parent(Sampler::TraceIdRatioBased(ratio)),
    }
}

fn exporter(tracing: &Tracing) -> Result<SpanExporter, Error> {
    let endpoint = tracing.endpoint();
    endpoint.parse::<http::Uri>().map_err(Error::Address)?;
    let built = match tracing.protocol {
        Protocol::Http => {
            let mut builder = SpanExporter::builder()
                .with_http()
                .with_http_client(HyperClient::new(&tracing.files, tracing.timeout)?)
                .with_endpoint(endpoint)
                .with_timeout(tracing.timeout);
            if tracing.compression == Compression::Gzip {
                builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
            }
            builder.build()
        }
        Protocol::Grpc => {
            let secure = endpoint.starts_with("https://");
            let mut builder =
                SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(tracing.timeout);
            if secure {
                builder = builder.with_tls_config(grpc_tls(&tracing.files)?);
            }
            if tracing.compression == Compression::Gzip {
                builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
            }
            builder.build()
        }
    };
    built.map_err(Error::Build)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::Read(path.to_owned(), error))
}

/// The files of our own certificate and its key: both or none.
fn pair(files: &Files) -> Result<Option<(&Path, &Path)>, Error> {
    match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        _ => Err(Error::Pair),
    }
}

fn grpc_tls(files: &Files) -> Result<ClientTlsConfig, Error> {
    let mut config = match &files.authority {
        Some(authority) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(authority)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let Some((certificate, key)) = pair(files)? {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(config)
}

fn http_tls(files: &Files) -> Result<ClientConfig, Error> {
    let certificates = |path: &Path| {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
        all.map_err(|error| Error::Pem(path.to_owned(), error))
    };
    let mut roots = RootCertStore::empty();
    if let Some(authority) = &files.authority {
        roots.add_parsable_certificates(certificates(authority)?);
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?
        .with_root_certificates(roots);
    match pair(files)? {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let private =
                PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| Error::Pem(key.to_owned(), error))?;
            builder.with_client_auth_cert(certificates(certificate)?, private).map_err(Error::Tls)
        }
    }
}

/// Sends exports on the runtime of the process: the thread that asks for them has none.
struct HyperClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
}

impl HyperClient {
    fn new(files: &Files, timeout: Duration) -> Result<Self, Error> {
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(http_tls(files)?).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, runtime: Handle::current(), timeout })
    }
}

impl fmt::Debug for HyperClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HyperClient").finish_non_exhaustive()
    }
}

impl HttpClient for HyperClient {
    fn send_bytes<'life, 'answer>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'answer>>
    where
        'life: 'answer,
        Self: 'answer,
    {
        let (client, timeout) = (self.client.clone(), self.timeout);
        let exchange = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, Box<dyn StdError + Send + Sync>>(Response::from_parts(head, body))
        };
        let exchange = self.runtime.spawn(async move { tokio::time::timeout(timeout, exchange).await });
        Box::pin(async move { exchange.await?? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_says_of_the_process_wins() {
        let service = Service { name: "multigres-operator", version: "1.2.3" };
        let named = |resource: &Resource, key: &'static str| {
            resource.get(&opentelemetry::Key::new(key)).map(|value| value.to_string())
        };
        let plain = resource(service, &Tracing::default());
        assert_eq!(named(&plain, "service.name").as_deref(), Some("multigres-operator"));
        assert_eq!(named(&plain, "service.version").as_deref(), Some("1.2.3"));
        assert_eq!(named(&plain, "k8s.pod.name"), None);
        let tracing =
            Tracing { service: Some("mine".to_owned()), pod: Some("controller-0".to_owned()), ..Tracing::default() };
        let told = resource(service, &tracing);
        assert_eq!(named(&told, "service.name").as_deref(), Some("mine"));
        assert_eq!(named(&told, "k8s.pod.name").as_deref(), Some("controller-0"));
    }

    #[test]
    fn an_endpoint_that_is_no_address_is_refused_and_not_repeated() {
        let tracing = Tracing { enabled: true, specific: Some("http://a b:secret".to_owned()), ..Tracing::default() };
        let refused = exporter(&tracing).unwrap_err();
        assert!(matches!(refused, Error::Address(_)) && !super::super::chain(&refused).contains("secret"), "{refused}");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let files = Files { certificate: Some("/c.pem".into()), ..Files::default() };
        assert!(matches!(http_tls(&files), Err(Error::Pair)));
        let missing = Files { authority: Some("/no/such/ca.pem".into()), ..Files::default() };
        assert!(matches!(http_tls(&missing), Err(Error::Read(..))));
        assert!(matches!(grpc_tls(&missing), Err(Error::Read(..))));
    }
}
