//! The superuser's password: whose Secret it is, whether it is there, and the one that is generated.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{PersistentVolumeClaim, Secret},
};
use rand::RngExt as _;
use shared::{
    label,
    label::{Component, Labels},
    name,
};

use crate::workload::owner::Owner;

/// Key of the generated Secret.
pub const KEY: &str = "password";
/// Length of a generated password.
const LENGTH: usize = 24;
/// Characters that need no quoting in connection strings, shells or YAML.
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// What is known about the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// The Secret is there and holds the key.
    Present,
    /// The user named a Secret that is not there or lacks the key.
    NotProvided {
        /// Secret and key.
        wanted: String,
    },
    /// Ours, to be created with this fresh value.
    Fresh(String),
    /// Ours, deleted while data exists that only the lost password opens.
    Lost,
    /// The API server could not be asked; said elsewhere, judged later.
    NotKnown,
}

/// A new password.
pub fn generate() -> String {
    let mut random = rand::rng();
    (0..LENGTH).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

/// The generated Secret. It outlives the cluster, because retained data is useless without it.
pub fn secret(owner: &Owner, password: &str) -> Secret {
    Secret {
        metadata: owner.outliving(
            name::postgres_password(&owner.name),
            label::of_cluster(&owner.name, Component::PostgresPassword),
        ),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(password.as_bytes().to_vec()))])),
        ..Secret::default()
    }
}

/// Whether a claim holds a database, or backups of one, that were made with the password.
pub fn holds_data(claim: &PersistentVolumeClaim) -> bool {
    let empty = Labels::new();
    let labels = claim.metadata.labels.as_ref().unwrap_or(&empty);
    let component = labels.get(label::COMPONENT).map(String::as_str);
    component == Some(Component::ShardPool.as_str()) || component == Some(Component::Shard.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_passwords_are_long_plain_and_different() {
        let (one, two) = (generate(), generate());
        assert_eq!(one.len(), LENGTH);
        assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(one, two);
    }
}
