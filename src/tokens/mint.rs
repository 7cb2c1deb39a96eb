//! Makes tokens, for operators and tests. Services make theirs with the JWT library of their language.

use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header, encode};
use serde_json::{Map, Value};

use super::keys::{KeyError, KeySet};

/// Why no token can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The key can't be used.
    #[error(transparent)]
    Secret(#[from] KeyError),
    /// Not a private key.
    #[error(
        "it holds no private key in PEM that is RSA, P-256, P-384 or Ed25519, as PKCS#8 (`openssl pkcs8 -topk8 -nocrypt`)"
    )]
    Pem,
    /// The key is of another kind.
    #[error("{0} can't be signed with that key")]
    Algorithm(String),
    /// No algorithm that is known.
    #[error("there is no algorithm {0}; there are HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384 and EdDSA")]
    UnknownAlgorithm(String),
}

/// Makes tokens with one key.
#[derive(Debug, Clone)]
pub struct Minter {
    key: EncodingKey,
    header: Header,
}

impl Minter {
    /// Signs with a shared secret; with HS256 unless told otherwise.
    ///
    /// # Errors
    /// If it is too short to be taken by a gateway, or the algorithm is not for secrets.
    pub fn secret(secret: &[u8], algorithm: Option<&str>) -> Result<Self, MintError> {
        KeySet::secret(secret)?;
        Self::new(EncodingKey::from_secret(secret), algorithm)
    }

    /// Signs with a private key in PEM; with RS256, ES256, ES384 or EdDSA as the key is, unless told otherwise.
    ///
    /// # Errors
    /// If it is no such key, or the algorithm is for others.
    pub fn private_pem(pem: &[u8], algorithm: Option<&str>) -> Result<Self, MintError> {
        let key = EncodingKey::from_ec_pem(pem)
            .or_else(|_| EncodingKey::from_ed_pem(pem))
            .or_else(|_| EncodingKey::from_rsa_pem(pem))
            .map_err(|_| MintError::Pem)?;
        Self::new(key, algorithm)
    }

    fn new(key: EncodingKey, algorithm: Option<&str>) -> Result<Self, MintError> {
        let possible: &[Algorithm] = match key.family() {
            AlgorithmFamily::Hmac => &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512],
            AlgorithmFamily::Rsa => &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512],
            AlgorithmFamily::Ec => &[Algorithm::ES256, Algorithm::ES384],
            AlgorithmFamily::Ed => &[Algorithm::EdDSA],
        };
        let asked = match algorithm {
            Some(name) => vec![name.parse().map_err(|_| MintError::UnknownAlgorithm(name.to_owned()))?],
            None => possible.to_vec(),
        };
        // Whether a curve fits, only signing shows.
        let fits = |algorithm: &Algorithm| {
            possible.contains(algorithm) && encode(&Header::new(*algorithm), &Map::new(), &key).is_ok()
        };
        let Some(algorithm) = asked.into_iter().find(fits) else {
            return Err(algorithm.map_or(MintError::Pem, |name| MintError::Algorithm(name.to_owned())));
        };
        Ok(Self { key, header: Header::new(algorithm) })
    }

    /// Names the key in the tokens.
    #[must_use]
    pub fn key_id(mut self, id: Option<String>) -> Self {
        self.header.kid = id;
        self
    }

    /// The name of the algorithm.
    pub fn algorithm(&self) -> String {
        format!("{:?}", self.header.alg)
    }

    /// A token with these claims.
    pub fn mint(&self, claims: &Map<String, Value>) -> String {
        encode(&self.header, claims, &self.key).expect("a key that signed once signs again")
    }
}
