//! The client for the API server, with every request counted, and carried out by the runtime in which the client was made.

use std::{
    path::Path,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tower::{BoxError, Layer, Service};
use tracing::Instrument as _;

use crate::metrics::FrameworkMetrics;

/// The API server's address or credentials could not be found out, or are no good.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig file cannot be used.
    #[error("cannot read the kubeconfig")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// Neither a kubeconfig nor a service account was found.
    #[error("cannot find out how to reach the API server")]
    Infer(#[source] kube::config::InferConfigError),
    /// The client cannot be built from the configuration.
    #[error("cannot make a client for the API server")]
    Client(#[source] kube::Error),
}

/// Reads the configuration of the client from a file, or from the environment.
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, Error> {
    match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(Error::Kubeconfig)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(Error::Kubeconfig)
        }
        None => Config::infer().await.map_err(Error::Infer),
    }
}

/// Makes a client whose requests are counted in `rest_client_requests_total`. Whoever sends one, it is carried out by the present runtime.
///
/// # Panics
/// Outside of a runtime.
pub fn client(config: Config, metrics: &FrameworkMetrics) -> Result<Client, Error> {
    // Requests get their host from the configuration only after they were counted.
    let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    let builder = ClientBuilder::try_from(config).map_err(Error::Client)?;
    let counted = Counted { metrics: metrics.clone(), host: host.into() };
    Ok(builder.with_layer(&AtHome(Handle::current())).with_layer(&counted).build())
}

/// Has requests carried out by one runtime.
///
/// A connection is driven by the runtime in which it was opened, and kept for the next request, whoever sends that. Workers of a web server have
/// runtimes of their own, which end before the process does: a request on a connection of theirs, such as the one by which a stopping replica gives
/// its Lease back, would wait for an answer that nobody reads any more.
#[derive(Clone, Debug)]
struct AtHome(Handle);

impl<S> Layer<S> for AtHome {
    type Service = AtHomeService<S>;

    fn layer(&self, inner: S) -> AtHomeService<S> {
        AtHomeService { inner, home: self.0.clone() }
    }
}

#[derive(Clone, Debug)]
struct AtHomeService<S> {
    inner: S,
    home: Handle,
}

impl<S, A, B> Service<Request<A>> for AtHomeService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + Send + 'static,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (answer, home) = (self.inner.call(request), self.home.clone());
        // Whoever stops to wait ends the request, as without the task.
        Box::pin(async move { AbortOnDropHandle::new(home.spawn(answer.in_current_span())).await?.map_err(Into::into) })
    }
}

/// Counts requests by status code, method and host.
#[derive(Clone, Debug)]
struct Counted {
    metrics: FrameworkMetrics,
    host: Arc<str>,
}

impl<S> Layer<S> for Counted {
    type Service = CountedService<S>;

    fn layer(&self, inner: S) -> CountedService<S> {
        CountedService { inner, metrics: self.metrics.clone(), host: Arc::clone(&self.host) }
    }
}

#[derive(Clone, Debug)]
struct CountedService<S> {
    inner: S,
    metrics: FrameworkMetrics,
    host: Arc<str>,
}

impl<S, A, B> Service<Request<A>> for CountedService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let host = request.uri().authority().map_or_else(|| Arc::clone(&self.host), |host| host.as_str().into());
        let (metrics, method) = (self.metrics.clone(), request.method().clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut count = Count { metrics, method, host, code: None };
            let answer = answer.await;
            count.code = answer.as_ref().ok().map(|response| response.status().as_u16());
            answer
        })
    }
}

/// Counts a request when it is over, also when somebody stopped to wait for it.
struct Count {
    metrics: FrameworkMetrics,
    method: http::Method,
    host: Arc<str>,
    code: Option<u16>,
}

impl Drop for Count {
    fn drop(&mut self) {
        self.metrics.request(self.code, self.method.as_str(), &self.host);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::ready,
        thread::{self, ThreadId},
        time::Duration,
    };

    use futures::FutureExt as _;
    use tokio::sync::Notify;
    use tower::{ServiceExt as _, service_fn};

    use super::*;
    use crate::metrics::{Build, Metrics};

    #[tokio::test]
    async fn requests_of_other_runtimes_are_carried_out_at_home() {
        let answer = |_: Request<()>| async { Ok::<_, Infallible>(Response::new(thread::current().id())) };
        let service = AtHome(Handle::current()).layer(service_fn(answer));
        let elsewhere = tokio::task::spawn_blocking(move || -> (ThreadId, ThreadId) {
            let worker = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let answer = worker.block_on(service.oneshot(Request::new(()))).unwrap();
            (*answer.body(), thread::current().id())
        });
        let (carried_out, asked) = elsewhere.await.unwrap();
        assert_ne!(asked, carried_out);
        assert_eq!(carried_out, thread::current().id());
    }

    #[tokio::test]
    async fn whoever_stops_to_wait_ends_the_request() {
        let (begun, ended) = (Arc::new(Notify::new()), Arc::new(()));
        let (notice, held) = (Arc::clone(&begun), Arc::clone(&ended));
        let answer = move |_: Request<()>| {
            let (notice, held) = (Arc::clone(&notice), Arc::clone(&held));
            async move {
                notice.notify_one();
                std::future::pending::<()>().await;
                drop(held);
                Ok::<_, Infallible>(Response::new(()))
            }
        };
        let service = AtHome(Handle::current()).layer(service_fn(answer));
        let request = tokio::spawn(service.oneshot(Request::new(())));
        begun.notified().await;
        request.abort();
        let gone = async {
            while Arc::strong_count(&ended) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    }

    #[tokio::test]
    async fn requests_are_counted_with_their_answer() {
        let metrics = Metrics::new(Build { version: "1", revision: "a" }).unwrap();
        let counted = Counted { metrics: FrameworkMetrics::new(&metrics).unwrap(), host: "10.0.0.2:443".into() };
        let answer = |_: Request<()>| {
            let mut response = Response::new(());
            *response.status_mut() = http::StatusCode::CONFLICT;
            ready(Ok::<_, Infallible>(response))
        };
        let request = Request::put("https://10.0.0.1:6443/api").body(()).unwrap();
        counted.layer(service_fn(answer)).oneshot(request).await.unwrap();
        let pending = |_: Request<()>| std::future::pending::<Result<Response<()>, Infallible>>();
        let request = Request::patch("/api").body(()).unwrap();
        drop(counted.layer(service_fn(pending)).oneshot(request).now_or_never());
        let refused = |_: Request<()>| ready(Err::<Response<()>, _>("refused"));
        let request = Request::get("https://10.0.0.1:6443/api").body(()).unwrap();
        assert!(counted.layer(service_fn(refused)).oneshot(request).await.is_err());
        let text = metrics.text().unwrap();
        assert!(
            text.contains(r#"rest_client_requests_total{code="409",host="10.0.0.1:6443",method="PUT"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"rest_client_requests_total{code="<error>",host="10.0.0.1:6443",method="GET"} 1"#));
        let given_up = r#"rest_client_requests_total{code="<error>",host="10.0.0.2:443",method="PATCH"} 1"#;
        assert!(
            text.contains(given_up),
            "nobody waited for this answer, and its host is that of the configuration\n{text}"
        );
    }
}
