//! The changes that a node still holds, for watchers that follow at their own pace.
//!
//! A watcher is a cursor into what is held; it costs nothing else. One that falls behind is told that it did: nothing is
//! ever skipped in silence.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use tokio::sync::watch;

use crate::directory::{Event, Revision, SessionEnd};
use crate::net::framed;
use crate::wire::peer::WatchFrame;

/// Events that are held at most.
const EVENTS_MAX: usize = 1_000_000;

/// Bytes of events that are held at most, by estimate.
const BYTES_MAX: usize = 256 << 20;

/// Memory of an event beside its texts, by estimate.
const EVENT_BYTES: usize = 160;

/// The changes of one revision.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) revision: Revision,
    pub(super) at_ms: u64,
    pub(super) events: Vec<Event>,
    /// The states right after sessions ended, in order.
    pub(super) ends: Vec<SessionEnd>,
    frame: OnceLock<Bytes>,
}

impl Change {
    /// The frame for watchers: encoded by the first one that needs it, shared by all.
    pub(super) fn frame(&self) -> Bytes {
        let encode = || {
            let events = self.events.clone();
            framed::encode(&WatchFrame::Events { revision: self.revision, at_ms: self.at_ms, events })
        };
        self.frame.get_or_init(encode).clone()
    }

    fn bytes(&self) -> usize {
        self.events.len() * EVENT_BYTES + size_of::<Self>()
    }
}

/// What is held, and how far the state machine is.
#[derive(Debug)]
pub(super) struct WatchHub {
    held: Mutex<Held>,
    applied: watch::Sender<Position>,
    /// Dropped changes that hold a frozen state: letting go of one takes milliseconds, which applying must not wait for.
    dropped: Mutex<Vec<Arc<Change>>>,
    events_max: usize,
    bytes_max: usize,
}

/// How far the state machine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Everything up to here is applied and, if it changed anything, held.
    pub(super) applied: Revision,
    /// Counts the snapshots that replaced the state: watches from before one can't go on here.
    pub(super) restarts: u64,
}

#[derive(Debug, Default)]
struct Held {
    changes: VecDeque<Arc<Change>>,
    /// Whatever changed after this revision is held.
    floor: Revision,
    events: usize,
    bytes: usize,
}

/// The changes that a watcher asks for are no longer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compacted {
    /// Whatever changed after this revision is held.
    pub(super) floor: Revision,
}

impl Default for WatchHub {
    fn default() -> Self {
        Self::with_limits(EVENTS_MAX, BYTES_MAX)
    }
}

impl WatchHub {
    pub(super) fn with_limits(events_max: usize, bytes_max: usize) -> Self {
        let (held, applied, dropped) = (Mutex::default(), watch::Sender::default(), Mutex::default());
        Self { held, applied, dropped, events_max, bytes_max }
    }

    /// Holds the changes of a revision and wakes the watchers.
    pub(super) fn publish(&self, revision: Revision, at_ms: u64, events: Vec<Event>, ends: Vec<SessionEnd>) {
        if !events.is_empty() {
            let change = Arc::new(Change { revision, at_ms, events, ends, frame: OnceLock::new() });
            let mut held = self.held();
            held.events += change.events.len();
            held.bytes += change.bytes();
            held.changes.push_back(change);
            // The newest change is always held, however large it is.
            while (held.events > self.events_max || held.bytes > self.bytes_max) && held.changes.len() > 1 {
                let dropped = held.changes.pop_front().expect("there is more than one");
                held.floor = dropped.revision;
                held.events -= dropped.events.len();
                held.bytes -= dropped.bytes();
                if !dropped.ends.is_empty() {
                    self.dropped().push(dropped);
                }
            }
        }
        self.advance(revision);
    }

    /// The state machine passed a revision that changed nothing.
    pub(super) fn advance(&self, revision: Revision) {
        self.applied.send_modify(|position| position.applied = revision);
    }

    /// A snapshot replaced the state: what came before is no longer held.
    pub(super) fn restart(&self, revision: Revision) {
        *self.held() = Held { floor: revision, ..Held::default() };
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
        let start = held.changes.partition_point(|change| change.revision <= cursor);
        Ok(held.changes.range(start..).take(limit).cloned().collect())
    }

    /// Watches may begin after this revision, or after a later one.
    pub(super) fn floor(&self) -> Revision {
        self.held().floor
    }

    /// Lets go of what was dropped. To be called now and then, from anywhere but where entries are applied.
    pub(super) fn let_go(&self) {
        let dropped = std::mem::take(&mut *self.dropped());
        drop(dropped);
    }

    fn dropped(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Change>>> {
        self.dropped.lock().expect("no code panics while holding this lock")
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().expect("no code panics while holding this lock")
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
        let hub = WatchHub::with_limits(3, usize::MAX);
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
