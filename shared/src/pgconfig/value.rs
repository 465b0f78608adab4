//! Checks one value against the catalogue as the server would: spelling, unit and bounds.

use super::catalog::{Kind, Setting, Unit};

/// Why a value does not fit a setting.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ValueError {
    /// Control characters would end the line of the rendered file.
    #[error("must not contain control characters")]
    Control,
    /// Not a spelling of on or off.
    #[error("must be on or off")]
    Bool,
    /// Not a number.
    #[error("must be {0}")]
    Number(String),
    /// A unit that the setting cannot be converted from.
    #[error("the unit {unit:?} does not fit; {allowed}")]
    Unit {
        /// The given unit.
        unit: String,
        /// The units that fit, in words.
        allowed: &'static str,
    },
    /// A number outside of its bounds.
    #[error("must be between {min} and {max}{unit}")]
    Range {
        /// Smallest value, in the stored unit.
        min: String,
        /// Largest value, in the stored unit.
        max: String,
        /// The stored unit, in words.
        unit: &'static str,
    },
    /// None of the allowed words.
    #[error("must be one of {0}")]
    Choice(String),
}

/// Whether the server would take the value for the setting.
pub fn check(setting: &Setting, value: &str) -> Result<(), ValueError> {
    if value.chars().any(char::is_control) {
        return Err(ValueError::Control);
    }
    let value = value.trim();
    match setting.kind {
        Kind::Text => Ok(()),
        Kind::Bool => is_bool(value).then_some(()).ok_or(ValueError::Bool),
        Kind::Enum(choices) => check_enum(choices, value),
        Kind::Integer { unit, min, max } => {
            let number = number(value, unit, "a whole number")?;
            #[expect(clippy::cast_precision_loss, reason = "the server compares bounds as doubles, too")]
            let (low, high) = (min as f64, max as f64);
            in_range(number.round_ties_even(), low, high, unit)
        }
        Kind::Real { unit, min, max } => in_range(number(value, unit, "a number")?, min, max, unit),
    }
}

/// The spellings of a boolean: `on`, `off`, `1`, `0` and any unambiguous start of true, false, yes, no, off.
fn is_bool(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let starts = ["true", "false", "yes", "no"].iter().any(|word| !value.is_empty() && word.starts_with(&value));
    starts || matches!(value.as_str(), "on" | "of" | "off" | "1" | "0")
}

fn check_enum(choices: &str, value: &str) -> Result<(), ValueError> {
    let words = || choices.split('|');
    let listed = words().any(|word| word.eq_ignore_ascii_case(value));
    // The server hides some spellings: booleans where on and off are words, and `debug` for a message level.
    let switch = words().any(|word| word == "on")
        && matches!(value.to_ascii_lowercase().as_str(), "true" | "false" | "yes" | "no" | "1" | "0");
    let level = words().any(|word| word == "debug2")
        && matches!(value.to_ascii_lowercase().as_str(), "debug" | "info" | "fatal" | "panic");
    if listed || switch || level {
        return Ok(());
    }
    Err(ValueError::Choice(
        words().map(|word| if word.is_empty() { "''" } else { word }).collect::<Vec<_>>().join(", "),
    ))
}

/// The number in the stored unit of the setting.
pub(super) fn number(value: &str, stored: Unit, kind: &str) -> Result<f64, ValueError> {
    let wrong = || ValueError::Number(format!("{kind}{}", hint(stored)));
    let digits = value.strip_prefix(['-', '+']).unwrap_or(value);
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (magnitude, rest) = if let Some(hex) = hex {
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let parsed = u32::from_str_radix(&hex[..end], 16).map_err(|_| wrong())?;
        (f64::from(parsed), &hex[end..])
    } else {
        let end = decimal_end(digits);
        (digits[..end].parse::<f64>().map_err(|_| wrong())?, &digits[end..])
    };
    if !magnitude.is_finite() {
        return Err(wrong());
    }
    let signed = if value.starts_with('-') { -magnitude } else { magnitude };
    let unit = rest.trim_start();
    if unit.is_empty() {
        return Ok(signed);
    }
    let factor =
        factor(unit, stored).ok_or_else(|| ValueError::Unit { unit: unit.to_owned(), allowed: allowed(stored) })?;
    Ok(signed * factor)
}

/// Where a decimal number (digits, fraction, exponent) ends.
fn decimal_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    end
}

/// Bytes or milliseconds in one stored unit, and whether the unit measures memory.
fn base(unit: Unit) -> Option<(f64, bool)> {
    Some(match unit {
        Unit::Plain => return None,
        Unit::Byte => (1.0, true),
        Unit::Kilobyte => (1024.0, true),
        Unit::Block => (8192.0, true),
        Unit::Megabyte => (1_048_576.0, true),
        Unit::Millisecond => (1.0, false),
        Unit::Second => (1000.0, false),
        Unit::Minute => (60_000.0, false),
    })
}

fn factor(unit: &str, stored: Unit) -> Option<f64> {
    let (divisor, memory) = base(stored)?;
    let size = match (unit, memory) {
        ("B", true) | ("ms", false) => 1.0,
        ("kB", true) => 1024.0,
        ("MB", true) => 1_048_576.0,
        ("GB", true) => 1_073_741_824.0,
        ("TB", true) => 1_099_511_627_776.0,
        ("us", false) => 0.001,
        ("s", false) => 1000.0,
        ("min", false) => 60_000.0,
        ("h", false) => 3_600_000.0,
        ("d", false) => 86_400_000.0,
        _ => return None,
    };
    Some(size / divisor)
}

fn allowed(stored: Unit) -> &'static str {
    match base(stored) {
        None => "the setting takes no unit",
        Some((_, true)) => "use B, kB, MB, GB or TB",
        Some((_, false)) => "use us, ms, s, min, h or d",
    }
}

fn hint(stored: Unit) -> &'static str {
    match base(stored) {
        None => "",
        Some((_, true)) => ", optionally with B, kB, MB, GB or TB",
        Some((_, false)) => ", optionally with us, ms, s, min, h or d",
    }
}

fn in_range(number: f64, min: f64, max: f64, unit: Unit) -> Result<(), ValueError> {
    if (min..=max).contains(&number) {
        return Ok(());
    }
    let unit = match unit {
        Unit::Plain => "",
        Unit::Byte => " bytes",
        Unit::Kilobyte => " kB",
        Unit::Block => " pages of 8kB",
        Unit::Megabyte => " MB",
        Unit::Millisecond => " ms",
        Unit::Second => " s",
        Unit::Minute => " min",
    };
    Err(ValueError::Range { min: min.to_string(), max: max.to_string(), unit })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::catalog;
    use super::*;

    fn fits(name: &str, value: &str) -> bool {
        check(catalog::lookup(name).expect("a known setting"), value).is_ok()
    }

    #[rstest]
    #[case("jit", "t")]
    #[case("jit", "of")]
    #[case("jit", "YES")]
    #[case("max_connections", "200")]
    #[case("max_connections", "0xC8")]
    #[case("work_mem", "64MB")]
    #[case("work_mem", "1.5GB")]
    #[case("work_mem", " 64 MB ")]
    #[case("autovacuum_work_mem", "-1")]
    #[case("vacuum_cost_delay", "2ms")]
    #[case("vacuum_cost_delay", "0.5")]
    #[case("statement_timeout", "1h")]
    #[case("random_page_cost", "1e1")]
    #[case("synchronous_commit", "true")]
    #[case("log_min_messages", "debug")]
    #[case("wal_compression", "LZ4")]
    #[case("ssl_max_protocol_version", "")]
    #[case("timezone", "Europe/Berlin")]
    fn legal_values_fit(#[case] name: &str, #[case] value: &str) {
        assert!(fits(name, value), "{name} = {value}");
    }

    #[rstest]
    #[case("jit", "o")]
    #[case("jit", "")]
    #[case("jit", "2")]
    #[case("max_connections", "many")]
    #[case("max_connections", "0")]
    #[case("max_connections", "10MB")]
    #[case("work_mem", "1mb")]
    #[case("work_mem", "1")]
    #[case("work_mem", "9999999TB")]
    #[case("statement_timeout", "1 week")]
    #[case("random_page_cost", "-1")]
    #[case("random_page_cost", "nan")]
    #[case("wal_compression", "brotli")]
    #[case("application_name", "a\nport = 1")]
    fn illegal_values_do_not_fit(#[case] name: &str, #[case] value: &str) {
        assert!(!fits(name, value), "{name} = {value}");
    }

    #[test]
    fn message_names_the_allowed_values() {
        let error = check(catalog::lookup("bytea_output").expect("known"), "octal").expect_err("not a choice");
        assert_eq!(error.to_string(), "must be one of escape, hex");
        let error = check(catalog::lookup("work_mem").expect("known"), "1mb").expect_err("wrong case");
        assert_eq!(error.to_string(), "the unit \"mb\" does not fit; use B, kB, MB, GB or TB");
        let error = check(catalog::lookup("max_connections").expect("known"), "0").expect_err("too small");
        assert_eq!(error.to_string(), "must be between 1 and 262143");
    }

    proptest! {
        #[test]
        fn any_value_is_judged_for_any_setting(index in 0..392usize, value in ".{0,30}") {
            let setting = catalog::all().nth(index).expect("within the catalogue");
            let _ = check(setting, &value);
        }
    }
}
