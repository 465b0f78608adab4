//! Reads certificates.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use x509_parser::{extensions::GeneralName, pem::Pem, prelude::FromDer as _};

use super::{Error, rotation::Fingerprint};

/// How many certificates a trust bundle holds at most.
const MAX_BUNDLE: usize = 3;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    public_key: Vec<u8>,
    common_name: String,
    dns_names: BTreeSet<String>,
    not_before: Timestamp,
    not_after: Timestamp,
    authority: bool,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    pub fn first(pem: &str) -> Result<Self, Error> {
        Self::all(pem)?.into_iter().next().ok_or_else(|| Error::Certificate("there is none".to_owned()))
    }

    /// Reads every certificate of a PEM text; other blocks are passed over.
    pub fn all(pem: &str) -> Result<Vec<Self>, Error> {
        Pem::iter_from_buffer(pem.as_bytes())
            .map(|block| block.map_err(|error| Error::Certificate(error.to_string())))
            .filter(|block| block.as_ref().map_or(true, |block| block.label == "CERTIFICATE"))
            .map(|block| Self::parse(block?.contents))
            .collect()
    }

    /// Reads a certificate in DER.
    pub fn parse(der: Vec<u8>) -> Result<Self, Error> {
        let (_, parsed) =
            x509_parser::certificate::X509Certificate::from_der(&der).map_err(|error| unreadable(&error))?;
        let time = |time: &x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|error| Error::Certificate(error.to_string()))
        };
        let names = parsed.subject_alternative_name().map_err(|error| unreadable(&error))?;
        let dns_names = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect();
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let (not_before, not_after) = (time(&parsed.validity().not_before)?, time(&parsed.validity().not_after)?);
        let (public_key, common_name) = (parsed.public_key().raw.to_vec(), common_name.unwrap_or_default().to_owned());
        let authority = parsed.is_ca();
        Ok(Self { der, public_key, common_name, dns_names, not_before, not_after, authority })
    }

    /// Returns the SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// Returns the certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Returns the common name of the subject; empty when there is none.
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// Returns the DNS names.
    pub fn dns_names(&self) -> &BTreeSet<String> {
        &self.dns_names
    }

    /// Returns the start of validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Returns the end of validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Returns whether the certificate may sign others.
    pub fn is_authority(&self) -> bool {
        self.authority
    }

    /// Returns whether the certificate carries a signature of `authority`.
    pub fn signed_by(&self, authority: &Self) -> bool {
        let (Ok((_, leaf)), Ok((_, authority))) = (
            x509_parser::certificate::X509Certificate::from_der(&self.der),
            x509_parser::certificate::X509Certificate::from_der(&authority.der),
        ) else {
            return false;
        };
        leaf.issuer() == authority.subject() && leaf.verify_signature(Some(authority.public_key())).is_ok()
    }

    /// Returns the public key with its algorithm, in DER.
    pub(super) fn public_key(&self) -> Vec<u8> {
        self.public_key.clone()
    }

    /// Writes the certificate as PEM.
    pub fn to_pem(&self) -> String {
        let text = STANDARD.encode(&self.der);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = tail;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    }
}

/// Puts a new authority in front of its predecessors that are still valid; what cannot be read is dropped.
pub fn bundle(newest: &str, previous: &str, now: Timestamp) -> Result<String, Error> {
    let newest = Certificate::first(newest)?;
    let mut all = vec![newest];
    for certificate in Certificate::all(previous).unwrap_or_default() {
        if certificate.not_after() > now && !all.contains(&certificate) && all.len() < MAX_BUNDLE {
            all.push(certificate);
        }
    }
    Ok(all.iter().map(Certificate::to_pem).collect())
}

fn unreadable(error: &impl std::fmt::Display) -> Error {
    Error::Certificate(error.to_string())
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::{super::Authority, *};

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
    }

    fn authority(from: i64, hours: i64) -> String {
        Authority::generate("CA", at(from), SignedDuration::from_hours(hours)).unwrap().pair().certificate.clone()
    }

    #[test]
    fn pem_survives_the_round_trip() {
        let pem = authority(0, 10);
        let parsed = Certificate::first(&pem).unwrap();
        assert_eq!(Certificate::first(&parsed.to_pem()).unwrap(), parsed);
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Certificate::first("").is_err());
        assert!(Certificate::first("nonsense").is_err());
        assert!(Certificate::first("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    }

    #[test]
    fn bundle_puts_the_newest_first_and_drops_the_expired() {
        let (expired, old, new) = (authority(0, 5), authority(0, 100), authority(50, 100));
        let text = bundle(&new, &format!("{expired}{old}{new}"), at(50)).unwrap();
        let all = Certificate::all(&text).unwrap();
        assert_eq!(all, [Certificate::first(&new).unwrap(), Certificate::first(&old).unwrap()]);
        assert_eq!(Certificate::all(&bundle(&new, "garbage", at(50)).unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn bundle_stays_short() {
        let previous: String = (0..5).map(|_| authority(0, 100)).collect();
        let text = bundle(&authority(0, 100), &previous, at(1)).unwrap();
        assert_eq!(Certificate::all(&text).unwrap().len(), MAX_BUNDLE);
    }
}
