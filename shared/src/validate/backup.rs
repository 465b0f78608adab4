//! Rules of backups.

use jiff::Timestamp;

use crate::api::v1alpha1::{BackupConfig, BackupSchedule, BackupType, KeyPrefixScope, S3BackupConfig};
use crate::field_path::At;
use crate::schedule::Cron;

use super::{Findings, limits, reason};

/// From when on the times of a schedule are counted. Some moment that is always the same, so that the answer is, too.
const COUNTED_FROM: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// A backup of the cluster level with everything inherited and defaulted.
pub fn check(findings: &mut Findings<'_>, at: &At<'_>, backup: &BackupConfig) {
    findings.fields(at, backup);
    together(findings, at, backup);
    crowded(findings, at, backup);
}

/// A schedule that leaves more backups than poolers can list. Counting takes its time, so it is done for the cluster alone, whose schedule most of
/// the shards follow.
fn crowded(findings: &mut Findings<'_>, at: &At<'_>, backup: &BackupConfig) {
    let Some(schedule) = &backup.schedule else { return };
    let kept = backup.retention.as_ref().and_then(|retention| retention.full).unwrap_or(limits::FULL_BACKUPS);
    let kept = usize::try_from(kept).unwrap_or_default();
    let crowded =
        |times: Times| times.at_most(kept) > limits::LISTED_BACKUPS && times.left_behind(kept) > limits::LISTED_BACKUPS;
    if Times::read(schedule).is_some_and(crowded) {
        let message = format!(
            "leaves more backups in the repository than poolers can list, some {}: from then on every one fails and none is seen; make \
             fewer incremental ones between two full ones, or lower retention.full",
            limits::LISTED_BACKUPS
        );
        findings.warn(&at.field("schedule").field("incremental"), message);
    }
}

/// When backups of a schedule are made, from one full one to the next.
struct Times {
    incremental: Cron,
    differential: Option<Cron>,
    begins: Timestamp,
    ends: Timestamp,
}

impl Times {
    /// None without full and incremental backups.
    fn read(schedule: &BackupSchedule) -> Option<Self> {
        let read = |text: &Option<String>| {
            let text = text.as_deref().filter(|text| !text.is_empty())?;
            Cron::parse(text, schedule.time_zone.as_deref()).ok()
        };
        let (full, incremental) = (read(&schedule.full)?, read(&schedule.incremental)?);
        let begins = full.after(COUNTED_FROM)?;
        let ends = full.after(begins)?;
        Some(Self { incremental, differential: read(&schedule.differential), begins, ends })
    }

    /// The number of [`left_behind`](Self::left_behind), or more: most schedules are plain, and need no counting.
    fn at_most(&self, kept: usize) -> usize {
        // A time of the day comes once in each 24 hours that a clock shows. Two hours more are more than any change of clocks.
        let hours = self.ends.duration_since(self.begins).as_hours().saturating_add(2);
        let days = usize::try_from(hours / 24).unwrap_or(usize::MAX).saturating_add(1);
        let between = self.incremental.most_a_day().saturating_mul(days).saturating_add(1);
        kept.saturating_add(usize::from(self.differential.is_some())).saturating_mul(between)
    }

    /// About how many backups stay in a repository that keeps so many full ones, counted no further than it matters.
    fn left_behind(&self, kept: usize) -> usize {
        let Self { incremental, differential, begins, ends } = self;
        let between = |from: Timestamp, to: Timestamp, most: usize| {
            let times = std::iter::successors(incremental.after(from), |at| incremental.after(*at));
            times.take_while(|at| *at < to).take(most).count()
        };
        // A differential backup takes the place of the one before, with all that builds on that. What builds on a full one stays as long as that does.
        let differential = differential.as_ref().and_then(|cron| {
            let first = cron.after(*begins).filter(|first| first < ends)?;
            Some((first, cron.after(first)?.min(*ends)))
        });
        let until = differential.map_or(*ends, |(first, _)| first);
        let last = differential.map_or(0, |(first, next)| 1 + between(first, next, limits::LISTED_BACKUPS));
        kept * (1 + between(*begins, until, limits::LISTED_BACKUPS / kept.max(1) + 1)) + last
    }
}

/// What fields of a backup say together.
pub fn together(findings: &mut Findings<'_>, at: &At<'_>, backup: &BackupConfig) {
    if let Some(schedule) = &backup.schedule {
        let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        if ![&schedule.full, &schedule.differential, &schedule.incremental].into_iter().any(given) {
            findings.warn(
                &at.field("schedule"),
                "names no time, so no backup is made by it; give full, differential or incremental",
            );
        } else if !given(&schedule.full) {
            findings.warn(
                &at.field("schedule").field("full"),
                "is not given: all later backups build on the first one, so none is ever removed; schedule full ones, too",
            );
        }
    }
    let at = at.field("s3");
    if backup.r#type != BackupType::S3 {
        return;
    }
    let Some(s3) = &backup.s3 else {
        findings.error(&at, reason::REQUIRED, "", "is needed with type s3; give bucket and region");
        return;
    };
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if let Some(account) = s3.service_account_name.as_ref().filter(|account| !account.is_empty()) {
        if given(&s3.credentials_secret) || s3.use_env_credentials == Some(true) {
            findings.forbidden(
                &at.field("serviceAccountName"),
                account,
                "is one way to authenticate, credentialsSecret with useEnvCredentials another; give only one, also \
                 across the levels that this backup inherits from",
            );
        }
    } else if given(&s3.credentials_secret) && s3.use_env_credentials != Some(true) {
        findings.warn(
            &at.field("useEnvCredentials"),
            "credentialsSecret is only read with useEnvCredentials: true; set it, or remove the Secret's name",
        );
    }
    prefix(findings, &at, s3);
}

/// Whom poolers believe at an endpoint: the data plane has pgBackRest verify certificates of AWS alone.
pub fn unverified(findings: &mut Findings<'_>, at: &At<'_>, backup: &BackupConfig) {
    let s3 = backup.s3.as_ref().filter(|_| backup.r#type == BackupType::S3);
    if s3.and_then(|s3| s3.endpoint.as_deref()).is_some_and(|endpoint| !endpoint.is_empty()) {
        findings.warn(
            &at.field("s3").field("endpoint"),
            "is not verified: the data plane takes any certificate from a store of yours, so keep others off the way to it",
        );
    }
}

/// The prefix below which the repository lies.
fn prefix(findings: &mut Findings<'_>, at: &At<'_>, s3: &S3BackupConfig) {
    let given = s3.key_prefix.as_deref().unwrap_or_default();
    if s3.key_prefix_scope == Some(KeyPrefixScope::Exact) {
        if given.is_empty() {
            findings.warn(
                &at.field("keyPrefixScope"),
                "Exact without a keyPrefix is the root of the bucket, which any other cluster without one shares; give a keyPrefix that \
                 no other cluster has",
            );
        }
        room(findings, at, given, limits::KEY_PREFIX, false);
    } else {
        // The namespace and the name of the cluster follow, each after a slash.
        let own = limits::NAMESPACE + limits::CLUSTER_NAME + 2;
        room(findings, at, given, limits::KEY_PREFIX - own, s3.key_prefix_scope.is_some());
    }
}

/// What is longer than it may be is refused where nobody can have it yet.
fn room(findings: &mut Findings<'_>, at: &At<'_>, given: &str, limit: usize, refuse: bool) {
    if given.len() <= limit {
        return;
    }
    let at = at.field("keyPrefix");
    let message = format!(
        "has {} bytes, and pgBackRest needs the rest of the 1024 that a key of a bucket may have; keep it at or below {limit}",
        given.len()
    );
    if refuse {
        let shown: String = given.chars().take(limits::QUOTED).collect();
        findings.invalid(&at, shown, message);
    } else {
        findings.warn(&at, message);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::every_night("30 2 * * SUN", "", "30 2 * * MON-SAT", 7, Some(49))]
    #[case::one_chain("30 2 * * SUN", "", "0 */3 * * *", 1, Some(57))]
    #[case::no_further_than_it_matters("30 2 * * SUN", "", "0 * * * *", 7, Some(77))]
    #[case::differential_ones_take_others_along("30 2 * * SUN", "30 2 * * MON-SAT", "0 * * * *", 1, Some(50))]
    #[case::never_alone("0 * * * *", "", "0 * * * *", 7, Some(7))]
    #[case::full_ones_alone("* * * * *", "", "", 7, None)]
    #[case::no_full_ones("", "", "* * * * *", 7, None)]
    #[case::no_time("often", "", "* * * * *", 7, None)]
    #[case::also_in_the_night_of_the_full_one("30 3 * * SUN", "", "0 4 * * *", 7, Some(56))]
    fn what_a_schedule_leaves_behind_is_counted(
        #[case] full: &str,
        #[case] differential: &str,
        #[case] incremental: &str,
        #[case] kept: usize,
        #[case] expected: Option<usize>,
    ) {
        let schedule = BackupSchedule {
            full: Some(full.to_owned()),
            differential: Some(differential.to_owned()),
            incremental: Some(incremental.to_owned()),
            ..BackupSchedule::default()
        };
        let times = Times::read(&schedule);
        assert_eq!(times.as_ref().map(|times| times.left_behind(kept)), expected);
        if let Some(times) = times {
            assert!(times.at_most(kept) >= times.left_behind(kept));
        }
    }
}
