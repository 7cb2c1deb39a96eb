//! Topics, and the gateways that have subscribers of them.
//!
//! The directory knows topics by session; who in a gateway is subscribed, and how many, is that gateway's own business and
//! asked of it: current, and not as of a revision. A gateway that can't be asked has one subscriber at least, counts as one, and the
//! answer says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use futures_util::future::join_all;

use super::answer::Shows;
use super::connections::Cursor;
use super::read::Freshness;
use super::request::{self, Query, Segment};
use super::{Api, Backend, Error, TopicsAsk};
use crate::directory::limits::{NAME_BYTES_MAX, OP_TOPICS_MAX};
use crate::directory::{ConnectionId, Epoch, Session, Topic};
use crate::view::{At, Found, View};
use crate::wire::http::{
    Applied, ErrorCode, SubscribeAnswer, SubscribeBody, SubscribeRefused, TopicBody, TopicCount, TopicList,
    TopicMember, TopicMembers,
};
use crate::wire::peer::{GatewayAnswer, GatewayAsk, Member, Subscribed};

/// Topics in a list, or members in a page, unless the caller asks for another number.
const PAGE: usize = 100;

/// Topics that one gateway is asked about with one question.
const COUNTS_MAX: usize = 1000;

/// A gateway and its session.
type Gateway = (Epoch, Arc<Session>);

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
    let (gateways, _, shows) = fresh.read(api.backend.view(), |view| view.sessions()).await?;
    let gateways: Vec<Gateway> = gateways.into_iter().map(|(epoch, session, _)| (epoch, session)).collect();
    // What has few gateways and many subscribers is among what one of those has most of.
    let most = GatewayAsk::Most { prefix: prefix.to_owned(), limit: u32::try_from(limit).unwrap_or(u32::MAX) };
    let mut also = Vec::new();
    let mut answering = Vec::new();
    for (gateway, answer) in ask_all(&api, &gateways, &most).await {
        let Some(GatewayAnswer::Most(topics)) = answer else { continue };
        also.extend(topics.into_iter().map(|(topic, _)| topic));
        answering.push(gateway.clone());
    }
    also.sort();
    also.dedup();
    let ask = TopicsAsk { prefix: prefix.to_owned(), limit, also };
    let At { value: known, revision } = api.backend.topics(ask).await?;
    let (mut topics, at_least) = count(&api, &known, &answering).await;
    topics.sort_by(|one, other| other.connections.cmp(&one.connections).then_with(|| one.topic.cmp(&other.topic)));
    topics.truncate(limit);
    Ok(Shows { revision: Some(revision), ..shows }.json(StatusCode::OK, &TopicList { topics, at_least, revision }))
}

/// How many subscribers topics have, and whether there may be more.
async fn count<B: Backend>(api: &Api<B>, topics: &[Topic], gateways: &[Gateway]) -> (Vec<TopicCount>, bool) {
    let (mut counted, mut at_least) = (Vec::with_capacity(topics.len()), false);
    for topics in topics.chunks(COUNTS_MAX) {
        let names = topics.iter().map(|topic| Arc::clone(&topic.topic)).collect();
        let answers = ask_all(api, gateways, &GatewayAsk::Counts(names)).await;
        let answers: BTreeMap<Epoch, Vec<u64>> = answers
            .into_iter()
            .filter_map(|((epoch, _), answer)| match answer {
                Some(GatewayAnswer::Counts(counts)) if counts.len() == topics.len() => Some((*epoch, counts)),
                _ => None,
            })
            .collect();
        for (place, Topic { topic, sessions }) in topics.iter().enumerate() {
            let of = |epoch: &Epoch| answers.get(epoch).map(|counts| counts[place]);
            at_least |= sessions.iter().any(|epoch| of(epoch).is_none());
            let connections = sessions.iter().map(|epoch| of(epoch).unwrap_or(1)).sum();
            let gateways = sessions.len() as u64;
            counted.push(TopicCount { topic: topic.to_string(), connections, gateways });
        }
    }
    (counted, at_least)
}

/// `GET /v1/topics/{topic}`: also of a topic that nobody has heard of.
pub(super) async fn get<B: Backend>(
    State(api): State<Api<B>>,
    topic: Segment,
    query: Query,
) -> Result<Response, Error> {
    let fresh = Freshness::from_query(&query, &api.limits)?;
    let topic = request::topic(topic.text())?;
    let (gateways, revision, shows) = fresh.read(api.backend.view(), |view| view.subscribed(&topic)).await?;
    let (mut connections, mut at_least) = (0, false);
    for (_, answer) in ask_all(&api, &gateways, &GatewayAsk::Counts(vec![Arc::clone(&topic)])).await {
        connections += match answer {
            Some(GatewayAnswer::Counts(counts)) => counts.first().copied().unwrap_or_default(),
            _ => {
                at_least = true;
                1
            }
        };
    }
    let mut gateways: Vec<String> = gateways.iter().map(|(_, session)| session.gateway.to_string()).collect();
    gateways.sort();
    let topic = topic.to_string();
    Ok(shows.json(StatusCode::OK, &TopicBody { topic, connections, gateways, at_least, revision }))
}

/// `GET /v1/topics/{topic}/members?limit=&cursor=`
pub(super) async fn members<B: Backend>(
    State(api): State<Api<B>>,
    topic: Segment,
    query: Query,
) -> Result<Response, Error> {
    let fresh = Freshness::from_query(&query, &api.limits)?;
    let topic = request::topic(topic.text())?;
    let limit = query.limit(PAGE, api.limits.page_max)?;
    let after = query.parsed::<Cursor>("cursor")?.map(|cursor| cursor.0);
    let (gateways, revision, shows) = fresh.read(api.backend.view(), |view| view.subscribed(&topic)).await?;
    let Page { members, next, unknown } = page(&api, &gateways, &topic, after, limit).await;
    let member = |member: Member| TopicMember { user: member.user.to_string(), connection: member.id.to_string() };
    let members = members.into_iter().map(member).collect();
    let next_cursor = next.map(|next| Cursor(next).to_string());
    Ok(shows.json(StatusCode::OK, &TopicMembers { members, next_cursor, unknown, revision }))
}

/// Some subscribers of a topic.
pub(super) struct Page {
    pub(super) members: Vec<Member>,
    /// More come after this one.
    pub(super) next: Option<ConnectionId>,
    /// Gateways that could not be asked, in order.
    pub(super) unknown: Vec<String>,
}

/// The subscribers after `after`, gateway by gateway.
pub(super) async fn page<B: Backend>(
    api: &Api<B>,
    gateways: &[Gateway],
    topic: &Arc<str>,
    after: Option<ConnectionId>,
    limit: usize,
) -> Page {
    let mut page = Page { members: Vec::new(), next: None, unknown: Vec::new() };
    for (epoch, session) in gateways.iter().filter(|(epoch, _)| after.is_none_or(|after| *epoch >= after.epoch)) {
        let mut last = after.filter(|after| after.epoch == *epoch).map(|after| after.serial);
        loop {
            let left = limit - page.members.len();
            let ask = GatewayAsk::Members {
                topic: Arc::clone(topic),
                after: last,
                // Of a page that is full only whether there is a next one is wanted.
                limit: u32::try_from(left.max(1)).unwrap_or(u32::MAX),
            };
            let answer = api.backend.ask_gateway(*epoch, session, ask, api.limits.gateway_timeout).await;
            let Some(GatewayAnswer::Members { members, more }) = answer else {
                page.unknown.push(session.gateway.to_string());
                break;
            };
            if left == 0 {
                page.next = page.members.last().filter(|_| !members.is_empty()).map(|member| member.id);
                break;
            }
            last = members.last().map(|member| member.id.serial).or(last);
            let got = !members.is_empty();
            page.members.extend(members);
            if !more || !got {
                break;
            }
        }
        if page.next.is_some() {
            break;
        }
    }
    page.unknown.sort();
    page
}

/// `POST /v1/users/{user}/subscribe`
pub(super) async fn subscribe<B: Backend>(
    State(api): State<Api<B>>,
    user: Segment,
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    change(api, user, query, request, true).await
}

/// `POST /v1/users/{user}/unsubscribe`
pub(super) async fn unsubscribe<B: Backend>(
    State(api): State<Api<B>>,
    user: Segment,
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    change(api, user, query, request, false).await
}

async fn change<B: Backend>(
    api: Api<B>,
    user: Segment,
    query: Query,
    request: Request,
    begins: bool,
) -> Result<Response, Error> {
    let fresh = Freshness::from_query(&query, &api.limits)?;
    let user = user.user()?;
    let SubscribeBody { topics } = request::json(request, api.limits.body_bytes_max, &api.limits).await?;
    if topics.is_empty() || topics.len() > OP_TOPICS_MAX {
        return Err(Error::bad_request(format!("topics: 1 to {OP_TOPICS_MAX}")));
    }
    let mut topics = topics.iter().map(|topic| request::topic(topic)).collect::<Result<Vec<_>, _>>()?;
    topics.sort_unstable();
    topics.dedup();
    let view = api.backend.view();
    let (found, revision, shows) = fresh.read_found(view, view.user(&user)).await?;
    let mut groups: BTreeMap<Epoch, Vec<Found>> = BTreeMap::new();
    for found in found {
        groups.entry(found.id.epoch).or_default().push(found);
    }
    // As for a push: there is an entry to commit.
    let within = api.limits.push_timeout;
    let timeout_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
    let asked = groups.into_values().map(|group| async {
        let connections: Vec<ConnectionId> = group.iter().map(|found| found.id).collect();
        let ask = GatewayAsk::Subscribe { connections, topics: topics.clone(), begins, timeout_ms };
        let (epoch, session) = (group[0].id.epoch, Arc::clone(&group[0].session));
        // The gateway gives its own answer when its time is over.
        let answer = api.backend.ask_gateway(epoch, &session, ask, within + api.limits.gateway_timeout).await;
        (group, session, answer)
    });
    let mut answer = SubscribeAnswer { connections: 0, refused: Vec::new(), unanswered: Vec::new(), revision };
    for (group, session, told) in join_all(asked).await {
        match told {
            Some(GatewayAnswer::Subscribed(each)) if each.len() == group.len() => answer.add(&group, each),
            _ => answer.unanswered.push(session.gateway.to_string()),
        }
    }
    answer.unanswered.sort();
    if answer.connections == 0 && !answer.unanswered.is_empty() {
        let why = format!("{} can't be asked; whether it was done there is not known", answer.unanswered.join(", "));
        return Err(Error::new(ErrorCode::Unavailable, why).applied(Applied::Unknown));
    }
    Ok(Shows { revision: Some(answer.revision), ..shows }.json(StatusCode::OK, &answer))
}

impl SubscribeAnswer {
    fn add(&mut self, group: &[Found], each: Vec<Subscribed>) {
        for (found, subscribed) in group.iter().zip(each) {
            match subscribed {
                Subscribed::At(revision) => {
                    self.connections += 1;
                    self.revision = self.revision.max(revision);
                }
                // It has left since.
                Subscribed::Gone => {}
                Subscribed::Refused { code, why, temporary } => {
                    let connection = found.id.to_string();
                    self.refused.push(SubscribeRefused { connection, code, message: why, temporary });
                }
            }
        }
    }
}

async fn ask_all<'g, B: Backend>(
    api: &Api<B>,
    gateways: &'g [Gateway],
    ask: &GatewayAsk,
) -> Vec<(&'g Gateway, Option<GatewayAnswer>)> {
    let asked = gateways.iter().map(|gateway| async move {
        let answer = api.backend.ask_gateway(gateway.0, &gateway.1, ask.clone(), api.limits.gateway_timeout).await;
        (gateway, answer)
    });
    join_all(asked).await
}
