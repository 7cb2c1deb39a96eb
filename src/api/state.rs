//! The state of a directory node as a whole: its hash, a snapshot of it, a backup.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::answer::Shows;
use super::read::Freshness;
use super::request::Query;
use super::{Api, Backend, Backup, Error, HashAsk, StateRefused};
use crate::net::http::Stopping;
use crate::wire::http::ErrorCode;

/// A file name for browsers and `curl -OJ`.
const CONTENT_DISPOSITION: HeaderValue = HeaderValue::from_static("attachment; filename=\"switchboard.backup\"");

/// `GET /v1/cluster/hash`
pub(super) async fn hash<B: Backend>(State(api): State<Api<B>>, query: Query) -> Result<Response, Error> {
    let fresh = Freshness::of_own_state(&query, &api.limits)?;
    let revision = query.parsed("revision")?;
    let check = query.parsed("check")?.unwrap_or(false);
    fresh.freshen(api.backend.view()).await?;
    let hash = api.backend.hash(HashAsk { revision, check, within: fresh.within() }).await?;
    Ok(Shows::revision(hash.revision).json(StatusCode::OK, &hash))
}

/// `POST /v1/cluster/snapshot`
pub(super) async fn snapshot<B: Backend>(State(api): State<Api<B>>) -> Result<Response, Error> {
    let taken = api.backend.snapshot().await?;
    Ok(Shows::revision(taken.revision).json(StatusCode::OK, &taken))
}

/// `GET /v1/cluster/backup`
pub(super) async fn backup<B: Backend>(
    State(api): State<Api<B>>,
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    // Everything acknowledged before is in it; from a node that is cut off, `consistency=cached` gets what it has.
    Freshness::from_query(&query, &api.limits)?.freshen(api.backend.view()).await?;
    let stop = request.extensions().get::<Stopping>().map_or_else(CancellationToken::new, |stop| stop.0.clone());
    let Backup { revision, bytes, parts } = api.backend.backup().await?;
    // The reader sees from the length that a backup which was cut short is not whole.
    let parts = parts.take_until(stop.cancelled_owned());
    let mut response = Body::from_stream(parts).into_response();
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, bytes.into()),
        (header::CONTENT_DISPOSITION, CONTENT_DISPOSITION),
    ];
    response.headers_mut().extend(headers);
    Ok(Shows::revision(revision).onto(response))
}

impl From<StateRefused> for Error {
    fn from(refused: StateRefused) -> Self {
        let message = refused.to_string();
        let code = match refused {
            StateRefused::NotHere => ErrorCode::NotImplemented,
            StateRefused::Passed { .. } => ErrorCode::Compacted,
            StateRefused::Later { .. } => ErrorCode::Timeout,
            StateRefused::Busy => ErrorCode::RateLimited,
            StateRefused::Unavailable(_) => ErrorCode::Unavailable,
        };
        match refused {
            StateRefused::Passed { now } => Self::new(code, message).with("revision", now),
            _ => Self::new(code, message),
        }
    }
}
