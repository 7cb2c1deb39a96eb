//! Users that are refused.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::answer::Shows;
use super::read::Freshness;
use super::request::{self, Query, Segment};
use super::{Api, Backend, Error, control};
use crate::clock;
use crate::directory::limits::TEXT_BYTES_MAX;
use crate::directory::{Ban, Directory, Revision};
use crate::view::At;
use crate::wire::http::{Applied, BanAnswer, BanBody, BanList, BannedBody, ErrorCode};
use crate::wire::peer::{Answer, RequestBody};

/// Bans in a page, unless the caller asks for another number.
const PAGE: usize = 100;

/// `PUT /v1/bans/{user}`: takes the place of a ban that is there.
pub(super) async fn put<B: Backend>(
    State(api): State<Api<B>>,
    user: Segment,
    request: Request,
) -> Result<Response, Error> {
    let user: Arc<str> = user.user()?.into();
    let body: BanBody = request::json_or_default(request, &api.limits).await?;
    let wait = request::wait(body.timeout_ms, api.limits.disconnect_timeout, &api.limits)?;
    let ban = ban(body)?;
    let request = RequestBody::Ban { user: Arc::clone(&user), ban: ban.clone() };
    let (asked, revision) = control::ask(&api, request).await?;
    let disconnected = asked.len() as u64;
    let pending = control::left(api.backend.view(), asked, revision, wait).await;
    let answer = BanAnswer { ban: body_of(&user, revision, &ban), disconnected, pending };
    Ok(Shows::revision(revision).json(StatusCode::OK, &answer))
}

fn ban(body: BanBody) -> Result<Ban, Error> {
    let BanBody { until, reason, timeout_ms: _ } = body;
    if reason.as_ref().is_some_and(|reason| reason.len() > TEXT_BYTES_MAX || reason.chars().any(char::is_control)) {
        let message = format!("reason: at most {TEXT_BYTES_MAX} bytes of text without control characters");
        return Err(Error::bad_request(message));
    }
    let until_ms = match until {
        None => None,
        Some(until) => {
            let refused = |why: &str| Error::bad_request(format!("until: {until:?} {why}"));
            let ms = clock::wall_ms_of(&until).ok_or_else(|| refused("is not a time such as 2030-01-31T12:00:00Z"))?;
            if ms <= clock::wall_ms() {
                return Err(refused("is past; to lift a ban, delete it"));
            }
            Some(ms)
        }
    };
    Ok(Ban { until_ms, reason: reason.filter(|reason| !reason.is_empty()).map(Into::into) })
}

fn body_of(user: &str, made: Revision, ban: &Ban) -> BannedBody {
    BannedBody {
        user: user.to_owned(),
        until: ban.until_ms.map(clock::rfc3339),
        reason: ban.reason.as_deref().map(str::to_owned),
        revision: made,
    }
}

/// `DELETE /v1/bans/{user}`
pub(super) async fn delete<B: Backend>(State(api): State<Api<B>>, user: Segment) -> Result<Response, Error> {
    let user = user.user()?;
    match api.ask(RequestBody::Unban { user: user.as_str().into() }).await? {
        Answer::Unbanned { existed: true, revision } => {
            Ok(Shows::revision(revision).onto(StatusCode::NO_CONTENT.into_response()))
        }
        Answer::Unbanned { existed: false, revision } => {
            let error = Error::new(ErrorCode::NotFound, format!("{user} is not banned")).applied(Applied::No);
            Err(error.with("as_of_revision", revision))
        }
        other => Err(super::unexpected(&other).applied(Applied::Unknown)),
    }
}

/// `GET /v1/bans?limit=&cursor=`
pub(super) async fn list<B: Backend>(State(api): State<Api<B>>, query: Query, uri: Uri) -> Result<Response, Error> {
    let fresh = Freshness::from_query(&query, &api.limits)?;
    let limit = query.limit(PAGE, api.limits.page_max)?;
    let after = query.text("cursor").map(after).transpose()?;
    if !api.holds_state() {
        return api.pass_on(&uri, &fresh).await;
    }
    let look = |_: &B::View| page(&api.state(), after.as_deref(), limit);
    let ((bans, more), revision, shows) = fresh.read(api.backend.view(), look).await?;
    let next_cursor = bans.last().filter(|_| more).map(|last| cursor(&last.user));
    Ok(shows.json(StatusCode::OK, &BanList { bans, next_cursor, revision }))
}

/// A page, and whether there is more.
fn page(directory: &Directory, after: Option<&str>, limit: usize) -> At<(Vec<BannedBody>, bool)> {
    let mut bans = directory.bans_after(after);
    let page = bans.by_ref().take(limit).map(|banned| body_of(banned.user, banned.made, banned.ban)).collect();
    At { value: (page, bans.next().is_some()), revision: directory.revision() }
}

/// Asks for the page after a user.
pub(super) fn cursor(user: &str) -> String {
    format!("1.{}", URL_SAFE_NO_PAD.encode(user))
}

/// The user after whom a page begins.
pub(super) fn after(cursor: &str) -> Result<String, Error> {
    let user = cursor.strip_prefix("1.").and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let user = user.and_then(|user| String::from_utf8(user).ok());
    user.ok_or_else(|| {
        Error::bad_request(format!("cursor: {cursor:?} can't be used: pass a next_cursor on as it came"))
    })
}
