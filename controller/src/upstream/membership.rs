//! Who belongs to an etcd ensemble of ours, and how members come and go.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions, MemberAddOptions};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::time::timeout;

use super::{Error, Limits, MAX_DEADLINE, Result, TopoAddress};

/// A member that does not accept within this time is not there.
const CONNECT: Duration = Duration::from_millis(1500);
/// Read before the members, because only a quorum can answer it. Nobody writes it.
const WITNESS: &str = "members";

/// One member of an ensemble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What etcd calls it.
    pub id: u64,
    /// Its name; empty until it has started.
    pub name: String,
    /// Where the others reach it.
    pub peer_urls: Vec<String>,
    /// Whether it only learns and has no vote yet.
    pub learner: bool,
}

/// One step of a reconfiguration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A further member, without a vote at first.
    AddLearner {
        /// Where the others will reach it.
        peer_url: String,
    },
    /// A vote for a member that has learned everything.
    Promote {
        /// What etcd calls it.
        id: u64,
    },
    /// A member less.
    Remove {
        /// What etcd calls it.
        id: u64,
    },
}

/// The membership of ensembles.
pub trait Members: Send + Sync {
    /// All members as a quorum knows them. An ensemble without a quorum does not answer.
    fn list<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Vec<Member>>>;

    /// Makes one step. `false` if it is made already, or if etcd wants it to be asked for again a little later: it lets a member
    /// in or promotes it only while that endangers nothing.
    fn change<'a>(&'a self, at: &'a TopoAddress, change: &'a MemberChange) -> BoxFuture<'a, Result<bool>>;
}

/// [`Members`] of real ensembles. Steps are rare, so no connection is kept.
pub(super) struct EtcdMembers {
    deadline: Duration,
}

impl EtcdMembers {
    pub(super) fn new(limits: Limits) -> Self {
        Self { deadline: limits.store_deadline.min(MAX_DEADLINE) }
    }

    async fn call<T, F, Fut>(&self, at: &TopoAddress, request: F) -> Result<T>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let target = at.endpoints.join(",");
        let options = ConnectOptions::new().with_connect_timeout(CONNECT).with_require_leader(true);
        let call = async {
            let client = Client::connect(&at.endpoints, Some(options)).await?;
            request(client).await
        };
        match timeout(self.deadline, call).await {
            Ok(answer) => answer.map_err(|error| Error::from_etcd(&target, &error, self.deadline)),
            Err(_) => Err(Error::Slow { target, after: self.deadline }),
        }
    }
}

impl Members for EtcdMembers {
    fn list<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Vec<Member>>> {
        async move {
            let answer = self
                .call(at, async |mut client: Client| {
                    // Proves that there is a quorum, and brings the server that is asked up to date: the list of members is its
                    // own view, which may lag.
                    client.get(WITNESS, None).await?;
                    client.member_list().await
                })
                .await?;
            let member = |member: &etcd_client::Member| Member {
                id: member.id(),
                name: member.name().to_owned(),
                peer_urls: member.peer_urls().to_vec(),
                learner: member.is_learner(),
            };
            Ok(answer.members().iter().map(member).collect())
        }
        .boxed()
    }

    fn change<'a>(&'a self, at: &'a TopoAddress, change: &'a MemberChange) -> BoxFuture<'a, Result<bool>> {
        async move {
            let answer = self
                .call(at, async |mut client: Client| match change {
                    MemberChange::AddLearner { peer_url } => {
                        let options = MemberAddOptions::new().with_is_learner();
                        client.member_add([peer_url.as_str()], Some(options)).await.map(drop)
                    }
                    MemberChange::Promote { id } => client.member_promote(*id).await.map(drop),
                    MemberChange::Remove { id } => client.member_remove(*id).await.map(drop),
                })
                .await;
            match answer {
                Ok(()) => Ok(true),
                Err(error) if is_for_later(&error) => Ok(false),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }
}

/// Whether etcd refused a step only because it is made already, or because its time has not come.
fn is_for_later(error: &Error) -> bool {
    let (Error::Failed { detail, .. } | Error::Unavailable { detail, .. }) = error else { return false };
    [
        "Peer URLs already exists",
        "member not found",
        "can only promote a learner member",
        "too many learner members",
        "unhealthy cluster",
        "not enough started members",
    ]
    .iter()
    .any(|text| detail.contains(text))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tonic::{Code, Status};

    use super::*;

    #[rstest]
    #[case("etcdserver: can only promote a learner member which is in sync with leader", true)]
    #[case("etcdserver: unhealthy cluster", true)]
    #[case("etcdserver: Peer URLs already exists", true)]
    #[case("etcdserver: corrupt cluster", false)]
    fn what_etcd_refuses_for_the_moment_is_no_failure(#[case] text: &str, #[case] later: bool) {
        let error = etcd_client::Error::GRpcStatus(Status::new(Code::FailedPrecondition, text));
        assert_eq!(is_for_later(&Error::from_etcd("etcd:2379", &error, CONNECT)), later);
    }
}
