//! Registers and unregisters connections in numbered batches.
//!
//! *Order.* One task decides what goes into which batch. Serials are given here, ascending, and a session gets its registrations
//! in their order. Batches are numbered from 1 within a session; several are under way. When any of them fails in a way
//! that leaves its outcome open, all that are not answered are sent again, in order and word for word: the directory
//! answers a number that it has applied as it did the first time, and refuses one that comes too early. So an outcome is
//! learned for every batch, once, whatever was lost on the way.
//!
//! *A lost session* takes everything with it: what was registered, what was under way and what waited. The table still
//! has every connection whose socket is open; a new session begins with registering all of them again, each with the
//! revision at which it was granted before: it gets its place back, or learns that somebody else has it.
//!
//! *A place that somebody else has.* The answer to such a registration is that it waits. The grant comes by the watch, see
//! [`super::ours`], which may be earlier than that answer. Where the watch has a gap the registration is sent once more: under
//! a serial that was used, it is answered as things are and changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use joins::Joins;

use super::asking::Ask;
use super::clients::{Bound, Farewell, Handle, Refused, Subscribe};
use super::settings::RegistrarLimits;
use super::table::Table;
use crate::chance;
use crate::directory::{
    Batch, BatchDone, BatchRefused, ConnectionId, Epoch, Op, OpOutcome, OpRefused, Policy, Reason, Release, Serial,
    limits,
};
use crate::wire::close::CloseCode;
use crate::wire::peer::{Answer, Failure, RequestBody};

/// First and longest wait before batches are sent again. An election takes a few of the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// Counted for every operation beside its texts.
const OP_BYTES: usize = 32;

/// What sockets ask of the registrar.
#[derive(Debug)]
pub(super) enum Command {
    /// A client arrived.
    Register(Arc<Handle>),
    /// One arrived that wants to be subscribed to topics from the beginning.
    RegisterWith(Arc<Handle>, Vec<Arc<str>>),
    /// A client is subscribed here and waits for the directory.
    Subscribe(Box<Subscribe>),
    /// Its socket is closed, or written to no more but for a goodbye. The sender ends when the directory has forgotten the
    /// connection, or never will because its session is over.
    Unregister(Arc<Handle>, Reason, oneshot::Sender<()>),
    /// The directory has a connection that this gateway does not have.
    Forget(ConnectionId),
    /// What became of those that wait may have been missed.
    AskAgain,
    /// Tells when nothing waits and nothing is under way.
    WhenIdle(oneshot::Sender<()>),
}

/// What the registrar is connected to.
pub(super) struct Lines {
    /// From sockets.
    pub(super) commands: mpsc::Receiver<Command>,
    /// From the session keeper: the session to register in.
    pub(super) session: watch::Receiver<Option<Epoch>>,
    /// To the session keeper: a session that the directory says is over.
    pub(super) fenced: watch::Sender<Epoch>,
}

/// Registers and unregisters connections in numbered batches.
pub(super) struct Registrar<A> {
    ask: A,
    table: Arc<Table>,
    limits: RegistrarLimits,
    policy: Policy,
    lines: Lines,
    epoch: Option<Epoch>,
    last_serial: Serial,
    last_seq: u64,
    registers: BTreeMap<Serial, Arc<Handle>>,
    /// Those that wait and are asked for once more.
    again: VecDeque<Arc<Handle>>,
    unregisters: VecDeque<Leaving>,
    joins: Joins,
    waiting_since: Option<Instant>,
    under_way: VecDeque<Sent>,
    asked: FuturesUnordered<BoxFuture<'static, (u64, Result<Answer, Failure>)>>,
    failures: u32,
    again_at: Option<Instant>,
    idle: Vec<oneshot::Sender<()>>,
}

/// A connection that is to be unregistered.
#[derive(Debug)]
struct Leaving {
    serial: Serial,
    reason: Reason,
    /// Who waits until it is.
    done: Option<oneshot::Sender<()>>,
}

/// A batch that is under way.
#[derive(Debug)]
struct Sent {
    batch: Batch,
    /// Its first operations, which are about topics.
    topic_ops: usize,
    /// The connections of the next ones, which are registrations; what follows are unregistrations.
    handles: Vec<Arc<Handle>>,
    /// Who waits for its unregistrations; that ends when this is dropped.
    waiters: Vec<oneshot::Sender<()>>,
    done: Option<BatchDone>,
}

impl Sent {
    fn seq(&self) -> u64 {
        self.batch.seq.expect("every batch of the registrar is numbered")
    }
}

impl<A: Ask> Registrar<A> {
    pub(super) fn new(ask: A, table: Arc<Table>, limits: RegistrarLimits, policy: Policy, lines: Lines) -> Self {
        Self {
            ask,
            table,
            limits,
            policy,
            lines,
            epoch: None,
            last_serial: 0,
            last_seq: 0,
            registers: BTreeMap::new(),
            again: VecDeque::new(),
            unregisters: VecDeque::new(),
            joins: Joins::default(),
            waiting_since: None,
            under_way: VecDeque::new(),
            asked: FuturesUnordered::new(),
            failures: 0,
            again_at: None,
            idle: Vec::new(),
        }
    }

    /// Works until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.session_changed();
        let table = Arc::clone(&self.table);
        loop {
            self.give_up_late();
            self.send_what_is_due().await;
            self.tell_idle();
            let wake_at = self.wake_at();
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = self.lines.session.changed() => self.session_changed(),
                Some((seq, result)) = self.asked.next() => self.answered(seq, result),
                Some(command) = self.lines.commands.recv() => {
                    self.take(command);
                    while let Ok(more) = self.lines.commands.try_recv() {
                        self.take(more);
                    }
                }
                () = table.subscriptions().left.notified() => {
                    self.take_emptied();
                    self.note_wait();
                }
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => self.send_again().await,
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Register(handle) => self.register(handle),
            Command::RegisterWith(handle, topics) => self.register_with(&handle, topics),
            Command::Subscribe(subscribe) => self.subscribed(*subscribe),
            Command::Unregister(handle, reason, done) => self.unregister(&handle, reason, done),
            Command::Forget(id) => self.forget_one(id),
            Command::AskAgain => {
                self.again = self.table.all().into_iter().filter(|handle| handle.is_pending()).collect();
            }
            Command::WhenIdle(tell) => self.idle.push(tell),
        }
        self.note_wait();
    }

    fn note_wait(&mut self) {
        if self.queued() > 0 {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
    }

    fn register(&mut self, handle: Arc<Handle>) {
        if handle.is_ending() {
            return;
        }
        if self.registers.len() >= self.limits.queue_max {
            handle.close(CloseCode::Overloaded);
            return;
        }
        self.last_serial += 1;
        handle.number(self.last_serial);
        if !self.table.enter(Arc::clone(&handle)) {
            handle.close(CloseCode::Drain);
            return;
        }
        // Without a session it waits in the table for the next one.
        if let Some(epoch) = self.epoch {
            handle.expect(epoch);
            self.registers.insert(self.last_serial, handle);
        }
    }

    fn unregister(&mut self, handle: &Arc<Handle>, reason: Reason, done: oneshot::Sender<()>) {
        self.table.subscriptions().leave(handle.serial());
        self.take_emptied();
        let was_there = self.table.leave(handle);
        let was_sent = self.registers.remove(&handle.serial()).is_none();
        if was_there && was_sent && self.epoch.is_some() {
            self.unregisters.push_back(Leaving { serial: handle.serial(), reason, done: Some(done) });
        }
    }

    fn forget_one(&mut self, id: ConnectionId) {
        if self.epoch == Some(id.epoch) && self.table.get(id.serial).is_none() {
            self.unregisters.push_back(Leaving { serial: id.serial, reason: Reason::Closed, done: None });
        }
    }

    fn queued(&self) -> usize {
        self.registers.len() + self.again.len() + self.unregisters.len() + self.joins.queued()
    }

    fn wake_at(&self) -> Option<Instant> {
        if self.again_at.is_some() {
            return self.again_at;
        }
        let has_room = self.epoch.is_some() && self.under_way.len() < self.limits.batches_in_flight;
        let batch_at = self.waiting_since.filter(|_| has_room && self.queued() > 0);
        let late_at = self.joins.oldest().map(|since| since + self.limits.register_wait);
        batch_at.map(|since| since + self.limits.batch_wait).into_iter().chain(late_at).min()
    }

    /// With nothing under way a batch leaves at once; otherwise what comes meanwhile is gathered for a moment.
    async fn send_what_is_due(&mut self) {
        while let Some(epoch) = self.epoch {
            let waited = self.waiting_since.is_some_and(|since| since.elapsed() >= self.limits.batch_wait);
            let is_due = self.under_way.is_empty() || waited || self.queued() >= self.limits.batch_ops;
            let has_room = self.under_way.len() < self.limits.batches_in_flight && self.again_at.is_none();
            if self.queued() == 0 || !is_due || !has_room {
                return;
            }
            let sent = self.gather(epoch);
            self.waiting_since = (self.queued() > 0).then(Instant::now);
            let batch = sent.batch.clone();
            self.under_way.push_back(sent);
            self.launch(batch).await;
        }
    }

    fn gather(&mut self, epoch: Epoch) -> Sent {
        let (mut handles, mut waiters) = (Vec::new(), Vec::new());
        self.last_seq += 1;
        // Topics come first: who is registered with some has them when it is told so, also in a new session.
        let (mut ops, topics, mut bytes) =
            self.due_joins(self.last_seq, self.limits.batch_ops_max / 2, self.limits.batch_bytes_max);
        let topic_ops = ops.len();
        let ops_max = self.limits.batch_ops_max - topics;
        // Unregistrations have room at the end, and are not held back by registrations for ever: both get half when both wait.
        let room_for_registers = ops_max - self.unregisters.len().min(ops_max / 2);
        while handles.len() < room_for_registers && bytes < self.limits.batch_bytes_max && self.joins.queued() == 0 {
            let next = self.registers.pop_first().map(|(_, handle)| handle);
            let Some(handle) = next.or_else(|| self.again.pop_front()) else { break };
            bytes += OP_BYTES + handle.register_bytes();
            ops.push(Op::Register(handle.register(self.policy)));
            handles.push(handle);
        }
        while ops.len() - topic_ops < ops_max {
            let Some(Leaving { serial, reason, done }) = self.unregisters.pop_front() else { break };
            ops.push(Op::Unregister { serial, reason });
            waiters.extend(done);
        }
        Sent { batch: Batch { epoch, seq: Some(self.last_seq), ops }, topic_ops, handles, waiters, done: None }
    }

    /// Asked once now, so that batches leave in the order of these calls.
    async fn launch(&mut self, batch: Batch) {
        let ask = self.ask.clone();
        let seq = batch.seq.unwrap_or_default();
        let mut asked: BoxFuture<'static, _> =
            Box::pin(async move { (seq, ask.ask_once(RequestBody::Batch(batch)).await) });
        match futures_util::poll!(&mut asked) {
            std::task::Poll::Ready(answer) => self.asked.push(Box::pin(std::future::ready(answer))),
            std::task::Poll::Pending => self.asked.push(asked),
        }
    }

    async fn send_again(&mut self) {
        if self.again_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.again_at = None;
        let open: Vec<Batch> = self.under_way.iter().filter(|s| s.done.is_none()).map(|s| s.batch.clone()).collect();
        for batch in open {
            self.launch(batch).await;
        }
    }

    fn answered(&mut self, seq: u64, result: Result<Answer, Failure>) {
        match result {
            Ok(Answer::Batch(Ok(done))) => {
                self.failures = 0;
                if let Some(sent) = self.under_way.iter_mut().find(|sent| sent.seq() == seq) {
                    sent.done = Some(done);
                }
                while let Some(sent) = self.under_way.pop_front_if(|sent| sent.done.is_some()) {
                    self.conclude(sent);
                }
            }
            Ok(Answer::Batch(Err(BatchRefused::Fenced))) => self.fenced("the directory says that the session is over"),
            Ok(Answer::Batch(Err(BatchRefused::Gap { expected })))
                if self.under_way.front().is_some_and(|first| expected < first.seq()) =>
            {
                self.fenced("the directory misses a batch that it has answered");
            }
            Ok(Answer::Batch(Err(BatchRefused::TooOld { .. }))) => {
                self.fenced("the directory no longer holds the outcome of a batch");
            }
            Err(Failure::Refused { why }) => self.drop_refused(seq, &why),
            Ok(_) | Err(_) => self.go_back(),
        }
    }

    fn conclude(&mut self, sent: Sent) {
        let seq = sent.seq();
        let Sent { batch, topic_ops, handles, waiters, done: Some(done) } = sent else { return };
        for (op, outcome) in batch.ops.iter().zip(done.ops.iter()).take(topic_ops) {
            self.conclude_topics(seq, op, outcome, done.revision);
        }
        for (handle, outcome) in handles.iter().zip(done.ops.iter().skip(topic_ops)) {
            let farewell = match outcome {
                // It has left, or is about to, and will be unregistered.
                _ if handle.is_ending() => continue,
                OpOutcome::Registered { granted, .. } => {
                    let bound = Bound { epoch: batch.epoch, granted: *granted };
                    handle.grant(bound, done.revision);
                    continue;
                }
                OpOutcome::Pending => {
                    handle.pend(batch.epoch);
                    continue;
                }
                OpOutcome::Refused(refused) => refusal(handle, refused),
                other => out_of_place(handle, other),
            };
            // Closed first: whoever is not in the table has stopped, or is about to.
            handle.close(farewell);
            self.table.leave(handle);
        }
        for waiter in waiters {
            // Whoever waited may have given up.
            let _ = waiter.send(());
        }
    }

    /// All that is not answered is sent again after a pause.
    fn go_back(&mut self) {
        self.asked.clear();
        let pause = PAUSE.0.saturating_mul(1 << self.failures.min(10)).min(PAUSE.1);
        self.failures += 1;
        self.again_at = Some(Instant::now() + chance::jittered(pause, 0.5));
    }

    /// A batch that can't be taken as it is was not applied, and so were none after it: they move up.
    fn drop_refused(&mut self, seq: u64, why: &str) {
        tracing::error!(seq, why, "the directory refuses a batch; its registrations are given up");
        if let Some(position) = self.under_way.iter().position(|sent| sent.seq() == seq) {
            if let Some(refused) = self.under_way.remove(position) {
                for handle in &refused.handles {
                    handle.close(CloseCode::Overloaded);
                    self.table.leave(handle);
                }
                for op in &refused.batch.ops[..refused.topic_ops] {
                    self.give_up_topics(seq, op, &Refused::overloaded());
                }
            }
            for sent in self.under_way.range_mut(position..) {
                sent.batch.seq = Some(sent.seq() - 1);
            }
            self.joins.move_up(seq);
            self.last_seq -= 1;
        }
        self.go_back();
    }

    fn fenced(&mut self, why: &str) {
        if let Some(epoch) = self.epoch {
            tracing::warn!(epoch, why, "registrations wait for a new session");
            self.lines.fenced.send_replace(epoch);
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.epoch = None;
        self.asked.clear();
        self.under_way.clear();
        self.registers.clear();
        self.again.clear();
        self.unregisters.clear();
        self.joins.forget();
        self.waiting_since = None;
        self.again_at = None;
        self.failures = 0;
        self.last_seq = 0;
    }

    fn session_changed(&mut self) {
        let session = *self.lines.session.borrow_and_update();
        if session == self.epoch {
            return;
        }
        self.forget();
        let Some(epoch) = session else { return };
        self.epoch = Some(epoch);
        self.join_all();
        self.note_wait();
        self.registers = self.table.all().into_iter().map(|handle| (handle.serial(), handle)).collect();
        for handle in self.registers.values() {
            handle.expect(epoch);
        }
        if !self.registers.is_empty() {
            tracing::info!(
                epoch,
                connections = self.registers.len(),
                "registering open connections in the new session"
            );
            self.note_wait();
        }
    }

    fn tell_idle(&mut self) {
        if self.epoch.is_none() || (self.queued() == 0 && self.under_way.is_empty()) {
            for tell in self.idle.drain(..) {
                // Whoever asked may have stopped waiting.
                let _ = tell.send(());
            }
        }
    }
}

/// What a client is told whose registration is refused.
fn refusal(handle: &Handle, refused: &OpRefused) -> Farewell {
    match refused {
        OpRefused::ConnectionLimit { .. } => CloseCode::ConnectionLimit.into(),
        OpRefused::Invalid(_) => CloseCode::BadProtocol.into(),
        OpRefused::Conflict { .. } => Farewell::refused(),
        OpRefused::Superseded { .. } => CloseCode::Superseded.into(),
        OpRefused::Banned(ban) => {
            Farewell::released(&Release { code: limits::CODE_BANNED, reason: ban.reason.clone() })
        }
        // It was asked for once more and does not wait any more.
        OpRefused::SerialReused if handle.is_pending() => CloseCode::Superseded.into(),
        OpRefused::TopicLimit | OpRefused::SerialReused | OpRefused::NotFound | OpRefused::VersionMismatch { .. } => {
            out_of_place(handle, refused)
        }
    }
}

fn out_of_place(handle: &Handle, outcome: &dyn std::fmt::Debug) -> Farewell {
    tracing::error!(?outcome, serial = handle.serial(), "a registration has an outcome that it can't have");
    CloseCode::Overloaded.into()
}

mod joins;
#[cfg(test)]
mod tests;
