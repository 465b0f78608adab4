//! Counts what a client did from the API server's audit log, which no client can embellish.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::wait::until;

/// The controller's user name in the log ends so.
pub const CONTROLLER_USER: &str = "multigres-operator-controller-manager";

/// Verbs that change something.
const WRITES: [&str; 6] = ["create", "update", "patch", "delete", "deletecollection", "apply"];

/// Child kinds of ours, by resource.
const OURS: [&str; 4] = ["cells", "tablegroups", "shards", "toposervers"];

/// A place in the audit log from which events are counted.
#[derive(Clone, Debug)]
pub struct Mark {
    path: PathBuf,
    offset: u64,
}

/// Writes of one client since a mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// (verb, resource with subresource) → count, without Leases and Events.
    pub by_resource: BTreeMap<(String, String), usize>,
    /// Writes to Leases.
    pub leases: usize,
    /// Writes to Events.
    pub events: usize,
    /// Reads of any kind, watches included.
    pub reads: usize,
    /// Resource → objects that were created, by create or by the first apply.
    pub created: BTreeMap<String, usize>,
}

impl Writes {
    /// All writes but Leases and Events.
    pub fn total(&self) -> usize {
        self.by_resource.values().sum()
    }

    /// The fewest writes that could have done the same: each created object once, and for each object of ours (the cluster
    /// included) one progressing and one final status.
    pub fn floor(&self) -> usize {
        let children: usize = OURS.iter().filter_map(|resource| self.created.get(*resource)).sum();
        self.created.values().sum::<usize>() + 2 * (children + 1)
    }
}

impl Mark {
    /// Marks the current end of the log.
    pub fn now(path: &Path) -> Result<Self> {
        let offset = std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
        Ok(Self { path: path.to_owned(), offset })
    }

    /// Waits until a user has written nothing but Leases for `seconds` in namespaces that `wanted` accepts.
    pub async fn quiet(
        path: &Path,
        user: &str,
        wanted: impl Fn(&str) -> bool,
        seconds: u64,
        deadline: Duration,
    ) -> Result<()> {
        let (mut mark, mut since) = (Self::now(path)?, Instant::now());
        until("a time without writes", deadline, || {
            let writes = mark.since(user, &wanted);
            let next = Self::now(path);
            let answer = (|| {
                let (writes, next) = (writes?, next?);
                if writes.total() + writes.events > 0 {
                    (mark, since) = (next, Instant::now());
                }
                let quiet = since.elapsed();
                ensure!(quiet >= Duration::from_secs(seconds), "quiet for {} s; last {writes:?}", quiet.as_secs());
                Ok(())
            })();
            async move { answer }
        })
        .await
    }

    /// What users whose name contains `user` did since the mark, in namespaces that `wanted` accepts.
    pub fn since(&self, user: &str, wanted: impl Fn(&str) -> bool) -> Result<Writes> {
        let mut file = File::open(&self.path).with_context(|| format!("reading {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut writes = Writes::default();
        for line in BufReader::new(file).lines() {
            let line = line?;
            // Most lines are of others, and telling so is cheaper than parsing them; a story looks again and again.
            if !line.contains(user) {
                continue;
            }
            // The last line may be cut off in the middle of being written.
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            writes.count(&event, user, &wanted);
        }
        Ok(writes)
    }
}

impl Writes {
    fn count(&mut self, event: &Value, user: &str, wanted: impl Fn(&str) -> bool) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = text(&event["objectRef"]["namespace"]);
        if event["stage"] != "ResponseComplete" || !text(&event["user"]["username"]).contains(user) {
            return;
        }
        let verb = text(&event["verb"]);
        if !WRITES.contains(&verb.as_str()) {
            self.reads += 1;
            return;
        }
        match event["objectRef"]["resource"].as_str().unwrap_or_default() {
            "leases" => self.leases += 1,
            "events" if wanted(&namespace) => self.events += 1,
            "events" => {}
            resource if wanted(&namespace) => {
                let subresource =
                    event["objectRef"]["subresource"].as_str().map(|s| format!("/{s}")).unwrap_or_default();
                if subresource.is_empty() && event["responseStatus"]["code"] == 201 {
                    *self.created.entry(resource.to_owned()).or_insert(0) += 1;
                }
                *self.by_resource.entry((verb, format!("{resource}{subresource}"))).or_insert(0) += 1;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::json;

    use super::*;

    fn event(user: &str, verb: &str, resource: &str, subresource: Option<&str>) -> Value {
        json!({"stage": "ResponseComplete", "verb": verb, "user": {"username": user},
               "objectRef": {"resource": resource, "namespace": "n", "subresource": subresource}})
    }

    #[test]
    fn leases_and_events_are_counted_apart() {
        let mut writes = Writes::default();
        for event in [
            event("sa:manager", "patch", "pods", None),
            event("sa:manager", "patch", "shards", Some("status")),
            event("sa:manager", "update", "leases", None),
            event("sa:manager", "create", "events", None),
            event("sa:manager", "watch", "pods", None),
            event("somebody", "patch", "pods", None),
        ] {
            writes.count(&event, "manager", |namespace| namespace == "n");
        }
        assert_eq!((writes.total(), writes.leases, writes.events, writes.reads), (2, 1, 1, 1));
        assert_eq!(writes.by_resource[&("patch".to_owned(), "shards/status".to_owned())], 1);
    }

    #[test]
    fn the_floor_is_each_object_once_and_two_statuses_for_each_of_ours() {
        let mut writes = Writes::default();
        for resource in ["cells", "services", "pods"] {
            let mut created = event("manager", "patch", resource, None);
            created["responseStatus"] = json!({"code": 201});
            writes.count(&created, "manager", |_| true);
        }
        assert_eq!(writes.floor(), 3 + 2 * 2);
    }

    #[test]
    fn a_log_is_read_from_its_mark_on_and_for_one_user() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        writeln!(log, "{}", event("sa:manager", "patch", "pods", None)).unwrap();
        let mark = Mark::now(log.path()).unwrap();
        for user in ["sa:manager", "somebody", "sa:manager"] {
            writeln!(log, "{}", event(user, "patch", "shards", None)).unwrap();
        }
        write!(log, r#"{{"stage": "ResponseComplete", "user": {{"username": "sa:man"#).unwrap();
        let writes = mark.since("manager", |_| true).unwrap();
        assert_eq!(writes.by_resource, BTreeMap::from([(("patch".to_owned(), "shards".to_owned()), 2)]));
    }

    #[test]
    fn other_namespaces_are_left_out() {
        let mut writes = Writes::default();
        writes.count(&event("manager", "patch", "pods", None), "manager", |namespace| namespace == "other");
        assert_eq!(writes.total(), 0);
    }
}
