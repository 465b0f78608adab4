//! The check behind `helm test` of the metrics: asks the Services by which Prometheus finds them, as Prometheus does.
//!
//! Ready pods do not prove that a Service leads to them. Where metrics are secured, which is where they are served by HTTPS, neither do they prove
//! that strangers are turned away and that whoever may read is let in: for that the operator has to be allowed to ask the API server.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode, Uri, header};
use kube::{Client, Config, client::Body};
use shared::{
    metrics::families::{self, Program},
    telemetry,
};
use tokio::time::Instant;

/// Where pods have the token of their ServiceAccount.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// How long to wait between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest time of one request. The operator itself waits for the API server for up to 10 s.
const DEADLINE: Duration = Duration::from_secs(15);
/// Letters of an answer that an error quotes.
const QUOTED: usize = 200;

/// Flags of the check.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// Where the controller serves its metrics, such as https://HOST:8080: by https where they are secured, otherwise by http.
    #[arg(long, env = "CONTROLLER_METRICS_URL", value_parser = origin)]
    pub controller_url: Uri,
    /// The same of admission; without it, admission is not asked.
    #[arg(long, env = "ADMISSION_METRICS_URL", value_parser = origin)]
    pub admission_url: Option<Uri>,
    /// File with a token whose owner may read secured metrics.
    #[arg(long, env = "METRICS_TOKEN_FILE", default_value = TOKEN)]
    pub token_file: PathBuf,
    /// How long to try again before a failure counts; a right that was missing is missed for another 30 s.
    #[arg(long, env = "METRICS_TEST_PATIENCE", default_value = "90s", value_parser = shared::cli::parse_duration)]
    pub patience: Duration,
}

/// What does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No request can be sent.
    #[error("cannot make a client for {url}: {source}")]
    Client {
        /// What would be asked for.
        url: String,
        /// Why there is no client.
        source: kube::Error,
    },
    /// There is nothing to be let in with.
    #[error(
        "cannot read a token from {path}: {source}; secured metrics need one: run the test as a ServiceAccount whose token is mounted"
    )]
    Token {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Nobody answers, or nobody who speaks the same protocol.
    #[error(
        "GET {url} has no answer: {cause}. Look whether the Service has endpoints, whether network policies let this pod in, and whether the \
         pods behind it have the flags of this release: by https only those with --metrics-secure=true answer, by http only the others"
    )]
    NoAnswer {
        /// What was asked for.
        url: String,
        /// Why there is no answer.
        cause: String,
    },
    /// Strangers are not turned away.
    #[error(
        "GET {url} without a token answers {status} instead of 401 ({said}): strangers are not turned away. Look whether the Service leads to \
         pods of the operator, and whether these have the flag --metrics-secure=true"
    )]
    NotRefused {
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
        /// How it begins.
        said: String,
    },
    /// Whoever may read is not let in.
    #[error("GET {url} {how} answers {status} instead of 200 ({said}): {remedy}")]
    NotServed {
        /// What was asked for.
        url: String,
        /// With what.
        how: &'static str,
        /// The answer.
        status: StatusCode,
        /// How it begins.
        said: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The wrong program answers.
    #[error("GET {url} shows {family}, which is a family of the other program: look at the selector of the Service")]
    Foreign {
        /// What was asked for.
        url: String,
        /// A family that should not be there.
        family: &'static str,
    },
    /// Something is served that is not what should be served.
    #[error(
        "GET {url} answers 200 without the families {missing}: look whether the Service leads to pods of the operator, and whether these have \
         the version of this test"
    )]
    Missing {
        /// What was asked for.
        url: String,
        /// Families that should be there.
        missing: String,
    },
}

/// Runs the check until it succeeds or its patience ends; returns one line for each thing that was proven.
pub async fn run(args: &Args, connect: impl Fn(&Uri) -> Result<Client, kube::Error>) -> Result<Vec<String>, Error> {
    let endpoints = endpoints(args, connect)?;
    let end = Instant::now() + args.patience;
    loop {
        match attempt(&endpoints, &args.token_file).await {
            Err(error) if Instant::now() < end => {
                tracing::info!(error = %error, "not yet");
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// A client for one address. It verifies no certificates: those that pods make for themselves nobody can verify.
pub fn connect(origin: &Uri) -> Result<Client, kube::Error> {
    let mut config = Config::new(origin.clone());
    config.accept_invalid_certs = true;
    // Otherwise those of the image would be looked for.
    config.root_cert = Some(Vec::new());
    // An answer is judged here, whatever it is.
    config.default_retry = false;
    Client::try_from(config)
}

/// Reads an address without a path.
fn origin(text: &str) -> Result<Uri, String> {
    let address = text.parse::<Uri>().map_err(|error| format!("{text:?} is no address: {error}"))?;
    let known = matches!(address.scheme_str(), Some("http" | "https"));
    if !known || address.authority().is_none() || address.path() != "/" || address.query().is_some() {
        return Err(format!("{text:?} is no address of metrics: use one such as https://HOST:8080, without a path"));
    }
    Ok(address)
}

/// The metrics of one program.
struct Endpoint {
    program: Program,
    url: String,
    secured: bool,
    client: Client,
}

fn endpoints(args: &Args, connect: impl Fn(&Uri) -> Result<Client, kube::Error>) -> Result<Vec<Endpoint>, Error> {
    let mut wanted = vec![(Program::Controller, &args.controller_url)];
    wanted.extend(args.admission_url.as_ref().map(|origin| (Program::Admission, origin)));
    let endpoint = |(program, origin): (Program, &Uri)| {
        // An address without a path is shown with a slash at its end.
        let url = format!("{origin}metrics");
        match connect(origin) {
            Ok(client) => Ok(Endpoint { program, url, secured: origin.scheme_str() == Some("https"), client }),
            Err(source) => Err(Error::Client { url, source }),
        }
    };
    wanted.into_iter().map(endpoint).collect()
}

async fn attempt(endpoints: &[Endpoint], token_file: &Path) -> Result<Vec<String>, Error> {
    let mut proven = Vec::new();
    for endpoint in endpoints {
        if endpoint.secured {
            proven.push(endpoint.turns_strangers_away().await?);
            proven.push(endpoint.serves(Some(&authorization(token_file)?)).await?);
        } else {
            proven.push(endpoint.serves(None).await?);
        }
    }
    Ok(proven)
}

/// The header by which the owner of a token is known.
fn authorization(token_file: &Path) -> Result<HeaderValue, Error> {
    let read = fs::read_to_string(token_file).and_then(|token| {
        let header = HeaderValue::try_from(format!("Bearer {}", token.trim()));
        header.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    });
    let mut header = read.map_err(|source| Error::Token { path: token_file.display().to_string(), source })?;
    header.set_sensitive(true);
    Ok(header)
}

impl Endpoint {
    async fn get(&self, token: Option<&HeaderValue>) -> Result<(StatusCode, String), Error> {
        let asked = async {
            let mut request = Request::get(&self.url);
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, token);
            }
            let request = request.body(Body::empty()).map_err(kube::Error::HttpError)?;
            let answer = self.client.send(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect_bytes().await?;
            Ok::<_, kube::Error>((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let cause = match tokio::time::timeout(DEADLINE, asked).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => telemetry::chain(&error),
            Err(_) => format!("none came within {} s", DEADLINE.as_secs()),
        };
        Err(Error::NoAnswer { url: self.url.clone(), cause })
    }

    async fn turns_strangers_away(&self) -> Result<String, Error> {
        let (status, text) = self.get(None).await?;
        if status != StatusCode::UNAUTHORIZED {
            return Err(Error::NotRefused { url: self.url.clone(), status, said: beginning(&text) });
        }
        Ok(format!("{} answers 401 without a token", self.url))
    }

    async fn serves(&self, token: Option<&HeaderValue>) -> Result<String, Error> {
        let how = if token.is_some() { "with the token of this pod" } else { "without a token" };
        let (status, text) = self.get(token).await?;
        if status != StatusCode::OK {
            let remedy = remedy(self.secured, status);
            return Err(Error::NotServed { url: self.url.clone(), how, status, said: beginning(&text), remedy });
        }
        let expected = self.judge(&text)?;
        Ok(format!("{} answers 200 {how}, and has {}", self.url, expected.join(", ")))
    }

    /// The families that had to be found, and were.
    fn judge(&self, text: &str) -> Result<Vec<&'static str>, Error> {
        let shown = shown(text);
        let ours = [self.program, Program::Both];
        let mut known = shown.iter().filter_map(|name| families::find(name));
        if let Some(foreign) = known.find(|family| !ours.contains(&family.program)) {
            return Err(Error::Foreign { url: self.url.clone(), family: foreign.name });
        }
        let expected = families::of_ready(self.program);
        let missing: Vec<&str> = expected.iter().copied().filter(|name| !shown.contains(name)).collect();
        if !missing.is_empty() {
            return Err(Error::Missing { url: self.url.clone(), missing: missing.join(", ") });
        }
        Ok(expected)
    }
}

/// Names of the families that an answer announces.
fn shown(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

/// How an answer begins.
fn beginning(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(QUOTED).collect()
}

/// What to do about an answer to somebody who should be let in.
fn remedy(secured: bool, status: StatusCode) -> &'static str {
    match (secured, status) {
        (true, StatusCode::UNAUTHORIZED) => {
            "the API server does not know the token; look whether the ServiceAccount of this pod is still the one that it was started with"
        }
        (true, StatusCode::FORBIDDEN) => {
            "the owner of the token may not get the path /metrics; look whether its ServiceAccount is bound to the ClusterRole of the chart whose \
             name ends in -metrics-reader"
        }
        (true, StatusCode::INTERNAL_SERVER_ERROR) => {
            "the operator has no verdict from the API server; look at its log, and whether its ServiceAccounts are bound to the ClusterRole of the \
             chart whose name ends in -metrics-auth-role"
        }
        _ => "look whether the Service leads to pods of the operator, and at their log",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::ready,
        io::Write as _,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use futures::future::BoxFuture;
    use http::Response;
    use rstest::rstest;
    use shared::{
        admin::{self, Bind, Guard, Judge, Readiness, Security, Server, Source, State, Verdict},
        metrics::{Build, FrameworkMetrics, Metrics},
    };
    use tempfile::NamedTempFile;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// What the token of the pod says.
    const OURS: &str = "of-this-pod";

    /// What a controller that stands by has to show.
    fn registry() -> Metrics {
        let runtime = tokio::runtime::Handle::current();
        let metrics = Metrics::new(Build { version: "1", revision: "a" }).unwrap().of_runtime(&runtime);
        let framework = FrameworkMetrics::new(&metrics).unwrap();
        framework.request(Some(200), "GET", "here");
        framework.leader("lease", false);
        metrics
    }

    /// What the program behind an address shows.
    fn text(request: &Request<Body>) -> String {
        if request.uri().host() == Some("controller") {
            return registry().text().unwrap();
        }
        let family = |name: &str| format!("# HELP {name} Something.\n# TYPE {name} counter\n{name} 1\n");
        families::of_ready(Program::Admission).into_iter().map(family).collect::<Vec<_>>().concat()
    }

    fn shows_token(request: &Request<Body>) -> bool {
        let header = request.headers().get(header::AUTHORIZATION);
        header.is_some_and(|header| header == format!("Bearer {OURS}").as_str())
    }

    /// Secured metrics that are as they should be.
    fn guarded(request: &Request<Body>) -> (u16, String) {
        if shows_token(request) { (200, text(request)) } else { (401, "for whoever shows a token".to_owned()) }
    }

    /// Both programs.
    fn server(answer: impl Fn(&Request<Body>) -> (u16, String) + Send + 'static) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/metrics");
            let (code, text) = answer(&request);
            ready(Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(text.into_bytes())).unwrap()))
        });
        Client::new(service, "default")
    }

    /// A token as pods have it.
    fn token(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        writeln!(file, "{text}").unwrap();
        file
    }

    fn args(scheme: &str, token: &NamedTempFile) -> Args {
        Args {
            controller_url: format!("{scheme}://controller:8080").parse().unwrap(),
            admission_url: Some(format!("{scheme}://admission:8080").parse().unwrap()),
            token_file: token.path().to_owned(),
            patience: Duration::ZERO,
        }
    }

    /// The outcome of one attempt.
    async fn outcome(
        scheme: &str,
        answer: impl Fn(&Request<Body>) -> (u16, String) + Send + 'static,
    ) -> Result<Vec<String>, Error> {
        let client = server(answer);
        run(&args(scheme, &token(OURS)), |_| Ok(client.clone())).await
    }

    #[tokio::test]
    async fn secured_metrics_are_for_whom_may_read_them() {
        let proven = outcome("https", guarded).await.unwrap();
        assert_eq!(proven.len(), 4, "{proven:?}");
        assert_eq!(proven[0], "https://controller:8080/metrics answers 401 without a token");
        let how = "with the token of this pod, and has multigres_operator_build_info, ";
        let served = format!("https://admission:8080/metrics answers 200 {how}");
        assert!(proven[3].starts_with(&served) && proven[3].contains("webhook_request_total"), "{proven:?}");
    }

    #[tokio::test]
    async fn plain_metrics_are_for_everybody() {
        let open = |request: &Request<Body>| {
            assert!(!shows_token(request), "the token is nobody else's business");
            (200, text(request))
        };
        let proven = outcome("http", open).await.unwrap();
        assert_eq!(proven.len(), 2, "{proven:?}");
        assert!(proven[0].starts_with("http://controller:8080/metrics answers 200 without a token"), "{proven:?}");
        let client = server(open);
        let alone = Args { admission_url: None, ..args("http", &token(OURS)) };
        assert_eq!(run(&alone, |_| Ok(client.clone())).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn strangers_who_are_let_in_are_noticed() {
        let error = outcome("https", |request| (200, text(request))).await.unwrap_err();
        assert!(matches!(&error, Error::NotRefused { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("GET https://controller:8080/metrics without a token answers 200 OK"), "{text}");
        assert!(text.contains("--metrics-secure=true") && !text.contains('\n'), "{text}");
    }

    #[rstest]
    #[case("https", 401, "with the token of this pod answers 401 Unauthorized", "does not know the token")]
    #[case("https", 403, "with the token of this pod answers 403 Forbidden", "-metrics-reader")]
    #[case("https", 500, "with the token of this pod answers 500 Internal", "-metrics-auth-role")]
    #[case("http", 404, "without a token answers 404 Not Found", "pods of the operator")]
    #[tokio::test]
    async fn whoever_is_not_let_in_is_told_what_to_do(
        #[case] scheme: &str,
        #[case] code: u16,
        #[case] answer: &str,
        #[case] remedy: &str,
    ) {
        let plain = scheme == "http";
        let refusing = move |request: &Request<Body>| {
            let code = if plain || shows_token(request) { code } else { 401 };
            (code, "it is so\nand so".to_owned())
        };
        let error = outcome(scheme, refusing).await.unwrap_err();
        assert!(matches!(&error, Error::NotServed { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(answer) && text.contains("(it is so)") && text.contains(remedy), "{text}");
    }

    #[tokio::test]
    async fn another_program_or_another_page_is_noticed() {
        let swapped = |request: &Request<Body>| {
            let host = if request.uri().host() == Some("controller") { "admission" } else { "controller" };
            (200, text(&Request::get(format!("http://{host}/metrics")).body(Body::empty()).unwrap()))
        };
        let error = outcome("http", swapped).await.unwrap_err();
        assert!(matches!(&error, Error::Foreign { .. }), "{error:?}");
        let error = outcome("http", |_| (200, "It works!".to_owned())).await.unwrap_err();
        assert!(matches!(&error, Error::Missing { .. }), "{error:?}");
        assert!(error.to_string().contains("without the families multigres_operator_build_info, "), "{error}");
    }

    #[tokio::test]
    async fn what_is_in_the_way_of_a_request_is_named() {
        let refused = |_: Request<Body>| ready(Err::<Response<Body>, _>(io::Error::other("nobody listens")));
        let client = Client::new(tower::service_fn(refused), "default");
        let args = args("http", &token(OURS));
        let error = run(&args, |_| Ok(client.clone())).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(&error, Error::NoAnswer { .. }) && text.contains("nobody listens"), "{text}");
        assert!(text.starts_with("GET http://controller:8080/metrics has no answer"), "{text}");
        let error = run(&args, |_| Err(kube::Error::LinesCodecMaxLineLengthExceeded)).await.unwrap_err();
        assert!(matches!(&error, Error::Client { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_token_has_to_be_there() {
        let client = server(guarded);
        let without = Args { token_file: "/nowhere/token".into(), ..args("https", &token(OURS)) };
        let error = run(&without, |_| Ok(client.clone())).await.unwrap_err();
        assert!(matches!(&error, Error::Token { .. }) && error.to_string().contains("/nowhere/token"), "{error:?}");
        let error = run(&args("https", &token("two\nlines")), |_| Ok(client.clone())).await.unwrap_err();
        assert!(matches!(&error, Error::Token { .. }), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_may_take_a_while_to_be_known() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let client = server(move |request| match guarded(request) {
            (200, _) if counted.fetch_add(1, Ordering::SeqCst) < 30 => (403, "may not".to_owned()),
            answer => answer,
        });
        let token = token(OURS);
        let impatient = Args { patience: Duration::from_secs(10), ..args("https", &token) };
        let error = run(&impatient, |_| Ok(client.clone())).await.unwrap_err();
        assert!(matches!(&error, Error::NotServed { .. }), "{error:?}");
        let patient = Args { patience: Duration::from_mins(1), ..impatient };
        assert_eq!(run(&patient, |_| Ok(client.clone())).await.unwrap().len(), 4);
        assert!(asked.load(Ordering::SeqCst) > 30);
    }

    /// Lets the token of the pod in, and knows everybody else as somebody without the right.
    struct ThisPod;

    impl Judge for ThisPod {
        fn judge<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, kube::Error>> {
            let verdict = if token == OURS { Verdict::Allowed } else { Verdict::Forbidden };
            Box::pin(ready(Ok(verdict)))
        }
    }

    #[rstest]
    #[case("http", 1)]
    #[case("https", 2)]
    #[tokio::test]
    async fn what_the_operator_serves_is_what_is_expected(#[case] scheme: &str, #[case] proofs: usize) {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let state = State { metrics: registry(), readiness: Readiness::default(), log: None };
        let mut server = Server::bind(&Bind::Host("127.0.0.1".to_owned(), 0), &Bind::Off, state).unwrap();
        if scheme == "https" {
            let security = Security { tls: admin::tls(&Source::Own).unwrap(), guard: Guard::with(Arc::new(ThisPod)) };
            server = server.secured(security).unwrap();
        }
        let controller_url: Uri = format!("{scheme}://{}", server.metrics_address().unwrap()).parse().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.run(stop.clone()));
        let ask = async |text: &str| {
            let token = token(text);
            let base = args(scheme, &token);
            run(&Args { controller_url: controller_url.clone(), admission_url: None, ..base }, connect).await
        };
        let proven = ask(OURS).await.unwrap();
        assert_eq!(proven.len(), proofs, "{proven:?}");
        if scheme == "https" {
            let error = ask("of-another").await.unwrap_err();
            let forbidden = matches!(&error, Error::NotServed { status: StatusCode::FORBIDDEN, .. });
            assert!(forbidden, "{error:?}");
        }
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), serving).await.unwrap().unwrap().unwrap();
    }

    #[test]
    fn addresses_have_no_path() {
        for right in ["http://a:8080", "https://a.b.svc:8080/", "https://[::1]:8080"] {
            assert!(origin(right).is_ok(), "{right}");
        }
        for wrong in ["", "a:8080", "/metrics", "ftp://a:8080", "https://a:8080/metrics", "https://a:8080?x"] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
        assert_eq!(origin("http://a:8080").unwrap().to_string(), "http://a:8080/");
    }
}
