//! Which of the watched namespaces are completely listed.
//!
//! A pass that misses objects would make them again, so nothing in a namespace is reconciled before every watch of it has
//! delivered its first list. A namespace that may not be read (it is gone, and its Roles with it) does not hold up the others.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

/// A watched namespace; none is all of them.
pub type Scope = Option<String>;

/// How far the first lists of one scope have come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Watches without a first list.
    pending: usize,
    /// Whether one of them was forbidden.
    refused: bool,
}

impl Progress {
    fn open(self) -> bool {
        self.pending == 0
    }
}

/// Opens scope by scope.
#[derive(Debug, Default)]
pub struct Gate {
    scopes: Mutex<HashMap<Scope, Progress>>,
    changed: Notify,
}

impl Gate {
    /// Announces one more watch of a scope. All of them have to be announced before the first is started.
    pub fn expect(&self, scope: &Scope) {
        self.lock().entry(scope.clone()).or_default().pending += 1;
    }

    /// Counts the first list of a watch; returns whether that opened the scope.
    pub fn listed(&self, scope: &Scope) -> bool {
        let opened = {
            let mut scopes = self.lock();
            let Some(progress) = scopes.get_mut(scope).filter(|progress| !progress.open()) else { return false };
            progress.pending -= 1;
            progress.open()
        };
        if opened {
            self.changed.notify_waiters();
        }
        opened
    }

    /// Notes that a first list was forbidden, so that nobody waits for this scope. It opens all the same once it may be read.
    pub fn refused(&self, scope: &Scope) {
        if let Some(progress) = self.lock().get_mut(scope) {
            progress.refused = true;
        }
        self.changed.notify_waiters();
    }

    /// Whether objects of this namespace may be reconciled.
    pub fn is_open(&self, namespace: &str) -> bool {
        let scopes = self.lock();
        let progress = scopes.get(&None).or_else(|| scopes.get(&Some(namespace.to_owned())));
        progress.is_some_and(|progress| progress.open())
    }

    /// Waits until every scope is open or refused, and at least one is open. Returns the refused ones.
    pub async fn settled(&self) -> Vec<String> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // Registered before looking, lest a change in between be missed.
            changed.as_mut().enable();
            if let Some(refused) = self.refused_when_settled() {
                return refused;
            }
            changed.await;
        }
    }

    fn refused_when_settled(&self) -> Option<Vec<String>> {
        let scopes = self.lock();
        let settled = scopes.values().all(|progress| progress.open() || progress.refused);
        let useful = scopes.values().any(|progress| progress.open());
        let closed = scopes.iter().filter(|(_, progress)| !progress.open());
        (settled && useful).then(|| {
            let mut refused: Vec<String> = closed.filter_map(|(scope, _)| scope.clone()).collect();
            refused.sort();
            refused
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Scope, Progress>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn gate(scopes: &[Scope], watches: usize) -> Gate {
        let gate = Gate::default();
        for scope in scopes {
            (0..watches).for_each(|_| gate.expect(scope));
        }
        gate
    }

    fn named(name: &str) -> Scope {
        Scope::from(name.to_owned())
    }

    #[test]
    fn a_namespace_opens_with_its_last_list_and_not_with_those_of_others() {
        let gate = gate(&[named("a"), named("b")], 2);
        assert!(!gate.listed(&named("a")) && !gate.listed(&named("b")));
        assert!(!gate.is_open("a"));
        assert!(gate.listed(&named("a")));
        assert!(gate.is_open("a") && !gate.is_open("b") && !gate.is_open("c"));
        assert!(gate.settled().now_or_never().is_none());
        assert!(gate.listed(&named("b")));
        assert_eq!(gate.settled().now_or_never(), Some(Vec::new()));
    }

    #[test]
    fn all_namespaces_open_at_once() {
        let gate = gate(&[None], 2);
        assert!(!gate.listed(&None) && !gate.is_open("a"));
        assert!(gate.listed(&None) && gate.is_open("a"));
    }

    #[test]
    fn a_namespace_that_may_not_be_read_holds_up_nobody_and_opens_later() {
        let gate = gate(&[named("a"), named("gone")], 1);
        gate.refused(&named("gone"));
        assert!(gate.settled().now_or_never().is_none(), "nothing is open yet");
        gate.listed(&named("a"));
        assert_eq!(gate.settled().now_or_never(), Some(vec!["gone".to_owned()]));
        assert!(!gate.is_open("gone"));
        assert!(gate.listed(&named("gone")) && gate.is_open("gone"));
    }

    #[test]
    fn without_any_rights_nothing_is_settled() {
        let gate = gate(&[None], 1);
        gate.refused(&None);
        assert!(gate.settled().now_or_never().is_none());
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_the_last_list() {
        let gate = gate(&[None], 1);
        let (refused, opened) = tokio::join!(gate.settled(), async { gate.listed(&None) });
        assert!(refused.is_empty() && opened);
    }
}
