//! Faults on command: a file that is read again each second, and what `POST /standin/fault` set.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tonic::Status;
use tower::{Layer, Service};

/// Everything that can be made to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Every gRPC call is answered with UNAVAILABLE.
    RefuseRpc,
    /// Every gRPC call waits for ever.
    HangRpc,
    /// `/ready` answers 503.
    FailReady,
    /// `/live` answers 503.
    FailLive,
    /// The process ends at once with exit code 1.
    Crash,
    /// The process stops promising and promoting.
    RefusePromotion,
    /// SIGTERM publishes STOPPING and then waits for ever.
    StuckDrain,
    /// The record is deleted and not written again.
    ForgetRegistration,
    /// The pooler declares itself quarantined.
    Quarantine,
    /// Backups fail.
    FailBackup,
    /// Backups begin and never end.
    HangBackup,
    /// The repository does not answer.
    LoseRepository,
    /// The object store does not know the pooler's keys any more.
    RevokeCredentials,
    /// The repository lists backups whose names and times make no sense.
    GarbleBackups,
    /// The repository lists nothing, as when the look into it takes so long that it is cut off.
    EmptyBackups,
    /// WAL is not archived.
    StopArchiving,
    /// PostgreSQL counts as not running.
    StopPostgres,
    /// A standby does not follow its primary.
    StopReplication,
    /// A standby receives the log and replays none of it.
    StopReplay,
}

impl Fault {
    const ALL: [(Self, &'static str); 19] = [
        (Self::RefuseRpc, "refuse-rpc"),
        (Self::HangRpc, "hang-rpc"),
        (Self::FailReady, "fail-ready"),
        (Self::FailLive, "fail-live"),
        (Self::Crash, "crash"),
        (Self::RefusePromotion, "refuse-promotion"),
        (Self::StuckDrain, "stuck-drain"),
        (Self::ForgetRegistration, "forget-registration"),
        (Self::Quarantine, "quarantine"),
        (Self::FailBackup, "fail-backup"),
        (Self::HangBackup, "hang-backup"),
        (Self::LoseRepository, "lose-repository"),
        (Self::RevokeCredentials, "revoke-credentials"),
        (Self::GarbleBackups, "garble-backups"),
        (Self::EmptyBackups, "empty-backups"),
        (Self::StopArchiving, "stop-archiving"),
        (Self::StopPostgres, "stop-postgres"),
        (Self::StopReplication, "stop-replication"),
        (Self::StopReplay, "stop-replay"),
    ];

    /// The word for the fault.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(fault, _)| *fault == self).map_or("", |(_, name)| name)
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(fault, _)| *fault)
    }
}

/// The words of a fault list: one per line or separated by blanks or commas, `#` starts a comment.
pub fn parse(text: &str) -> Result<Vec<Fault>, String> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.split([' ', '\t', ',']))
        .filter(|word| !word.is_empty())
        .map(|word| Fault::from_name(word).ok_or_else(|| format!("unknown fault {word}")))
        .collect()
}

#[derive(Default)]
struct Sources {
    file: Vec<Fault>,
    commanded: Vec<Fault>,
}

/// The faults in force.
#[derive(Clone, Default)]
pub struct Faults {
    sources: Arc<RwLock<Sources>>,
}

impl Faults {
    /// Reads the fault file each second for as long as the process lives; `directory` is where it lies unless
    /// `STANDIN_FAULT_FILE` names another place.
    pub fn watch(directory: &str) -> Self {
        let faults = Self::default();
        let path = std::env::var_os("STANDIN_FAULT_FILE").map_or_else(
            || {
                if directory.is_empty() {
                    "/tmp/standin-faults".into()
                } else {
                    PathBuf::from(directory).join("standin-faults")
                }
            },
            PathBuf::from,
        );
        let reader = faults.clone();
        tokio::spawn(async move {
            loop {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                match parse(&text) {
                    Ok(read) => reader.replace(|sources| sources.file = read),
                    Err(error) => tracing::warn!(path = %path.display(), %error, "fault file"),
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        faults
    }

    fn replace(&self, change: impl FnOnce(&mut Sources)) {
        if let Ok(mut sources) = self.sources.write() {
            change(&mut sources);
        }
        if self.has(Fault::Crash) {
            tracing::error!("crash on command");
            std::process::exit(1);
        }
    }

    /// Replaces what was commanded over HTTP.
    pub fn command(&self, faults: Vec<Fault>) {
        self.replace(|sources| sources.commanded = faults);
    }

    /// Whether a fault is in force.
    pub fn has(&self, fault: Fault) -> bool {
        self.sources.read().is_ok_and(|sources| sources.file.contains(&fault) || sources.commanded.contains(&fault))
    }

    /// The words of all faults in force.
    pub fn names(&self) -> Vec<&'static str> {
        Fault::ALL.iter().filter(|(fault, _)| self.has(*fault)).map(|(_, name)| *name).collect()
    }
}

/// Makes gRPC calls refuse or hang while the fault is in force.
#[derive(Clone)]
pub struct FaultLayer(pub Faults);

impl<S> Layer<S> for FaultLayer {
    type Service = FaultyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        FaultyService { inner, faults: self.0.clone() }
    }
}

/// The service that [`FaultLayer`] makes.
#[derive(Clone)]
pub struct FaultyService<S> {
    inner: S,
    faults: Faults,
}

impl<S, Request> Service<Request> for FaultyService<S>
where
    S: Service<Request, Response = http::Response<tonic::body::Body>> + Send,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if self.faults.has(Fault::HangRpc) {
            return Box::pin(std::future::pending());
        }
        if self.faults.has(Fault::RefuseRpc) {
            return Box::pin(async { Ok(Status::unavailable("refused on command").into_http()) });
        }
        Box::pin(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_list_is_read_word_by_word() {
        assert_eq!(
            parse("refuse-rpc, fail-ready # both\n\nstuck-drain\n").unwrap(),
            [Fault::RefuseRpc, Fault::FailReady, Fault::StuckDrain]
        );
        assert_eq!(parse("refuse-rcp").unwrap_err(), "unknown fault refuse-rcp");
    }

    #[test]
    fn commanded_faults_replace_each_other() {
        let faults = Faults::default();
        faults.command(vec![Fault::FailReady]);
        assert!(faults.has(Fault::FailReady));
        faults.command(Vec::new());
        assert!(faults.names().is_empty());
    }

    #[test]
    fn every_fault_has_a_word_that_reads_back() {
        for (fault, name) in Fault::ALL {
            assert_eq!(Fault::from_name(name), Some(fault));
            assert_eq!(fault.name(), name);
        }
    }
}
