//! Waiting for a condition with a deadline. Nothing here sleeps for its own sake.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at. Short, because a story's time is mostly waiting.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Seconds as a duration.
pub fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Looks until `look` yields a value, and says what was seen last when the deadline passes. `Err` of `look` is "not yet, because".
pub async fn until<T, F>(what: &str, deadline: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let started = Instant::now();
    loop {
        let why = match look().await {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        if started.elapsed() >= deadline {
            bail!("{what} did not happen within {} s; last seen: {why:#}", deadline.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
