//! Private keys: made here, used here, never shown.
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use std::sync::Arc;

/// An ECDSA P-256 key.
pub struct Key {
    pair: EcdsaKeyPair,
    /// SubjectPublicKeyInfo, DER.
    public: Vec<u8>,
}

impl Key {
    pub fn generate() -> Result<Arc<Self>, String> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| "cannot make a P-256 key")?;
        Self::of(pair)
    }

    /// For static set-ups, where the key comes from a file.
    pub fn from_der(der: &PrivateKeyDer) -> Result<Arc<Self>, String> {
        let PrivateKeyDer::Pkcs8(pkcs8) = der else { return Err("the private key is not PKCS#8".into()) };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.secret_pkcs8_der())
            .map_err(|why| format!("the private key is not ECDSA P-256: {why}"))?;
        Self::of(pair)
    }

    fn of(pair: EcdsaKeyPair) -> Result<Arc<Self>, String> {
        let public: PublicKeyX509Der = pair.public_key().as_der().map_err(|_| "cannot encode the public key")?;
        let public = public.as_ref().to_vec();
        Ok(Arc::new(Self { pair, public }))
    }

    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// ECDSA with SHA-256, DER.
    pub fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.pair.sign(&SystemRandom::new(), bytes).ok().map(|signature| signature.as_ref().to_vec())
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        out.write_str("Key([redacted])")
    }
}

/// The key as rustls wants it.
#[derive(Clone, Debug)]
pub struct HandshakeKey(pub Arc<Key>);

impl SigningKey for HandshakeKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.0.public()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for HandshakeKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sign(message).ok_or_else(|| Error::General("signing failed".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
