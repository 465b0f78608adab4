//! The images that every bed has: pause, busybox and etcd.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use super::archive::{self, Config, Image, Layer};
use super::{Rootfs, stage};
use crate::home::Home;
use crate::node::PAUSE_IMAGE;
use crate::process;
use crate::tools::Tools;

/// A static busybox: helper pods of the storage provisioner and small tests use it.
pub const BUSYBOX_IMAGE: &str = "localhost/busybox:1";
/// The operator's default image of etcd.
pub const ETCD_IMAGE: &str = "gcr.io/etcd-development/etcd:v3.6.7";

const PAUSE_SOURCE: &str = include_str!("../../pause.c");
const APPLETS: [&str; 26] = [
    "sh", "cat", "chmod", "cp", "date", "echo", "env", "false", "grep", "head", "id", "kill", "ls", "mkdir", "mv",
    "nc", "nslookup", "ping", "ps", "rm", "seq", "sleep", "sync", "test", "true", "wget",
];

/// Writes the archives that are missing and returns them all, the most urgent first.
pub fn ensure(home: &Home, tools: &Tools) -> Result<Vec<PathBuf>> {
    let _guard = home.lock("images")?;
    Ok(vec![pause(home)?, busybox(home)?, etcd(home, tools)?])
}

/// Packs one layer and one image into `dir/NAME.tar`, unless an archive of the same key is there.
pub fn packed(
    dir: &Path,
    key: &str,
    images: &[(&str, Config)],
    fill: impl FnOnce(&mut Rootfs) -> Result<()>,
) -> Result<PathBuf> {
    let out = dir.join(format!("{key}.tar"));
    if out.exists() {
        return Ok(out);
    }
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let mut tree = Rootfs::new();
    fill(&mut tree)?;
    let scratch = tempfile::tempdir_in(dir).context("creating a directory for layers")?;
    let layer = Layer::write(&tree, &scratch.path().join("layer.tar"))?;
    let images: Vec<Image> = images
        .iter()
        .map(|(name, config)| Image { name: (*name).to_owned(), layers: vec![layer.clone()], config: config.clone() })
        .collect();
    archive::write(&out, &images)?;
    Ok(out)
}

/// A short hash over texts and files, to name what is made of them.
pub fn key(prefix: &str, texts: &[&str], files: &[&Path]) -> Result<String> {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(format!("{}:{text}\n", text.len()));
    }
    for file in files {
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        hash.update(format!("{}\n", bytes.len()));
        hash.update(&bytes);
    }
    Ok(format!("{prefix}-{}", &hex::encode(hash.finalize())[..16]))
}

fn pause(home: &Home) -> Result<PathBuf> {
    let dir = home.images();
    let key = key("pause", &[PAUSE_SOURCE, PAUSE_IMAGE], &[])?;
    let config = Config { entrypoint: vec!["/pause".into()], user: "65535:65535".into(), ..Config::default() };
    packed(&dir, &key, &[(PAUSE_IMAGE, config)], |tree| {
        let scratch = tempfile::tempdir().context("creating a directory for the compiler")?;
        let (source, program) = (scratch.path().join("pause.c"), scratch.path().join("pause"));
        fs::write(&source, PAUSE_SOURCE).context("writing pause.c")?;
        process::run(
            "cc",
            [Path::new("-static"), Path::new("-Os"), Path::new("-s"), Path::new("-o"), &program, &source],
        )
        .context("compiling the pause program; install a C compiler (Debian: gcc libc6-dev)")?;
        tree.bytes("/pause", fs::read(&program).context("reading the pause program")?, 0o755);
        Ok(())
    })
}

fn busybox(home: &Home) -> Result<PathBuf> {
    let program = ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(Path::new).find(|path| path.exists());
    let Some(program) = program else {
        bail!("there is no /bin/busybox; install the Debian package busybox-static (hack/bootstrap.sh)")
    };
    let key = key("busybox", &[BUSYBOX_IMAGE, &APPLETS.join(" ")], &[program])?;
    let config = Config { arguments: vec!["sh".into()], env: vec!["PATH=/bin".into()], ..Config::default() };
    packed(&home.images(), &key, &[(BUSYBOX_IMAGE, config)], |tree| {
        stage::add_base(tree);
        stage::add_binary(tree, "/bin/busybox", program)?;
        for applet in APPLETS {
            tree.hard_link(&format!("/bin/{applet}"), "/bin/busybox");
        }
        Ok(())
    })
}

fn etcd(home: &Home, tools: &Tools) -> Result<PathBuf> {
    let program = tools.path("etcd");
    let key = key("etcd", &[ETCD_IMAGE, &tools.bin().display().to_string()], &[])?;
    let config = Config {
        entrypoint: vec!["/usr/local/bin/etcd".into()],
        env: vec!["PATH=/usr/local/bin:/bin".into()],
        ..Config::default()
    };
    packed(&home.images(), &key, &[(ETCD_IMAGE, config)], |tree| {
        stage::add_base(tree);
        tree.directory("/var/lib/etcd", 0o700, (0, 0)).directory("/var/etcd", 0o700, (0, 0));
        tree.file("/usr/local/bin/etcd", &program, 0o755);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_made_once_and_again_when_their_content_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("program");
        fs::write(&file, "1").unwrap();
        let first = key("x", &["name"], &[&file]).unwrap();
        assert_eq!(first, key("x", &["name"], &[&file]).unwrap());
        fs::write(&file, "2").unwrap();
        assert_ne!(first, key("x", &["name"], &[&file]).unwrap());
        let made = packed(dir.path(), "a", &[("localhost/a:1", Config::default())], |tree| {
            tree.bytes("/x", "x", 0o644);
            Ok(())
        });
        let again = packed(dir.path(), "a", &[("localhost/a:1", Config::default())], |_| bail!("made twice"));
        assert_eq!(made.unwrap(), again.unwrap());
    }

    #[test]
    fn the_pause_program_compiles_and_is_packed() {
        let dir = tempfile::tempdir().unwrap();
        let archive = pause(&Home::at(dir.path()).unwrap()).unwrap();
        assert_eq!(archive::names(&archive).unwrap(), [PAUSE_IMAGE]);
        let again = pause(&Home::at(dir.path()).unwrap()).unwrap();
        assert_eq!(archive, again);
    }
}
