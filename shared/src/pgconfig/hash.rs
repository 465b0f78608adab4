//! Digests of settings, by which a running server's configuration is compared with the desired one.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// SHA-256 in hex over the sorted `key=value` lines; an empty map gives the digest of nothing.
pub fn digest(settings: &BTreeMap<String, String>) -> String {
    let mut hasher = Sha256::new();
    for (key, value) in settings {
        hasher.update(key.as_bytes());
        hasher.update(b"=");
        hasher.update(value.as_bytes());
        hasher.update(b"\n");
    }
    hex::encode(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_nothing_is_the_digest_of_the_empty_string() {
        assert_eq!(digest(&BTreeMap::new()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn digest_covers_key_and_value() {
        let one = |key: &str, value: &str| digest(&BTreeMap::from([(key.to_owned(), value.to_owned())]));
        assert_ne!(one("a", "b"), one("a", "c"));
        assert_ne!(one("a", "b"), one("b", "b"));
    }
}
