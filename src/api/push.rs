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
use crate::wire::peer::{KEYED_PREFIX, Message, Payload, TargetStatus};

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
    let ids: Vec<_> = orders.iter().map(|order| Arc::clone(&order.message.id)).collect();
    let longest = orders.iter().map(|order| order.message.timeout_ms).max().unwrap_or(0);
    let within = Duration::from_millis(longest.into()) + RESOLVE;
    let pushed = if orders.is_empty() { Vec::new() } else { within_or_timeout(within, &api, orders).await };
    let mut pushed = ids.into_iter().zip(pushed);
    let result = |sent: Result<(), Error>| {
        let (id, pushed) = sent.map(|()| pushed.next().expect("every order has an answer"))?;
        Ok::<_, Error>(answer(&id, pushed?))
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
    };
    let (began, id) = (Instant::now(), Arc::clone(&order.message.id));
    let within = Duration::from_millis(order.message.timeout_ms.into()) + RESOLVE;
    let pushed = timeout(within, api.backend.push(order)).await.unwrap_or(Err(PushRefused::Timeout));
    telemetry::push_took(&api.process, route, began.elapsed());
    telemetry::push_request(&api.process, route, outcome_label(&pushed));
    let answer = answer(&id, pushed?);
    Ok(Shows::revision(answer.revision).json(StatusCode::OK, &answer))
}

/// Targets reached, targets not reached, and both in one word.
fn outcome(pushed: &Pushed) -> (usize, usize, PushOutcome) {
    let reached = |status| matches!(status, TargetStatus::Acked | TargetStatus::Written);
    let delivered = pushed.results.iter().filter(|result| reached(result.status)).count();
    let failed = pushed.results.len() - delivered;
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
        Err(PushRefused::Unavailable(_)) => "unavailable",
        Err(PushRefused::Timeout) => "timeout",
    }
}

fn answer(id: &str, pushed: Pushed) -> PushAnswer {
    let (delivered, failed, outcome) = outcome(&pushed);
    let target = |result: crate::push::TargetResult| PushTarget {
        connection: result.id.to_string(),
        gateway: result.gateway.to_string(),
        epoch: result.id.epoch,
        status: result.status,
    };
    PushAnswer {
        id: id.to_owned(),
        outcome,
        delivered: delivered as u64,
        failed: failed as u64,
        revision: pushed.revision,
        results: pushed.results.into_iter().map(target).collect(),
    }
}

fn item_order<B: Backend>(item: PushItem, id: Arc<str>, api: &Api<B>) -> Result<Order, Error> {
    let target = match (item.user, item.connection, item.topic) {
        (Some(user), None, None) => Target::User(request::user(user)?.into()),
        (None, Some(text), None) => match request::connection(&text)? {
            Some(connection) => Target::Connection(connection),
            None => return Err(no_such_connection(&text, api.backend.view())),
        },
        (None, None, Some(_)) => return Err(Error::not_offered("A push to a topic")),
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
    if body.rate_per_s != 0 {
        return Err(Error::not_offered("rate_per_s: spreading a push"));
    }
    let timeout_max = limits.timeout_max.as_millis();
    let timeout_ms = body.timeout_ms.map_or(limits.push_timeout.as_millis(), u128::from);
    if timeout_ms == 0 || timeout_ms > timeout_max {
        return Err(Error::bad_request(format!("timeout_ms: 1 to {timeout_max}")));
    }
    if body.event.as_ref().is_some_and(|event| !is_optional_name(event)) {
        return Err(Error::bad_request("event: at most 128 bytes of text without control characters"));
    }
    let message = Message {
        id,
        topic: None,
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
