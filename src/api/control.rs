//! What is asked of connections from outside their gateways: to be closed, and to be changed.
//!
//! Closing is a request to the gateway: the directory removes nothing before the gateway has unregistered it, because until
//! then the client is served. Callers expect that a connection is as good as gone when they are told so; so the answer waits
//! a little until it is, and says what was not.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::answer::Shows;
use super::batch;
use super::request::{self, Query, Segment};
use super::{Api, Backend, Error};
use crate::directory::limits::{CODE_BANNED, TEXT_BYTES_MAX, is_optional_name};
use crate::directory::{Batch, BatchDone, ConnectionId, Disconnect, Op, OpOutcome, OpRefused, Release, Revision, Whom};
use crate::view::View;
use crate::wire::http::{Applied, DisconnectAnswer, DisconnectBody, ErrorCode, MetaAnswer};
use crate::wire::peer::{Answer, RequestBody};

/// Close codes that applications may use; those below are the protocol's.
const CODES: std::ops::RangeInclusive<u16> = 4000..=4999;

/// Bytes of a reason: what fits into a close frame.
const REASON_BYTES_MAX: usize = 123;

/// `POST /v1/users/{user}/disconnect`
pub(super) async fn disconnect<B: Backend>(
    State(api): State<Api<B>>,
    user: Segment,
    request: Request,
) -> Result<Response, Error> {
    let user = user.user()?;
    let body: DisconnectBody = request::json_or_default(request, &api.limits).await?;
    let wait = request::wait(body.timeout_ms, api.limits.disconnect_timeout, &api.limits)?;
    let release = release(body.code, body.reason)?;
    let except = request::connections("except", &body.except)?;
    let whom = Whom::User { user: user.into(), devices: request::devices(body.devices)?, except };
    let (asked, revision) = ask(&api, RequestBody::Disconnect(Disconnect { whom, release })).await?;
    let disconnected = asked.len() as u64;
    let pending = left(api.backend.view(), asked, revision, wait).await;
    Ok(Shows::revision(revision).json(StatusCode::OK, &DisconnectAnswer { disconnected, pending, revision }))
}

/// `DELETE /v1/connections/{id}`
pub(super) async fn delete<B: Backend>(
    State(api): State<Api<B>>,
    connection: Segment,
    query: Query,
) -> Result<Response, Error> {
    let wait = request::wait(query.parsed("timeout_ms")?, api.limits.disconnect_timeout, &api.limits)?;
    let release = release(query.parsed("code")?, query.text("reason").map(str::to_owned))?;
    let id = connection.connection()?.ok_or_else(|| missing(&connection))?;
    let disconnect = Disconnect { whom: Whom::Connection(id), release };
    let (asked, revision) = ask(&api, RequestBody::Disconnect(disconnect)).await?;
    if asked.is_empty() {
        return Err(missing(&connection).with("as_of_revision", revision));
    }
    left(api.backend.view(), asked, revision, wait).await;
    Ok(Shows::revision(revision).onto(StatusCode::NO_CONTENT.into_response()))
}

fn missing(connection: &Segment) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no connection {}", connection.text())).applied(Applied::No)
}

/// What the clients are told.
fn release(code: Option<u16>, reason: Option<String>) -> Result<Release, Error> {
    let code = code.unwrap_or(CODE_BANNED);
    if !CODES.contains(&code) {
        return Err(Error::bad_request(format!("code: {} to {}, not {code}", CODES.start(), CODES.end())));
    }
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX || !is_optional_name(reason)) {
        let message = format!("reason: at most {REASON_BYTES_MAX} bytes of text without control characters");
        return Err(Error::bad_request(message));
    }
    Ok(Release { code, reason: reason.map(Into::into) })
}

/// Has connections asked to be closed, and says which.
pub(super) async fn ask<B: Backend>(
    api: &Api<B>,
    request: RequestBody,
) -> Result<(Vec<ConnectionId>, Revision), Error> {
    match api.ask(request).await? {
        Answer::Asked { connections, revision } => Ok((connections, revision)),
        other => Err(super::unexpected(&other).applied(Applied::Unknown)),
    }
}

/// Waits until those that were asked at `revision` are gone, `within` at most; says which are not.
pub(super) async fn left(
    view: &impl View,
    mut asked: Vec<ConnectionId>,
    mut revision: Revision,
    within: Duration,
) -> Vec<String> {
    let deadline = Instant::now() + within;
    while !asked.is_empty() {
        // Before it shows the request the view may not even know of them; afterwards any change may be the one.
        if view.reach(revision, deadline.saturating_duration_since(Instant::now())).await.is_err() {
            break;
        }
        revision = view.revision() + 1;
        let mut there = Vec::new();
        for id in asked {
            // Whether one is gone is not known where it can't be looked up.
            if view.connection(id).await.map_or(true, |found| found.value.is_some()) {
                there.push(id);
            }
        }
        asked = there;
    }
    asked.iter().map(ToString::to_string).collect()
}

/// `PUT /v1/connections/{id}/meta`
pub(super) async fn set_meta<B: Backend>(
    State(api): State<Api<B>>,
    connection: Segment,
    request: Request,
) -> Result<Response, Error> {
    let if_version = request::if_match(request.headers(), "meta_version of the connection")?;
    let body: Box<RawValue> = request::json(request, api.limits.body_bytes_max, &api.limits).await?;
    let meta = batch::object(&body).ok_or_else(|| Error::bad_request("body: not a JSON object"))?;
    if meta.len() > TEXT_BYTES_MAX {
        return Err(Error::too_large(format!("body: metadata of {} bytes; at most {TEXT_BYTES_MAX}", meta.len())));
    }
    let ConnectionId { epoch, serial } = connection.connection()?.ok_or_else(|| missing(&connection))?;
    let ops = vec![Op::Meta { serial, meta, if_version }];
    let done = match api.ask(RequestBody::Batch(Batch { epoch, seq: None, ops })).await? {
        Answer::Batch(Ok(done)) => done,
        // Its session is over, and it with it.
        Answer::Batch(Err(_)) => return Err(missing(&connection)),
        other => return Err(super::unexpected(&other).applied(Applied::Unknown)),
    };
    let BatchDone { revision, ops } = done;
    match ops.first() {
        Some(OpOutcome::MetaSet { version }) => {
            let answer = MetaAnswer { meta_version: *version, revision };
            Ok(Shows::revision(revision).json(StatusCode::OK, &answer))
        }
        Some(OpOutcome::Refused(OpRefused::NotFound)) => Err(missing(&connection).with("as_of_revision", revision)),
        Some(OpOutcome::Refused(refused @ OpRefused::VersionMismatch { current })) => {
            let error = Error::new(ErrorCode::Fenced, refused.to_string()).temporary(true).applied(Applied::No);
            Err(error.with("meta_version", *current))
        }
        other => {
            tracing::error!(?other, "metadata was to be replaced, and something else became of it");
            Err(Error::new(ErrorCode::Unavailable, "the directory's version differs from this one's")
                .applied(Applied::Unknown))
        }
    }
}
