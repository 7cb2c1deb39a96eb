//! Fan-out: one message for all subscribers of a topic, or for all clients of this gateway.
//!
//! The tail of the frame is encoded once and shared; a connection adds its own `seq` and `granted`. Entering the outboxes gives way to
//! other tasks now and then, so that a million of them stop nobody; the next message of the same link waits, so order holds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::{JoinSet, consume_budget};
use tokio::time::{MissedTickBehavior, interval};

use super::answers::Answers;
use super::clients::Handle;
use super::delivery::{Sockets, tail_of};
use super::subscriptions::Subscribers;
use crate::directory::{ConnectionId, Serial};
use crate::wire::client::PushTail;
use crate::wire::peer::{Delivery, Message, Pick, RESULTS_MAX, Reached, TargetStatus};

/// A paced message is written in slices, about so far apart.
const SLICE_EVERY: Duration = Duration::from_millis(20);

/// A message that has entered the outboxes of all it is for.
#[derive(Debug)]
pub(super) struct Many {
    answers: Arc<Answers>,
    /// Whom it is for; none for what can't be written to now.
    ids: Vec<Option<ConnectionId>>,
    message: Arc<Message>,
    /// Connections that would be meant but for the exceptions.
    excepted: u64,
}

/// Messages that are written at a rate, so many at once at most.
#[derive(Debug, Default)]
pub(super) struct Paced(Mutex<JoinSet<()>>);

/// Whom a message is for, at the moment when this was made.
#[derive(Debug, Clone)]
pub(super) struct Audience {
    serials: Subscribers,
    pick: Arc<Pick>,
}

impl Audience {
    pub(super) fn new(sockets: &Sockets, message: &Message, pick: Pick) -> Self {
        let serials = match &message.topic {
            Some(topic) => sockets.table.subscriptions().of(topic),
            None => sockets.table.serials().into(),
        };
        Self { serials, pick: Arc::new(pick) }
    }

    fn means_device(&self, handle: &Handle) -> bool {
        self.pick.devices.is_empty() || self.pick.devices.contains(&handle.who.device)
    }

    fn excepts(&self, handle: &Handle, serial: Serial) -> bool {
        self.pick.except.iter().any(|id| id.serial == serial && handle.is_of(id.epoch))
    }
}

/// Puts a message into the outboxes of everybody it is for.
pub(super) async fn enter(sockets: &Sockets, message: Arc<Message>, audience: Audience) -> Many {
    let mut meant = Vec::new();
    let mut excepted = 0;
    for serial in audience.serials.from(0) {
        let Some(handle) = sockets.table.get(serial).filter(|handle| audience.means_device(handle)) else { continue };
        if audience.excepts(&handle, serial) {
            excepted += 1;
        } else {
            meant.push(handle);
        }
        consume_budget().await;
    }
    let tail = Arc::new(tail_of(&message));
    let answers = Answers::new(meant.len());
    let mut ids = Vec::with_capacity(meant.len());
    for (position, handle) in meant.into_iter().enumerate() {
        ids.push(enter_one(sockets, &handle, &message, &tail, (&answers, position)));
        consume_budget().await;
    }
    Many { answers, ids, message, excepted }
}

/// Who it was, unless nothing can be written to it now.
fn enter_one(
    sockets: &Sockets,
    handle: &Handle,
    message: &Arc<Message>,
    tail: &Arc<PushTail>,
    (answers, position): (&Arc<Answers>, usize),
) -> Option<ConnectionId> {
    let serial = handle.serial();
    let Some(epoch) = handle.current() else {
        answers.settle(position, TargetStatus::Gone);
        return None;
    };
    let target = ConnectionId { epoch, serial };
    if let Some(status) = sockets.enter_one(handle, position, target, message, tail, answers) {
        answers.settle(position, status);
    }
    Some(target)
}

/// Waits until every outcome is known, or the message's time is over.
pub(super) async fn reached(sockets: &Sockets, many: Many) -> Reached {
    let Many { answers, ids, message, excepted } = many;
    let statuses = answers.wait(Duration::from_millis(message.timeout_ms.into())).await;
    let mut reached = Reached { excepted, ..Reached::default() };
    let mut well = Vec::new();
    for (status, id) in statuses.into_iter().zip(ids) {
        let Some(id) = id else { continue };
        sockets.settled(&message, id, status);
        match status {
            // It has left meanwhile, so it was no target.
            TargetStatus::Gone => continue,
            TargetStatus::Acked | TargetStatus::Written => {
                reached.delivered += 1;
                if well.len() < RESULTS_MAX {
                    well.push((id, status));
                }
            }
            TargetStatus::Fenced | TargetStatus::Slow | TargetStatus::Unreachable | TargetStatus::Timeout => {
                reached.failed += 1;
                if reached.results.len() < RESULTS_MAX {
                    reached.results.push((id, status));
                }
            }
        }
    }
    well.truncate(RESULTS_MAX - reached.results.len());
    reached.results.extend(well);
    reached
}

impl Paced {
    /// Begins to write a message at a rate. `Busy` when as many as may be are under way.
    pub(super) fn begin(&self, sockets: &Arc<Sockets>, message: Arc<Message>, audience: Audience) -> Delivery {
        let mut running = self.0.lock().expect("no code panics while holding this lock");
        while let Some(ended) = running.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "the task of a paced push broke");
            }
        }
        if running.len() >= sockets.limits.paced_max {
            return Delivery::Busy;
        }
        let delivered = audience.serials.len() as u64;
        if delivered > 0 {
            running.spawn(write_paced(Arc::clone(sockets), message, audience));
        }
        Delivery::Many(Reached { delivered, ..Reached::default() })
    }
}

/// Puts a message into the outboxes of its targets, so many a second. Who leaves before its turn gets none.
async fn write_paced(sockets: Arc<Sockets>, message: Arc<Message>, audience: Audience) {
    let rate = u64::from(audience.pick.rate_per_s.max(1));
    let tail = Arc::new(tail_of(&message));
    // A slice holds one at least; below 50 a second they are further apart.
    let slice = (rate * SLICE_EVERY.as_millis() as u64 / 1000).max(1);
    let mut ticks =
        interval(Duration::from_secs(1) * u32::try_from(slice).unwrap_or(u32::MAX) / audience.pick.rate_per_s.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut from = 0;
    loop {
        ticks.tick().await;
        let serials: Vec<Serial> = audience.serials.from(from).take(slice as usize).collect();
        let Some(last) = serials.last() else { return };
        from = last + 1;
        for serial in serials {
            let handle = sockets.table.get(serial).filter(|handle| audience.means_device(handle));
            let Some(handle) = handle.filter(|handle| !audience.excepts(handle, serial)) else { continue };
            let answers = Answers::new(1);
            enter_one(&sockets, &handle, &message, &tail, (&answers, 0));
        }
    }
}
