//! The command `testbed`: see `docs/testbed.md`.

use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use testbed::home::Home;
use testbed::image::Config;
use testbed::{
    Bed, ControlPlane, Kubernetes, NodeMode, Options, Tools, bed, dataplane, fault, image, process, schemas, tools,
    volumes,
};

#[derive(Parser)]
#[command(name = "testbed", about = "A real Kubernetes on a bare Linux box, without Docker")]
struct Cli {
    /// Tells beds apart.
    #[arg(long, global = true, default_value = "dev", env = "MULTIGRES_TESTBED_NAME")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Brings a bed up; run again, it starts only what is missing.
    Up {
        /// kubelet:N (real), kwok:N (simulated), or auto.
        #[arg(long, default_value = "auto")]
        nodes: NodeMode,
    },
    /// Takes a bed down without a trace.
    Down,
    /// Shows components, nodes, process ids and addresses.
    Status,
    /// Imports image archives into every node.
    Load {
        /// OCI image archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Gives an image that the nodes have another name.
    Tag {
        /// As it is called.
        image: String,
        /// As it shall be called, too. Not `name`, which is that of the bed in all commands.
        other: String,
    },
    /// Packs binaries as image archives and prints their paths.
    #[command(visible_alias = "images")]
    Image {
        /// Imports the archives into the bed's nodes at once.
        #[arg(long, global = true)]
        load: bool,
        #[command(subcommand)]
        content: Content,
    },
    /// Opens a shell, or runs a command, with KUBECONFIG and PATH set.
    Shell(Words),
    /// Runs a command inside the bed's network, with its DNS.
    Exec(Words),
    /// Lets components (kube-apiserver, kubelet-1, …) or whole nodes (node-1) stand still, or go on.
    Fault {
        #[command(subcommand)]
        fault: Fault,
    },
    /// Starts cert-manager on the bed, with its definitions.
    CertManager,
    /// Builds the pinned tools and prints their directories.
    Tools {
        /// Only these; all but the oldest API server, rclone and the evaluation stack by default.
        names: Vec<String>,
    },
    /// Prints the path of the administrator's kubeconfig.
    Kubeconfig,
    /// Runs a command against a light control plane of its own (etcd and kube-apiserver on loopback).
    ControlPlane {
        /// newest, which beds run, or oldest, the oldest that can be built here.
        #[arg(long, default_value = "newest")]
        kubernetes: Kubernetes,
        #[command(flatten)]
        words: Words,
    },
    /// Writes JSON Schemas of all kinds that the API server in KUBECONFIG serves, for kubeconform.
    Schemas {
        /// Where to.
        folder: PathBuf,
    },
    /// Serves claims on simulated nodes.
    #[command(hide = true)]
    ServeVolumes {
        #[arg(long)]
        kubeconfig: PathBuf,
    },
}

#[derive(Subcommand)]
enum Fault {
    /// They stand still for some time; the command ends with it.
    Freeze {
        /// Names as `status` shows them, or node-N for a node with its pods.
        #[arg(required = true)]
        names: Vec<String>,
        /// Seconds.
        #[arg(long = "for", default_value_t = 60)]
        seconds: u64,
    },
    /// All go on at once, also after a command that was killed.
    Thaw,
}

#[derive(Subcommand)]
enum Content {
    /// The stand-in under the names of all data-plane images.
    Standin {
        /// The program of the crate `standin`.
        #[arg(long)]
        bin: PathBuf,
        /// Another tag than the operator's default ones.
        #[arg(long)]
        tag: Option<String>,
    },
    /// The real data plane over a Debian root with PostgreSQL.
    Real {
        /// A directory with the binaries of a Multigres release.
        #[arg(long, env = dataplane::BINARIES_VARIABLE)]
        dir: PathBuf,
        /// The stand-in, for the web page and, if the directory lacks it, the exporter.
        #[arg(long)]
        standin: Option<PathBuf>,
    },
    /// The operator's own binaries, one image each, laid out as in their Dockerfiles.
    Operator {
        /// PROGRAM=IMAGE; may be repeated.
        #[arg(required = true, value_parser = program_and_image)]
        programs: Vec<(PathBuf, String)>,
    },
    /// Any program with the libraries it needs.
    Binary {
        /// The program.
        #[arg(long)]
        bin: PathBuf,
        /// The image's name.
        #[arg(long)]
        image: String,
        /// Where it lies in the image; /usr/local/bin by default.
        #[arg(long)]
        path: Option<String>,
        /// USER or USER:GROUP.
        #[arg(long, default_value = "65532:65532")]
        user: String,
        /// The words of the entry point; the program alone by default.
        #[arg(long, num_args = 1.., allow_hyphen_values = true)]
        entrypoint: Vec<String>,
        /// NAME=value; may be repeated.
        #[arg(long)]
        env: Vec<String>,
    },
}

#[derive(Args)]
struct Words {
    /// The command and its arguments.
    #[arg(last = true)]
    words: Vec<String>,
}

fn program_and_image(text: &str) -> Result<(PathBuf, String)> {
    let (program, image) = text.split_once('=').with_context(|| format!("{text:?} is not PROGRAM=IMAGE"))?;
    Ok((PathBuf::from(program), image.to_owned()))
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let name = cli.name;
    match cli.action {
        Action::Up { nodes } => {
            Bed::up(&Options { name, nodes })?;
        }
        Action::Down => bed::down(&name)?,
        Action::Status => return status(&name),
        Action::Load { archives } => Bed::get(&name)?.load(&archives)?,
        Action::Tag { image, other } => Bed::get(&name)?.tag(&image, &other)?,
        Action::Image { load, content } => {
            let archives = pack(content)?;
            for archive in &archives {
                println!("{}", archive.display());
                eprintln!("testbed: {}", image::archive::names(archive)?.join(", "));
            }
            if load {
                Bed::get(&name)?.load(&archives)?;
            }
        }
        Action::Shell(words) => return shell(&Bed::get(&name)?, &words.words),
        Action::Exec(words) => {
            let mut command = Bed::get(&name)?.exec_in_netns(&words.words)?;
            return Ok(exit_code(command.status().context("starting the command")?));
        }
        Action::Fault { fault: Fault::Freeze { names, seconds } } => {
            let count = fault::freeze_for(&Bed::get(&name)?, &names, Duration::from_secs(seconds))?;
            eprintln!("testbed: {count} processes stood still for {seconds} s");
        }
        Action::Fault { fault: Fault::Thaw } => fault::thaw(&Bed::get(&name)?)?,
        Action::CertManager => Bed::get(&name)?.start_cert_manager()?,
        Action::Tools { names } => build_tools(&names)?,
        Action::Kubeconfig => println!("{}", Bed::get(&name)?.kubeconfig().display()),
        Action::ControlPlane { kubernetes, words } => return with_control_plane(kubernetes, &words.words),
        Action::Schemas { folder } => {
            let tools = Tools::locate(&Home::from_env()?)?;
            tools.ensure(&["kubectl"])?;
            eprintln!("testbed: {} schemas", schemas::write(&tools.kubectl(), &folder)?);
        }
        Action::ServeVolumes { kubeconfig } => {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
            runtime.block_on(volumes::serve(&kubeconfig))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn status(name: &str) -> Result<ExitCode> {
    let bed = Bed::get(name)?;
    let network = bed.network();
    println!("bed         {name} ({})", bed.nodes()?);
    println!("directory   {}", bed.dir().display());
    println!("kubeconfig  {}", bed.kubeconfig().display());
    println!("API server  {}", network.server());
    println!("namespace   {}", network.namespace.as_deref().unwrap_or("none, on loopback"));
    println!("host        {} as seen from inside", network.host_address());
    println!();
    let components = bed.components()?;
    for component in &components {
        let state = if component.alive { "running" } else { "ENDED" };
        println!("{:28} {state:8} {:>8}  {}", component.name, component.process.pid, component.process.log.display());
    }
    println!();
    let mut command = bed.kubectl();
    command.args(["get", "nodes", "-L", "topology.kubernetes.io/zone", "-o", "wide", "--request-timeout=5s"]);
    let nodes = process::output(&mut command);
    match &nodes {
        Ok(text) => print!("{text}"),
        Err(error) => println!("nodes: {error:#}; `testbed --name {name} up` starts what is missing"),
    }
    let healthy = nodes.is_ok() && components.iter().all(|component| component.alive);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shell(bed: &Bed, words: &[String]) -> Result<ExitCode> {
    let default = [std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())];
    let words = if words.is_empty() { &default[..] } else { words };
    // Promised in every shell, and not part of what a bed runs.
    Tools::locate(&Home::from_env()?)?.helm()?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    bed.prepare(&mut command);
    Ok(exit_code(command.status().with_context(|| format!("starting {}", words[0]))?))
}

fn pack(content: Content) -> Result<Vec<PathBuf>> {
    let home = Home::from_env()?;
    match content {
        Content::Standin { bin, tag } => Ok(vec![dataplane::standin(&home, &bin, tag.as_deref())?]),
        Content::Real { dir, standin } => dataplane::real(&home, &dir, standin.as_deref()),
        Content::Operator { programs } => {
            programs.iter().map(|(bin, image)| dataplane::operator(&home, bin, image)).collect()
        }
        Content::Binary { bin, image, path, user, entrypoint, env } => {
            let file = bin.file_name().with_context(|| format!("{} names no file", bin.display()))?.to_string_lossy();
            let path = path.unwrap_or_else(|| format!("/usr/local/bin/{file}"));
            let entrypoint = if entrypoint.is_empty() { vec![path.clone()] } else { entrypoint };
            let config = Config { entrypoint, user, env, ..Config::default() };
            Ok(vec![dataplane::program(&home, &bin, &image, &path, config)?])
        }
    }
}

fn build_tools(names: &[String]) -> Result<()> {
    let tools = Tools::locate(&Home::from_env()?)?;
    let all: Vec<&str> = tools::usual().map(|tool| tool.name).collect();
    let wanted: Vec<&str> = if names.is_empty() { all } else { names.iter().map(String::as_str).collect() };
    tools.ensure(&wanted)?;
    // Of named programs where they are, once each; the directory of most of them otherwise.
    let mut dirs: Vec<PathBuf> = names.iter().filter_map(|name| Some(tools.path(name).parent()?.to_owned())).collect();
    dirs.dedup();
    for dir in if dirs.is_empty() { vec![tools.bin()] } else { dirs } {
        println!("{}", dir.display());
    }
    Ok(())
}

fn with_control_plane(kubernetes: Kubernetes, words: &[String]) -> Result<ExitCode> {
    let (program, args) =
        words.split_first().context("no command was given; usage: testbed control-plane -- COMMAND ARGS…")?;
    let control_plane = ControlPlane::start_with(kubernetes)?;
    let kubeconfig = control_plane.kubeconfig();
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new(program)
        .args(args)
        .env("KUBECONFIG", &kubeconfig)
        .env("MULTIGRES_TEST_KUBECONFIG", &kubeconfig)
        .env("MULTIGRES_TEST_ETCD", control_plane.tools().bin().join("etcd"))
        .env("TESTBED_AUDIT_LOG", control_plane.audit_log())
        .env("PATH", format!("{}:{path}", control_plane.tools().bin().display()))
        .status()
        .with_context(|| format!("starting {program}"))?;
    drop(control_plane);
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_shall_be_called_is_not_the_name_of_the_bed() {
        let cli = Cli::parse_from(["testbed", "--name", "test", "tag", "ghcr.io/a/b:1", "localhost/b:late"]);
        assert_eq!(cli.name, "test");
        let Action::Tag { image, other } = cli.action else { panic!("another command") };
        assert_eq!((image.as_str(), other.as_str()), ("ghcr.io/a/b:1", "localhost/b:late"));
    }
}
