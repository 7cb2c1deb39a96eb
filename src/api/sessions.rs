//! Sessions of gateways of one's own.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::answer::{self, Shows};
use super::batch;
use super::request::{self, Segment};
use super::{Api, Backend, Error};
use crate::chance;
use crate::directory::limits::{TEXT_BYTES_MAX, is_name};
use crate::directory::{Batch, BatchRefused, GatewayAddresses, OpenSession, Reason};
use crate::wire::http::{
    Applied, BatchBody, EndSessionBody, ErrorCode, OpenSessionBody, ReleaseRequest, RenewAnswer, RenewBody, SessionBody,
};
use crate::wire::peer::{Answer, RequestBody};

/// Leases that may be asked for, milliseconds: shorter ones end in every hiccup, longer ones leave ghosts.
const LEASE_MS: std::ops::RangeInclusive<u32> = 3000..=60_000;

/// `POST /v1/sessions`
pub(super) async fn open<B: Backend>(State(api): State<Api<B>>, request: Request) -> Result<Response, Error> {
    let body: OpenSessionBody = request::json(request, api.limits.body_bytes_max, &api.limits).await?;
    match api.ask(RequestBody::OpenSession(open_session(body)?)).await? {
        Answer::Opened { epoch, lease_ms } => Ok(opened(epoch, lease_ms.into())),
        Answer::Taken { epoch } => Err(Error::new(
            ErrorCode::Conflict,
            format!("another process holds a live session under this gateway id (s-{epoch})"),
        )
        .applied(Applied::No)
        .with("session", format!("s-{epoch}"))),
        Answer::NotOpened { why } => Err(Error::bad_request(why).applied(Applied::No)),
        other => Err(super::unexpected(&other).applied(Applied::Unknown)),
    }
}

fn opened(epoch: u64, lease_ms: u64) -> Response {
    let body = SessionBody {
        session: format!("s-{epoch}"),
        epoch,
        lease_ms,
        serve_ms: serve_ms(lease_ms),
        renew_every_ms: lease_ms / 5,
    };
    Shows::revision(epoch).json(StatusCode::CREATED, &body)
}

/// The gateway gives up well before the leader does.
fn serve_ms(lease_ms: u64) -> u64 {
    lease_ms * 4 / 5
}

fn open_session(body: OpenSessionBody) -> Result<OpenSession, Error> {
    if !is_name(&body.gateway) {
        return Err(Error::bad_request("gateway: 1 to 128 bytes of text without control characters"));
    }
    if body.nonce.as_ref().is_some_and(|nonce| !is_name(nonce)) {
        return Err(Error::bad_request("nonce: 1 to 128 bytes of text without control characters"));
    }
    if !LEASE_MS.contains(&body.lease_ms) {
        let message = format!("lease_ms: {} to {}, not {}", LEASE_MS.start(), LEASE_MS.end(), body.lease_ms);
        return Err(Error::bad_request(message));
    }
    if body.attempt == 0 {
        return Err(Error::bad_request("attempt: counts from 1"));
    }
    let addresses = GatewayAddresses {
        url: body.url.map(|url| text("url", url)).transpose()?,
        api: None,
        peer: None,
        deliver_url: body.deliver_url.map(deliver_url).transpose()?,
    };
    Ok(OpenSession {
        gateway: body.gateway.into(),
        nonce: body.nonce.unwrap_or_else(chance::nonce).into(),
        attempt: body.attempt,
        lease_ms: body.lease_ms,
        addresses,
    })
}

fn text(name: &str, text: String) -> Result<Arc<str>, Error> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::bad_request(format!("{name}: at most {TEXT_BYTES_MAX} bytes")));
    }
    Ok(text.into())
}

fn deliver_url(url: String) -> Result<Arc<str>, Error> {
    let parsed: Option<Uri> = url.parse().ok();
    match parsed.as_ref().and_then(Uri::scheme_str) {
        Some("http") => text("deliver_url", url),
        Some("https") => Err(Error::not_offered("deliver_url: https")),
        _ => Err(Error::bad_request("deliver_url: a URL that begins with http://")),
    }
}

/// `PUT /v1/sessions/{s}/renew`
pub(super) async fn renew<B: Backend>(
    State(api): State<Api<B>>,
    session: Segment,
    request: Request,
) -> Result<Response, Error> {
    let RenewBody { handled_revision } = request::json_or_default(request, &api.limits).await?;
    let gone = || Error::new(ErrorCode::Gone, "the session is over: stop serving and open a new one");
    let epoch = session.session().ok_or_else(gone)?;
    match api.ask(RequestBody::Renew { epoch, handled: handled_revision }).await? {
        Answer::Renewed { lease_ms, release, revision } => {
            let lease_ms = lease_ms.into();
            let requests: Vec<_> = release.iter().map(|(id, release)| ReleaseRequest::new(*id, release)).collect();
            let release = requests.iter().map(|request| request.connection.clone()).collect();
            let serve_ms = serve_ms(lease_ms);
            Ok(answer::json(StatusCode::OK, &RenewAnswer { lease_ms, serve_ms, release, requests, revision }))
        }
        Answer::Gone => Err(gone()),
        other => Err(super::unexpected(&other).applied(Applied::Unknown)),
    }
}

/// `POST /v1/sessions/{s}/batch`
pub(super) async fn batch<B: Backend>(
    State(api): State<Api<B>>,
    session: Segment,
    request: Request,
) -> Result<Response, Error> {
    let BatchBody { seq, ops } = request::json(request, api.limits.batch_bytes_max, &api.limits).await?;
    let ops_max = api.limits.batch_ops_max;
    if ops.len() > ops_max {
        return Err(Error::too_large(format!("ops: {}; at most {ops_max} a batch", ops.len())));
    }
    let serials: Vec<_> = ops.iter().map(|op| op.serial).collect();
    let ops = ops.into_iter().enumerate().map(|(index, op)| batch::op(index, op)).collect::<Result<_, _>>()?;
    let epoch = session.session().ok_or_else(|| refused(&BatchRefused::Fenced))?;
    let batch = Batch { epoch, seq, ops };
    if batch.size() > ops_max {
        let message =
            format!("ops: {} with their topics, each of which counts; at most {ops_max} a batch", batch.size());
        return Err(Error::too_large(message));
    }
    match api.ask(RequestBody::Batch(batch)).await? {
        Answer::Batch(Ok(done)) => {
            Ok(Shows::revision(done.revision).json(StatusCode::OK, &batch::answer(epoch, &serials, &done)))
        }
        Answer::Batch(Err(why)) => Err(refused(&why)),
        other => Err(super::unexpected(&other).applied(Applied::Unknown)),
    }
}

fn refused(why: &BatchRefused) -> Error {
    let message = why.to_string();
    let error = match why {
        BatchRefused::Fenced => Error::new(ErrorCode::Fenced, message),
        BatchRefused::Gap { expected } => Error::new(ErrorCode::Conflict, message).with("expected", *expected),
        BatchRefused::TooOld { oldest } => Error::new(ErrorCode::Conflict, message).with("oldest", *oldest),
    };
    error.applied(Applied::No)
}

/// `DELETE /v1/sessions/{s}`: of a session that is not there it succeeds.
pub(super) async fn end<B: Backend>(
    State(api): State<Api<B>>,
    session: Segment,
    request: Request,
) -> Result<Response, Error> {
    let EndSessionBody { fenced } = request::json_or_default(request, &api.limits).await?;
    let Some(epoch) = session.session() else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    match api.ask(RequestBody::EndSession { epoch, reason: Reason::Closed, fenced }).await? {
        Answer::Ended { existed: _ } => Ok(StatusCode::NO_CONTENT.into_response()),
        other => Err(super::unexpected(&other).applied(Applied::Unknown)),
    }
}
