//! Delivering messages to sockets of this gateway, for itself and for other processes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::answers::Answers;
use super::lease::Lease;
use super::meters::Meters;
use super::replica::Replica;
use super::settings::PeerLimits;
use super::table::Table;
use crate::directory::{ConnectionId, Epoch, Serial};
use crate::push::Local;
use crate::view::View;
use crate::wire::client::PushTail;
use crate::wire::peer::{Ack, Deliver, KEYED_PREFIX, Message, Payload, TargetStatus};

/// Delivers messages to sockets of this gateway.
#[derive(Debug)]
pub(super) struct Deliveries {
    table: Arc<Table>,
    lease: Arc<Lease>,
    replica: Arc<Replica>,
    meters: Meters,
    limits: PeerLimits,
    remembered: Mutex<Remembered>,
}

/// A delivery that has entered the outboxes.
#[derive(Debug)]
pub(super) struct Entered {
    answers: Arc<Answers>,
    message: Arc<Message>,
    targets: Vec<ConnectionId>,
}

impl Deliveries {
    pub(super) fn new(
        table: Arc<Table>,
        lease: Arc<Lease>,
        replica: Arc<Replica>,
        meters: Meters,
        limits: PeerLimits,
    ) -> Self {
        Self { table, lease, replica, meters, limits, remembered: Mutex::default() }
    }

    /// Puts a message into the outboxes of its targets. Deliveries enter in the order of these calls when each is awaited
    /// before the next.
    pub(super) async fn enter(&self, delivery: Deliver) -> Entered {
        if self.replica.revision() < delivery.resolved {
            // What the replica does not reach in time the table may know all the same: it has every connection of this
            // gateway from the moment at which its registration is asked for.
            let within = Duration::from_millis(delivery.message.timeout_ms.into()).min(self.limits.reach);
            let _ = self.replica.reach(delivery.resolved, within).await;
        }
        let Deliver { message, targets, .. } = delivery;
        let tail = Arc::new(tail_of(&message));
        let answers = Answers::new(targets.len());
        for (position, target) in targets.iter().enumerate() {
            if let Some(status) = self.enter_one(position, *target, &message, &tail, &answers) {
                answers.settle(position, status);
            }
        }
        Entered { answers, message, targets }
    }

    /// The status, unless the socket's task tells it later.
    fn enter_one(
        &self,
        position: usize,
        target: ConnectionId,
        message: &Message,
        tail: &Arc<PushTail>,
        answers: &Arc<Answers>,
    ) -> Option<TargetStatus> {
        let Some(handle) = self.table.get(target.serial) else { return Some(TargetStatus::Gone) };
        let is_keyed = message.id.starts_with(KEYED_PREFIX);
        if is_keyed && !self.remember(&message.id, target.serial) {
            return Some(TargetStatus::Written);
        }
        let ticket = (message.ack != Ack::None).then(|| (answers.ticket(position), message.ack));
        let status = handle.push(target.epoch, tail, ticket);
        if is_keyed && status != TargetStatus::Written {
            self.remembered().forget(&message.id, target.serial);
        }
        (message.ack == Ack::None || status != TargetStatus::Written).then_some(status)
    }

    /// Waits until every target is settled or the message's time is over; one status per target, in order.
    pub(super) async fn statuses(&self, entered: Entered) -> Vec<TargetStatus> {
        let Entered { answers, message, targets } = entered;
        let statuses = answers.wait(Duration::from_millis(message.timeout_ms.into())).await;
        for (status, target) in statuses.iter().zip(targets) {
            self.meters.target(*status);
            if *status == TargetStatus::Gone && message.id.starts_with(KEYED_PREFIX) {
                self.remembered().forget(&message.id, target.serial);
            }
        }
        statuses
    }

    /// Whether this message is new to this connection.
    fn remember(&self, message: &Arc<str>, serial: Serial) -> bool {
        self.remembered().enter(message, serial, Instant::now(), &self.limits)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered.lock().expect("no code panics while holding this lock")
    }
}

impl Local for Deliveries {
    fn epoch(&self) -> Option<Epoch> {
        self.lease.epoch()
    }

    async fn deliver(&self, delivery: Deliver) -> Vec<TargetStatus> {
        let entered = self.enter(delivery).await;
        self.statuses(entered).await
    }
}

fn tail_of(message: &Message) -> PushTail {
    let quoted;
    let data = match &message.data {
        Payload::Json(text) => ("data", String::from_utf8_lossy(text)),
        Payload::Base64(text) => {
            quoted = format!("\"{}\"", String::from_utf8_lossy(text));
            ("data_b64", quoted.into())
        }
    };
    let (topic, event) = (message.topic.as_deref(), message.event.as_deref());
    PushTail::new(&message.id, topic, event, (data.0, &data.1), message.ack == Ack::Client)
}

/// Which keyed messages were written to which connections. By serial, which stays when the session changes.
#[derive(Debug, Default)]
struct Remembered {
    since: HashMap<(Arc<str>, Serial), Instant>,
    order: VecDeque<(Instant, (Arc<str>, Serial))>,
}

impl Remembered {
    /// Whether it is new; it is remembered from now on.
    fn enter(&mut self, message: &Arc<str>, serial: Serial, now: Instant, limits: &PeerLimits) -> bool {
        let over = |since: Instant| now.duration_since(since) >= limits.remembered_for;
        while self.order.front().is_some_and(|(since, _)| self.order.len() >= limits.remembered_max || over(*since)) {
            if let Some((since, key)) = self.order.pop_front()
                && self.since.get(&key) == Some(&since)
            {
                self.since.remove(&key);
            }
        }
        let key = (Arc::clone(message), serial);
        if self.since.contains_key(&key) {
            return false;
        }
        self.since.insert(key.clone(), now);
        self.order.push_back((now, key));
        true
    }

    /// It was not written after all.
    fn forget(&mut self, message: &Arc<str>, serial: Serial) {
        self.since.remove(&(Arc::clone(message), serial));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_keyed_message_is_new_once_until_it_is_forgotten() {
        let limits = PeerLimits { remembered_max: 2, ..PeerLimits::default() };
        let mut remembered = Remembered::default();
        let [a, b, c] = ["m-k-a", "m-k-b", "m-k-c"].map(Arc::<str>::from);
        assert!(remembered.enter(&a, 1, Instant::now(), &limits));
        assert!(!remembered.enter(&a, 1, Instant::now(), &limits));
        assert!(remembered.enter(&a, 2, Instant::now(), &limits), "another connection");
        remembered.forget(&a, 2);
        assert!(remembered.enter(&b, 1, Instant::now(), &limits));
        assert!(remembered.enter(&c, 1, Instant::now(), &limits));
        assert!(remembered.since.len() <= limits.remembered_max);
        tokio::time::advance(limits.remembered_for).await;
        assert!(remembered.enter(&c, 1, Instant::now(), &limits));
    }
}
