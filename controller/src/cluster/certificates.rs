//! The certificates of a cluster: an authority of its own, one leaf for each of its components and for the controller, and the one that
//! PostgreSQL clients see. All are renewed long before they end.
//!
//! Key material is random, so it is made while observing and handed to `decide` as a value. Leaves are made only from an authority that is
//! stored already: two passes that race then agree about who signed them. What users have put under one of the names is used as it is and
//! never written.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::ResourceExt as _;
use shared::{
    api::v1alpha1::{InternalTlsConfig, MultigresCluster, MultigresClusterSpec},
    label::{self, Component},
    name::{PUBLIC_CERTIFICATE, common_name, internal_authority, internal_identity},
    pki::{self, Authority, Certificate, Pair, Policy, Reason, Request},
    telemetry,
};

use super::tls::{
    AUTHORITY, CERTIFICATE, Content, MULTIADMIN, MULTIGATEWAY, MULTIORCH, MULTIPOOLER, Mounted, OPERATOR, PRIVATE_KEY,
};
use crate::{context::Ctx, plan::Target, workload::owner::Owner};

const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Processes load a new bundle with a restart, and pods are restarted one after the other: that may take days.
const POLICY: Policy =
    Policy { renew_before: SignedDuration::from_hours(24 * 30), overlap: SignedDuration::from_hours(24 * 7) };
/// When the end of a certificate that somebody else has to renew is told.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 14);

/// Keys of the authority's Secret.
const CA_KEYS: [&str; 2] = [AUTHORITY, "ca.key"];
/// Keys of a leaf's Secret.
const LEAF_KEYS: [&str; 2] = [CERTIFICATE, PRIVATE_KEY];

/// What has to be written, and what only users can set right.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Certificates {
    /// Secrets that do not exist.
    pub create: Vec<Secret>,
    /// Secrets of ours whose content is replaced.
    pub renew: Vec<Secret>,
    /// Secrets of ours that nothing needs any more.
    pub unwanted: Vec<Target>,
    /// What is wrong and cannot be repaired here, with a remedy.
    pub problems: Vec<String>,
    /// What the administration service mounts.
    pub admin: Mounted,
}

/// One certificate that a cluster needs.
struct Leaf {
    secret: String,
    request: Request,
    /// Whether components show it to each other; otherwise clients see it.
    internal: bool,
}

/// Everything that a cluster needs.
struct Wanted {
    authority: String,
    leaves: Vec<Leaf>,
}

impl Wanted {
    fn of(spec: &MultigresClusterSpec, owner: &Owner) -> Self {
        let mut leaves = Vec::new();
        let identity = |component| internal_identity(component, &owner.name, &owner.namespace);
        if InternalTlsConfig::is_on(spec.internal_tls) {
            for component in [MULTIADMIN, MULTIGATEWAY, MULTIORCH, MULTIPOOLER, OPERATOR] {
                let secret = identity(component);
                let mut dns_names = BTreeSet::from([secret.clone()]);
                if component == MULTIGATEWAY {
                    // Gateways call each other with the settings that they have for poolers.
                    dns_names.insert(identity(MULTIPOOLER));
                }
                let request = Request { common_name: common_name(&secret), dns_names, valid_for: LEAF_LIFE };
                leaves.push(Leaf { secret, request, internal: true });
            }
        }
        if let Some(name) = spec.cert_common_name.as_ref().filter(|name| !name.is_empty()) {
            let mut dns_names = BTreeSet::from([name.clone()]);
            dns_names.extend(name.strip_prefix("db.").map(str::to_owned));
            let request = Request { common_name: common_name(name), dns_names, valid_for: LEAF_LIFE };
            leaves.push(Leaf { secret: PUBLIC_CERTIFICATE.to_owned(), request, internal: false });
        }
        Self { authority: internal_authority(&owner.name, &owner.namespace), leaves }
    }

    /// Names of all Secrets.
    fn secrets(&self) -> Vec<&str> {
        let authority = (!self.leaves.is_empty()).then_some(self.authority.as_str());
        authority.into_iter().chain(self.leaves.iter().map(|leaf| leaf.secret.as_str())).collect()
    }
}

/// What there is under the name of a Secret.
#[derive(Clone, Debug)]
enum Held {
    /// One that this cluster controls.
    Ours(Content),
    /// One of somebody else.
    Other(Content),
    /// One of a cluster of the same name that was there before. It goes by itself.
    Leaving,
    /// Nothing.
    Absent,
    /// It could not be read, for this category of error.
    Unreadable(&'static str),
}

impl Held {
    async fn of(name: &str, owner: &Owner, ctx: &Ctx) -> Self {
        if let Some(stored) = ctx.stores.secrets.get(&owner.namespace, name) {
            return Self::labelled(&stored, owner);
        }
        match ctx.references.secret(&owner.namespace, name).await {
            Ok(Some(seen)) => Self::Other(Content::seen(&seen)),
            Ok(None) => Self::Absent,
            Err(error) => Self::Unreadable(error.category()),
        }
    }

    fn labelled(stored: &Secret, owner: &Owner) -> Self {
        if owner.controls(stored) {
            return Self::Ours(Content::of(stored));
        }
        let before = |other: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
            other.controller == Some(true) && other.name == owner.name && other.uid != owner.uid
        };
        let leaves = stored.owner_references().iter().any(before);
        if leaves { Self::Leaving } else { Self::Other(Content::of(stored)) }
    }

    fn ours(&self) -> Option<&Content> {
        match self {
            Self::Ours(content) => Some(content),
            _ => None,
        }
    }

    fn content(&self) -> Option<&Content> {
        match self {
            Self::Ours(content) | Self::Other(content) => Some(content),
            Self::Leaving | Self::Absent | Self::Unreadable(_) => None,
        }
    }
}

/// Looks at the Secrets and makes what is due. It follows the spec as it stands, also where that is not carried out: certificates end
/// meanwhile.
pub async fn observe(cluster: &MultigresCluster, owner: &Owner, ctx: &Ctx) -> Certificates {
    let wanted = Wanted::of(&cluster.spec, owner);
    let mut held = BTreeMap::new();
    for name in wanted.secrets() {
        held.insert(name.to_owned(), Held::of(name, owner, ctx).await);
    }
    let mut due = due(owner, &wanted, &held, ctx.clock.now());
    let names = wanted.secrets();
    let ours = ctx.stores.secrets.of_cluster(&owner.namespace, &owner.name);
    due.unwanted = ours
        .iter()
        .filter(|secret| is_certificate(secret) && owner.controls(secret.as_ref()))
        .filter(|secret| secret.metadata.deletion_timestamp.is_none() && !names.contains(&&*secret.name_any()))
        .filter_map(|secret| Target::of(secret.as_ref()))
        .collect();
    due
}

/// Whether a Secret is one of those that are made here.
fn is_certificate(secret: &Secret) -> bool {
    let component = secret.labels().get(label::COMPONENT);
    let made = [Component::InternalTls, Component::PublicTls];
    component.is_some_and(|component| made.iter().any(|made| made.as_str() == component))
}

fn due(owner: &Owner, wanted: &Wanted, held: &BTreeMap<String, Held>, now: Timestamp) -> Certificates {
    let mut due = Certificates::default();
    let of = |name: &str| held.get(name).unwrap_or(&Held::Absent);
    let authority = of(&wanted.authority).content().map(|content| content.pair(CA_KEYS));
    let bundle = authority.as_ref().and_then(|pair| Certificate::all(&pair.certificate).ok()).unwrap_or_default();
    let signed = |content: &Content| {
        let leaf = content.get(CERTIFICATE).and_then(|pem| Certificate::first(pem).ok());
        leaf.is_some_and(|leaf| bundle.iter().any(|authority| leaf.signed_by(authority)))
    };
    // Who brings some of the certificates brings all of them: those of another authority are worth nothing to the others.
    let foreign = |leaf: &Leaf| matches!(of(&leaf.secret), Held::Other(content) if leaf.internal && !signed(content));
    let brought = wanted.leaves.iter().find(|leaf| foreign(leaf)).map(|leaf| leaf.secret.as_str());
    let operator = internal_identity(OPERATOR, &owner.name, &owner.namespace);
    let mut tended = Vec::new();
    for leaf in &wanted.leaves {
        let name = &leaf.secret;
        match (of(name), brought.filter(|_| leaf.internal)) {
            (Held::Ours(_), _) | (Held::Absent, None) => tended.push(leaf),
            // The controller can do with the certificate of the administration service.
            (Held::Absent, Some(_)) if *name == operator => {}
            (Held::Absent, Some(brought)) => due.problems.push(format!(
                "Secret {name} does not exist: {brought} is not signed by the cluster's own authority, so create {name}, too, with a \
                 certificate of the same authority"
            )),
            (Held::Other(content), _) => due.problems.extend(fault(leaf, content, now)),
            (Held::Leaving, _) => {}
            (Held::Unreadable(category), _) => due.problems.push(format!("Secret {name} cannot be read ({category})")),
        }
    }
    let admin = internal_identity(MULTIADMIN, &owner.name, &owner.namespace);
    if wanted.leaves.iter().any(|leaf| leaf.secret == admin) {
        due.admin = match of(&admin) {
            Held::Leaving | Held::Unreadable(_) => Mounted::default(),
            there => Mounted::of(&admin, &[CERTIFICATE, PRIVATE_KEY, AUTHORITY], Ok(there.content())),
        };
    }
    let maker = Maker {
        owner,
        name: &wanted.authority,
        held: of(&wanted.authority),
        authority: authority.as_ref(),
        bundle: &bundle,
        trusted: wanted.leaves.iter().filter_map(|leaf| of(&leaf.secret).ours()?.get(AUTHORITY)).collect(),
        now,
    };
    for leaf in tended {
        match maker.tend(leaf, of(&leaf.secret)) {
            Ok(Due::Nothing) => {}
            Ok(Due::Create(secret)) => due.create.push(secret),
            Ok(Due::Renew(secret)) => due.renew.push(secret),
            Ok(Due::AuthorityFirst(made)) => {
                match made {
                    Made::New(secret) => due.create.push(secret),
                    Made::Next(secret) => due.renew.push(secret),
                    Made::NotYet => {}
                    Made::Never(problem) => due.problems.push(problem),
                }
                // Each of the leaves would say the same.
                break;
            }
            Err(error) => due.problems.push(format!(
                "the certificate in Secret {} cannot be made: {}",
                leaf.secret,
                telemetry::chain(&error)
            )),
        }
    }
    due
}

/// What is wrong with a certificate that somebody else has put there.
fn fault(leaf: &Leaf, content: &Content, now: Timestamp) -> Option<String> {
    let name = &leaf.secret;
    let keys = if leaf.internal { &[CERTIFICATE, PRIVATE_KEY, AUTHORITY][..] } else { &LEAF_KEYS[..] };
    if let Some(key) = keys.iter().find(|key| content.get(key).is_none()) {
        return Some(format!("Secret {name} has no key {key}; add it, or delete the Secret to have one made"));
    }
    let certificate = match Certificate::first(content.get(CERTIFICATE)?) {
        Ok(certificate) => certificate,
        Err(error) => return Some(format!("Secret {name}, key {CERTIFICATE}: {error}")),
    };
    let has = |wanted: &str| {
        let wildcard = wanted.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let names = certificate.dns_names();
        names.contains(wanted) || wildcard.is_some_and(|wildcard| names.contains(&wildcard))
    };
    // Clients may well dial the shorter name alone, or the longer one.
    let missing: Vec<&str> = leaf.request.dns_names.iter().map(String::as_str).filter(|name| !has(name)).collect();
    if !missing.is_empty() && (leaf.internal || missing.len() == leaf.request.dns_names.len()) {
        return Some(format!("the certificate in Secret {name} is not made out to {}; replace it", missing.join(", ")));
    }
    let left = certificate.not_after().duration_since(now);
    (left < WARN_BEFORE).then(|| {
        let ends = if left.is_positive() { "ends" } else { "ended" };
        format!(
            "the certificate in Secret {name} {ends} at {}; replace it, since it is not ours",
            certificate.not_after()
        )
    })
}

/// What is to be done about one leaf.
enum Due {
    Nothing,
    Create(Secret),
    Renew(Secret),
    AuthorityFirst(Made),
}

/// What became of an authority that is needed.
enum Made {
    New(Secret),
    Next(Secret),
    NotYet,
    Never(String),
}

/// Makes certificates for one cluster.
struct Maker<'a> {
    owner: &'a Owner,
    /// The authority's Secret.
    name: &'a str,
    held: &'a Held,
    authority: Option<&'a Pair>,
    /// The authority's certificates, newest first.
    bundle: &'a [Certificate],
    /// The authorities in the leaves' Secrets.
    trusted: String,
    now: Timestamp,
}

impl Maker<'_> {
    fn tend(&self, leaf: &Leaf, held: &Held) -> Result<Due, pki::Error> {
        let stored = held.content().map(|content| content.pair(LEAF_KEYS));
        let plan = pki::plan(self.authority, stored.as_ref(), &leaf.request, POLICY, self.now);
        match (plan, self.authority, stored) {
            (pki::Plan::RenewAuthority(reason), ..) => Ok(Due::AuthorityFirst(self.authority(reason)?)),
            (pki::Plan::Keep, Some(authority), Some(pair)) => Ok(self.refreshed(leaf, held, authority, pair)),
            (pki::Plan::RenewLeaf(Reason::Expiring), Some(authority), Some(pair)) if self.can_wait(&pair) => {
                Ok(self.refreshed(leaf, held, authority, pair))
            }
            (pki::Plan::RenewLeaf(_), Some(authority), stored) => {
                let signer = Authority::load(authority.clone())?;
                let issued = if leaf.internal {
                    signer.issue(&leaf.request, self.now)?
                } else {
                    signer.issue_for_server(&leaf.request, self.now)?
                };
                let secret = self.leaf(leaf, authority, issued);
                Ok(if stored.is_some() { Due::Renew(secret) } else { Due::Create(secret) })
            }
            (pki::Plan::Keep | pki::Plan::RenewLeaf(_), ..) => Ok(Due::Nothing),
        }
    }

    /// The same leaf with the authorities of today, where it has others.
    fn refreshed(&self, leaf: &Leaf, held: &Held, authority: &Pair, pair: Pair) -> Due {
        let trusted = held.content().and_then(|content| content.get(AUTHORITY));
        if trusted == Some(authority.certificate.as_str()) {
            return Due::Nothing;
        }
        Due::Renew(self.leaf(leaf, authority, pair))
    }

    /// Whether a leaf that ends soon can do without a successor until everybody has loaded the authority that would sign it.
    fn can_wait(&self, pair: &Pair) -> bool {
        let Ok(leaf) = Certificate::first(&pair.certificate) else { return false };
        let [newest, older @ ..] = self.bundle else { return false };
        let spreads = self.now.duration_since(newest.not_before()) < POLICY.overlap;
        let lasts = leaf.not_after().duration_since(self.now) > POLICY.overlap;
        let counts = |authority: &Certificate| leaf.signed_by(authority) && authority.not_after() > self.now;
        spreads && lasts && !leaf.signed_by(newest) && older.iter().any(counts)
    }

    fn authority(&self, reason: Reason) -> Result<Made, pki::Error> {
        let common_name = common_name(&format!("Multigres {}/{}", self.owner.namespace, self.owner.name));
        let mut next = Authority::generate(&common_name, self.now, AUTHORITY_LIFE)?.pair().clone();
        // Those who trust the predecessor must not be cut off while the successor spreads, also where its own Secret is lost.
        match self.held {
            Held::Absent => {
                next.certificate = pki::bundle(&next.certificate, &self.trusted, self.now)?;
                Ok(Made::New(self.stored(next)))
            }
            Held::Ours(content) => {
                let before = content.get(AUTHORITY).unwrap_or_default();
                next.certificate = pki::bundle(&next.certificate, before, self.now)?;
                Ok(Made::Next(self.stored(next)))
            }
            Held::Other(_) => Ok(Made::Never(format!(
                "Secret {} is not ours and cannot sign certificates ({reason}): replace it with an authority under the keys {} and {}, or \
                 delete it to have one made",
                self.name, CA_KEYS[0], CA_KEYS[1]
            ))),
            Held::Leaving => Ok(Made::NotYet),
            Held::Unreadable(category) => Ok(Made::Never(format!("Secret {} cannot be read ({category})", self.name))),
        }
    }

    /// The Secret of an authority.
    fn stored(&self, pair: Pair) -> Secret {
        let texts = [(CA_KEYS[0], pair.certificate), (CA_KEYS[1], pair.key)];
        self.secret(self.name, Component::InternalTls, "Opaque", texts)
    }

    /// The Secret of a leaf, with the authorities to trust.
    fn leaf(&self, leaf: &Leaf, authority: &Pair, pair: Pair) -> Secret {
        let component = if leaf.internal { Component::InternalTls } else { Component::PublicTls };
        let texts =
            [(CERTIFICATE, pair.certificate), (PRIVATE_KEY, pair.key), (AUTHORITY, authority.certificate.clone())];
        self.secret(&leaf.secret, component, "kubernetes.io/tls", texts)
    }

    fn secret<const N: usize>(
        &self,
        name: &str,
        component: Component,
        type_: &str,
        texts: [(&str, String); N],
    ) -> Secret {
        Secret {
            metadata: self.owner.meta(name.to_owned(), label::of_cluster(&self.owner.name, component)),
            type_: Some(type_.to_owned()),
            data: Some(texts.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).into()),
            ..Secret::default()
        }
    }
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
