//! Watches: a snapshot, then every change, in order, at the watcher's own pace.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use metrics::Histogram;
use switchboard_raft::Raft;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::members;
use super::meters::Watching;
use super::replicated::Replicated;
use super::view::Confirmed;
use super::watch_hub::{Compacted, Position, WatchHub};
use crate::directory::{ConnectionId, Directory, Revision, Topic};
use crate::net::framed::{self, FrameReader};
use crate::net::{ReadHalf, WriteHalf};
use crate::wire::peer::{Stamp, WatchFrame, WatchFrom};

/// Connections, or topics, in one chunk of a snapshot.
const CHUNK: usize = 1024;

/// Changes that are gathered into one write, at most, and their bytes.
const GATHER: usize = 256;
const GATHER_BYTES: usize = 256 << 10;

/// A watcher hears something at least this often, so that it can tell silence from a cut stream.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Wait after a read that was not confirmed.
const CONFIRM_PAUSE: Duration = Duration::from_millis(20);

/// A write that takes longer means that the watcher does not read. It loses its stream, nothing else: it can come back.
const WRITE_STALL: Duration = Duration::from_secs(10);

/// Serves watches.
#[derive(Debug, Clone)]
pub(super) struct Watches {
    pub(super) raft: Raft,
    pub(super) state: Arc<Replicated>,
    pub(super) hub: Arc<WatchHub>,
    /// A node that can't confirm a read for so long does not know whether it still belongs to the group.
    pub(super) confirm_within: Duration,
    /// When that last succeeded.
    pub(super) confirmed: Arc<Confirmed>,
    pub(super) process: Arc<str>,
}

/// A read that was begun for a stamp. Gives the revision that it saw.
type Confirmation = Pin<Box<dyn Future<Output = (u64, Option<Revision>)> + Send>>;

/// One watch.
struct Watcher<'a> {
    of: &'a Watches,
    writer: WriteHalf,
    /// Everything up to here was sent.
    cursor: Revision,
    position: watch::Receiver<Position>,
    restarts: u64,
    /// When something was last sent.
    said: Instant,
    lag: Histogram,
}

impl Watches {
    /// Serves one watch until its stream ends or this node can't go on.
    pub(super) async fn serve(
        &self,
        start: WatchFrom,
        mut stamps: FrameReader<ReadHalf>,
        writer: WriteHalf,
    ) -> io::Result<()> {
        let _watching = Watching::begin(&self.process);
        let position = self.hub.follow();
        let restarts = position.borrow().restarts;
        let cursor = match start {
            WatchFrom::Snapshot | WatchFrom::Sessions => 0,
            WatchFrom::After(revision) => revision,
        };
        let lag = metrics::histogram!("switchboard_watch_lag_revisions", "process" => Arc::clone(&self.process));
        let mut watcher = Watcher { of: self, writer, cursor, position, restarts, said: Instant::now(), lag };
        match start {
            WatchFrom::Snapshot => watcher.send_snapshot(true).await?,
            WatchFrom::Sessions => watcher.send_snapshot(false).await?,
            WatchFrom::After(_) => {}
        }
        watcher.follow(&mut stamps).await
    }
}

impl Watcher<'_> {
    /// Sends the present state from a frozen copy, in chunks, with or without the connections.
    async fn send_snapshot(&mut self, with_connections: bool) -> io::Result<()> {
        // A node that has just started may be far behind; what it shows must be something that was committed, and recent.
        let confirmed = tokio::time::timeout(self.of.confirm_within, self.of.raft.read_index()).await;
        if !matches!(confirmed, Ok(Ok(_))) {
            return self.end("this node can't confirm what it knows").await;
        }
        let frozen = self.of.state.frozen();
        self.send(&sessions(&frozen)).await?;
        let mut of_topics = frozen.topics("");
        while let Some(chunk) = topics(&mut of_topics) {
            self.send(&chunk).await?;
        }
        drop(of_topics);
        let mut after = None;
        while with_connections && let Some((last, chunk)) = chunk(&frozen, after) {
            self.send(&chunk).await?;
            after = Some(last);
        }
        self.cursor = frozen.revision();
        self.send(&WatchFrame::SnapshotEnd { revision: self.cursor }).await
    }

    /// Sends changes as they come, and answers stamps.
    async fn follow(&mut self, stamps: &mut FrameReader<ReadHalf>) -> io::Result<()> {
        let mut newest_stamp: Option<u64> = None;
        let mut confirming: Option<(Instant, Confirmation)> = None;
        let began = Instant::now();
        let mut status = self.of.raft.status_changes();
        status.mark_changed();
        let mut known = Vec::new();
        loop {
            // A node that has just started is given as long.
            if self.of.confirmed.age().unwrap_or_else(|| began.elapsed()) > self.of.confirm_within {
                return self.end("this node can't confirm what it knows").await;
            }
            if let Some(why) = self.send_changes().await? {
                return self.end(why).await;
            }
            if confirming.is_none() {
                confirming = newest_stamp.take().map(|stamp| (Instant::now(), self.confirm(stamp)));
            }
            tokio::select! {
                changed = self.position.changed() => {
                    if changed.is_err() {
                        return self.end("this node is shutting down").await;
                    }
                }
                changed = status.changed() => {
                    if changed.is_err() {
                        return self.end("this node is shutting down").await;
                    }
                    if let Some(why) = members::shut_out(&self.of.raft) {
                        return self.end(&why).await;
                    }
                    let members = members::addresses(&self.of.raft);
                    if members != known {
                        self.send(&WatchFrame::Members(members.clone())).await?;
                        known = members;
                    }
                }
                stamp = stamps.next::<Stamp>() => match stamp? {
                    Some(Stamp(stamp)) => newest_stamp = Some(stamp),
                    None => return Ok(()),
                },
                (stamp, seen) = until_confirmed(&mut confirming) => {
                    let asked = confirming.take().map(|(asked, _)| asked);
                    if let (Some(asked), Some(seen)) = (asked, seen) {
                        self.of.confirmed.note(asked);
                        self.answer(stamp, seen).await?;
                    } else {
                        newest_stamp = newest_stamp.or(Some(stamp));
                    }
                }
                () = tokio::time::sleep_until(self.said + PROGRESS_EVERY) => self.progress(None).await?,
            }
        }
    }

    /// Begins a linearizable read for a stamp that has arrived.
    fn confirm(&self, stamp: u64) -> Confirmation {
        let raft = self.of.raft.clone();
        Box::pin(async move {
            let seen = raft.read_index().await.ok();
            if seen.is_none() {
                // An election may be under way.
                tokio::time::sleep(CONFIRM_PAUSE).await;
            }
            (stamp, seen)
        })
    }

    /// Echoes a stamp once everything that its read saw has been sent.
    async fn answer(&mut self, stamp: u64, seen: Revision) -> io::Result<()> {
        if let Some(why) = self.send_changes().await? {
            return self.end(why).await;
        }
        debug_assert!(self.cursor >= seen, "a read index is applied before it is given");
        self.progress(Some(stamp)).await
    }

    /// Sends every change after the cursor that is held. A sentence when the watch can't go on.
    async fn send_changes(&mut self) -> io::Result<Option<&'static str>> {
        loop {
            let Position { applied, restarts } = *self.position.borrow_and_update();
            if restarts != self.restarts {
                return Ok(Some("this node installed a snapshot"));
            }
            if self.cursor >= applied {
                return Ok(None);
            }
            self.lag.record((applied - self.cursor) as f64);
            let changes = match self.of.hub.after(self.cursor, GATHER) {
                Ok(changes) => changes,
                Err(Compacted { floor }) => {
                    self.send(&WatchFrame::Compacted { oldest: floor }).await?;
                    return Err(io::Error::other("the watcher asked for, or fell behind, what is no longer held"));
                }
            };
            let mut gathered = BytesMut::new();
            let mut sent = None;
            for change in &changes {
                if gathered.len() > GATHER_BYTES {
                    break;
                }
                gathered.put(change.frame());
                sent = Some(change.revision);
            }
            if !gathered.is_empty() {
                self.write(&mut gathered).await?;
            }
            match sent {
                Some(revision) => self.cursor = revision,
                // Revisions up to the applied one changed nothing.
                None => self.cursor = applied,
            }
        }
    }

    async fn progress(&mut self, stamp: Option<u64>) -> io::Result<()> {
        self.send(&WatchFrame::Progress { revision: self.cursor, stamp }).await
    }

    /// Says why the watch ends.
    async fn end(&mut self, why: &str) -> io::Result<()> {
        self.send(&WatchFrame::Ended { why: why.to_owned() }).await?;
        Err(io::Error::other(why.to_owned()))
    }

    async fn send(&mut self, frame: &WatchFrame) -> io::Result<()> {
        self.write(&mut BytesMut::from(&framed::encode(frame)[..])).await
    }

    async fn write(&mut self, bytes: &mut BytesMut) -> io::Result<()> {
        match tokio::time::timeout(WRITE_STALL, self.writer.write_all_buf(bytes)).await {
            Ok(written) => {
                self.said = Instant::now();
                written
            }
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the watcher does not read")),
        }
    }
}

/// The read that was begun, if any, without giving it up when something else happens first.
async fn until_confirmed(confirming: &mut Option<(Instant, Confirmation)>) -> (u64, Option<Revision>) {
    match confirming {
        Some((_, confirmation)) => confirmation.await,
        None => std::future::pending().await,
    }
}

/// The first part of a snapshot.
pub(super) fn sessions(frozen: &Directory) -> WatchFrame {
    let sessions = frozen.sessions().map(|live| (live.epoch, Arc::clone(live.session))).collect();
    WatchFrame::SnapshotChunk { sessions, connections: Vec::new() }
}

/// The next topics, as long as there are some.
pub(super) fn topics(from: &mut impl Iterator<Item = Topic>) -> Option<WatchFrame> {
    let topics: Vec<_> = from.take(CHUNK).map(|Topic { topic, sessions }| (topic, sessions)).collect();
    (!topics.is_empty()).then_some(WatchFrame::SnapshotTopics(topics))
}

/// The connections after `after`, and the last of them.
pub(super) fn chunk(frozen: &Directory, after: Option<ConnectionId>) -> Option<(ConnectionId, WatchFrame)> {
    let connections: Vec<_> =
        frozen.scan(after).take(CHUNK).map(|live| (live.id, Arc::clone(&live.connection))).collect();
    let last = connections.last()?.0;
    Some((last, WatchFrame::SnapshotChunk { sessions: Vec::new(), connections }))
}
