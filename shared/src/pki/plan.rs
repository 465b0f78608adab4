//! Decides what has to be renewed.

use jiff::{SignedDuration, Timestamp};

use super::{Certificate, Pair, Request, generate::belongs};

/// When to renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A certificate is renewed when it is valid for less than this.
    pub renew_before: SignedDuration,
    /// How long a new authority is in the bundle before a leaf is signed by it.
    pub overlap: SignedDuration,
}

impl Default for Policy {
    /// Thirty days, and a day for everyone to load the new bundle.
    fn default() -> Self {
        Self { renew_before: SignedDuration::from_hours(24 * 30), overlap: SignedDuration::from_hours(24) }
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Everything is in order.
    Keep,
    /// Sign a new leaf with the newest authority.
    RenewLeaf(Reason),
    /// Make a new authority and put it in front of the bundle; plan again afterwards.
    RenewAuthority(Reason),
}

/// Why something is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, strum::Display, strum::IntoStaticStr)]
pub enum Reason {
    /// There is none.
    Missing,
    /// It cannot be read, or its key does not belong to it.
    Unusable,
    /// It ends soon, or it has ended.
    Expiring,
    /// No authority of the bundle signed it, or the one that did is about to be given up.
    Issuer,
    /// It does not say what is wanted.
    Names,
}

/// Decides about an authority (whose certificate may be a bundle, newest first) and a leaf.
pub fn plan(authority: Option<&Pair>, leaf: Option<&Pair>, wanted: &Request, policy: Policy, now: Timestamp) -> Plan {
    let Some(authority) = authority else { return Plan::RenewAuthority(Reason::Missing) };
    let Ok(bundle) = Certificate::all(&authority.certificate) else {
        return Plan::RenewAuthority(Reason::Unusable);
    };
    let Some(newest) = bundle.first() else { return Plan::RenewAuthority(Reason::Unusable) };
    if !newest.is_authority() || !belongs(&authority.key, newest) {
        return Plan::RenewAuthority(Reason::Unusable);
    }
    if ends_soon(newest, policy, now) {
        return Plan::RenewAuthority(Reason::Expiring);
    }
    leaf_fault(&bundle, leaf, wanted, policy, now).map_or(Plan::Keep, Plan::RenewLeaf)
}

fn leaf_fault(
    bundle: &[Certificate],
    leaf: Option<&Pair>,
    wanted: &Request,
    policy: Policy,
    now: Timestamp,
) -> Option<Reason> {
    let Some(leaf) = leaf else { return Some(Reason::Missing) };
    let Ok(certificate) = Certificate::first(&leaf.certificate) else { return Some(Reason::Unusable) };
    if !belongs(&leaf.key, &certificate) {
        return Some(Reason::Unusable);
    }
    if ends_soon(&certificate, policy, now) {
        return Some(Reason::Expiring);
    }
    if certificate.common_name() != wanted.common_name || *certificate.dns_names() != wanted.dns_names {
        return Some(Reason::Names);
    }
    match bundle.iter().position(|authority| certificate.signed_by(authority)) {
        Some(0) => None,
        // A predecessor that nobody accepts any more gives no overlap.
        Some(older) if bundle[older].not_after() > now && !overlap_is_over(&bundle[0], policy, now) => None,
        _ => Some(Reason::Issuer),
    }
}

fn ends_soon(certificate: &Certificate, policy: Policy, now: Timestamp) -> bool {
    certificate.not_after().duration_since(now) < policy.renew_before
}

fn overlap_is_over(newest: &Certificate, policy: Policy, now: Timestamp) -> bool {
    now.duration_since(newest.not_before()) >= policy.overlap
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Authority, bundle},
        *,
    };

    const DAY: i64 = 24;

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + day * DAY * 3600).unwrap()
    }

    fn authority(from: i64, days: i64) -> Authority {
        Authority::generate("CA", day(from), SignedDuration::from_hours(days * DAY)).unwrap()
    }

    fn wanted() -> Request {
        Request {
            common_name: "pgbackrest".to_owned(),
            dns_names: ["a.svc".to_owned(), "b.svc".to_owned()].into(),
            valid_for: SignedDuration::from_hours(365 * DAY),
        }
    }

    fn at(authority: &Pair, leaf: &Pair, now: Timestamp) -> Plan {
        plan(Some(authority), Some(leaf), &wanted(), Policy::default(), now)
    }

    #[test]
    fn fresh_pair_is_kept_until_thirty_days_before_its_end() {
        let authority = authority(0, 3650);
        let leaf = authority.issue(&wanted(), day(0)).unwrap();
        assert_eq!(at(authority.pair(), &leaf, day(0)), Plan::Keep);
        assert_eq!(at(authority.pair(), &leaf, day(335)), Plan::Keep);
        assert_eq!(at(authority.pair(), &leaf, day(336)), Plan::RenewLeaf(Reason::Expiring));
        assert_eq!(at(authority.pair(), &leaf, day(400)), Plan::RenewLeaf(Reason::Expiring));
        assert_eq!(at(authority.pair(), &leaf, day(3621)), Plan::RenewAuthority(Reason::Expiring));
    }

    #[test]
    fn what_is_missing_is_made_the_authority_first() {
        let authority = authority(0, 3650);
        let none = plan(None, None, &wanted(), Policy::default(), day(0));
        assert_eq!(none, Plan::RenewAuthority(Reason::Missing));
        let no_leaf = plan(Some(authority.pair()), None, &wanted(), Policy::default(), day(0));
        assert_eq!(no_leaf, Plan::RenewLeaf(Reason::Missing));
    }

    #[test]
    fn broken_texts_and_foreign_keys_are_replaced() {
        let authority = authority(0, 3650);
        let leaf = authority.issue(&wanted(), day(0)).unwrap();
        let garbage = Pair { certificate: "x".to_owned(), ..leaf.clone() };
        assert_eq!(at(&garbage, &leaf, day(0)), Plan::RenewAuthority(Reason::Unusable));
        assert_eq!(at(authority.pair(), &garbage, day(0)), Plan::RenewLeaf(Reason::Unusable));
        let swapped = Pair { key: authority.pair().key.clone(), ..leaf.clone() };
        assert_eq!(at(authority.pair(), &swapped, day(0)), Plan::RenewLeaf(Reason::Unusable));
        let swapped = Pair { key: leaf.key.clone(), ..authority.pair().clone() };
        assert_eq!(at(&swapped, &leaf, day(0)), Plan::RenewAuthority(Reason::Unusable));
        assert_eq!(at(&leaf, &leaf, day(0)), Plan::RenewAuthority(Reason::Unusable));
    }

    #[test]
    fn changed_names_renew_the_leaf() {
        let authority = authority(0, 3650);
        let leaf = authority.issue(&wanted(), day(0)).unwrap();
        let mut more = wanted();
        more.dns_names.insert("c.svc".to_owned());
        let next = plan(Some(authority.pair()), Some(&leaf), &more, Policy::default(), day(0));
        assert_eq!(next, Plan::RenewLeaf(Reason::Names));
    }

    #[test]
    fn leaf_moves_to_a_new_authority_after_the_overlap() {
        let (old, new) = (authority(0, 100), authority(80, 3650));
        let leaf = old.issue(&wanted(), day(79)).unwrap();
        let both = bundle(&new.pair().certificate, &old.pair().certificate, day(80)).unwrap();
        let rolled = Pair { certificate: both, key: new.pair().key.clone() };
        assert_eq!(at(&rolled, &leaf, day(80)), Plan::Keep);
        assert_eq!(at(&rolled, &leaf, day(81)), Plan::RenewLeaf(Reason::Issuer));
        let moved = Authority::load(rolled.clone()).unwrap().issue(&wanted(), day(81)).unwrap();
        assert_eq!(at(&rolled, &moved, day(81)), Plan::Keep);
        assert_eq!(at(new.pair(), &leaf, day(80)), Plan::RenewLeaf(Reason::Issuer));
    }

    #[test]
    fn carrying_out_the_plan_ends_in_keep_at_any_time() {
        let mut stored: (Option<Pair>, Option<Pair>) = (None, None);
        for month in 0..130 {
            let now = day(month * 30);
            let mut rounds = 0;
            loop {
                match plan(stored.0.as_ref(), stored.1.as_ref(), &wanted(), Policy::default(), now) {
                    Plan::Keep => break,
                    Plan::RenewAuthority(_) => {
                        let new = Authority::generate("CA", now, SignedDuration::from_hours(3650 * DAY)).unwrap();
                        let old = stored.0.as_ref().map_or("", |old| old.certificate.as_str());
                        let certificate = bundle(&new.pair().certificate, old, now).unwrap();
                        stored.0 = Some(Pair { certificate, key: new.pair().key.clone() });
                    }
                    Plan::RenewLeaf(_) => {
                        let authority = Authority::load(stored.0.clone().unwrap()).unwrap();
                        stored.1 = Some(authority.issue(&wanted(), now).unwrap());
                    }
                }
                rounds += 1;
                assert!(rounds <= 2, "month {month} does not settle");
            }
        }
        assert_eq!(Certificate::all(&stored.0.unwrap().certificate).unwrap().len(), 2);
    }
}
