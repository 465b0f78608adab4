//! Turns the signals that ask for an end into a cancelled token.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Returns a token that is cancelled by SIGTERM or SIGINT; a second signal ends the process at once.
pub fn shutdown() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if first {
                info!(signal = name, "shutting down");
                cancelled.cancel();
            } else {
                info!(signal = name, "ending at once");
                std::process::exit(1);
            }
        }
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;

    #[tokio::test]
    async fn sigterm_cancels_the_token() {
        let token = shutdown().unwrap();
        assert!(!token.is_cancelled());
        let pid = std::process::id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        tokio::time::timeout(Duration::from_secs(5), token.cancelled()).await.unwrap();
    }
}
