//! How many connections are open, so that a server that is leaving can wait for the last one.

use std::{any::Any, sync::Arc};

use actix_web::dev::Extensions;
use tokio::sync::watch;

/// The connections of a server.
#[derive(Clone, Debug)]
pub struct Connections(Arc<watch::Sender<usize>>);

/// One open connection; dropped with it.
struct Open(Connections);

impl Connections {
    /// None are open.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Counts a connection for as long as it keeps its data.
    pub fn opened(&self, _stream: &dyn Any, data: &mut Extensions) {
        self.0.send_modify(|open| *open += 1);
        data.insert(Open(self.clone()));
    }

    /// Returns once no connection is open.
    pub async fn gone(&self) {
        // It ends only with the sender, which is here.
        let _ = self.0.subscribe().wait_for(|open| *open == 0).await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.send_modify(|open| *open = open.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn the_last_connection_to_close_ends_the_wait() {
        let connections = Connections::new();
        assert!(connections.gone().now_or_never().is_some());
        let [mut one, mut other] = [Extensions::new(), Extensions::new()];
        connections.opened(&(), &mut one);
        connections.opened(&(), &mut other);
        drop(one);
        assert!(connections.gone().now_or_never().is_none());
        drop(other);
        assert!(connections.gone().now_or_never().is_some());
    }
}
