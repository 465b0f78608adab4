//! How the stand-in's processes talk to what stands in for PostgreSQL: JSON lines on its socket and port.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::proto::clustermetadata::ShardRule;

/// A question; only [`Ask::Stream`] is answered on the network port.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// How are you?
    Report,
    /// Leave recovery and write this rule.
    Promote {
        /// The rule, see [`encode_rule`].
        rule: String,
    },
    /// Write this rule as the primary.
    WriteRule {
        /// The rule, see [`encode_rule`].
        rule: String,
    },
    /// Go back into recovery; a given rule replaces the one that did not become durable.
    Demote {
        /// The rule to fall back to.
        rule: Option<String>,
    },
    /// Stream from this primary from now on.
    Follow {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
        /// The application name to stream under.
        name: String,
    },
    /// Stop streaming.
    Unfollow,
    /// Read the configuration files.
    Settings,
    /// Take the configuration files into effect.
    Reload,
    /// Send changes for as long as the connection lasts.
    Stream {
        /// The application name of the standby.
        name: String,
        /// Its system identifier.
        system_id: u64,
    },
}

/// One standby as its primary sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follower {
    /// Its application name.
    pub name: String,
    /// What it has on disk.
    pub flushed: u64,
}

/// What a standby knows of its primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    /// The primary's host.
    pub host: String,
    /// The primary's port.
    pub port: u16,
    /// Whether changes arrive.
    pub streaming: bool,
    /// When the last message came, in milliseconds since 1970.
    pub last_message: u64,
    /// Why it does not stream.
    pub error: String,
}

/// The state of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The identity of the data.
    pub system_id: u64,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// How far its log is.
    pub lsn: u64,
    /// The rule in the data, see [`encode_rule`].
    pub rule: String,
    /// Who streams from it.
    pub followers: Vec<Follower>,
    /// From whom it streams.
    pub receiver: Option<Receiver>,
    /// When the configuration was last read, in milliseconds since 1970.
    pub load_time: u64,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The state.
    Report(Report),
    /// Name and value of every setting in the files.
    Settings(Vec<(String, String)>),
    /// It did not work.
    Error(String),
}

/// One message of a stream.
#[derive(Debug, Serialize, Deserialize)]
pub struct Change {
    /// The identity of the data.
    pub system_id: u64,
    /// How far the primary's log is.
    pub lsn: u64,
    /// The rule in the data.
    pub rule: String,
    /// What the primary was started with.
    #[serde(default)]
    pub critical: std::collections::BTreeMap<String, u64>,
}

/// What a standby answers to a [`Change`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Acknowledged {
    /// What it has on disk.
    pub flushed: u64,
}

/// The text form of a rule.
pub fn encode_rule(rule: &ShardRule) -> String {
    hex::encode(rule.encode_to_vec())
}

/// The rule behind its text form; an empty text is no rule.
pub fn decode_rule(text: &str) -> Option<ShardRule> {
    if text.is_empty() {
        return None;
    }
    ShardRule::decode(hex::decode(text).ok()?.as_slice()).ok()
}

/// An LSN as PostgreSQL prints it.
pub fn show_lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// The number behind a printed LSN.
pub fn read_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

/// Asks the server behind a unix socket.
pub async fn ask(socket: &Path, question: &Ask) -> Result<Answer> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("connection to server on socket \"{}\" failed", socket.display()))?;
        write_line(&mut stream, question).await?;
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line).await?;
        Ok(serde_json::from_str(&line)?)
    };
    match tokio::time::timeout(Duration::from_secs(2), exchange).await {
        Ok(Ok(Answer::Error(error))) => bail!(error),
        Ok(answer) => answer,
        Err(_) => Err(anyhow!("connection to server on socket \"{}\" timed out", socket.display())),
    }
}

/// Asks for the state, or changes it and asks.
pub async fn report(socket: &Path, question: &Ask) -> Result<Report> {
    match ask(socket, question).await? {
        Answer::Report(report) => Ok(report),
        _ => bail!("unexpected answer"),
    }
}

/// Writes one JSON line.
pub async fn write_line(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    Ok(())
}

/// Tells a PostgreSQL client that there is no database here.
pub async fn refuse_client(stream: &mut tokio::net::TcpStream, reason: &str) -> Result<()> {
    const TLS_REQUEST: u32 = 80_877_103;
    const GSS_REQUEST: u32 = 80_877_104;
    for _ in 0..3 {
        let length = stream.read_u32().await?;
        let code = stream.read_u32().await?;
        let rest = usize::try_from(length.saturating_sub(8))?.min(10_000);
        let mut body = vec![0; rest];
        stream.read_exact(&mut body).await?;
        if code == TLS_REQUEST || code == GSS_REQUEST {
            stream.write_all(b"N").await?;
            continue;
        }
        let mut fields = Vec::new();
        for (tag, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "0A000"), (b'M', reason)] {
            fields.push(tag);
            fields.extend(text.as_bytes());
            fields.push(0);
        }
        fields.push(0);
        let mut message = vec![b'E'];
        message.extend(u32::try_from(fields.len() + 4)?.to_be_bytes());
        message.extend(fields);
        stream.write_all(&message).await?;
        break;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::clustermetadata::RuleNumber;

    #[test]
    fn an_lsn_survives_its_printed_form() {
        assert_eq!(show_lsn(0x1_0300_0028), "1/3000028");
        assert_eq!(read_lsn("1/3000028"), Some(0x1_0300_0028));
        assert_eq!(read_lsn("nonsense"), None);
    }

    #[test]
    fn a_rule_survives_its_text_form() {
        let rule = ShardRule {
            rule_number: Some(RuleNumber { coordinator_term: 4, leader_subterm: 2 }),
            ..ShardRule::default()
        };
        assert_eq!(decode_rule(&encode_rule(&rule)), Some(rule));
        assert_eq!(decode_rule(""), None);
    }
}
