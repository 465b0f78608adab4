//! Looks into an etcd that runs in a pod, through the API server's proxy.

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;
use kube::Client;
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
