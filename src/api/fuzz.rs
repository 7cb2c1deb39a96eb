//! Requests to the API in front of the real state machine, and the forms of text in them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde::de::IgnoredAny;
use tokio::runtime::{Builder, Runtime};
use tower_service::Service;

use super::alone::Alone;
use super::connections::Cursor;
use super::read::Freshness;
use super::request::{self, Query};
use super::{ApiLimits, Error, answer, bans, router, watch};
use crate::clock;
use crate::directory::{ConnectionId, Directory, Epoch};
use crate::wire::http::ErrorBody;

/// No answer here is nearly as long.
const ANSWER_BYTES_MAX: usize = 16 << 20;

struct Api {
    backend: Arc<Alone>,
    router: Router,
    /// Its clock runs ahead while everything waits: no deadline is waited for.
    runtime: Runtime,
}

thread_local! {
    static API: Api = {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without sockets needs nothing of the system");
        let backend = Alone::new();
        Api { router: router(Arc::clone(&backend), ApiLimits::default()), backend, runtime }
    };
}

/// Every request has an answer of the form that the contract names, and leaves the state in order.
pub(crate) fn requests(data: &[u8], directory: Directory) {
    let Some(request) = read(data) else { return };
    let method = request.method().clone();
    // Of these all read a body, but for some about the cluster.
    let is_read = matches!(method, Method::PUT | Method::POST) && !request.uri().path().starts_with("/v1/cluster/");
    API.with(|Api { backend, router, runtime }| {
        backend.begin_with(directory);
        runtime.block_on(async {
            let answer = router.clone().call(request).await.unwrap_or_else(|never| match never {});
            let status = answer.status();
            check(&method, answer).await;
            let is_object = body(data).trim_ascii_start().first().is_none_or(|first| *first == b'{');
            assert!(is_object || !is_read || !status.is_success(), "a body that is no object was taken");
        });
        assert_eq!(backend.directory().check_invariants(), Ok(()), "after a request");
    });
}

/// A request: a line with method and path, headers, an empty line, a body.
fn read(data: &[u8]) -> Option<Request> {
    let mut lines = data[..end_of_head(data)].split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let mut request = Request::builder().method(Method::from_bytes(first.next()?).ok()?).uri(first.next()?);
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let value = value.get(1..)?.trim_ascii();
        request = request.header(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    request.body(Body::from(Bytes::copy_from_slice(body(data)))).ok()
}

fn end_of_head(data: &[u8]) -> usize {
    data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len())
}

/// What is behind the empty line.
fn body(data: &[u8]) -> &[u8] {
    data.get(end_of_head(data) + 2..).unwrap_or_default()
}

async fn check(method: &Method, answer: Response) {
    let (parts, body) = answer.into_parts();
    assert_ne!(parts.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(parts.headers.contains_key(answer::X_REQUEST_ID), "every answer names its request");
    let is_json = parts.headers.get(header::CONTENT_TYPE) == Some(&answer::JSON);
    if !is_json && parts.status.is_success() {
        // A watch has no end, and a backup is no text.
        return;
    }
    let body = to_bytes(body, ANSWER_BYTES_MAX).await.expect("an answer is short");
    if *method == Method::HEAD {
        return;
    }
    if parts.status.is_client_error() || parts.status.is_server_error() {
        let error: ErrorBody = serde_json::from_slice(&body).expect("a refusal has the one form");
        assert!(!error.error.message.is_empty(), "a refusal says why");
    } else if !body.is_empty() {
        let _: IgnoredAny = serde_json::from_slice(&body).expect("an answer is JSON");
    }
}

/// Ids, marks, cursors, times and queries: what is read can be written again, and is then read as the same.
pub(crate) fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<ConnectionId>() {
        assert_eq!(id.to_string(), text, "an id has one form");
    }
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
    if let Ok(user) = bans::after(text) {
        assert_eq!(bans::after(&bans::cursor(&user)).ok(), Some(user));
    }
    if let Ok((revision, n)) = watch::mark("from", text) {
        let form = n.map_or_else(|| revision.to_string(), |n| format!("{revision}.{n}"));
        assert_eq!(watch::mark("from", &form).ok(), Some((revision, n)));
    }
    if let Some(ms) = clock::wall_ms_of(text) {
        assert_eq!(clock::wall_ms_of(&clock::rfc3339(ms)), Some(ms), "{text}");
    }
    let limits = ApiLimits::default();
    if let Ok(value) = HeaderValue::from_str(text) {
        let headers = HeaderMap::from_iter([(header::IF_MATCH, value)]);
        if let Ok(Some(epoch)) = request::if_match::<Epoch>(&headers, "epoch") {
            assert!(text.trim().trim_matches('"').trim_start_matches(['+', '0']).parse() == Ok(epoch) || epoch == 0);
        }
    }
    if let Some(Ok(query)) = query(text) {
        if let Ok(limit) = query.limit(100, limits.page_max) {
            assert!((1..=limits.page_max).contains(&limit));
        }
        if let Ok(fresh) = Freshness::from_query(&query, &limits) {
            assert!(Duration::ZERO < fresh.within() && fresh.within() <= limits.timeout_max);
        }
    }
}

/// A text as the query of a request.
fn query(text: &str) -> Option<Result<Query, Error>> {
    let (mut parts, _) = Request::builder().uri(format!("/?{text}")).body(Body::empty()).ok()?.into_parts();
    API.with(|Api { runtime, .. }| Some(runtime.block_on(Query::from_request_parts(&mut parts, &()))))
}
