//! Where topologies lie, which is for good.

use std::fmt;

use crate::api::v1alpha1::{ExternalTopoServerSpec, LocalTopoServerSpec};

/// Whose etcd the records of a cluster or of a cell are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub enum Keeper {
    /// Those of a cell are in the topology of its cluster.
    #[strum(serialize = "the global topology")]
    Cluster,
    /// The operator runs it.
    #[strum(serialize = "an etcd cluster of the operator")]
    Operator,
    /// Somebody else runs it.
    #[strum(serialize = "an external etcd")]
    Others,
}

impl Keeper {
    /// That of a cell.
    pub fn of_cell(local: Option<&LocalTopoServerSpec>) -> Self {
        match local {
            Some(local) if local.external.is_some() => Self::Others,
            Some(local) if local.etcd.is_some() => Self::Operator,
            _ => Self::Cluster,
        }
    }
}

/// Why a topology stays where it was. Poolers register when they start, so in another place nobody would find them: gateways would serve
/// nobody, orchestrators would elect nobody, and no pooler could be replaced without a primary to hand over from.
pub fn topology_stays(was: impl fmt::Display) -> String {
    format!(
        "was {was} and cannot change: poolers register only when they start, so nobody would find them in another place. Restore the old \
         value, or make another cluster with the new one and bring the rows there with a dump"
    )
}

/// The root path that is given for keys in an etcd of somebody else.
pub fn own_root(external: &ExternalTopoServerSpec) -> Option<&str> {
    external.root_path.as_deref().filter(|root| !root.is_empty())
}
