//! What passes between the controller under test and the API server: confined to one namespace, written down, cut off at will.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Method, Request, Response, StatusCode, Uri};
use kube::client::Body;
use tokio::sync::Notify;
use tower::{BoxError, Layer, Service};

/// The state of one controller's connection.
pub struct Wire {
    namespaces: Vec<String>,
    confined: bool,
    crash_after: Option<usize>,
    crashed: Notify,
    written: Mutex<Written>,
}

struct Written {
    requests: Vec<String>,
    forbidden: Vec<String>,
    last: Instant,
}

impl Wire {
    /// Confines everything to `namespace`; after so many writes every further one fails.
    pub fn new(namespace: &str, crash_after: Option<usize>) -> Arc<Self> {
        Arc::new(Self { confined: true, crash_after, ..Self::among(vec![namespace.to_owned()]) })
    }

    /// Changes nothing on the way; writes belong into one of `namespaces`.
    pub fn unconfined(namespaces: Vec<String>) -> Arc<Self> {
        Arc::new(Self::among(namespaces))
    }

    fn among(namespaces: Vec<String>) -> Self {
        let written = Mutex::new(Written { requests: Vec::new(), forbidden: Vec::new(), last: Instant::now() });
        Self { namespaces, confined: false, crash_after: None, crashed: Notify::new(), written }
    }

    /// The requests that the API server has refused for want of rights.
    pub fn forbidden(&self) -> Vec<String> {
        self.lock().forbidden.clone()
    }

    /// The writes so far, without those of Events.
    pub fn writes(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    /// How long ago the last write was, or the start.
    pub fn quiet_for(&self) -> Duration {
        self.lock().last.elapsed()
    }

    /// Waits until the last permitted write has been answered.
    pub async fn crashed(&self) {
        self.crashed.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists and watches of the whole cluster become those of the namespace: other tests use the same server.
    fn confined(&self, request: Request<Body>) -> Request<Body> {
        let Some(namespace) = self.namespaces.first().filter(|_| self.confined) else { return request };
        let (mut parts, body) = request.into_parts();
        let segments: Vec<&str> = parts.uri.path().trim_start_matches('/').split('/').collect();
        let (prefix, plural) = match segments.as_slice() {
            ["api", version, plural] => (format!("/api/{version}"), *plural),
            // These belong to no namespace.
            ["apis", "storage.k8s.io", ..] => return Request::from_parts(parts, body),
            ["apis", group, version, plural] => (format!("/apis/{group}/{version}"), *plural),
            _ => return Request::from_parts(parts, body),
        };
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("{prefix}/namespaces/{namespace}/{plural}{query}");
        let mut uri = parts.uri.clone().into_parts();
        uri.path_and_query = Some(path.parse().expect("a path"));
        parts.uri = Uri::from_parts(uri).expect("a URI");
        Request::from_parts(parts, body)
    }

    /// Whether a request may pass, and whether it is the last write that may.
    fn admit(&self, request: &Request<Body>) -> Result<bool, BoxError> {
        let path = request.uri().path();
        if request.method() == Method::GET {
            return Ok(false);
        }
        let mut written = self.lock();
        if self.crash_after.is_some_and(|limit| written.requests.len() >= limit) {
            return Err(format!("{} {path}: the controller has crashed", request.method()).into());
        }
        if path.ends_with("/events") {
            return Ok(false);
        }
        assert!(
            self.namespaces.iter().any(|namespace| path.contains(&format!("/namespaces/{namespace}/"))),
            "{} {path} leaves the namespaces of the test",
            request.method()
        );
        written.requests.push(format!("{} {path}", request.method()));
        written.last = Instant::now();
        Ok(self.crash_after == Some(written.requests.len()))
    }
}

/// Puts a [`Wire`] around a client's service.
pub struct Tap(pub Arc<Wire>);

impl<S> Layer<S> for Tap {
    type Service = Tapped<S>;

    fn layer(&self, inner: S) -> Tapped<S> {
        Tapped { inner, wire: Arc::clone(&self.0) }
    }
}

/// A client's service with a [`Wire`] around it.
pub struct Tapped<S> {
    inner: S,
    wire: Arc<Wire>,
}

impl<S, B> Service<Request<Body>> for Tapped<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    B: Send,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let request = self.wire.confined(request);
        let last = match self.wire.admit(&request) {
            Ok(last) => last,
            Err(crash) => return async move { Err(crash) }.boxed(),
        };
        let wire = Arc::clone(&self.wire);
        let what = format!("{} {}", request.method(), request.uri());
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            if answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::FORBIDDEN) {
                wire.lock().forbidden.push(what);
            }
            if last {
                // The answer is lost with the process.
                wire.crashed.notify_one();
                return Err("the controller has crashed".into());
            }
            answer
        }
        .boxed()
    }
}
