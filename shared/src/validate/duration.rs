//! Durations as Go writes them, such as `1m30s`.

/// The duration in nanoseconds, or nothing when the text is no duration.
pub fn parse(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total = total.checked_add(scaled(number, nanos(unit)?)?)?;
        rest = tail;
    }
    let total = if negative { -total } else { total };
    i64::try_from(total).is_ok().then_some(total)
}

fn nanos(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// A decimal number times a unit, without rounding errors.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 24 {
        return None;
    }
    let value = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
    let mut total = value(whole)?.checked_mul(unit)?;
    if !fraction.is_empty() {
        let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        total = total.checked_add(value(fraction)?.checked_mul(unit)? / scale)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("20s", Some(20_000_000_000))]
    #[case("1m30s", Some(90_000_000_000))]
    #[case("1.5h", Some(5_400_000_000_000))]
    #[case("250ms", Some(250_000_000))]
    #[case("3\u{b5}s", Some(3_000))]
    #[case("0", Some(0))]
    #[case("-1s", Some(-1_000_000_000))]
    #[case("", None)]
    #[case("20", None)]
    #[case("20 s", None)]
    #[case("1d", None)]
    #[case("1..5s", None)]
    #[case(".s", None)]
    #[case("9999999999h", None)]
    fn durations_are_read_as_go_reads_them(#[case] text: &str, #[case] expected: Option<i128>) {
        assert_eq!(parse(text), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "[-+0-9.a-z]{0,40}") {
            let _ = parse(&text);
        }
    }
}
