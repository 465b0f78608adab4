//! How leadership moves on request: the primary steps back while the orchestrators are hurried, so that nobody waits out a grace
//! period that is meant for failures.

use std::time::Duration;

use futures::{
    FutureExt as _,
    future::{join_all, select_all},
};
use tokio::time::{sleep, timeout};

use crate::upstream::{PoolerAddress, Result, Upstream};

/// How often the next orchestrator is hurried, and the standbys are asked.
const BEAT: Duration = Duration::from_millis(300);
/// How long a new primary is waited for once the old one has stepped back. After that the next pass goes on watching.
const ELECTION: Duration = Duration::from_secs(15);
/// How long a standby may take to say how it is. In the middle of an election, on a busy machine, it takes seconds.
const ANSWER: Duration = Duration::from_secs(5);

/// Has `primary` step back and waits until one of `standbys` serves, or for [`ELECTION`]. Fails only if the primary did not step
/// back.
pub async fn hand_over(
    upstream: &Upstream,
    primary: &PoolerAddress,
    standbys: &[PoolerAddress],
    orchestrators: &[PoolerAddress],
) -> Result<()> {
    let switch = async {
        upstream.poolers().resign(primary).await?;
        // Nobody in time is no failure: the next pass sees who serves.
        let _late = timeout(ELECTION, somebody_serves(upstream, standbys)).await;
        Ok(())
    };
    tokio::select! {
        outcome = switch => outcome,
        () = hurry(upstream, orchestrators) => Ok(()),
    }
}

/// Has every orchestrator run one recovery cycle.
pub async fn hasten(upstream: &Upstream, orchestrators: &[PoolerAddress]) {
    join_all(orchestrators.iter().map(|address| hasten_one(upstream, address))).await;
}

/// Hurries one orchestrator after the other, for as long as it is polled.
async fn hurry(upstream: &Upstream, orchestrators: &[PoolerAddress]) {
    for address in orchestrators.iter().cycle() {
        hasten_one(upstream, address).await;
        sleep(BEAT).await;
    }
    // Without any there is nobody to hurry, but still somebody to wait for.
    std::future::pending::<()>().await;
}

/// They elect without being told, too, only later.
async fn hasten_one(upstream: &Upstream, address: &PoolerAddress) {
    if let Err(error) = upstream.orchestrators().hasten(address).await {
        tracing::debug!(orchestrator = %address, error = shared::telemetry::chain(&error), "not hurried");
    }
}

/// Waits until one of the standbys serves. Each is asked by itself: the one that is about to serve must not wait for the answers of
/// the others, who are busy with the election, too.
async fn somebody_serves(upstream: &Upstream, standbys: &[PoolerAddress]) {
    let serving = standbys.iter().map(|address| {
        async move {
            while !upstream.poolers().status(address, ANSWER).await.is_ok_and(|status| status.is_serving_primary()) {
                sleep(BEAT).await;
            }
        }
        .boxed()
    });
    let serving: Vec<_> = serving.collect();
    if serving.is_empty() {
        return std::future::pending().await;
    }
    select_all(serving).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::upstream::{
        Error, PoolerStatus, Postgres, PrimaryStatus,
        fake::{Call, FakeDataPlane},
    };

    fn address(host: &str) -> PoolerAddress {
        PoolerAddress::new(host, 1)
    }

    fn serving() -> PoolerStatus {
        PoolerStatus {
            postgres: Postgres::Primary,
            postgres_ready: true,
            primary: Some(PrimaryStatus { ready: true, ..PrimaryStatus::default() }),
            ..PoolerStatus::default()
        }
    }

    /// A data plane that elects `b` in the third cycle.
    fn plane() -> FakeDataPlane {
        let plane = FakeDataPlane::new();
        let poolers = std::sync::Arc::downgrade(&plane.poolers);
        let cycles = std::sync::atomic::AtomicUsize::new(0);
        plane.poolers.react(Box::new(move |call| {
            if matches!(call, Call::Hasten(_))
                && cycles.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2
                && let Some(poolers) = poolers.upgrade()
            {
                poolers.answer(address("b"), Ok(serving()));
            }
            Ok(())
        }));
        plane
    }

    #[tokio::test(start_paused = true)]
    async fn orchestrators_are_hurried_in_turn_until_somebody_serves() {
        let plane = plane();
        let orchestrators = [address("o1"), address("o2")];
        let began = Instant::now();
        hand_over(&plane.upstream(), &address("a"), &[address("b")], &orchestrators).await.unwrap();
        assert!(began.elapsed() <= BEAT * 4, "{:?}", began.elapsed());
        let calls = plane.poolers.take_calls();
        let hurried: Vec<&Call> = calls.iter().filter(|call| matches!(call, Call::Hasten(_))).collect();
        assert_eq!(
            hurried[..3],
            [&Call::Hasten(address("o1")), &Call::Hasten(address("o2")), &Call::Hasten(address("o1"))]
        );
        assert!(calls.contains(&Call::Resign(address("a"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_that_does_not_answer_holds_nobody_up() {
        let plane = plane();
        plane.poolers.hang(address("c"));
        let began = Instant::now();
        let standbys = [address("b"), address("c")];
        hand_over(&plane.upstream(), &address("a"), &standbys, &[address("o")]).await.unwrap();
        assert!(began.elapsed() <= BEAT * 4, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_election_that_takes_long_is_left_to_the_next_pass() {
        let plane = plane();
        let began = Instant::now();
        hand_over(&plane.upstream(), &address("a"), &[address("b")], &[]).await.unwrap();
        assert!(began.elapsed() >= ELECTION && began.elapsed() < ELECTION * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_primary_that_does_not_step_back_is_an_error() {
        let plane = FakeDataPlane::new();
        plane.poolers.react(Box::new(|_| Err(Error::Failed { target: "a".into(), detail: "not a primary".into() })));
        let outcome = hand_over(&plane.upstream(), &address("a"), &[address("b")], &[address("o")]).await;
        assert_eq!(outcome.unwrap_err().reason(), "Failed");
    }
}
