//! One client as the rest of the gateway sees it: who it is, its outbox, and its life signs.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::outbox::{Bound, Burst, Entered, Farewell, Outbox, Push, Room};
use crate::directory::{Epoch, Policy, Reason, Register, Revision, Serial};
use crate::gateway::answers::Ticket;
use crate::gateway::meters::Meters;
use crate::gateway::settings::{ClientLimits, RegistrarLimits};
use crate::wire::client::PushTail;
use crate::wire::close::CloseCode;
use crate::wire::peer::{Ack, TargetStatus};

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct Who {
    pub(in crate::gateway) user: Arc<str>,
    pub(in crate::gateway) device: Arc<str>,
    pub(in crate::gateway) remote: Option<Arc<str>>,
    pub(in crate::gateway) meta: Option<Arc<str>>,
    pub(in crate::gateway) connected_at_ms: u64,
}

/// What all clients of a gateway share.
#[derive(Debug)]
pub(in crate::gateway) struct Common {
    room: Room,
    burst_bytes: usize,
    heartbeat_ms: u64,
    silence_ms: u64,
    register_wait_ms: u64,
    queued: AtomicI64,
    pub(in crate::gateway) meters: Meters,
}

impl Common {
    pub(in crate::gateway) fn new(clients: &ClientLimits, registrar: &RegistrarLimits, meters: Meters) -> Self {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            room: Room { messages: clients.outbox_messages_max, bytes: clients.outbox_bytes_max },
            burst_bytes: clients.burst_bytes,
            heartbeat_ms: millis(clients.heartbeat),
            silence_ms: millis(clients.heartbeat + clients.pong_timeout),
            register_wait_ms: millis(registrar.register_wait),
            queued: AtomicI64::new(0),
            meters,
        }
    }

    /// Bytes that wait in all outboxes.
    pub(in crate::gateway) fn queued(&self) -> i64 {
        self.queued.load(Ordering::Relaxed)
    }
}

/// One client. Times are milliseconds since the gateway started.
#[derive(Debug)]
pub(in crate::gateway) struct Handle {
    pub(in crate::gateway) who: Who,
    common: Arc<Common>,
    serial: AtomicU64,
    opened_ms: u64,
    heard_ms: AtomicU64,
    ping_ms: AtomicU64,
    outbox: Mutex<Outbox>,
    wake: Notify,
}

impl Handle {
    pub(in crate::gateway) fn new(who: Who, common: Arc<Common>, now_ms: u64) -> Self {
        let ping_ms = AtomicU64::new(now_ms + common.heartbeat_ms);
        Self {
            who,
            common,
            serial: AtomicU64::new(0),
            opened_ms: now_ms,
            heard_ms: AtomicU64::new(now_ms),
            ping_ms,
            outbox: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Its number; 0 until the registrar has given it one.
    pub(in crate::gateway) fn serial(&self) -> Serial {
        self.serial.load(Ordering::Acquire)
    }

    /// Gives it its number.
    pub(in crate::gateway) fn number(&self, serial: Serial) {
        self.serial.store(serial, Ordering::Release);
    }

    /// How the directory knows it, if it does.
    pub(in crate::gateway) fn bound(&self) -> Option<Bound> {
        self.outbox().bound()
    }

    /// Whether it is to be closed, or is.
    pub(in crate::gateway) fn is_ending(&self) -> bool {
        self.outbox().is_ending()
    }

    /// The registration of it.
    pub(in crate::gateway) fn register(&self, policy: Policy) -> Register {
        Register {
            serial: self.serial(),
            user: Arc::clone(&self.who.user),
            device: Arc::clone(&self.who.device),
            policy,
            since: None,
            connected_at_ms: self.who.connected_at_ms,
            remote: self.who.remote.clone(),
            meta: self.who.meta.clone(),
        }
    }

    /// Bytes of text in its registration.
    pub(in crate::gateway) fn register_bytes(&self) -> usize {
        let optional = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        64 + self.who.user.len() + self.who.device.len() + optional(&self.who.remote) + optional(&self.who.meta)
    }

    /// A registration in a session is on its way.
    pub(in crate::gateway) fn expect(&self, epoch: Epoch) {
        self.outbox().expect(epoch);
    }

    /// The registration is committed; the client will be told.
    pub(in crate::gateway) fn grant(&self, bound: Bound, revision: Revision) {
        self.outbox().grant(bound, revision);
        self.wake.notify_one();
    }

    /// The connection is to be closed; the first reason counts.
    pub(in crate::gateway) fn close(&self, farewell: impl Into<Farewell>) {
        self.change(|outbox| outbox.close(farewell.into()));
        self.wake.notify_one();
    }

    /// Queues a message for the connection with this epoch. The ticket is settled when its fate is known; without a ticket
    /// queueing is all that counts.
    pub(in crate::gateway) fn push(
        &self,
        epoch: Epoch,
        tail: &Arc<PushTail>,
        ticket: Option<(Ticket, Ack)>,
    ) -> TargetStatus {
        let entered = self.change(|outbox| {
            let entered = outbox.push(epoch, tail, ticket, self.common.room);
            if entered == Entered::Full {
                outbox.close(CloseCode::SlowConsumer.into());
            }
            entered
        });
        self.wake.notify_one();
        match entered {
            Entered::Queued => TargetStatus::Written,
            Entered::Gone => TargetStatus::Gone,
            Entered::Full => {
                self.common.meters.slow_consumer();
                TargetStatus::Slow
            }
        }
    }

    /// Why it is to be closed, if it is.
    pub(super) fn ending(&self) -> Option<CloseCode> {
        self.outbox().farewell().map(|farewell| farewell.code)
    }

    /// There may be something to write.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until there may be something to write.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// What is to be written now.
    pub(super) fn take(&self) -> Burst {
        let burst = self.outbox().take(self.common.burst_bytes);
        if !burst.pushes.is_empty() {
            // There may be more than one burst holds.
            self.wake.notify_one();
        }
        burst
    }

    /// A burst is in the socket.
    pub(super) fn written(&self, pushes: Vec<Push>) {
        self.change(|outbox| outbox.written(pushes, self.common.room.messages));
    }

    /// The client has everything up to `seq`.
    pub(super) fn acked(&self, seq: u64) {
        self.outbox().acked(seq);
    }

    /// The client gave a sign of life.
    pub(super) fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The socket is closed.
    pub(in crate::gateway) fn finish(&self) {
        self.change(Outbox::finish);
    }

    /// Looks after what is due by now: registration in time, ping, pong. When to look again; `None` when there is no need.
    pub(super) fn visit(&self, now_ms: u64) -> Option<u64> {
        let mut outbox = self.outbox();
        if outbox.is_ending() {
            return None;
        }
        let silent_ms = self.heard_ms.load(Ordering::Relaxed) + self.common.silence_ms;
        if now_ms >= silent_ms {
            drop(outbox);
            self.close(CloseCode::NoPong);
            return None;
        }
        let is_registered = outbox.bound().is_some();
        let register_ms = if is_registered { u64::MAX } else { self.opened_ms + self.common.register_wait_ms };
        if now_ms >= register_ms {
            drop(outbox);
            self.close(CloseCode::Overloaded);
            return None;
        }
        let mut ping_ms = self.ping_ms.load(Ordering::Relaxed);
        if now_ms >= ping_ms {
            outbox.ping();
            self.wake.notify_one();
            ping_ms = now_ms + self.common.heartbeat_ms;
            self.ping_ms.store(ping_ms, Ordering::Relaxed);
        }
        Some(ping_ms.min(silent_ms).min(register_ms))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Outbox) -> T) -> T {
        let mut outbox = self.outbox();
        let before = outbox.bytes();
        let result = change(&mut outbox);
        let difference = outbox.bytes() as i64 - before as i64;
        if difference != 0 {
            self.common.queued.fetch_add(difference, Ordering::Relaxed);
        }
        result
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("no code panics while holding this lock")
    }
}

/// Why watchers are told that a connection ended which the server closed with this code.
pub(in crate::gateway) fn reason_of(code: CloseCode) -> Reason {
    match code {
        CloseCode::NoPong => Reason::NoPong,
        CloseCode::SlowConsumer => Reason::SlowConsumer,
        CloseCode::Kicked => Reason::Kicked,
        CloseCode::Superseded => Reason::Superseded,
        CloseCode::Drain | CloseCode::Rebalance | CloseCode::Restart => Reason::Drained,
        _ => Reason::Closed,
    }
}
