//! Single connections, and lists of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::value::RawValue;

use super::read::Freshness;
use super::request::{self, Query, Segment};
use super::{Api, ApiLimits, Backend, Error, topics};
use crate::clock;
use crate::directory::{ConnectionId, Epoch, Revision};
use crate::view::{At, Found, Stale, View};
use crate::wire::http::{ConnectionBody, ConnectionList, ErrorCode};

/// Connections in a page, unless the caller asks for another number.
const PAGE: usize = 100;

/// Connections looked at in one step of a search.
const STEP: usize = 1000;

/// `GET /v1/connections/{id}`
pub(super) async fn get<B: Backend>(
    State(api): State<Api<B>>,
    connection: Segment,
    query: Query,
) -> Result<Response, Error> {
    let (fresh, view) = (Freshness::from_query(&query, &api.limits)?, api.backend.view());
    let missing = || Error::new(ErrorCode::NotFound, format!("there is no connection {}", connection.text()));
    let id = connection.connection()?.ok_or_else(missing)?;
    let (found, revision, shows) = fresh.read_found(view, view.connection(id)).await?;
    let found = found.ok_or_else(|| missing().with("as_of_revision", revision))?;
    Ok(shows.json(StatusCode::OK, &body_with_user(&found)))
}

/// `GET /v1/connections?user=&gateway=&device=&topic=&limit=&cursor=`
pub(super) async fn list<B: Backend>(State(api): State<Api<B>>, query: Query, uri: Uri) -> Result<Response, Error> {
    let (fresh, view) = (Freshness::from_query(&query, &api.limits)?, api.backend.view());
    let wanted = Wanted::from_query(&query, &api.limits)?;
    if let Some(topic) = query.text("topic") {
        return of_topic(&api, &fresh, &wanted, &request::topic(topic)?).await;
    }
    if !view.holds_all() {
        return api.pass_on(&uri, &fresh).await;
    }
    let (page, revision, shows) = fresh.read_found(view, wanted.page(view, api.limits.page_scan_max)).await?;
    let connections = page.found.iter().map(body_with_user).collect();
    let next_cursor = page.next.map(|next| next.to_string());
    Ok(shows.json(StatusCode::OK, &ConnectionList { connections, next_cursor, unknown: Vec::new(), revision }))
}

/// The connections that are subscribed to a topic, as far as their gateways can be asked. Filters are applied to a page of them, so
/// that one may be short.
async fn of_topic<B: Backend>(
    api: &Api<B>,
    fresh: &Freshness,
    wanted: &Wanted,
    topic: &Arc<str>,
) -> Result<Response, Error> {
    let view = api.backend.view();
    let (gateways, revision, shows) = fresh.read(view, |view| view.subscribed(topic)).await?;
    let page = topics::page(api, &gateways, topic, wanted.after, wanted.limit).await;
    let mut connections = Vec::with_capacity(page.members.len());
    for member in page.members {
        // Who has left since is none any more.
        let found = view.connection(member.id).await?.value;
        connections.extend(found.filter(|found| wanted.matches(found)).map(|found| body_with_user(&found)));
    }
    let next_cursor = page.next.map(|next| Cursor(next).to_string());
    let list = ConnectionList { connections, next_cursor, unknown: page.unknown, revision };
    Ok(shows.json(StatusCode::OK, &list))
}

/// A connection, where the surrounding body names the user.
pub(super) fn body(found: &Found) -> ConnectionBody {
    let connection = &found.connection;
    ConnectionBody {
        id: found.id.to_string(),
        user: None,
        gateway: found.session.gateway.to_string(),
        epoch: found.id.epoch,
        granted: connection.granted,
        device: Some(connection.device.to_string()).filter(|device| !device.is_empty()),
        connected_at: clock::rfc3339(connection.connected_at_ms),
        remote: connection.remote.as_deref().map(str::to_owned),
        meta: meta(connection.meta.as_deref()),
        meta_version: connection.meta_version,
    }
}

fn body_with_user(found: &Found) -> ConnectionBody {
    ConnectionBody { user: Some(found.connection.user.to_string()), ..body(found) }
}

fn meta(text: Option<&str>) -> Box<RawValue> {
    let object = text.and_then(|text| RawValue::from_string(text.to_owned()).ok());
    object.unwrap_or_else(|| RawValue::from_string(String::from("{}")).expect("an empty object is JSON"))
}

/// Which page of which connections is wanted.
#[derive(Debug)]
struct Wanted {
    user: Option<String>,
    gateway: Option<String>,
    device: Option<String>,
    after: Option<ConnectionId>,
    limit: usize,
}

/// A page and what comes after it.
struct Page {
    found: Vec<Found>,
    next: Option<Cursor>,
}

impl Wanted {
    fn from_query(query: &Query, limits: &ApiLimits) -> Result<Self, Error> {
        Ok(Self {
            user: query.text("user").map(|user| request::user(user.to_owned())).transpose()?,
            gateway: query.text("gateway").map(str::to_owned),
            device: query.text("device").map(str::to_owned),
            after: query.parsed::<Cursor>("cursor")?.map(|cursor| cursor.0),
            limit: query.limit(PAGE, limits.page_max)?,
        })
    }

    fn matches(&self, found: &Found) -> bool {
        self.user.as_deref().is_none_or(|user| *found.connection.user == *user)
            && self.gateway.as_deref().is_none_or(|gateway| *found.session.gateway == *gateway)
            && self.device.as_deref().is_none_or(|device| *found.connection.device == *device)
    }

    async fn page(&self, view: &impl View, scan_max: usize) -> Result<At<Page>, Stale> {
        Ok(match (&self.user, &self.gateway) {
            (Some(user), _) => self.of_user(view.user(user).await?),
            (None, Some(gateway)) => self.of_gateway(view, gateway, scan_max),
            (None, None) => self.of_all(view, None, scan_max),
        })
    }

    fn of_user(&self, found: At<Vec<Found>>) -> At<Page> {
        let At { mut value, revision } = found;
        value.sort_by_key(|found| found.id);
        value.retain(|found| self.after.is_none_or(|after| found.id > after) && self.matches(found));
        let more = value.len() > self.limit;
        value.truncate(self.limit);
        let next = value.last().filter(|_| more).map(|last| Cursor(last.id));
        At { value: Page { found: value, next }, revision }
    }

    /// A gateway has one live session, whose connections lie beside each other.
    fn of_gateway(&self, view: &impl View, gateway: &str, scan_max: usize) -> At<Page> {
        let At { value, revision } = view.sessions();
        let epoch = value.iter().find(|(_, session, _)| *session.gateway == *gateway).map(|(epoch, _, _)| *epoch);
        match epoch {
            Some(epoch) => self.of_all(view, Some(epoch), scan_max),
            None => At { value: Page { found: Vec::new(), next: None }, revision },
        }
    }

    /// Of a page that takes several steps the revision is that of the first: it shows at least that.
    fn of_all(&self, view: &impl View, only: Option<Epoch>, scan_max: usize) -> At<Page> {
        let before = only.map(|epoch| ConnectionId { epoch: epoch.saturating_sub(1), serial: u64::MAX });
        let mut after = self.after.max(before);
        let mut first: Option<Revision> = None;
        let (mut found, mut scanned) = (Vec::new(), 0);
        // One more than the page holds tells whether there is a next page; without filters that is one step.
        let step = if only.is_none() && self.device.is_none() { self.limit + 1 } else { STEP };
        let next = loop {
            let At { value, revision } = view.scan(after, step);
            first.get_or_insert(revision);
            scanned += value.len();
            let ended = value.len() < step;
            for candidate in value {
                if only.is_some_and(|epoch| candidate.id.epoch > epoch) {
                    return At { value: Page { found, next: None }, revision: first.unwrap_or(revision) };
                }
                if found.len() == self.limit && self.matches(&candidate) {
                    let next = found.last().map(|last: &Found| Cursor(last.id));
                    return At { value: Page { found, next }, revision: first.unwrap_or(revision) };
                }
                after = Some(candidate.id);
                if self.matches(&candidate) {
                    found.push(candidate);
                }
            }
            if ended {
                break None;
            }
            if scanned >= scan_max {
                break after.map(Cursor);
            }
        };
        At { value: Page { found, next }, revision: first.unwrap_or_else(|| view.revision()) }
    }
}

/// Where the next page begins: after this connection. Opaque to callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor(pub(super) ConnectionId);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{:x}.{:x}", self.0.epoch, self.0.serial)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHY: &str = "pass a next_cursor on as it came";
        let (epoch, serial) = text.strip_prefix("1.").and_then(|rest| rest.split_once('.')).ok_or(WHY)?;
        let number = |hex| u64::from_str_radix(hex, 16).map_err(|_| WHY);
        Ok(Self(ConnectionId { epoch: number(epoch)?, serial: number(serial)? }))
    }
}
