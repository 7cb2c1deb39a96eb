//! The feed of changes for people and services: single connections, one JSON object each.
//!
//! Events of one revision are numbered as they appear in the whole feed, so a mark means the same on every node and under
//! every filter. Where a session ended, its connections are listed from the copy that was frozen at that moment, slice by
//! slice, before anything later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use metrics::Histogram;
use tokio::sync::watch;
use tokio::time::Instant;

use super::closings::Closings;
use super::lines::{self, Line};
use super::meters::Watching;
use super::view::Confirmed;
use super::watch_hub::{Change, Position, WatchHub};
use crate::api::{Feed, FeedItem, FeedRefused, FeedRequest};
use crate::clock;
use crate::directory::{Event, Revision};

/// A reader hears something at least this often, whatever it has asked for.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Changes taken from what is retained at a time.
const GATHER: usize = 64;

/// Connections of an ended session that are shown at a time.
const SLICE: usize = 256;

/// What every feed of a node stands on.
#[derive(Debug)]
pub(super) struct Feeds {
    pub(super) hub: Arc<WatchHub>,
    pub(super) confirmed: Arc<Confirmed>,
    /// A node that can't confirm a read for so long does not know whether it still belongs to the group.
    pub(super) confirm_within: Duration,
    pub(super) process: Arc<str>,
}

/// One feed.
struct Reader {
    of: Arc<Feeds>,
    request: FeedRequest,
    /// Everything up to here has been looked at.
    cursor: Revision,
    /// Events up to this one are not shown again.
    skip: (Revision, Option<u32>),
    position: watch::Receiver<Position>,
    restarts: u64,
    changes: VecDeque<Arc<Change>>,
    expanding: Option<Expansion>,
    ready: VecDeque<FeedItem>,
    /// When something was last said, and the revision of its mark.
    said: (Instant, Revision),
    lag: Histogram,
    _watching: Watching,
}

/// A revision of which a part has been looked at.
struct Expansion {
    change: Arc<Change>,
    /// The next of its events.
    event: usize,
    /// Number of the next line of the revision.
    n: u32,
    /// What the end of a session closed, and the next of these.
    closing: Option<(Arc<Closings>, usize)>,
}

impl Feeds {
    /// Opens a feed. What is asked for must not lie beyond what a linearizable read has seen.
    pub(super) fn open(self: &Arc<Self>, request: FeedRequest) -> Result<Feed, FeedRefused> {
        let position = self.hub.follow();
        let Position { applied, restarts } = *position.borrow();
        let skip = request.from.unwrap_or((applied, None));
        // What comes after (R, n) begins inside R.
        let cursor = if skip.1.is_some() { skip.0.saturating_sub(1) } else { skip.0 };
        let floor = self.hub.floor();
        if skip.0 > applied {
            return Err(FeedRefused::Ahead { asked: skip.0, now: applied, oldest: floor });
        }
        if cursor < floor {
            return Err(FeedRefused::Compacted { oldest: floor });
        }
        let reader = Reader {
            of: Arc::clone(self),
            request,
            cursor,
            skip,
            position,
            restarts,
            changes: VecDeque::new(),
            expanding: None,
            ready: VecDeque::new(),
            said: (Instant::now(), skip.0),
            lag: metrics::histogram!("switchboard_watch_lag_revisions", "process" => Arc::clone(&self.process)),
            _watching: Watching::begin(&self.process),
        };
        Ok(Box::pin(stream::unfold(reader, |mut reader| async move { reader.next().await.map(|item| (item, reader)) })))
    }
}

impl Reader {
    /// The next line; `None` when this node can't go on.
    async fn next(&mut self) -> Option<FeedItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                self.said = (Instant::now(), item.mark.0);
                return Some(item);
            }
            if let Some(mark) = self.due_mark() {
                self.ready.push_back(lines::progress(mark));
                continue;
            }
            if self.expanding.is_some() {
                self.expand().await?;
                tokio::task::yield_now().await;
                continue;
            }
            if let Some(change) = self.changes.pop_front() {
                self.expanding = Some(Expansion { change, event: 0, n: 0, closing: None });
                continue;
            }
            let Position { applied, restarts } = *self.position.borrow_and_update();
            let Feeds { hub, confirmed, confirm_within, .. } = &*self.of;
            if restarts != self.restarts || confirmed.age().is_none_or(|age| age > *confirm_within) {
                return None;
            }
            // Fell behind what is retained: the reader comes back with its mark and is told.
            self.changes = hub.after(self.cursor, GATHER).ok()?.into();
            if !self.changes.is_empty() {
                self.lag.record(applied.saturating_sub(self.cursor) as f64);
                continue;
            }
            self.cursor = self.cursor.max(applied);
            let wait = PROGRESS_EVERY.saturating_sub(self.said.0.elapsed());
            if let Ok(Err(_)) = tokio::time::timeout(wait, self.position.changed()).await {
                return None;
            }
        }
    }

    /// The mark to tell when nothing else was told for too long: of a feed that shows nothing of what happens, too. It
    /// never leads back: where a part of a revision was shown the rest of it comes first.
    fn due_mark(&self) -> Option<Revision> {
        let (when, last) = self.said;
        (when.elapsed() >= PROGRESS_EVERY && self.cursor >= last).then_some(self.cursor)
    }

    /// Shows the next event of the revision, or the next slice of the connections that it closed. `None` when this reader is
    /// so slow that what it reads is no longer retained.
    async fn expand(&mut self) -> Option<()> {
        let mut expansion = self.expanding.take().expect("the caller has just seen it");
        let change = Arc::clone(&expansion.change);
        let at = clock::rfc3339(change.at_ms);
        if let Some((closings, row)) = expansion.closing.take() {
            // It holds on to the whole list, which nobody else may need any more.
            if change.revision <= self.of.hub.floor() {
                return None;
            }
            let slice = row..closings.len().min(row + SLICE);
            for row in slice.clone() {
                self.show(&mut expansion, &closings.event(row), &at);
            }
            expansion.closing = (slice.end < closings.len()).then_some((closings, slice.end));
        } else if let Some(event) = change.events.get(expansion.event) {
            self.show(&mut expansion, event, &at);
            if let Some(end) = change.end(expansion.event) {
                expansion.closing = Some((end.closings().await.ok()?, 0));
            }
            expansion.event += 1;
        } else {
            self.cursor = change.revision;
            return Some(());
        }
        self.expanding = Some(expansion);
        Some(())
    }

    /// Adds the lines of one event.
    fn show(&mut self, expansion: &mut Expansion, event: &Event, at: &str) {
        let revision = expansion.change.revision;
        let first = expansion.n;
        expansion.n += lines::count(event);
        if !concerns(&self.request, event) {
            return;
        }
        let of_event = lines::lines(event, revision, at);
        debug_assert_eq!(of_event.len() as u32, expansion.n - first, "lines are counted as they are made");
        for (n, line) in (first..).zip(of_event) {
            let shown_before = revision == self.skip.0 && self.skip.1.is_some_and(|last| n <= last);
            if !shown_before && wanted(&self.request, &line) {
                self.ready.push_back(FeedItem { mark: (revision, Some(n)), json: line.json(n) });
            }
        }
    }
}

/// Whether a line of this event may be wanted, by what can be told without making it.
fn concerns(request: &FeedRequest, event: &Event) -> bool {
    match event.user() {
        Some(user) => is_of(request, user),
        None => request.user.is_none() && request.prefix.is_none(),
    }
}

fn is_of(request: &FeedRequest, user: &str) -> bool {
    request.user.as_deref().is_none_or(|wanted| wanted == user)
        && request.prefix.as_deref().is_none_or(|prefix| user.starts_with(prefix))
}

fn wanted(request: &FeedRequest, line: &Line<'_>) -> bool {
    request.types.is_empty() || request.types.iter().any(|wanted| wanted == line.kind)
}

#[cfg(test)]
mod tests;
