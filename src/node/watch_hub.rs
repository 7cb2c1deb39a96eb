//! The changes that a node still retains, for watchers that follow at their own pace, and for histories.
//!
//! A watcher is a cursor into what is retained; it costs nothing else. One that falls behind is told that it did: nothing
//! is ever skipped in silence.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use postcard::ser_flavors;
use tokio::sync::{Notify, watch};

use super::closings::End;
use super::lines;
use super::trail::{Place, STEP_BYTES, Trail};
use crate::directory::{Directory, Event, Revision, SessionEnd};
use crate::net::framed;
use crate::threads;
use crate::wire::peer::WatchFrame;

/// Events that are freed where changes are published. A large ending takes the place of hundreds of thousands at once, which
/// applying must not wait for.
const FREED_AT_ONCE: usize = 2048;

/// Default of `--retain-events`.
pub const RETAIN_EVENTS: usize = 1_000_000;

/// Default of `--retain-bytes`.
pub const RETAIN_BYTES: u64 = 256 << 20;

/// Memory of an event beside its texts, by estimate: itself, what it points to, and its place in the index.
const EVENT_BYTES: usize = size_of::<Event>() + 64 + STEP_BYTES;

/// Steps of the index that are forgotten with each change that comes, at most; the rest is forgotten by [`WatchHub::settle`].
const TRIM: usize = 4096;

/// Steps of the index that are added, forgotten or looked at while nothing else can be: well under a millisecond.
const SLICE: usize = 1024;

/// How much of what has changed is retained, whichever is reached first. Without events nothing is, for files that are only
/// looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retention {
    /// Changes, as the state machine tells them.
    pub(super) events: usize,
    /// Their memory, by estimate.
    pub(super) bytes: usize,
}

/// The changes of one revision.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) revision: Revision,
    pub(super) at_ms: u64,
    pub(super) events: Vec<Event>,
    /// What the ends of sessions among them closed, in order.
    pub(super) ends: Vec<End>,
    frame: OnceLock<Bytes>,
}

impl Change {
    fn new(revision: Revision, at_ms: u64, events: Vec<Event>, ends: Vec<SessionEnd>) -> Self {
        let ends = ends.into_iter().map(End::new).collect();
        Self { revision, at_ms, events, ends, frame: OnceLock::new() }
    }

    /// The frame for watchers: encoded by the first one that needs it, shared by all.
    pub(super) fn frame(&self) -> Bytes {
        let encode = || {
            let events = self.events.clone();
            framed::encode(&WatchFrame::Events { revision: self.revision, at_ms: self.at_ms, events })
        };
        self.frame.get_or_init(encode).clone()
    }

    /// What the end of a session closed, where this event is one.
    pub(super) fn end(&self, event: usize) -> Option<&End> {
        self.ends.iter().find(|end| end.event == event)
    }

    /// Number of the first line of an event; everything before it must be listed.
    pub(super) fn number(&self, event: usize) -> u32 {
        let lines: u32 = self.events[..event].iter().map(lines::count).sum();
        let ends = self.ends.iter().filter(|end| end.event < event).filter_map(End::listed);
        lines + ends.map(|listed| listed.lines()).sum::<u32>()
    }

    fn is_settled(&self) -> bool {
        self.ends.iter().all(|end| end.listed().is_some())
    }

    /// Memory, by estimate: texts count twice, because the frame has them, too.
    fn bytes(&self) -> usize {
        let events: usize = self.events.iter().map(|event| EVENT_BYTES + 2 * wire_bytes(event)).sum();
        let closed = |end: &End| {
            let rows = end.listed().map_or(end.expected(), |listed| listed.len());
            size_of::<End>() + end.bytes() + rows * STEP_BYTES
        };
        size_of::<Self>() + events + self.ends.iter().map(closed).sum::<usize>()
    }
}

/// Length of the form on the wire, which has all the texts.
fn wire_bytes(event: &Event) -> usize {
    postcard::serialize_with_flavor(event, ser_flavors::Size::default()).expect("an event has a binary form")
}

/// What is retained, and how far the state machine is.
#[derive(Debug)]
pub(super) struct WatchHub {
    held: Mutex<Held>,
    applied: watch::Sender<Position>,
    /// Revision of the oldest change with an end that is not listed and indexed yet.
    unsettled: watch::Sender<Revision>,
    work: Notify,
    /// What was dropped and takes milliseconds to free, which applying must not wait for.
    dropped: Mutex<Vec<Dropped>>,
    retention: Retention,
}

/// Only freed.
#[derive(Debug)]
enum Dropped {
    Changes { _changes: Vec<Arc<Change>> },
    Frozen { _copies: Vec<Arc<Directory>> },
    All { _held: Box<Held> },
}

/// How far the state machine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Everything up to here is applied and, if it changed anything, retained.
    pub(super) applied: Revision,
    /// Counts the snapshots that replaced the state: watches from before one can't go on here.
    pub(super) restarts: u64,
}

#[derive(Debug, Default)]
struct Held {
    changes: VecDeque<Kept>,
    /// Whatever changed after this revision is retained.
    floor: Revision,
    events: usize,
    bytes: usize,
    trail: Trail,
    /// Changes whose ends are still to be listed and indexed.
    unsettled: VecDeque<Arc<Change>>,
}

#[derive(Debug)]
struct Kept {
    change: Arc<Change>,
    /// Its memory, as it was counted.
    bytes: usize,
}

/// The changes that a watcher asks for are no longer retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compacted {
    /// Whatever changed after this revision is retained.
    pub(super) floor: Revision,
}

/// Figures of what is retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retained {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) floor: Revision,
}

impl WatchHub {
    pub(super) fn new(retention: Retention) -> Self {
        Self {
            held: Mutex::default(),
            applied: watch::Sender::default(),
            unsettled: watch::Sender::new(Revision::MAX),
            work: Notify::new(),
            dropped: Mutex::default(),
            retention,
        }
    }

    /// Retains the changes of a revision and wakes the watchers.
    pub(super) fn publish(&self, revision: Revision, at_ms: u64, events: Vec<Event>, ends: Vec<SessionEnd>) {
        if self.retention.events == 0 {
            self.held().floor = revision;
        } else if !events.is_empty() {
            let change = Arc::new(Change::new(revision, at_ms, events, ends));
            let bytes = change.bytes();
            let mut held = self.held();
            held.index(&change);
            held.events += change.events.len();
            held.bytes += bytes;
            if !change.is_settled() {
                held.unsettled.push_back(Arc::clone(&change));
                self.work.notify_one();
            }
            held.changes.push_back(Kept { change, bytes });
            self.shrink(&mut held);
            self.tell_unsettled(&held);
            held.trim(TRIM);
        }
        self.advance(revision);
    }

    /// Drops what is above the limits. The newest change is always retained, however large it is.
    fn shrink(&self, held: &mut Held) {
        let Retention { events, bytes } = self.retention;
        let (mut freed, mut later) = (0, Vec::new());
        while (held.events > events || held.bytes > bytes) && held.changes.len() > 1 {
            let Kept { change, bytes } = held.changes.pop_front().expect("there is more than one");
            held.floor = change.revision;
            held.events -= change.events.len();
            held.bytes -= bytes;
            freed += change.events.len();
            held.unsettled.pop_front_if(|front| Arc::ptr_eq(front, &change));
            if !change.ends.is_empty() || freed > FREED_AT_ONCE {
                later.push(change);
            }
        }
        if !later.is_empty() {
            self.free_later(Dropped::Changes { _changes: later });
        }
    }

    /// The state machine passed a revision that changed nothing.
    pub(super) fn advance(&self, revision: Revision) {
        self.applied.send_modify(|position| position.applied = revision);
    }

    /// A snapshot replaced the state: what came before is no longer retained.
    pub(super) fn restart(&self, revision: Revision) {
        let former = {
            let mut held = self.held();
            let former = std::mem::replace(&mut *held, Held { floor: revision, ..Held::default() });
            self.tell_unsettled(&held);
            former
        };
        self.free_later(Dropped::All { _held: Box::new(former) });
        self.applied.send_modify(|position| {
            *position = Position { applied: revision, restarts: position.restarts + 1 };
        });
    }

    /// Follows the state machine.
    pub(super) fn follow(&self) -> watch::Receiver<Position> {
        self.applied.subscribe()
    }

    /// The changes after `cursor`, at most `limit` of them.
    pub(super) fn after(&self, cursor: Revision, limit: usize) -> Result<Vec<Arc<Change>>, Compacted> {
        let held = self.held();
        if cursor < held.floor {
            return Err(Compacted { floor: held.floor });
        }
        let start = held.changes.partition_point(|kept| kept.change.revision <= cursor);
        Ok(held.changes.range(start..).take(limit).map(|kept| Arc::clone(&kept.change)).collect())
    }

    /// Watches may begin after this revision, or after a later one.
    pub(super) fn floor(&self) -> Revision {
        self.held().floor
    }

    #[cfg(test)]
    pub(super) fn retention(&self) -> Retention {
        self.retention
    }

    /// Figures of what is retained.
    pub(super) fn retained(&self) -> Retained {
        let held = self.held();
        Retained { events: held.events, bytes: held.bytes, floor: held.floor }
    }

    /// When the latest connection of each of these users was closed, milliseconds since 1970, as far as that is retained.
    /// Meant for users who have none now.
    pub(super) fn last_seen(&self, users: &[&str]) -> Vec<Option<u64>> {
        let mut seen = Vec::with_capacity(users.len());
        for users in users.chunks(SLICE) {
            let held = self.held();
            seen.extend(users.iter().map(|user| held.last_close(user)));
        }
        seen
    }

    /// Waits until everything up to `revision`, which the state machine has applied, is here, too: it is told a moment later.
    pub(super) async fn reached(&self, revision: Revision) {
        // It does not end before this hub does.
        let _ = self.applied.subscribe().wait_for(|position| position.applied >= revision).await;
    }

    /// Waits until everything up to `revision` is here and in the index.
    pub(super) async fn settled(&self, revision: Revision) {
        self.reached(revision).await;
        let _ = self.unsettled.subscribe().wait_for(|oldest| *oldest > revision).await;
    }

    /// The retained changes that are about a user, in order.
    pub(super) async fn places(&self, user: &str) -> Vec<Place> {
        let mut places = Vec::new();
        let mut next = self.held().trail.latest(user);
        while let Some(from) = next {
            next = self.held().trail.walk(from, SLICE, &mut places);
            tokio::task::yield_now().await;
        }
        places.sort_unstable();
        places
    }

    /// The change of a revision, if it is retained.
    pub(super) fn change(&self, revision: Revision) -> Option<Arc<Change>> {
        let held = self.held();
        held.position(revision).map(|at| Arc::clone(&held.changes[at].change))
    }

    /// Lists and indexes what the ends of sessions closed, and frees what was dropped: everything that takes too long for
    /// where entries are applied. Runs until it is dropped, which is when the node ends.
    pub(super) async fn settle(&self) {
        loop {
            if let Err(error) = self.settle_all().await {
                // Otherwise the node is ending.
                if error.is_panic() {
                    tracing::error!(%error, "what the end of a session closed could not be listed; histories are no longer told");
                }
                return;
            }
            self.work.notified().await;
        }
    }

    /// As [`Self::settle`], what there is now.
    pub(super) async fn settle_all(&self) -> Result<(), tokio::task::JoinError> {
        loop {
            let next = self.held().unsettled.front().cloned();
            let Some(change) = next else { break };
            for end in &change.ends {
                let listed = end.closings().await?;
                for from in (0..listed.connections()).step_by(SLICE) {
                    let rows = from..listed.connections().min(from + SLICE);
                    if !self.held().index_rows(&change, end.event, rows) {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            self.settled_one(&change);
        }
        while self.held().trim(SLICE) {
            tokio::task::yield_now().await;
        }
        let dropped = std::mem::take(&mut *self.dropped());
        if dropped.is_empty() { Ok(()) } else { threads::apart(move || drop(dropped)).await }
    }

    fn settled_one(&self, change: &Arc<Change>) {
        let mut held = self.held();
        // A snapshot may have been installed meanwhile.
        held.unsettled.pop_front_if(|front| Arc::ptr_eq(front, change));
        // From now on the index knows what the copies knew.
        self.free_later(Dropped::Frozen { _copies: change.ends.iter().filter_map(End::release).collect() });
        if let Some(at) = held.position(change.revision) {
            let bytes = change.bytes();
            let before = std::mem::replace(&mut held.changes[at].bytes, bytes);
            held.bytes = held.bytes - before + bytes;
        }
        self.shrink(&mut held);
        self.tell_unsettled(&held);
    }

    fn tell_unsettled(&self, held: &Held) {
        let oldest = held.unsettled.front().map_or(Revision::MAX, |change| change.revision);
        self.unsettled.send_if_modified(|told| std::mem::replace(told, oldest) != oldest);
    }

    fn free_later(&self, dropped: Dropped) {
        self.dropped().push(dropped);
        self.work.notify_one();
    }

    fn dropped(&self) -> std::sync::MutexGuard<'_, Vec<Dropped>> {
        self.dropped.lock().expect("no code panics while holding this lock")
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().expect("no code panics while holding this lock")
    }
}

impl Held {
    /// Forgets at most `limit` of what the index knows of dropped changes, and says whether there may be more.
    fn trim(&mut self, limit: usize) -> bool {
        self.trail.trim(self.floor, limit)
    }

    fn position(&self, revision: Revision) -> Option<usize> {
        self.changes.binary_search_by_key(&revision, |kept| kept.change.revision).ok()
    }

    /// Indexes the events of a change. What the ends of sessions closed follows when it is listed.
    fn index(&mut self, change: &Change) {
        for (event, of) in (0..).zip(&change.events) {
            if let Some(user) = of.user() {
                let closed = lines::is_close(of).then_some((change.revision, change.at_ms));
                self.trail.add(user, Place { revision: change.revision, event, row: None }, closed);
            }
        }
    }

    /// Indexes some of the connections that the end of a session closed. `false` if the change is no longer retained.
    fn index_rows(&mut self, change: &Change, event: usize, rows: std::ops::Range<usize>) -> bool {
        let Some(listed) = change.end(event).and_then(End::listed) else { return false };
        if change.revision <= self.floor {
            return false;
        }
        let narrow = |number: usize| u32::try_from(number).expect("an entry changes far less than 2^32 connections");
        for row in rows {
            let place = Place { revision: change.revision, event: narrow(event), row: Some(narrow(row)) };
            self.trail.add(listed.row(row).0, place, Some((change.revision, change.at_ms)));
        }
        true
    }

    fn last_close(&self, user: &str) -> Option<u64> {
        let in_end = |change: &&Arc<Change>| change.ends.iter().any(|end| end.closed_one_of(user));
        let unsettled = self.unsettled.iter().rev().find(in_end).map(|change| (change.revision, change.at_ms));
        let (revision, at_ms) = self.trail.closed(user).max(unsettled)?;
        (revision > self.floor).then_some(at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Reason;

    fn publish(hub: &WatchHub, revision: Revision) {
        let event = Event::SessionEnded { epoch: 1, gateway: "g".into(), reason: Reason::Closed };
        hub.publish(revision, 0, vec![event], Vec::new());
    }

    fn revisions(hub: &WatchHub, cursor: Revision) -> Result<Vec<Revision>, Compacted> {
        hub.after(cursor, 10).map(|changes| changes.iter().map(|change| change.revision).collect())
    }

    #[test]
    fn a_watcher_gets_what_comes_after_its_cursor_or_is_told_that_it_is_gone() {
        let hub = WatchHub::new(Retention { events: 3, bytes: usize::MAX });
        assert_eq!(revisions(&hub, 0), Ok(vec![]));
        for revision in [2, 5, 6] {
            publish(&hub, revision);
        }
        assert_eq!(revisions(&hub, 0), Ok(vec![2, 5, 6]));
        assert_eq!(revisions(&hub, 5), Ok(vec![6]));
        publish(&hub, 9);
        assert_eq!(revisions(&hub, 1), Err(Compacted { floor: 2 }));
        assert_eq!(revisions(&hub, 2), Ok(vec![5, 6, 9]));
        hub.restart(20);
        assert_eq!(revisions(&hub, 9), Err(Compacted { floor: 20 }));
        assert_eq!(*hub.follow().borrow(), Position { applied: 20, restarts: 1 });
    }
}
