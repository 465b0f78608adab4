//! Compiles the protocol subset that the controller and the stand-in share.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../controller/proto");
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
