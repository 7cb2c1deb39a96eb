//! Pushes.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout};

use super::answer::{self, Shows};
use super::read::Freshness;
use super::request::{self, Query, Segment};
use super::{Api, ApiLimits, Backend, Error};
use crate::chance;
use crate::directory::limits::is_optional_name;
use crate::push::{Order, PushRefused, Pushed, Target};
use crate::telemetry;
use crate::view::View;
use crate::wire::http::{
    PushAnswer, PushBatch, PushBatchAnswer, PushBody, PushItem, PushOutcome, PushResult, PushTarget,
};
use crate::wire::peer::{Ack, KEYED_PREFIX, Message, Payload, TargetStatus};

/// Bytes of an `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 128;

/// Time beyond a push's own for resolving its targets, twice at worst; past it nothing is known.
const RESOLVE: Duration = Duration::from_secs(5);

/// `POST /v1/users/{user}/push`
pub(super) async fn to_user<B: Backend>(
    State(api): State<Api<B>>,
    user: Segment,
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    let user = user.user()?;
    let fresh = Freshness::of_push(&query, &api.limits)?;
    let id = message_id(request.headers(), &["user", &user])?;
    let body: PushBody = request::json(request, api.limits.push_bytes_max, &api.limits).await?;
    let order = order(Target::User(user.into()), body, id, &api.limits)?;
    fresh.freshen(api.backend.view()).await?;
    push(&api, order).await
}

/// `POST /v1/connections/{id}/push`
pub(super) async fn to_connection<B: Backend>(
    State(api): State<Api<B>>,
    connection: Segment,
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    let target = connection.connection()?;
    let fresh = Freshness::of_push(&query, &api.limits)?;
    let if_match = request::if_match(request.headers(), "epoch of the connection")?;
    let id = message_id(request.headers(), &["connection", connection.text()])?;
    let body: PushBody = request::json(request, api.limits.push_bytes_max, &api.limits).await?;
    let target = target.ok_or_else(|| no_such_connection(connection.text(), api.backend.view()))?;
    let order = order(Target::Connection(target), body, id, &api.limits)?;
    fresh.freshen(api.backend.view()).await?;
    push(&api, Order { if_match, ..order }).await
}

/// `POST /v1/topics/{topic}/push`
pub(super) async fn to_topic<B: Backend>(
    State(api): State<Api<B>>,
    topic: Segment,
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    let topic = request::topic(topic.text())?;
    to_many(api, Target::Topic(Arc::clone(&topic)), &["topic", &topic], query, request).await
}

/// `POST /v1/broadcast`
pub(super) async fn to_all<B: Backend>(
    State(api): State<Api<B>>,
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    to_many(api, Target::All, &["all"], query, request).await
}

async fn to_many<B: Backend>(
    api: Api<B>,
    target: Target,
    named: &[&str],
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    let fresh = Freshness::of_push(&query, &api.limits)?;
    let id = message_id(request.headers(), named)?;
    let body: PushBody = request::json(request, api.limits.push_bytes_max, &api.limits).await?;
    let order = order(target, body, id, &api.limits)?;
    fresh.freshen(api.backend.view()).await?;
    push(&api, order).await
}

/// `POST /v1/push:batch`
pub(super) async fn batch<B: Backend>(
    State(api): State<Api<B>>,
    query: Query,
    request: Request,
) -> Result<Response, Error> {
    let fresh = Freshness::of_push(&query, &api.limits)?;
    let headers = request.headers().clone();
    let PushBatch { items } = request::json(request, api.limits.push_batch_bytes_max, &api.limits).await?;
    if items.len() > api.limits.push_items_max {
        return Err(Error::too_large(format!("items: {}; at most {} a batch", items.len(), api.limits.push_items_max)));
    }
    let mut orders = Vec::with_capacity(items.len());
    let mut results = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let order = item_order(item, message_id(&headers, &["batch", &index.to_string()])?, &api);
        results.push(order.map(|order| orders.push(order)));
    }
    fresh.freshen(api.backend.view()).await?;
    let ids: Vec<_> = orders.iter().map(|order| (Arc::clone(&order.message.id), is_accepted(order))).collect();
    let longest = orders.iter().map(|order| order.message.timeout_ms).max().unwrap_or(0);
    let within = Duration::from_millis(longest.into()) + RESOLVE;
    let pushed = if orders.is_empty() { Vec::new() } else { within_or_timeout(within, &api, orders).await };
    let mut pushed = ids.into_iter().zip(pushed);
    let result = |sent: Result<(), Error>| {
        let ((id, accepted), pushed) = sent.map(|()| pushed.next().expect("every order has an answer"))?;
        Ok::<_, Error>(answer(&id, pushed?, accepted))
    };
    let results = results
        .into_iter()
        .map(result)
        .map(|result| match result {
            Ok(answer) => PushResult::Done(answer),
            Err(error) => PushResult::Failed(error.into_body()),
        })
        .collect();
    Ok(answer::json(StatusCode::OK, &PushBatchAnswer { results }))
}

async fn within_or_timeout<B: Backend>(
    within: Duration,
    api: &Api<B>,
    orders: Vec<Order>,
) -> Vec<Result<Pushed, PushRefused>> {
    let (began, count) = (Instant::now(), orders.len());
    let pushed = timeout(within, api.backend.push_many(orders)).await;
    let pushed = pushed.unwrap_or_else(|_| vec![Err(PushRefused::Timeout); count]);
    telemetry::push_took(&api.process, "batch", began.elapsed());
    for pushed in &pushed {
        telemetry::push_request(&api.process, "batch", outcome_label(pushed));
    }
    pushed
}

async fn push<B: Backend>(api: &Api<B>, order: Order) -> Result<Response, Error> {
    let route = match order.target {
        Target::User(_) => "user",
        Target::Connection(_) => "connection",
        Target::Topic(_) => "topic",
        Target::All => "all",
    };
    let (began, id, accepted) = (Instant::now(), Arc::clone(&order.message.id), is_accepted(&order));
    let within = Duration::from_millis(order.message.timeout_ms.into()) + RESOLVE;
    let pushed = timeout(within, api.backend.push(order)).await.unwrap_or(Err(PushRefused::Timeout));
    telemetry::push_took(&api.process, route, began.elapsed());
    telemetry::push_request(&api.process, route, outcome_label(&pushed));
    let answer = answer(&id, pushed?, accepted);
    let status = if answer.outcome == PushOutcome::Accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok(Shows::revision(answer.revision).json(status, &answer))
}

/// Whether nobody is waited for, of many.
fn is_accepted(order: &Order) -> bool {
    order.target.is_many() && order.message.ack == Ack::None
}

/// Targets reached, targets not reached, and both in one word.
fn outcome(pushed: &Pushed) -> (u64, u64, PushOutcome) {
    let reached = |status| matches!(status, TargetStatus::Acked | TargetStatus::Written);
    let listed = pushed.results.iter().filter(|result| reached(result.status)).count();
    let of_listed = (listed as u64, (pushed.results.len() - listed) as u64);
    let (delivered, failed) = pushed.spread.as_ref().map_or(of_listed, |spread| (spread.delivered, spread.failed));
    // Where the caller excepted every target there was nothing to do, and nothing failed.
    let outcome = match (delivered, failed) {
        (_, 0) => PushOutcome::Delivered,
        (0, _) => PushOutcome::Failed,
        _ => PushOutcome::Partial,
    };
    (delivered, failed, outcome)
}

fn outcome_label(pushed: &Result<Pushed, PushRefused>) -> &'static str {
    match pushed {
        Ok(pushed) => match outcome(pushed).2 {
            PushOutcome::Delivered => "delivered",
            PushOutcome::Partial => "partial",
            PushOutcome::Failed => "failed",
            PushOutcome::Accepted => "accepted",
        },
        Err(PushRefused::Offline { .. }) => "offline",
        Err(PushRefused::Fenced { .. }) => "fenced",
        Err(PushRefused::Unavailable(_) | PushRefused::Unreached { .. }) => "unavailable",
        Err(PushRefused::Busy { .. }) => "rate_limited",
        Err(PushRefused::Timeout) => "timeout",
    }
}

/// Of a push that nobody waits for the outcome is that it is taken, unless nobody took it.
fn answer(id: &str, pushed: Pushed, accepted: bool) -> PushAnswer {
    let (delivered, failed, outcome) = outcome(&pushed);
    let outcome = if accepted && outcome != PushOutcome::Failed { PushOutcome::Accepted } else { outcome };
    let unanswered = pushed.spread.map(|spread| spread.unanswered).unwrap_or_default();
    let target = |result: crate::push::TargetResult| PushTarget {
        connection: result.id.to_string(),
        gateway: result.gateway.to_string(),
        epoch: result.id.epoch,
        status: result.status,
    };
    PushAnswer {
        id: id.to_owned(),
        outcome,
        delivered,
        failed,
        revision: pushed.revision,
        results: pushed.results.into_iter().map(target).collect(),
        unanswered: unanswered.iter().map(ToString::to_string).collect(),
    }
}

fn item_order<B: Backend>(item: PushItem, id: Arc<str>, api: &Api<B>) -> Result<Order, Error> {
    let target = match (item.user, item.connection, item.topic) {
        (Some(user), None, None) => Target::User(request::user(user)?.into()),
        (None, Some(text), None) => match request::connection(&text)? {
            Some(connection) => Target::Connection(connection),
            None => return Err(no_such_connection(&text, api.backend.view())),
        },
        (None, None, Some(topic)) => Target::Topic(request::topic(&topic)?),
        _ => return Err(Error::bad_request("an item names exactly one of user, connection and topic")),
    };
    let data_bytes =
        item.data.as_ref().map_or(0, |data| data.get().len()) + item.data_b64.as_ref().map_or(0, String::len);
    if data_bytes > api.limits.push_bytes_max {
        return Err(Error::too_large(format!("data: more than {} bytes", api.limits.push_bytes_max)));
    }
    let body = PushBody {
        data: item.data,
        data_b64: item.data_b64,
        event: item.event,
        ack: item.ack,
        timeout_ms: item.timeout_ms,
        devices: item.devices,
        except: item.except,
        ttl_ms: item.ttl_ms,
        rate_per_s: item.rate_per_s,
    };
    order(target, body, id, &api.limits)
}

/// What `body` asks for.
fn order(target: Target, body: PushBody, id: Arc<str>, limits: &ApiLimits) -> Result<Order, Error> {
    if body.ttl_ms != 0 {
        return Err(Error::not_offered("ttl_ms: keeping a push for later"));
    }
    if body.rate_per_s != 0 && !(target.is_many() && body.ack == Ack::None) {
        let why =
            "rate_per_s: only of a push to a topic or to all with ack none, which is answered before it is written";
        return Err(Error::bad_request(why));
    }
    let rate_per_s =
        u32::try_from(body.rate_per_s).map_err(|_| Error::bad_request("rate_per_s: at most 4294967295"))?;
    let timeout_max = limits.timeout_max.as_millis();
    let timeout_ms = body.timeout_ms.map_or(limits.push_timeout.as_millis(), u128::from);
    if timeout_ms == 0 || timeout_ms > timeout_max {
        return Err(Error::bad_request(format!("timeout_ms: 1 to {timeout_max}")));
    }
    if body.event.as_ref().is_some_and(|event| !is_optional_name(event)) {
        return Err(Error::bad_request("event: at most 128 bytes of text without control characters"));
    }
    let topic = match &target {
        Target::Topic(topic) => Some(Arc::clone(topic)),
        Target::User(_) | Target::Connection(_) | Target::All => None,
    };
    let message = Message {
        id,
        topic,
        event: body.event.map(Arc::from),
        data: payload(body.data, body.data_b64)?,
        ack: body.ack,
        timeout_ms: u32::try_from(timeout_ms).expect("checked against the longest timeout"),
    };
    Ok(Order {
        target,
        message: Arc::new(message),
        devices: request::devices(body.devices)?,
        except: request::connections("except", &body.except)?,
        rate_per_s,
        if_match: None,
    })
}

fn payload(data: Option<Box<serde_json::value::RawValue>>, data_b64: Option<String>) -> Result<Payload, Error> {
    match (data, data_b64) {
        (Some(json), None) => Ok(Payload::Json(Bytes::from(String::from(Box::<str>::from(json))))),
        (None, Some(text)) if STANDARD.decode(&text).is_ok() => Ok(Payload::Base64(text.into())),
        (None, Some(_)) => Err(Error::bad_request("data_b64: not base64 of the standard alphabet with padding")),
        _ => Err(Error::bad_request("exactly one of data and data_b64 is needed")),
    }
}

/// A text that can't be an id was never one of a connection, at any revision.
fn no_such_connection(text: &str, view: &impl View) -> Error {
    Error::offline(format!("there is no connection {text}"), view.revision())
}

/// A fresh id, or with an `Idempotency-Key` always the same for the same key and target: the receiving gateway
/// knows by it what it has written already.
fn message_id(headers: &HeaderMap, target: &[&str]) -> Result<Arc<str>, Error> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(format!("m-{}", chance::nonce()).into()) };
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::bad_request(format!("Idempotency-Key: 1 to {KEY_BYTES_MAX} bytes")));
    }
    let mut hash = Sha256::new();
    for part in target.iter().map(|part| part.as_bytes()).chain([key.as_bytes()]) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let id = digest[..16].iter().fold(String::from(KEYED_PREFIX), |mut id, byte| {
        write!(id, "{byte:02x}").expect("writing to a string can't fail");
        id
    });
    Ok(id.into())
}
