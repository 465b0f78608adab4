//! A repository in memory, with an administration service that runs jobs on it and everything that can go wrong with either.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt as _, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};

use super::{
    Error, PoolerAddress, Result, ShardKey,
    backup::{Archiver, Backup, Backups, Expiry, Job, Order},
};

/// The repository of one shard, and those who are asked about it. Without [`FakeBackups::open`] nobody answers.
#[derive(Default)]
pub struct FakeBackups {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    backups: Option<Result<Vec<Backup>>>,
    /// What each backup builds on.
    priors: BTreeMap<String, String>,
    /// Poolers that say something else than the repository, by host.
    astray: BTreeMap<String, Result<Vec<Backup>>>,
    removals: Option<Error>,
    archiver: Option<Result<Archiver>>,
    starts: Option<Error>,
    jobs: BTreeMap<String, Option<Job>>,
    lost: bool,
    orders: Vec<Order>,
    expired: Vec<Expiry>,
    lists: usize,
}

impl FakeBackups {
    /// Sets what the repository answers from now on.
    pub fn open(&self, answer: Result<Vec<Backup>>) {
        self.lock().backups = Some(answer);
    }

    /// Has the pooler at a host answer this, whatever the repository holds.
    pub fn mislead(&self, host: &str, answer: Result<Vec<Backup>>) {
        self.lock().astray.insert(host.to_owned(), answer);
    }

    /// Lets removals fail from now on, or succeed.
    pub fn keep(&self, error: Option<Error>) {
        self.lock().removals = error;
    }

    /// Names of what the repository holds, in order.
    pub fn held(&self) -> Vec<String> {
        match &self.lock().backups {
            Some(Ok(backups)) => backups.iter().map(|backup| backup.id.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// Sets what the exporter answers from now on.
    pub fn archiving(&self, answer: Result<Archiver>) {
        self.lock().archiver = Some(answer);
    }

    /// Lets starts of backups fail from now on, or succeed.
    pub fn refuse(&self, error: Option<Error>) {
        self.lock().starts = error;
    }

    /// Lets the service forget its jobs, or remember them again.
    pub fn forget_jobs(&self, lost: bool) {
        self.lock().lost = lost;
    }

    /// The jobs that run.
    pub fn running(&self) -> Vec<String> {
        let running = |(id, job): (&String, &Option<Job>)| (*job == Some(Job::Running)).then(|| id.clone());
        self.lock().jobs.iter().filter_map(running).collect()
    }

    /// Ends a job well, at `now`: its backup is in the repository.
    pub fn complete(&self, job: &str, now: Timestamp) {
        let mut state = self.lock();
        let number = state.jobs.keys().position(|known| known == job).unwrap_or_default();
        let Some(order) = state.orders.get(number).cloned() else { return };
        let kind = match order.level {
            "full" => "full",
            "differential" => "diff",
            _ => "incr",
        };
        let held =
            state.backups.as_ref().and_then(|answer| answer.as_ref().ok()).map(Vec::as_slice).unwrap_or_default();
        let prior = match kind {
            "full" => None,
            "diff" => held.iter().rev().find(|backup| backup.kind == "full"),
            _ => held.last(),
        };
        let prior = prior.map(|backup| backup.id.clone());
        let stamp = format!("2026-{number:04}{}", kind.chars().next().unwrap_or_default().to_uppercase());
        let base = prior.as_deref().and_then(|prior| prior.split('_').next());
        let id = base.map_or_else(|| stamp.clone(), |base| format!("{base}_{stamp}"));
        state.priors.extend(prior.map(|prior| (id.clone(), prior)));
        let made = Backup {
            id: id.clone(),
            kind: kind.to_owned(),
            complete: true,
            start: Some(now - SignedDuration::from_secs(72)),
            stop: Some(now),
            job: job.to_owned(),
            bytes: 31_457_280,
            wal_start: "0/3000028".to_owned(),
            wal_stop: "0/3000138".to_owned(),
            pooler: "p-1".to_owned(),
        };
        match &mut state.backups {
            Some(Ok(backups)) => backups.push(made),
            _ => state.backups = Some(Ok(vec![made])),
        }
        state.jobs.insert(job.to_owned(), Some(Job::Completed(id)));
    }

    /// Ends a job badly.
    pub fn fail(&self, job: &str, message: &str) {
        self.lock().jobs.insert(job.to_owned(), Some(Job::Failed(message.to_owned())));
    }

    /// What was ordered so far.
    pub fn orders(&self) -> Vec<Order> {
        self.lock().orders.clone()
    }

    /// What was asked to be removed so far.
    pub fn expired(&self) -> Vec<Expiry> {
        self.lock().expired.clone()
    }

    /// How often the repository was read so far.
    pub fn lists(&self) -> usize {
        self.lock().lists
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nobody(target: &PoolerAddress) -> Error {
    Error::Unavailable { target: target.to_string(), detail: "nobody is there".to_owned() }
}

impl Backups for FakeBackups {
    fn list<'a>(&'a self, pooler: &'a PoolerAddress) -> BoxFuture<'a, Result<Vec<Backup>>> {
        let mut state = self.lock();
        state.lists += 1;
        let astray = state.astray.get(&pooler.host).cloned();
        let answer = astray.or_else(|| state.backups.clone()).unwrap_or_else(|| Err(nobody(pooler)));
        async move { answer }.boxed()
    }

    fn archiver<'a>(&'a self, exporter: &'a PoolerAddress) -> BoxFuture<'a, Result<Archiver>> {
        let answer = self.lock().archiver.clone().unwrap_or_else(|| Err(nobody(exporter)));
        async move { answer }.boxed()
    }

    fn start<'a>(&'a self, admin: &'a PoolerAddress, order: &'a Order) -> BoxFuture<'a, Result<String>> {
        let mut state = self.lock();
        let answer = match (&state.backups, &state.starts) {
            (_, Some(error)) => Err(error.clone()),
            (None, None) => Err(nobody(admin)),
            (Some(_), None) => {
                let id = format!("job-{:04}", state.orders.len());
                state.orders.push(order.clone());
                state.jobs.insert(id.clone(), Some(Job::Running));
                Ok(id)
            }
        };
        async move { answer }.boxed()
    }

    fn job<'a>(
        &'a self,
        admin: &'a PoolerAddress,
        _: &'a ShardKey,
        job: &'a str,
    ) -> BoxFuture<'a, Result<Option<Job>>> {
        let state = self.lock();
        let known = if state.lost { None } else { state.jobs.get(job).cloned().flatten() };
        let answer = if state.backups.is_none() { Err(nobody(admin)) } else { Ok(known) };
        async move { answer }.boxed()
    }

    fn expire<'a>(
        &'a self,
        admin: &'a PoolerAddress,
        _: &'a ShardKey,
        what: &'a Expiry,
    ) -> BoxFuture<'a, Result<Vec<String>>> {
        let mut state = self.lock();
        state.expired.push(what.clone());
        let answer = state.remove(what, admin);
        async move { answer }.boxed()
    }
}

impl State {
    /// Removes as pgBackRest does: with a backup goes all that builds on it, and the only full one stays.
    fn remove(&mut self, what: &Expiry, admin: &PoolerAddress) -> Result<Vec<String>> {
        if let Some(error) = &self.removals {
            return Err(error.clone());
        }
        let backups = match &mut self.backups {
            Some(Ok(backups)) => backups,
            Some(Err(error)) => return Err(error.clone()),
            None => return Err(nobody(admin)),
        };
        let full: Vec<String> =
            backups.iter().filter(|backup| backup.kind == "full").map(|backup| backup.id.clone()).collect();
        let mut gone: Vec<String> = match what {
            Expiry::KeepFull(kept) => {
                let excess = full.len().saturating_sub(usize::try_from(*kept).unwrap_or_default());
                full.into_iter().take(excess).collect()
            }
            Expiry::Set(id) if full.len() == 1 && full.contains(id) => {
                let detail =
                    format!("repo1: full backup {id} cannot be expired until another full backup has been created");
                return Err(Error::Failed { target: admin.to_string(), detail });
            }
            Expiry::Set(id) => vec![id.clone()],
        };
        // What builds on a backup comes after it.
        for backup in backups.iter() {
            if self.priors.get(&backup.id).is_some_and(|prior| gone.contains(prior)) {
                gone.push(backup.id.clone());
            }
        }
        let held = |id: &String| backups.iter().any(|backup| backup.id == *id);
        gone.retain(held);
        backups.retain(|backup| !gone.contains(&backup.id));
        Ok(gone)
    }
}
