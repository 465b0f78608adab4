//! Processes that outlive the command which started them, found again by pid and start time and never by name.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// A process as the bed's state remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The process id.
    pub pid: u32,
    /// The start time in clock ticks since boot: tells a reused pid from ours.
    pub start_time: u64,
    /// Where its output goes.
    pub log: PathBuf,
}

/// What happens to a process when its starter ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It goes on, in a session of its own.
    Detached,
    /// The kernel kills it.
    WithParent,
}

/// A process that shall be started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The words of the command; the first one is the program.
    pub words: Vec<String>,
    /// Variables on top of the inherited environment.
    pub env: Vec<(String, String)>,
    /// Its working directory.
    pub dir: PathBuf,
    /// Where its output goes; appended to.
    pub log: PathBuf,
    /// What happens when the starter ends.
    pub lifetime: Lifetime,
}

impl Recorded {
    /// Whether this very process still runs.
    pub fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Sends a signal if the process is still the recorded one.
    pub fn signal(&self, signal: Signal) {
        if self.alive() {
            send(self.pid, signal);
        }
    }

    /// Asks the process to end, waits for at most `grace`, then kills it and waits until it is gone.
    pub fn stop(&self, grace: Duration) -> Result<()> {
        stop_all(std::slice::from_ref(self), grace)
    }
}

/// Asks all processes to end at once, waits for at most `grace` in all, then kills the rest.
pub fn stop_all(processes: &[Recorded], grace: Duration) -> Result<()> {
    for process in processes {
        process.signal(Signal::TERM);
    }
    if wait_until(grace, || !processes.iter().any(Recorded::alive)) {
        return Ok(());
    }
    for process in processes {
        process.signal(Signal::KILL);
    }
    if wait_until(Duration::from_secs(10), || !processes.iter().any(Recorded::alive)) {
        return Ok(());
    }
    let left: Vec<String> = processes.iter().filter(|p| p.alive()).map(|p| p.pid.to_string()).collect();
    bail!(
        "processes {} do not end although they were killed; look at /proc/PID/stack for what holds them",
        left.join(", ")
    )
}

/// Sends a signal to a pid; a process that is gone is no error.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Gone already is what the caller wants; anything else shows up as a process that does not end.
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

/// The start time of a process in clock ticks since boot, or nothing if it is gone or a zombie.
pub fn start_time(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<u64> {
    // The command name may hold spaces and parentheses; the fields begin behind the last one.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // The first thread may be gone while others still hold files and sockets: only then is a zombie really gone.
    let threads: u32 = fields.get(17)?.parse().ok()?;
    if matches!(fields.first(), Some(&"Z" | &"X")) && threads <= 1 {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Every pid of the machine.
pub fn all_pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Starts a process and returns how to find it again.
pub fn spawn(launch: Launch) -> Result<Recorded> {
    let program = launch.words.first().cloned().context("an empty command")?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&launch.log)
        .with_context(|| format!("opening {}", launch.log.display()))?;
    let errors = log.try_clone().context("duplicating the log's handle")?;
    let log_path = launch.log.clone();
    let (sender, receiver) = mpsc::channel();
    // The kernel ties "dies with its parent" to the parent's thread, so a thread of its own starts the child, stays and reaps it.
    std::thread::spawn(move || {
        let prefix: &[&str] = match launch.lifetime {
            Lifetime::Detached => &["setsid"],
            Lifetime::WithParent => &["setpriv", "--pdeathsig", "KILL"],
        };
        let mut command = Command::new(prefix[0]);
        command
            .args(&prefix[1..])
            .args(&launch.words)
            .envs(launch.env)
            .current_dir(&launch.dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        match command.spawn() {
            Ok(mut child) => {
                let sent = sender.send(Ok(child.id()));
                drop(sent);
                let _status = child.wait();
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    });
    let pid = receiver
        .recv()
        .context("the starting thread ended")?
        .with_context(|| format!("starting {program}; is `setsid` (package util-linux) installed?"))?;
    let start_time = start_time(pid).ok_or_else(|| {
        anyhow!("{program} ended at once; its log is {}:\n{}", log_path.display(), tail(&log_path, 15))
    })?;
    Ok(Recorded { pid, start_time, log: log_path })
}

/// Runs a command to its end and returns its standard output; an error carries the end of its standard error.
pub fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    output(&mut command)
}

/// Runs a prepared command to its end, like [`run`].
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting `{shown}`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("`{shown}` failed ({}): {}", output.status, last_lines(&String::from_utf8_lossy(&output.stderr), 15))
}

/// Runs a command to its end with `input` on its standard input.
pub fn feed(command: &mut Command, input: &str) -> Result<String> {
    use std::io::Write as _;
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{shown}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("writing to `{shown}`"))?;
    }
    let output = child.wait_with_output().with_context(|| format!("waiting for `{shown}`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("`{shown}` failed ({}): {}", output.status, last_lines(&String::from_utf8_lossy(&output.stderr), 15))
}

fn show(command: &Command) -> String {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// The last lines of a file, for error messages.
pub fn tail(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(16 * 1024)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_or_else(|error| format!("({} cannot be read: {error})", path.display()), |text| last_lines(&text, lines))
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Asks `done` again and again until it says yes (true) or the time is up (false).
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until `ready` says yes; fails early, with the end of its log, when `process` ends meanwhile.
pub fn wait_ready(
    what: &str,
    process: &Recorded,
    limit: Duration,
    mut ready: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut last = None;
    let mut died = false;
    let done = wait_until(limit, || {
        if !process.alive() {
            died = true;
            return true;
        }
        match ready() {
            Ok(()) => true,
            Err(error) => {
                last = Some(error);
                false
            }
        }
    });
    if done && !died {
        return Ok(());
    }
    let why = if died { "ended".to_owned() } else { format!("is not ready after {} s", limit.as_secs()) };
    let last = last.map(|error| format!("\nlast answer: {error:#}")).unwrap_or_default();
    bail!("{what} {why}; its log is {}, which ends with:\n{}{last}", process.log.display(), tail(&process.log, 15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_command_name_with_parentheses() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_stat(stat), Some(4242));
    }

    #[test]
    fn a_zombie_counts_as_gone() {
        assert_eq!(parse_stat("7 (x) Z 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9"), None);
    }

    #[test]
    fn a_zombie_whose_other_threads_still_end_counts_as_there() {
        assert_eq!(parse_stat("7 (x) Z 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 4242 9 9"), Some(4242));
    }

    #[test]
    fn a_stopped_process_is_gone_and_its_log_holds_its_output() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("out.log");
        let words = ["sh", "-c", "echo started; exec sleep 1000"].map(str::to_owned).to_vec();
        let launch =
            Launch { words, env: Vec::new(), dir: dir.path().into(), log: log.clone(), lifetime: Lifetime::WithParent };
        let process = spawn(launch).unwrap();
        assert!(wait_until(Duration::from_secs(10), || tail(&log, 1) == "started"));
        assert!(process.alive());
        process.stop(Duration::from_secs(5)).unwrap();
        assert!(!process.alive());
        let reused = Recorded { pid: std::process::id(), start_time: 1, log };
        assert!(!reused.alive(), "a pid with another start time is another process");
    }

    #[test]
    fn a_failing_command_reports_its_words_and_its_errors() {
        let error = run("sh", ["-c", "echo broken >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains("sh -c"), "{error}");
    }
}
