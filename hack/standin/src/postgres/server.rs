//! The running server: its port, its socket, its log position, its standbys and its primary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::data_dir::{Content, DataDir};
use super::wire::{self, Acknowledged, Answer, Ask, Change, Follower, Receiver, Report};

/// What a client hears that wants a database.
pub const NO_DATABASE: &str = "this is the stand-in data plane: there is no database behind it";

/// A record of the log takes this many bytes.
const RECORD: u64 = 0x60;

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| u64::try_from(elapsed.as_millis()).ok())
        .unwrap_or_default()
}

#[derive(Default)]
struct Inner {
    content: Content,
    /// What it was started with of the settings that a standby must not have lower than its primary.
    own: BTreeMap<String, u64>,
    in_recovery: bool,
    followers: BTreeMap<String, u64>,
    receiver: Option<Receiver>,
    follow: Option<JoinHandle<()>>,
    load_time: u64,
}

/// A started server; dropping it ends it like a crash.
pub struct Server {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    socket: PathBuf,
}

struct Shared {
    data: DataDir,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl Server {
    /// Starts on the data directory.
    pub async fn start(data: DataDir, address: &str, port: u16, socket_dir: &Path) -> Result<Self> {
        let mut content = data.load()?;
        let in_recovery = data.is_standby();
        let own = data.critical();
        if in_recovery {
            data.check_standby(&content)?;
        } else {
            content.critical.clone_from(&own);
        }
        let listener = crate::serving::listen(if address == "*" { "" } else { address }, port)
            .await
            .with_context(|| format!("could not bind port {port}"))?;
        std::fs::create_dir_all(socket_dir)?;
        let socket = socket_dir.join(format!(".s.PGSQL.{port}"));
        let _ = std::fs::remove_file(&socket);
        let unix = UnixListener::bind(&socket)
            .with_context(|| format!("could not create Unix socket \"{}\"", socket.display()))?;
        let shared = Arc::new(Shared {
            data,
            inner: Mutex::new(Inner { content, own, in_recovery, load_time: now_ms(), ..Inner::default() }),
            changed: watch::channel(0).0,
        });
        let tasks = vec![
            tokio::spawn(accept_network(Arc::clone(&shared), listener)),
            tokio::spawn(accept_local(Arc::clone(&shared), unix)),
            tokio::spawn(tick(Arc::clone(&shared))),
        ];
        Ok(Self { shared, tasks, socket })
    }

    /// Stops in order: what is in memory reaches the disk.
    pub fn stop(&self) {
        self.shared.save();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if let Ok(mut inner) = self.shared.inner.lock()
            && let Some(follow) = inner.follow.take()
        {
            follow.abort();
        }
        // Streams to standbys watch this channel.
        self.shared.changed.send_replace(u64::MAX);
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Shared {
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut inner)
    }

    fn save(&self) {
        let (content, in_recovery) = self.with(|inner| (inner.content.clone(), inner.in_recovery));
        let saved = self.data.save(&content).and_then(|()| self.data.set_standby(in_recovery));
        if let Err(error) = saved {
            tracing::error!(%error, "could not write the data directory");
        }
    }

    fn notify(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn report(&self) -> Report {
        self.with(|inner| Report {
            system_id: inner.content.system_id,
            in_recovery: inner.in_recovery,
            lsn: inner.content.lsn,
            rule: inner.content.rule.clone(),
            followers: inner
                .followers
                .iter()
                .map(|(name, flushed)| Follower { name: name.clone(), flushed: *flushed })
                .collect(),
            receiver: inner.receiver.clone(),
            load_time: inner.load_time,
        })
    }

    fn answer(self: &Arc<Self>, question: Ask) -> Result<Answer> {
        match question {
            Ask::Report => {}
            Ask::Promote { rule } => {
                self.stop_following();
                self.with(|inner| {
                    inner.in_recovery = false;
                    inner.content.critical.clone_from(&inner.own);
                    inner.content.rule = rule;
                    inner.content.lsn += RECORD;
                });
                self.save();
            }
            Ask::WriteRule { rule } => {
                self.with(|inner| {
                    if inner.in_recovery {
                        bail!("cannot execute INSERT in a read-only transaction");
                    }
                    inner.content.rule = rule;
                    inner.content.lsn += RECORD;
                    Ok(())
                })?;
                self.save();
            }
            Ask::Demote { rule } => {
                self.stop_following();
                self.with(|inner| {
                    inner.in_recovery = true;
                    inner.followers.clear();
                    if let Some(rule) = rule {
                        inner.content.rule = rule;
                    }
                });
                self.save();
            }
            Ask::Follow { host, port, name } => self.follow(host, port, name)?,
            Ask::Unfollow => self.stop_following(),
            Ask::Settings => return Ok(Answer::Settings(self.data.settings().into_iter().collect())),
            Ask::Reload => self.with(|inner| inner.load_time = now_ms().max(inner.load_time + 1)),
            Ask::Stream { .. } => bail!("streaming is for the network port"),
        }
        self.notify();
        Ok(Answer::Report(self.report()))
    }

    fn stop_following(&self) {
        self.with(|inner| {
            inner.receiver = None;
            if let Some(task) = inner.follow.take() {
                task.abort();
            }
        });
    }

    fn follow(self: &Arc<Self>, host: String, port: u16, name: String) -> Result<()> {
        let unchanged = self.with(|inner| {
            if !inner.in_recovery {
                bail!("recovery is not in progress");
            }
            Ok(inner.receiver.as_ref().is_some_and(|receiver| receiver.host == host && receiver.port == port))
        })?;
        if unchanged {
            return Ok(());
        }
        self.stop_following();
        let receiver = Receiver { host: host.clone(), port, streaming: false, last_message: 0, error: String::new() };
        let shared = Arc::clone(self);
        self.with(|inner| inner.receiver = Some(receiver));
        let task = tokio::spawn(async move {
            loop {
                let outcome = receive(&shared, &host, port, &name).await;
                shared.with(|inner| {
                    if let Some(receiver) = &mut inner.receiver {
                        receiver.streaming = false;
                        receiver.error = outcome.err().map(|error| format!("{error:#}")).unwrap_or_default();
                    }
                });
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        self.with(|inner| inner.follow = Some(task));
        Ok(())
    }
}

/// Takes changes from the primary until the connection ends.
async fn receive(shared: &Arc<Shared>, host: &str, port: u16, name: &str) -> Result<()> {
    let connect = TcpStream::connect((host, port));
    let mut stream = tokio::time::timeout(Duration::from_secs(2), connect).await.context("connection timed out")??;
    let system_id = shared.with(|inner| inner.content.system_id);
    wire::write_line(&mut stream, &Ask::Stream { name: name.to_owned(), system_id }).await?;
    let (reading, mut writing) = stream.split();
    let mut lines = BufReader::new(reading).lines();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(5), lines.next_line()).await.context("no message")??;
        let Some(line) = next else { bail!("connection closed by the primary") };
        let change: Change = match serde_json::from_str(&line) {
            Ok(change) => change,
            Err(_) => bail!(line),
        };
        let wrote = shared.with(|inner| {
            let wrote = inner.content.rule != change.rule || inner.content.critical != change.critical;
            inner.content.critical.clone_from(&change.critical);
            // Following means taking over the primary's history, as after a rewind.
            inner.content.rule.clone_from(&change.rule);
            inner.content.lsn = change.lsn;
            if let Some(receiver) = &mut inner.receiver {
                receiver.streaming = true;
                receiver.last_message = now_ms();
                receiver.error.clear();
            }
            wrote
        });
        if wrote {
            shared.save();
            shared.notify();
        }
        wire::write_line(&mut writing, &Acknowledged { flushed: change.lsn }).await?;
    }
}

async fn accept_network(shared: Arc<Shared>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut first = [0];
            let is_ours = matches!(
                tokio::time::timeout(Duration::from_secs(10), stream.peek(&mut first)).await,
                Ok(Ok(1)) if first == *b"{"
            );
            let mut stream = stream;
            let outcome =
                if is_ours { send(&shared, stream).await } else { wire::refuse_client(&mut stream, NO_DATABASE).await };
            if let Err(error) = outcome {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

/// Streams to one standby.
async fn send(shared: &Arc<Shared>, stream: TcpStream) -> Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    let line = lines.next_line().await?.unwrap_or_default();
    let Ask::Stream { name, system_id } = serde_json::from_str(&line)? else {
        bail!("only streaming is allowed on the network port");
    };
    let refusal = shared.with(|inner| {
        if inner.content.system_id != system_id {
            Some(format!(
                "FATAL: database system identifier differs between the primary and standby: {} and {system_id}",
                inner.content.system_id
            ))
        } else if inner.in_recovery {
            Some("FATAL: the server is a standby itself".to_owned())
        } else {
            None
        }
    });
    if let Some(reason) = refusal {
        wire::write_line(&mut writing, &reason).await?;
        bail!(reason);
    }
    let mut changed = shared.changed.subscribe();
    let outcome = async {
        loop {
            let (change, in_recovery) = shared.with(|inner| {
                let Content { system_id, lsn, rule, critical } = inner.content.clone();
                (Change { system_id, lsn, rule, critical }, inner.in_recovery)
            });
            if in_recovery || *changed.borrow_and_update() == u64::MAX {
                bail!("no longer a primary");
            }
            wire::write_line(&mut writing, &change).await?;
            let answer = tokio::time::timeout(Duration::from_secs(5), lines.next_line()).await??;
            let acknowledged: Acknowledged = serde_json::from_str(&answer.unwrap_or_default())?;
            shared.with(|inner| inner.followers.insert(name.clone(), acknowledged.flushed));
            changed.changed().await?;
        }
    };
    let outcome: Result<()> = outcome.await;
    shared.with(|inner| inner.followers.remove(&name));
    outcome
}

async fn accept_local(shared: Arc<Shared>, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Err(error) = converse(&shared, stream).await {
                tracing::debug!(%error, "local connection ended");
            }
        });
    }
}

async fn converse(shared: &Arc<Shared>, stream: impl AsyncRead + AsyncWrite) -> Result<()> {
    let (reading, mut writing) = tokio::io::split(stream);
    let mut lines = BufReader::new(reading).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = serde_json::from_str(&line)
            .map_err(Into::into)
            .and_then(|question| shared.answer(question))
            .unwrap_or_else(|error| Answer::Error(format!("{error:#}")));
        wire::write_line(&mut writing, &answer).await?;
    }
    Ok(())
}

/// A primary's log grows by the heartbeat; everybody's reaches the disk now and then.
async fn tick(shared: Arc<Shared>) {
    let mut round = 0_u32;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        round += 1;
        let primary = shared.with(|inner| {
            if !inner.in_recovery {
                inner.content.lsn += RECORD;
            }
            !inner.in_recovery
        });
        if primary {
            shared.notify();
        }
        if round.is_multiple_of(15) {
            shared.save();
        }
    }
}
