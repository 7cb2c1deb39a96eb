//! Changes as they happen: server-sent events, or one JSON object a line.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::request::{self, Query};
use super::{Api, Backend, Error, Feed, FeedItem, FeedRefused, FeedRequest};
use crate::directory::Revision;
use crate::net::http::Stopping;
use crate::wire::http::ErrorCode;

/// The types of changes that may be asked for.
const TYPES: [&str; 10] = [
    "user.online",
    "user.offline",
    "connection.opened",
    "connection.closed",
    "meta.changed",
    "topic.joined",
    "topic.left",
    "gateway.up",
    "gateway.down",
    "gateway.draining",
];

/// A comment follows so long a silence: proxies close what is silent.
const HEARTBEAT: Duration = Duration::from_secs(10);

const NDJSON: &str = "application/x-ndjson";

/// `GET /v1/watch`
pub(super) async fn watch<B: Backend>(
    State(api): State<Api<B>>,
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    let wanted = feed_request(&query, request.headers())?;
    let form = Form::accepted(request.headers());
    let stop = request.extensions().get::<Stopping>().map_or_else(CancellationToken::new, |stop| stop.0.clone());
    let permit = api.watches.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Error::new(ErrorCode::RateLimited, "too many watches are open on this process"))?;
    let feed = api.backend.feed(wanted).await?;
    let mut response = Body::from_stream(frames(feed, form, stop, permit)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, form.content_type());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

impl From<FeedRefused> for Error {
    fn from(refused: FeedRefused) -> Self {
        let message = refused.to_string();
        match refused {
            FeedRefused::Compacted { oldest } => {
                Self::new(ErrorCode::Compacted, message).with("oldest_revision", oldest)
            }
            FeedRefused::Ahead { now, oldest, .. } => {
                Self::new(ErrorCode::Compacted, message).with("oldest_revision", oldest).with("revision", now)
            }
            FeedRefused::Unavailable(_) => Self::new(ErrorCode::Unavailable, message),
        }
    }
}

fn feed_request(query: &Query, headers: &HeaderMap) -> Result<FeedRequest, Error> {
    // A browser that reconnects repeats its URL; the header is what it has seen last.
    let from = match headers.get("last-event-id").filter(|id| !id.is_empty()) {
        Some(id) => Some(mark("Last-Event-ID", id.to_str().unwrap_or_default())?),
        None => query.text("from_revision").map(|text| mark("from_revision", text)).transpose()?,
    };
    let mut types = Vec::new();
    for name in query.text("types").unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !TYPES.contains(&name) {
            return Err(Error::bad_request(format!("types: {name:?} is none of {}", TYPES.join(", "))));
        }
        types.push(name.to_owned());
    }
    let user = query.text("user").map(|user| request::user(user.to_owned())).transpose()?;
    Ok(FeedRequest { from, types, user, prefix: query.text("prefix").map(str::to_owned) })
}

/// `R` or `R.n`
pub(super) fn mark(name: &str, text: &str) -> Result<(Revision, Option<u32>), Error> {
    let (revision, n) = match text.split_once('.') {
        Some((revision, n)) => (revision.parse().ok(), n.parse().ok().map(Some)),
        None => (text.parse().ok(), Some(None)),
    };
    let why = || Error::bad_request(format!("{name}: {text:?} is not of the form <revision> or <revision>.<n>"));
    Ok((revision.ok_or_else(why)?, n.ok_or_else(why)?))
}

/// How changes are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    ServerSentEvents,
    Lines,
}

impl Form {
    fn accepted(headers: &HeaderMap) -> Self {
        let lines = |value: &HeaderValue| value.to_str().is_ok_and(|accept| accept.contains(NDJSON));
        if headers.get_all(header::ACCEPT).iter().any(lines) { Self::Lines } else { Self::ServerSentEvents }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::ServerSentEvents => "text/event-stream",
            Self::Lines => NDJSON,
        })
    }

    fn frame(self, item: &FeedItem) -> Bytes {
        let mut frame = BytesMut::with_capacity(item.json.len() + 48);
        if self == Self::ServerSentEvents {
            let id = match item.mark {
                (revision, Some(n)) => format!("id: {revision}.{n}\ndata: "),
                (revision, None) => format!("id: {revision}\ndata: "),
            };
            frame.put_slice(id.as_bytes());
        }
        frame.put_slice(&item.json);
        frame.put_slice(if self == Self::Lines { b"\n" } else { b"\n\n" });
        frame.freeze()
    }

    /// What may stand between two changes and means nothing.
    fn heartbeat(self) -> Bytes {
        Bytes::from_static(if self == Self::Lines { b"\n" } else { b":\n\n" })
    }
}

struct Watching {
    feed: Feed,
    form: Form,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// The body of the answer. It ends with the feed, or when the listener is asked to end.
fn frames(
    feed: Feed,
    form: Form,
    stop: CancellationToken,
    permit: OwnedSemaphorePermit,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    let watching = Watching { feed, form, stop, _permit: permit };
    let opened = stream::iter((form == Form::ServerSentEvents).then(|| Ok(form.heartbeat())));
    opened.chain(stream::unfold(watching, |mut watching| async move {
        let silence = sleep_until(Instant::now() + HEARTBEAT);
        let frame = tokio::select! {
            biased;
            () = watching.stop.cancelled() => return None,
            item = watching.feed.next() => watching.form.frame(&item?),
            () = silence => watching.form.heartbeat(),
        };
        Some((Ok(frame), watching))
    }))
}
