//! What clients send: upgrades, WebSocket frames, and the JSON in them.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use futures_util::FutureExt;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::frames::{self, Said};
use super::hello::identify;
use super::upgrade::{Asked, handshake_key, protocols};
use super::wire::{Received, Wire};
use crate::directory::limits::{TEXT_BYTES_MAX, is_name, is_optional_name};
use crate::gateway::settings::ClientLimits;

/// An answer to a frame, as a client reads it.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow, default)]
    re: Option<&'a RawValue>,
}

/// A frame is understood, answered in words that repeat its id, or refused.
pub(crate) fn frames(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Said::Answer(answer) = frames::read(text) {
        check_answer(text, &frames::text(&answer));
    }
    let Some(connect) = frames::read_connect(text) else { return };
    if let Some(refusal) = &connect.refusal {
        check_answer(text, refusal);
    }
    let Ok(who) = identify(&connect, None) else { return };
    assert!(is_name(&who.user) && is_optional_name(&who.device), "{who:?}");
    if let Some(meta) = who.meta {
        let object: &RawValue = serde_json::from_str(&meta).expect("metadata that is kept is JSON");
        assert!(object.get().starts_with('{') && meta.len() <= TEXT_BYTES_MAX, "{meta}");
    }
}

fn check_answer(asked: &str, answer: &str) {
    #[derive(Deserialize)]
    struct Asked<'a> {
        #[serde(borrow, default)]
        id: Option<&'a RawValue>,
    }
    let Asked { id } = serde_json::from_str(asked).expect("only what is JSON is answered");
    let Answer { kind, re } = serde_json::from_str(answer).expect("an answer is JSON");
    assert_eq!((kind, re.map(RawValue::get)), ("error", id.map(RawValue::get)), "{answer}");
}

/// A socket gives messages within the limit, or ends; never more of them than there are bytes.
pub(crate) fn sockets(data: &[u8]) {
    let limits = ClientLimits { frame_bytes_max: 1024, ..ClientLimits::default() };
    let mut wire = at_once(Wire::new(tokio::io::join(data, tokio::io::sink()), &limits));
    for _ in 0..=data.len() {
        match at_once(wire.receive()) {
            Received::Text(text) => {
                assert!(text.len() <= limits.frame_bytes_max, "a message of {} bytes", text.len());
                frames(text.as_bytes());
            }
            Received::Life => {}
            Received::Wrong(_) | Received::Closed(_) => return,
        }
    }
    panic!("{} bytes were more messages", data.len());
}

/// Nothing waits where all bytes are in memory.
fn at_once<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("the bytes are there")
}

/// A line with path and query, and a line for every header.
pub(crate) fn upgrades(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Some(Ok(uri)) = lines.next().map(Uri::try_from) else { return };
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii_start()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    match handshake_key(&headers) {
        Ok(key) => assert_eq!(key.len(), 24),
        Err(refusal) => assert!(refusal.response().status().is_client_error()),
    }
    for protocol in protocols(&headers) {
        assert_eq!(protocol, protocol.trim());
    }
    let Some(connect) = Asked::read(&uri).and_then(Asked::connect) else { return };
    if let Ok(who) = identify(&connect, None) {
        assert!(is_name(&who.user) && is_optional_name(&who.device), "{who:?}");
    }
}
