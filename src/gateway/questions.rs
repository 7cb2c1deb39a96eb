//! What others ask of this gateway about its connections and their topics.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::clients::{Handle, Hub, Refused, subscribe_for};
use super::peers::{WRITE_QUEUE, WRITE_STALL};
use crate::directory::{ConnectionId, Serial};
use crate::net::framed::{self, FrameReader};
use crate::net::{ReadHalf, WriteHalf};
use crate::view::View;
use crate::wire::peer::{
    GatewayAnswer, GatewayAsk, GatewayRequest, GatewayResponse, Member, PRESENCE_MEMBERS_MAX, Subscribed,
};

/// Changes of a topic's subscribers within this time are told together.
const PRESENCE_WINDOW: Duration = Duration::from_millis(50);

/// Members in one answer: it fits into a frame with room to spare.
const MEMBERS_MAX: usize = 4096;

/// Topics in one answer.
const TOPICS_MAX: usize = 10_000;

/// Answers the questions of a stream, in any order.
pub(super) async fn serve(
    mut reader: FrameReader<ReadHalf>,
    writer: WriteHalf,
    hub: &Hub,
    questions_max: usize,
) -> io::Result<()> {
    let (answers, mut queue) = mpsc::channel(WRITE_QUEUE);
    let read = async move {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                question = reader.next::<GatewayRequest>(), if open.len() < questions_max => {
                    let Some(GatewayRequest { id, ask }) = question? else { return Ok(()) };
                    open.push(async move { GatewayResponse { id, answer: answer(hub, ask).await } });
                }
                Some(answered) = open.next() => {
                    if answers.send(framed::encode(&answered)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    };
    tokio::try_join!(read, framed::write_all(writer, &mut queue, WRITE_STALL)).map(|((), ())| ())
}

/// Answers a question.
pub(super) async fn answer(hub: &Hub, ask: GatewayAsk) -> GatewayAnswer {
    let subscriptions = hub.table.subscriptions();
    match ask {
        GatewayAsk::Most { prefix, limit } => {
            let limit = TOPICS_MAX.min(limit as usize);
            GatewayAnswer::Most(most(subscriptions.counts(&prefix), limit))
        }
        GatewayAsk::Counts(topics) => {
            GatewayAnswer::Counts(topics.iter().map(|topic| subscriptions.count(topic) as u64).collect())
        }
        GatewayAsk::Members { topic, after, limit } => members(hub, &topic, after, MEMBERS_MAX.min(limit as usize)),
        GatewayAsk::Subscribe { connections, topics, begins, timeout_ms } => {
            let deadline = Instant::now() + Duration::from_millis(timeout_ms.into());
            let each = connections.into_iter().map(|id| subscribe(hub, id, &topics, begins, deadline));
            GatewayAnswer::Subscribed(join_all(each).await)
        }
        GatewayAsk::Presence { topic, known, timeout_ms } => {
            presence(hub, &topic, known, Instant::now() + Duration::from_millis(timeout_ms.into())).await
        }
    }
}

/// Most first, then by name.
fn most(counts: Vec<(Arc<str>, u64)>, limit: usize) -> Vec<(Arc<str>, u64)> {
    let mut most = BinaryHeap::with_capacity(limit + 1);
    for (topic, count) in counts {
        most.push((Reverse(count), topic));
        if most.len() > limit {
            most.pop();
        }
    }
    most.into_sorted_vec().into_iter().map(|(Reverse(count), topic)| (topic, count)).collect()
}

/// Who is subscribed, as soon as it is not what the asker knows; changes of a short time are one.
async fn presence(hub: &Hub, topic: &str, known: Option<u64>, deadline: Instant) -> GatewayAnswer {
    let subscriptions = hub.table.subscriptions();
    loop {
        let mut changed = pin!(subscriptions.changed.notified());
        // What changes after the look below is not missed.
        changed.as_mut().enable();
        let version = subscriptions.version(topic);
        let count = subscriptions.count(topic) as u64;
        if known != Some(version) {
            let members = match members(hub, topic, None, PRESENCE_MEMBERS_MAX) {
                GatewayAnswer::Members { members, more: false } => members,
                _ => Vec::new(),
            };
            // Who is about to be registered is not there yet.
            let count = if members.is_empty() { count } else { members.len() as u64 };
            return GatewayAnswer::Presence { version, count, members: Some(members) };
        }
        if timeout_at(deadline, changed).await.is_err() {
            return GatewayAnswer::Presence { version, count, members: None };
        }
        sleep_until(deadline.min(Instant::now() + PRESENCE_WINDOW)).await;
    }
}

fn members(hub: &Hub, topic: &str, after: Option<Serial>, limit: usize) -> GatewayAnswer {
    let subscribers = hub.table.subscriptions().of(topic);
    let mut serials = subscribers.from(after.map_or(0, |after| after.saturating_add(1)));
    let mut members = Vec::new();
    let member = |handle: Arc<Handle>| {
        let id = ConnectionId { epoch: handle.bound()?.epoch, serial: handle.serial() };
        Some(Member { id, user: Arc::clone(&handle.who.user), device: Arc::clone(&handle.who.device) })
    };
    while members.len() < limit {
        let Some(serial) = serials.next() else { break };
        members.extend(hub.table.get(serial).filter(|handle| !handle.is_ending()).and_then(member));
    }
    GatewayAnswer::Members { members, more: serials.next().is_some() }
}

async fn subscribe(hub: &Hub, id: ConnectionId, topics: &[Arc<str>], begins: bool, deadline: Instant) -> Subscribed {
    let found = hub.table.get(id.serial).filter(|handle| handle.is_of(id.epoch) && !handle.is_ending());
    let Some(handle) = found else { return Subscribed::Gone };
    if !begins {
        hub.table.subscriptions().unsubscribe(id.serial, topics);
        return Subscribed::At(hub.replica.revision());
    }
    let told = match subscribe_for(hub, &handle, topics.to_vec()) {
        Ok(told) => told,
        Err(why) => return refused(why),
    };
    match timeout_at(deadline, told).await {
        Ok(Ok(Ok(revision))) => Subscribed::At(revision),
        Ok(Ok(Err(why))) => refused(why),
        // The registrar is gone, and the gateway about to be.
        Ok(Err(_)) => Subscribed::Gone,
        Err(_) => refused(Refused::no_leader()),
    }
}

fn refused(why: Refused) -> Subscribed {
    let (code, why, temporary) = why.into_parts();
    Subscribed::Refused { code: code.to_owned(), why, temporary }
}
