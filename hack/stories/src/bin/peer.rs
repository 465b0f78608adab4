//! Prints the fingerprint of the certificate that a server shows, whoever has signed it and whatever becomes of the connection.
//!
//! It runs inside the network of a bed, where pods have addresses.

use std::time::Duration;

use admission::certificate::peer;
use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::net::TcpStream;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whom to ask.
#[derive(Parser)]
struct Args {
    /// Host of the server.
    host: String,
    /// Its port.
    port: u16,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let attempt = async {
        let stream = TcpStream::connect((args.host.as_str(), args.port)).await.context("connecting")?;
        anyhow::Ok(peer::look(stream, &args.host).await?)
    };
    let seen = tokio::time::timeout(PATIENCE, attempt).await.context("the handshake takes too long")??;
    let leaf = seen.chain.first().with_context(|| format!("it shows no certificate: {:?}", seen.ended))?;
    println!("{}", leaf.fingerprint());
    Ok(())
}
