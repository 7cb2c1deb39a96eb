//! A node without a log, for tests: the state machine, what it retains, feeds and watches, each told when to go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::feed::Feeds;
use super::find::find;
use super::history;
use super::watch;
use super::watch_hub::{Retained, Retention, WatchHub};
use crate::api::{Feed, FeedRefused, FeedRequest, History};
use crate::directory::{Applied, Directory, Entry, Revision};
use crate::wire::peer::{FoundUsers, WatchFrame, Who};

/// As long as a node goes on without a confirmed read.
pub(crate) const CONFIRM_WITHIN: Duration = Duration::from_secs(2);

/// A node without a log. It retains little, so that much is compacted.
pub(crate) struct LoneNode {
    pub(crate) directory: Directory,
    hub: Arc<WatchHub>,
    feeds: Arc<Feeds>,
}

impl LoneNode {
    pub(crate) fn new(retain_events: usize) -> Self {
        Self::with(Retention { events: retain_events, bytes: usize::MAX })
    }

    /// As new, with another limit.
    pub(crate) fn retaining_bytes(self, bytes: usize) -> Self {
        Self::with(Retention { bytes, ..self.hub.retention() })
    }

    fn with(retention: Retention) -> Self {
        let hub = Arc::new(WatchHub::new(retention));
        let feeds = Feeds {
            hub: Arc::clone(&hub),
            confirmed: Arc::default(),
            confirm_within: CONFIRM_WITHIN,
            process: "test".into(),
        };
        feeds.confirmed.note(Instant::now());
        Self { directory: Directory::new(), hub, feeds: Arc::new(feeds) }
    }

    pub(crate) fn apply(&mut self, revision: Revision, entry: &Entry) -> Applied {
        let applied = self.directory.apply(revision, entry);
        self.hub.publish(revision, entry.at_ms, applied.events.clone(), applied.ends.clone());
        applied
    }

    /// What an entry gave that was applied already.
    pub(crate) fn publish(&self, revision: Revision, applied: Applied) {
        self.hub.publish(revision, 1, applied.events, applied.ends);
    }

    /// An entry without a command.
    pub(crate) fn advance(&mut self, revision: Revision) {
        self.directory.advance(revision);
        self.hub.advance(revision);
    }

    /// Installs a snapshot.
    pub(crate) fn install(&mut self, state: Directory) {
        self.hub.restart(state.revision());
        self.directory = state;
    }

    /// A quorum confirms what the node knows.
    pub(crate) fn confirm(&self) {
        self.feeds.confirmed.note(Instant::now());
    }

    /// For how long none has.
    pub(crate) fn unconfirmed_for(&self) -> Duration {
        self.feeds.confirmed.age().expect("it began with one")
    }

    /// What the node does beside its work.
    pub(crate) async fn settle(&self) {
        self.hub.settle_all().await.expect("the runtime goes on");
    }

    pub(crate) fn feed(&self, request: FeedRequest) -> Result<Feed, FeedRefused> {
        self.feeds.open(request)
    }

    pub(crate) async fn history(&self, user: &str) -> History {
        history::of(&self.hub, user, self.directory.revision()).await
    }

    pub(crate) fn last_seen(&self, user: &str) -> Option<u64> {
        self.hub.last_seen(&[user])[0]
    }

    /// The changes after `cursor` as a watch sends them, at most so many revisions; where none are left, the mark that there
    /// are none. The floor where they are no longer retained.
    pub(crate) fn frames(&self, cursor: Revision, limit: usize) -> Result<Vec<WatchFrame>, Revision> {
        let applied = self.directory.revision();
        if cursor >= applied {
            return Ok(Vec::new());
        }
        let changes = self.hub.after(cursor, limit).map_err(|compacted| compacted.floor)?;
        if changes.is_empty() {
            return Ok(vec![WatchFrame::Progress { revision: applied, stamp: None }]);
        }
        Ok(changes.iter().map(|change| postcard::from_bytes(&change.frame()[4..]).expect("it was encoded")).collect())
    }

    /// A snapshot as a watch sends it.
    pub(crate) fn snapshot(&self, with_connections: bool) -> Vec<WatchFrame> {
        let mut frames = vec![watch::sessions(&self.directory)];
        let mut topics = self.directory.topics("");
        frames.extend(std::iter::from_fn(|| watch::topics(&mut topics)));
        let mut after = None;
        while with_connections && let Some((last, chunk)) = watch::chunk(&self.directory, after) {
            frames.push(chunk);
            after = Some(last);
        }
        frames.push(WatchFrame::SnapshotEnd { revision: self.directory.revision() });
        frames
    }

    /// What a node with this state answers who is asked for these.
    pub(crate) fn find(state: &Directory, whom: &[Who]) -> FoundUsers {
        find(state, whom).expect("there are few")
    }

    pub(crate) fn retained(&self) -> Retained {
        self.hub.retained()
    }
}
