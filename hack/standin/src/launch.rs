//! From a command line to a running role: parsing, the checks every binary makes, exit codes.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::flag::{self, Refusal, Values};
use crate::{admin, exporter, flag_table, gateway, orch, pooler, postgres, web};

/// The binaries that the program can stand in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The proxy that clients connect to.
    Gateway,
    /// The process next to PostgreSQL that serves queries and keeps the record.
    Pooler,
    /// The orchestrator that elects primaries.
    Orch,
    /// The administration service.
    Admin,
    /// The process that keeps PostgreSQL.
    Pgctld,
    /// The web page of the administration service.
    AdminWeb,
    /// The Prometheus exporter for PostgreSQL.
    Exporter,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 7] =
        [Self::Gateway, Self::Pooler, Self::Orch, Self::Admin, Self::Pgctld, Self::AdminWeb, Self::Exporter];

    /// The name of the binary.
    pub fn program(self) -> &'static str {
        match self {
            Self::Gateway => "multigateway",
            Self::Pooler => "multipooler",
            Self::Orch => "multiorch",
            Self::Admin => "multiadmin",
            Self::Pgctld => "pgctld",
            Self::AdminWeb => "multiadmin-web",
            Self::Exporter => "postgres_exporter",
        }
    }

    /// The role that a program path asks for.
    pub fn from_program(path: &str) -> Option<Self> {
        let name = Path::new(path).file_name()?.to_str()?;
        Self::ALL.into_iter().find(|role| role.program() == name)
    }
}

/// Runs `role` until it ends.
pub fn run(role: Role, args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    if role == Role::Pgctld {
        match args.first().map(String::as_str) {
            Some("server") => drop(args.remove(0)),
            Some(word) if !word.starts_with('-') => {
                bail!("unknown command \"{word}\" for \"pgctld\"");
            }
            _ if args.iter().any(|arg| arg == "server") => args.retain(|arg| arg != "server"),
            _ => {
                println!("Stand-in for pgctld\n\nUsage:\n  pgctld server [flags]");
                return Ok(());
            }
        }
    }
    let table = flag_table::of(role);
    let values = match flag::parse(role.program(), &table, &args, |name| std::env::var(name).ok()) {
        Ok(values) => values,
        Err(Refusal::Help(text)) => {
            print!("{text}");
            return Ok(());
        }
        Err(Refusal::Wrong(text)) => bail!(text),
    };
    set_up_logging(&values)?;
    if role != Role::Exporter && role != Role::AdminWeb {
        check_config_file(&values)?;
    }
    // pgctld itself starts as anybody; it is initdb that refuses root.
    if !matches!(role, Role::Pgctld | Role::AdminWeb) && is_root()? {
        bail!("servenv init: running as root is not permitted");
    }
    install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async move {
        match role {
            Role::Gateway => gateway::run(values).await,
            Role::Pooler => pooler::run(values).await,
            Role::Orch => orch::run(values).await,
            Role::Admin => admin::run(values).await,
            Role::Pgctld => postgres::run(values).await,
            Role::AdminWeb => web::run().await,
            Role::Exporter => exporter::run(values).await,
        }
    });
    runtime.shutdown_background();
    outcome
}

/// Chooses the one implementation of TLS for the whole process.
pub fn install_crypto() {
    // An error only says that it was chosen before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Prints what went wrong, as the real binaries do, and yields the exit code.
pub fn finish(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The real user id of this process.
pub fn uid() -> Result<u32> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().next())
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| anyhow!("no Uid in /proc/self/status"))
}

/// Whether this process runs as root.
pub fn is_root() -> Result<bool> {
    Ok(uid()? == 0)
}

/// A password from a file or the environment: an explicit but empty source is an error, never a fall-through.
pub fn password(file: Option<String>, environment: &[&str]) -> Result<String> {
    if let Some(path) = file {
        if path.is_empty() {
            bail!("password file path is set to the empty string; unset it or provide a path");
        }
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("failed to read password file \"{path}\""))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            bail!("password file \"{path}\" is empty");
        }
        return Ok(text.to_owned());
    }
    for name in environment {
        if let Ok(value) = std::env::var(name) {
            if value.is_empty() {
                bail!("env var {name} is set to the empty string; unset it or provide a non-empty password");
            }
            return Ok(value);
        }
    }
    bail!("password not configured: set POSTGRES_PASSWORD_FILE or POSTGRES_PASSWORD")
}

fn check_config_file(values: &Values) -> Result<()> {
    let path = values.text("config-file");
    let handling = values.text("config-file-not-found-handling");
    if !matches!(handling, "ignore" | "warn" | "error" | "exit") {
        bail!("invalid argument \"{handling}\" for \"--config-file-not-found-handling\" flag");
    }
    if !path.is_empty() && !Path::new(path).exists() && matches!(handling, "error" | "exit") {
        bail!("failed to read in config: open {path}: no such file or directory");
    }
    Ok(())
}

fn set_up_logging(values: &Values) -> Result<()> {
    let level = match values.text("log-level") {
        "debug" => tracing::Level::DEBUG,
        "warn" => tracing::Level::WARN,
        "error" => tracing::Level::ERROR,
        // The real logger takes any other word for info.
        _ => tracing::Level::INFO,
    };
    let filter = tracing_subscriber::EnvFilter::new(format!("warn,standin={level}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let set = match (values.text("log-format"), values.text("log-output")) {
        ("json", "stderr") => builder.json().with_writer(std::io::stderr).try_init(),
        ("json", _) => builder.json().try_init(),
        (_, "stderr") => builder.with_ansi(false).with_writer(std::io::stderr).try_init(),
        (_, _) => builder.with_ansi(false).try_init(),
    };
    set.map_err(|error| anyhow!("set up logging: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_path_names_its_role() {
        assert_eq!(Role::from_program("/multigres/bin/multiadmin"), Some(Role::Admin));
        assert_eq!(Role::from_program("pgctld"), Some(Role::Pgctld));
        assert_eq!(Role::from_program("standin"), None);
    }

    #[test]
    fn an_empty_password_source_is_an_error() {
        assert!(password(Some(String::new()), &[]).is_err());
        assert!(password(Some("/nonexistent/password".into()), &[]).is_err());
        assert!(password(None, &[]).is_err());
    }
}
