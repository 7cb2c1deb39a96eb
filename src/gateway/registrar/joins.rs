//! The topics that the directory is told this gateway has subscribers of.
//!
//! *Order.* A topic is joined when it has subscribers here and left when it has none. Which of the two is due is decided when a
//! batch is gathered, by what is so at that moment and by what was last sent; batches take effect in order. So the directory
//! ends where the table is, however often subscribers come and go meanwhile, and a storm of them costs at most one operation
//! of a topic a batch.
//!
//! *Answers.* A client is told that it is subscribed when the join is committed: a push that is resolved at that revision or
//! later comes here. A session that is lost takes the joins with it; they are made anew before the connections are
//! registered, and whoever waits goes on to wait.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::{Ask, Registrar};
use crate::chance::Hashing;
use crate::directory::{Op, OpOutcome, Revision, limits::OP_TOPICS_MAX};
use crate::gateway::clients::{Handle, Refused, Subscribe};
use crate::wire::close::CloseCode;

/// Topics and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Joins {
    /// Topics whose state has to be looked at, each once.
    due: VecDeque<Arc<str>>,
    is_due: HashSet<Arc<str>, Hashing>,
    /// The topics that are joined, or will be by a batch that was sent.
    sent: HashMap<Arc<str>, Joined, Hashing>,
    /// Requests by topics that they wait for.
    waiters: HashMap<Arc<str>, Vec<u64>, Hashing>,
    /// Requests that wait, the oldest first.
    requests: BTreeMap<u64, Waiting>,
    last_request: u64,
    /// The newest revision that an answer told.
    revision: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joined {
    /// By the batch of this number.
    UnderWay(u64),
    At(Revision),
}

#[derive(Debug)]
struct Waiting {
    subscribe: Subscribe,
    since: Instant,
    /// Topics that are not joined yet.
    open: usize,
    revision: Revision,
}

impl Joins {
    /// Topics that wait to be joined or left.
    pub(super) fn queued(&self) -> usize {
        self.due.len()
    }

    /// Since when the oldest request waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.requests.first_key_value().map(|(_, waiting)| waiting.since)
    }

    /// The batches after this one have moved up by one.
    pub(super) fn move_up(&mut self, seq: u64) {
        for joined in self.sent.values_mut() {
            if let Joined::UnderWay(by) = joined
                && *by > seq
            {
                *by -= 1;
            }
        }
    }

    /// A session is over; those who wait go on to wait.
    pub(super) fn forget(&mut self) {
        self.sent.clear();
        self.due.clear();
        self.is_due.clear();
    }

    /// Takes a request out.
    fn remove(&mut self, id: u64) -> Option<Subscribe> {
        let Waiting { subscribe, .. } = self.requests.remove(&id)?;
        for topic in &subscribe.topics {
            if let Some(waiters) = self.waiters.get_mut(topic) {
                waiters.retain(|waiter| *waiter != id);
                if waiters.is_empty() {
                    self.waiters.remove(topic);
                }
            }
        }
        Some(subscribe)
    }

    fn look_at(&mut self, topic: Arc<str>) {
        if self.is_due.insert(Arc::clone(&topic)) {
            self.due.push_back(topic);
        }
    }

    /// One of the topics of these requests is joined, or nobody wants it any more.
    fn settle(&mut self, topic: &str, revision: Revision) {
        for id in self.waiters.remove(topic).unwrap_or_default() {
            let Some(waiting) = self.requests.get_mut(&id) else { continue };
            waiting.open -= 1;
            waiting.revision = waiting.revision.max(revision);
            if waiting.open == 0
                && let Some(Waiting { subscribe, revision, .. }) = self.requests.remove(&id)
            {
                subscribe.answer(Ok(revision));
            }
        }
    }
}

impl<A: Ask> Registrar<A> {
    /// A client is subscribed as far as this gateway goes, and is answered when the directory knows.
    pub(super) fn subscribed(&mut self, subscribe: Subscribe) {
        if self.joins.requests.len() >= self.limits.queue_max {
            self.refuse(subscribe, Refused::overloaded());
            return;
        }
        let joins = &mut self.joins;
        let id = joins.last_request + 1;
        let (mut open, mut revision) = (0, 0);
        for topic in &subscribe.topics {
            if let Some(Joined::At(at)) = joins.sent.get(topic) {
                revision = revision.max(*at);
                continue;
            }
            open += 1;
            joins.waiters.entry(Arc::clone(topic)).or_default().push(id);
            if !joins.sent.contains_key(topic) {
                joins.look_at(Arc::clone(topic));
            }
        }
        if open == 0 {
            subscribe.answer(Ok(revision.max(joins.revision)));
            return;
        }
        joins.last_request = id;
        joins.requests.insert(id, Waiting { subscribe, since: Instant::now(), open, revision });
    }

    /// A client arrives that wants to be subscribed from the beginning.
    pub(super) fn register_with(&mut self, handle: &Arc<Handle>, topics: Vec<Arc<str>>) {
        self.register(Arc::clone(handle));
        if handle.is_ending() {
            return;
        }
        if let Some(subscribe) = Subscribe::first(&self.table, handle, topics) {
            self.subscribed(subscribe);
        }
    }

    /// Takes in which topics have lost their last subscribers.
    pub(super) fn take_emptied(&mut self) {
        for topic in self.table.subscriptions().emptied() {
            self.joins.look_at(topic);
        }
    }

    /// The operations that are due, for the batch of this number: of at most so many topics, of about so many bytes. With them
    /// come these two.
    pub(super) fn due_joins(&mut self, seq: u64, topics_max: usize, bytes_max: usize) -> (Vec<Op>, usize, usize) {
        let (mut join, mut leave) = (Vec::new(), Vec::new());
        let (mut count, mut bytes) = (0, 0);
        while count < topics_max && bytes < bytes_max {
            let Some(topic) = self.joins.due.pop_front() else { break };
            self.joins.is_due.remove(&topic);
            let is_sent = self.joins.sent.contains_key(&topic);
            match (self.table.subscriptions().is_wanted(&topic), is_sent) {
                (true, false) => {
                    self.joins.sent.insert(Arc::clone(&topic), Joined::UnderWay(seq));
                    join.push(Arc::clone(&topic));
                }
                (false, true) => {
                    self.joins.sent.remove(&topic);
                    leave.push(Arc::clone(&topic));
                }
                (true, true) => continue,
                (false, false) => {
                    // Whoever asked for it has left it since.
                    let revision = self.joins.revision;
                    self.joins.settle(&topic, revision);
                    continue;
                }
            }
            count += 1;
            bytes += topic.len();
        }
        let joins = join.chunks(OP_TOPICS_MAX).map(|topics| Op::Join { topics: topics.to_vec() });
        let leaves = leave.chunks(OP_TOPICS_MAX).map(|topics| Op::Leave { topics: topics.to_vec() });
        (joins.chain(leaves).collect(), count, bytes)
    }

    /// What became of an operation about topics.
    pub(super) fn conclude_topics(&mut self, seq: u64, op: &Op, outcome: &OpOutcome, revision: Revision) {
        self.joins.revision = self.joins.revision.max(revision);
        let Op::Join { topics } = op else { return };
        if let OpOutcome::Refused(refused) = outcome {
            tracing::warn!(%refused, topics = topics.len(), "the directory takes no more topics of this gateway");
            self.give_up_topics(seq, op, &Refused::too_many_topics());
            return;
        }
        for topic in topics {
            match self.joins.sent.get_mut(topic) {
                // It was left and joined again since; that is waited for.
                Some(Joined::UnderWay(by)) if *by != seq => continue,
                Some(joined) => *joined = Joined::At(revision),
                None => {}
            }
            self.joins.settle(topic, revision);
        }
    }

    /// These topics are not joined by this batch. Whoever waits for them is told; whoever had them in a former session has
    /// to find another gateway.
    pub(super) fn give_up_topics(&mut self, seq: u64, op: &Op, why: &Refused) {
        let Op::Join { topics } = op else { return };
        for topic in topics {
            if self.joins.sent.get(topic) != Some(&Joined::UnderWay(seq)) {
                continue;
            }
            self.joins.sent.remove(topic);
            for id in self.joins.waiters.get(topic).cloned().unwrap_or_default() {
                if let Some(subscribe) = self.joins.remove(id) {
                    self.refuse(subscribe, why.clone());
                }
            }
            for serial in self.table.subscriptions().of(topic).from(0) {
                if let Some(handle) = self.table.get(serial) {
                    handle.close(CloseCode::Overloaded);
                }
            }
        }
    }

    /// Tells those who have waited for too long.
    pub(super) fn give_up_late(&mut self) {
        while let Some((&id, waiting)) = self.joins.requests.first_key_value()
            && waiting.since.elapsed() >= self.limits.register_wait
            && let Some(subscribe) = self.joins.remove(id)
        {
            self.refuse(subscribe, Refused::no_leader());
        }
    }

    /// What the request has added is taken back.
    fn refuse(&self, subscribe: Subscribe, why: Refused) {
        self.table.subscriptions().unsubscribe(subscribe.handle.serial(), &subscribe.added);
        subscribe.answer(Err(why));
    }

    /// In a new session every topic that has subscribers is joined anew.
    pub(super) fn join_all(&mut self) {
        let wanted = self.table.subscriptions().topics();
        let waited_for: Vec<_> = self.joins.waiters.keys().cloned().collect();
        for topic in wanted.into_iter().chain(waited_for) {
            self.joins.look_at(topic);
        }
    }
}
