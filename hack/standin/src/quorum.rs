//! The durability policies as arithmetic on sets of poolers.

use std::collections::BTreeSet;

use crate::proto::clustermetadata::{DurabilityPolicy, Id, QuorumType};

/// Whether `members` alone can make a write durable under `policy`.
pub fn satisfied(policy: &DurabilityPolicy, members: &[Id]) -> bool {
    let required = usize::try_from(policy.required_count).unwrap_or_default();
    let count = match policy.quorum_type() {
        QuorumType::AtLeastN => members.iter().map(|id| (&id.cell, &id.name)).collect::<BTreeSet<_>>().len(),
        QuorumType::MultiCellAtLeastN => members.iter().map(|id| &id.cell).collect::<BTreeSet<_>>().len(),
        QuorumType::Unknown => return false,
    };
    required > 0 && count >= required
}

/// Whether `recruited` members of `cohort` are enough to end the old rule and to carry a new one: the rest must not be
/// able to make anything durable behind our back, and the recruits must be able to.
pub fn can_appoint(policy: &DurabilityPolicy, cohort: &[Id], recruited: &[Id]) -> bool {
    let rest: Vec<Id> = cohort.iter().filter(|id| !recruited.contains(id)).cloned().collect();
    satisfied(policy, recruited) && !satisfied(policy, &rest)
}

/// The policy that a short name stands for.
pub fn named(name: &str) -> Option<DurabilityPolicy> {
    let (quorum_type, required_count) = match name {
        "AT_LEAST_2" => (QuorumType::AtLeastN, 2),
        "MULTI_CELL_AT_LEAST_2" => (QuorumType::MultiCellAtLeastN, 2),
        _ => return None,
    };
    Some(DurabilityPolicy {
        policy_name: name.to_owned(),
        quorum_type: quorum_type.into(),
        required_count,
        ..DurabilityPolicy::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::id;
    use crate::proto::clustermetadata::id::ComponentType::Multipooler;

    fn ids(names: &[(&str, &str)]) -> Vec<Id> {
        names.iter().map(|(cell, name)| id(Multipooler, cell, name)).collect()
    }

    #[test]
    fn two_poolers_satisfy_at_least_two_wherever_they_are() {
        let policy = named("AT_LEAST_2").unwrap();
        assert!(!satisfied(&policy, &ids(&[("a", "1")])));
        assert!(!satisfied(&policy, &ids(&[("a", "1"), ("a", "1")])));
        assert!(satisfied(&policy, &ids(&[("a", "1"), ("a", "2")])));
    }

    #[test]
    fn the_multi_cell_policy_counts_cells() {
        let policy = named("MULTI_CELL_AT_LEAST_2").unwrap();
        assert!(!satisfied(&policy, &ids(&[("a", "1"), ("a", "2")])));
        assert!(satisfied(&policy, &ids(&[("a", "1"), ("b", "2")])));
    }

    #[test]
    fn a_lost_member_is_survived_only_with_slack() {
        let policy = named("AT_LEAST_2").unwrap();
        let three = ids(&[("a", "1"), ("a", "2"), ("a", "3")]);
        assert!(can_appoint(&policy, &three, &three[..2]));
        assert!(!can_appoint(&policy, &three[..2], &three[..1]), "one of two carries nothing");
        let four = ids(&[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")]);
        assert!(!can_appoint(&policy, &four, &four[..2]), "the other two could still commit");
    }

    #[test]
    fn a_lost_cell_of_two_stops_the_multi_cell_policy() {
        let policy = named("MULTI_CELL_AT_LEAST_2").unwrap();
        let cohort = ids(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert!(can_appoint(&policy, &cohort, &cohort[1..]));
        assert!(!can_appoint(&policy, &cohort[..2], &cohort[1..2]));
    }
}
