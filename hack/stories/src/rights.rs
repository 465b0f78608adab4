//! Holds what the operator's accounts may do against what they did, by the roles on a bed and the API server's audit log.
//!
//! Nothing that they asked for may have been refused; what is given has to be used, or be listed as used seldom; and Secrets and
//! ConfigMaps are listed by our label alone, so that the controller never sees those of others.

mod request;
mod seldom;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject};
use kube::{Api, Client, api::ListParams};
use serde_json::Value;

use self::{request::Request, seldom::SELDOM};
use crate::{audit::CONTROLLER_USER, bed::OPERATOR_NAMESPACE};

/// How a ServiceAccount's user name begins.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// Admission's ServiceAccount.
const ADMISSION_USER: &str = "multigres-operator-admission";
/// Refusals that no right would have prevented, by what the API server says about them.
const NO_MATTER_OF_RIGHTS: [&str; 3] =
    ["exceeded quota", "because it is being terminated", "error looking up service account"];
/// API groups of rights that come and go with secured metrics, which some stories have and others have not.
const LEAVING: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];
/// How the authorizer by roles words a refusal, which nobody else does.
const BY_ROLES: &str = "\" cannot ";

/// A program of the operator, as the API server knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// The controller.
    Controller,
    /// The admission service.
    Admission,
}

/// One thing that an account may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Who.
    pub account: Account,
    /// API group; empty for the core.
    pub group: String,
    /// Plural, with the subresource: `shards/status`.
    pub resource: String,
    /// The verb.
    pub verb: String,
    /// The only object that it concerns; none for all.
    pub name: Option<String>,
    /// The only namespace that it is given in; none for all.
    pub namespace: Option<String>,
}

impl Account {
    const ALL: [Self; 2] = [Self::Controller, Self::Admission];

    fn name(self) -> &'static str {
        match self {
            Self::Controller => CONTROLLER_USER,
            Self::Admission => ADMISSION_USER,
        }
    }

    fn of(namespace: &str, name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|account| namespace == OPERATOR_NAMESPACE && name == account.name())
    }

    fn of_user(user: &str) -> Option<Self> {
        let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
        Self::of(namespace, name)
    }

    fn of_subject(subject: &Subject) -> Option<Self> {
        let namespace = subject.namespace.as_deref().filter(|_| subject.kind == "ServiceAccount")?;
        Self::of(namespace, &subject.name)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Controller => "controller",
            Self::Admission => "admission",
        })
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.account, self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in {namespace}")?;
        }
        Ok(())
    }
}

impl Right {
    /// Those that a request takes, and no more.
    fn of(request: &Request<'_>) -> BTreeSet<Self> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let one = |verb: &&str| Self {
            account: request.account,
            group: request.group.to_owned(),
            resource: request.resource.clone(),
            verb: (*verb).to_owned(),
            name: some(request.name),
            namespace: some(request.namespace),
        };
        request.verbs.iter().map(one).collect()
    }

    fn covers(&self, request: &Request<'_>) -> bool {
        self.account == request.account
            && self.group == request.group
            && self.resource == request.resource
            && request.verbs.contains(&self.verb.as_str())
            && self.name.as_deref().is_none_or(|name| name == request.name)
            && self.namespace.as_deref().is_none_or(|namespace| namespace == request.namespace)
    }

    /// Why it may go unused; none where it may not.
    fn excuse(&self) -> Option<&'static str> {
        SELDOM.iter().find(|seldom| seldom.names(self)).map(|seldom| seldom.why)
    }
}

/// Roles, and whom they are given to.
#[derive(Clone, Debug, Default)]
pub struct Rbac {
    cluster_roles: Vec<ClusterRole>,
    cluster_bindings: Vec<ClusterRoleBinding>,
    roles: Vec<Role>,
    bindings: Vec<RoleBinding>,
}

impl Rbac {
    /// Reads all of a Kubernetes.
    pub async fn read(client: &Client) -> Result<Self> {
        let all = ListParams::default();
        let cluster_roles = Api::<ClusterRole>::all(client.clone()).list(&all).await.context("listing ClusterRoles")?;
        let cluster_bindings = Api::<ClusterRoleBinding>::all(client.clone()).list(&all).await;
        let roles = Api::<Role>::all(client.clone()).list(&all).await.context("listing Roles")?;
        let bindings = Api::<RoleBinding>::all(client.clone()).list(&all).await.context("listing RoleBindings")?;
        Ok(Self {
            cluster_roles: cluster_roles.items,
            cluster_bindings: cluster_bindings.context("listing ClusterRoleBindings")?.items,
            roles: roles.items,
            bindings: bindings.items,
        })
    }

    /// What the two accounts may do by themselves, not as one of a group.
    pub fn rights(&self) -> BTreeSet<Right> {
        let mut all = BTreeSet::new();
        for binding in &self.cluster_bindings {
            for account in accounts(binding.subjects.as_deref()) {
                all.extend(self.cluster_rules(&binding.role_ref.name).flat_map(|rule| each(account, None, rule)));
            }
        }
        for binding in &self.bindings {
            let namespace = binding.metadata.namespace.as_deref();
            let name = &binding.role_ref.name;
            for account in accounts(binding.subjects.as_deref()) {
                if binding.role_ref.kind == "ClusterRole" {
                    all.extend(self.cluster_rules(name).flat_map(|rule| each(account, namespace, rule)));
                } else {
                    all.extend(self.rules(namespace, name).flat_map(|rule| each(account, namespace, rule)));
                }
            }
        }
        all
    }

    fn cluster_rules(&self, name: &str) -> impl Iterator<Item = &PolicyRule> {
        let of_name = self.cluster_roles.iter().filter(move |role| role.metadata.name.as_deref() == Some(name));
        of_name.flat_map(|role| role.rules.iter().flatten())
    }

    fn rules(&self, namespace: Option<&str>, name: &str) -> impl Iterator<Item = &PolicyRule> {
        let of_name = self.roles.iter().filter(move |role| {
            role.metadata.namespace.as_deref() == namespace && role.metadata.name.as_deref() == Some(name)
        });
        of_name.flat_map(|role| role.rules.iter().flatten())
    }
}

fn accounts(subjects: Option<&[Subject]>) -> impl Iterator<Item = Account> {
    subjects.into_iter().flatten().filter_map(Account::of_subject)
}

/// The single rights of a rule.
fn each(account: Account, namespace: Option<&str>, rule: &PolicyRule) -> Vec<Right> {
    let names: Vec<Option<&String>> = match rule.resource_names.as_deref() {
        Some(names) if !names.is_empty() => names.iter().map(Some).collect(),
        _ => vec![None],
    };
    let mut all = Vec::new();
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                all.extend(names.iter().map(|name| Right {
                    account,
                    group: group.clone(),
                    resource: resource.clone(),
                    verb: verb.clone(),
                    name: name.cloned(),
                    namespace: namespace.map(str::to_owned),
                }));
            }
        }
    }
    all
}

/// What the log shows.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    given: BTreeSet<Right>,
    unused: BTreeSet<Right>,
    requests: BTreeMap<Account, usize>,
    /// What roles have allowed at some time.
    allowed: BTreeSet<Right>,
    /// Requests that were refused, and how often, with the rights that roles would have had to give.
    refused: BTreeMap<(String, BTreeSet<Right>), usize>,
    /// Lists of what others may own: those by our label, and the others with how often they were.
    by_label: usize,
    unlabelled: BTreeMap<String, usize>,
}

impl Findings {
    /// Nothing was seen yet.
    pub fn new(given: BTreeSet<Right>) -> Self {
        Self { unused: given.clone(), given, ..Self::default() }
    }

    /// Reads a whole log.
    pub fn read(&mut self, log: &Path) -> Result<()> {
        let file = File::open(log).with_context(|| format!("reading {}", log.display()))?;
        let ours = format!("{SERVICE_ACCOUNT}{OPERATOR_NAMESPACE}:");
        for line in BufReader::new(file).lines() {
            let line = line?;
            if !line.contains(&ours) {
                continue;
            }
            // The last line may be cut off in the middle of being written.
            if let Ok(event) = serde_json::from_str::<Value>(&line) {
                self.take(&event);
            }
        }
        Ok(())
    }

    fn take(&mut self, event: &Value) {
        let Some(request) = Request::of(event) else { return };
        *self.requests.entry(request.account).or_default() += 1;
        if request.refused {
            // Stories take rights away for a while, as whoever uninstalls the operator does. What is given again at the end was not amiss.
            let by_roles = request.message.contains(BY_ROLES);
            let was_away = by_roles && self.given.iter().any(|right| right.covers(&request));
            if !was_away && !NO_MATTER_OF_RIGHTS.iter().any(|reason| request.message.contains(reason)) {
                let what = if request.resource.is_empty() { request.uri } else { &request.resource };
                let line = format!("{}: {} {what}: {}", request.account, request.verbs.join(" and "), request.message);
                let missing = if by_roles { Right::of(&request) } else { BTreeSet::new() };
                *self.refused.entry((line, missing)).or_default() += 1;
            }
            return;
        }
        self.allowed.append(&mut Right::of(&request));
        self.unused.retain(|right| !right.covers(&request));
        match request.sees_others() {
            Some(true) => {
                let line = format!("{} {}", request.verbs.join(" and "), request.uri);
                *self.unlabelled.entry(line).or_default() += 1;
            }
            Some(false) => self.by_label += 1,
            None => {}
        }
    }

    /// What was given and not used, one a line, with the excuse if there is one.
    pub fn unused(&self) -> Vec<String> {
        let line = |right: &Right| match right.excuse() {
            Some(why) => format!("{right} ({why})"),
            None => format!("{right} (UNEXPECTED)"),
        };
        self.unused.iter().map(line).collect()
    }

    /// How much was looked at.
    pub fn summary(&self) -> String {
        let requests: Vec<String> = self.requests.iter().map(|(who, number)| format!("{number} of {who}")).collect();
        let used = self.given.len() - self.unused.len();
        format!("{used} of {} rights used; requests: {}", self.given.len(), requests.join(", "))
    }

    /// What is wrong, if anything is. Whether something that should have been used was not counts only where all stories ran.
    pub fn judge(&self, all_ran: bool) -> Result<()> {
        let mut wrong = Vec::new();
        for account in Account::ALL {
            let given = self.given.iter().filter(|right| right.account == account).count();
            let requests = self.requests.get(&account).copied().unwrap_or_default();
            if given == 0 || requests == 0 {
                wrong.push(format!("{account}: {given} rights and {requests} requests, so nothing was looked at"));
            }
        }
        // A feature that a story turned on and off again takes its rights along before the last pod that uses them has gone.
        let leaves = |right: &Right| LEAVING.contains(&right.group.as_str()) && self.allowed.contains(right);
        let amiss = |missing: &BTreeSet<Right>| missing.is_empty() || !missing.iter().all(leaves);
        let refused = self.refused.iter().filter(|((_, missing), _)| amiss(missing));
        wrong.extend(refused.map(|((what, _), times)| format!("refused {times} times: {what}")));
        wrong.extend(self.unlabelled.iter().map(|(what, times)| format!("not by our label, {times} times: {what}")));
        if self.by_label == 0 {
            wrong.push("nobody has listed Secrets or ConfigMaps by our label".to_owned());
        }
        let stale = SELDOM.iter().filter(|seldom| !self.given.iter().any(|right| seldom.names(right)));
        wrong.extend(stale.map(|seldom| format!("listed as seldom used, and not given: {:?}", seldom.resources)));
        if all_ran {
            let idle = self.unused.iter().filter(|right| right.excuse().is_none());
            wrong.extend(idle.map(|right| format!("given and never used: {right}")));
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }
}
