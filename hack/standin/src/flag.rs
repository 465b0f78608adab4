//! Command lines as the real binaries read them: GNU style flags, strict about names and values.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// What a flag's value has to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A comma-separated list; repeating the flag appends.
    List,
    /// `true` or `false`; the bare flag means `true`.
    Switch,
    /// A whole number.
    Number,
    /// A number with a fraction.
    Fraction,
    /// A duration such as `1m30s`.
    Duration,
}

impl Kind {
    fn go_name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::List => "strings",
            Self::Switch => "bool",
            Self::Number => "int",
            Self::Fraction => "float",
            Self::Duration => "duration",
        }
    }
}

/// One accepted flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The name without dashes.
    pub name: &'static str,
    /// The one-letter form, if there is one.
    pub short: Option<char>,
    /// The value's form.
    pub kind: Kind,
    /// The value when the flag is absent.
    pub default: &'static str,
    /// Environment variables that replace the default, first match wins.
    pub env: &'static [&'static str],
}

/// Why a command line was refused; the text is what the process prints.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `--help` was asked for: print and leave successfully.
    Help(String),
    /// The command line is wrong.
    Wrong(String),
}

/// The values of a parsed command line.
#[derive(Clone, Debug, Default)]
pub struct Values {
    values: BTreeMap<&'static str, String>,
    given: BTreeMap<&'static str, bool>,
}

impl Values {
    /// The text of a flag; empty when the table does not know the name.
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// The entries of a list flag.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1" | "t" | "T" | "TRUE" | "True")
    }

    /// A number, zero when absent.
    pub fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or_default()
    }

    /// A port, zero when absent or out of range.
    pub fn port(&self, name: &str) -> u16 {
        u16::try_from(self.number(name)).unwrap_or_default()
    }

    /// A duration, zero when absent.
    pub fn duration(&self, name: &str) -> Duration {
        parse_duration(self.text(name)).unwrap_or_default()
    }

    /// Whether the flag stood on the command line, whatever its value.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.get(name).copied().unwrap_or_default()
    }
}

/// Reads `args` (without the program's name) against `table`, with `env` as the source of environment defaults.
pub fn parse(
    program: &str,
    table: &[Flag],
    args: &[String],
    env: impl Fn(&str) -> Option<String>,
) -> Result<Values, Refusal> {
    let mut values = Values::default();
    for flag in table {
        let from_env = flag.env.iter().find_map(|name| env(name).filter(|value| !value.is_empty()));
        values.values.insert(flag.name, from_env.unwrap_or_else(|| flag.default.to_owned()));
    }
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            if let Some(extra) = rest.next() {
                return Err(unknown_command(extra, program));
            }
            break;
        }
        if arg == "--help" || arg == "-h" {
            return Err(Refusal::Help(usage(program, table)));
        }
        let (flag, shown, inline) = if let Some(long) = arg.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value.to_owned())));
            let flag = table
                .iter()
                .find(|flag| flag.name == name)
                .ok_or_else(|| Refusal::Wrong(format!("unknown flag: --{name}")))?;
            (flag, format!("--{name}"), value)
        } else if let Some(short) = arg.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            let letter = short.chars().next().unwrap_or_default();
            let flag = table
                .iter()
                .find(|flag| flag.short == Some(letter))
                .ok_or_else(|| Refusal::Wrong(format!("unknown shorthand flag: '{letter}' in -{short}")))?;
            let value = short[letter.len_utf8()..].trim_start_matches('=');
            (flag, format!("-{letter}"), (!value.is_empty()).then(|| value.to_owned()))
        } else {
            return Err(unknown_command(arg, program));
        };
        let value = match (inline, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Switch) => "true".to_owned(),
            (None, _) => {
                rest.next().cloned().ok_or_else(|| Refusal::Wrong(format!("flag needs an argument: {shown}")))?
            }
        };
        check(flag, &value)?;
        let entry = values.values.entry(flag.name).or_default();
        if flag.kind == Kind::List && values.given.contains_key(flag.name) {
            entry.push(',');
            entry.push_str(&value);
        } else {
            *entry = value;
        }
        values.given.insert(flag.name, true);
    }
    Ok(values)
}

fn unknown_command(word: &str, program: &str) -> Refusal {
    Refusal::Wrong(format!("unknown command \"{word}\" for \"{program}\""))
}

fn check(flag: &Flag, value: &str) -> Result<(), Refusal> {
    let reason = match flag.kind {
        Kind::Text | Kind::List => None,
        Kind::Switch => (!matches!(
            value,
            "true" | "false" | "1" | "0" | "t" | "f" | "T" | "F" | "TRUE" | "FALSE" | "True" | "False"
        ))
        .then(|| format!("strconv.ParseBool: parsing \"{value}\": invalid syntax")),
        Kind::Number => {
            value.parse::<i64>().is_err().then(|| format!("strconv.ParseInt: parsing \"{value}\": invalid syntax"))
        }
        Kind::Fraction => {
            value.parse::<f64>().is_err().then(|| format!("strconv.ParseFloat: parsing \"{value}\": invalid syntax"))
        }
        Kind::Duration => parse_duration(value).is_none().then(|| format!("time: invalid duration \"{value}\"")),
    };
    match reason {
        None => Ok(()),
        Some(reason) => {
            Err(Refusal::Wrong(format!("invalid argument \"{value}\" for \"--{}\" flag: {reason}", flag.name)))
        }
    }
}

fn usage(program: &str, table: &[Flag]) -> String {
    let mut text = format!("Stand-in for {program}\n\nUsage:\n  {program} [flags]\n\nFlags:\n");
    for flag in table {
        let _ = writeln!(text, "      --{} {} (default \"{}\")", flag.name, flag.kind.go_name(), flag.default);
    }
    text
}

/// Reads a duration in Go's notation (`300ms`, `1m0s`, `0`); negative ones count as zero.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, scale) =
            [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]
                .into_iter()
                .find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        seconds += amount * scale;
    }
    if negative { Some(Duration::ZERO) } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag] = &[
        Flag { name: "http-port", short: None, kind: Kind::Number, default: "0", env: &[] },
        Flag { name: "cell", short: None, kind: Kind::Text, default: "", env: &["MT_CELL"] },
        Flag { name: "targets", short: None, kind: Kind::List, default: "", env: &[] },
        Flag { name: "require", short: None, kind: Kind::Switch, default: "false", env: &[] },
        Flag { name: "window", short: Some('w'), kind: Kind::Duration, default: "10s", env: &[] },
    ];

    fn run(args: &[&str]) -> Result<Values, Refusal> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        parse("multigateway", TABLE, &args, |name| (name == "MT_CELL").then(|| "from-env".to_owned()))
    }

    fn refusal(args: &[&str]) -> String {
        match run(args) {
            Err(Refusal::Wrong(text)) => text,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn both_ways_of_giving_a_value_are_read() {
        let values = run(&["--http-port", "15100", "--cell=a", "--require", "-w", "2s"]).unwrap();
        assert_eq!(values.port("http-port"), 15100);
        assert_eq!(values.text("cell"), "a");
        assert!(values.is_on("require"));
        assert_eq!(values.duration("window"), Duration::from_secs(2));
        assert!(values.is_given("cell") && !values.is_given("targets"));
    }

    #[test]
    fn an_environment_variable_replaces_the_default_only() {
        assert_eq!(run(&[]).unwrap().text("cell"), "from-env");
        assert_eq!(run(&["--cell=b"]).unwrap().text("cell"), "b");
    }

    #[test]
    fn repeated_lists_are_appended() {
        let values = run(&["--targets=a,b", "--targets", "c"]).unwrap();
        assert_eq!(values.list("targets"), ["a", "b", "c"]);
    }

    #[test]
    fn unknown_words_are_refused_as_the_real_binaries_do() {
        assert_eq!(refusal(&["--nope"]), "unknown flag: --nope");
        assert_eq!(refusal(&["-x"]), "unknown shorthand flag: 'x' in -x");
        assert_eq!(refusal(&["serve"]), "unknown command \"serve\" for \"multigateway\"");
        assert_eq!(refusal(&["--cell"]), "flag needs an argument: --cell");
        assert!(refusal(&["--http-port=x"]).starts_with("invalid argument \"x\" for \"--http-port\" flag"));
        assert!(refusal(&["--window=10"]).ends_with("time: invalid duration \"10\""));
        assert!(refusal(&["--require=maybe"]).contains("ParseBool"));
    }

    #[test]
    fn durations_follow_go_notation() {
        assert_eq!(parse_duration("1m0s"), Some(Duration::from_mins(1)));
        assert_eq!(parse_duration("50ms"), Some(Duration::from_millis(50)));
        assert_eq!(parse_duration("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(parse_duration("5"), None);
        assert_eq!(parse_duration(""), None);
        assert_eq!(parse_duration("-5s"), Some(Duration::ZERO));
    }
}
