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
        let id = format!("2026-{number:04}{}", kind.chars().next().unwrap_or_default().to_uppercase());
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
        let answer = state.backups.clone().unwrap_or_else(|| Err(nobody(pooler)));
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
        let answer = match &mut state.backups {
            Some(Ok(backups)) => {
                let Expiry::Set(id) = what else { return async move { Ok(Vec::new()) }.boxed() };
                let before = backups.len();
                backups.retain(|backup| !backup.id.starts_with(id.as_str()));
                Ok(if backups.len() < before { vec![id.clone()] } else { Vec::new() })
            }
            Some(Err(error)) => Err(error.clone()),
            None => Err(nobody(admin)),
        };
        async move { answer }.boxed()
    }
}
