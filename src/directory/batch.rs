//! What a batch does: connections begin, end, and change their metadata; sessions join topics and leave them.

use std::sync::Arc;

use super::command::{Batch, Op, Reason};
use super::ids::{ConnectionId, Epoch, Serial};
use super::outcome::{BatchDone, BatchRefused, Connection, Event, OpOutcome, OpRefused};
use super::sessions::Counts;
use super::state::{Directory, check_text};

/// A batch while it is applied: what it needs of its session, and what it changes there.
pub(super) struct Work<'a> {
    pub(super) epoch: Epoch,
    pub(super) gateway: Arc<str>,
    /// The process that holds the session.
    pub(super) nonce: Arc<str>,
    pub(super) last_serial: Option<Serial>,
    pub(super) topics: u64,
    pub(super) counts: Counts,
    pub(super) events: &'a mut Vec<Event>,
}

impl Work<'_> {
    pub(super) fn id(&self, serial: Serial) -> ConnectionId {
        ConnectionId { epoch: self.epoch, serial }
    }
}

impl Directory {
    /// Applies a batch, unless its session is over or its number is not the next.
    pub(super) fn batch(&mut self, batch: &Batch, events: &mut Vec<Event>) -> Result<BatchDone, BatchRefused> {
        let epoch = batch.epoch;
        let alive = self.sessions.get(&epoch).ok_or(BatchRefused::Fenced)?;
        if let Some(answer) = batch.seq.and_then(|seq| alive.window.answer(seq)) {
            return answer;
        }
        let (gateway, nonce) = (Arc::clone(&alive.session.gateway), Arc::clone(&alive.session.nonce));
        let (last_serial, topics) = (alive.last_serial, alive.topics);
        let mut work = Work { epoch, gateway, nonce, last_serial, topics, counts: Counts::default(), events };
        let ops = batch.ops.iter().map(|op| self.op(&mut work, op).unwrap_or_else(OpOutcome::Refused)).collect();
        let Work { last_serial, topics, counts, .. } = work;
        self.recount(counts);
        let done = BatchDone { revision: self.revision, ops };
        let alive = Arc::make_mut(self.sessions.get_mut(&epoch).expect("no operation ends a session"));
        alive.last_serial = last_serial;
        alive.topics = topics;
        if batch.seq.is_some() {
            alive.window.push(done.clone());
        }
        Ok(done)
    }

    fn op(&mut self, work: &mut Work<'_>, op: &Op) -> Result<OpOutcome, OpRefused> {
        match op {
            Op::Register(register) => self.register(work, register),
            Op::Unregister { serial, reason } => {
                Ok(OpOutcome::Unregistered { existed: self.unregister(work, work.id(*serial), *reason) })
            }
            Op::Meta { serial, meta, if_version } => {
                self.set_meta(work, work.id(*serial), meta, *if_version).map(|version| OpOutcome::MetaSet { version })
            }
            Op::Join { topics } => self.join(work, topics).map(|changed| OpOutcome::Topics { changed }),
            Op::Leave { topics } => self.leave(work, topics).map(|changed| OpOutcome::Topics { changed }),
        }
    }

    /// A connection is served no longer, or waits no longer. Its place goes to whoever waits for it, in the same moment: a user
    /// is not offline in between.
    fn unregister(&mut self, work: &mut Work<'_>, id: ConnectionId, reason: Reason) -> bool {
        let contested = self.withdraw(id);
        let closed = self.take(id);
        let Some(user) = closed.as_ref().map(|closed| Arc::clone(&closed.user)).or_else(|| contested.clone()) else {
            return false;
        };
        if let Some(closed) = &closed {
            work.counts.closed(id.epoch, closed);
        }
        let online = closed.is_some() || self.is_online(&user);
        let granted = contested.map(|user| self.settle(&user, &mut work.counts)).unwrap_or_default();
        if let Some(closed) = closed {
            let last = !self.is_online(&user);
            let gateway = Arc::clone(&work.gateway);
            work.events.push(Event::Closed { id, user, gateway, granted: closed.granted, reason, last });
        }
        self.tell_granted(granted, !online, work.events);
        true
    }

    fn set_meta(
        &mut self,
        work: &mut Work<'_>,
        id: ConnectionId,
        meta: &Arc<str>,
        if_version: Option<u32>,
    ) -> Result<u32, OpRefused> {
        check_text(Some(meta)).map_err(OpRefused::Invalid)?;
        let before = self.pages.get(id).ok_or(OpRefused::NotFound)?;
        let current = before.meta_version;
        if if_version.is_some_and(|version| version != current) {
            return Err(OpRefused::VersionMismatch { current });
        }
        let version = current.saturating_add(1);
        let after = Connection { meta: Some(Arc::clone(meta)), meta_version: version, ..before.to_connection() };
        let (user, granted, gateway) = (Arc::clone(&after.user), after.granted, Arc::clone(&work.gateway));
        self.pages.put(id, &after);
        work.events.push(Event::MetaChanged { id, user, gateway, granted, meta: Arc::clone(meta), version });
        Ok(version)
    }
}
