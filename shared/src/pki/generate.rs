//! Makes authorities and leaves.

use std::{collections::BTreeSet, fmt, time::SystemTime};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};

use super::{Certificate, Error};

/// How far the start of validity lies in the past, for clocks that run late.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

/// A certificate and its private key in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate; for an authority the newest comes first and its predecessors follow.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What a leaf is asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Common name of the subject.
    pub common_name: String,
    /// DNS names, wildcards included.
    pub dns_names: BTreeSet<String>,
    /// How long the leaf is valid.
    pub valid_for: SignedDuration,
}

/// A certificate authority that can sign.
pub struct Authority {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority that is valid from an hour ago.
    pub fn generate(common_name: &str, now: Timestamp, valid_for: SignedDuration) -> Result<Self, Error> {
        let mut params = params(common_name, now, valid_for);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = key()?;
        let certificate = params.self_signed(&key).map_err(failed("sign an authority"))?;
        let pair = Pair { certificate: certificate.pem(), key: key.serialize_pem() };
        Ok(Self { pair, issuer: Issuer::new(params, key) })
    }

    /// Takes up a stored authority; of a bundle the first certificate counts. Keys may be PKCS#8 or SEC1.
    pub fn load(pair: Pair) -> Result<Self, Error> {
        let key = KeyPair::from_pem(&pair.key).map_err(failed("read the key of the authority"))?;
        let newest = Certificate::first(&pair.certificate)?;
        let issuer = Issuer::from_ca_cert_pem(&newest.to_pem(), key).map_err(failed("read the authority"))?;
        Ok(Self { pair, issuer })
    }

    /// Returns the certificate and the key for storing.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Makes a leaf for servers and clients that is valid from an hour ago.
    pub fn issue(&self, request: &Request, now: Timestamp) -> Result<Pair, Error> {
        self.sign(request, params(&request.common_name, now, request.valid_for))
    }

    /// Makes a leaf that proves nothing about a client.
    pub fn issue_for_server(&self, request: &Request, now: Timestamp) -> Result<Pair, Error> {
        let mut params = params(&request.common_name, now, request.valid_for);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(request, params)
    }

    fn sign(&self, request: &Request, mut params: CertificateParams) -> Result<Pair, Error> {
        params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        // Says that it is no authority, and brings the identifier of its own key along.
        params.is_ca = IsCa::ExplicitNoCa;
        for name in &request.dns_names {
            let name = name.as_str().try_into().map_err(failed("use a DNS name"))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        let key = key()?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(failed("sign a leaf"))?;
        Ok(Pair { certificate: leaf.pem(), key: key.serialize_pem() })
    }
}

fn key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make a key"))
}

fn params(common_name: &str, now: Timestamp, valid_for: SignedDuration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = SystemTime::from(now.saturating_sub(BACKDATE).unwrap_or(now)).into();
    params.not_after = SystemTime::from(now.saturating_add(valid_for).unwrap_or(Timestamp::MAX)).into();
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, "Multigres");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A positive random number: two authorities of one name must not share a serial number.
fn serial() -> SerialNumber {
    let mut bytes = rand::random::<[u8; 16]>();
    bytes[0] = (bytes[0] & 0x7f) | 0x01;
    SerialNumber::from_slice(&bytes)
}

fn failed(attempt: &'static str) -> impl FnOnce(rcgen::Error) -> Error {
    move |source| Error::Crypto { attempt, source }
}

/// Returns whether the private key of a pair belongs to its first certificate.
pub fn matches(pair: &Pair) -> bool {
    Certificate::first(&pair.certificate).is_ok_and(|certificate| belongs(&pair.key, &certificate))
}

/// Returns whether a private key belongs to a certificate.
pub(super) fn belongs(key: &str, certificate: &Certificate) -> bool {
    use rcgen::PublicKeyData as _;
    KeyPair::from_pem(key).is_ok_and(|key| key.subject_public_key_info() == certificate.public_key())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    fn request() -> Request {
        Request {
            common_name: "pgbackrest".to_owned(),
            dns_names: ["pgbackrest.prod.svc".to_owned(), "*.pool.prod.svc".to_owned()].into(),
            valid_for: SignedDuration::from_hours(24 * 365),
        }
    }

    fn authority() -> Authority {
        Authority::generate("Multigres CA", now(), SignedDuration::from_hours(24 * 3650)).unwrap()
    }

    #[test]
    fn leaf_has_the_names_and_the_validity_that_were_asked_for() {
        let authority = authority();
        let leaf = authority.issue(&request(), now()).unwrap();
        let parsed = Certificate::first(&leaf.certificate).unwrap();
        assert_eq!(parsed.common_name(), "pgbackrest");
        assert_eq!(*parsed.dns_names(), request().dns_names);
        assert_eq!(parsed.not_before().to_string(), "2026-05-31T23:00:00Z");
        assert_eq!(parsed.not_after().to_string(), "2027-06-01T00:00:00Z");
        assert!(!parsed.is_authority());
        assert!(parsed.signed_by(&Certificate::first(&authority.pair().certificate).unwrap()));
        assert!(belongs(&leaf.key, &parsed));
        assert!(!belongs(&authority.pair().key, &parsed));
    }

    #[test]
    fn stored_authority_keeps_signing() {
        let stored = authority().pair().clone();
        let newest = Certificate::first(&stored.certificate).unwrap();
        assert!(newest.is_authority());
        let leaf = Authority::load(stored).unwrap().issue(&request(), now()).unwrap();
        assert!(Certificate::first(&leaf.certificate).unwrap().signed_by(&newest));
    }

    #[test]
    fn leaf_of_another_authority_of_the_same_name_is_told_apart() {
        let leaf = authority().issue(&request(), now()).unwrap();
        let stranger = Certificate::first(&authority().pair().certificate).unwrap();
        assert!(!Certificate::first(&leaf.certificate).unwrap().signed_by(&stranger));
    }

    /// The Go operator stores keys in this form.
    #[test]
    fn keys_in_the_form_of_the_go_operator_can_be_read() {
        const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIPOg8cvzsPkHbV+mnWY0VM16Fx2LR3SiV1bJCOhirC+SoAoGCCqGSM49
AwEHoUQDQgAEUR5olMqwvyQkio7rEZhf073blUEXZ9CUIILWqmwg+eumvRAx8ZTc
JWpCSGBq2XUeYyXnr6r/lk8BqdGcwkSRhQ==
-----END EC PRIVATE KEY-----
";
        assert!(KeyPair::from_pem(SEC1).is_ok());
    }

    #[test]
    fn key_never_shows_in_debug_output() {
        let text = format!("{:?}", authority().pair());
        assert!(text.contains("BEGIN CERTIFICATE") && !text.contains("PRIVATE KEY"));
    }

    #[test]
    fn serial_numbers_are_positive_and_differ() {
        assert_ne!(serial().to_bytes(), serial().to_bytes());
        assert!((0..100).all(|_| (1..0x80).contains(&serial().to_bytes()[0])));
    }
}
