//! Parts of requests: names in paths, queries, bodies.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::header::{EXPECT, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::{ApiLimits, Error};
use crate::directory::limits::{NAME_BYTES_MAX, is_name, is_optional_name};
use crate::directory::{ConnectionId, Epoch};
use crate::wire::http::ErrorCode;

/// What is read and thrown away of a body that is too large, in multiples of its limit: a client that is cut off while
/// it sends would not see the answer.
const DRAIN_FACTOR: usize = 16;

/// The one parameter of a path, percent-decoded.
#[derive(Debug)]
pub(super) struct Segment(String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let segment: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        match segment {
            Ok(Path(text)) => Ok(Self(text)),
            Err(rejection) => Err(Error::bad_request(format!("path: {}", rejection.body_text()))),
        }
    }
}

impl Segment {
    /// As a user.
    pub(super) fn user(self) -> Result<String, Error> {
        user(self.0)
    }

    /// As a connection id. These are opaque to callers, so one of another form is not malformed: it names none (`None`).
    pub(super) fn connection(&self) -> Result<Option<ConnectionId>, Error> {
        connection(&self.0)
    }

    /// As a session id, likewise.
    pub(super) fn session(&self) -> Option<Epoch> {
        let digits = self.0.strip_prefix("s-")?;
        let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
        if canonical { digits.parse().ok() } else { None }
    }

    /// As it is.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

/// A topic, if it is one.
pub(super) fn topic(text: &str) -> Result<Arc<str>, Error> {
    if is_name(text) {
        Ok(text.into())
    } else {
        Err(Error::bad_request("topic: 1 to 128 bytes of text without control characters"))
    }
}

/// A user's name, if it is one.
pub(super) fn user(text: String) -> Result<String, Error> {
    if is_name(&text) {
        Ok(text)
    } else {
        Err(Error::bad_request("user: 1 to 128 bytes of text without control characters"))
    }
}

/// A connection id, `None` if it names none.
pub(super) fn connection(text: &str) -> Result<Option<ConnectionId>, Error> {
    if text.len() > NAME_BYTES_MAX {
        return Err(Error::bad_request("connection: an id has at most 128 bytes"));
    }
    Ok(text.parse().ok())
}

/// Connection ids that the field `name` lists.
pub(super) fn connections(name: &str, ids: &[String]) -> Result<Vec<ConnectionId>, Error> {
    let id = |text: &String| {
        connection(text)?.ok_or_else(|| Error::bad_request(format!("{name}: {text:?} is not a connection id")))
    };
    ids.iter().map(id).collect()
}

/// Devices that are listed.
pub(super) fn devices(devices: Vec<String>) -> Result<Vec<Arc<str>>, Error> {
    if devices.iter().all(|device| is_optional_name(device)) {
        Ok(devices.into_iter().map(Arc::from).collect())
    } else {
        Err(Error::bad_request("devices: each at most 128 bytes of text without control characters"))
    }
}

/// `If-Match: "<number>"`, where the number is `what`; `*` matches any.
pub(super) fn if_match<T: FromStr>(headers: &HeaderMap, what: &str) -> Result<Option<T>, Error> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let digits = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    digits.parse().map(Some).map_err(|_| Error::bad_request(format!("If-Match: the {what} in quotes")))
}

/// How long to wait: `asked`, or `otherwise`.
pub(super) fn wait(asked: Option<u64>, otherwise: Duration, limits: &ApiLimits) -> Result<Duration, Error> {
    match asked.map_or(otherwise, Duration::from_millis) {
        wait if wait <= limits.timeout_max => Ok(wait),
        _ => Err(Error::bad_request(format!("timeout_ms: 0 to {}", limits.timeout_max.as_millis()))),
    }
}

/// The query of a request. Names that nobody knows are ignored, values that can't be meant are refused.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query: Result<axum::extract::Query<Vec<(String, String)>>, QueryRejection> =
            axum::extract::Query::from_request_parts(parts, state).await;
        match query {
            Ok(axum::extract::Query(pairs)) => Ok(Self(pairs)),
            Err(rejection) => Err(Error::bad_request(format!("query: {}", rejection.body_text()))),
        }
    }
}

impl Query {
    /// The value of `name`, unless it is absent or empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, value)| n == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The value of `name`, parsed.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|error| Error::bad_request(format!("{name}: {text:?} can't be used: {error}")))
    }

    /// How many entries a page of a list may have: as many as asked for, or `page`.
    pub(super) fn limit(&self, page: usize, page_max: usize) -> Result<usize, Error> {
        let limit = self.parsed("limit")?.unwrap_or(page.min(page_max));
        if limit == 0 || limit > page_max {
            return Err(Error::bad_request(format!("limit: 1 to {page_max}")));
        }
        Ok(limit)
    }

    /// The duration that `name` tells in milliseconds.
    pub(super) fn millis(&self, name: &str) -> Result<Option<Duration>, Error> {
        Ok(self.parsed(name)?.map(Duration::from_millis))
    }
}

/// Reads a body of at most `bytes_max` bytes.
pub(super) async fn bytes(request: Request, bytes_max: usize, limits: &ApiLimits) -> Result<Bytes, Error> {
    let asks_first = request.headers().contains_key(EXPECT);
    let mut body = request.into_body();
    let deadline = Instant::now() + limits.body_timeout;
    let mut read = BytesMut::new();
    if body.size_hint().lower() > bytes_max as u64 {
        // Who asks before sending has sent nothing yet; reading would call for it.
        if asks_first {
            return Err(body_too_large(bytes_max));
        }
        return Err(drain(body, bytes_max, deadline).await);
    }
    loop {
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(Error::bad_request(format!("the body broke off: {error}"))),
            Ok(None) => return Ok(read.freeze()),
            Err(_) => {
                let late = Error::new(ErrorCode::Timeout, "the body did not arrive in time");
                return Err(late.status(StatusCode::REQUEST_TIMEOUT));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > bytes_max {
            return Err(drain(body, bytes_max, deadline).await);
        }
        if read.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        read.extend_from_slice(&data);
    }
}

async fn drain(mut body: Body, bytes_max: usize, deadline: Instant) -> Error {
    let mut left = bytes_max.saturating_mul(DRAIN_FACTOR);
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            break;
        }
    }
    body_too_large(bytes_max)
}

fn body_too_large(bytes_max: usize) -> Error {
    Error::too_large(format!("the body is larger than {bytes_max} bytes"))
}

/// Reads a body as JSON, whatever its type claims to be.
pub(super) async fn json<T: DeserializeOwned>(
    request: Request,
    bytes_max: usize,
    limits: &ApiLimits,
) -> Result<T, Error> {
    parse(&bytes(request, bytes_max, limits).await?)
}

/// As [`json`], for a body that may be left out.
pub(super) async fn json_or_default<T: DeserializeOwned + Default>(
    request: Request,
    limits: &ApiLimits,
) -> Result<T, Error> {
    let body = bytes(request, limits.body_bytes_max, limits).await?;
    if body.is_empty() { Ok(T::default()) } else { parse(&body) }
}

/// Every body is an object. What reads it would also take an array of the fields in their order, which is no form of ours.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let parsed = serde_json::from_slice(body).map_err(|error| Error::bad_request(format!("body: {error}")))?;
    if body.trim_ascii_start().starts_with(b"{") {
        Ok(parsed)
    } else {
        Err(Error::bad_request("body: not a JSON object"))
    }
}
