//! The hashed join that turns user-chosen parts into one legal object name.

use std::fmt::Write as _;

/// What the kind of an object demands of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub(super) max: usize,
    letter_first: bool,
}

/// Custom resources and Deployments.
pub const DEFAULT: Limit = Limit { max: 253, letter_first: false };
/// Services and everything else that becomes one DNS label.
pub const SERVICE: Limit = Limit { max: 63, letter_first: true };
/// StatefulSets, whose pods and revisions append to the name.
pub const STATEFUL_SET: Limit = Limit { max: 52, letter_first: true };
/// The base of pool pods; three characters are left for the index.
pub const POD: Limit = Limit { max: 60, letter_first: true };

/// Length of a hyphen and the hash.
const SUFFIX: usize = 9;
/// Marks a name whose readable text was cut.
const CUT: &str = "---";

impl Limit {
    fn allows_first(self, first: char) -> bool {
        first.is_ascii_lowercase() || (!self.letter_first && first.is_ascii_digit())
    }
}

/// Returns the 32-bit FNV-1a hash of the parts as eight hex digits; a zero byte follows each part, so that different
/// splits of the same text hash differently.
pub fn hash(parts: &[&str]) -> String {
    let mut state = 0x811c_9dc5_u32;
    for part in parts {
        for byte in part.bytes().chain(std::iter::once(0)) {
            state = (state ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }
    format!("{state:08x}")
}

/// Joins the parts into a name within `limit`: readable text, then the hash of the original parts.
///
/// The text is cut, and marked with three hyphens, where it does not fit. No parts give an empty string.
pub fn join(limit: Limit, parts: &[&str]) -> String {
    if parts.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            text.push('-');
        }
        let start = text.len();
        text.extend(part.chars().map(legal));
        if position == 0 && !text.chars().next().is_some_and(|first| limit.allows_first(first)) {
            text.insert(start, 'x');
        }
    }
    let hash = hash(parts);
    if text.len() + SUFFIX <= limit.max {
        let _ = write!(text, "-{hash}");
    } else {
        // Only ASCII is left, so a byte position is a character position.
        text.truncate(limit.max.saturating_sub(SUFFIX + CUT.len() - 1));
        let _ = write!(text, "{CUT}{hash}");
    }
    text
}

fn legal(character: char) -> char {
    match character {
        'a'..='z' | '0'..='9' | '-' => character,
        'A'..='Z' => character.to_ascii_lowercase(),
        _ => '-',
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[], "811c9dc5")]
    #[case(&[""], "050c5d1f")]
    #[case(&["a"], "2b24d044")]
    #[case(&["a", "b"], "81977b96")]
    #[case(&["ab"], "3b481cfe")]
    #[case(&["hello", "world"], "344ce285")]
    #[case(&["cluster", "db", "tg", "shard"], "6546c6b2")]
    #[case(&["é"], "f39567d3")]
    fn hash_matches_the_vectors(#[case] parts: &[&str], #[case] expected: &str) {
        assert_eq!(hash(parts), expected);
    }

    #[rstest]
    #[case(DEFAULT, &["hello", "world"], "hello-world-344ce285")]
    #[case(DEFAULT, &["UpperCase", "with_underscore.and.dot"], "uppercase-with-underscore-and-dot-458180cc")]
    #[case(DEFAULT, &["", "a"], "x-a-659c64ae")]
    #[case(DEFAULT, &["café", "z"], "caf--z-008a8779")]
    #[case(DEFAULT, &["a-b", "c"], "a-b-c-f03bd84a")]
    #[case(DEFAULT, &["a", "b-c"], "a-b-c-86d543be")]
    #[case(DEFAULT, &["production-db", "app", "sales"], "production-db-app-sales-65082600")]
    #[case(DEFAULT, &["production", "db-app", "sales"], "production-db-app-sales-72af7aea")]
    #[case(DEFAULT, &["1abc", "z1"], "1abc-z1-8d30dd3b")]
    #[case(DEFAULT, &["demo-multi-az", "zone-a"], "demo-multi-az-zone-a-6bb3393a")]
    #[case(DEFAULT, &[], "")]
    fn join_matches_the_vectors(#[case] limit: Limit, #[case] parts: &[&str], #[case] expected: &str) {
        assert_eq!(join(limit, parts), expected);
    }

    #[rstest]
    #[case(25, &["aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb"], "aaaaaaaaaaaaaa---45931571")]
    #[case(12, &["abcdefgh"], "a---a73a7bf7")]
    #[case(12, &["abc"], "abc-6a33dc51")]
    #[case(
        50,
        &["really-really-ridiculously-long-inputs-are-truncated"],
        "really-really-ridiculously-long-inputs----ff6dd618"
    )]
    fn join_cuts_to_any_limit(#[case] max: usize, #[case] parts: &[&str], #[case] expected: &str) {
        assert_eq!(join(Limit { max, letter_first: true }, parts), expected);
    }

    #[test]
    fn text_that_just_fits_is_not_cut() {
        assert_eq!(join(SERVICE, &["a".repeat(54).as_str()]), format!("{}-0a29a661", "a".repeat(54)));
        assert_eq!(join(SERVICE, &["a".repeat(55).as_str()]), format!("{}---faddbd6a", "a".repeat(52)));
    }

    proptest! {
        #[test]
        fn any_parts_give_a_legal_name(parts in proptest::collection::vec(".{0,40}", 1..6)) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            for limit in [DEFAULT, SERVICE, STATEFUL_SET, POD] {
                let name = join(limit, &parts);
                prop_assert!(name.len() <= limit.max);
                prop_assert!(name.ends_with(&hash(&parts)));
                prop_assert!(name.chars().next().is_some_and(|first| limit.allows_first(first)));
                prop_assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            }
        }
    }
}
