//! The connections that the end of a session closed, one by one, and the topics that it left.
//!
//! The end of a session is one event, and with it comes a copy of the state that was frozen at that moment. The copy is
//! turned into a list once, on a thread of its own, and let go: while it is held, it holds on to everything that has
//! changed since. Feeds, histories and the memory of what is retained all count on the list.

use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;
use tokio::task::JoinError;

use super::lines;
use crate::directory::{ConnectionId, Directory, Epoch, Event, Reason, Revision, Serial, SessionEnd};
use crate::threads;

/// Memory of a connection in the list beside its user's name, by estimate: the row, and what an allocator adds to a name.
const ROW_BYTES: usize = size_of::<Closing>() + 32;

/// Length of a name that is not known yet.
const NAME_BYTES: usize = 16;

/// The end of a session, as it is retained.
#[derive(Debug)]
pub(super) struct End {
    /// Which of the events of its revision it is.
    pub(super) event: usize,
    epoch: Epoch,
    expected: u64,
    /// Until the list is made.
    frozen: Mutex<Option<Arc<Directory>>>,
    listed: OnceCell<Arc<Closings>>,
}

/// What the end of a session closed, in order.
#[derive(Debug)]
pub(super) struct Closings {
    epoch: Epoch,
    gateway: Arc<str>,
    reason: Reason,
    rows: Box<[Closing]>,
    /// After the connections.
    topics: Box<[Arc<str>]>,
    lines: u32,
    bytes: usize,
}

/// A connection that was closed.
#[derive(Debug)]
struct Closing {
    user: Arc<str>,
    serial: Serial,
    granted: Revision,
    /// Lines of the rows before this one.
    lines_before: u32,
    /// Whether the user has no connection any more.
    last: bool,
}

impl End {
    pub(super) fn new(end: SessionEnd) -> Self {
        let SessionEnd { n, epoch, frozen } = end;
        // Most sessions that end in order have nothing left: nothing to list, and nothing to hold on to.
        let expected = frozen.ended_sessions().find(|ended| ended.epoch == epoch).map_or(0, |ended| ended.held.max(1));
        let listed = OnceCell::new_with((expected == 0).then(|| Arc::new(list(&frozen, epoch))));
        let frozen = (expected > 0).then(|| Arc::new(frozen));
        Self { event: n, epoch, expected, frozen: Mutex::new(frozen), listed }
    }

    /// The list, as soon as it is made.
    ///
    /// # Errors
    /// When the process is about to end.
    pub(super) async fn closings(&self) -> Result<Arc<Closings>, JoinError> {
        let listed = self.listed.get_or_try_init(async || {
            let (frozen, epoch) = (self.frozen(), self.epoch);
            threads::apart(move || Arc::new(frozen.map_or_else(Closings::none, |frozen| list(&frozen, epoch)))).await
        });
        listed.await.map(Arc::clone)
    }

    /// The list, if it is made.
    pub(super) fn listed(&self) -> Option<&Arc<Closings>> {
        self.listed.get()
    }

    /// How many connections it closed.
    pub(super) fn expected(&self) -> usize {
        usize::try_from(self.expected).unwrap_or(usize::MAX)
    }

    /// Asks the copy, as long as there is one, whether a connection of the user was closed.
    pub(super) fn closed_one_of(&self, user: &str) -> bool {
        self.frozen().is_some_and(|frozen| frozen.has_ended(self.epoch, user))
    }

    /// Lets go of the copy, which takes milliseconds where nobody else holds it. The list must have been made.
    pub(super) fn release(&self) -> Option<Arc<Directory>> {
        debug_assert!(self.listed().is_some(), "the list can't be made any more");
        self.lock().take()
    }

    /// Memory, by estimate as long as the list is not made.
    pub(super) fn bytes(&self) -> usize {
        self.listed().map_or(self.expected().saturating_mul(ROW_BYTES + NAME_BYTES), |listed| listed.bytes)
    }

    fn frozen(&self) -> Option<Arc<Directory>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Directory>>> {
        self.frozen.lock().expect("no code panics while holding this lock")
    }
}

impl Closings {
    fn none() -> Self {
        let (rows, topics) = (Box::default(), Box::default());
        Self { epoch: 0, gateway: "".into(), reason: Reason::Closed, rows, topics, lines: 0, bytes: 0 }
    }

    /// How many events there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.topics.len()
    }

    /// How many of them, the first ones, are about connections.
    pub(super) fn connections(&self) -> usize {
        self.rows.len()
    }

    /// How many lines of a feed they are.
    pub(super) fn lines(&self) -> u32 {
        self.lines
    }

    /// Whose connection one of them is about, and how many lines come before it.
    pub(super) fn row(&self, row: usize) -> (&Arc<str>, u32) {
        (&self.rows[row].user, self.rows[row].lines_before)
    }

    /// One of them, as the change that the state machine would have told.
    pub(super) fn event(&self, row: usize) -> Event {
        let Some(Closing { user, serial, granted, last, .. }) = self.rows.get(row) else {
            let (topic, gateway) = (Arc::clone(&self.topics[row - self.rows.len()]), Arc::clone(&self.gateway));
            return Event::TopicLeft { topic, epoch: self.epoch, gateway };
        };
        Event::Closed {
            id: ConnectionId { epoch: self.epoch, serial: *serial },
            user: Arc::clone(user),
            gateway: Arc::clone(&self.gateway),
            granted: *granted,
            reason: self.reason,
            last: *last,
        }
    }
}

fn list(frozen: &Directory, epoch: Epoch) -> Closings {
    let mut of = Closings { epoch, ..Closings::none() };
    let mut rows = Vec::new();
    for event in frozen.closed_by(epoch, None) {
        let lines_before = of.lines;
        of.lines += lines::count(&event);
        let Event::Closed { id, user, gateway, granted, reason, last } = event else { continue };
        of.bytes += ROW_BYTES + user.len();
        (of.gateway, of.reason) = (gateway, reason);
        rows.push(Closing { user, serial: id.serial, granted, lines_before, last });
    }
    of.rows = rows.into();
    let mut topics = Vec::new();
    for event in frozen.left_by(epoch, None) {
        of.lines += lines::count(&event);
        let Event::TopicLeft { topic, gateway, .. } = event else { continue };
        of.bytes += size_of::<Arc<str>>() + topic.len();
        of.gateway = gateway;
        topics.push(topic);
    }
    of.topics = topics.into();
    of
}
