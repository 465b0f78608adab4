//! Compiles the protocol subset that the controller and the stand-in share.

use std::env;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    // Asked when it runs: a target folder that several checkouts share may hold a build of this script by another one.
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../../controller/proto");
    let files = [
        "clustermetadata.proto",
        "consensusservice.proto",
        "health.proto",
        "multiadminservice.proto",
        "multiorchservice.proto",
        "multipoolermanagerservice.proto",
        "pgctldservice.proto",
        "serviceinfoservice.proto",
    ]
    .map(|file| root.join(file));
    println!("cargo::rerun-if-changed={}", root.display());
    tonic_prost_build::configure().btree_map(".").compile_protos(&files, &[root])
}
