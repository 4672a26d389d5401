//! The handshake, by rustls: TLS 1.3, ALPN h2, certificates on both ends, no resumption (a resumed session would not
//! verify the peer again). After it the traffic secrets go to `record.rs`.
use crate::keys::{HandshakeKey, Key};
use crate::record::{Cipher, Keys};
use crate::spiffe::{Peer, PeerEnd, PeerError, Trust};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, Resumption};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ServerConnection;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, Connection, DigitallySignedStruct, DistinguishedName, Error, KeyLog, ServerConfig,
    SignatureScheme,
};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

/// A certificate chain with its key, as it is presented.
#[derive(Debug)]
pub struct Certificate {
    pub identity: Arc<str>,
    /// When the first of the chain expires, seconds since 1970.
    pub not_after: u64,
    certified: Arc<CertifiedKey>,
}

impl Certificate {
    /// DER, leaf first. Fails when the leaf is not for this key or names another identity.
    pub fn new(identity: &str, chain: Vec<Vec<u8>>, key: &Arc<Key>) -> Result<Self, String> {
        let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(CertificateDer::from).collect();
        let stated = crate::spiffe::describe(&chain)?;
        if stated.identity != identity {
            return Err(format!("the certificate is for {}, not for {identity}", stated.identity));
        }
        if chain.first().and_then(crate::spiffe::public_key).as_deref() != Some(key.public()) {
            return Err(format!("the certificate of {identity} is for another key"));
        }
        let certified = Arc::new(CertifiedKey::new(chain, Arc::new(HandshakeKey(key.clone()))));
        Ok(Self { identity: identity.into(), not_after: stated.not_after, certified })
    }
}

/// A handshake under way.
pub struct Handshake {
    connection: Connection,
    witness: Arc<Witness>,
}

/// What a finished handshake leaves behind.
pub struct Established {
    pub tx: Keys,
    pub rx: Keys,
    pub peer: Peer,
    /// Its certificates as presented, leaf first, to look them up in later revocation lists.
    pub peer_chain: Vec<CertificateDer<'static>>,
}

/// Why a handshake failed, and how that counts.
#[derive(Clone, Debug)]
pub struct HandshakeError {
    pub message: String,
    /// Value of the `response_flags` label.
    pub flag: &'static str,
}

impl Handshake {
    /// Towards a peer that must present one of `expected`.
    pub fn client(own: &Certificate, trust: Arc<Trust>, expected: Vec<String>) -> Result<Self, HandshakeError> {
        let witness = Arc::new(Witness::default());
        let verifier = Arc::new(Verifier { trust, expected, end: PeerEnd::Server, witness: witness.clone() });
        let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(internal)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.key_log = witness.clone();
        let connection = ClientConnection::new(Arc::new(config), PLACEHOLDER.clone()).map_err(internal)?;
        Ok(Self { connection: connection.into(), witness })
    }

    /// For any peer of a trusted domain; who may talk to whom is decided per CONNECT.
    pub fn server(own: &Certificate, trust: Arc<Trust>) -> Result<Self, HandshakeError> {
        let witness = Arc::new(Witness::default());
        let verifier = Arc::new(Verifier { trust, expected: vec![], end: PeerEnd::Client, witness: witness.clone() });
        let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(internal)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.key_log = witness.clone();
        let connection = ServerConnection::new(Arc::new(config)).map_err(internal)?;
        Ok(Self { connection: connection.into(), witness })
    }

    /// Feeds one whole record (one, lest rustls decrypt what belongs to us). True when the handshake is done.
    pub fn feed(&mut self, mut record: &[u8]) -> Result<bool, HandshakeError> {
        while !record.is_empty() {
            match self.connection.read_tls(&mut record) {
                Ok(0) => break,
                Ok(_) => {}
                Err(why) => return Err(HandshakeError { message: why.to_string(), flag: "TLS_FAILURE" }),
            }
        }
        match self.connection.process_new_packets() {
            Ok(_) => Ok(!self.connection.is_handshaking()),
            Err(why) => Err(self.explain(&why)),
        }
    }

    /// Moves what is to be sent to `out`.
    pub fn output(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            if self.connection.write_tls(out).is_err() {
                break;
            }
        }
    }

    pub fn finish(self) -> Result<Established, HandshakeError> {
        if self.connection.alpn_protocol() != Some(ALPN) {
            let message = "the peer does not speak HTTP/2 (no ALPN h2)".to_owned();
            return Err(HandshakeError { message, flag: "H2_HANDSHAKE_FAILURE" });
        }
        let established = || {
            let cipher = match self.connection.negotiated_cipher_suite()?.suite() {
                rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => Cipher::Aes128Gcm,
                rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => Cipher::Aes256Gcm,
                _ => return None,
            };
            let secrets = self.witness.secrets.lock().ok()?;
            let client = Keys::new(cipher, &secrets.client)?;
            let server = Keys::new(cipher, &secrets.server)?;
            let (tx, rx) =
                if matches!(self.connection, Connection::Client(_)) { (client, server) } else { (server, client) };
            let peer = self.witness.verdict.get()?.as_ref().ok()?.clone();
            let peer_chain = self.connection.peer_certificates()?.iter().map(|der| der.clone().into_owned()).collect();
            Some(Established { tx, rx, peer, peer_chain })
        };
        established().ok_or_else(|| internal(Error::General("the handshake left no secrets".into())))
    }

    /// The verifier's own words are better than the alert they became.
    fn explain(&self, why: &Error) -> HandshakeError {
        if let Some(Err(refused)) = self.witness.verdict.get() {
            let flag = match refused {
                PeerError::Revoked(_) => "CERT_REVOKED",
                PeerError::Unexpected { .. } | PeerError::NoIdentity(_) | PeerError::UnknownTrustDomain(_) => {
                    "IDENTITY_ERROR"
                }
                PeerError::Expired(_) | PeerError::Untrusted(..) => "TLS_FAILURE",
            };
            return HandshakeError { message: refused.to_string(), flag };
        }
        HandshakeError { message: format!("TLS handshake failed: {why}"), flag: "TLS_FAILURE" }
    }
}

fn internal(why: Error) -> HandshakeError {
    HandshakeError { message: format!("TLS set-up failed: {why}"), flag: "TLS_FAILURE" }
}

/// Sees one handshake: its traffic secrets and what became of the peer's certificate.
#[derive(Default)]
struct Witness {
    secrets: Mutex<Secrets>,
    verdict: OnceLock<Result<Peer, PeerError>>,
}

#[derive(Default)]
struct Secrets {
    client: Vec<u8>,
    server: Vec<u8>,
}

impl KeyLog for Witness {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let Ok(mut secrets) = self.secrets.lock() else { return };
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => secrets.client = secret.to_vec(),
            "SERVER_TRAFFIC_SECRET_0" => secrets.server = secret.to_vec(),
            _ => {}
        }
    }
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        out.write_str("Witness([redacted])")
    }
}

#[derive(Debug)]
struct Verifier {
    trust: Arc<Trust>,
    expected: Vec<String>,
    end: PeerEnd,
    witness: Arc<Witness>,
}

impl Verifier {
    fn verify(&self, leaf: &CertificateDer, intermediates: &[CertificateDer], now: UnixTime) -> Result<(), Error> {
        let verdict = self.trust.verify(leaf, intermediates, now, self.end).and_then(|peer| match self.end {
            PeerEnd::Server if !self.expected.contains(&peer.identity) => {
                Err(PeerError::Unexpected { presented: peer.identity, expected: self.expected.clone() })
            }
            _ => Ok(peer),
        });
        let result = verdict.as_ref().map(|_| ()).map_err(|why| Error::InvalidCertificate(alert_of(why)));
        let _ = self.witness.verdict.set(verdict);
        result
    }
}

/// Decides which alert the peer sees.
fn alert_of(why: &PeerError) -> CertificateError {
    match why {
        PeerError::Expired(_) => CertificateError::Expired,
        PeerError::Revoked(_) => CertificateError::Revoked,
        PeerError::UnknownTrustDomain(_) | PeerError::Untrusted(..) => CertificateError::UnknownIssuer,
        PeerError::NoIdentity(_) | PeerError::Unexpected { .. } => CertificateError::ApplicationVerificationFailure,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

const ALPN: &[u8] = b"h2";

/// rustls wants a name; the verifier looks at the SPIFFE id instead.
static PLACEHOLDER: LazyLock<ServerName<'static>> =
    LazyLock::new(|| ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into()));

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384];
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    Arc::new(provider)
});
