//! Turns the protobuf subset in `proto/` into Rust: the modules that `upstream::pb` includes.

use std::{env, io, path::PathBuf};

/// What the controller speaks; their imports come along.
const FILES: &[&str] = &["multipoolermanagerservice.proto"];

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("proto");
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-env-changed=PROTOC");
    let files: Vec<PathBuf> = FILES.iter().map(|file| folder.join(file)).collect();
    // Servers are built too: the tests answer the client with one, of which they implement only what they ask.
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .generate_default_stubs(true)
        .emit_rerun_if_changed(false)
        .include_file("upstream.rs")
        .compile_protos(&files, &[folder])
}
