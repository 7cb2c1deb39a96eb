//! One client as the rest of the gateway sees it: who it is, its outbox, and its life signs.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::credentials::Pass;
use super::farewell::Farewell;
use super::outbox::{self, Bound, Burst, Entered, Outbox, Push, Room};
use super::subscribe::Reply;
use crate::directory::{Epoch, Policy, Reason, Register, Release, Revision, Serial};
use crate::gateway::answers::Ticket;
use crate::gateway::lease::Lease;
use crate::gateway::meters::Meters;
use crate::gateway::settings::Settings;
use crate::tokens::Grant;
use crate::wire::client::PushTail;
use crate::wire::close::CloseCode;
use crate::wire::peer::{Ack, TargetStatus};

/// Who is not registered yet, or not served, is looked at again after so many milliseconds.
const LOOK_AGAIN_MS: u64 = 1000;

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
    started: Instant,
    room: Room,
    burst_bytes: usize,
    heartbeat_ms: u64,
    silence_ms: u64,
    register_wait_ms: u64,
    pending_wait_ms: u64,
    pending_max: usize,
    subscriptions_max: usize,
    /// Exclusive connections are served only while it is held.
    lease: Arc<Lease>,
    /// Whether those are exclusive whose tokens do not say.
    exclusive: bool,
    queued: AtomicI64,
    pending: AtomicUsize,
    pub(in crate::gateway) meters: Meters,
}

impl Common {
    pub(in crate::gateway) fn new(settings: &Settings, lease: &Arc<Lease>, meters: Meters) -> Self {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let clients = &settings.clients;
        Self {
            started: Instant::now(),
            room: Room { messages: clients.outbox_messages_max, bytes: clients.outbox_bytes_max },
            burst_bytes: clients.burst_bytes,
            heartbeat_ms: millis(clients.heartbeat),
            silence_ms: millis(clients.heartbeat + clients.pong_timeout),
            register_wait_ms: millis(settings.registrar.register_wait),
            pending_wait_ms: millis(settings.pending_wait()),
            pending_max: settings.registrar.pending_max,
            subscriptions_max: clients.subscriptions_max,
            lease: Arc::clone(lease),
            exclusive: settings.is_exclusive(),
            queued: AtomicI64::new(0),
            pending: AtomicUsize::new(0),
            meters,
        }
    }

    /// Milliseconds since the gateway started.
    pub(in crate::gateway) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Clients that wait for the place of another.
    pub(in crate::gateway) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
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
    pub(super) pass: Pass,
    /// What its token says, instead of what the gateway does.
    policy: Option<Policy>,
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
            pass: Pass::default(),
            policy: None,
            outbox: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Of a client that showed a token.
    pub(super) fn granted_by(mut self, grant: &Grant) -> Self {
        self.pass.issue(grant);
        self.policy = grant.policy;
        self
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

    /// The session in which it can be pushed to now: the one that holds it, or is about to. None while it waits for the place of
    /// another, or is to be closed.
    pub(in crate::gateway) fn current(&self) -> Option<Epoch> {
        self.outbox().current()
    }

    /// Whether the directory knows it, or is about to, as a connection of this session.
    pub(in crate::gateway) fn is_of(&self, epoch: Epoch) -> bool {
        self.outbox().is_of(epoch)
    }

    /// Whether it is to be closed, or is.
    pub(in crate::gateway) fn is_ending(&self) -> bool {
        self.outbox().is_ending()
    }

    /// Whether it waits for the place of another.
    pub(in crate::gateway) fn is_pending(&self) -> bool {
        self.outbox().pending_ms().is_some()
    }

    /// Whether its socket is closed, or will not be written to or read any more but for the goodbye.
    pub(in crate::gateway) fn is_finished(&self) -> bool {
        self.outbox().is_finished()
    }

    /// How many topics it may be subscribed to.
    pub(in crate::gateway) fn subscriptions_max(&self) -> usize {
        self.common.subscriptions_max
    }

    /// Whether it may be written to and what its client sends be passed on, now. Not while it is to stop at once, and an
    /// exclusive one only while the session that it was granted in is held.
    pub(super) fn may_serve(&self) -> bool {
        self.serves(&self.outbox())
    }

    /// As `may_serve`, for who looks from outside.
    #[cfg(feature = "simulation")]
    pub(in crate::gateway) fn is_served(&self) -> bool {
        self.may_serve()
    }

    fn serves(&self, outbox: &Outbox) -> bool {
        !outbox.farewell().is_some_and(Farewell::stops_at_once)
            && outbox.bound().is_none_or(|bound| self.holds(bound.epoch))
    }

    /// Whether a connection of this session is served, as far as the lease is concerned.
    fn holds(&self, epoch: Epoch) -> bool {
        let exclusive = self.policy.map_or(self.common.exclusive, |policy| policy.claim().is_some());
        !exclusive || self.common.lease.serves(epoch)
    }

    /// The registration of it, with this policy unless its token says another. What was granted in a former session is not asked for anew.
    pub(in crate::gateway) fn register(&self, policy: Policy) -> Register {
        Register {
            serial: self.serial(),
            user: Arc::clone(&self.who.user),
            device: Arc::clone(&self.who.device),
            policy: self.policy.unwrap_or(policy),
            since: self.bound().map(|bound| bound.granted),
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

    /// The registration waits for the place of another. When too many do so already, the client has to come back later.
    pub(in crate::gateway) fn pend(&self, epoch: Epoch) {
        self.change(|outbox| outbox.pend(epoch, self.common.now_ms()));
        if self.common.pending() > self.common.pending_max {
            self.close(CloseCode::Overloaded);
        }
    }

    /// The registration is committed; the client will be told, once.
    pub(in crate::gateway) fn grant(&self, bound: Bound, revision: Revision) {
        if self.change(|outbox| outbox.grant(bound, revision)) {
            self.wake.notify_one();
        }
    }

    /// The directory asks for a connection to be released; `false` if it is not this one.
    pub(in crate::gateway) fn release(&self, epoch: Epoch, release: &Release) -> bool {
        let is_meant = self.outbox().is_of(epoch);
        if is_meant {
            self.close(Farewell::released(release));
        }
        is_meant
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
            if outbox.is_of(epoch) && !outbox.is_ending() && !self.holds(epoch) {
                outbox::settle(ticket, TargetStatus::Fenced);
                return Entered::Fenced;
            }
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
            Entered::Fenced => TargetStatus::Fenced,
            Entered::Full => {
                self.common.meters.slow_consumer();
                TargetStatus::Slow
            }
        }
    }

    /// Answers a request of the client, once it is welcomed.
    pub(super) fn reply(&self, reply: Reply) {
        self.outbox().reply(reply);
        self.wake.notify_one();
    }

    /// Tells the client something that it asked to be told. One that does not take it is closed.
    pub(in crate::gateway) fn notice(&self, text: &Arc<str>) {
        if self.change(|outbox| outbox.notice(text, self.common.room)) {
            self.common.meters.slow_consumer();
        }
        self.wake.notify_one();
    }

    /// Why it is to be closed, if it is.
    pub(super) fn ending(&self) -> Option<Farewell> {
        self.outbox().farewell().cloned()
    }

    /// There may be something to write, or to read again.
    pub(in crate::gateway) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until it is to be closed. Other news is lost meanwhile.
    pub(super) async fn ended(&self) {
        while !self.is_ending() {
            self.woken().await;
        }
    }

    /// Waits until there may be something to write.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// What is to be written now. While it may not be served, that is nothing but a farewell.
    pub(super) fn take(&self) -> Burst {
        let mut outbox = self.outbox();
        if !outbox.is_ending() && !self.serves(&outbox) {
            return Burst::default();
        }
        let burst = outbox.take(self.common.burst_bytes);
        drop(outbox);
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

    /// Looks after what is due by now: the end of its token, registration in time, ping, pong. When to look again; `None` when there is no need.
    pub(super) fn visit(&self, now_ms: u64) -> Option<u64> {
        let mut outbox = self.outbox();
        if outbox.is_ending() {
            return None;
        }
        let expires_ms = self.pass.expires_ms(now_ms);
        if now_ms >= expires_ms {
            drop(outbox);
            self.close(CloseCode::TokenExpired);
            return None;
        }
        if !self.serves(&outbox) {
            // Nobody listens to it, so its silence does not count.
            self.heard(now_ms);
            return Some(expires_ms.min(now_ms + LOOK_AGAIN_MS));
        }
        let silent_ms = self.heard_ms.load(Ordering::Relaxed) + self.common.silence_ms;
        let register_ms = match (outbox.bound(), outbox.pending_ms()) {
            (Some(_), _) => u64::MAX,
            (None, Some(since_ms)) => since_ms + self.common.pending_wait_ms,
            (None, None) => self.opened_ms + self.common.register_wait_ms,
        };
        let over = [(silent_ms, CloseCode::NoPong), (register_ms, CloseCode::Overloaded)];
        if let Some((_, code)) = over.into_iter().find(|(due_ms, _)| now_ms >= *due_ms) {
            drop(outbox);
            self.close(code);
            return None;
        }
        let mut ping_ms = self.ping_ms.load(Ordering::Relaxed);
        if now_ms >= ping_ms {
            outbox.ping();
            self.wake.notify_one();
            ping_ms = now_ms + self.common.heartbeat_ms;
            self.ping_ms.store(ping_ms, Ordering::Relaxed);
        }
        let look_again_ms = if outbox.bound().is_some() { u64::MAX } else { now_ms + LOOK_AGAIN_MS };
        Some(ping_ms.min(silent_ms).min(register_ms).min(look_again_ms).min(expires_ms))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Outbox) -> T) -> T {
        let mut outbox = self.outbox();
        let (before, was_pending) = (outbox.bytes(), outbox.pending_ms().is_some());
        let result = change(&mut outbox);
        match (was_pending, outbox.pending_ms().is_some()) {
            (false, true) => {
                self.common.pending.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                self.common.pending.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
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
