//! An object store with the S3 protocol for a story: rclone over a directory of the host, in the network of the bed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};
use shared::pki::{Authority, Request};
use tokio::{net::TcpStream, process::Child, process::Command};

use crate::{
    backup::in_bed,
    bed::Bed,
    fault::TESTBED,
    wait::{until, within},
};

/// Starts the words it is given, ends when they do, and ends them with its own input, so that a story that dies leaves nobody behind.
pub(crate) const UNTIL_END_OF_INPUT: &str = concat!(
    r#"exec 3<&0; "$@" </dev/null 3<&- & started=$!; "#,
    r#"(read -r _ <&3; kill "$started") 2>/dev/null & waits=$!; "#,
    r#"wait "$started"; ended=$?; kill "$waits" 2>/dev/null; exit "$ended""#,
);
/// The certificate is made for one story.
const LIFE: SignedDuration = SignedDuration::from_hours(24);

/// A store that runs until it is dropped, with everything in it.
pub struct ObjectStore {
    /// Where clients find it.
    pub endpoint: String,
    /// The key that it knows.
    pub access_key: String,
    /// What proves that one has the key.
    pub secret_key: String,
    directory: PathBuf,
    served: Child,
}

impl ObjectStore {
    /// Starts a store with one empty bucket. rclone is built if it is not there yet, which takes minutes.
    pub async fn start(bed: &Bed, bucket: &str) -> Result<Self> {
        let rclone = build().await?;
        // One story after the other has a process of its own.
        let id = std::process::id();
        let directory = std::env::temp_dir().join(format!("multigres-story-s3-{id}"));
        let bucket_directory = directory.join("served").join(bucket);
        fs::create_dir_all(&bucket_directory).with_context(|| format!("creating {}", bucket_directory.display()))?;
        let (certificate, key) = certificate(&directory)?;
        let host = node_address(bed).await?;
        let port = 20_000 + id % 10_000;
        // Long and strange enough to be looked for in whatever the story leaves.
        let (access_key, secret_key) = ("story".to_owned(), format!("Wq7vT2mPz9LkX4rB8s{id:08x}"));
        let mut command = in_bed()?;
        command.args(["bash", "-c", UNTIL_END_OF_INPUT, "bash"]).arg(rclone).args(["serve", "s3"]);
        command.arg(directory.join("served"));
        command.args(["--addr", &format!("{host}:{port}"), "--auth-key", &format!("{access_key},{secret_key}")]);
        // pgBackRest speaks nothing but TLS with a store; the data plane has it trust whatever one shows at an endpoint of its own.
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
        command.args(["--config", "", "--vfs-cache-mode", "off", "--no-cleanup"]);
        // The end of its input ends it, and an end of our own is one.
        command.kill_on_drop(false).stdin(Stdio::piped()).stdout(Stdio::null());
        let served = command.spawn().context("starting rclone")?;
        let store = Self { endpoint: format!("https://{host}:{port}"), access_key, secret_key, directory, served };
        until("the object store to listen", within(30), || async {
            TcpStream::connect(format!("{host}:{port}")).await.map(drop).context("connecting")
        })
        .await?;
        Ok(store)
    }

    /// Names of the objects below a path that begins with the bucket, sorted.
    pub fn objects(&self, path: &str) -> Result<Vec<String>> {
        let root = self.directory.join("served").join(path);
        let mut found = Vec::new();
        walk(&root, &mut found).with_context(|| format!("listing {}", root.display()))?;
        let name = |file: &PathBuf| file.strip_prefix(&root).unwrap_or(file).display().to_string();
        let mut names: Vec<String> = found.iter().map(name).collect();
        names.sort();
        Ok(names)
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        drop(self.served.stdin.take());
        // What cannot be removed is in the directory for temporary files.
        let _left = fs::remove_dir_all(&self.directory);
    }
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The path of rclone, which is built where it is missing.
async fn build() -> Result<PathBuf> {
    let testbed =
        std::env::var_os(TESTBED).with_context(|| format!("{TESTBED} does not name the testbed's command"))?;
    let mut command = Command::new(testbed);
    command.args(["tools", "rclone"]).stdin(Stdio::null());
    let output = command.output().await.context("starting the testbed")?;
    let why = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`testbed tools rclone` ended with {}: {why}", output.status);
    let directory = String::from_utf8(output.stdout).context("the directory of rclone")?;
    Ok(Path::new(directory.trim()).join("rclone"))
}

/// An address that pods reach and that is in the network of the bed: that of a node.
pub(crate) async fn node_address(bed: &Bed) -> Result<String> {
    let nodes: Api<Node> = Api::all(bed.client.clone());
    let all = nodes.list(&ListParams::default()).await?.items;
    let mut addresses = all.into_iter().filter_map(|node| node.status?.addresses).flatten();
    let found = addresses.find(|address| address.type_ == "InternalIP");
    Ok(found.context("a node with an address")?.address)
}

/// Files with a certificate and its key.
fn certificate(directory: &Path) -> Result<(PathBuf, PathBuf)> {
    let now = Timestamp::now();
    let authority = Authority::generate("story", now, LIFE)?;
    let wanted = Request { common_name: "s3".into(), dns_names: ["s3.story".to_owned()].into(), valid_for: LIFE };
    let pair = authority.issue_for_server(&wanted, now)?;
    let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    for (path, text) in [(&certificate, &pair.certificate), (&key, &pair.key)] {
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok((certificate, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_started_ends_with_the_input_of_whoever_started_it() {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", UNTIL_END_OF_INPUT, "bash", "sleep", "600"]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it runs as long as its input is open");
        drop(child.stdin.take());
        until("the end", within(10), || {
            let ended = child.try_wait().unwrap();
            async move { ended.map(drop).context("it still runs") }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn what_ends_by_itself_is_seen_to_end() {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", UNTIL_END_OF_INPUT, "bash", "bash", "-c", "exit 7"]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let code = until("the end", within(10), || {
            let ended = child.try_wait().unwrap();
            async move { ended.context("it still runs") }
        });
        assert_eq!(code.await.unwrap().code(), Some(7));
    }
}
