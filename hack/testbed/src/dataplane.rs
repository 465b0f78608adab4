//! Images of the operator's binaries and of the data plane: the stand-in, or the real programs over a Debian root.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::home::Home;
use crate::image::builtin::{key, packed};
use crate::image::{self, Config, Image, Layer, Rootfs, stage};
use crate::process;

/// The operator's default image of pgctld and PostgreSQL.
pub const PGCTLD_IMAGE: &str = "ghcr.io/multigres/pgctld:sha-66d2310";
/// The operator's default image of multigateway, multipooler, multiorch and multiadmin.
pub const MULTIGRES_IMAGE: &str = "ghcr.io/multigres/multigres:sha-66d2310";
/// The operator's default image of the administration's web page.
pub const WEB_IMAGE: &str = "ghcr.io/multigres/multiadmin-web:sha-64da1ab";
/// The operator's image of the PostgreSQL exporter.
pub const EXPORTER_IMAGE: &str = "quay.io/prometheuscommunity/postgres-exporter:v0.20.1";

/// The variable that names a directory with the binaries of a Multigres release.
pub const BINARIES_VARIABLE: &str = "MULTIGRES_BIN_DIR";
/// The binaries of a Multigres release.
pub const BINARIES: [&str; 5] = ["multigateway", "multipooler", "multiorch", "multiadmin", "pgctld"];
/// May be beside them: with object stores the data plane writes `repo1-symlink`, which pgBackRest knows since 2.57 and Debian's does not.
const PGBACKREST: &str = "pgbackrest";

const POSTGRES: (u64, u64) = (999, 999);
/// PostgreSQL's own programs come before Debian's wrappers of them in `/usr/bin`: those are Perl, and pgctld starts one for each question, which is
/// a whole core for three members that answer three orchestrators.
const SEARCH: &str =
    "PATH=/multigres/bin:/usr/lib/postgresql/17/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PACKAGES: &str = "postgresql-17,pgbackrest,procps,locales,ca-certificates";
/// What mmdebstrap does besides installing packages. The user comes first: PostgreSQL's package would choose another number for it.
const HOOKS: [(&str, &str); 4] = [
    (
        "essential",
        r#"echo 'postgres:x:999:999:postgres:/var/lib/postgresql:/bin/bash' >> "$1/etc/passwd"; echo 'postgres:x:999:' >> "$1/etc/group"; echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/usr/sbin/nologin' >> "$1/etc/passwd"; echo 'nonroot:x:65532:' >> "$1/etc/group""#,
    ),
    (
        "essential",
        r#"mkdir -p "$1/etc/postgresql-common"; echo 'create_main_cluster = false' > "$1/etc/postgresql-common/createcluster.conf""#,
    ),
    ("customize", r#"echo 'en_US.UTF-8 UTF-8' > "$1/etc/locale.gen"; chroot "$1" locale-gen"#),
    ("customize", r#"mkdir -p "$1/home/nonroot"; chown 65532:65532 "$1/home/nonroot""#),
];
/// What of Debian no container needs, as prefixes of paths.
const LEFT_OUT: [&str; 13] = [
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/info/",
    "usr/share/locale/",
    "usr/share/i18n/",
    "usr/lib/postgresql/17/lib/bitcode/",
    "var/cache/",
    "var/lib/apt/",
    "var/lib/dpkg/info/",
    "var/log/",
    "dev/",
    "proc/",
    "sys/",
];

/// The same by a part of the path: what differs between processors. Without its provider PostgreSQL does not compile queries, which no test
/// here needs, and the compiler's libraries are half of the image.
const LEFT_OUT_ANYWHERE: [&str; 5] = ["/libLLVM", "/libz3.so", "/lib/llvmjit", "/CORE/", "/gconv/"];

/// One of the data plane's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Multigres,
    Pgctld,
    Web,
    Exporter,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Multigres => MULTIGRES_IMAGE,
            Self::Pgctld => PGCTLD_IMAGE,
            Self::Web => WEB_IMAGE,
            Self::Exporter => EXPORTER_IMAGE,
        }
    }

    /// Entry point and user as in the published images: where those name a user instead of a number, so does this.
    fn config(self) -> Config {
        let (entrypoint, user): (&[&str], &str) = match self {
            Self::Multigres => (&[], "65532:65532"),
            Self::Pgctld => (&[], "999:999"),
            Self::Web => (&["/multigres/bin/multiadmin-web"], "nextjs"),
            Self::Exporter => (&["/bin/postgres_exporter"], "nobody"),
        };
        Config {
            entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
            user: user.to_owned(),
            env: vec!["LANG=en_US.utf8".into(), SEARCH.into()],
            ..Config::default()
        }
    }
}

/// Packs the stand-in under the names of all data-plane images; `tag` replaces the tags, for tests that roll to another image.
pub fn standin(home: &Home, binary: &Path, tag: Option<&str>) -> Result<PathBuf> {
    let parts = [Part::Multigres, Part::Pgctld, Part::Web, Part::Exporter];
    let names: Vec<String> = parts.iter().map(|part| with_tag(part.name(), tag)).collect();
    let key = key("standin", &[&names.join(" "), RECIPE], &[binary])?;
    let images: Vec<(&str, Config)> =
        names.iter().zip(parts).map(|(name, part)| (name.as_str(), part.config())).collect();
    packed(&home.images(), &key, &images, |tree| {
        stage::add_base(tree);
        add_standin(tree, binary)
    })
}

/// Changes when what is packed around the binaries changes, so that cached archives are made anew.
const RECIPE: &str = "2";

fn add_standin(tree: &mut Rootfs, binary: &Path) -> Result<()> {
    let first = "/multigres/bin/multigateway";
    stage::add_binary(tree, first, binary)?;
    for name in ["multipooler", "multiorch", "multiadmin", "pgctld", "multiadmin-web"] {
        tree.hard_link(&format!("/multigres/bin/{name}"), first);
    }
    tree.hard_link("/usr/local/bin/pgctld", first).hard_link("/bin/postgres_exporter", first);
    add_postgres_directories(tree);
    Ok(())
}

fn add_postgres_directories(tree: &mut Rootfs) {
    for path in ["/var/lib/postgresql", "/var/log/postgresql", "/run/postgresql", "/var/lib/pooler", "/backups"] {
        tree.directory(path, 0o755, POSTGRES);
    }
}

/// Packs the binaries in `dir` over a Debian root with PostgreSQL. The exporter comes from `dir`, or like the web page from the stand-in, and
/// pgBackRest from `dir`, or from Debian.
pub fn real(home: &Home, dir: &Path, standin: Option<&Path>) -> Result<Vec<PathBuf>> {
    let binaries: Vec<PathBuf> = BINARIES.iter().map(|name| dir.join(name)).collect();
    if let Some(missing) = binaries.iter().find(|path| !path.is_file()) {
        bail!("{} is not there; {BINARIES_VARIABLE} names a directory with {}", missing.display(), BINARIES.join(", "));
    }
    let _guard = home.lock("debian")?;
    let debian = debian_layer(home)?;
    let pgbackrest = Some(dir.join(PGBACKREST)).filter(|path| path.is_file());
    let files: Vec<&Path> = binaries.iter().chain(&pgbackrest).map(PathBuf::as_path).collect();
    let debian_name = debian.display().to_string();
    let out = home.images().join(format!("{}.tar", key("real", &[&debian_name, RECIPE], &files)?));
    let mut archives = vec![out.clone()];
    if !out.exists() {
        let mut tree = Rootfs::new();
        for (name, file) in BINARIES.iter().zip(&binaries) {
            tree.file(&format!("/multigres/bin/{name}"), file, 0o755);
        }
        tree.hard_link("/usr/local/bin/pgctld", "/multigres/bin/pgctld");
        if let Some(pgbackrest) = &pgbackrest {
            tree.file("/usr/bin/pgbackrest", pgbackrest, 0o755);
        }
        add_postgres_directories(&mut tree);
        let scratch = tempfile::tempdir_in(home.images()).context("creating a directory for layers")?;
        let layers = vec![Layer::open(&debian)?, Layer::write(&tree, &scratch.path().join("layer.tar"))?];
        let image = |part: Part| Image { name: part.name().to_owned(), layers: layers.clone(), config: part.config() };
        image::write(&out, &[image(Part::Multigres), image(Part::Pgctld)])?;
    }
    let exporter = dir.join("postgres_exporter");
    if exporter.is_file() {
        let key = key("exporter", &[RECIPE], &[&exporter])?;
        archives.push(packed(&home.images(), &key, &[(EXPORTER_IMAGE, Part::Exporter.config())], |tree| {
            stage::add_base(tree);
            stage::add_binary(tree, "/bin/postgres_exporter", &exporter)
        })?);
    }
    if let Some(standin) = standin {
        let mut parts = vec![Part::Web];
        if !exporter.is_file() {
            parts.push(Part::Exporter);
        }
        let images: Vec<(&str, Config)> = parts.iter().map(|part| (part.name(), part.config())).collect();
        let names: Vec<&str> = images.iter().map(|(name, _)| *name).collect();
        let key = key("standin-beside-real", &[&names.join(" "), RECIPE], &[standin])?;
        archives.push(packed(&home.images(), &key, &images, |tree| {
            stage::add_base(tree);
            add_standin(tree, standin)
        })?);
    }
    Ok(archives)
}

/// Packs one of our binaries as the Dockerfiles do: at the root, run by user 65532.
pub fn operator(home: &Home, binary: &Path, name: &str) -> Result<PathBuf> {
    let file = binary.file_name().with_context(|| format!("{} names no file", binary.display()))?.to_string_lossy();
    let path = format!("/{file}");
    program(
        home,
        binary,
        name,
        &path,
        Config { entrypoint: vec![path.clone()], user: "65532:65532".into(), ..Config::default() },
    )
}

/// Packs one binary with what it needs, at `path`.
pub fn program(home: &Home, binary: &Path, name: &str, path: &str, config: Config) -> Result<PathBuf> {
    let key = key("program", &[name, path, &format!("{config:?}"), RECIPE], &[binary])?;
    packed(&home.images(), &key, &[(name, config)], |tree| {
        stage::add_base(tree);
        stage::add_binary(tree, path, binary)
    })
}

fn with_tag(name: &str, tag: Option<&str>) -> String {
    match (name.rsplit_once(':'), tag) {
        (Some((repository, _)), Some(tag)) => format!("{repository}:{tag}"),
        _ => name.to_owned(),
    }
}

fn debian_layer(home: &Home) -> Result<PathBuf> {
    let hooks: Vec<String> = HOOKS.iter().map(|(kind, script)| format!("{kind} {script}")).collect();
    let key = key("debian", &[PACKAGES, &hooks.join("\n"), &LEFT_OUT.join(" "), &LEFT_OUT_ANYWHERE.join(" ")], &[])?;
    let out = home.images().join(format!("{key}.layer"));
    if out.exists() {
        return Ok(out);
    }
    crate::probe::check_root().context("a Debian root can only be made by root")?;
    fs::create_dir_all(home.images()).context("creating the directory of images")?;
    eprintln!("testbed: making a Debian root with PostgreSQL (a minute or two, once)");
    let scratch = tempfile::tempdir_in(home.images()).context("creating a directory for the Debian root")?;
    let root = scratch.path().join("root");
    let mut args = vec!["--variant=minbase".to_owned(), "--mode=root".to_owned(), format!("--include={PACKAGES}")];
    args.extend(HOOKS.iter().map(|(kind, script)| format!("--{kind}-hook={script}")));
    args.extend(["trixie".to_owned(), root.display().to_string()]);
    if let Ok(mirror) = std::env::var("MULTIGRES_TESTBED_MIRROR") {
        args.push(mirror);
    }
    process::run("mmdebstrap", &args)
        .context("making the Debian root; is mmdebstrap installed (hack/bootstrap.sh) and the mirror reachable (MULTIGRES_TESTBED_MIRROR)?")?;
    let tree = Rootfs::from_dir(&root, kept)?;
    let unfinished = scratch.path().join("layer");
    Layer::write(&tree, &unfinished)?;
    fs::rename(&unfinished, &out).with_context(|| format!("placing {}", out.display()))?;
    Ok(out)
}

fn kept(path: &str) -> bool {
    // The directories themselves stay, so that mounts and programs find them.
    !LEFT_OUT.iter().any(|prefix| path.starts_with(prefix)) && !LEFT_OUT_ANYWHERE.iter().any(|part| path.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::archive;

    #[test]
    fn the_stand_in_carries_every_default_image_name() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        let binary = std::env::current_exe().unwrap();
        let names = archive::names(&standin(&home, &binary, None).unwrap()).unwrap();
        assert_eq!(names, [MULTIGRES_IMAGE, PGCTLD_IMAGE, WEB_IMAGE, EXPORTER_IMAGE]);
        let names = archive::names(&standin(&home, &binary, Some("next")).unwrap()).unwrap();
        assert_eq!(names[0], "ghcr.io/multigres/multigres:next");
    }

    #[test]
    fn every_path_that_pods_call_is_in_the_stand_ins_image() {
        let mut tree = Rootfs::new();
        add_standin(&mut tree, &std::env::current_exe().unwrap()).unwrap();
        for path in [
            "/usr/local/bin/pgctld",
            "/multigres/bin/multiadmin",
            "/multigres/bin/multipooler",
            "/bin/postgres_exporter",
        ] {
            assert!(tree.contains(path), "{path}");
        }
        for entrypoint in [Part::Web, Part::Exporter].map(|part| part.config().entrypoint) {
            assert!(tree.contains(&entrypoint[0]), "{entrypoint:?}");
        }
    }

    #[test]
    fn a_release_without_one_of_its_binaries_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in &BINARIES[..4] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let error = real(&Home::at(dir.path()).unwrap(), dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("pgctld is not there"), "{error}");
    }

    #[test]
    fn documents_are_left_out_and_their_directory_stays() {
        assert!(!kept("usr/share/doc/x/copyright") && !kept("usr/lib/x86_64-linux-gnu/libLLVM.so.19.1"));
        assert!(kept("usr/share/doc") && kept("dev") && kept("usr/lib/postgresql/17/bin/postgres"));
    }
}
