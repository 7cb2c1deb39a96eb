//! How a client shows who it is: where a token is found, what it makes of a `connect` request, and how long that lasts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::http::{HeaderMap, header};
use serde_json::value::RawValue;

use super::farewell::Farewell;
use super::frames::{self, Connect};
use super::handle::Handle;
use super::hub::Hub;
use crate::clock;
use crate::pattern::Pattern;
use crate::tokens::{Grant, Refused, Rights};
use crate::view::View;
use crate::wire::client::{RawValueEq, ServerFrame};
use crate::wire::close::CloseCode;

/// A subprotocol that begins so carries a token.
const BEARER_PROTOCOL: &str = "bearer.";

/// The scheme of a header that carries a token.
const BEARER_SCHEME: &str = "bearer ";

/// How long a client may stay, and what it may do.
#[derive(Debug)]
pub(super) struct Pass {
    /// Wall clock, milliseconds since 1970, because that is what a token says.
    expires_at_ms: AtomicU64,
    /// Nothing where no token was asked for: such a client may do everything.
    rights: Mutex<Option<Arc<Rights>>>,
}

impl Default for Pass {
    /// For ever, and everything.
    fn default() -> Self {
        Self { expires_at_ms: AtomicU64::new(u64::MAX), rights: Mutex::default() }
    }
}

impl Pass {
    /// A token lets it in.
    pub(super) fn issue(&self, grant: &Grant) {
        self.expires_at_ms.store(grant.expires_ms.unwrap_or(u64::MAX), Ordering::Relaxed);
        *self.rights() = Some(Arc::clone(&grant.rights));
    }

    /// A newer token: what it says is what counts. Of the two ends the later one does, because the client may have shown
    /// its tokens in any order.
    fn renew(&self, grant: &Grant) {
        self.expires_at_ms.fetch_max(grant.expires_ms.unwrap_or(u64::MAX), Ordering::Relaxed);
        *self.rights() = Some(Arc::clone(&grant.rights));
    }

    /// When it is over, on the clock that says `now_ms`; a moment that is past where it is.
    pub(super) fn expires_ms(&self, now_ms: u64) -> u64 {
        match self.expires_at_ms.load(Ordering::Relaxed) {
            u64::MAX => u64::MAX,
            at_ms => now_ms.saturating_add(at_ms.saturating_sub(clock::wall_ms())),
        }
    }

    /// Whether the client may subscribe to a topic.
    pub(super) fn may_subscribe(&self, topic: &str) -> bool {
        self.rights().as_ref().is_none_or(|rights| rights.may_subscribe(topic))
    }

    /// What the token says of topics.
    fn rights(&self) -> MutexGuard<'_, Option<Arc<Rights>>> {
        self.rights.lock().expect("no code panics while holding this lock")
    }
}

/// The token that an upgrade carries in a header; one in the query comes after it.
pub(super) fn bearer<'a>(headers: &'a HeaderMap, protocols: &[&'a str]) -> Option<&'a str> {
    let values = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
    let of_header = values.filter_map(|value| {
        let (scheme, token) = value.split_at_checked(BEARER_SCHEME.len())?;
        scheme.eq_ignore_ascii_case(BEARER_SCHEME).then_some(token.trim())
    });
    of_header.chain(protocols.iter().filter_map(|protocol| protocol.strip_prefix(BEARER_PROTOCOL))).next()
}

/// Whether a web page with this origin may connect. Programs that are no browsers send none.
pub(super) fn is_allowed(origins: Option<&[Pattern]>, headers: &HeaderMap) -> bool {
    let Some(origins) = origins else { return true };
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        origins.iter().any(|pattern| pattern.fits(&origin))
    })
}

/// Checks the token of a request to connect, if that was not done yet, and puts into the request what it grants.
pub(super) async fn vouch(hub: &Hub, mut connect: Connect) -> Result<Connect, Refused> {
    if connect.grant.is_some() {
        return Ok(connect);
    }
    let (tokens, token) = match (&hub.tokens, connect.token.take()) {
        (Some(tokens), Some(token)) => (tokens, token),
        (Some(_), None) => return Err(Refused::Missing),
        (None, Some(_)) => return Err(Refused::NotConfigured),
        (None, None) => return Ok(connect),
    };
    let grant = tokens.verify(&token).await?;
    if connect.user.is_some_and(|user| *user != *grant.user) {
        return Err(Refused::OtherUser);
    }
    connect.user = Some(grant.user.to_string());
    connect.device = grant.device.as_deref().map(str::to_owned).or(connect.device);
    connect.meta = grant.meta.as_deref().map(str::to_owned).or(connect.meta);
    connect.topics.extend(grant.rights.topics.iter().map(ToString::to_string));
    connect.grant = Some(Box::new(grant));
    Ok(connect)
}

/// What a client is told that was not let in after its upgrade.
pub(super) fn turned_away(hub: &Hub, refused: &Refused) -> Farewell {
    hub.meters.auth_failed(refused.reason());
    let code = if refused.is_temporary() { CloseCode::Overloaded } else { CloseCode::Unauthorized };
    Farewell::because(code, refused.to_string())
}

/// A request to go on with a newer token.
#[derive(Debug)]
pub(super) struct Refresh {
    pub(super) id: Option<Box<RawValue>>,
    pub(super) token: String,
}

impl PartialEq for Refresh {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token && self.id.as_deref().map(RawValue::get) == other.id.as_deref().map(RawValue::get)
    }
}

/// Takes a newer token of the same user. Nothing is to be answered to a request without an id that was carried out, nor
/// where the client is to be closed meanwhile.
pub(super) async fn refresh(hub: &Hub, handle: &Handle, refresh: Refresh) -> Option<ServerFrame> {
    let Refresh { id, token } = refresh;
    let renewed = async {
        let tokens = hub.tokens.as_ref().ok_or(Refused::NotConfigured)?;
        let grant = tokens.verify(&token).await?;
        if grant.user == handle.who.user { Ok(grant) } else { Err(Refused::OtherUser) }
    };
    let renewed = tokio::select! {
        biased;
        renewed = renewed => Some(renewed),
        () = handle.ended() => None,
    };
    // What it was woken for meanwhile is still to be done.
    handle.wake();
    match renewed? {
        Ok(grant) => {
            handle.pass.renew(&grant);
            id.map(|id| ServerFrame::Ok { re: Box::new(RawValueEq(id)), revision: hub.replica.revision() })
        }
        Err(refused) => {
            hub.meters.auth_failed(refused.reason());
            let temporary = refused.is_temporary();
            Some(frames::refusal(id.as_deref(), "unauthorized", refused.to_string(), temporary))
        }
    }
}
