//! What becomes of volumes: inherited field by field along the chain of levels.

use std::borrow::Borrow;

use crate::api::v1alpha1::{PvcDeletionPolicy, PvcRetention};

use crate::field_path::At;

use super::provenance::{Provenance, Source};

/// The policies of a chain, highest level first.
pub type Chain = Vec<(Option<PvcDeletionPolicy>, Source)>;

/// The policy that the chain yields, both fields set; volumes stay where nobody says anything.
pub fn resolve<S: Borrow<Source>>(
    provenance: &mut Provenance,
    at: &At<'_>,
    chain: &[(Option<PvcDeletionPolicy>, S)],
) -> PvcDeletionPolicy {
    let mut pick = |name: &str, field: fn(&PvcDeletionPolicy) -> Option<PvcRetention>| {
        let found = chain.iter().find_map(|(policy, source)| {
            let source: &Source = source.borrow();
            Some((policy.as_ref().and_then(field)?, source))
        });
        let (value, source) = found.unwrap_or((PvcRetention::Retain, &Source::BuiltIn));
        provenance.set(&at.field("pvcDeletionPolicy").field(name), source);
        Some(value)
    };
    PvcDeletionPolicy {
        when_deleted: pick("whenDeleted", |policy| policy.when_deleted),
        when_scaled: pick("whenScaled", |policy| policy.when_scaled),
    }
}
