//! Follows the API server's audit log, which grows by hundreds of lines a second here: each line is read once.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;
use stories::audit::{CONTROLLER_USER, Writes};

/// What has been read of a log so far.
pub struct AuditLog {
    path: PathBuf,
    offset: u64,
}

/// What the controller wrote, and how much others did.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// Writes of the controller; reads are not counted.
    pub writes: Writes,
    /// Those of them that the API server refused.
    pub refused: usize,
    /// Writes of everybody else, without Leases and Events.
    pub others: usize,
    /// When the controller last wrote anything but a Lease.
    pub last_write: Option<Timestamp>,
    /// When the controller last created anything.
    pub last_created: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    verb: String,
    #[serde(default)]
    user: User,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Answer,
    stage_timestamp: String,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
struct Object {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
}

#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    code: u16,
}

impl AuditLog {
    /// Starts at the end of what is there now.
    pub fn open(path: &Path) -> Result<Self> {
        let mut log = Self { path: path.to_owned(), offset: 0 };
        log.forget()?;
        Ok(log)
    }

    /// Skips what was not read yet.
    pub fn forget(&mut self) -> Result<()> {
        self.lines(|_| Ok(()))
    }

    /// Counts what is new; tells whether the controller wrote anything but Leases.
    pub fn read(&mut self, count: &mut Count) -> Result<bool> {
        let before = count.writes.total() + count.writes.events;
        self.lines(|line| count.line(line))?;
        Ok(count.writes.total() + count.writes.events > before)
    }

    fn lines(&mut self, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let mut file = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).context("reading the audit log")?;
            // The last line may be in the middle of being written; the next look takes it.
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            self.offset += u64::try_from(length)?;
            each(std::str::from_utf8(&line).context("the audit log is text")?)?;
        }
    }
}

impl Count {
    fn line(&mut self, line: &str) -> Result<()> {
        // Most lines, and telling them apart is cheaper than parsing them.
        if is_read(line) {
            return Ok(());
        }
        let event: Event = serde_json::from_str(line).with_context(|| format!("in the audit log: {line}"))?;
        if event.stage != "ResponseComplete" {
            return Ok(());
        }
        let resource = event.object_ref.resource;
        if !event.user.username.contains(CONTROLLER_USER) {
            self.others += usize::from(resource != "leases" && resource != "events");
            return Ok(());
        }
        if resource == "leases" {
            self.writes.leases += 1;
            return Ok(());
        }
        let at: Timestamp = event.stage_timestamp.parse().context("the time of an audit event")?;
        self.last_write = self.last_write.max(Some(at));
        if resource == "events" {
            self.writes.events += 1;
            return Ok(());
        }
        let code = event.response_status.code;
        self.refused += usize::from(code >= 400);
        let mut name = resource;
        if event.object_ref.subresource.is_empty() {
            if code == 201 {
                self.last_created = self.last_created.max(Some(at));
                *self.writes.created.entry(name.clone()).or_insert(0) += 1;
            }
        } else {
            name = format!("{name}/{}", event.object_ref.subresource);
        }
        *self.writes.by_resource.entry((event.verb, name)).or_insert(0) += 1;
        Ok(())
    }
}

/// Whether the verb of an event changes nothing.
fn is_read(line: &str) -> bool {
    const VERB: &str = "\"verb\":\"";
    let Some(at) = line.find(VERB) else { return false };
    let verb = &line[at + VERB.len()..];
    ["get\"", "list\"", "watch\"", "head\"", "options\""].iter().any(|read| verb.starts_with(read))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(user: &str, verb: &str, resource: &str, code: u16) -> String {
        format!(
            r#"{{"stage":"ResponseComplete","verb":"{verb}","user":{{"username":"{user}"}},"objectRef":{{"resource":"{resource}"}},"responseStatus":{{"code":{code}}},"stageTimestamp":"2026-01-01T00:00:00.5Z"}}"#
        ) + "\n"
    }

    #[test]
    fn writes_of_the_controller_are_told_apart_from_leases_events_and_others() {
        let controller = format!("system:serviceaccount:x:{CONTROLLER_USER}");
        let mut count = Count::default();
        for text in [
            line(&controller, "patch", "pods", 201),
            line(&controller, "patch", "pods", 409),
            line(&controller, "update", "leases", 200),
            line(&controller, "create", "events", 201),
            line(&controller, "watch", "pods", 200),
            line("admin", "patch", "multigresclusters", 201),
        ] {
            count.line(&text).unwrap();
        }
        let writes = &count.writes;
        assert_eq!((writes.total(), writes.leases, writes.events), (2, 1, 1));
        assert_eq!((count.refused, count.others, writes.created["pods"]), (1, 1, 1));
        assert!(count.last_created.is_some());
    }

    #[test]
    fn a_line_that_is_being_written_is_read_once_it_is_whole() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut log = AuditLog::open(file.path()).unwrap();
        let text = line(CONTROLLER_USER, "patch", "pods", 200);
        let (first, second) = text.split_at(40);
        let mut count = Count::default();
        file.write_all(first.as_bytes()).unwrap();
        assert!(!log.read(&mut count).unwrap());
        file.write_all(second.as_bytes()).unwrap();
        assert!(log.read(&mut count).unwrap());
        assert!(!log.read(&mut count).unwrap());
        assert_eq!(count.writes.total(), 1);
    }
}
