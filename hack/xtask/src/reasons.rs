//! The page about troubleshooting speaks of whatever the controller can say is wrong, and of nothing else.
//!
//! It reads the text of the sources: words in CamelCase that stand as literals in files that make conditions or events, and the variants of the
//! enums whose names become reasons. Why something is written is no word to a user.

use std::{collections::BTreeSet, fs, path::Path};

/// The page.
const PAGE: &str = "docs/troubleshooting.md";
/// Where the controller's sources are, and one file beside them with reasons.
const SOURCES: [&str; 2] = ["controller/src", "shared/src/resolve/error.rs"];
/// What a file contains that makes conditions or events.
const SPEAKS: [&str; 5] = ["ConditionSet", "Note::", "(&'static str, ", "reason: ", "fn reason"];
/// What stands before a literal that says why something is written.
const OF_WRITES: [&str; 4] = ["write(", "mark(", "remove(", "plan,"];
/// Enums whose variants become reasons.
const ENUMS: [(&str, &str); 3] = [
    ("controller/src/shard/disruption/verdict.rs", "Reason"),
    ("controller/src/error.rs", "Error"),
    ("controller/src/upstream/error.rs", "Error"),
];
/// Reasons and events which tell that all is well, or on its way.
const WELL: &[&str] = &[
    "Accepted",
    "AllPodsReady",
    "AllReplicasReady",
    "Answered",
    "Archiving",
    "BackupCompleted",
    "BackupMade",
    "BackupRecent",
    "BackupRunning",
    "CellDeleted",
    "Confirmed",
    "DeadPoolersMarked",
    "Deleted",
    "DrainCancelled",
    "DrainCompleted",
    "DrainStarted",
    "Drained",
    "EndpointReady",
    "FullyPinned",
    "ImagesUpdated",
    "InProgress",
    "MultigatewayAvailable",
    "MultigatewayReady",
    "PendingDeletion",
    "PhaseChange",
    "Quorum",
    "Reachable",
    "RemovalCalledOff",
    "ShardsReady",
    "SwitchoverCompleted",
    "SwitchoverStarted",
    "UpToDate",
    "VolumeReplaced",
];
/// Literals of the same files that are something else: kinds, units, words of Kubernetes, names of spans, reasons of writes.
const OTHERS: &[&str] = &[
    "Cell",
    "CellTemplate",
    "ConfigMap",
    "CoreTemplate",
    "Decide",
    "Execute",
    "False",
    "FileSystemResizePending",
    "Finalizer",
    "Gateway",
    "Gi",
    "ImagesAdopted",
    "Ki",
    "Mi",
    "MultigresBackup",
    "MultigresCluster",
    "Node",
    "Observe",
    "Opaque",
    "Pi",
    "Pod",
    "PodScheduled",
    "PolicyDelete",
    "ReadWriteOnce",
    "Secret",
    "Shard",
    "ShardTemplate",
    "TableGroup",
    "Ti",
    "TopoAddress",
    "TopoServer",
    "True",
    "Unschedulable",
    "VolumeKept",
    "VolumeOrphaned",
];
/// Words of Kubernetes that the page goes by.
const OF_KUBERNETES: [&str; 2] = ["ErrImagePull", "WaitForFirstConsumer"];

/// Calls `see` with the text of each source, without comments and tests.
fn each_source(place: &Path, see: &mut impl FnMut(&str)) {
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if matches!(name.as_str(), "tests" | "tests.rs" | "fixture" | "fixture.rs") || name.ends_with("_tests.rs") {
        return;
    }
    if place.is_dir() {
        for entry in fs::read_dir(place).unwrap() {
            each_source(&entry.unwrap().path(), see);
        }
    } else if place.extension().is_some_and(|kind| kind == "rs") {
        let text = fs::read_to_string(place).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        see(&lines.join("\n"));
    }
}

fn is_camel_case(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.chars().all(|c| c.is_ascii_alphanumeric())
        && word.contains(|c: char| c.is_ascii_lowercase())
}

/// Literals that are one word in CamelCase, each with the code before it.
fn literals(code: &str) -> Vec<(&str, &str)> {
    let quotes = code.match_indices('"');
    let word = |(at, _): (usize, &str)| {
        let (word, _) = code[at + 1..].split_once('"')?;
        is_camel_case(word).then_some((word, &code[..at]))
    };
    quotes.filter_map(word).collect()
}

/// Whether a literal with this before it says why something is written.
fn is_of_write(before: &str) -> bool {
    OF_WRITES.iter().any(|call| before.trim_end().ends_with(call))
}

/// What the controller says to users.
fn spoken(code: &str) -> BTreeSet<String> {
    if !SPEAKS.iter().any(|mark| code.contains(mark)) {
        return BTreeSet::new();
    }
    let found = literals(code).into_iter().filter(|(word, before)| !is_of_write(before) && !OTHERS.contains(word));
    found.map(|(word, _)| word.to_owned()).collect()
}

/// The variants of an enum, one of which begins each line that is indented once.
fn variants(text: &str, name: &str) -> BTreeSet<String> {
    let (_, after) = text.split_once(&format!("pub enum {name} {{\n")).unwrap();
    let (body, _) = after.split_once("\n}").unwrap();
    let word = |line: &str| {
        let line = line.strip_prefix("    ")?;
        let word: String = line.chars().take_while(char::is_ascii_alphanumeric).collect();
        is_camel_case(&word).then_some(word)
    };
    body.lines().filter_map(word).collect()
}

/// All words of a page that are marked as code.
fn marked(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).filter(|word| is_camel_case(word)).map(str::to_owned).collect()
}

/// What is said, and every literal there is.
fn of_the_code() -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut said, mut all) = (BTreeSet::new(), BTreeSet::new());
    for place in SOURCES {
        each_source(&crate::repository().join(place), &mut |code| {
            said.extend(spoken(code));
            all.extend(literals(code).into_iter().map(|(word, _)| word.to_owned()));
        });
    }
    for (file, name) in ENUMS {
        said.extend(variants(&fs::read_to_string(crate::repository().join(file)).unwrap(), name));
    }
    all.extend(said.iter().cloned());
    (said, all)
}

#[test]
fn the_page_explains_every_reason_that_is_not_good_news() {
    let page = marked(&fs::read_to_string(crate::repository().join(PAGE)).unwrap());
    let (said, _) = of_the_code();
    let silent: Vec<&String> =
        said.iter().filter(|word| !page.contains(*word) && !WELL.contains(&word.as_str())).collect();
    assert!(
        silent.is_empty(),
        "{PAGE} says nothing about {silent:?}; good news and other words are listed in this test"
    );
    assert!(said.len() > 100, "only {} words were found", said.len());
}

#[test]
fn the_page_goes_by_nothing_that_nobody_says() {
    let text = fs::read_to_string(crate::repository().join(PAGE)).unwrap();
    let (_, all) = of_the_code();
    let first_cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let words = first_cells.flat_map(marked);
    let unheard: Vec<String> =
        words.filter(|word| !all.contains(word) && !OF_KUBERNETES.contains(&word.as_str())).collect();
    assert!(unheard.is_empty(), "{PAGE} goes by {unheard:?}, which the controller does not say");
}

#[test]
fn the_lists_of_this_test_name_only_what_is_there() {
    let (said, all) = of_the_code();
    let stale: Vec<&&str> = WELL.iter().filter(|word| !said.contains(**word)).collect();
    assert!(stale.is_empty(), "nobody says {stale:?}");
    let stale: Vec<&&str> = OTHERS.iter().filter(|word| !all.contains(**word)).collect();
    assert!(stale.is_empty(), "there is no {stale:?}");
}

#[test]
fn words_are_told_from_reasons_of_writes_and_from_sentences() {
    let code = "set.set(A, false, \"NoPrimary\", \"No primary\"); plan.write(\n    \"Desired\", x); want(&mut plan, \"Origin\", y); \
        let reason: &str = if a { \"Slow\" } else { \"\" };";
    let words: Vec<String> = spoken(code).into_iter().collect();
    assert_eq!(words, ["NoPrimary", "Slow"]);
    assert!(spoken("let kind = \"NoPrimary\";").is_empty(), "it tells nobody");
    assert_eq!(marked("`NoPrimary` and `no`, `AB`, `Cell: x`").into_iter().collect::<Vec<_>>(), ["NoPrimary"]);
    let text = "pub enum Reason {\n    /// Why.\n    Slow,\n    Gone {\n        Field: x,\n    },\n}\n";
    assert_eq!(variants(text, "Reason").into_iter().collect::<Vec<_>>(), ["Gone", "Slow"]);
}
