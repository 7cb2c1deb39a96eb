//! Where users are.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::connections;
use super::read::Freshness;
use super::request::{self, Query, Segment};
use super::{Api, Backend, Error, History};
use crate::clock;
use crate::directory::Revision;
use crate::view::{At, Found, Stale, View};
use crate::wire::http::{ErrorCode, HistoryBody, UserBody, UsersBody, UsersQuery};

/// `GET /v1/users/{user}`
pub(super) async fn get<B: Backend>(State(api): State<Api<B>>, user: Segment, query: Query) -> Result<Response, Error> {
    let user = user.user()?;
    let (fresh, view) = (Freshness::from_query(&query, &api.limits)?, api.backend.view());
    let (found, revision, shows) = fresh.read_found(view, view.user(&user)).await?;
    let mut body = body(user, &found, revision);
    tell_last_seen(&*api.backend, &fresh, [&mut body], revision).await;
    Ok(shows.json(StatusCode::OK, &body))
}

/// `HEAD /v1/users/{user}`
pub(super) async fn head<B: Backend>(
    State(api): State<Api<B>>,
    user: Segment,
    query: Query,
) -> Result<Response, Error> {
    let user = user.user()?;
    let (fresh, view) = (Freshness::from_query(&query, &api.limits)?, api.backend.view());
    let (found, _, shows) = fresh.read_found(view, view.user(&user)).await?;
    let status = if found.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    Ok(shows.onto(status.into_response()))
}

/// `POST /v1/users:lookup`
pub(super) async fn lookup<B: Backend>(
    State(api): State<Api<B>>,
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    let (fresh, view) = (Freshness::from_query(&query, &api.limits)?, api.backend.view());
    let UsersQuery { users } = request::json(request, api.limits.lookup_bytes_max, &api.limits).await?;
    if users.len() > api.limits.lookup_users_max {
        return Err(Error::too_large(format!(
            "users: {}; at most {} a lookup",
            users.len(),
            api.limits.lookup_users_max
        )));
    }
    let users = users.into_iter().map(request::user).collect::<Result<Vec<_>, _>>()?;
    let (mut users, revision, shows) = fresh.read_found(view, look_all(view, users)).await?;
    let newest = users.values().filter_map(|body| body.revision).max();
    tell_last_seen(&*api.backend, &fresh, users.values_mut(), newest.unwrap_or(revision)).await;
    Ok(shows.json(StatusCode::OK, &UsersBody { users, revision }))
}

/// `GET /v1/users/{user}/history`
pub(super) async fn history<B: Backend>(
    State(api): State<Api<B>>,
    user: Segment,
    query: Query,
) -> Result<Response, Error> {
    let user = user.user()?;
    let fresh = Freshness::from_query(&query, &api.limits)?;
    let ((), revision, shows) =
        fresh.read(api.backend.view(), |view| At { value: (), revision: view.revision() }).await?;
    let history = timeout(fresh.within(), api.backend.history(&user, revision)).await;
    let late = |_| Error::new(ErrorCode::Timeout, "the history could not be put together in time");
    let History { lines, oldest_revision } = history.map_err(late)??;
    let events = lines.iter().map(|line| serde_json::from_slice(line)).collect::<Result<_, _>>();
    let events = events.map_err(|_| Error::new(ErrorCode::Unavailable, "the history has a line that can't be read"))?;
    Ok(shows.json(StatusCode::OK, &HistoryBody { events, oldest_revision }))
}

/// Completes the bodies of those who are offline.
async fn tell_last_seen<'a, B: Backend>(
    backend: &B,
    fresh: &Freshness,
    bodies: impl IntoIterator<Item = &'a mut UserBody>,
    revision: Revision,
) {
    let mut offline: Vec<&mut UserBody> = bodies.into_iter().filter(|body| !body.online).collect();
    if offline.is_empty() {
        return;
    }
    let users: Vec<&str> = offline.iter().map(|body| body.user.as_str()).collect();
    let seen = backend.last_seen(&users, revision, fresh.is_cached()).await;
    for (body, seen) in offline.iter_mut().zip(seen) {
        body.last_seen = seen.map(clock::rfc3339);
    }
}

/// Every user carries the revision of its own read; the revision of the whole is the oldest of them, which all of them
/// show at least.
async fn look_all(view: &impl View, users: Vec<String>) -> Result<At<BTreeMap<String, UserBody>>, Stale> {
    let now = view.revision();
    let found = view.users(&users.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let bodies: BTreeMap<_, _> = users
        .into_iter()
        .zip(found)
        .map(|(user, At { value, revision })| (user.clone(), body(user, &value, revision)))
        .collect();
    let oldest = bodies.values().filter_map(|body| body.revision).min();
    Ok(At { value: bodies, revision: oldest.unwrap_or(now) })
}

fn body(user: String, found: &[Found], revision: Revision) -> UserBody {
    UserBody {
        user,
        online: !found.is_empty(),
        connections: found.iter().map(connections::body).collect(),
        last_seen: None,
        revision: Some(revision),
    }
}
