//! Topics, and the gateways that have subscribers of them.
//!
//! The directory knows topics by session; who in a gateway is subscribed, and how many, is that gateway's own business. A
//! gateway that can't be asked has one subscriber at least, counts as one, and the answer says so.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use super::answer::Shows;
use super::read::Freshness;
use super::request::{self, Query, Segment};
use super::{Api, Backend, Error, TopicsAsk};
use crate::directory::limits::NAME_BYTES_MAX;
use crate::directory::{Directory, Revision};
use crate::view::{At, View};
use crate::wire::http::{TopicBody, TopicList, TopicMembers};

/// Topics in a list, unless the caller asks for another number.
const PAGE: usize = 100;

/// `GET /v1/topics?prefix=&limit=`
pub(super) async fn list<B: Backend>(State(api): State<Api<B>>, query: Query, uri: Uri) -> Result<Response, Error> {
    let fresh = Freshness::from_query(&query, &api.limits)?;
    let limit = query.limit(PAGE, api.limits.page_max)?;
    let prefix = query.text("prefix").unwrap_or_default();
    if prefix.len() > NAME_BYTES_MAX {
        return Err(Error::bad_request(format!("prefix: at most {NAME_BYTES_MAX} bytes")));
    }
    if !api.holds_state() {
        return api.pass_on(&uri, &fresh).await;
    }
    let ((), _, shows) = fresh.read(api.backend.view(), |view| At { value: (), revision: view.revision() }).await?;
    let At { value: topics, revision } = api.backend.topics(TopicsAsk { prefix: prefix.to_owned(), limit }).await?;
    let at_least = !topics.is_empty();
    Ok(Shows { revision: Some(revision), ..shows }.json(StatusCode::OK, &TopicList { topics, at_least, revision }))
}

/// `GET /v1/topics/{topic}`: also of a topic that nobody has heard of.
pub(super) async fn get<B: Backend>(
    State(api): State<Api<B>>,
    topic: Segment,
    query: Query,
    uri: Uri,
) -> Result<Response, Error> {
    let Some((topic, gateways, revision, shows)) = gateways(&api, &topic, &query).await? else {
        return api.pass_on(&uri, &Freshness::from_query(&query, &api.limits)?).await;
    };
    let (connections, at_least) = (gateways.len() as u64, !gateways.is_empty());
    Ok(shows.json(StatusCode::OK, &TopicBody { topic, connections, gateways, at_least, revision }))
}

/// `GET /v1/topics/{topic}/members`
pub(super) async fn members<B: Backend>(
    State(api): State<Api<B>>,
    topic: Segment,
    query: Query,
    uri: Uri,
) -> Result<Response, Error> {
    let Some((_, unknown, revision, shows)) = gateways(&api, &topic, &query).await? else {
        return api.pass_on(&uri, &Freshness::from_query(&query, &api.limits)?).await;
    };
    let answer = TopicMembers { members: Vec::new(), next_cursor: None, unknown, revision };
    Ok(shows.json(StatusCode::OK, &answer))
}

/// A topic and the gateways that have subscribers of it, by name; `None` where this process does not know.
async fn gateways<B: Backend>(
    api: &Api<B>,
    topic: &Segment,
    query: &Query,
) -> Result<Option<(String, Vec<String>, Revision, Shows)>, Error> {
    let fresh = Freshness::from_query(query, &api.limits)?;
    let topic = &*request::topic(topic.text())?;
    if !api.holds_state() {
        return Ok(None);
    }
    let look = |_: &B::View| gateways_of(&api.state(), topic);
    let (gateways, revision, shows) = fresh.read(api.backend.view(), look).await?;
    Ok(Some((topic.to_owned(), gateways, revision, shows)))
}

fn gateways_of(directory: &Directory, topic: &str) -> At<Vec<String>> {
    let sessions = directory.sessions_of(topic).into_iter().filter_map(|epoch| directory.session(epoch));
    let mut gateways: Vec<_> = sessions.map(|live| live.session.gateway.to_string()).collect();
    gateways.sort();
    At { value: gateways, revision: directory.revision() }
}
