//! The file tree of a layer, held as a list of entries, so that owners need no root and the result does not depend on the clock.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tar::{Builder, EntryType, Header};

#[derive(Clone, Debug)]
enum Content {
    Directory,
    Bytes(Vec<u8>),
    HostFile(PathBuf),
    Symlink(PathBuf),
    HardLink(String),
}

#[derive(Clone, Debug)]
struct Entry {
    content: Content,
    mode: u32,
    owner: (u64, u64),
}

/// A file tree.
#[derive(Clone, Debug, Default)]
pub struct Rootfs {
    entries: BTreeMap<String, Entry>,
}

impl Rootfs {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory with a mode and an owner (user, group).
    pub fn directory(&mut self, path: &str, mode: u32, owner: (u64, u64)) -> &mut Self {
        self.insert(path, Content::Directory, mode, owner)
    }

    /// Adds a file with this content, owned by root.
    pub fn bytes(&mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> &mut Self {
        self.insert(path, Content::Bytes(content.into()), mode, (0, 0))
    }

    /// Adds a copy of a host's file, owned by root.
    pub fn file(&mut self, path: &str, host: &Path, mode: u32) -> &mut Self {
        self.insert(path, Content::HostFile(host.to_owned()), mode, (0, 0))
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: impl Into<PathBuf>) -> &mut Self {
        self.insert(path, Content::Symlink(target.into()), 0o777, (0, 0))
    }

    /// Adds a second name for a file of this tree.
    pub fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        self.insert(path, Content::HardLink(relative(target)), 0o755, (0, 0))
    }

    /// Whether the tree has something at this path.
    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(&relative(path))
    }

    fn insert(&mut self, path: &str, content: Content, mode: u32, owner: (u64, u64)) -> &mut Self {
        let path = relative(path);
        let mut parent = Path::new(&path).parent();
        while let Some(dir) = parent.filter(|dir| !dir.as_os_str().is_empty()) {
            let directory = Entry { content: Content::Directory, mode: 0o755, owner: (0, 0) };
            self.entries.entry(dir.to_string_lossy().into_owned()).or_insert(directory);
            parent = dir.parent();
        }
        self.entries.insert(path, Entry { content, mode, owner });
        self
    }

    /// The tree below a directory of the host, with its modes, owners and links; `keep` decides about each path (relative, no leading slash).
    pub fn from_dir(dir: &Path, keep: impl Fn(&str) -> bool) -> Result<Self> {
        let mut tree = Self::new();
        let mut seen: BTreeMap<(u64, u64), String> = BTreeMap::new();
        let mut stack = vec![PathBuf::new()];
        while let Some(inner) = stack.pop() {
            let full = dir.join(&inner);
            let mut children: Vec<_> = fs::read_dir(&full)
                .and_then(Iterator::collect)
                .with_context(|| format!("listing {}", full.display()))?;
            children.sort_by_key(fs::DirEntry::file_name);
            for child in children {
                let path = inner.join(child.file_name());
                let name = path.to_string_lossy().into_owned();
                if !keep(&name) {
                    continue;
                }
                let meta = child.metadata().with_context(|| format!("reading {}", child.path().display()))?;
                let kind = meta.file_type();
                let content = if kind.is_dir() {
                    stack.push(path.clone());
                    Content::Directory
                } else if kind.is_symlink() {
                    Content::Symlink(
                        fs::read_link(child.path()).with_context(|| format!("reading {}", child.path().display()))?,
                    )
                } else if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
                    continue;
                } else if meta.nlink() > 1 {
                    let first = seen.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone());
                    if *first == name { Content::HostFile(child.path()) } else { Content::HardLink(first.clone()) }
                } else {
                    Content::HostFile(child.path())
                };
                let owner = (u64::from(meta.uid()), u64::from(meta.gid()));
                tree.entries.insert(name, Entry { content, mode: meta.mode() & 0o7777, owner });
            }
        }
        Ok(tree)
    }

    /// Writes the tree as a tar stream that depends on nothing but the tree.
    pub fn write_tar(&self, out: impl Write) -> Result<()> {
        let mut builder = Builder::new(out);
        let is_link = |entry: &Entry| matches!(entry.content, Content::HardLink(_));
        // A hard link can only name a file that was unpacked before.
        let (links, rest): (Vec<_>, Vec<_>) = self.entries.iter().partition(|(_, entry)| is_link(entry));
        for (path, entry) in rest.into_iter().chain(links) {
            append(&mut builder, path, entry).with_context(|| format!("packing {path}"))?;
        }
        builder.finish().context("ending the layer")
    }
}

fn relative(path: &str) -> String {
    path.trim_matches('/').to_owned()
}

fn append(builder: &mut Builder<impl Write>, path: &str, entry: &Entry) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.owner.0);
    header.set_gid(entry.owner.1);
    header.set_mtime(0);
    match &entry.content {
        Content::Directory => {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, format!("{path}/"), std::io::empty())?;
        }
        Content::Bytes(bytes) => {
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, bytes.as_slice())?;
        }
        Content::HostFile(host) => {
            let file = fs::File::open(host).with_context(|| format!("opening {}", host.display()))?;
            let size = file.metadata()?.len();
            header.set_size(size);
            let mut exact = file.take(size);
            builder.append_data(&mut header, path, &mut exact)?;
            ensure!(exact.limit() == 0, "{} shrank while it was read", host.display());
        }
        Content::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, path, target)?;
        }
        Content::HardLink(target) => {
            header.set_entry_type(EntryType::Link);
            header.set_size(0);
            builder.append_link(&mut header, path, target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tree: &Rootfs) -> Vec<String> {
        let mut bytes = Vec::new();
        tree.write_tar(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn parents_come_first_and_hard_links_last() {
        let mut tree = Rootfs::new();
        tree.bytes("/z/file", "x", 0o755).hard_link("/a/link", "/z/file");
        assert_eq!(names(&tree), ["a/", "z/", "z/file", "a/link"]);
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let make = || {
            let mut tree = Rootfs::new();
            tree.bytes("/b", "1", 0o644).symlink("/c", "b").directory("/tmp", 0o1777, (0, 0));
            let mut bytes = Vec::new();
            tree.write_tar(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn a_directory_of_the_host_is_taken_over_with_links_and_without_what_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/doc")).unwrap();
        fs::write(dir.path().join("usr/doc/readme"), "x").unwrap();
        fs::write(dir.path().join("usr/one"), "1").unwrap();
        fs::hard_link(dir.path().join("usr/one"), dir.path().join("usr/two")).unwrap();
        std::os::unix::fs::symlink("one", dir.path().join("usr/three")).unwrap();
        let tree = Rootfs::from_dir(dir.path(), |path| !path.starts_with("usr/doc")).unwrap();
        assert_eq!(names(&tree), ["usr/", "usr/one", "usr/three", "usr/two"]);
    }

    #[test]
    fn a_file_keeps_owner_mode_and_no_time() {
        let mut tree = Rootfs::new();
        tree.directory("/var/log", 0o750, (999, 998));
        let mut bytes = Vec::new();
        tree.write_tar(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entry = archive.entries().unwrap().nth(1).unwrap().unwrap();
        let header = entry.header();
        let found = (header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap(), header.mtime().unwrap());
        assert_eq!(found, (999, 998, 0o750, 0));
    }
}
