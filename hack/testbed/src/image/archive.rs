//! OCI image archives that containerd imports: layers once, any number of images over them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Rootfs;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A layer on disk.
#[derive(Clone, Debug)]
pub struct Layer {
    path: PathBuf,
    digest: String,
    size: u64,
}

/// What a container of the image runs by default.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The entry point; may be empty.
    pub entrypoint: Vec<String>,
    /// The default arguments.
    pub arguments: Vec<String>,
    /// `user` or `user:group`; empty means root.
    pub user: String,
    /// Variables as `NAME=value`.
    pub env: Vec<String>,
    /// The working directory; empty means `/`.
    pub dir: String,
}

/// An image: a name, its layers from the bottom up, and its configuration.
#[derive(Clone, Debug)]
pub struct Image {
    /// The full reference, such as `localhost/busybox:1`.
    pub name: String,
    /// The layers.
    pub layers: Vec<Layer>,
    /// The configuration.
    pub config: Config,
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Layer {
    /// Writes the tree as a layer at `path`.
    pub fn write(tree: &Rootfs, path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let mut out = Hashing { inner: io::BufWriter::new(file), hash: Sha256::new(), size: 0 };
        tree.write_tar(&mut out)?;
        out.flush().with_context(|| format!("writing {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            digest: format!("sha256:{}", hex::encode(out.hash.finalize())),
            size: out.size,
        })
    }

    /// A layer that was written before.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut out = Hashing { inner: io::sink(), hash: Sha256::new(), size: 0 };
        io::copy(&mut file, &mut out).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            digest: format!("sha256:{}", hex::encode(out.hash.finalize())),
            size: out.size,
        })
    }
}

/// Writes an archive with all images; layers that they share are in it once.
pub fn write(out: &Path, images: &[Image]) -> Result<()> {
    let unfinished = out.with_extension("unfinished");
    let file = File::create(&unfinished).with_context(|| format!("creating {}", unfinished.display()))?;
    let mut builder = tar::Builder::new(io::BufWriter::new(file));
    let mut blobs: Vec<(String, Vec<u8>)> = Vec::new();
    let mut manifests = Vec::new();
    for image in images {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": image.config.entrypoint,
                "Cmd": image.config.arguments,
                "User": image.config.user,
                "Env": image.config.env,
                "WorkingDir": image.config.dir,
            },
            "rootfs": { "type": "layers", "diff_ids": image.layers.iter().map(|layer| &layer.digest).collect::<Vec<_>>() },
        });
        let config = serde_json::to_vec(&config).context("rendering an image's configuration")?;
        let layers: Vec<_> = image
            .layers
            .iter()
            .map(|layer| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len() },
            "layers": layers,
        });
        let manifest = serde_json::to_vec(&manifest).context("rendering an image's manifest")?;
        manifests.push(json!({
            "mediaType": MANIFEST,
            "digest": digest(&manifest),
            "size": manifest.len(),
            "annotations": { "io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name },
        }));
        blobs.push((digest(&config), config));
        blobs.push((digest(&manifest), manifest));
    }
    let index =
        serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": manifests })).context("rendering the index")?;
    // The index comes first: reading what an archive holds must not mean reading all of it.
    put(&mut builder, "index.json", index.len() as u64, index.as_slice())?;
    let layout: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
    put(&mut builder, "oci-layout", layout.len() as u64, layout)?;
    let mut written = BTreeSet::new();
    for (digest, bytes) in &blobs {
        if written.insert(digest.clone()) {
            put(&mut builder, &blob_path(digest), bytes.len() as u64, bytes.as_slice())?;
        }
    }
    for layer in images.iter().flat_map(|image| &image.layers) {
        if written.insert(layer.digest.clone()) {
            let file = File::open(&layer.path).with_context(|| format!("opening {}", layer.path.display()))?;
            put(&mut builder, &blob_path(&layer.digest), layer.size, file)?;
        }
    }
    builder
        .into_inner()
        .and_then(|mut out| out.flush())
        .with_context(|| format!("writing {}", unfinished.display()))?;
    fs::rename(&unfinished, out).with_context(|| format!("placing {}", out.display()))
}

fn put(builder: &mut tar::Builder<impl Write>, path: &str, size: u64, data: impl io::Read) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    builder.append_data(&mut header, path, data).with_context(|| format!("packing {path}"))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn index(archive: &Path) -> Result<Vec<u8>> {
    let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
    let mut reader = tar::Archive::new(io::BufReader::new(file));
    for entry in reader.entries().with_context(|| format!("{} is no tar archive", archive.display()))? {
        let mut entry = entry.with_context(|| format!("{} is no tar archive", archive.display()))?;
        let path = entry.path().context("reading an entry's path")?.into_owned();
        if path == Path::new("index.json") || path == Path::new("./index.json") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).context("reading the index")?;
            return Ok(bytes);
        }
    }
    bail!("{} is no OCI image archive: it has no index.json", archive.display())
}

/// What tells an archive's images from all others: a hash over its index, which holds every name and digest.
pub fn identity(archive: &Path) -> Result<String> {
    Ok(hex::encode(Sha256::digest(index(archive)?))[..32].to_owned())
}

/// The names of the images in an archive.
pub fn names(archive: &Path) -> Result<Vec<String>> {
    let value: serde_json::Value = serde_json::from_slice(&index(archive)?)
        .with_context(|| format!("{} has a broken index", archive.display()))?;
    let manifests = value["manifests"].as_array().cloned().unwrap_or_default();
    Ok(manifests
        .iter()
        .filter_map(|m| Some(m["annotations"]["io.containerd.image.name"].as_str()?.to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn contents(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), bytes)
        });
        entries.collect()
    }

    fn sample(dir: &Path) -> PathBuf {
        let mut tree = Rootfs::new();
        tree.bytes("/bin/tool", "program", 0o755);
        let layer = Layer::write(&tree, &dir.join("layer.tar")).unwrap();
        let image = |name: &str, user: &str| Image {
            name: name.into(),
            layers: vec![layer.clone()],
            config: Config { entrypoint: vec!["/bin/tool".into()], user: user.into(), ..Config::default() },
        };
        let out = dir.join("out.tar");
        write(&out, &[image("localhost/a:1", "65532:65532"), image("localhost/b:1", "999:999")]).unwrap();
        out
    }

    #[test]
    fn an_archive_holds_a_shared_layer_once_and_every_digest_fits() {
        let dir = tempfile::tempdir().unwrap();
        let contents = contents(&sample(dir.path()));
        assert_eq!(contents.len(), 2 + 5, "index, layout, two configurations, two manifests, one layer");
        for (path, bytes) in contents.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert_eq!(path.rsplit('/').next().unwrap(), hex::encode(Sha256::digest(bytes)));
        }
        let index: serde_json::Value = serde_json::from_slice(&contents["index.json"]).unwrap();
        let manifest_digest = index["manifests"][1]["digest"].as_str().unwrap();
        assert_eq!(index["manifests"][1]["annotations"]["io.containerd.image.name"], "localhost/b:1");
        let manifest: serde_json::Value = serde_json::from_slice(&contents[&blob_path(manifest_digest)]).unwrap();
        let config_digest = manifest["config"]["digest"].as_str().unwrap();
        let config: serde_json::Value = serde_json::from_slice(&contents[&blob_path(config_digest)]).unwrap();
        assert_eq!(config["config"]["User"], "999:999");
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/tool"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    }

    #[test]
    fn the_identity_of_an_archive_follows_its_content_and_not_its_place() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, second) = (sample(one.path()), sample(two.path()));
        assert_eq!(identity(&first).unwrap(), identity(&second).unwrap());
        assert_eq!(names(&first).unwrap(), ["localhost/a:1", "localhost/b:1"]);
        let mut tree = Rootfs::new();
        tree.bytes("/bin/tool", "another", 0o755);
        let layer = Layer::write(&tree, &one.path().join("other.tar")).unwrap();
        assert_eq!(Layer::open(&one.path().join("other.tar")).unwrap().digest, layer.digest);
        let other = one.path().join("other-image.tar");
        write(&other, &[Image { name: "localhost/a:1".into(), layers: vec![layer], config: Config::default() }])
            .unwrap();
        assert_ne!(identity(&first).unwrap(), identity(&other).unwrap());
    }

    #[test]
    fn a_file_that_is_no_image_archive_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        fs::write(&path, "no tar").unwrap();
        assert!(identity(&path).is_err());
    }
}
