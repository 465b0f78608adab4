//! Whether anything that can be read without the right to read Secrets shows what one of them holds.
//!
//! [`Hidden`] knows what to look for and is pure; [`texts`] collects where to look.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, LogParams},
};
use serde_json::Value;

use crate::{bed::OPERATOR_NAMESPACE, helm::Tools};

/// Keys of Secrets whose content everybody may know.
const PUBLIC: [&str; 3] = ["ca.crt", "tls.crt", "username"];
/// A value of fewer bytes stands somewhere by chance.
const SHORTEST: usize = 8;
/// How the first and last line of each block of a PEM file begin.
const FENCE: &str = "-----";
/// Lines of a private key that are looked for: those after them repeat its public half, which certificates show, too.
const PRIVATE_LINES: usize = 2;

/// What nobody may see. It is told by name alone, so that a report does not become a leak itself.
#[derive(Default)]
pub struct Hidden(BTreeMap<String, BTreeSet<String>>);

impl Hidden {
    /// What Secrets hold under the keys that are not for everybody.
    pub fn of(secrets: &[Secret]) -> Self {
        let mut hidden = BTreeMap::new();
        for secret in secrets {
            for (key, value) in secret.data.iter().flatten().filter(|(key, _)| !PUBLIC.contains(&key.as_str())) {
                let shapes = shapes(value);
                if !shapes.is_empty() {
                    hidden.insert(format!("{}:{key}", secret.name_any()), shapes);
                }
            }
        }
        Self(hidden)
    }

    /// Every value that is looked for, as `secret:key`.
    pub fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The values that a text shows in any shape.
    pub fn shown_in(&self, text: &str) -> BTreeSet<&str> {
        let is_shown = |shapes: &BTreeSet<String>| shapes.iter().any(|shape| text.contains(shape.as_str()));
        self.0.iter().filter(|(_, shapes)| is_shown(shapes)).map(|(name, _)| name.as_str()).collect()
    }

    /// Fails where one of these texts shows a value. By name alone: the report of a leak is read by more people than the Secret.
    pub fn nowhere_in<'t>(&self, texts: impl IntoIterator<Item = (&'t String, &'t String)>) -> Result<()> {
        let shown = texts.into_iter().map(|(place, text)| (place, self.shown_in(text)));
        let shown: Vec<(&String, BTreeSet<&str>)> = shown.filter(|(_, values)| !values.is_empty()).collect();
        ensure!(shown.is_empty(), "what Secrets hold is shown: {shown:?}");
        Ok(())
    }
}

/// Fails where anything that a story has left in its namespace, or the operator in its own, shows what a Secret of the story holds.
/// Every story comes here before it removes its cluster.
pub async fn stay_hidden(client: &Client, namespace: &str) -> Result<()> {
    let tools = Tools::from_env()?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let hidden = Hidden::of(&secrets.list(&ListParams::default()).await?.items);
    let mut everything = texts(client, &tools, namespace).await?;
    let operator = texts(client, &tools, OPERATOR_NAMESPACE).await?;
    everything.extend(operator.into_iter().map(|(place, text)| (format!("{OPERATOR_NAMESPACE}: {place}"), text)));
    // A story whose cluster never came up may have no Secret at all. That those of a whole one are found is a story of its own.
    eprintln!("{} values of Secrets looked for in {} texts", hidden.names().len(), everything.len());
    hidden.nowhere_in(&everything)
}

/// How a value can stand in a text: as it is, quoted, in base64, and in the pieces that are secret by themselves.
fn shapes(value: &ByteString) -> BTreeSet<String> {
    let mut shapes: Vec<String> = base64(&value.0).into_iter().collect();
    if let Ok(text) = std::str::from_utf8(&value.0) {
        let text = text.trim();
        shapes.extend(base64(text.as_bytes()));
        shapes.extend(pieces(text).into_iter().flat_map(|piece| [quoted(&piece), piece]));
    }
    shapes.into_iter().filter(|shape| shape.len() >= SHORTEST).collect()
}

/// A value in base64, without the padding that URLs leave out; nothing for what is too short to look for.
fn base64(value: &[u8]) -> Option<String> {
    let long = value.len() >= SHORTEST;
    match serde_json::to_value(ByteString(value.to_vec())) {
        Ok(Value::String(text)) if long => Some(text.trim_end_matches('=').to_owned()),
        _ => None,
    }
}

/// The whole text, the lines of a private key, and the texts in a JSON document.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![text.to_owned()];
    if text.starts_with(FENCE) {
        let body = text.lines().filter(|line| !line.starts_with(FENCE));
        pieces.extend(body.take(PRIVATE_LINES).map(|line| line.trim().to_owned()));
    } else {
        pieces.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    if let Ok(document) = serde_json::from_str(text) {
        strings(&document, &mut pieces);
    }
    pieces
}

fn strings(document: &Value, found: &mut Vec<String>) {
    match document {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| strings(field, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text as it stands within a JSON string, without the quotes around it.
fn quoted(text: &str) -> String {
    let quoted = Value::String(text.to_owned()).to_string();
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&quoted).to_owned()
}

/// Everything in a namespace: objects of all kinds with their status and managed fields, and what all containers have logged. Of
/// Secrets all but what they hold.
pub async fn texts(client: &Client, tools: &Tools, namespace: &str) -> Result<BTreeMap<String, String>> {
    let mut texts = objects(tools, namespace).await?;
    texts.extend(envelopes(client, namespace).await?);
    texts.extend(logs(client, namespace).await?);
    Ok(texts)
}

async fn objects(tools: &Tools, namespace: &str) -> Result<BTreeMap<String, String>> {
    let kinds = tools.succeed("kubectl", &["api-resources", "--verbs=list", "--namespaced", "-o", "name"]).await?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| *kind != "secrets").collect();
    let all = kinds.join(",");
    let get = ["-n", namespace, "get", &all, "-o", "json", "--show-managed-fields"];
    let list = tools.succeed("kubectl", &get).await.context("reading everything in the namespace")?;
    let list: Value = serde_json::from_str(&list).context("parsing everything in the namespace")?;
    let items = list["items"].as_array().context("everything is a list")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let title = |item: &Value| {
        format!("{} {}/{}", text(&item["apiVersion"]), text(&item["kind"]), text(&item["metadata"]["name"]))
    };
    Ok(items.iter().map(|item| (title(item), item.to_string())).collect())
}

async fn envelopes(client: &Client, namespace: &str) -> Result<BTreeMap<String, String>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut texts = BTreeMap::new();
    for mut secret in secrets.list(&ListParams::default()).await?.items {
        secret.data = None;
        secret.string_data = None;
        texts.insert(format!("v1 Secret/{}", secret.name_any()), serde_json::to_string(&secret)?);
    }
    Ok(texts)
}

async fn logs(client: &Client, namespace: &str) -> Result<BTreeMap<String, String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut texts = BTreeMap::new();
    for pod in pods.list(&ListParams::default()).await?.items {
        let name = pod.name_any();
        for (container, previous) in runs(pod) {
            let title = format!("log {name}/{container}{}", if previous { " before its restart" } else { "" });
            let params = LogParams { container: Some(container), previous, ..LogParams::default() };
            match pods.logs(&name, &params).await {
                Ok(text) => drop(texts.insert(title, text)),
                // Since it was listed the pod has gone, its node has removed the container that ended, or another pod of its name waits to start.
                Err(kube::Error::Api(status)) if [400, 404].contains(&status.code) => {}
                // Some stories end with a node away.
                Err(kube::Error::Api(status)) if status.code >= 500 => eprintln!("unread: {title}: {}", status.message),
                Err(error) => return Err(error).context(title),
            }
        }
    }
    Ok(texts)
}

/// Containers of a pod that have a log, and whether it is that of the one before the last restart.
fn runs(pod: Pod) -> Vec<(String, bool)> {
    let status = pod.status.unwrap_or_default();
    let containers = status.init_container_statuses.into_iter().chain(status.container_statuses);
    let mut runs = Vec::new();
    for container in containers.chain(status.ephemeral_container_statuses).flatten() {
        let state = container.state.unwrap_or_default();
        if state.running.is_some() || state.terminated.is_some() {
            runs.push((container.name.clone(), false));
        }
        if container.restart_count > 0 {
            runs.push((container.name, true));
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "Xq7vT2mPz9LkW4rB8sHd3nYc";
    const KEY: &str = concat!(
        "-----BEGIN PRIVATE KEY-----\n",
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgfirstlineofakey\n",
        "secondlineofakeythatnobodymayseeAAAABBBBCCCCDDDDEEEEFFFFGGGGHHHH\n",
        "publichalfofthekeythateverybodymaysee\n",
        "-----END PRIVATE KEY-----\n",
    );
    const CERTIFICATE: &str =
        "-----BEGIN CERTIFICATE-----\nacertificatethateverybodymaysee\n-----END CERTIFICATE-----\n";

    fn secret(name: &str, data: &[(&str, &str)]) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        let bytes = |(key, value): &(&str, &str)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()));
        secret.data = Some(data.iter().map(bytes).collect());
        secret
    }

    fn hidden() -> Hidden {
        Hidden::of(&[
            secret("password", &[("password", PASSWORD), ("username", "postgres-superuser"), ("port", "5432")]),
            secret("leaf", &[("tls.key", KEY), ("tls.crt", CERTIFICATE), ("ca.crt", CERTIFICATE)]),
            secret("cipher", &[("keys.json", r#"{"1": "a \"passphrase\" in quotes", "2": "another passphrase"}"#)]),
        ])
    }

    #[track_caller]
    fn assert_shown(text: &str, expected: &str) {
        assert_eq!(hidden().shown_in(text), BTreeSet::from([expected]), "{text}");
    }

    #[test]
    fn a_value_is_found_as_it_is_and_in_base64() {
        assert_shown(&format!("connecting with postgres://postgres:{PASSWORD}@gateway/postgres"), "password:password");
        let encoded = serde_json::to_string(&ByteString(PASSWORD.as_bytes().to_vec())).unwrap();
        assert_shown(&format!("applied {{\"password\":{encoded}}}"), "password:password");
        let encoded = serde_json::to_string(&secret("leaf", &[("tls.key", KEY)])).unwrap();
        assert_shown(&encoded, "leaf:tls.key");
    }

    #[test]
    fn a_key_is_found_in_a_log_that_escapes_its_lines_and_by_a_line_alone() {
        assert_shown(&serde_json::json!({"message": format!("read {KEY}")}).to_string(), "leaf:tls.key");
        assert_shown("line 3: secondlineofakeythatnobodymayseeAAAABBBBCCCCDDDDEEEEFFFFGGGGHHHH", "leaf:tls.key");
    }

    #[test]
    fn a_text_within_a_document_is_found_without_the_document() {
        assert_shown("--cipher-pass=another passphrase", "cipher:keys.json");
        let logged = serde_json::json!({"passphrase": "a \"passphrase\" in quotes"}).to_string();
        assert_shown(&logged, "cipher:keys.json");
    }

    #[test]
    fn what_everybody_may_know_and_what_is_too_short_is_not_looked_for() {
        let harmless = format!("{CERTIFICATE} postgres-superuser 5432 publichalfofthekeythateverybodymaysee");
        assert_eq!(hidden().shown_in(&harmless), BTreeSet::new());
        assert_eq!(hidden().names(), BTreeSet::from(["cipher:keys.json", "leaf:tls.key", "password:password"]));
    }

    #[test]
    fn the_log_of_a_container_that_waits_for_its_first_start_is_not_asked_for() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {}, "status": {
            "initContainerStatuses": [{
                "name": "pgctld", "image": "", "imageID": "", "ready": true, "restartCount": 1, "state": {"running": {}},
            }],
            "containerStatuses": [
                {"name": "ended", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 0}}},
                {"name": "waits", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {}}},
            ],
        }}))
        .unwrap();
        let expected = [("pgctld", false), ("pgctld", true), ("ended", false)];
        assert_eq!(runs(pod), expected.map(|(name, previous)| (name.to_owned(), previous)));
    }
}
