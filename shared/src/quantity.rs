//! Kubernetes quantities: parsed exactly, compared by value, written in canonical form.

use std::{cmp::Ordering, fmt, str::FromStr};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

/// An amount of CPU, memory or storage, exact to a billionth.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Family of suffixes in which an amount is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// Text that is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity")]
pub struct ParseError {
    text: String,
}

const NANOS: i128 = 1_000_000_000;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl Quantity {
    /// A whole number of bytes, written with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANOS, format: Format::Binary }
    }

    /// A number of thousandths, such as millicores.
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANOS / 1000), format: Format::Decimal }
    }

    /// The amount in whole units (bytes, cores), rounded up and held within 64 bits.
    pub fn value(self) -> i64 {
        saturate(div_up(self.nanos, NANOS))
    }

    /// The amount in thousandths, rounded up and held within 64 bits.
    pub fn milli_value(self) -> i64 {
        saturate(div_up(self.nanos, NANOS / 1000))
    }

    /// Returns whether the amount is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Returns whether the amount is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text).ok_or_else(|| ParseError { text: text.to_owned() })
    }
}

impl TryFrom<&Wire> for Quantity {
    type Error = ParseError;

    fn try_from(wire: &Wire) -> Result<Self, ParseError> {
        wire.0.parse()
    }
}

impl From<Quantity> for Wire {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    /// Writes the canonical form: no fraction, the largest suffix that divides the amount.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = self.format == Format::Binary && self.nanos.abs() >= 1024 * NANOS && self.nanos % NANOS == 0;
        if binary {
            let (amount, step) = reduce(self.nanos / NANOS, 1024, BINARY.len() - 1);
            return write!(f, "{amount}{}", BINARY[step]);
        }
        let (amount, step) = reduce(self.nanos, 1000, DECIMAL.len() - 1);
        let step = if self.nanos == 0 { 3 } else { step };
        match self.format {
            Format::Exponent if step != 3 => write!(f, "{amount}e{}", 3 * i64::try_from(step).unwrap_or(3) - 9),
            _ => write!(f, "{amount}{}", DECIMAL[step]),
        }
    }
}

/// Divides by `base` as often as it leaves no remainder, at most `limit` times.
fn reduce(mut amount: i128, base: i128, limit: usize) -> (i128, usize) {
    let mut step = 0;
    while step < limit && amount != 0 && amount % base == 0 {
        amount /= base;
        step += 1;
    }
    (amount, step)
}

fn div_up(amount: i128, by: i128) -> i128 {
    amount.div_euclid(by) + i128::from(amount.rem_euclid(by) != 0)
}

fn saturate(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount < 0 { i64::MIN } else { i64::MAX })
}

fn parse(text: &str) -> Option<Quantity> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let mut digits: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        digits = digits.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    let (format, scale) = scale(suffix)?;
    let divisor = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let nanos = match scale {
        Scale::Times(factor) => div_up(digits.checked_mul(factor)?, divisor),
        Scale::Ten(exponent) => {
            let exponent = exponent.checked_add(9)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs());
            match (exponent >= 0, power) {
                (true, Some(power)) => digits.checked_mul(power)?,
                (true, None) => (digits == 0).then_some(0)?,
                (false, Some(power)) => div_up(digits, power),
                // Smaller than any representable amount, and amounts are rounded away from zero.
                (false, None) => i128::from(digits != 0),
            }
        }
    };
    Some(Quantity { nanos: if negative { -nanos } else { nanos }, format })
}

enum Scale {
    Times(i128),
    Ten(i32),
}

fn scale(suffix: &str) -> Option<(Format, Scale)> {
    if let Some(step) = DECIMAL.iter().position(|known| *known == suffix) {
        return Some((Format::Decimal, Scale::Ten(3 * i32::try_from(step).ok()? - 9)));
    }
    if let Some(step) = BINARY.iter().position(|known| *known == suffix) {
        return Some((Format::Binary, Scale::Times(NANOS.checked_mul(1024_i128.pow(u32::try_from(step).ok()?))?)));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    Some((Format::Exponent, Scale::Ten(exponent.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1000m", "1")]
    #[case("1", "1")]
    #[case("0.5", "500m")]
    #[case("1.5Gi", "1536Mi")]
    #[case("1024Mi", "1Gi")]
    #[case("1025Mi", "1025Mi")]
    #[case("0.5Ki", "512")]
    #[case("1000Ki", "1000Ki")]
    #[case("1e3", "1e3")]
    #[case("12E2", "1200")]
    #[case("1500k", "1500k")]
    #[case("3000k", "3M")]
    #[case("100u", "100u")]
    #[case("0", "0")]
    #[case("0Gi", "0")]
    #[case("-1024Ki", "-1Mi")]
    #[case("+2", "2")]
    #[case(".5", "500m")]
    #[case("5.", "5")]
    #[case("0.0000000001", "1n")]
    #[case("1E", "1E")]
    #[case("8Ei", "8Ei")]
    fn canonical_form(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(text.parse::<Quantity>().unwrap().to_string(), expected);
    }

    #[rstest]
    #[case("")]
    #[case("-")]
    #[case("Gi")]
    #[case("1 Gi")]
    #[case("1GB")]
    #[case("1.2.3")]
    #[case("1K")]
    #[case("--1")]
    #[case("e3")]
    #[case("1e")]
    #[case("ten")]
    #[case("999999999999999999999999999999999999999999")]
    fn refuses(#[case] text: &str) {
        assert!(text.parse::<Quantity>().is_err());
    }

    #[test]
    fn equal_amounts_are_equal_in_any_notation() {
        let parse = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(parse("1Gi"), parse("1073741824"));
        assert_eq!(parse("1k"), parse("1e3"));
        assert!(parse("1Gi") > parse("1G"));
        assert!(parse("100m") < parse("1"));
    }

    #[test]
    fn values_are_rounded_up() {
        let parse = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(parse("1.1").value(), 2);
        assert_eq!(parse("-1.9").value(), -1);
        assert_eq!(parse("100u").milli_value(), 1);
        assert_eq!(parse("1Gi").value(), 1 << 30);
        assert_eq!(parse("100E").value(), i64::MAX);
        assert_eq!(Quantity::from_bytes(1 << 31).to_string(), "2Gi");
        assert_eq!(Quantity::from_milli(1500).to_string(), "1500m");
        assert!(parse("0").is_zero() && parse("-1").is_negative());
    }

    proptest! {
        #[test]
        fn canonical_form_means_the_same(
            whole in 0_u64..1_000_000_000,
            fraction in proptest::option::of(0_u32..1_000_000),
            suffix in proptest::sample::select(vec!["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "Ti", "e3", "e-3"]),
        ) {
            let text = match fraction {
                Some(fraction) => format!("{whole}.{fraction}{suffix}"),
                None => format!("{whole}{suffix}"),
            };
            let parsed: Quantity = text.parse().unwrap();
            let canonical = parsed.to_string();
            let again: Quantity = canonical.parse().unwrap();
            prop_assert_eq!(parsed, again);
            prop_assert_eq!(&canonical, &again.to_string());
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[-+0-9.eEKMGikmun]{0,12}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
