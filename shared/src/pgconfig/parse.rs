//! Reading the text of a `postgresql.conf` the way the server does.

use std::collections::BTreeMap;

/// What a configuration text assigns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Last assigned value per lower-case name, without quotes.
    pub settings: BTreeMap<String, String>,
    /// `include`, `include_if_exists` and `include_dir` lines in order; what they pull in is not visible here.
    pub includes: Vec<String>,
}

/// Reads a configuration text: `name = value` and `name value` lines, `#` comments, quoted values; the last assignment wins.
pub fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let end = line.find(|c: char| c == '=' || c == '\'' || c == '#' || c.is_whitespace()).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let rest = rest.trim_start();
        let rest = rest.strip_prefix('=').unwrap_or(rest);
        let (name, value) = (name.to_ascii_lowercase(), value_of(rest.trim_start()));
        if name.is_empty() {
            continue;
        }
        if matches!(name.as_str(), "include" | "include_if_exists" | "include_dir") {
            parsed.includes.push(format!("{name} {value}"));
        } else {
            parsed.settings.insert(name, value);
        }
    }
    parsed
}

/// The value at the start of the text, unquoted, without a trailing comment.
fn value_of(text: &str) -> String {
    let Some(quoted) = text.strip_prefix('\'') else {
        return text.split('#').next().unwrap_or_default().trim().to_owned();
    };
    let mut value = String::new();
    let mut chars = quoted.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => break,
            '\\' => match chars.next() {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some('b') => value.push('\u{8}'),
                Some('f') => value.push('\u{c}'),
                Some(digit @ '0'..='7') => {
                    let mut code = digit.to_digit(8).unwrap_or(0);
                    for _ in 0..2 {
                        let Some(next) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                        code = code * 8 + next;
                        chars.next();
                    }
                    value.extend(char::from_u32(code));
                }
                Some(other) => value.push(other),
                None => {}
            },
            other => value.push(other),
        }
    }
    value
}

/// The value as a quoted token that the server reads back unchanged.
pub fn quote(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for c in value.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("work_mem = 4MB", Some("4MB"))]
    #[case("Work_Mem=4MB # comment", Some("4MB"))]
    #[case("  work_mem   '4MB'", Some("4MB"))]
    #[case("work_mem 4MB", Some("4MB"))]
    #[case("work_mem = '4''#MB' # comment", Some("4'#MB"))]
    #[case("work_mem = 'a\\\\b'", Some("a\\b"))]
    #[case("work_mem = 'unterminated", Some("unterminated"))]
    #[case("work_mem = ''", Some(""))]
    #[case("work_mem = 1MB\nwork_mem = 2MB", Some("2MB"))]
    #[case("# work_mem = 4MB", None)]
    #[case("= 4MB", None)]
    fn lines_are_read_as_the_server_reads_them(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(parse(text).settings.get("work_mem").map(String::as_str), expected);
    }

    #[test]
    fn includes_are_reported_apart() {
        let parsed = parse("include 'other.conf'\ninclude_dir = conf.d\nwork_mem = 1MB");
        assert_eq!(parsed.includes, ["include other.conf", "include_dir conf.d"]);
        assert_eq!(parsed.settings.len(), 1);
    }

    proptest! {
        #[test]
        fn any_text_is_readable(text in ".{0,200}") {
            parse(&text);
        }

        #[test]
        fn a_quoted_value_reads_back_unchanged(value in "[^\u{0}]{0,40}") {
            let parsed = parse(&format!("name = {}", quote(&value)));
            prop_assert_eq!(parsed.settings.get("name"), Some(&value));
        }
    }
}
