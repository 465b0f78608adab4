//! Reads serving certificates and says what the rotation needs to know about them.

use std::{collections::BTreeSet, sync::Arc};

use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use shared::pki::{
    self, Certificate,
    rotation::{Anchor, Fingerprint, Leaf},
};

use super::serving::Current;

/// A serving certificate as it is stored.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// The leaf, then what leads from it to an authority.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
    /// The authority, if it came along.
    pub trust: Vec<u8>,
}

/// Why a stored certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The certificate is no certificate.
    #[error(transparent)]
    Certificate(#[from] pki::Error),
    /// The text is not even text.
    #[error("it is not PEM")]
    Text,
    /// The key is no private key.
    #[error("cannot read the private key: {0}")]
    Key(rustls_pki_types::pem::Error),
    /// The key is of a kind that cannot be used, or belongs to another certificate.
    #[error("cannot serve with the pair: {0}")]
    Pair(rustls::Error),
}

/// Reads what could be served.
pub(super) fn read(parts: &Parts) -> Result<Current, Error> {
    let chain = certificates(&parts.certificate)?;
    // An authority that cannot be read is the holder's problem; the leaf may be accepted all the same.
    let trust = certificates(&parts.trust).unwrap_or_default();
    let key = PrivateKeyDer::from_pem_slice(&parts.key).map_err(Error::Key)?;
    let ders = chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    let key = CertifiedKey::from_der(ders, key, &aws_lc_rs::default_provider()).map_err(Error::Pair)?;
    Ok(Current { chain, trust, key: Arc::new(key) })
}

/// Reads every certificate of a PEM text; there has to be one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, Error> {
    let text = std::str::from_utf8(pem).map_err(|_| Error::Text)?;
    Certificate::first(text)?;
    Ok(Certificate::all(text)?)
}

/// What the rotation has to know about a certificate that a bundle can carry.
pub(super) fn anchor(certificate: &Certificate, predecessor: bool) -> Anchor {
    Anchor {
        id: certificate.fingerprint(),
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
        predecessor,
    }
}

/// What the rotation has to know about a leaf; none when the chain is empty.
pub(super) fn leaf<'a>(
    chain: &[Certificate],
    anchors: impl IntoIterator<Item = &'a Certificate>,
    server_name: &str,
) -> Option<Leaf> {
    let first = chain.first()?;
    Some(Leaf {
        id: first.fingerprint(),
        not_before: first.not_before(),
        not_after: first.not_after(),
        trusted_by: trusted_by(chain, anchors),
        names: first.dns_names().iter().any(|name| covers(name, server_name)),
    })
}

/// Whether a leaf has all of some further names.
pub(super) fn bears(chain: &[Certificate], names: &[String]) -> bool {
    let Some(leaf) = chain.first() else { return false };
    names.iter().all(|wanted| leaf.dns_names().iter().any(|name| name.eq_ignore_ascii_case(wanted)))
}

/// Which of some certificates make a chain trusted.
fn trusted_by<'a>(chain: &[Certificate], anchors: impl IntoIterator<Item = &'a Certificate>) -> BTreeSet<Fingerprint> {
    let anchors: Vec<&Certificate> = anchors.into_iter().collect();
    let mut path: Vec<&Certificate> = chain.first().into_iter().collect();
    let mut trusted = BTreeSet::new();
    while let Some(last) = path.last().copied() {
        let vouch = |anchor: &&&Certificate| **anchor == last || last.signed_by(anchor);
        trusted.extend(anchors.iter().filter(vouch).map(|anchor| anchor.fingerprint()));
        let Some(next) = chain.iter().find(|next| !path.contains(next) && last.signed_by(next)) else { break };
        path.push(next);
    }
    trusted
}

/// Whether a name of a certificate, which may begin with a wildcard label, is good for a host.
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(rest) => host.split_once('.').is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(rest)),
        None => name.eq_ignore_ascii_case(host),
    }
}

/// What is to be trusted where somebody else issues: what came along, if it leads to the leaf, and else the end of the chain.
pub(super) fn given(current: &Current) -> Vec<Certificate> {
    let leads = |roots: &[Certificate]| !trusted_by(&current.chain, roots).is_empty();
    if leads(&current.trust) {
        let mut roots = current.trust.clone();
        // Bundles begin with the one that matters.
        roots.sort_by_key(|root| !leads(std::slice::from_ref(root)));
        return roots;
    }
    match current.chain.as_slice() {
        [alone] if alone.signed_by(alone) => vec![alone.clone()],
        [_, .., last] if leads(std::slice::from_ref(last)) => vec![last.clone()],
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use shared::pki::{Authority, Pair, Request};

    use super::*;

    const HOST: &str = "hook.ns.svc";

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn authority() -> Authority {
        Authority::generate("CA", now(), SignedDuration::from_hours(100)).unwrap()
    }

    fn issue(authority: &Authority, name: &str) -> Pair {
        let request = Request {
            common_name: "hook".to_owned(),
            dns_names: [name.to_owned()].into(),
            valid_for: SignedDuration::from_hours(10),
        };
        authority.issue(&request, now()).unwrap()
    }

    fn parts(pair: &Pair, trust: &str) -> Parts {
        Parts {
            certificate: pair.certificate.clone().into(),
            key: pair.key.clone().into(),
            trust: trust.as_bytes().to_vec(),
        }
    }

    #[test]
    fn leaf_is_trusted_by_its_authority_alone() {
        let (ours, other) = (authority(), authority());
        let current = read(&parts(&issue(&ours, HOST), "")).unwrap();
        let anchors = [&ours, &other].map(|one| Certificate::first(&one.pair().certificate).unwrap());
        let leaf = leaf(&current.chain, &anchors, HOST).unwrap();
        assert_eq!(leaf.trusted_by, [anchors[0].fingerprint()].into());
        assert!(leaf.names && leaf.valid(now()));
        assert_eq!(Some(leaf.id), current.id());
    }

    #[test]
    fn names_are_those_of_the_service_or_wildcards_for_them() {
        for (name, good) in [
            (HOST, true),
            ("HOOK.ns.svc", true),
            ("*.ns.svc", true),
            ("*.svc", false),
            ("other.ns.svc", false),
            ("hook.ns.svc.cluster.local", false),
        ] {
            let current = read(&parts(&issue(&authority(), name), "")).unwrap();
            assert_eq!(leaf(&current.chain, [], HOST).unwrap().names, good, "{name}");
        }
    }

    #[test]
    fn further_names_are_there_or_not() {
        let current = read(&parts(&issue(&authority(), "*.example.com"), "")).unwrap();
        assert!(bears(&current.chain, &[]));
        assert!(bears(&current.chain, &["*.EXAMPLE.com".to_owned()]));
        // What has to be in the certificate is the name itself, not one that it is good for.
        assert!(!bears(&current.chain, &["a.example.com".to_owned()]));
        assert!(!bears(&[], &[]));
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let (one, other) = (issue(&authority(), HOST), issue(&authority(), HOST));
        assert!(read(&Parts::default()).is_err());
        let swapped = Pair { key: other.key, ..one.clone() };
        assert!(matches!(read(&parts(&swapped, "")), Err(Error::Pair(_))));
        let torn = Pair { certificate: one.certificate[..200].to_owned(), ..one.clone() };
        assert!(matches!(read(&parts(&torn, "")), Err(Error::Certificate(_))));
        let garbage = Pair { key: "garbage".to_owned(), ..one };
        assert!(matches!(read(&parts(&garbage, "")), Err(Error::Key(_))));
    }

    #[test]
    fn given_trust_is_what_came_along_or_the_end_of_the_chain() {
        let (ours, other) = (authority(), authority());
        let leaf = issue(&ours, HOST);
        let root = &ours.pair().certificate;
        let trusted = |parts: &Parts| given(&read(parts).unwrap());
        let expected = vec![Certificate::first(root).unwrap()];
        assert_eq!(trusted(&parts(&leaf, root)), expected);
        let chained = Pair { certificate: format!("{}{root}", leaf.certificate), ..leaf.clone() };
        assert_eq!(trusted(&parts(&chained, "")), expected);
        assert_eq!(trusted(&parts(&chained, &other.pair().certificate)), expected);
        assert_eq!(trusted(&parts(&leaf, "")), []);
        assert_eq!(trusted(&parts(ours.pair(), "")), expected);
    }
}
