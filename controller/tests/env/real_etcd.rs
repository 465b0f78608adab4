//! A real etcd for tests: `MULTIGRES_TEST_ETCD`, or `etcd` in the search path, or a tool of the testbed.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

/// The binary. Without one, `None` with a loud line, or a failure where `CI` is set.
pub fn binary() -> Option<PathBuf> {
    let found = find();
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "no etcd binary: set MULTIGRES_TEST_ETCD");
        eprintln!("SKIPPED: no etcd binary; set MULTIGRES_TEST_ETCD to run the tests on etcd");
    }
    found
}

fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MULTIGRES_TEST_ETCD") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "MULTIGRES_TEST_ETCD names no file: {}", path.display());
        return Some(path);
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&search).map(|folder| folder.join("etcd")).collect::<Vec<_>>();
    let tools = std::env::home_dir().map(|home| home.join(".cache/multigres-testbed/tools"));
    let of_testbed = tools
        .and_then(|folder| std::fs::read_dir(folder).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/etcd")));
    // `go install` names the binary after its module's last path segment.
    let built = ["etcd", "v3", "server"].map(|name| Path::new("/tmp/toolbin").join(name));
    in_path.into_iter().chain(of_testbed).chain(built).find(|path| path.is_file() && is_etcd(path))
}

fn is_etcd(path: &Path) -> bool {
    Command::new(path)
        .arg("--version")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with("etcd Version"))
}

/// Two ports that nobody listens on at the moment.
pub fn free_ports() -> (u16, u16) {
    let [one, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    (one.local_addr().unwrap().port(), other.local_addr().unwrap().port())
}
