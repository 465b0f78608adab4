//! Where the time of a review goes, without network and encryption.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use admission::review::{Endpoint, Operation, Request, Review as _, User};
use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, value::RawValue};
use shared::{
    api::v1alpha1::{MultigresCluster, MultigresClusterSpec},
    resolve,
    validate::{self, Subject},
};

use crate::{object, process, service};

/// Times each part for a share of that time and prints Markdown; of objects and parts only those whose names contain these words.
pub fn run(length: Duration, only_object: &str, only_part: &str) -> Result<()> {
    println!("| Object | Part | Time |\n|---|---|---|");
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (reviewer, settings, around) = (service::reviewer()?, service::settings(), service::surroundings());
    let templates = object::templates()?;
    for (title, object) in object::all()?.into_iter().filter(|(title, _)| title.contains(only_object)) {
        let body = object::review(&object);
        let review: Value = serde_json::from_slice(&body)?;
        let text = review["request"]["object"].to_string();
        let raw: &RawValue = serde_json::from_str(&text)?;
        let spec: MultigresClusterSpec = serde_json::from_value(object["spec"].clone())?;
        let unresolved = |errors: Vec<resolve::ResolveError>| anyhow!("{errors:?}");
        let resolved = resolve::cluster("bench", "default", &spec, &templates, &settings).map_err(unresolved)?;
        let subject =
            Subject { name: "bench", namespace: "default", spec: &spec, templates: &templates, settings: &settings };
        let ask = |endpoint| {
            let request = Request {
                uid: "1".to_owned(),
                operation: Operation::Create,
                name: "bench".to_owned(),
                namespace: "default".to_owned(),
                sub_resource: None,
                user_info: User::default(),
                object: Some(raw),
                old_object: None,
                dry_run: None,
            };
            runtime.block_on(reviewer.review(endpoint, request))
        };
        let each = length / 7;
        let row = |part: &str, run: &mut dyn FnMut() -> bool| {
            if !part.contains(only_part) {
                return Ok(());
            }
            time(each, run).map(|micros| println!("| {title} | {part} | {micros:.1} µs |"))
        };
        row("look through the envelope", &mut || serde_json::from_slice::<&RawValue>(&body).is_ok())?;
        row("read the object", &mut || serde_json::from_str::<MultigresCluster>(&text).is_ok())?;
        row("resolve, with provenance", &mut || {
            resolve::cluster("bench", "default", &spec, &templates, &settings).is_ok()
        })?;
        row("judge what is resolved", &mut || {
            validate::cluster(None, "bench", &spec, &resolved, &around).is_accepted()
        })?;
        row("resolve and judge", &mut || validate::review(None, &subject, &around).is_accepted())?;
        row("mutate in all", &mut || ask(Endpoint::MutateCluster).denial.is_none())?;
        row("validate in all", &mut || ask(Endpoint::ValidateCluster).denial.is_none())?;
    }
    Ok(())
}

/// Microseconds on the processor of one run.
fn time(length: Duration, run: &mut dyn FnMut() -> bool) -> Result<f64> {
    let (started, before) = (Instant::now(), process::cpu_of_thread()?);
    let mut runs = 0_u32;
    while started.elapsed() < length {
        // A part that fails early would look quick.
        ensure!(black_box(run()), "the part failed");
        runs += 1;
    }
    Ok(process::cpu_of_thread()?.saturating_sub(before).as_secs_f64() * 1e6 / f64::from(runs))
}
