//! Turns the protobuf subset in `proto/` into Rust (the modules that `upstream::pb` includes), and asks for small relocations.

use std::{env, io, path::PathBuf};

/// What the controller speaks; their imports come along.
const FILES: &[&str] =
    &["multipoolermanagerservice.proto", "consensusservice.proto", "multiorchservice.proto", "multiadminservice.proto"];

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("proto");
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-env-changed=PROTOC");
    small_relocations();
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

/// Packs the relocations of the released binary: they are a tenth of it, and it is read into memory as a whole. Only the linker of
/// binutils marks the binary as the C library wants it marked.
fn small_relocations() {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let target = is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if target && is("OPT_LEVEL", "z") {
        println!("cargo::rustc-link-arg-bins=-fuse-ld=bfd");
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
