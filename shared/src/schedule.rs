//! Times that come again: cron syntax in a time zone, and which of them were missed. Pure.
//!
//! Five fields as everywhere (minute, hour, day of the month, month, day of the week). A time that a clock change leaves out comes
//! as much later as the clock was put forward; one that comes twice counts once.

use cronexpr::Crontab;
use jiff::{Timestamp, tz::TimeZone};

/// No schedule is followed further than so many times; one that was away longer has missed too much to count.
const MOST: usize = 10_000;

/// Text that is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The fields cannot be read.
    #[error("is not a time in cron syntax ({0}); write five fields, such as \"30 2 * * *\" for every day at 2:30")]
    Fields(String),
    /// The time never comes, as the 31st of February does not.
    #[error("never comes: there is no such date")]
    Never,
    /// Nobody knows the time zone.
    #[error("{0:?} is not a time zone of the IANA database; write a name such as Europe/Berlin or UTC")]
    Zone(String),
}

/// Times that come again.
#[derive(Clone, Debug)]
pub struct Cron {
    table: Crontab,
    zone: TimeZone,
    most_a_day: usize,
}

/// The time zone of that name; none means UTC.
pub fn zone(name: Option<&str>) -> Result<TimeZone, Error> {
    let name = name.filter(|name| !name.is_empty()).unwrap_or("UTC");
    // A POSIX rule or an offset would be read as well, and mean something else than it says.
    TimeZone::get(name).map_err(|_| Error::Zone(name.to_owned()))
}

impl Cron {
    /// Reads five fields, in the time zone of that name.
    pub fn parse(text: &str, zone_name: Option<&str>) -> Result<Self, Error> {
        let zone = zone(zone_name)?;
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, _, weekday] = fields[..] else {
            return Err(Error::Fields(format!("it has {} fields", fields.len())));
        };
        let bad = |error: cronexpr::Error| {
            Error::Fields(
                error.to_string().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "),
            )
        };
        let table = cronexpr::parse_crontab(&format!("{} UTC", text.trim())).map_err(bad)?;
        let most = |field: &str, all: usize| if field.bytes().all(|byte| byte.is_ascii_digit()) { 1 } else { all };
        let cron = Self { table, zone, most_a_day: most(minute, 60) * most(hour, 24) };
        // Every month has every day of the week, so only what is written about its days, or their count, may ask for one that does not exist.
        // The longest wait is for the 29th of February on a certain day of the week.
        let certain = day == "*" && !weekday.contains('#');
        if !certain && cron.after(Timestamp::UNIX_EPOCH).is_none() {
            return Err(Error::Never);
        }
        Ok(cron)
    }

    /// How often the time comes in a day, or more.
    pub fn most_a_day(&self) -> usize {
        self.most_a_day
    }

    /// The first time after this moment.
    pub fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        // The table is about what clocks on the wall show, whatever happens to them.
        let mut wall = self.zone.to_datetime(moment);
        for _ in 0..MOST {
            let shown = TimeZone::UTC.to_timestamp(wall).ok()?;
            wall = self.table.find_next(shown).ok()?.datetime();
            let at = self.zone.to_ambiguous_timestamp(wall).compatible().ok()?;
            if at > moment {
                return Some(at);
            }
        }
        None
    }

    /// The last time that has come by `now`, of those after `since`.
    pub fn last_between(&self, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let mut last = None;
        let mut at = since;
        for _ in 0..MOST {
            match self.after(at) {
                Some(next) if next <= now => {
                    last = Some(next);
                    at = next;
                }
                _ => break,
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[rstest]
    #[case("30 2 * * *", None, "2026-03-01T00:00:00Z", "2026-03-01T02:30:00Z")]
    #[case("30 2 * * *", Some("Europe/Berlin"), "2026-03-01T00:00:00Z", "2026-03-01T01:30:00Z")]
    #[case("30 2 * * *", Some("Europe/Berlin"), "2026-07-01T00:00:00Z", "2026-07-01T00:30:00Z")]
    #[case("*/15 * * * *", None, "2026-03-01T00:15:00Z", "2026-03-01T00:30:00Z")]
    #[case("0 3 * * SUN", None, "2026-03-02T00:00:00Z", "2026-03-08T03:00:00Z")]
    #[case("5,35 * * * *", None, "2026-03-01T00:10:00Z", "2026-03-01T00:35:00Z")]
    #[case("0 0 29 2 *", None, "2026-03-02T00:00:00Z", "2028-02-29T00:00:00Z")]
    fn the_next_time_is_told_in_the_zone_of_the_schedule(
        #[case] text: &str,
        #[case] zone: Option<&str>,
        #[case] from: &str,
        #[case] next: &str,
    ) {
        assert_eq!(Cron::parse(text, zone).unwrap().after(at(from)), Some(at(next)));
    }

    #[rstest]
    #[case("30 2 * *")]
    #[case("60 2 * * *")]
    #[case("30 2 * * * Europe/Berlin")]
    #[case("@daily")]
    #[case("")]
    #[case("often")]
    fn what_is_no_time_is_refused(#[case] text: &str) {
        assert!(matches!(Cron::parse(text, None), Err(Error::Fields(_))), "{text}");
    }

    #[rstest]
    #[case("0 0 31 2 *")]
    #[case("0 0 30-31 FEB *")]
    #[case("0 0 31 4,6,9,11 *")]
    fn a_date_that_does_not_exist_never_comes(#[case] text: &str) {
        assert_eq!(Cron::parse(text, None).unwrap_err(), Error::Never);
    }

    #[rstest]
    #[case("30 2 * * *", 1)]
    #[case("5,35 2 * * *", 60)]
    #[case("0 */6 * * *", 24)]
    #[case("* * * * *", 1440)]
    fn a_time_comes_at_most_so_often_a_day(#[case] text: &str, #[case] most: usize) {
        let cron = Cron::parse(text, None).unwrap();
        assert_eq!(cron.most_a_day(), most);
        let day = |at: &Timestamp| *at < self::at("2026-03-02T00:00:00Z");
        let times = std::iter::successors(cron.after(at("2026-02-28T23:59:59Z")), |at| cron.after(*at));
        assert!((1..=most).contains(&times.take_while(day).count()));
    }

    #[test]
    fn an_unknown_time_zone_is_refused() {
        assert_eq!(Cron::parse("0 0 * * *", Some("Mars/Olympus")).unwrap_err(), Error::Zone("Mars/Olympus".into()));
        assert!(zone(Some("")).is_ok());
    }

    /// In Berlin clocks went from 2:00 to 3:00 on 29 March 2026, and back from 3:00 to 2:00 on 25 October.
    #[test]
    fn a_clock_change_neither_loses_a_day_nor_doubles_it() {
        let cron = Cron::parse("30 2 * * *", Some("Europe/Berlin")).unwrap();
        let mut at = at("2026-03-27T12:00:00Z");
        let mut runs = Vec::new();
        for _ in 0..3 {
            at = cron.after(at).unwrap();
            runs.push(at.to_string()[..10].to_owned());
        }
        assert_eq!(runs, ["2026-03-28", "2026-03-29", "2026-03-30"]);
        let autumn = cron.after("2026-10-24T12:00:00Z".parse().unwrap()).unwrap();
        let next = cron.after(autumn).unwrap();
        assert!(next.duration_since(autumn).as_hours() >= 24, "{autumn} {next}");
    }

    #[test]
    fn the_last_missed_time_is_found() {
        let cron = Cron::parse("0 * * * *", None).unwrap();
        let missed = cron.last_between(at("2026-03-01T00:00:00Z"), at("2026-03-01T05:20:00Z"));
        assert_eq!(missed, Some(at("2026-03-01T05:00:00Z")));
        assert_eq!(cron.last_between(at("2026-03-01T05:00:00Z"), at("2026-03-01T05:20:00Z")), None);
    }
}
