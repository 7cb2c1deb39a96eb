//! What is noted of every request: its id, its count and duration, and a line in the log at level `debug`.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::Instant;

use super::answer::X_REQUEST_ID;
use super::{Api, Backend};
use crate::{chance, telemetry};

/// Route of requests that no route takes: their paths are the caller's invention and must not become labels.
const NO_ROUTE: &str = "none";

/// Longest request id that is taken over from a caller.
const REQUEST_ID_BYTES_MAX: usize = 128;

pub(super) async fn observe<B: Backend>(State(api): State<Api<B>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    // Without the query, which may hold what a log must not.
    let path = tracing::enabled!(tracing::Level::DEBUG).then(|| request.uri().path().to_owned());

    let mut response = next.run(request).await;

    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let status = response.status().as_u16();
    telemetry::http_request(&api.process, route, status, began.elapsed());
    tracing::debug!(%method, path, route, status, took = ?began.elapsed(), from = ?from, request_id = ?id, "request");
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}

/// The caller's own id where it is one line of visible characters, otherwise a fresh one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        !value.is_empty() && value.len() <= REQUEST_ID_BYTES_MAX && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match headers.get(X_REQUEST_ID).filter(sane) {
        Some(id) => id.clone(),
        None => HeaderValue::try_from(chance::nonce()).expect("letters and digits"),
    }
}
