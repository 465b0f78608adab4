//! Reads from the API server that many want at once: whoever asks while one is under way waits for the next one, together with all
//! others who ask meanwhile.
//!
//! Nobody gets an answer to a read that began before they asked, since what they ask about may have been written in between. So
//! however many ask about something, one read of it is under way and one is to follow, at most.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};

type Read<T> = Shared<BoxFuture<'static, T>>;

/// Reads by what they are of.
pub(super) struct Flights<K, T>(Arc<Mutex<BTreeMap<K, Flight<T>>>>);

/// The reads of one thing.
struct Flight<T> {
    /// Held by the read that is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The read that has not begun yet.
    next: Option<Read<T>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T> Flights<K, T>
where
    K: Ord + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the next read, which is `read` when nobody waits for one yet.
    pub async fn join(&self, key: K, read: impl FnOnce() -> BoxFuture<'static, T>) -> T {
        let flight = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let flight = flights.entry(key.clone()).or_insert_with(|| Flight { turn: Arc::default(), next: None });
            match &flight.next {
                Some(next) => next.clone(),
                None => flight.next.insert(begin(Arc::clone(&self.0), key, Arc::clone(&flight.turn), read())).clone(),
            }
        };
        flight.await
    }
}

/// A read that waits for its turn, and that nobody joins any more from then on.
fn begin<K, T>(
    flights: Arc<Mutex<BTreeMap<K, Flight<T>>>>,
    key: K,
    turn: Arc<tokio::sync::Mutex<()>>,
    read: BoxFuture<'static, T>,
) -> Read<T>
where
    K: Ord + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    async move {
        let _under_way = turn.lock().await;
        if let Some(flight) = flights.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&key) {
            flight.next = None;
        }
        let found = read.await;
        let mut flights = flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is kept about what nobody reads.
        if flights.get(&key).is_some_and(|flight| flight.next.is_none()) {
            flights.remove(&key);
        }
        found
    }
    .boxed()
    .shared()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    /// An API server that answers when it is let, with the number of the read and what there was when it began.
    #[derive(Clone)]
    struct Slow {
        begun: Arc<AtomicUsize>,
        written: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
        flights: Arc<Flights<&'static str, (usize, usize)>>,
    }

    impl Slow {
        fn new() -> Self {
            let gate = Arc::new(Semaphore::new(0));
            Self { begun: Arc::default(), written: Arc::default(), gate, flights: Arc::default() }
        }

        async fn read(self, key: &'static str) -> (usize, usize) {
            let server = self.clone();
            let read = move || {
                async move {
                    let number = server.begun.fetch_add(1, Ordering::SeqCst);
                    let written = server.written.load(Ordering::SeqCst);
                    server.gate.acquire().await.unwrap().forget();
                    (number, written)
                }
                .boxed()
            };
            self.flights.join(key, read).await
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::SeqCst)
        }
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_burst_costs_two_reads() {
        let server = Slow::new();
        let first = tokio::spawn(server.clone().read("a"));
        settle().await;
        let burst: Vec<_> = (0..500).map(|_| tokio::spawn(server.clone().read("a"))).collect();
        settle().await;
        assert_eq!(server.begun(), 1);
        server.gate.add_permits(10);
        assert_eq!(first.await.unwrap().0, 0);
        assert!(join_all(burst).await.into_iter().all(|found| found.unwrap().0 == 1));
        assert_eq!(server.begun(), 2);
        assert!(server.flights.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn nobody_gets_what_was_read_before_they_asked() {
        let server = Slow::new();
        let first = tokio::spawn(server.clone().read("a"));
        settle().await;
        server.written.store(1, Ordering::SeqCst);
        let second = tokio::spawn(server.clone().read("a"));
        settle().await;
        server.gate.add_permits(2);
        assert_eq!((first.await.unwrap().1, second.await.unwrap().1), (0, 1));
    }

    #[tokio::test]
    async fn other_things_are_read_at_the_same_time() {
        let server = Slow::new();
        let both = [tokio::spawn(server.clone().read("a")), tokio::spawn(server.clone().read("b"))];
        settle().await;
        assert_eq!(server.begun(), 2);
        server.gate.add_permits(2);
        join_all(both).await.into_iter().for_each(|found| _ = found.unwrap());
    }

    #[tokio::test]
    async fn whoever_gives_up_holds_nobody_up() {
        let server = Slow::new();
        let (first, second) = (tokio::spawn(server.clone().read("a")), tokio::spawn(server.clone().read("a")));
        settle().await;
        first.abort();
        second.abort();
        settle().await;
        let waiting = tokio::spawn(server.clone().read("a"));
        settle().await;
        server.gate.add_permits(10);
        waiting.await.unwrap();
        assert!(server.flights.0.lock().unwrap().is_empty());
        server.read("a").await;
    }
}
