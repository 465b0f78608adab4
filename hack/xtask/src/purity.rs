//! Keeps effects out of the code that decides: the pure modules name no client, no runtime, no environment, no files, no clock.
//!
//! It reads the text of the sources. Comments, literals and test code do not count; `use` groups are spelled out first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail};

/// Files and folders whose code takes values and returns values.
const PURE: &[&str] = &[
    "shared/src/api",
    "shared/src/name",
    "shared/src/label.rs",
    "shared/src/merge.rs",
    "shared/src/resolve",
    "shared/src/validate",
    "shared/src/image.rs",
    "shared/src/pgconfig",
    "shared/src/health.rs",
    "shared/src/condition.rs",
    "shared/src/quantity.rs",
    "shared/src/kubeutil/compare.rs",
    "controller/src/plan.rs",
    "controller/src/backup/judge.rs",
    "controller/src/backup/progress.rs",
    "controller/src/backup/schedule.rs",
    "controller/src/backup/shard.rs",
    "controller/src/cluster",
    "controller/src/cell",
    "controller/src/table_group",
    "controller/src/topo_server",
    "controller/src/shard",
    "controller/src/workload",
];

/// What a pure module may not name.
const FORBIDDEN: &[Name] = &[
    Name::Path("kube::Client"),
    Name::Path("kube::client"),
    Name::Path("kube::Api"),
    Name::Path("kube::api::Api"),
    Name::Path("tokio"),
    Name::Path("std::env"),
    Name::Path("std::fs"),
    Name::Now,
];

/// The effectful corners of pure folders: the file, what it may name, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("controller/src/cluster/mod.rs", "now()", "`plan` hands the time to `decide`"),
    ("controller/src/cluster/certificates.rs", "now()", "`observe` hands the time to `due`"),
    ("controller/src/cluster/topology.rs", "tokio", "`read` asks the topology within a deadline"),
    ("controller/src/cell/mod.rs", "now()", "`plan` hands the time to `decide`"),
    ("controller/src/table_group/mod.rs", "now()", "`plan` hands the time to `decide`"),
    ("controller/src/topo_server/mod.rs", "now()", "`plan` hands the time to `decide`"),
    ("controller/src/shard/mod.rs", "now()", "`plan` hands the time to `decide`"),
    ("controller/src/shard/observe.rs", "now()", "answers of poolers are remembered with their time"),
    ("controller/src/shard/observe.rs", "tokio", "reads go out together"),
    ("controller/src/workload/telemetry.rs", "std::env", "`Inherited::of_process` hands the process's variables on"),
];

/// One forbidden name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// A path, and everything below it.
    Path(&'static str),
    /// A call of a function or method `now`.
    Now,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Path(path) => path,
            Self::Now => "now()",
        })
    }
}

/// A forbidden name in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    name: Name,
}

/// Fails if a pure module of the repository names an effect, or if an exception has become unnecessary.
pub fn run(repository: &Path) -> Result<()> {
    let mut files = BTreeSet::new();
    for place in PURE {
        collect(&repository.join(place), &mut files)?;
    }
    let mut sources = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let name = file.strip_prefix(repository).unwrap_or(&file).to_string_lossy().into_owned();
        sources.insert(name, text);
    }
    let problems = judge(&sources, EXCEPTIONS);
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{} places are not pure:\n{}", problems.len(), problems.join("\n"))
}

/// All Rust files at or below `place`, except for test code in files of its own.
fn collect(place: &Path, files: &mut BTreeSet<std::path::PathBuf>) -> Result<()> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    if is_test(&name) {
        return Ok(());
    }
    if place.is_dir() {
        for entry in fs::read_dir(place).with_context(|| format!("listing {}", place.display()))? {
            collect(&entry?.path(), files)?;
        }
    } else if name.ends_with(".rs") {
        if !place.is_file() {
            bail!("{} does not exist; correct the list of pure modules", place.display());
        }
        files.insert(place.to_path_buf());
    } else if !place.exists() {
        bail!("{} does not exist; correct the list of pure modules", place.display());
    }
    Ok(())
}

/// Whether a file or folder of that name is compiled for tests alone.
fn is_test(name: &str) -> bool {
    matches!(name, "tests" | "tests.rs" | "fixture" | "fixture.rs") || name.ends_with("_tests.rs")
}

/// One line per forbidden name that no exception covers, and per exception that covers nothing.
fn judge(sources: &BTreeMap<String, String>, exceptions: &[(&str, &str, &str)]) -> Vec<String> {
    let mut used = BTreeSet::new();
    let mut problems = Vec::new();
    for (file, text) in sources {
        for Finding { line, name } in findings(text) {
            let named = name.to_string();
            match exceptions.iter().position(|(place, allowed, _)| place == file && *allowed == named) {
                Some(index) => drop(used.insert(index)),
                None => problems.push(format!("{file}:{line}: a pure module must not name {named}")),
            }
        }
    }
    for (index, (file, name, _)) in exceptions.iter().enumerate() {
        if !used.contains(&index) {
            problems.push(format!("{file}:1: the exception for {name} is no longer needed; remove it from the list"));
        }
    }
    problems
}

/// Forbidden names in the code of one file, in the order of lines.
fn findings(source: &str) -> Vec<Finding> {
    let tokens = without_tests(&tokens(source));
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if token.text == "use" {
            let end = tokens[at..].iter().position(|t| t.text == ";").map_or(tokens.len(), |offset| at + offset);
            spell_out(&tokens[at + 1..end], &[], &mut |path, line| {
                found.extend(named(path).map(|name| Finding { line, name }));
            });
            at = end + 1;
        } else if is_word(token.text) {
            let mut path = vec![token.text];
            let mut next = at + 1;
            while tokens.get(next).is_some_and(|t| t.text == "::")
                && let Some(word) = tokens.get(next + 1).filter(|t| is_word(t.text))
            {
                path.push(word.text);
                next += 2;
            }
            found.extend(named(&path).map(|name| Finding { line: token.line, name }));
            let called = tokens.get(next).is_some_and(|t| t.text == "(");
            let defined = at > 0 && tokens[at - 1].text == "fn";
            if called && !defined && path.last() == Some(&"now") {
                found.push(Finding { line: token.line, name: Name::Now });
            }
            at = next;
        } else {
            at += 1;
        }
    }
    found.dedup();
    found
}

/// The forbidden path that a path is or lies below.
fn named(path: &[&str]) -> Option<Name> {
    FORBIDDEN.iter().copied().find(|name| match name {
        Name::Path(forbidden) => {
            let mut words = path.iter();
            forbidden.split("::").all(|word| words.next() == Some(&word))
        }
        Name::Now => false,
    })
}

/// Tells every path of a `use` tree: `kube::{Api, core::Object}` is `kube::Api` and `kube::core::Object`.
fn spell_out<'a>(tree: &[Token<'a>], prefix: &[&'a str], tell: &mut impl FnMut(&[&'a str], usize)) {
    let mut path = prefix.to_vec();
    let mut line = tree.first().map_or(0, |token| token.line);
    let mut at = 0;
    while let Some(token) = tree.get(at) {
        match token.text {
            "{" => {
                let end = closing(tree, at);
                spell_out(&tree[at + 1..end], &path, tell);
                path.clear();
                at = end;
            }
            "," => {
                if path.len() > prefix.len() {
                    tell(&path, line);
                }
                path = prefix.to_vec();
            }
            // The name that follows is no part of the path.
            "as" => at += 1,
            word if is_word(word) => {
                line = token.line;
                path.push(word);
            }
            _ => {}
        }
        at += 1;
    }
    if path.len() > prefix.len() {
        tell(&path, line);
    }
}

/// A word, `::`, or a single other character of the code.
#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The code as tokens; comments are gone, and literals are an empty token each.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let (length, token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (block_comment(rest), None)
        } else if let Some(length) = literal(rest) {
            (length, Some(""))
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (length, Some(&rest[..length]))
        } else if rest.starts_with("::") {
            (2, Some("::"))
        } else if first.is_whitespace() {
            (first.len_utf8(), None)
        } else {
            (first.len_utf8(), Some(&rest[..first.len_utf8()]))
        };
        tokens.extend(token.map(|text| Token { text, line }));
        let (read, left) = rest.split_at(length);
        line += read.matches('\n').count();
        rest = left;
    }
    tokens
}

/// Length of a block comment with those inside it.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of the string or character literal that the text starts with.
fn literal(text: &str) -> Option<usize> {
    let body = text.strip_prefix('b').or_else(|| text.strip_prefix('c')).unwrap_or(text);
    let prefix = text.len() - body.len();
    if let Some(raw) = body.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let content = prefix + 1 + hashes + 1;
            return Some(text[content..].find(&end).map_or(text.len(), |found| content + found + end.len()));
        }
    }
    if body.starts_with('"') {
        return Some(quoted(text, prefix + 1, '"'));
    }
    if let Some(inner) = body.strip_prefix('\'') {
        // A lifetime has no quote behind its first character.
        let mut characters = inner.chars();
        let first = characters.next()?;
        if first == '\\' || characters.next() == Some('\'') {
            return Some(quoted(text, prefix + 1, '\''));
        }
    }
    None
}

/// Index behind the closing quote of a literal whose content starts at `from`.
fn quoted(text: &str, from: usize, quote: char) -> usize {
    let mut escaped = false;
    for (offset, character) in text[from..].char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return from + offset + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The tokens without the items that are compiled for tests alone.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let marked = tokens[at..].iter().map(|t| t.text).take(ATTRIBUTE.len()).eq(ATTRIBUTE);
        if !marked {
            kept.push(*token);
            at += 1;
            continue;
        }
        // The item ends with its body, or with a semicolon where it has none.
        at += ATTRIBUTE.len();
        while let Some(token) = tokens.get(at) {
            match token.text {
                ";" => break,
                "{" => {
                    at = closing(tokens, at);
                    break;
                }
                "(" | "[" => at = closing(tokens, at) + 1,
                _ => at += 1,
            }
        }
        at += 1;
    }
    kept
}

/// Index of the bracket that closes the one at `open`.
fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<(usize, String)> {
        findings(source).into_iter().map(|finding| (finding.line, finding.name.to_string())).collect()
    }

    fn one(source: &str) -> String {
        let found = found(source);
        assert_eq!(found.len(), 1, "{source}: {found:?}");
        found[0].1.clone()
    }

    #[test]
    fn forbidden_names_are_found_with_their_line() {
        assert_eq!(found("fn a() {}\n\nfn b(c: kube::Client) {}"), [(3, "kube::Client".to_owned())]);
        assert_eq!(one("let x: kube::Api<Pod> = y;"), "kube::Api");
        assert_eq!(one("tokio::time::sleep(x).await"), "tokio");
        assert_eq!(one("std::env::var(\"HOME\")"), "std::env");
        assert_eq!(one("std::fs::read(path)"), "std::fs");
        assert_eq!(one("let now = jiff::Timestamp::now();"), "now()");
        assert_eq!(one("let now = ctx.clock.now();"), "now()");
    }

    #[test]
    fn groups_and_renames_of_imports_hide_nothing() {
        assert_eq!(
            found("use kube::{\n    Resource,\n    Api,\n    core::ObjectMeta,\n    Client as C,\n};"),
            [(3, "kube::Api".to_owned()), (5, "kube::Client".to_owned())]
        );
        assert_eq!(one("use std::{collections::{BTreeMap, BTreeSet}, env, sync::Arc};"), "std::env");
        assert_eq!(one("use std::{fs::File, io};"), "std::fs");
        assert_eq!(one("use ::tokio::sync;"), "tokio");
    }

    #[test]
    fn other_names_are_allowed() {
        for source in [
            "use kube::{Resource, ResourceExt as _, core::ClientHints};",
            "use k8s_openapi::api::core::v1::Pod;",
            "fn decide(now: Timestamp) { later(now) }",
            "fn now() -> Timestamp { epoch }",
            "use std::{fmt, env_like, fsck};",
            "let tokio_ish = my::std::env;",
            "use crate::kube as other;",
        ] {
            assert_eq!(found(source), [], "{source}");
        }
    }

    #[test]
    fn comments_and_literals_do_not_count() {
        for source in [
            "//! Never touches kube::Client.\n// tokio\n/* std::fs /* std::env */ tokio */ fn a() {}",
            "const A: &str = \"std::env \\\" tokio\";",
            "const A: &str = r#\"tokio \" std::fs\"#;",
            "const A: &[u8] = b\"tokio\"; const B: char = '\"'; const C: char = '\\''; const D: &str = \"tokio\";",
        ] {
            assert_eq!(found(source), [], "{source}");
        }
        assert_eq!(found("fn a<'a>(x: &'a str) -> &'a str { tokio::f('x') }").len(), 1);
    }

    #[test]
    fn code_for_tests_does_not_count_and_code_behind_it_does() {
        let source =
            "#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn a() { if x { tokio::run() } }\n}\nuse std::env;\n";
        assert_eq!(found(source), [(6, "std::env".to_owned())]);
        assert_eq!(found("#[cfg(test)]\npub fn helper(x: [u8; 2]) -> tokio::X { now() }"), []);
        assert_eq!(
            found("#[cfg(test)]\nuse std::fs;\n#[cfg(test)]\nmod tests;\nfn a() { std::fs::x }"),
            [(5, "std::fs".to_owned())]
        );
        assert_eq!(found("#[cfg(not(test))]\nuse std::fs;").len(), 1);
    }

    #[test]
    fn exceptions_hold_for_their_file_and_name_alone() {
        let sources = BTreeMap::from([
            ("a.rs".to_owned(), "use std::env;\nuse std::fs;".to_owned()),
            ("b.rs".to_owned(), "\nuse std::env;".to_owned()),
        ]);
        assert_eq!(
            judge(&sources, &[("a.rs", "std::env", "why")]),
            ["a.rs:2: a pure module must not name std::fs", "b.rs:2: a pure module must not name std::env"]
        );
    }

    #[test]
    fn an_exception_that_covers_nothing_is_a_problem() {
        let problems =
            judge(&BTreeMap::from([("a.rs".to_owned(), "fn a() {}".to_owned())]), &[("a.rs", "tokio", "why")]);
        assert_eq!(problems, ["a.rs:1: the exception for tokio is no longer needed; remove it from the list"]);
    }

    #[test]
    fn files_of_tests_are_told_by_their_names() {
        assert!(is_test("tests.rs") && is_test("compare_tests.rs") && is_test("tests"));
        assert!(!is_test("test_bed.rs") && !is_test("status.rs"));
    }

    #[test]
    fn this_repository_is_pure() {
        run(&crate::repository()).unwrap();
    }
}
