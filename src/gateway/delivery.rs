//! Delivering messages to sockets of this gateway, for itself and for other processes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::answers::Answers;
use super::clients::Handle;
use super::lease::Lease;
use super::meters::Meters;
use super::replica::Replica;
use super::settings::PeerLimits;
use super::spread::{self, Audience, Many, Paced};
use super::table::Table;
use crate::directory::{ConnectionId, Epoch, Revision, Serial};
use crate::push::Local;
use crate::view::View;
use crate::wire::client::PushTail;
use crate::wire::peer::{Ack, Deliver, Delivery, KEYED_PREFIX, Message, Payload, TargetStatus, Targets};

/// Delivers messages to sockets of this gateway.
#[derive(Debug)]
pub(super) struct Deliveries {
    sockets: Arc<Sockets>,
    lease: Arc<Lease>,
    replica: Arc<Replica>,
    paced: Paced,
}

/// What it takes to put a message into outboxes.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) table: Arc<Table>,
    pub(super) limits: PeerLimits,
    meters: Meters,
    remembered: Mutex<Remembered>,
}

/// A delivery that has entered the outboxes.
#[derive(Debug)]
pub(super) enum Entered {
    /// To named targets.
    Each(Each),
    /// To many.
    Many(Many),
    /// Nothing is waited for.
    Known(Delivery),
}

/// A delivery to named targets.
#[derive(Debug)]
pub(super) struct Each {
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
        let sockets = Arc::new(Sockets { table, limits, meters, remembered: Mutex::default() });
        Self { sockets, lease, replica, paced: Paced::default() }
    }

    async fn enter_each(&self, message: Arc<Message>, targets: Vec<ConnectionId>, resolved: Revision) -> Each {
        if self.replica.revision() < resolved {
            // What the replica does not reach in time the table may know all the same: it has every connection of this
            // gateway from the moment at which its registration is asked for.
            let within = Duration::from_millis(message.timeout_ms.into()).min(self.sockets.limits.reach);
            let _ = self.replica.reach(resolved, within).await;
        }
        let tail = Arc::new(tail_of(&message));
        let answers = Answers::new(targets.len());
        for (position, target) in targets.iter().enumerate() {
            let status = match self.sockets.table.get(target.serial) {
                Some(handle) => self.sockets.enter_one(&handle, position, *target, &message, &tail, &answers),
                None => Some(TargetStatus::Gone),
            };
            if let Some(status) = status {
                answers.settle(position, status);
            }
        }
        Each { answers, message, targets }
    }
}

impl Sockets {
    /// The status, unless the socket's task tells it later.
    pub(super) fn enter_one(
        &self,
        handle: &Handle,
        position: usize,
        target: ConnectionId,
        message: &Message,
        tail: &Arc<PushTail>,
        answers: &Arc<Answers>,
    ) -> Option<TargetStatus> {
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

    /// Notes what became of one target.
    pub(super) fn settled(&self, message: &Message, target: ConnectionId, status: TargetStatus) {
        self.meters.target(status);
        if status == TargetStatus::Gone && message.id.starts_with(KEYED_PREFIX) {
            self.remembered().forget(&message.id, target.serial);
        }
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
    type Entered = Entered;

    fn epoch(&self) -> Option<Epoch> {
        self.lease.epoch()
    }

    async fn enter(&self, delivery: Deliver) -> Entered {
        let Deliver { message, targets, resolved, .. } = delivery;
        let pick = match targets {
            Targets::Each(targets) => return Entered::Each(self.enter_each(message, targets, resolved).await),
            Targets::Many(pick) => pick,
        };
        let is_paced = pick.rate_per_s > 0;
        let audience = Audience::new(&self.sockets, &message, pick);
        if is_paced {
            return Entered::Known(self.paced.begin(&self.sockets, message, audience));
        }
        Entered::Many(spread::enter(&self.sockets, message, audience).await)
    }

    /// Waits until every target is settled or the message's time is over.
    async fn outcome(&self, entered: Entered) -> Delivery {
        let Each { answers, message, targets } = match entered {
            Entered::Each(each) => each,
            Entered::Many(many) => return Delivery::Many(spread::reached(&self.sockets, many).await),
            Entered::Known(delivery) => return delivery,
        };
        let statuses = answers.wait(Duration::from_millis(message.timeout_ms.into())).await;
        for (status, target) in statuses.iter().zip(targets) {
            self.sockets.settled(&message, target, *status);
        }
        Delivery::Each(statuses)
    }
}

pub(super) fn tail_of(message: &Message) -> PushTail {
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
