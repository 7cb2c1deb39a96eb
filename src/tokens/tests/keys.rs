//! Keys for tests, made when they are needed.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use rsa::RsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
use rsa::rand_core::OsRng;
use serde_json::{Map, Value, json};

use crate::tokens::{KeySet, Minter, Settings};

/// A secret that is long enough.
pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A pair of keys.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) private_pem: String,
    pub(crate) public_pem: String,
    /// The public key.
    pub(crate) jwk: Value,
}

/// What stands before the secret number of a key, and before the public one, in their files.
struct Form {
    algorithm: Algorithm,
    private: &'static [u8],
    public: &'static [u8],
    bytes: usize,
}

const P256: Form = Form {
    algorithm: Algorithm::ES256,
    private: b"\x30\x41\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04\x27\x30\x25\x02\x01\x01\x04\x20",
    public: b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04",
    bytes: 32,
};

const P384: Form = Form {
    algorithm: Algorithm::ES384,
    private: b"\x30\x4e\x02\x01\x00\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x04\x37\x30\x35\x02\x01\x01\x04\x30",
    public: b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00\x04",
    bytes: 48,
};

const ED25519: Form = Form {
    algorithm: Algorithm::EdDSA,
    private: b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20",
    public: b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00",
    bytes: 32,
};

/// A key of P-256; `seed` is not 0.
pub(crate) fn p256(seed: u8) -> Pair {
    pair(&P256, seed)
}

/// A key of P-384; `seed` is not 0.
pub(crate) fn p384(seed: u8) -> Pair {
    pair(&P384, seed)
}

/// A key of Ed25519.
pub(crate) fn ed25519(seed: u8) -> Pair {
    pair(&ED25519, seed)
}

/// An RSA key, the same for all tests: finding one takes a while.
pub(crate) fn rsa() -> Pair {
    static KEY: LazyLock<Pair> = LazyLock::new(|| {
        let key = RsaPrivateKey::new(&mut OsRng, 2048).unwrap();
        let private_pem = key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string();
        let public_pem = key.to_public_key().to_public_key_pem(LineEnding::LF).unwrap();
        let signs = EncodingKey::from_rsa_pem(private_pem.as_bytes()).unwrap();
        Pair { private_pem, public_pem, jwk: jwk_of(&signs, Algorithm::RS256) }
    });
    KEY.clone()
}

fn pair(form: &Form, seed: u8) -> Pair {
    let private = [form.private, &vec![seed; form.bytes]].concat();
    let private_pem = pem("PRIVATE KEY", &private);
    let key = match form.algorithm {
        Algorithm::EdDSA => EncodingKey::from_ed_pem(private_pem.as_bytes()),
        _ => EncodingKey::from_ec_pem(private_pem.as_bytes()),
    };
    let jwk = jwk_of(&key.unwrap(), form.algorithm);
    let number =
        |name: &str| jwk.get(name).map_or(Vec::new(), |x| URL_SAFE_NO_PAD.decode(x.as_str().unwrap()).unwrap());
    let public_pem = pem("PUBLIC KEY", &[form.public, &number("x"), &number("y")].concat());
    Pair { private_pem, public_pem, jwk }
}

fn jwk_of(key: &EncodingKey, algorithm: Algorithm) -> Value {
    serde_json::to_value(Jwk::from_encoding_key(key, algorithm).unwrap()).unwrap()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// A key set of these keys with these names.
pub(crate) fn jwks(keys: &[(&str, &Pair)]) -> String {
    let named = keys.iter().map(|(id, pair)| {
        let mut jwk = pair.jwk.clone();
        jwk["kid"] = json!(id);
        jwk
    });
    json!({ "keys": named.collect::<Vec<_>>() }).to_string()
}

/// Settings with these keys and nothing else.
pub(crate) fn settings(keys: KeySet) -> Settings {
    Settings {
        keys,
        jwks: None,
        audience: Vec::new(),
        issuer: Vec::new(),
        user_claim: String::from("sub"),
        leeway: std::time::Duration::from_secs(5),
    }
}

/// Claims of an object.
pub(crate) fn claims(object: &Value) -> Map<String, Value> {
    object.as_object().unwrap().clone()
}

/// A token that is signed with the secret.
pub(crate) fn token(object: &Value) -> String {
    Minter::secret(SECRET, None).unwrap().mint(&claims(object))
}
