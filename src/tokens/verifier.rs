//! Checks a token: its form, its key, its signature, its time, its audience; then reads what it grants.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::Grant;
use super::claims::Claims;
use super::jwks::{Jwks, JwksSource};
use super::keys::KeySet;
use crate::clock;

/// Bytes of a token at most. Tokens with long lists take 2 KiB; beyond this a request line would not fit.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// How tokens are checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Keys that do not change.
    pub keys: KeySet,
    /// Where keys come from that change.
    pub jwks: Option<JwksSource>,
    /// A token has to be for one of these, if there are any.
    pub audience: Vec<String>,
    /// A token has to be from one of these, if there are any.
    pub issuer: Vec<String>,
    /// Which claim names the user.
    pub user_claim: String,
    /// By how much the clock of whoever makes the tokens may differ from this one.
    pub leeway: Duration,
}

/// Checks tokens.
#[derive(Debug)]
pub struct Verifier {
    settings: Settings,
    jwks: Option<Jwks>,
    validation: Validation,
}

/// Why a token is not taken. In words for whoever sent it; never with a part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is longer than any proper one.
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLarge,
    /// It is no JWT.
    #[error("the token is no JWT")]
    Malformed,
    /// It is not signed, or not in a way that the keys here allow.
    #[error("the token is not signed with an algorithm that the keys of this gateway are for")]
    Algorithm,
    /// It names a key that is not there.
    #[error("the token names a key that this gateway does not know")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the signature of the token is wrong")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// It is from somebody else.
    #[error("the token is from another issuer")]
    Issuer,
    /// A claim is missing or makes no sense.
    #[error("the claim `{claim}` of the token {rule}")]
    Claim {
        /// Its name.
        claim: String,
        /// What it has to be.
        rule: &'static str,
    },
    /// It is of somebody else than its bearer claims to be.
    #[error("the token is another user's")]
    OtherUser,
    /// Nothing was shown.
    #[error(
        "a token is needed: as `Authorization: Bearer`, as ?token=, as the subprotocol bearer.TOKEN, or in the `connect` frame"
    )]
    Missing,
    /// Nothing is there to check it with.
    #[error("no client authentication is configured on this gateway, so it can't check a token; connect with ?user=")]
    NotConfigured,
    /// There are no keys to check it with, for now.
    #[error("the gateway has no keys to check the token with yet; try again")]
    NoKeys,
}

impl Refused {
    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Audience => "audience",
            Self::Issuer => "issuer",
            Self::Claim { .. } => "claim",
            Self::OtherUser => "other_user",
            Self::Missing => "missing",
            Self::NotConfigured => "not_configured",
            Self::NoKeys => "no_keys",
        }
    }

    /// Whether the same token may be taken later.
    pub fn is_temporary(&self) -> bool {
        *self == Self::NoKeys
    }
}

/// What of the header is looked at before a key is chosen.
#[derive(Deserialize)]
struct Head {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that have to be understood. None is.
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

impl Verifier {
    /// A verifier; `process` names it in metrics. Keys that change are there when [`Self::keep_keys`] runs.
    pub fn new(settings: Settings, process: &Arc<str>) -> Self {
        // Times are looked at here, by the one clock of the process.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        validation.validate_aud = !settings.audience.is_empty();
        if !settings.audience.is_empty() {
            validation.set_audience(&settings.audience);
            validation.required_spec_claims.insert(String::from("aud"));
        }
        if !settings.issuer.is_empty() {
            validation.set_issuer(&settings.issuer);
            validation.required_spec_claims.insert(String::from("iss"));
        }
        let jwks = settings.jwks.clone().map(|source| Jwks::new(source, process));
        Self { settings, jwks, validation }
    }

    /// Reads keys again after so short a pause.
    #[cfg(test)]
    pub(super) fn pausing(mut self, pause_min: Duration) -> Self {
        self.jwks = self.jwks.map(|jwks| jwks.pausing(pause_min));
        self
    }

    /// Keeps the keys that change. Ends at once where there are none.
    pub async fn keep_keys(&self) {
        if let Some(jwks) = &self.jwks {
            jwks.keep().await;
        }
    }

    /// Checks a token. Where it names a key that is not known, the keys may have changed: they are asked for anew, at most
    /// once in a while, and waited for.
    ///
    /// # Errors
    /// If it is not taken.
    pub async fn verify(&self, token: &str) -> Result<Grant, Refused> {
        let refused = match self.check(token, clock::wall_ms()) {
            Err(refused @ (Refused::UnknownKey | Refused::NoKeys)) => refused,
            settled => return settled,
        };
        match &self.jwks {
            Some(jwks) if jwks.renewed().await => self.check(token, clock::wall_ms()),
            _ => Err(refused),
        }
    }

    /// Checks a token with the keys that are there, at a moment.
    pub(super) fn check(&self, token: &str, now_ms: u64) -> Result<Grant, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        let head = head(token)?;
        let algorithm = Algorithm::from_str(&head.alg).map_err(|_| Refused::Algorithm)?;
        let changing = self.jwks.as_ref().and_then(Jwks::keys);
        let is_waiting = self.jwks.is_some() && changing.is_none();
        let keys = [Some(&self.settings.keys), changing.as_deref()];
        let named: Vec<_> = keys.into_iter().flatten().flat_map(|keys| keys.for_header(head.kid.as_deref())).collect();
        let mut refused = match (named.is_empty(), is_waiting) {
            (_, true) => Refused::NoKeys,
            (true, false) => Refused::UnknownKey,
            (false, false) => Refused::Algorithm,
        };
        for key in named.into_iter().filter(|key| key.algorithms.contains(&algorithm)) {
            match self.claims(token, algorithm, &key.key) {
                Ok(claims) => return self.grant(claims, now_ms),
                Err(Refused::Signature) if is_waiting => {}
                Err(Refused::Signature) => refused = Refused::Signature,
                Err(other) => return Err(other),
            }
        }
        Err(refused)
    }

    /// The claims, if this key signed them, and they are from whom and for whom they have to be.
    fn claims(&self, token: &str, algorithm: Algorithm, key: &DecodingKey) -> Result<Claims, Refused> {
        let mut validation = self.validation.clone();
        validation.algorithms = vec![algorithm];
        let decoded = decode::<Map<String, Value>>(token, key, &validation);
        let wrong = |claim: &str, rule| Refused::Claim { claim: claim.to_owned(), rule };
        decoded.map(|decoded| Claims(decoded.claims)).map_err(|error| match error.kind() {
            ErrorKind::InvalidAudience => Refused::Audience,
            ErrorKind::InvalidIssuer => Refused::Issuer,
            ErrorKind::MissingRequiredClaim(claim) => wrong(claim, "is missing"),
            ErrorKind::InvalidClaimFormat(claim) => wrong(claim, "can't be read"),
            ErrorKind::InvalidAlgorithm => Refused::Algorithm,
            ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
                Refused::Malformed
            }
            _ => Refused::Signature,
        })
    }

    /// What is granted at this moment.
    fn grant(&self, mut claims: Claims, now_ms: u64) -> Result<Grant, Refused> {
        let leeway_ms = u64::try_from(self.settings.leeway.as_millis()).unwrap_or(u64::MAX);
        if claims.not_before_ms()?.is_some_and(|begins_ms| now_ms.saturating_add(leeway_ms) < begins_ms) {
            return Err(Refused::NotYetValid);
        }
        // Who comes in the leeway gets all of it, rather than being sent away at once.
        let expires_ms = claims.expires_ms()?.map(|exp| if now_ms < exp { exp } else { exp.saturating_add(leeway_ms) });
        if expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) {
            return Err(Refused::Expired);
        }
        claims.grant(&self.settings.user_claim, expires_ms)
    }
}

fn head(token: &str) -> Result<Head, Refused> {
    let mut parts = token.split('.');
    let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Refused::Malformed);
    };
    let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| Refused::Malformed)?;
    let head: Head = serde_json::from_slice(&head).map_err(|_| Refused::Malformed)?;
    if head.crit.is_some() { Err(Refused::Algorithm) } else { Ok(head) }
}
