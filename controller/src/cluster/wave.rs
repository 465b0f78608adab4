//! Edited templates reach a few clusters at a time, and no further once one of them is unhealthy.
//!
//! Nobody keeps a list of who is in the wave. Each child carries the digests of the templates that it was resolved from, so every
//! cluster can tell by itself who still has an old version, who is on the way to the new one, and whether it is its turn.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use shared::{
    api::v1alpha1::{MultigresCluster, Phase},
    condition, name,
};

use super::{
    intent::Intent,
    status::{CELL_LOCAL_REPOSITORY, PASSWORD_SECRET_MISSING, SPEC_ACCEPTED},
};
use crate::{
    stores::Stores,
    workload::{revision, rollout::Rollout},
};

/// Another cluster of the namespace that uses a template which has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// How far it has come.
    pub standing: Standing,
}

/// How far a cluster has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It still has an old version.
    Pending,
    /// It has the new version and is not healthy yet.
    OnTheWay,
    /// It has the new version and is healthy.
    Arrived,
    /// It has the new version and is unhealthy.
    Unhealthy,
}

/// Whether a cluster may take over the new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It may.
    Go,
    /// Others come first.
    Wait,
    /// Nobody may any more, because this cluster is unhealthy with it.
    Stopped(String),
}

/// Whether it is the turn of `me`. The order is that of the names, so that all clusters come to the same answer.
pub fn turn(me: &str, peers: &[Peer], limit: usize) -> Turn {
    if limit == 0 {
        return Turn::Go;
    }
    if let Some(broken) = peers.iter().find(|peer| peer.standing == Standing::Unhealthy) {
        return Turn::Stopped(broken.name.clone());
    }
    let before_me = |peer: &&Peer| match peer.standing {
        Standing::OnTheWay => true,
        Standing::Pending => peer.name.as_str() < me,
        Standing::Arrived | Standing::Unhealthy => false,
    };
    if peers.iter().filter(before_me).count() < limit { Turn::Go } else { Turn::Wait }
}

/// The other clusters that use one of the `changed` templates, given with the digests of their current content.
pub fn peers(stores: &Stores, namespace: &str, me: &str, changed: &BTreeMap<String, String>) -> Vec<Peer> {
    let others = stores.clusters.in_namespace(namespace);
    let others = others.iter().filter(|cluster| cluster.name_any() != me);
    others.filter_map(|cluster| peer(stores, namespace, cluster, changed)).collect()
}

fn peer(
    stores: &Stores,
    namespace: &str,
    cluster: &MultigresCluster,
    changed: &BTreeMap<String, String>,
) -> Option<Peer> {
    if cluster.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = cluster.name_any();
    let (mut uses, mut pending, mut health) = (false, false, Health { well: true, ill: false });
    let mut hear = |intent: Option<Intent>, child: Health| {
        for (template, digest) in intent.into_iter().flat_map(|intent| intent.templates) {
            if let Some(current) = changed.get(&template) {
                uses = true;
                pending |= *current != digest;
            }
        }
        health = Health { well: health.well && child.well, ill: health.ill || child.ill };
    };
    for cell in stores.cells.of_cluster(namespace, &name) {
        let said = cell.status.as_ref().map(|status| (status.observed_generation, status.phase));
        hear(intent(&cell.metadata), Health::of(&cell.metadata, said));
    }
    for group in stores.table_groups.of_cluster(namespace, &name) {
        let said = group.status.as_ref().map(|status| (status.observed_generation, status.phase));
        hear(intent(&group.metadata), Health::of(&group.metadata, said));
    }
    for server in stores.topo_servers.of_cluster(namespace, &name) {
        let said = server.status.as_ref().map(|status| (status.observed_generation, status.phase));
        hear(intent(&server.metadata), Health::of(&server.metadata, said));
    }
    for deployment in [name::multiadmin(&name), name::multiadmin_web(&name)] {
        if let Some(deployment) = stores.deployments.get(namespace, &deployment) {
            let phase = Rollout::of_deployment(Some(&*deployment), &[]).phase();
            let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
            hear(intent(&deployment.metadata), Health::of(&deployment.metadata, Some((seen, Some(phase)))));
        }
    }
    if !uses {
        return None;
    }
    let said = |type_| cluster.status.as_ref().and_then(|status| condition::find(&status.conditions, type_));
    // Whose spec is refused takes over nothing, and must not keep a place from others.
    if pending && said(SPEC_ACCEPTED).is_some_and(|accepted| accepted.status == "False") {
        return None;
    }
    let standing = if pending { Standing::Pending } else { standing(cluster, health) };
    Some(Peer { name, standing })
}

/// What children say about their current specs.
#[derive(Clone, Copy)]
struct Health {
    /// Everything is healthy.
    well: bool,
    /// Something does not come up by itself.
    ill: bool,
}

impl Health {
    fn of(meta: &ObjectMeta, said: Option<(Option<i64>, Option<Phase>)>) -> Self {
        let phase = said.filter(|(seen, _)| *seen == meta.generation).and_then(|(_, phase)| phase);
        Self { well: phase == Some(Phase::Healthy), ill: phase == Some(Phase::Degraded) }
    }
}

/// How a cluster fares with the new version. Its own phase may still be that of the old one, so illness is read off its children.
fn standing(cluster: &MultigresCluster, children: Health) -> Standing {
    let status = cluster.status.as_ref();
    // What a cluster lacks by its own spec or for a Secret of its user is no fault of a template, and no template mends it.
    let blameless = [CELL_LOCAL_REPOSITORY, PASSWORD_SECRET_MISSING];
    let says = |type_: &&str| status.is_some_and(|status| condition::is_true(&status.conditions, type_));
    if blameless.iter().any(says) {
        return Standing::Arrived;
    }
    let current = status.is_some_and(|status| status.observed_generation == cluster.metadata.generation);
    let healthy = status.is_some_and(|status| status.phase == Some(Phase::Healthy));
    if children.ill {
        Standing::Unhealthy
    } else if current && healthy && children.well {
        Standing::Arrived
    } else {
        Standing::OnTheWay
    }
}

fn intent(meta: &ObjectMeta) -> Option<Intent> {
    revision::intent_of(meta).and_then(Intent::parse)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;
    use shared::{annotation, api::v1alpha1::Cell, label};

    use super::*;

    fn peer(name: &str, standing: Standing) -> Peer {
        Peer { name: name.to_owned(), standing }
    }

    #[test]
    fn places_go_to_those_on_the_way_and_then_by_name() {
        use Standing::{Arrived, OnTheWay, Pending, Unhealthy};
        let peers = [peer("a", Pending), peer("c", Pending), peer("d", OnTheWay), peer("e", Arrived)];
        assert_eq!(turn("b", &peers, 3), Turn::Go);
        assert_eq!(turn("b", &peers, 2), Turn::Wait);
        assert_eq!(turn("0", &peers, 2), Turn::Go);
        assert_eq!(turn("b", &peers, 0), Turn::Go);
        assert_eq!(turn("b", &[peer("x", Unhealthy)], 10), Turn::Stopped("x".to_owned()));
        assert_eq!(turn("b", &[], 1), Turn::Go);
    }

    fn cluster(name: &str, phase: Phase, trouble: Option<(&str, &str)>) -> MultigresCluster {
        let conditions: Vec<_> = trouble
            .into_iter()
            .map(|(type_, status)| json!({"type": type_, "status": status, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}))
            .collect();
        serde_json::from_value(json!({
            "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster",
            "metadata": {"name": name, "namespace": "prod", "generation": 2},
            "spec": {}, "status": {"observedGeneration": 2, "phase": phase, "conditions": conditions},
        }))
        .unwrap()
    }

    fn cell(cluster: &str, intent: &str, phase: Phase) -> Cell {
        serde_json::from_value(json!({
            "apiVersion": "multigres.com/v1alpha1", "kind": "Cell",
            "metadata": {
                "name": format!("{cluster}-z"), "namespace": "prod", "generation": 4, "annotations": {annotation::INTENT: intent},
                "labels": {label::INSTANCE: cluster},
            },
            "spec": {
                "name": "z", "images": {"multigateway": "g"}, "multigateway": {},
                "globalTopoServer": {"address": "a", "rootPath": "/r", "implementation": "etcd"},
            },
            "status": {"observedGeneration": 4, "phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn a_peer_is_judged_by_its_children_and_by_what_it_says_itself() {
        use Phase::{Degraded, Healthy, Progressing};
        type Case<'a> = (Phase, Option<(&'a str, &'a str)>, &'a str, Phase, Option<Standing>);
        let (old, new) = ("own CellTemplate/std=1", "own CellTemplate/std=2");
        let cases: [Case<'_>; 11] = [
            (Healthy, None, old, Healthy, Some(Standing::Pending)),
            (Degraded, None, old, Degraded, Some(Standing::Pending)),
            (Degraded, Some((SPEC_ACCEPTED, "False")), old, Healthy, None),
            (Healthy, None, new, Healthy, Some(Standing::Arrived)),
            (Healthy, None, new, Progressing, Some(Standing::OnTheWay)),
            (Progressing, None, new, Healthy, Some(Standing::OnTheWay)),
            (Degraded, None, new, Progressing, Some(Standing::OnTheWay)),
            (Healthy, None, new, Degraded, Some(Standing::Unhealthy)),
            (Degraded, Some((CELL_LOCAL_REPOSITORY, "True")), new, Degraded, Some(Standing::Arrived)),
            (Degraded, Some((PASSWORD_SECRET_MISSING, "False")), new, Degraded, Some(Standing::Unhealthy)),
            (Healthy, None, "own CellTemplate/other=1", Healthy, None),
        ];
        let changed = BTreeMap::from([("CellTemplate/std".to_owned(), "2".to_owned())]);
        for (phase, trouble, intent, child, expected) in cases {
            let stores = Stores::default();
            stores.clusters.insert(Arc::new(cluster("me", Healthy, None)));
            stores.clusters.insert(Arc::new(cluster("peer", phase, trouble)));
            stores.cells.insert(Arc::new(cell("me", old, Healthy)));
            stores.cells.insert(Arc::new(cell("peer", intent, child)));
            let found = peers(&stores, "prod", "me", &changed);
            let expected: Vec<Peer> = expected.into_iter().map(|standing| peer("peer", standing)).collect();
            assert_eq!(found, expected, "{phase:?} {trouble:?} {intent} {child:?}");
        }
    }

    proptest! {
        /// Every cluster decides by itself; together they never exceed the limit, and they always get on.
        #[test]
        fn a_wave_keeps_the_limit_and_ends(count in 1_usize..30, limit in 1_usize..12, arrivals in prop::collection::vec(any::<u8>(), 200)) {
            let mut standings = vec![Standing::Pending; count];
            let name = |index: usize| format!("c{index:02}");
            for arrival in arrivals {
                let all: Vec<Peer> = standings.iter().enumerate().map(|(i, s)| peer(&name(i), *s)).collect();
                let going: Vec<usize> = (0..count)
                    .filter(|i| standings[*i] == Standing::Pending)
                    .filter(|i| {
                        let others: Vec<Peer> = all.iter().filter(|peer| peer.name != name(*i)).cloned().collect();
                        turn(&name(*i), &others, limit) == Turn::Go
                    })
                    .collect();
                for index in going {
                    standings[index] = Standing::OnTheWay;
                }
                let moving: Vec<usize> = (0..count).filter(|i| standings[*i] == Standing::OnTheWay).collect();
                prop_assert!(moving.len() <= limit);
                if let Some(index) = moving.get(usize::from(arrival) % moving.len().max(1)) {
                    standings[*index] = Standing::Arrived;
                } else {
                    prop_assert!(standings.iter().all(|s| *s == Standing::Arrived));
                    break;
                }
            }
            prop_assert!(standings.iter().all(|s| *s == Standing::Arrived));
        }
    }
}
