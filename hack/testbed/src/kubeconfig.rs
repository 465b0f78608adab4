//! Kubeconfig files: JSON, which every client reads as the YAML that it is.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The name of the only context.
pub const CONTEXT: &str = "testbed";

/// How a client proves who it is.
#[derive(Clone, Copy, Debug)]
pub enum Identity<'a> {
    /// By a bearer token.
    Token(&'a str),
    /// By a certificate and its key, as files.
    Files(&'a Path, &'a Path),
}

/// A kubeconfig with one cluster, one user and one context.
pub fn render(server: &str, authority: &Path, identity: Identity<'_>) -> Value {
    let user = match identity {
        Identity::Token(token) => json!({ "token": token }),
        Identity::Files(certificate, key) => json!({ "client-certificate": certificate, "client-key": key }),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": CONTEXT, "cluster": { "server": server, "certificate-authority": authority } }],
        "users": [{ "name": CONTEXT, "user": user }],
        "contexts": [{ "name": CONTEXT, "context": { "cluster": CONTEXT, "user": CONTEXT } }],
        "current-context": CONTEXT,
    })
}

/// Writes any configuration value as a file.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("rendering a configuration")?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_names_server_authority_and_token() {
        let value = render("https://10.0.0.1:6443", Path::new("/pki/ca.crt"), Identity::Token("secret"));
        assert_eq!(value["clusters"][0]["cluster"]["server"], "https://10.0.0.1:6443");
        assert_eq!(value["clusters"][0]["cluster"]["certificate-authority"], "/pki/ca.crt");
        assert_eq!(value["users"][0]["user"]["token"], "secret");
        assert_eq!(value["current-context"], value["contexts"][0]["name"]);
    }
}
