//! Stages a dynamically linked program with the few files it needs: its libraries, the loader, name lookup, certificates, users.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Rootfs;
use crate::process;

/// The users that the data plane's images know besides root.
const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin
postgres:x:999:999:postgres:/var/lib/postgresql:/sbin/nologin
nextjs:x:1001:1001:nextjs:/app:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
";
const GROUP: &str = "root:x:0:\npostgres:x:999:\nnextjs:x:1001:\nnogroup:x:65534:\nnonroot:x:65532:\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// Adds `/etc` with users and name lookup, certificates of public authorities, `/tmp` and a home.
pub fn add_base(tree: &mut Rootfs) {
    tree.bytes("/etc/passwd", PASSWD, 0o644)
        .bytes("/etc/group", GROUP, 0o644)
        .bytes("/etc/nsswitch.conf", NSSWITCH, 0o644)
        .directory("/tmp", 0o1777, (0, 0))
        .directory("/var/tmp", 0o1777, (0, 0))
        .directory("/home/nonroot", 0o700, (65532, 65532));
    let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if certificates.exists() {
        tree.file("/etc/ssl/certs/ca-certificates.crt", certificates, 0o644);
    }
}

/// Adds a program at `path` with the libraries that it and name lookup need.
pub fn add_binary(tree: &mut Rootfs, path: &str, binary: &Path) -> Result<()> {
    if !binary.is_file() {
        bail!("{} is not a file; build it first, for example with `cargo build --profile image`", binary.display());
    }
    tree.file(path, binary, 0o755);
    let libraries = libraries(binary)?;
    let mut dirs: Vec<PathBuf> = Vec::new();
    for library in &libraries {
        add_library(tree, library)?;
        if let Some(dir) = library.parent().filter(|dir| !dirs.iter().any(|known| known == dir)) {
            dirs.push(dir.to_owned());
        }
    }
    // glibc opens these at run time, so ldd does not name them.
    for name in ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"] {
        for library in dirs.iter().map(|dir| dir.join(name)).filter(|path| path.exists()) {
            add_library(tree, &library)?;
        }
    }
    Ok(())
}

fn add_library(tree: &mut Rootfs, library: &Path) -> Result<()> {
    let real = fs::canonicalize(library).with_context(|| format!("resolving {}", library.display()))?;
    tree.file(&library.display().to_string(), &real, 0o755);
    Ok(())
}

fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    match process::run("ldd", [binary]) {
        Ok(text) => parse_ldd(&text).with_context(|| format!("{} cannot be packed", binary.display())),
        Err(error) if format!("{error:#}").contains("not a dynamic executable") => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.contains("=> not found") {
            bail!("a library is missing on this machine: {line}");
        }
        let target = line.split_once(" => ").map_or(line, |(_, target)| target);
        let path = target.split_whitespace().next().unwrap_or_default();
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_loader_but_not_the_kernels_page() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_ldd(text).unwrap(), paths);
        assert_eq!(parse_ldd("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_missing_library_is_an_error_that_names_it() {
        let error = parse_ldd("\tlibodd.so.1 => not found\n").unwrap_err().to_string();
        assert!(error.contains("libodd.so.1"), "{error}");
    }

    #[test]
    fn this_very_test_runs_with_the_files_that_are_staged_for_it() {
        let mut tree = Rootfs::new();
        add_base(&mut tree);
        add_binary(&mut tree, "/usr/local/bin/test", &std::env::current_exe().unwrap()).unwrap();
        assert!(tree.contains("/usr/local/bin/test") && tree.contains("/etc/nsswitch.conf"));
        let mut bytes = Vec::new();
        tree.write_tar(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert!(
            names.iter().any(|name| name.ends_with("libc.so.6")) && names.iter().any(|name| name.contains("ld-linux"))
        );
    }
}
