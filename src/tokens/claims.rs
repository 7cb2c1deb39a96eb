//! What a token says, read claim by claim. docs/PROTOCOL.md lists them.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Refused;
use crate::directory::limits::{TEXT_BYTES_MAX, is_name, is_optional_name};
use crate::directory::{Handover, Per, Policy};
use crate::pattern::Pattern;

/// Topics, and patterns of topics, in one token.
const LIST_MAX: usize = 256;

/// Connections that a user may have where the token names a policy of several and not how many.
const MAX_DEFAULT: u32 = 16;

/// Most tokens say nothing of topics, and connections are many.
static NO_RIGHTS: LazyLock<Arc<Rights>> = LazyLock::new(Arc::default);

/// What a token grants its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who it is.
    pub user: Arc<str>,
    /// `device`, where the token says which.
    pub device: Option<Arc<str>>,
    /// `meta`: a JSON object, shown in lookups.
    pub meta: Option<Arc<str>>,
    /// When it is over: wall clock, milliseconds since 1970. For ever without `exp`.
    pub expires_ms: Option<u64>,
    /// `policy`, `per`, `handover` and `max`, where the token has one of them: instead of the gateway's.
    pub policy: Option<Policy>,
    /// What concerns topics. Tokens that say nothing of them share one.
    pub rights: Arc<Rights>,
}

/// What a token says of topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// `topics`: the ones that its connection is subscribed to from the start.
    pub topics: Vec<Arc<str>>,
    /// `subscribe`: which ones its client may subscribe to.
    pub subscribe: Vec<Pattern>,
}

impl Grant {
    /// What these claims grant, without a look at times and signature.
    ///
    /// # Errors
    /// The first claim that makes no sense.
    pub fn read(claims: Map<String, Value>, user_claim: &str) -> Result<Self, Refused> {
        let mut claims = Claims(claims);
        let expires_ms = claims.expires_ms()?;
        claims.grant(user_claim, expires_ms)
    }
}

impl Rights {
    /// Whether the client may be subscribed to this topic: it is one of its own, or it may subscribe to it by itself.
    pub fn may_subscribe(&self, topic: &str) -> bool {
        self.topics.iter().any(|own| **own == *topic) || self.subscribe.iter().any(|pattern| pattern.fits(topic))
    }
}

/// The claims of a token whose signature is right.
pub(super) struct Claims(pub(super) Map<String, Value>);

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PolicyWord {
    Multi,
    NewestWins,
    OldestWins,
}

/// One text, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    /// `nbf`, milliseconds since 1970.
    pub(super) fn not_before_ms(&mut self) -> Result<Option<u64>, Refused> {
        self.date_ms("nbf")
    }

    /// `exp`, milliseconds since 1970.
    pub(super) fn expires_ms(&mut self) -> Result<Option<u64>, Refused> {
        self.date_ms("exp")
    }

    /// What is granted; `user_claim` names the user.
    pub(super) fn grant(mut self, user_claim: &str, expires_ms: Option<u64>) -> Result<Grant, Refused> {
        let user = match self.0.remove(user_claim) {
            Some(Value::String(user)) => user,
            // Some issuers count their users.
            Some(Value::Number(number)) if number.is_u64() => number.to_string(),
            _ => return Err(wrong(user_claim, "has to name the user")),
        };
        if !is_name(&user) {
            return Err(wrong(user_claim, "has to be 1 to 128 bytes without control characters"));
        }
        let device: Option<String> = self.take("device", "has to be a text")?;
        if device.as_deref().is_some_and(|device| !is_optional_name(device)) {
            return Err(wrong("device", "has to be at most 128 bytes without control characters"));
        }
        let meta: Option<Map<String, Value>> = self.take("meta", "has to be an object")?;
        let meta = meta.map(|meta| Value::Object(meta).to_string());
        if meta.as_ref().is_some_and(|meta| meta.len() > TEXT_BYTES_MAX) {
            return Err(wrong("meta", "has to be at most 4096 bytes of JSON"));
        }
        let (policy, rights) = (self.policy()?, self.rights()?);
        let shared = |text: String| Arc::from(text);
        Ok(Grant { user: user.into(), device: device.map(shared), meta: meta.map(shared), expires_ms, policy, rights })
    }

    fn policy(&mut self) -> Result<Option<Policy>, Refused> {
        let word: Option<PolicyWord> = self.take("policy", "has to be multi, newest_wins or oldest_wins")?;
        let per: Option<Per> = self.take("per", "has to be user or device")?;
        let handover: Option<Handover> = self.take("handover", "has to be wait or immediate")?;
        let max: Option<u32> = self.take("max", "has to be a number of connections")?;
        if max == Some(0) {
            return Err(wrong("max", "has to be at least 1"));
        }
        if word.is_none() && max.is_none() {
            let alone = per.map(|_| "per").or(handover.map(|_| "handover"));
            return alone.map_or(Ok(None), |claim| Err(wrong(claim, "needs the claim `policy` beside it")));
        }
        let per = per.unwrap_or(Per::User);
        Ok(Some(match word.unwrap_or(PolicyWord::Multi) {
            PolicyWord::Multi => Policy::Multi { max: max.unwrap_or(MAX_DEFAULT), per },
            PolicyWord::NewestWins => Policy::NewestWins { per, handover: handover.unwrap_or(Handover::Wait) },
            PolicyWord::OldestWins => Policy::OldestWins { per },
        }))
    }

    fn rights(&mut self) -> Result<Arc<Rights>, Refused> {
        let topics = self.texts("topics")?;
        if !topics.iter().all(|topic| is_name(topic)) {
            return Err(wrong("topics", "has to name topics of 1 to 128 bytes without control characters"));
        }
        let subscribe = self.texts("subscribe")?;
        let rights = Rights {
            topics: topics.into_iter().map(Arc::from).collect(),
            subscribe: subscribe.iter().map(|text| Pattern::new(text)).collect(),
        };
        Ok(if rights == Rights::default() { Arc::clone(&NO_RIGHTS) } else { Arc::new(rights) })
    }

    fn texts(&mut self, claim: &'static str) -> Result<Vec<String>, Refused> {
        let texts = match self.take(claim, "has to be a list of texts")? {
            None => Vec::new(),
            Some(Texts::One(text)) => vec![text],
            Some(Texts::Many(texts)) => texts,
        };
        if texts.len() > LIST_MAX {
            return Err(wrong(claim, "has to be a list of at most 256"));
        }
        Ok(texts)
    }

    /// A `NumericDate`: seconds, which need not be whole.
    fn date_ms(&mut self, claim: &'static str) -> Result<Option<u64>, Refused> {
        let seconds: Option<f64> = self.take(claim, "has to be seconds since 1970")?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what is beyond is the end of time"
        )]
        Ok(seconds.map(|seconds| (seconds * 1000.0) as u64))
    }

    fn take<T: DeserializeOwned>(&mut self, claim: &str, rule: &'static str) -> Result<Option<T>, Refused> {
        let Some(value) = self.0.remove(claim).filter(|value| !value.is_null()) else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|_| wrong(claim, rule))
    }
}

fn wrong(claim: &str, rule: &'static str) -> Refused {
    Refused::Claim { claim: claim.to_owned(), rule }
}
