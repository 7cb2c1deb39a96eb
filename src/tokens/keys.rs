//! Keys that tokens are checked with. What a key may be used for follows from what it is.

use std::convert::Infallible;
use std::path::Path;
use std::str::FromStr;
use std::{fmt, io};

use jsonwebtoken::crypto::verify;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Keys of one set. A token that names no key is tried with every one that fits, so this bounds the work for it.
const KEYS_MAX: usize = 32;

/// Bytes of a shared secret at least, which RFC 7518 §3.2 asks for with HS256: shorter ones can be guessed from any token.
const SECRET_BYTES_MIN: usize = 32;

/// Bytes of an RSA modulus: at least those that RFC 7518 §3.3 asks for, at most those that the library computes with.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// Bytes of an Ed25519 key.
const ED25519_BYTES: usize = 32;

/// Why something is no key to check tokens with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A secret that can be guessed.
    #[error("the secret has {0} bytes; at least {SECRET_BYTES_MIN} are needed, or it can be guessed from any token")]
    ShortSecret(usize),
    /// It has to be public.
    #[error("it holds a private key; tokens are checked with the public one (`openssl pkey -in FILE -pubout`)")]
    Private,
    /// Not PEM, or a kind of key that is not taken.
    #[error("it holds no public key in PEM that is RSA, P-256, P-384 or Ed25519")]
    Pem,
    /// An RSA key that is too short or too long.
    #[error("it is an RSA key of {0} bits; 2048 to 4096 are taken")]
    RsaBits(usize),
    /// Not a key set.
    #[error("it is no JSON Web Key Set: {0}")]
    Jwks(String),
    /// Nothing in the set can be used.
    #[error(
        "of the {0} keys in it none can check tokens: RSA, P-256, P-384 and Ed25519 keys can, and secrets in files"
    )]
    NoneUsable(usize),
    /// More keys than are looked through.
    #[error("it has {0} keys; at most {KEYS_MAX} are taken")]
    TooMany(usize),
}

/// A secret that is shared with whoever makes tokens. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Reads it from a file. The end of its line is not part of it.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut secret = std::fs::read(path)?;
        for end in [b'\n', b'\r'] {
            secret.pop_if(|last| *last == end);
        }
        Ok(Self(secret))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A key with what it may be used for.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// `kid`.
    id: Option<String>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// Keys that tokens are checked with.
#[derive(Debug, Clone, Default)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// A secret that is shared with whoever makes the tokens: HS256, HS384, HS512.
    ///
    /// # Errors
    /// If it is too short.
    pub fn secret(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        let algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        Ok(Self(vec![Key { id: None, algorithms, key: DecodingKey::from_secret(secret) }]))
    }

    /// A public key in PEM (`PUBLIC KEY` or `RSA PUBLIC KEY`). Its kind says which algorithms are taken.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn public_pem(pem: &[u8]) -> Result<Self, KeyError> {
        if pem.windows(11).any(|part| part == b"PRIVATE KEY") {
            return Err(KeyError::Private);
        }
        let key = DecodingKey::from_rsa_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .map_err(|_| KeyError::Pem)?;
        let jwk = Jwk::from_decoding_key(&key, None).map_err(|_| KeyError::Pem)?;
        Ok(Self(vec![Key::new(&jwk, false).unwrap_or(Err(KeyError::Pem))?]))
    }

    /// A JSON Web Key Set. Keys in it that are for something else, or of a kind that is not known, are passed over; so are
    /// secrets, unless the set `may_hold_secrets`: what is published is none.
    ///
    /// # Errors
    /// If it is none, or nothing in it can be used.
    pub fn jwks(text: &[u8], may_hold_secrets: bool) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Box<RawValue>>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|error| KeyError::Jwks(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeyError::TooMany(set.keys.len()));
        }
        let read = set.keys.iter().filter_map(|key| serde_json::from_str::<Jwk>(key.get()).ok());
        let usable: Vec<Key> = read.filter_map(|jwk| Key::new(&jwk, may_hold_secrets)?.ok()).collect();
        if usable.is_empty() { Err(KeyError::NoneUsable(set.keys.len())) } else { Ok(Self(usable)) }
    }

    /// Adds the keys of another set.
    pub fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The keys that a token with this header may have been signed with: the ones that it names, or those without a name.
    pub(super) fn for_header<'a>(&'a self, id: Option<&'a str>) -> impl Iterator<Item = &'a Key> {
        self.0.iter().filter(move |key| match (id, key.id.as_deref()) {
            (Some(asked), Some(own)) => asked == own,
            _ => true,
        })
    }
}

impl Key {
    /// A key that can check signatures; `None` if it is for something else, or of a kind that is not known.
    fn new(jwk: &Jwk, may_be_secret: bool) -> Option<Result<Self, KeyError>> {
        if jwk.common.public_key_use.as_ref().is_some_and(|meant| *meant != PublicKeyUse::Signature) {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::OctetKey(_) if !may_be_secret => return None,
            AlgorithmParameters::OctetKey(_) => {
                let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
                if bytes < SECRET_BYTES_MIN {
                    return Some(Err(KeyError::ShortSecret(bytes)));
                }
                vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512]
            }
            AlgorithmParameters::RSA(_) => {
                let modulus = modulus_bytes(&key);
                if !MODULUS_BYTES.contains(&modulus) {
                    return Some(Err(KeyError::RsaBits(modulus * 8)));
                }
                vec![Algorithm::RS256, Algorithm::RS384, Algorithm::RS512]
            }
            AlgorithmParameters::EllipticCurve(parameters) => vec![match parameters.curve {
                EllipticCurve::P256 => Algorithm::ES256,
                EllipticCurve::P384 => Algorithm::ES384,
                _ => return None,
            }],
            AlgorithmParameters::OctetKeyPair(parameters) => {
                // The library would read beyond the end of a shorter one.
                let is_whole = key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == ED25519_BYTES);
                if parameters.curve != EllipticCurve::Ed25519 || !is_whole {
                    return None;
                }
                vec![Algorithm::EdDSA]
            }
            _ => return None,
        };
        // A key that says what it is for is used for nothing else.
        if let Some(meant) = jwk.common.key_algorithm {
            let meant = Algorithm::try_from(meant).ok()?;
            algorithms.retain(|algorithm| *algorithm == meant);
        }
        let first = *algorithms.first()?;
        // A point that is not on its curve is found now and not with every token.
        verify("", b"", &key, first).ok()?;
        Some(Ok(Self { id: jwk.common.key_id.clone(), algorithms, key }))
    }
}

/// Bytes of the modulus of an RSA key that was given by its numbers.
fn modulus_bytes(key: &DecodingKey) -> usize {
    match key.kind() {
        jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } => {
            n.len() - n.iter().take_while(|byte| **byte == 0).count()
        }
        jsonwebtoken::DecodingKeyKind::SecretOrDer(_) => 0,
    }
}
