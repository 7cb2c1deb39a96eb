//! Following a watch: frames into the store, stamps out, another node after a failure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Replica;
use super::held::Recent;
use super::store::Writer;
use crate::chance;
use crate::client::{Directory, WatchStream};
use crate::directory::{Event, Revision};
use crate::gateway::ours::Ours;
use crate::view::View;
use crate::wire::peer::{FoundUser, FoundUsers, Stamp, WatchFrame, WatchFrom};

/// A stamp is sent this often, so that cached reads know their age to about this much.
const STAMP_EVERY: Duration = Duration::from_millis(200);

/// Stamps under way at most. More callers than that share the next one.
const STAMPS_UNDER_WAY: usize = 4;

/// Connections of ended sessions that are freed between two frames: well under a millisecond.
const RECLAIM_SLICE: usize = 512;

/// Answers that are newer than what is shown and wait for it. Later ones are asked for again.
const EARLY_MAX: usize = 1024;

/// First and longest wait before another node is asked.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Why a watch can't go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ended {
    #[error("what was asked for is no longer held; starting again with a snapshot")]
    Compacted,
    #[error("{0}")]
    Node(String),
}

/// Takes frames and keeps the state. A snapshot is built aside and shown when it is complete and not older than what is
/// shown already, so that reads never go back.
#[derive(Debug)]
pub(super) struct Follower {
    replica: Arc<Replica>,
    shown: Writer,
    aside: Option<Aside>,
    /// Of a replica that does not hold everybody: answers that are newer than what is shown, and the latest changes.
    early: VecDeque<FoundUsers>,
    recent: Recent,
    needs_snapshot: bool,
    under_way: VecDeque<u64>,
    /// Told of the members there are.
    directory: Directory,
    /// Told of the gateway's own connections.
    ours: Option<Arc<Ours>>,
}

#[derive(Debug)]
struct Aside {
    writer: Writer,
    complete: bool,
}

impl Follower {
    pub(super) fn new(replica: Arc<Replica>, directory: Directory) -> Self {
        Self {
            shown: replica.empty(),
            replica,
            aside: None,
            early: VecDeque::new(),
            recent: Recent::default(),
            needs_snapshot: true,
            under_way: VecDeque::new(),
            directory,
            ours: None,
        }
    }

    /// Tells `ours` what the watch shows of the gateway's own connections.
    pub(super) fn telling(self, ours: Arc<Ours>) -> Self {
        Self { ours: Some(ours), ..self }
    }

    /// Where the next watch begins.
    pub(super) fn begin(&mut self) -> WatchFrom {
        self.under_way.clear();
        match &self.aside {
            Some(aside) if aside.complete => return WatchFrom::After(aside.writer.store.revision()),
            _ => self.aside = None,
        }
        match self.needs_snapshot {
            true if self.replica.holds_all() => WatchFrom::Snapshot,
            true => WatchFrom::Sessions,
            false => WatchFrom::After(self.shown.store.revision()),
        }
    }

    /// Takes the next frame of the watch.
    pub(super) fn take(&mut self, frame: WatchFrame) -> Result<(), Ended> {
        match frame {
            WatchFrame::SnapshotChunk { sessions, connections } => {
                self.aside().writer.load(sessions, connections);
            }
            WatchFrame::SnapshotTopics(topics) => self.aside().writer.load_topics(topics),
            WatchFrame::SnapshotEnd { revision } => {
                let aside = self.aside();
                aside.writer.advance(revision);
                aside.complete = true;
                self.recent.begin(revision);
                self.needs_snapshot = false;
                self.show_if_newer();
                if let Some(ours) = &self.ours {
                    ours.missed_some();
                }
            }
            WatchFrame::Events { revision, events, .. } => {
                if let Some(ours) = &self.ours {
                    ours.watched(&events);
                }
                if revision > self.writer().store.revision() {
                    self.note(revision, &events);
                    self.writer().apply(revision, events);
                }
                self.show_if_newer();
            }
            WatchFrame::Progress { revision, stamp } => {
                self.writer().advance(revision);
                self.show_if_newer();
                if let (Some(stamp), None) = (stamp, &self.aside) {
                    self.under_way.retain(|sent| *sent > stamp);
                    self.replica.echo(stamp);
                }
            }
            WatchFrame::Compacted { .. } => {
                self.needs_snapshot = true;
                self.aside = None;
                return Err(Ended::Compacted);
            }
            WatchFrame::Ended { why } => return Err(Ended::Node(why)),
            WatchFrame::Members(nodes) => self.directory.learn(nodes),
        }
        self.take_answers();
        Ok(())
    }

    fn note(&mut self, revision: Revision, events: &[Event]) {
        if !self.replica.holds_all() {
            events.iter().filter_map(Event::user).for_each(|user| self.recent.note(revision, user));
        }
    }

    /// Takes over what was asked for. An answer shows the state at its revision: it is taken over when that is shown, unless
    /// something has happened to the user since. It was given to whoever asked in any case.
    pub(super) fn take_answers(&mut self) {
        let Some(asked) = &self.replica.asked else { return };
        self.early.extend(asked.take());
        if self.early.is_empty() || self.aside.is_some() {
            self.early.truncate(EARLY_MAX);
            return;
        }
        let shown = self.shown.store.revision();
        let (due, early): (VecDeque<_>, _) =
            std::mem::take(&mut self.early).into_iter().partition(|answer| answer.revision <= shown);
        self.early = early;
        self.early.truncate(EARLY_MAX);
        for FoundUsers { revision, users, .. } in due {
            // Too old; who is still wanted is asked for again.
            let Some(changed) = self.recent.changed_after(revision) else { continue };
            for FoundUser { user, connections } in users {
                if let Some(user) = user.filter(|user| !changed.contains(&**user)) {
                    self.shown.hold(&user, &connections);
                }
            }
        }
    }

    fn aside(&mut self) -> &mut Aside {
        let replica = &self.replica;
        self.aside.get_or_insert_with(|| Aside { writer: replica.empty(), complete: false })
    }

    /// Frees at most `limit` connections of ended sessions.
    pub(super) fn reclaim(&mut self, limit: usize) {
        self.shown.reclaim(limit);
    }

    fn writer(&mut self) -> &mut Writer {
        match &mut self.aside {
            Some(aside) => &mut aside.writer,
            None => &mut self.shown,
        }
    }

    fn show_if_newer(&mut self) {
        let shown = self.shown.store.revision();
        if let Some(aside) = self.aside.take_if(|aside| aside.complete && aside.writer.store.revision() >= shown) {
            self.shown = aside.writer;
            self.replica.show(&self.shown.store);
        }
        self.replica.tell_revision(self.shown.store.revision());
    }

    async fn run(&mut self, mut watch: WatchStream) -> Result<(), Ended> {
        let lost = |error: std::io::Error| Ended::Node(error.to_string());
        let stamper = watch.stamper();
        let mut beat = interval(chance::jittered(STAMP_EVERY, 0.1));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let replica = Arc::clone(&self.replica);
        let answered = async || match &replica.asked {
            Some(asked) => asked.answered.notified().await,
            None => std::future::pending().await,
        };
        loop {
            let wants_stamp = tokio::select! {
                frame = watch.next() => {
                    self.take(frame.map_err(lost)?)?;
                    while let Some(frame) = watch.buffered().map_err(lost)? {
                        self.take(frame)?;
                        tokio::task::consume_budget().await;
                    }
                    false
                }
                _ = beat.tick() => true,
                () = answered() => {
                    self.take_answers();
                    false
                }
                () = replica.wanted.notified(), if self.under_way.len() < STAMPS_UNDER_WAY => true,
                () = tokio::task::yield_now(), if self.shown.holds_dead() => {
                    self.reclaim(RECLAIM_SLICE);
                    false
                }
            };
            if wants_stamp {
                let stamp = replica.take_stamp();
                if stamper.try_send(Stamp(stamp)) {
                    self.under_way.push_back(stamp);
                    // Without a quorum none comes back, and only the newest matter.
                    while self.under_way.len() > 2 * STAMPS_UNDER_WAY {
                        self.under_way.pop_front();
                    }
                }
            }
        }
    }
}

/// Follows the directory until `stop`, from one node after another.
pub(in crate::gateway) async fn follow(
    replica: Arc<Replica>,
    directory: Directory,
    ours: Arc<Ours>,
    stop: CancellationToken,
) {
    let mut follower = Follower::new(replica, directory.clone()).telling(ours);
    let mut pause = PAUSE.0;
    let endless = async {
        loop {
            let before = follower.replica.revision();
            match directory.watch(follower.begin()).await {
                Ok(watch) => {
                    let node = watch.node().to_owned();
                    let ended = follower.run(watch).await;
                    let why = ended.err().map_or_else(String::new, |ended| ended.to_string());
                    tracing::info!(%node, %why, revision = follower.replica.revision(), "a watch ended; asking another node");
                }
                Err(error) => tracing::debug!(%error, "a directory node does not offer a watch"),
            }
            pause = if follower.replica.revision() > before { PAUSE.0 } else { (pause * 2).min(PAUSE.1) };
            tokio::time::sleep(chance::jittered(pause, 0.5)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = endless => {}
    }
}
