//! Runs statements one after the other through a gateway, and prints the first column of what the last one yields.
//!
//! It runs inside the network of a bed, where Services have addresses.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// How long a gateway may take to accept a connection and its first statement.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long to wait after an attempt.
const AGAIN: Duration = Duration::from_millis(500);

/// What to run, and where.
#[derive(Parser)]
struct Args {
    /// Host of the gateway.
    #[arg(long)]
    host: String,
    /// Its port.
    #[arg(long, default_value_t = 5432)]
    port: u16,
    /// The superuser.
    #[arg(long, default_value = "postgres")]
    user: String,
    /// Its password.
    #[arg(long, env = "PGPASSWORD")]
    password: String,
    /// The statements.
    #[arg(required = true)]
    statements: Vec<String>,
}

impl Args {
    async fn connect(&self) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user(&self.user).password(&self.password).dbname("postgres");
        config.connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await.context("connecting")?;
        tokio::spawn(connection);
        client.batch_execute("SELECT 1").await.context("first statement")?;
        Ok(client)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let end = Instant::now() + PATIENCE;
    let client = loop {
        match args.connect().await {
            Ok(client) => break client,
            Err(_) if Instant::now() < end => tokio::time::sleep(AGAIN).await,
            Err(error) => return Err(error),
        }
    };
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
