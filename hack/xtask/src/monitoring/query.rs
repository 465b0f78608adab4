//! Which series a PromQL expression names.

use std::collections::BTreeSet;

use shared::metrics::families::{self, Family, Kind};

/// Words that stand before a list of labels.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words that are no series although no parenthesis follows.
const WORDS: [&str; 16] = [
    "and",
    "or",
    "unless",
    "bool",
    "offset",
    "inf",
    "nan",
    "sum",
    "min",
    "max",
    "avg",
    "count",
    "group",
    "topk",
    "quantile",
    "group_left",
];

/// The names of all series in an expression.
pub fn names(expression: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = expression;
    while let Some(letter) = rest.chars().next() {
        match letter {
            '"' | '\'' => rest = after_string(rest, letter),
            '{' => rest = after_block(rest, '}'),
            '[' => rest = after_block(rest, ']'),
            '#' => rest = rest.find('\n').map_or("", |end| &rest[end..]),
            letter if letter.is_ascii_digit() || letter == '$' => {
                rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "._$".contains(c));
            }
            letter if letter.is_ascii_alphabetic() || letter == '_' => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c))).unwrap_or(rest.len());
                let (word, behind) = rest.split_at(end);
                let next = behind.trim_start();
                rest = behind;
                if LISTS.contains(&word) && next.starts_with('(') {
                    rest = after_block(next, ')');
                } else if !next.starts_with('(') && !WORDS.contains(&word) && !LISTS.contains(&word) {
                    names.insert(word.to_owned());
                }
            }
            other => rest = &rest[other.len_utf8()..],
        }
    }
    names
}

/// The series that an expression selects by labels, each with the names of these labels.
pub fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for name in names(expression) {
        let mut rest = expression;
        while let Some(at) = rest.find(&format!("{name}{{")) {
            let block = &rest[at + name.len()..];
            let end = block.len() - after_block(block, '}').len();
            found.push((name.clone(), labels(&block[1..end.saturating_sub(1)])));
            rest = &block[end..];
        }
    }
    found
}

/// The names in a list of matchers.
fn labels(matchers: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let mut rest = matchers;
    while let Some(end) = rest.find(['=', '!']) {
        labels.push(rest[..end].trim_matches([' ', ',']).to_owned());
        let value = rest[end..].trim_start_matches(['=', '!', '~', ' ']);
        rest = after_string(value, value.chars().next().unwrap_or('"'));
    }
    labels
}

/// The family that a series belongs to: of a histogram, without its part.
pub fn family(name: &str) -> Option<&'static Family> {
    let parts = ["_bucket", "_sum", "_count"];
    let whole = parts.iter().filter_map(|part| name.strip_suffix(part)).find_map(families::find);
    families::find(name).or(whole)
}

/// Whether somebody exports a series of this name.
pub fn is_listed(name: &str) -> bool {
    let known =
        |name: &str| families::find(name).is_some() || families::FOREIGN.iter().any(|(other, _)| *other == name);
    let parts = ["_bucket", "_sum", "_count"];
    let of_histogram = parts.iter().filter_map(|part| name.strip_suffix(part)).any(|base| match families::find(base) {
        Some(family) => family.kind == Kind::Histogram,
        None => known(base),
    });
    known(name) || of_histogram
}

fn after_string(text: &str, quote: char) -> &str {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == quote {
            return &text[at + letter.len_utf8()..];
        }
    }
    ""
}

/// What follows the block that `text` starts with. Its strings may hold the closing sign.
fn after_block(text: &str, close: char) -> &str {
    let mut rest = &text[1..];
    while let Some(letter) = rest.chars().next() {
        if letter == '"' || letter == '\'' {
            rest = after_string(rest, letter);
            continue;
        }
        rest = &rest[letter.len_utf8()..];
        if letter == close {
            return rest;
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_from_functions_labels_and_words() {
        let expression = r#"
            histogram_quantile(0.99, sum by (controller, le) (rate(a_bucket{job=~"x}(y"}[5m]))) > 30 # threshold of b
            and on (namespace) max by (namespace) (c:d{e="f"}) unless ignoring (g) h offset 5m
            or label_replace(vector(0), "name", "none", "", "") * on (i) group_left (j) k"#;
        assert_eq!(names(expression).into_iter().collect::<Vec<_>>(), ["a_bucket", "c:d", "h", "k"]);
    }

    #[test]
    fn selectors_are_found_with_their_labels() {
        let found = selectors(r#"rate(a{b="x}", c!~"y,z=", d=~'q'}[5m]) / a{e="f"}"#);
        let labels = |names: &[&str]| ("a".to_owned(), names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(found, [labels(&["b", "c", "d"]), labels(&["e"])]);
    }

    #[test]
    fn parts_of_histograms_are_listed_with_them_and_those_of_counters_are_not() {
        assert!(is_listed("workqueue_depth") && is_listed("up"));
        assert!(is_listed("controller_runtime_reconcile_time_seconds_bucket"));
        assert!(is_listed("mg_gateway_query_duration_seconds_count"));
        assert!(!is_listed("workqueue_depth_count") && !is_listed("multigres_operator_nonsense"));
    }
}
