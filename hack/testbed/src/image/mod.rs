//! Container images without a registry or a container engine: file trees, layers and OCI archives.

pub mod archive;
pub mod builtin;
pub mod rootfs;
pub mod stage;

pub use archive::{Config, Image, Layer, write};
pub use rootfs::Rootfs;
