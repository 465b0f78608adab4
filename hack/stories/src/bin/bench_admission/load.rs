//! Clients that cost little themselves: requests are made once and sent as bytes, answers are only searched for the verdict.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::process::Service;

/// A connection that is kept alive.
pub struct Client {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

/// What to send.
pub struct Load {
    request: Vec<u8>,
}

/// What got through.
pub struct Throughput {
    /// Answers.
    pub count: f64,
    /// Time from the first request to the last answer.
    pub seconds: f64,
}

/// How long answers took, in milliseconds.
pub struct Latency {
    /// Half of the answers were quicker.
    pub p50: f64,
    /// 99 of 100 answers were quicker.
    pub p99: f64,
}

impl Client {
    /// Opens connections.
    pub async fn open(service: &Service, count: usize) -> Result<Vec<Self>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(service.address.authority.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let mut clients = Vec::new();
        for _ in 0..count {
            let stream = TcpStream::connect(("127.0.0.1", service.address.port)).await.context("connecting")?;
            stream.set_nodelay(true)?;
            let stream = connector.connect(ServerName::try_from("localhost")?, stream).await.context("TLS")?;
            clients.push(Self { stream, buffer: Vec::new() });
        }
        Ok(clients)
    }

    async fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        let mut whole = None;
        while whole.is_none_or(|length| self.buffer.len() < length) {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the service closed the connection");
            if whole.is_none() {
                whole = answer_length(&self.buffer)?;
            }
        }
        ensure!(contains(&self.buffer, b"\"allowed\":true"), "refused: {}", String::from_utf8_lossy(&self.buffer));
        Ok(())
    }
}

/// Length of an answer with its head, once the head is complete.
fn answer_length(buffer: &[u8]) -> Result<Option<usize>> {
    let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&buffer[..head])?.to_ascii_lowercase();
    if !text.starts_with("http/1.1 200") {
        bail!("the service answered {text}");
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).context("a content-length")?;
    Ok(Some(head + 4 + length.trim().parse::<usize>()?))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

impl Load {
    /// Posts a body to a path.
    pub fn new(path: &str, body: &[u8]) -> Self {
        let mut request = format!(
            "POST {path}?timeout=10s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             accept: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        Self { request }
    }

    /// Every client asks again as soon as it has its answer.
    pub async fn closed(&self, clients: &mut [Client], length: Duration) -> Result<Throughput> {
        let started = Instant::now();
        let counts = try_join_all(clients.iter_mut().map(async |client| {
            let mut count = 0_u32;
            while started.elapsed() < length {
                client.ask(&self.request).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }));
        let count = counts.await?.into_iter().map(f64::from).sum();
        Ok(Throughput { count, seconds: started.elapsed().as_secs_f64() })
    }

    /// Requests are due at a steady rate; the next free client takes the next one.
    pub async fn open(&self, clients: &mut [Client], rate: u32, length: Duration) -> Result<Latency> {
        let every = Duration::from_secs(1) / rate;
        let started = Instant::now();
        let next = Cell::new(0_u32);
        let times = try_join_all(clients.iter_mut().map(async |client| {
            let mut times = Vec::new();
            loop {
                let due = every * next.get();
                if due >= length {
                    return anyhow::Ok(times);
                }
                next.set(next.get() + 1);
                let due = started + due;
                // The timer is coarser than what is measured: who waited for it is on time whenever it fires.
                let asked = if due > Instant::now() {
                    tokio::time::sleep_until(due.into()).await;
                    Instant::now()
                } else {
                    due
                };
                client.ask(&self.request).await?;
                times.push(asked.elapsed().as_secs_f64() * 1e3);
            }
        }));
        let mut times: Vec<f64> = times.await?.into_iter().flatten().collect();
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied();
        Ok(Latency { p50: at(50).context("no answer")?, p99: at(99).context("no answer")? })
    }
}
