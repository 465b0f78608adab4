//! Runs statements one after the other through a gateway, and prints the first column of what the last one yields.
//!
//! It runs inside the network of a bed, where Services have addresses.

use anyhow::{Context as _, Result};
use clap::Parser;
use stories::gateway::Gateway;
use tokio_postgres::SimpleQueryMessage;

/// What to run, and where.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    gateway: Gateway,
    /// The statements.
    #[arg(required = true)]
    statements: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let client = args.gateway.settled("SELECT 1").await?;
    let mut answer = Vec::new();
    for statement in &args.statements {
        answer = client.simple_query(statement).await.with_context(|| statement.clone())?;
    }
    for message in answer {
        if let SimpleQueryMessage::Row(row) = message {
            println!("{}", row.get(0).unwrap_or_default());
        }
    }
    Ok(())
}
