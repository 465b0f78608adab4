//! Connections of programs that run inside the network of a bed to a cluster's gateway.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, NoTls};

/// How long a gateway may take to accept a connection and its first statement, or to carry one out.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// How long to wait after an attempt.
const AGAIN: Duration = Duration::from_millis(200);

/// Where a gateway is, and as whom to speak to it.
#[derive(clap::Args)]
pub struct Gateway {
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
}

impl Gateway {
    /// One connection.
    pub async fn connect(&self) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user(&self.user).password(&self.password).dbname("postgres");
        config.connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await.context("connecting")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A connection on which a statement works, tried again for a minute.
    pub async fn settled(&self, statement: &str) -> Result<Client> {
        let end = Instant::now() + PATIENCE;
        loop {
            let attempt = async {
                let client = self.connect().await?;
                client.batch_execute(statement).await.context("first statement")?;
                Ok::<_, anyhow::Error>(client)
            };
            match attempt.await {
                Ok(client) => return Ok(client),
                Err(_) if Instant::now() < end => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(error),
            }
        }
    }
}
