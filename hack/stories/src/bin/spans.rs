//! Takes spans by OTLP over HTTP and prints each as one line of JSON, until its input ends.
//!
//! It runs inside the network of a bed, at an address that pods reach; the first line tells that address. Other signals are taken, too, and
//! forgotten.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, TcpListener},
};

use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::{Context as _, Result};
use clap::Parser;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value},
};
use prost::Message as _;
use stories::spans::Span;

/// Largest export that is taken.
const LARGEST: usize = 1 << 24;
/// How messages of OTLP are announced.
const PROTOBUF: &str = "application/x-protobuf";

/// Where to listen.
#[derive(Parser)]
struct Args {
    /// The address; the port is any that is free.
    #[arg(long)]
    host: IpAddr,
}

#[actix_web::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind((args.host, 0)).with_context(|| format!("listening at {}", args.host))?;
    println!("{}", listener.local_addr()?);
    let app = || {
        App::new()
            .app_data(web::PayloadConfig::new(LARGEST))
            .route("/v1/traces", web::post().to(take))
            .default_service(web::to(forget))
    };
    let server = HttpServer::new(app).workers(1).disable_signals().listen(listener)?.run();
    let ended = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().lock(), &mut io::sink()));
    tokio::select! {
        served = server => served.context("serving")?,
        read = ended => read.context("waiting for the end of the input")?.map(drop)?,
    }
    Ok(())
}

async fn take(body: web::Bytes) -> HttpResponse {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return HttpResponse::BadRequest().body("this is no export of spans");
    };
    for span in spans(request) {
        match serde_json::to_string(&span) {
            Ok(line) => println!("{line}"),
            Err(error) => return HttpResponse::InternalServerError().body(error.to_string()),
        }
    }
    HttpResponse::Ok().content_type(PROTOBUF).body(ExportTraceServiceResponse::default().encode_to_vec())
}

/// Metrics and logs: an answer without a word says that all of them were taken.
async fn forget() -> HttpResponse {
    HttpResponse::Ok().content_type(PROTOBUF).finish()
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut all = Vec::new();
    for of_resource in request.resource_spans {
        let resource = texts(&of_resource.resource.unwrap_or_default().attributes);
        let service = resource.get("service.name").cloned().unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            all.push(Span {
                trace: hex::encode(&span.trace_id),
                id: hex::encode(&span.span_id),
                parent: hex::encode(&span.parent_span_id),
                name: span.name,
                service: service.clone(),
                attributes: texts(&span.attributes),
            });
        }
    }
    all
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
