//! Certificates that somebody else puts into a directory.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{fs, sync::watch, time::sleep};
use tracing::warn;

use super::{
    material::Parts,
    secret::{CA_CERTIFICATE, CERTIFICATE, KEY},
    watch::Sight,
};

/// How often the directory is read; the kubelet swaps a link, which no watch of the files would tell.
const PERIOD: Duration = Duration::from_secs(1);

/// Follows the content of a directory; never ends while somebody listens.
pub(super) async fn follow(directory: PathBuf, sender: watch::Sender<Sight<Parts>>) {
    let mut complained = false;
    while !sender.is_closed() {
        let found = match read(&directory).await {
            Ok(found) => found,
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    warn!(directory = %directory.display(), error = %error, "cannot read the certificates");
                }
                None
            }
        };
        complained &= found.is_none();
        let found = Sight::from(found);
        sender.send_if_modified(|last| {
            let changed = *last != found;
            *last = found;
            changed
        });
        sleep(PERIOD).await;
    }
}

/// Reads the certificates; none when there are none yet.
async fn read(directory: &Path) -> io::Result<Option<Parts>> {
    // All files are taken from one version of a mounted volume, even if it changes meanwhile.
    let version = fs::canonicalize(directory.join("..data")).await.unwrap_or_else(|_| directory.to_owned());
    let Some(certificate) = optional(&version.join(CERTIFICATE)).await? else { return Ok(None) };
    let Some(key) = optional(&version.join(KEY)).await? else { return Ok(None) };
    let trust = optional(&version.join(CA_CERTIFICATE)).await?.unwrap_or_default();
    Ok(Some(Parts { certificate, key, trust }))
}

async fn optional(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path).await {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::{super::watch::Seen, *};

    async fn next(seen: &mut Seen<Parts>) -> Option<Parts> {
        seen.changed().await.unwrap();
        seen.borrow_and_update().clone().present()
    }

    #[tokio::test(start_paused = true)]
    async fn content_is_followed_across_the_swap_of_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for version in ["one", "two"] {
            std::fs::create_dir(root.join(version)).unwrap();
            for file in [CERTIFICATE, KEY] {
                std::fs::write(root.join(version).join(file), version).unwrap();
            }
        }
        std::fs::write(root.join("two").join(CA_CERTIFICATE), "ca").unwrap();
        let (sender, mut seen) = watch::channel(Sight::Unknown);
        let task = tokio::spawn(follow(root.to_owned(), sender));
        assert!(next(&mut seen).await.is_none());
        symlink("one", root.join("..data")).unwrap();
        let one = next(&mut seen).await.unwrap();
        assert_eq!((one.certificate.as_slice(), one.trust.as_slice()), (b"one".as_slice(), b"".as_slice()));
        symlink("two", root.join("..next")).unwrap();
        std::fs::rename(root.join("..next"), root.join("..data")).unwrap();
        let two = next(&mut seen).await.unwrap();
        assert_eq!((two.key.as_slice(), two.trust.as_slice()), (b"two".as_slice(), b"ca".as_slice()));
        drop(seen);
        task.await.unwrap();
    }
}
