//! The service in process: its routes without sockets, and the whole server on loopback.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix_http::Request;
use actix_web::{
    App,
    body::MessageBody,
    dev::{Service as ActixService, ServiceResponse},
    test,
};
use admission::{
    metrics::Reviews,
    review::{Endpoint, Review},
    server::{Limits, Server, Service, Settings},
};
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use shared::{
    admin::Bind,
    metrics::{Build, Metrics},
    pki,
};
use tokio_util::sync::CancellationToken;

use super::envelope::{Answer, Question};

/// Nothing here is about time, and machines of tests are busy.
const DEADLINE: Duration = Duration::from_mins(2);

/// Routes that can be asked.
pub trait InProcess {
    /// Posts a body and returns HTTP status and body of the answer.
    async fn post(&self, path: &str, content_type: &str, body: Vec<u8>) -> (u16, Vec<u8>);

    /// Asks a sound question, which always has to get a judgement.
    async fn ask(&self, endpoint: Endpoint, question: &Question) -> Answer {
        let uid = "0a1b2c3d-0000-4000-8000-1234567890ab";
        let body = question.review(uid).to_string().into_bytes();
        let (status, body) = self.post(endpoint.path(), "application/json", body).await;
        assert_eq!(status, 200, "{question:?}: {}", String::from_utf8_lossy(&body));
        let answer = Answer::read(&body, uid).unwrap_or_else(|error| panic!("{question:?}: {error}"));
        assert!(answer.code < 500, "{question:?}: {answer:?}");
        answer
    }
}

struct Routes<S>(S);

impl<S, B> InProcess for Routes<S>
where
    S: ActixService<Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    B: MessageBody,
{
    async fn post(&self, path: &str, content_type: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        let request = test::TestRequest::post().uri(path);
        let request = match content_type {
            "" => request,
            content_type => request.insert_header(("content-type", content_type)),
        };
        let response = test::call_service(&self.0, request.set_payload(body).to_request()).await;
        let status = response.status().as_u16();
        (status, test::read_body(response).await.to_vec())
    }
}

fn metrics() -> Metrics {
    Metrics::new(Build { version: "0", revision: "test" }).unwrap()
}

fn limits() -> Limits {
    Limits { deadline: DEADLINE, ..Limits::default() }
}

/// The routes over a reviewer.
pub async fn http(review: Arc<dyn Review>) -> impl InProcess {
    let service = Service::new(limits(), review, Reviews::new(&metrics()).unwrap());
    Routes(test::init_service(App::new().configure(|config| service.routes(config))).await)
}

/// The server on a port of its own; it ends with the token.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// The authority that signed its certificate for `localhost`, in PEM.
    pub authority: String,
    /// Stops it.
    pub stop: CancellationToken,
}

/// Starts the server over a reviewer.
pub fn serve(review: Arc<dyn Review>) -> Running {
    let now = Timestamp::try_from(SystemTime::now()).unwrap();
    let day = SignedDuration::from_hours(24);
    let authority = pki::Authority::generate("admission-test", now, day).unwrap();
    let wanted = pki::Request {
        common_name: "localhost".to_owned(),
        dns_names: ["localhost".to_owned()].into(),
        valid_for: day,
    };
    let leaf = authority.issue(&wanted, now).unwrap();
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let settings = Settings {
        bind: Bind::Host("127.0.0.1".to_owned(), 0),
        limits: limits(),
        drain: Duration::ZERO,
        linger: Duration::ZERO,
        workers: Some(2),
    };
    let server = Server::new(settings, review, Arc::new(tls), &metrics()).unwrap();
    let (address, stop) = (server.address(), CancellationToken::new());
    tokio::spawn(server.run(stop.clone()));
    Running { address, authority: authority.pair().certificate.clone(), stop }
}
