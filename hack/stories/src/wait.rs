//! Waiting for a condition with a deadline. Nothing here sleeps for its own sake.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

/// How often a condition is looked at. Short, because a story's time is mostly waiting.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long one look may take. Longer than any of them needs: whoever has not answered by then, such as a pod behind a proxy, never will.
const LONGEST_LOOK: Duration = Duration::from_mins(1);

/// Seconds as a duration.
pub fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Looks until `look` yields a value, and says what was seen last when the deadline passes. `Err` of `look` is "not yet, because".
///
/// A look that gets no answer is given up and taken again, so that it cannot outlast the deadline by much.
pub async fn until<T, F>(what: &str, deadline: Duration, look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    look_until(what, deadline, LONGEST_LOOK, look).await
}

async fn look_until<T, F>(what: &str, deadline: Duration, longest: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let started = Instant::now();
    loop {
        let why = match tokio::time::timeout(longest, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(why)) => why,
            Err(_) => anyhow!("a look had no answer within {} s", longest.as_secs()),
        };
        if started.elapsed() >= deadline {
            bail!("{what} did not happen within {} s; last seen: {why:#}", deadline.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_without_an_answer_is_taken_again() {
        let mut looks = 0;
        let answered = look_until("an answer", within(30), Duration::from_millis(20), || {
            looks += 1;
            let number = looks;
            async move {
                if number == 1 {
                    std::future::pending::<()>().await;
                }
                Ok(number)
            }
        });
        assert_eq!(answered.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn looks_without_an_answer_end_with_the_deadline() {
        let hangs = std::future::pending::<Result<()>>;
        let outcome = look_until("an answer", Duration::ZERO, Duration::from_millis(20), hangs).await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("an answer did not happen") && error.contains("no answer"), "{error}");
    }
}
