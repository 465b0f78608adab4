//! What is given and used so seldom that a run of all stories may not show it, and why it is given.

use super::{Account, Right};

/// Rights that a run of all stories need not use.
pub(super) struct Seldom {
    pub(super) account: Account,
    pub(super) group: &'static str,
    pub(super) resources: &'static [&'static str],
    pub(super) verbs: &'static [&'static str],
    pub(super) why: &'static str,
}

/// What is given and seldom used. The controller's API server tests `rights` try that its own are given, and are enough; that those of admission
/// are given is asked in the chart's test.
pub(super) const SELDOM: &[Seldom] = &[
    Seldom {
        account: Account::Controller,
        group: "multigres.com",
        resources: &[
            "multigresclusters/finalizers",
            "cells/finalizers",
            "tablegroups/finalizers",
            "shards/finalizers",
            "toposervers/finalizers",
        ],
        verbs: &["update"],
        why: "judged with owner references on servers that check them, and never asked for",
    },
    Seldom {
        account: Account::Controller,
        group: "multigres.com",
        resources: &["multigresbackups"],
        verbs: &["get", "create", "patch", "delete"],
        why: "schedules, times to live and data that goes with its run",
    },
    Seldom {
        account: Account::Controller,
        group: "multigres.com",
        resources: &["multigresbackups/status"],
        verbs: &["patch"],
        why: "only where somebody asks for a backup",
    },
    Seldom {
        account: Account::Controller,
        group: "multigres.com",
        resources: &["shards", "toposervers"],
        verbs: &["get", "delete"],
        why: "a shard that leaves the spec, and a topology that others take over",
    },
    Seldom {
        account: Account::Controller,
        group: "apps",
        resources: &["deployments"],
        verbs: &["get", "delete"],
        why: "orchestrators of a cell or of a shard that leaves",
    },
    Seldom {
        account: Account::Controller,
        group: "",
        resources: &["services"],
        verbs: &["get", "delete"],
        why: "the address of a pool that leaves",
    },
    Seldom {
        account: Account::Controller,
        group: "policy",
        resources: &["poddisruptionbudgets"],
        verbs: &["get", "delete"],
        why: "what shrinks to one replica needs none",
    },
    Seldom {
        account: Account::Controller,
        group: "",
        resources: &["persistentvolumeclaims"],
        verbs: &["get", "delete"],
        why: "volumes that nobody uses go days later",
    },
    Seldom {
        account: Account::Controller,
        group: "",
        resources: &["configmaps"],
        verbs: &["get"],
        why: "settings in a ConfigMap of the user's own",
    },
    Seldom {
        account: Account::Controller,
        group: "",
        resources: &["secrets"],
        verbs: &["get", "patch", "delete"],
        why: "Secrets of users, renewed certificates, and a password that opens nothing any more",
    },
    Seldom {
        account: Account::Admission,
        group: "",
        resources: &["secrets"],
        verbs: &["delete"],
        why: "a Secret that somebody has made immutable is made anew",
    },
    Seldom {
        account: Account::Admission,
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["patch"],
        why: "a replica whose certificate is accepted by nobody asks for the Lease",
    },
];

impl Seldom {
    /// Whether it is about this right.
    pub(super) fn names(&self, right: &Right) -> bool {
        self.account == right.account
            && self.group == right.group
            && self.resources.contains(&right.resource.as_str())
            && self.verbs.contains(&right.verb.as_str())
    }
}
