//! The client for the API server, with every request counted.

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
use tower::{Layer, Service};

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

/// Makes a client whose requests are counted in `rest_client_requests_total`.
pub fn client(config: Config, metrics: &FrameworkMetrics) -> Result<Client, Error> {
    // Requests get their host from the configuration only after they were counted.
    let host = config.cluster_url.authority().map(ToString::to_string).unwrap_or_default();
    let builder = ClientBuilder::try_from(config).map_err(Error::Client)?;
    Ok(builder.with_layer(&Counted { metrics: metrics.clone(), host: host.into() }).build())
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
    use std::{convert::Infallible, future::ready};

    use futures::FutureExt as _;
    use tower::{ServiceExt as _, service_fn};

    use super::*;
    use crate::metrics::{Build, Metrics};

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
