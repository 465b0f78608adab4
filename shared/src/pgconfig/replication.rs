//! Settings that a standby must not have lower than its primary was started with.
//!
//! A standby reads the primary's values from the log, keeps them with its data, and refuses to serve with less. A server takes lower
//! values only when it starts as a primary. The data plane starts none as one: all start as standbys, and whoever takes over ran as one with
//! what the old primary had. So a decrease has nowhere to begin, and a file that carried it would stop each member at its next start.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    str::FromStr,
};

use super::{
    catalog::{self, Kind},
    classify::REPLICATION_CRITICAL,
    hash::digest,
    render::{RELOAD_MARKER, Rendered},
    value,
};

/// What the server takes where the file says nothing, in the order of [`REPLICATION_CRITICAL`].
const BUILT_IN: [u64; 5] = [100, 64, 0, 10, 8];

/// Stands before the values that are kept.
const COMMENT: &str = "# Kept: no standby may have less than its primary was started with.";

/// The values of [`REPLICATION_CRITICAL`] that a server is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Critical(BTreeMap<String, u64>);

impl Critical {
    /// What these settings mean, built-in values included. A value that the server would refuse is left out.
    pub fn of(settings: &BTreeMap<String, String>) -> Self {
        let value = |name: &str, built_in: u64| match settings.get(name) {
            None => Some(built_in),
            Some(text) => whole(name, text),
        };
        let all = REPLICATION_CRITICAL.iter().zip(BUILT_IN);
        Self(all.filter_map(|(name, built_in)| Some(((*name).to_owned(), value(name, built_in)?))).collect())
    }

    /// The larger of the two, value by value.
    #[must_use]
    pub fn max(mut self, other: &Self) -> Self {
        for (name, value) in &other.0 {
            let own = self.0.entry(name.clone()).or_insert(*value);
            *own = (*own).max(*value);
        }
        self
    }

    /// How many connections such a server takes; none where that cannot be read.
    pub fn max_connections(&self) -> Option<u64> {
        self.0.get("max_connections").copied()
    }

    /// What is lower than in `floor`, by name, with what the floor has.
    pub fn below(&self, floor: &Self) -> BTreeMap<String, u64> {
        let lower = |(name, least): &(&String, &u64)| self.0.get(*name).is_some_and(|own| own < least);
        floor.0.iter().filter(lower).map(|(name, least)| (name.clone(), *least)).collect()
    }
}

/// A whole number as the server reads it.
pub(super) fn whole(name: &str, text: &str) -> Option<u64> {
    let setting = catalog::lookup(name)?;
    value::check(setting, text).ok()?;
    let Kind::Integer { unit, .. } = setting.kind else { return None };
    let number = value::number(text.trim(), unit, "").ok()?.round_ties_even();
    // The bounds were checked, and none of these settings may be negative.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bounds of the setting")]
    (number >= 0.0).then_some(number as u64)
}

/// As an annotation: `name=value`, separated by commas.
impl fmt::Display for Critical {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        to.write_str(&all.join(","))
    }
}

/// Somebody else's text that is no list of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no list of settings")]
pub struct NoList;

impl FromStr for Critical {
    type Err = NoList;

    fn from_str(text: &str) -> Result<Self, NoList> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').ok_or(NoList)?;
            Ok((name.to_owned(), value.parse().map_err(|_| NoList)?))
        };
        text.split(',').map(pair).collect::<Result<_, _>>().map(Self)
    }
}

impl Rendered {
    /// What a server that starts with this is started with.
    pub fn critical(&self) -> Critical {
        Critical::of(&self.restart)
    }

    /// The same with nothing lower than in `floor`.
    #[must_use]
    pub fn hold(self, floor: &Critical) -> Self {
        let raised = self.critical().below(floor);
        if raised.is_empty() {
            return self;
        }
        let mut lines = format!("{COMMENT}\n");
        let mut restart = self.restart;
        for (name, value) in raised {
            let _ = writeln!(lines, "{name} = {value}"); // writing into a String cannot fail
            restart.insert(name, value.to_string());
        }
        // The marker stays last, as in every other file.
        let at = self.text.rfind(&format!("\n{RELOAD_MARKER} = ")).map_or(self.text.len(), |at| at + 1);
        let (head, tail) = self.text.split_at(at);
        let mut hashed = restart.clone();
        if !self.includes.is_empty() {
            hashed.insert("include".to_owned(), self.includes.join("\n"));
        }
        Self { text: format!("{head}{lines}{tail}"), restart_hash: digest(&hashed), restart, ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::{Basis, Identity, Sizing, parse, render};
    use super::*;

    fn with(settings: &[(&str, &str)]) -> Rendered {
        let inline = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        render(&Identity::default(), &Sizing::of(Basis::default()), None, &inline)
    }

    fn effective(rendered: &Rendered, name: &str) -> String {
        parse(&rendered.text).settings[name].clone()
    }

    #[test]
    fn a_decrease_is_not_rendered_below_what_the_primary_runs_with() {
        let (high, low) = (with(&[("max_connections", "300")]), with(&[("max_connections", "100")]));
        let held = low.clone().hold(&high.critical());
        assert_eq!(effective(&held, "max_connections"), "300");
        assert_eq!(held.restart_hash, high.restart_hash, "nobody is restarted for nothing");
        assert_eq!(held.critical(), high.critical());
        assert_eq!(high.clone().hold(&low.critical()), high, "an increase is what it is");
    }

    #[rstest]
    #[case("max_connections", "300", "100")]
    #[case("max_locks_per_transaction", "65", "64")]
    #[case("max_prepared_transactions", "1", "0")]
    #[case("max_wal_senders", "0x1a", "25")]
    #[case("max_worker_processes", "1e1", "9")]
    fn each_of_the_five_is_held(#[case] name: &str, #[case] high: &str, #[case] low: &str) {
        let (high, low) = (with(&[(name, high)]), with(&[(name, low)]));
        let held = low.hold(&high.critical());
        assert_eq!(held.critical(), high.critical());
        // What a file leaves out has the value that is built in.
        assert!(with(&[]).critical().below(&high.critical()).contains_key(name));
    }

    #[test]
    fn a_setting_that_is_left_out_again_is_held_too() {
        let high = with(&[("max_prepared_transactions", "50"), ("max_locks_per_transaction", "128")]);
        let held = with(&[]).hold(&high.critical());
        assert_eq!(effective(&held, "max_prepared_transactions"), "50");
        assert_eq!(effective(&held, "max_locks_per_transaction"), "128");
        let below_built_in = with(&[("max_locks_per_transaction", "32")]).hold(&with(&[]).critical());
        assert_eq!(effective(&below_built_in, "max_locks_per_transaction"), "64");
    }

    #[test]
    fn other_settings_and_the_marker_stay_as_they_are() {
        let high = with(&[("max_connections", "300")]);
        let low = with(&[("max_connections", "100"), ("work_mem", "9MB")]);
        let held = low.clone().hold(&high.critical());
        assert_eq!((&held.reload, &held.reload_hash), (&low.reload, &low.reload_hash));
        assert!(held.text.trim_end().lines().last().unwrap().starts_with(RELOAD_MARKER), "{}", held.text);
    }

    #[test]
    fn what_the_server_would_refuse_is_left_to_it() {
        let odd = with(&[("max_connections", "many")]);
        assert_eq!(effective(&odd.hold(&with(&[]).critical()), "max_connections"), "many");
        assert_eq!("max_connections".parse::<Critical>(), Err(NoList));
    }

    proptest! {
        #[test]
        fn nothing_is_ever_rendered_below_the_floor(
            floor in prop::collection::btree_map(prop::sample::select(&REPLICATION_CRITICAL[..]), 10_u64..900, 0..5),
            wanted in prop::collection::btree_map(prop::sample::select(&REPLICATION_CRITICAL[..]), 10_u64..900, 0..5),
        ) {
            let of = |values: &BTreeMap<&str, u64>| -> Rendered {
                let all: Vec<(&str, String)> = values.iter().map(|(name, value)| (*name, value.to_string())).collect();
                let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (*name, value.as_str())).collect();
                with(&all)
            };
            let (floor, wanted) = (of(&floor).critical(), of(&wanted));
            prop_assert_eq!(floor.to_string().parse(), Ok(floor.clone()), "it survives as an annotation");
            let held = wanted.clone().hold(&floor);
            prop_assert!(held.critical().below(&floor).is_empty());
            prop_assert_eq!(held.critical(), wanted.critical().max(&floor), "and nothing is raised further");
            prop_assert_eq!(held.clone().hold(&floor), held.clone(), "once is enough");
            prop_assert_eq!(Critical::of(&parse(&held.text).settings), held.critical(), "the file says so");
        }
    }
}
