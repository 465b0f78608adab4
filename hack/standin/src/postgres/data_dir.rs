//! The data directory: what initdb and a restore leave behind, and the settings in its files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::launch;

/// What the stand-in keeps instead of tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The identity that initdb draws; members of a shard share it.
    pub system_id: u64,
    /// The end of the log.
    pub lsn: u64,
    /// The shard's rule in its text form.
    pub rule: String,
    /// What the primary was started with of the settings that a standby must not have lower.
    #[serde(default)]
    pub critical: BTreeMap<String, u64>,
}

/// A data directory that may or may not exist yet.
#[derive(Clone, Debug)]
pub struct DataDir(pub PathBuf);

impl DataDir {
    /// Whether it was initialised.
    pub fn exists(&self) -> bool {
        self.0.join("PG_VERSION").exists()
    }

    /// Creates it; `include` names the files that the configuration takes in.
    pub fn create(&self, content: &Content, include: &[String]) -> Result<()> {
        check_user(launch::uid()?, &fs::read_to_string("/etc/passwd").unwrap_or_default())?;
        if self.0.exists() {
            if fs::read_dir(&self.0)?.next().is_some() {
                bail!("initdb: error: directory \"{}\" exists but is not empty", self.0.display());
            }
            if fs::metadata(&self.0)?.uid() != launch::uid()? {
                bail!(
                    "initdb: error: could not change permissions of directory \"{}\": Operation not permitted",
                    self.0.display()
                );
            }
        } else {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.0)
                .with_context(|| format!("initdb: error: could not create directory \"{}\"", self.0.display()))?;
        }
        let mut configuration = String::from(
            "max_connections = 110\nshared_buffers = 64MB\nwal_level = logical\nmax_wal_senders = 25\n\
             max_replication_slots = 25\n",
        );
        for file in include {
            let _ = writeln!(configuration, "include_if_exists = '{file}'");
        }
        fs::write(self.0.join("postgresql.conf"), configuration)?;
        self.save(content)?;
        fs::write(self.0.join("PG_VERSION"), "17\n")?;
        Ok(())
    }

    /// Creates it from a backup: the configuration comes along, and it starts as a standby.
    pub fn restore(&self, content: &Content, configuration: &str) -> Result<()> {
        if self.exists() {
            bail!("cannot restore: PGDATA already exists; caller must stop PostgreSQL and remove PGDATA first");
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .with_context(|| format!("unable to create path '{}'", self.0.display()))?;
        fs::write(self.0.join("postgresql.conf"), configuration)?;
        self.save(content)?;
        self.set_standby(true)?;
        fs::write(self.0.join("PG_VERSION"), "17\n")?;
        Ok(())
    }

    /// The text of its configuration, for a backup.
    pub fn configuration(&self) -> String {
        fs::read_to_string(self.0.join("postgresql.conf")).unwrap_or_default()
    }

    /// Reads the content.
    pub fn load(&self) -> Result<Content> {
        let path = self.0.join("standin.json");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Writes the content in one step.
    pub fn save(&self, content: &Content) -> Result<()> {
        let path = self.0.join("standin.json");
        let draft = self.0.join("standin.json.new");
        fs::write(&draft, serde_json::to_vec(content)?)?;
        fs::rename(draft, path)?;
        Ok(())
    }

    /// Whether it starts as a standby.
    pub fn is_standby(&self) -> bool {
        self.0.join("standby.signal").exists()
    }

    /// Makes it start as a standby, or as a primary.
    pub fn set_standby(&self, standby: bool) -> Result<()> {
        let path = self.0.join("standby.signal");
        if standby {
            fs::write(path, "")?;
        } else if path.exists() {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Removes everything in it.
    pub fn wipe(&self) -> Result<()> {
        if self.0.exists() {
            fs::remove_dir_all(&self.0)?;
        }
        Ok(())
    }

    /// The settings as PostgreSQL would see them in its files now.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        read_settings(&self.0.join("postgresql.conf"), &mut settings, 0);
        read_settings(&self.0.join("postgresql.auto.conf"), &mut settings, 0);
        settings
    }
}

/// Settings that a standby must not have lower than its primary, and what counts where the files say nothing.
const CRITICAL: [(&str, u64); 5] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

impl DataDir {
    /// What a server that starts now is started with.
    pub fn critical(&self) -> BTreeMap<String, u64> {
        let settings = self.settings();
        let value = |name: &str| settings.get(name).and_then(|text| text.parse().ok());
        CRITICAL.iter().map(|(name, default)| ((*name).to_owned(), value(name).unwrap_or(*default))).collect()
    }

    /// Refuses to start as a standby with less than the primary was started with whose log is here.
    pub fn check_standby(&self, content: &Content) -> Result<()> {
        for (name, own) in self.critical() {
            if let Some(primary) = content.critical.get(&name).filter(|primary| own < **primary) {
                bail!(
                    "FATAL: recovery aborted because of insufficient parameter settings: {name} = {own} is a lower setting \
                     than on the primary server, where its value was {primary}"
                );
            }
        }
        Ok(())
    }
}

/// initdb's own conditions: not root, and a user that the system knows.
fn check_user(uid: u32, passwd: &str) -> Result<()> {
    if uid == 0 {
        bail!("initdb: error: cannot be run as root");
    }
    let known = passwd.lines().any(|line| line.split(':').nth(2) == Some(&uid.to_string()));
    if !known {
        bail!("initdb: error: could not look up effective user ID {uid}: user does not exist");
    }
    Ok(())
}

fn read_settings(path: &Path, settings: &mut BTreeMap<String, String>, depth: usize) {
    let Ok(text) = fs::read_to_string(path) else { return };
    for (name, value) in text.lines().filter_map(setting) {
        if matches!(name.as_str(), "include" | "include_if_exists") {
            if depth < 10 {
                let target = path.parent().unwrap_or(Path::new("/")).join(&value);
                read_settings(&target, settings, depth + 1);
            }
        } else {
            settings.insert(name, value);
        }
    }
}

/// Name and value of one line of postgresql.conf.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let end = line.find(|c: char| c.is_whitespace() || c == '=')?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let rest = rest.trim_start().strip_prefix('=').unwrap_or(rest).trim_start();
    let value = if let Some(quoted) = rest.strip_prefix('\'') {
        let mut value = String::new();
        let mut letters = quoted.chars().peekable();
        while let Some(letter) = letters.next() {
            if letter == '\'' {
                if letters.peek() != Some(&'\'') {
                    break;
                }
                letters.next();
            }
            value.push(letter);
        }
        value
    } else {
        rest.split('#').next().unwrap_or_default().trim().to_owned()
    };
    Some((name.to_ascii_lowercase(), value))
}

/// Refuses arguments that initdb does not know.
pub fn check_initdb_args(text: &str) -> Result<()> {
    const KNOWN: &[&str] = &[
        "--allow-group-access",
        "--auth",
        "--auth-host",
        "--auth-local",
        "--builtin-locale",
        "--data-checksums",
        "--encoding",
        "--icu-locale",
        "--icu-rules",
        "--lc-collate",
        "--lc-ctype",
        "--lc-messages",
        "--lc-monetary",
        "--lc-numeric",
        "--lc-time",
        "--locale",
        "--locale-provider",
        "--no-locale",
        "--no-sync",
        "--no-instructions",
        "--set",
        "--sync-method",
        "--text-search-config",
        "--wal-segsize",
        "--waldir",
    ];
    for word in text.split_whitespace().filter(|word| word.starts_with("--")) {
        let name = word.split('=').next().unwrap_or_default();
        if !KNOWN.contains(&name) {
            bail!("initdb: unrecognized option '{name}'");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_follow_includes_and_the_last_one_wins() {
        let directory = tempfile::tempdir().unwrap();
        let extra = directory.path().join("extra.conf");
        fs::write(&extra, "# comment\nwork_mem = '8MB' # why\nlog_line_prefix = 'it''s '\nmax_connections 200\n")
            .unwrap();
        fs::write(
            directory.path().join("postgresql.conf"),
            format!(
                "max_connections = 110\ninclude_if_exists = '{}'\ninclude_if_exists = 'missing.conf'\n",
                extra.display()
            ),
        )
        .unwrap();
        let settings = DataDir(directory.path().to_owned()).settings();
        assert_eq!(settings["work_mem"], "8MB");
        assert_eq!(settings["log_line_prefix"], "it's ");
        assert_eq!(settings["max_connections"], "200");
        assert!(!settings.contains_key("include_if_exists"));
    }

    #[test]
    fn initdb_wants_a_known_user_that_is_not_root() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/:/bin/sh\n";
        assert!(check_user(0, passwd).unwrap_err().to_string().contains("root"));
        assert!(check_user(1001, passwd).unwrap_err().to_string().contains("1001"));
        assert!(check_user(999, passwd).is_ok());
    }

    #[test]
    fn initdb_refuses_unknown_options() {
        assert!(check_initdb_args("--locale=C --encoding UTF8 -k").is_ok());
        assert!(check_initdb_args("--colour").unwrap_err().to_string().contains("--colour"));
    }

    #[test]
    fn a_standby_does_not_start_with_less_than_its_primary() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir(directory.path().to_owned());
        let write = |text: &str| fs::write(directory.path().join("postgresql.conf"), text).unwrap();
        write("max_connections = 300\n");
        let content = Content { critical: data.critical(), ..Content::default() };
        assert!(data.check_standby(&content).is_ok());
        write("max_connections = 400\n");
        assert!(data.check_standby(&content).is_ok());
        write("max_connections = 100\n");
        let refusal = data.check_standby(&content).unwrap_err().to_string();
        assert!(refusal.contains("max_connections = 100") && refusal.contains("300"), "{refusal}");
        assert!(data.check_standby(&Content::default()).is_ok(), "data of an earlier version says nothing");
    }

    #[test]
    fn content_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir(directory.path().to_owned());
        let content = Content { system_id: 7, lsn: 42, rule: "00".into(), ..Content::default() };
        data.save(&content).unwrap();
        assert_eq!(data.load().unwrap(), content);
        data.set_standby(true).unwrap();
        assert!(data.is_standby());
        data.set_standby(false).unwrap();
        assert!(!data.is_standby());
    }
}
