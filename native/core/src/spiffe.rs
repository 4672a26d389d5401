//! Whom to believe: SPIFFE identities, the roots that may vouch for a trust domain, and revocation.
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::collections::HashMap;
use std::sync::Arc;
use webpki::{
    CertRevocationList, EndEntityCert, ExtendedKeyUsageValidator, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The roots per trust domain, and what has been revoked.
#[derive(Debug, Default)]
pub struct Trust {
    anchors: HashMap<String, Vec<TrustAnchor<'static>>>,
    revocations: Vec<Arc<CertRevocationList<'static>>>,
}

/// A verified peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub identity: String,
    /// When the first certificate of its verified path expires, seconds since 1970.
    pub not_after: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// Not a certificate, or not with exactly one SPIFFE id.
    NoIdentity(String),
    /// No roots are known for its trust domain.
    UnknownTrustDomain(String),
    Expired(String),
    Revoked(String),
    /// The chain does not lead to a root of its trust domain, or is wrong otherwise.
    Untrusted(String, String),
    /// A good certificate of somebody else.
    Unexpected {
        presented: String,
        expected: Vec<String>,
    },
}

impl Trust {
    /// `anchors` are pairs of trust domain and DER roots. A bad root fails the whole set.
    pub fn with_anchors(&self, anchors: &[(String, Vec<Vec<u8>>)]) -> Result<Self, String> {
        let mut parsed: HashMap<String, Vec<TrustAnchor<'static>>> = HashMap::new();
        for (domain, roots) in anchors {
            let of_domain = parsed.entry(domain.clone()).or_default();
            for (number, root) in roots.iter().enumerate() {
                let der = CertificateDer::from(&root[..]);
                let anchor = webpki::anchor_from_trusted_cert(&der);
                let anchor =
                    anchor.map_err(|why| format!("root {number} of trust domain {domain} is no certificate: {why}"))?;
                of_domain.push(anchor.to_owned());
            }
        }
        Ok(Self { anchors: parsed, revocations: self.revocations.clone() })
    }

    pub fn with_revocations(&self, crls: &[Vec<u8>]) -> Result<Self, String> {
        let parse = |(number, der): (usize, &Vec<u8>)| {
            let owned = OwnedCertRevocationList::from_der(der);
            owned
                .map(|list| Arc::new(CertRevocationList::from(list)))
                .map_err(|why| format!("revocation list {number} cannot be read: {why}"))
        };
        let revocations = crls.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { anchors: self.anchors.clone(), revocations })
    }

    /// Verifies a presented chain against the roots of the trust domain that its leaf names.
    pub fn verify(
        &self,
        leaf: &CertificateDer,
        intermediates: &[CertificateDer],
        now: UnixTime,
        end: PeerEnd,
    ) -> Result<Peer, PeerError> {
        let certificate =
            EndEntityCert::try_from(leaf).map_err(|why| PeerError::NoIdentity(format!("no certificate: {why}")))?;
        let identity = only_spiffe_id(certificate.valid_uri_names())?;
        let domain = trust_domain(&identity).unwrap_or_default();
        let anchors = self.anchors.get(domain).ok_or_else(|| PeerError::UnknownTrustDomain(identity.clone()))?;
        let crls: Vec<&CertRevocationList> = self.revocations.iter().map(Arc::as_ref).collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options.with_depth(RevocationCheckDepth::Chain).with_status_policy(UnknownStatusPolicy::Allow).build()
        });
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let path = certificate
            .verify_for_usage(algorithms, anchors, intermediates, now, end, revocation, None)
            .map_err(|why| explain(why, &identity))?;
        let upper = path.intermediate_certificates().map(|certificate| not_after(&certificate.der()));
        let not_after = upper.fold(not_after(leaf), u64::min);
        Ok(Peer { identity, not_after })
    }
}

/// Which end of the handshake the peer is.
#[derive(Clone, Copy, Debug)]
pub enum PeerEnd {
    Client,
    Server,
}

impl ExtendedKeyUsageValidator for PeerEnd {
    fn validate(&self, iter: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        match self {
            PeerEnd::Client => KeyUsage::client_auth().validate(iter),
            PeerEnd::Server => KeyUsage::server_auth().validate(iter),
        }
    }
}

impl std::fmt::Display for PeerError {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            PeerError::NoIdentity(why) => write!(out, "the peer presented no SPIFFE identity ({why})"),
            PeerError::UnknownTrustDomain(id) => write!(out, "no roots are known for the trust domain of {id}"),
            PeerError::Expired(id) => {
                write!(out, "the certificate of {id} (or of its issuer) has expired or is not valid yet")
            }
            PeerError::Revoked(id) => write!(out, "the certificate of {id} (or of its issuer) is revoked"),
            PeerError::Untrusted(id, why) => {
                write!(out, "the certificate of {id} is not signed by a root of its trust domain ({why})")
            }
            PeerError::Unexpected { presented, expected } => {
                write!(out, "the peer is {presented}, expected was {}", expected.join(" or "))
            }
        }
    }
}

/// `td` of `spiffe://td/path`.
pub fn trust_domain(identity: &str) -> Option<&str> {
    let (domain, path) = identity.strip_prefix("spiffe://")?.split_once('/')?;
    let good = !path.is_empty() && !domain.is_empty();
    (good && domain.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')))
        .then_some(domain)
}

/// Whether it is `spiffe://td/ns/NAMESPACE/sa/ACCOUNT`, the only shape that policy knows how to read.
fn names_a_workload(identity: &str) -> bool {
    let Some(path) = trust_domain(identity).and_then(|domain| identity.get("spiffe://".len() + domain.len()..)) else {
        return false;
    };
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(allowed);
    matches!(path.split('/').collect::<Vec<_>>()[..], ["", "ns", namespace, "sa", account] if is_name(namespace) && is_name(account))
}

/// The identity and the expiry that our own chain states; for certificates that we present.
pub fn describe(chain: &[CertificateDer]) -> Result<Peer, String> {
    let leaf = chain.first().ok_or("the chain is empty")?;
    let certificate = EndEntityCert::try_from(leaf).map_err(|why| format!("the leaf is no certificate: {why}"))?;
    let identity = only_spiffe_id(certificate.valid_uri_names()).map_err(|why| why.to_string())?;
    let not_after = chain.iter().map(|certificate| not_after(certificate)).min().unwrap_or(0);
    Ok(Peer { identity, not_after })
}

/// SubjectPublicKeyInfo of a certificate, DER.
pub fn public_key(certificate: &CertificateDer) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.tbs_certificate.subject_pki.raw.to_vec())
}

fn only_spiffe_id<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<String, PeerError> {
    match (names.next(), names.next()) {
        (None, _) => Err(PeerError::NoIdentity("its certificate has no URI name".into())),
        (Some(_), Some(_)) => Err(PeerError::NoIdentity("its certificate has more than one URI name".into())),
        (Some(name), None) if !names_a_workload(name) || name.len() > MAX_IDENTITY => {
            Err(PeerError::NoIdentity(format!("{:.200} is no SPIFFE id of a workload", name)))
        }
        (Some(name), None) => Ok(name.to_owned()),
    }
}

fn not_after(der: &[u8]) -> u64 {
    let parsed = X509Certificate::from_der(der);
    parsed.map_or(0, |(_, certificate)| certificate.validity().not_after.timestamp().max(0) as u64)
}

fn explain(why: webpki::Error, identity: &str) -> PeerError {
    use webpki::Error::{CertExpired, CertNotValidYet, CertRevoked};
    match why {
        CertExpired { .. } | CertNotValidYet { .. } => PeerError::Expired(identity.into()),
        CertRevoked => PeerError::Revoked(identity.into()),
        other => PeerError::Untrusted(identity.into(), other.to_string()),
    }
}

/// As the SPIFFE standard limits it.
const MAX_IDENTITY: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_trust_domain() {
        assert_eq!(trust_domain("spiffe://cluster.local/ns/a/sa/b"), Some("cluster.local"));
        for bad in
            ["", "spiffe://", "spiffe:///ns", "https://cluster.local/ns", "spiffe://cluster.local", "spiffe://A/b"]
        {
            assert_eq!(trust_domain(bad), None, "{bad}");
        }
    }

    #[test]
    fn knows_a_workload_by_its_shape() {
        for good in ["spiffe://cluster.local/ns/a/sa/b", "spiffe://td/ns/kube-system/sa/a.b-c1"] {
            assert!(names_a_workload(good), "{good}");
        }
        for bad in [
            "",
            "spiffe://td/",
            "spiffe://td/x",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns//sa/b",
        ] {
            assert!(!names_a_workload(bad), "{bad}");
        }
        for bad in
            ["spiffe://td/ns/A/sa/b", "spiffe://td/ns/a/sa/b c", "spiffe://td/ns/a/sa/*", "spiffe://td//ns/a/sa/b"]
        {
            assert!(!names_a_workload(bad), "{bad}");
        }
    }
}
