//! Ten thousand generated requests: valid clusters, nearly valid ones and hostile ones. Each gets an answer, never a panic.
//!
//! The requests are the same on every run; `MULTIGRES_SPECS` (how many) and `MULTIGRES_SEED` choose others. Whatever goes wrong,
//! the seed and the number of the request are printed, and `MULTIGRES_ONLY` runs that request alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeSet, env, fs, ops::Range, path::Path};

use admission::review::Endpoint;
use serde_json::{Value, json};
use support::{
    envelope::Question,
    hostile::{self, Due},
    random::Random,
    service::{self, InProcess},
    specs, world,
};

const SPECS: u64 = 10_000;
const SEED: u64 = 20_250_101;
/// What is among the hostile ones, however few there are.
const HOSTILE: [&str; 10] = [
    "a huge string",
    "very many cells",
    "far too many pools",
    "deep nesting",
    "nothing but depth",
    "a field of another type",
    "a spec of another type",
    "odd characters",
    "the uid is missing",
    "the uid is no string",
];
/// Requests are spread over this many tests, which run side by side.
const PARTS: u64 = 2;

/// Names the request at hand when its check panics.
struct Named {
    seed: u64,
    number: u64,
    what: &'static str,
}

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("FAILED in a {} request: MULTIGRES_SEED={} MULTIGRES_ONLY={}", self.what, self.seed, self.number);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[actix_web::test]
async fn generated_specs_are_answered_and_mutated_once_first_half() {
    part(0).await;
}

#[actix_web::test]
async fn generated_specs_are_answered_and_mutated_once_second_half() {
    part(1).await;
}

async fn part(part: u64) {
    let seed = number("MULTIGRES_SEED").unwrap_or(SEED);
    let count = number("MULTIGRES_SPECS").unwrap_or(SPECS);
    let range: Range<u64> = match number("MULTIGRES_ONLY") {
        Some(only) => only..only + 1,
        None => part * count / PARTS..(part + 1) * count / PARTS,
    };
    println!("seed {seed}, requests {range:?}");
    let http = service::http(world::reviewer(world::generated())).await;
    let mut accepted = [0_u64; 2];
    let mut hostile = BTreeSet::new();
    for number in range.clone() {
        let mut random = Random::new(seed, number);
        // Every fifth is hostile, and of the others every second is spoilt.
        let what = ["valid", "nearly valid", "valid", "nearly valid", "hostile"][usize::try_from(number % 5).unwrap()];
        let _named = Named { seed, number, what };
        match what {
            "hostile" => _ = hostile.insert(check_hostile(&http, &mut random).await),
            "valid" => {
                let aliases = random.chance(25);
                let cluster = specs::valid(&mut random, aliases);
                assert!(check(&http, &cluster, aliases).await, "a valid cluster is refused: {cluster}");
                check_no_change(&http, &cluster).await;
                accepted[0] += 1;
            }
            _ => {
                let aliases = random.chance(25);
                let before = specs::valid(&mut random, aliases);
                let mut after = before.clone();
                specs::spoil(&mut random, &mut after);
                accepted[1] += u64::from(check(&http, &after, true).await);
                check_update(&http, &before, &after).await;
            }
        }
    }
    println!("accepted {} valid and {} nearly valid clusters", accepted[0], accepted[1]);
    // What has to be tried is tried.
    if range.end - range.start >= 1000 {
        for what in HOSTILE {
            assert!(hostile.contains(what), "there is no {what:?} in {range:?}");
        }
    }
    // A generator that spoils everything, or nothing, would not try the rules.
    if range.end - range.start >= 100 {
        let nearly = (range.end - range.start) * 2 / 5;
        assert!(accepted[1] > nearly / 20 && accepted[1] < nearly * 19 / 20, "{accepted:?} of {range:?}");
    }
}

/// Creates the cluster on paper; tells whether it is accepted.
async fn check(http: &impl InProcess, cluster: &Value, aliases: bool) -> bool {
    let judged = http.ask(Endpoint::ValidateCluster, &Question::create(cluster)).await;
    let changed = http.ask(Endpoint::MutateCluster, &Question::create(cluster)).await;
    if !changed.allowed {
        assert!(!judged.allowed, "mutation refuses what validation accepts: {cluster}\n{changed:?}");
        return false;
    }
    let stored = patched(cluster, changed.patch.as_ref());
    let again = http.ask(Endpoint::MutateCluster, &Question::create(&stored)).await;
    assert!(again.allowed, "mutation refuses its own work: {stored}\n{again:?}");
    assert_eq!(patched(&stored, again.patch.as_ref()), stored, "mutated twice is not mutated once, of {cluster}");

    let judged_stored = http.ask(Endpoint::ValidateCluster, &Question::create(&stored)).await;
    assert_eq!(
        judged.allowed, judged_stored.allowed,
        "mutation changes the verdict\nof {cluster}\nto {stored}\n{judged:?}\n{judged_stored:?}"
    );
    if !aliases {
        assert_eq!(judged.causes, judged_stored.causes, "mutation changes the causes of {cluster}");
    }
    judged.allowed
}

/// Changes one cluster into another on paper.
async fn check_update(http: &impl InProcess, before: &Value, after: &Value) {
    let question = Question::update(before, after);
    let judged = http.ask(Endpoint::ValidateCluster, &question).await;
    let changed = http.ask(Endpoint::MutateCluster, &question).await;
    if !changed.allowed {
        assert!(!judged.allowed, "mutation refuses what validation accepts: {before}\n{after}\n{changed:?}");
        return;
    }
    let stored = patched(after, changed.patch.as_ref());
    let again = http.ask(Endpoint::MutateCluster, &Question::update(before, &stored)).await;
    assert!(again.allowed, "mutation refuses its own work: {stored}\n{again:?}");
    assert_eq!(patched(&stored, again.patch.as_ref()), stored, "mutated twice is not mutated once, of {after}");
}

/// Writing a stored cluster back as it is changes nothing and is never refused.
async fn check_no_change(http: &impl InProcess, cluster: &Value) {
    let changed = http.ask(Endpoint::MutateCluster, &Question::create(cluster)).await;
    let stored = patched(cluster, changed.patch.as_ref());
    let question = Question::update(&stored, &stored);
    let changed = http.ask(Endpoint::MutateCluster, &question).await;
    assert_eq!(patched(&stored, changed.patch.as_ref()), stored, "no change becomes one");
    let judged = http.ask(Endpoint::ValidateCluster, &question).await;
    assert!(judged.allowed, "no change is refused: {stored}\n{judged:?}");
}

/// Asks what nobody should; tells what is wrong with it.
async fn check_hostile(http: &impl InProcess, random: &mut Random) -> &'static str {
    let hostile = hostile::request(random);
    let (status, body) = http.post(hostile.endpoint.path(), hostile.content_type, hostile.body.clone()).await;
    let shown = String::from_utf8_lossy(&hostile.body[..hostile.body.len().min(600)]).into_owned();
    assert!(status < 500, "{} answers {status} to {shown}: {}", hostile.what, String::from_utf8_lossy(&body));
    match &hostile.due {
        Due::Review(uid) => {
            assert_eq!(status, 200, "{}: {shown}: {}", hostile.what, String::from_utf8_lossy(&body));
            match support::envelope::Answer::read(&body, uid) {
                Ok(answer) => assert!(answer.code < 500, "{}: {shown}: {answer:?}", hostile.what),
                Err(error) => panic!("{}: {shown}: {error}", hostile.what),
            }
        }
        Due::Refusal => assert!((400..500).contains(&status), "{} is answered {status}: {shown}", hostile.what),
        Due::Any => {}
    }
    hostile.what
}

/// The object as it would be stored.
fn patched(object: &Value, patch: Option<&json_patch::Patch>) -> Value {
    let mut object = object.clone();
    if let Some(patch) = patch {
        json_patch::patch(&mut object, patch).unwrap_or_else(|error| panic!("{error}: {patch:?} of {object}"));
    }
    object
}

/// A client that compares what it applied with what is stored, field by field of what it applied, finds no difference.
#[actix_web::test]
async fn mutation_leaves_no_difference_to_an_applied_sample() {
    let http = service::http(world::reviewer(world::generated())).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seen = 0;
    for folder in ["samples", "shared/tests/data/examples"] {
        let mut paths: Vec<_> = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "yaml")) {
            let text = fs::read_to_string(path).unwrap();
            // Manifests that use an alias are exempt: the canonical spelling takes its place.
            if text.contains("tableGroups") || text.contains("storageClassName") {
                continue;
            }
            let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
            for manifest in documents.into_iter().filter(|document| document["kind"] == "MultigresCluster") {
                let mut applied = manifest.clone();
                applied["metadata"]["namespace"] = json!(specs::NAMESPACE);
                let answer = http.ask(Endpoint::MutateCluster, &Question::create(&applied)).await;
                assert!(answer.allowed, "{}: {answer:?}", path.display());
                let stored = patched(&applied, answer.patch.as_ref());
                assert_eq!(reduced(&stored, &applied), applied, "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 15, "only {seen} manifests were found");
}

/// The stored value without what the applied one does not speak of.
fn reduced(stored: &Value, applied: &Value) -> Value {
    match (stored, applied) {
        (Value::Object(stored), Value::Object(applied)) => applied
            .iter()
            .filter_map(|(key, applied)| Some((key.clone(), reduced(stored.get(key)?, applied))))
            .collect(),
        // A longer list is a difference, whatever its entries.
        (Value::Array(stored), Value::Array(applied)) if stored.len() == applied.len() => {
            stored.iter().zip(applied).map(|(stored, applied)| reduced(stored, applied)).collect()
        }
        _ => stored.clone(),
    }
}
