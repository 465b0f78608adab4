//! A collector in this process that takes OTLP over HTTP or gRPC and keeps what it got.

#![allow(dead_code, reason = "every test binary uses a part")]

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value},
    trace::v1::Span,
};
use prost::Message as _;
use tokio_stream::wrappers::TcpListenerStream;

/// A span with what came along with it.
#[derive(Clone, Debug)]
pub struct Received {
    /// The span.
    pub span: Span,
    /// Whose it is.
    pub resource: BTreeMap<String, String>,
    /// Headers or metadata of the request.
    pub headers: BTreeMap<String, String>,
}

impl Received {
    /// The identity of the span in hexadecimal digits.
    pub fn id(&self) -> String {
        hex::encode(&self.span.span_id)
    }

    /// The parent's; empty for a root.
    pub fn parent(&self) -> String {
        hex::encode(&self.span.parent_span_id)
    }

    /// The trace's.
    pub fn trace(&self) -> String {
        hex::encode(&self.span.trace_id)
    }

    /// An attribute as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        texts(&self.span.attributes).remove(key)
    }
}

/// The collector.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    all: Kept,
}

type Kept = Arc<Mutex<Vec<Received>>>;

impl Receiver {
    /// Listens for HTTP.
    pub fn http() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let all = Kept::default();
        let kept = web::Data::new(Arc::clone(&all));
        let take = |request: HttpRequest, body: web::Bytes, kept: web::Data<Kept>| async move {
            assert_eq!(request.headers().get("content-type").unwrap(), "application/x-protobuf");
            let headers = request.headers().iter();
            let headers = headers.map(|(k, v)| (k.to_string(), v.to_str().unwrap_or_default().to_owned())).collect();
            keep(&kept, ExportTraceServiceRequest::decode(body).unwrap(), &headers);
            let answer = ExportTraceServiceResponse::default().encode_to_vec();
            HttpResponse::Ok().content_type("application/x-protobuf").body(answer)
        };
        let server = HttpServer::new(move || {
            App::new()
                .app_data(kept.clone())
                .app_data(web::PayloadConfig::new(1 << 24))
                .route("/v1/traces", web::post().to(take))
        });
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        tokio::spawn(server);
        Self { address, all }
    }

    /// Listens for gRPC.
    pub async fn grpc() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let all = Kept::default();
        let service = TraceServiceServer::new(Collector(Arc::clone(&all)))
            .accept_compressed(tonic::codec::CompressionEncoding::Gzip);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, all }
    }

    /// What has arrived.
    pub fn all(&self) -> Vec<Received> {
        self.all.lock().unwrap().clone()
    }

    /// Waits until enough has arrived.
    pub async fn until(&self, what: &str, within: Duration, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let start = Instant::now();
        loop {
            let all = self.all();
            if enough(&all) {
                return all;
            }
            let names: Vec<_> = all.iter().map(|one| &one.span.name).collect();
            assert!(start.elapsed() < within, "{what}: not after {within:?}: {names:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The spans of that name.
pub fn named<'a>(all: &'a [Received], name: &str) -> Vec<&'a Received> {
    all.iter().filter(|one| one.span.name == name).collect()
}

struct Collector(Kept);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let headers = request.metadata().clone().into_headers();
        let headers = headers.iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap_or_default().to_owned())).collect();
        keep(&self.0, request.into_inner(), &headers);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn keep(kept: &Kept, request: ExportTraceServiceRequest, headers: &BTreeMap<String, String>) {
    let mut kept = kept.lock().unwrap();
    for of_resource in request.resource_spans {
        let resource = texts(&of_resource.resource.unwrap_or_default().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            kept.push(Received { span, resource: resource.clone(), headers: headers.clone() });
        }
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        any_value::Value::BoolValue(yes) => Some(yes.to_string()),
        _ => None,
    };
    attributes.iter().filter_map(|pair| Some((pair.key.clone(), text(pair)?))).collect()
}
