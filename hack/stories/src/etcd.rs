//! Looks into an etcd that runs in a pod, through the API server's proxy, and finds the processes of one.

use std::fs;

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;
use kube::Client;
use rustix::process::Pid;
use serde_json::{Value, json};

/// Port of etcd's clients.
const PORT: u16 = 2379;

/// All keys below `prefix`, sorted; nothing of their content.
pub async fn keys(client: &Client, namespace: &str, pod: &str, prefix: &str) -> Result<Vec<String>> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{PORT}/proxy/v3/kv/range");
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let bytes = |bytes: &[u8]| ByteString(bytes.to_vec());
    let body = json!({"key": bytes(prefix.as_bytes()), "range_end": bytes(&end), "keys_only": true});
    let request = http::Request::post(&path).header("content-type", "application/json");
    let answer: Value = client.request(request.body(serde_json::to_vec(&body)?)?).await.with_context(|| path)?;
    let found = answer["kvs"].as_array().into_iter().flatten();
    let key = |entry: &Value| -> Result<String> {
        let key: ByteString = serde_json::from_value(entry["key"].clone())?;
        Ok(String::from_utf8_lossy(&key.0).into_owned())
    };
    let mut keys: Vec<String> = found.map(key).collect::<Result<_>>()?;
    keys.sort();
    Ok(keys)
}

/// The processes of the members with this token: pods of a bed are processes of its machine.
pub fn processes(token: &str) -> Result<Vec<Pid>> {
    let wanted = format!("ETCD_INITIAL_CLUSTER_TOKEN={token}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("listing processes")? {
        let entry = entry.context("listing processes")?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Those that ended meanwhile, and those of others, cannot be read.
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes()) {
            found.extend(Pid::from_raw(id));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_found_by_its_token_and_by_the_whole_of_it() {
        let token = format!("story-{}", std::process::id());
        let mut command = Command::new("sleep");
        command.arg("600").env("ETCD_INITIAL_CLUSTER_TOKEN", &token).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let found = processes(&token);
        let others = processes(&token[..token.len() - 1]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.unwrap(), [Pid::from_child(&child)]);
        assert!(others.unwrap().is_empty());
    }
}
