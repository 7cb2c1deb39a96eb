//! The handle to a running replica.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::apply::{Applier, Progress};
use crate::change::ChangeError;
use crate::counters::{Counters, Counting};
use crate::entry::Group;
use crate::founding::{Founders, Standing};
use crate::log::LogCloser;
use crate::machine::StateMachine;
use crate::members::Members;
use crate::net::link::Local;
use crate::net::serve::Server;
use crate::propose::{Proposals, ProposeError, Proposed};
use crate::reads::{ReadError, Reads};
use crate::settings::{NodeId, Settings};
use crate::start::{self, StartError};
use crate::status::{self, Leadership, Status};
use crate::stream::{Connect, Stream};

type OpenRaft = openraft::Raft<Group, Applier>;

/// How often the size of the log is looked at.
const SIZE_CHECK: Duration = Duration::from_millis(250);
/// How long a snapshot that was asked for may take.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(300);

/// Why a replica ended by itself. The process must end too: what is in memory can't be trusted any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FatalReason {
    /// Reading or writing failed, or the state machine panicked. After a failed fsync nothing is tried again.
    #[error("storage failed: {0}")]
    Storage(String),
    /// A task of the replica panicked.
    #[error("the replica panicked")]
    Panicked,
    /// Another process runs with this member's identity, which could vote twice.
    #[error("{0}")]
    Twin(String),
    /// [`Raft::shutdown`] was called.
    #[error("the replica was shut down")]
    Stopped,
}

/// Why a snapshot that was asked for is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It takes too long; it may still come.
    #[error("the snapshot was not finished in time")]
    Timeout,
    /// The replica has stopped.
    #[error("this replica has stopped")]
    Stopped,
}

/// A running replica. Clones are handles to the same one.
#[derive(Clone)]
pub struct Raft {
    inner: Arc<Inner>,
}

struct Inner {
    raft: OpenRaft,
    local: Arc<Local>,
    progress: Arc<Progress>,
    counting: Arc<Counting>,
    founders: Arc<Founders>,
    server: Arc<Server>,
    reads: Reads,
    proposals: Proposals,
    members: Arc<Members>,
    twin: watch::Receiver<Option<String>>,
    leadership: watch::Receiver<Option<Leadership>>,
    changes: watch::Receiver<Status>,
    tasks: TaskTracker,
    stop: CancellationToken,
    closer: Mutex<Option<(LogCloser, File)>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Tasks hold no handle of this kind, so they end with the last one, shut down or not.
        self.stop.cancel();
    }
}

impl Raft {
    /// Starts a replica: recovers its state from disk, and returns as soon as it can take part and streams can be
    /// accepted. A new cluster is founded in the background, once all founders have answered (see
    /// [`Standing`]). Must be called within a tokio runtime.
    pub async fn start(
        settings: Settings,
        machine: Arc<dyn StateMachine>,
        connect: Arc<dyn Connect>,
    ) -> Result<Raft, StartError> {
        let built = start::build(&settings, machine, connect).await?;
        let start::Built { raft, local, lines, progress, counting, snapshots, pristine, closer, lock } = built;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let founders = Arc::new(Founders::new(local.clone(), settings.founders, pristine));
        let reads = Reads::start(
            raft.clone(),
            local.clone(),
            lines.clone(),
            progress.clone(),
            counting.clone(),
            (&tasks, &stop),
        );
        let rounds = reads.local.clone();
        let server = Server::new(
            local.clone(),
            raft.clone(),
            progress.clone(),
            snapshots,
            founders.clone(),
            rounds,
            counting.clone(),
        );
        raft.run();
        let observer = Observer {
            raft: raft.clone(),
            local: local.clone(),
            progress: progress.clone(),
            counting: counting.clone(),
            founders: founders.clone(),
        };
        let (to_leadership, leadership) = watch::channel(None);
        let (to_changes, changes) = watch::channel(observer.status());
        tasks.spawn(stop.clone().run_until_cancelled_owned(observer.observe(to_leadership, to_changes)));
        let (sized, bounded) = (stop.clone(), (raft.clone(), progress.clone(), counting.clone()));
        let bytes_max = local.limits.snapshot_every_log_bytes;
        tasks.spawn(async move {
            sized.run_until_cancelled(bound_log(&bounded.0, &bounded.1, &bounded.2, bytes_max)).await;
        });
        let members = Members::new(raft.clone(), local.clone(), lines, progress.clone(), leadership.clone());
        let twin = members.clone().watch(founders.clone(), settings.data_dir, (&tasks, &stop));
        let proposals = Proposals::new(&local.limits);
        let closer = Mutex::new(Some((closer, lock)));
        let inner = Inner {
            raft,
            local,
            progress,
            counting,
            founders,
            server: Arc::new(server),
            reads,
            proposals,
            members,
            twin,
            leadership,
            changes,
            tasks,
            stop,
            closer,
        };
        Ok(Raft { inner: Arc::new(inner) })
    }

    /// Takes over a stream from another member, of which exactly the [`PREAMBLE`](crate::PREAMBLE) has been read. A
    /// stream that is refused is told why before it is closed, and the reason is logged once. Must be called within a
    /// tokio runtime.
    pub fn accept(&self, stream: Box<dyn Stream>) {
        if !self.inner.stop.is_cancelled() {
            self.inner.server.accept(&self.inner.tasks, &self.inner.stop, stream);
        }
    }

    /// Proposes an entry and waits until it is committed and applied here. Only the leader can; calls that come together
    /// share their flushes. Proposals of one task, each awaited, are applied in their order; concurrent ones in any.
    pub async fn propose(&self, data: Bytes) -> Result<Proposed, ProposeError> {
        self.inner.proposals.propose(&self.inner.raft, &self.inner.counting, None, data).await
    }

    /// As [`propose`](Raft::propose), on the condition that this member still leads in that very term. It is decided at
    /// the moment of appending, and the proposal is never passed on to another leader.
    pub async fn propose_as(&self, leadership: &Leadership, data: Bytes) -> Result<Proposed, ProposeError> {
        self.inner.proposals.propose(&self.inner.raft, &self.inner.counting, Some(leadership), data).await
    }

    /// A point for a linearizable read, on any member: an index that covers everything acknowledged before this call,
    /// and that is applied here already. The leader is confirmed by a majority, never by a clock.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        self.inner.reads.index().await
    }

    /// Waits until `index` is applied here, for at most `within`.
    pub async fn wait_applied(&self, index: u64, within: Duration) -> Result<(), ReadError> {
        tokio::select! {
            () = self.inner.stop.cancelled() => Err(ReadError::Stopped),
            reached = timeout(within, self.inner.progress.reached(index)) => reached.map_err(|_| ReadError::Timeout),
        }
    }

    /// The index up to which the application has applied here; 0 if nothing.
    pub fn applied(&self) -> u64 {
        self.inner.progress.index()
    }

    /// The leadership of this member: there only while it leads, from the moment that the first entry of its own term
    /// is applied, when everything its predecessors acknowledged is too. It goes as soon as this member knows that it does
    /// not lead; a member that is cut off learns that later than others.
    pub fn leadership(&self) -> watch::Receiver<Option<Leadership>> {
        self.inner.leadership.clone()
    }

    /// How the replica is now.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        status::status(
            &inner.raft,
            &inner.progress,
            &inner.local.cluster,
            inner.founders.standing(),
            inner.local.heartbeat,
        )
    }

    /// Whether this member belongs to a founded cluster; as in the [`status`](Raft::status), at less cost.
    pub fn standing(&self) -> Standing {
        self.inner.founders.standing()
    }

    /// A signal for changes of role, leader, term, membership or standing. The value is the status at that change; for
    /// the marks as they are now, ask for the [`status`](Raft::status).
    pub fn status_changes(&self) -> watch::Receiver<Status> {
        self.inner.changes.clone()
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.inner.counting.read()
    }

    /// Takes a snapshot that covers at least what is applied now, and waits until it is durable. Returns its index.
    pub async fn trigger_snapshot(&self) -> Result<u64, SnapshotError> {
        let raft = &self.inner.raft;
        let target = self.applied();
        if self.inner.progress.watch().borrow().is_none() {
            // Nothing is applied, so there is nothing to cover.
            return Ok(0);
        }
        let mut metrics = raft.metrics();
        let taken = timeout(SNAPSHOT_WITHIN, async {
            loop {
                let covered = metrics.borrow_watched().snapshot.map(|id| id.index);
                if let Some(covered) = covered.filter(|covered| *covered >= target) {
                    return Ok(covered);
                }
                // While another one is being taken this does nothing, so it is asked for again after each change.
                raft.trigger().snapshot().await.map_err(|_| SnapshotError::Stopped)?;
                if let Ok(gone) = timeout(SIZE_CHECK, metrics.changed()).await {
                    gone.map_err(|_| SnapshotError::Stopped)?;
                }
            }
        });
        taken.await.unwrap_or(Err(SnapshotError::Timeout))
    }

    /// Adds a node as a learner: it receives everything and does not vote. The node must answer at `peer` under this id,
    /// with an empty directory, waiting to be added; the membership then records which directory it is. Only the leader
    /// can. Returns the index of the membership; the learner may then take long to catch up, see [`Raft::status`]. A
    /// repeated call changes nothing.
    pub async fn add_learner(&self, id: NodeId, peer: &str) -> Result<u64, ChangeError> {
        self.inner.members.add(id, peer).await
    }

    /// Makes a learner a voter, once it has nearly caught up, which is waited for a little. Only the leader can. A repeated
    /// call changes nothing.
    pub async fn promote(&self, id: NodeId) -> Result<u64, ChangeError> {
        self.inner.members.promote(id).await
    }

    /// Removes a member for ever. Only the leader can; if it is itself to be removed, it hands leadership over first and
    /// answers [`ChangeError::NotLeader`], for the next one to be asked. A repeated call changes nothing.
    pub async fn remove(&self, id: NodeId) -> Result<u64, ChangeError> {
        self.inner.members.remove(id).await
    }

    /// Hands leadership to a voter, and waits until it leads. Only the leader can. Proposals are refused as
    /// [`ProposeError::NotLeader`] meanwhile, which takes a few round trips and flushes. Where the voter does not take over,
    /// an election follows.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ChangeError> {
        self.inner.members.transfer_leader(to).await
    }

    /// Asks the most up-to-date voter to take over, if this member leads, and waits until it has; for a planned stop, so
    /// that nobody has to wait for an election timeout. Returns whether this member does not lead any more. Proposals are
    /// refused as [`ProposeError::NotLeader`] meanwhile.
    pub async fn hand_over(&self, within: Duration) -> bool {
        timeout(within, self.inner.members.hand_over()).await.unwrap_or(false)
    }

    /// Resolves when the replica has ended by itself or was shut down. By itself it ends when storage fails or something
    /// panics; the process must end then.
    pub async fn stopped(&self) -> FatalReason {
        let log = &self.inner.counting.log;
        let mut twin = self.inner.twin.clone();
        let twin = async move { twin.wait_for(Option::is_some).await.ok()?.clone() };
        tokio::select! {
            reason = ended(&self.inner.raft) => match log.failure() {
                Some(failure) => FatalReason::Storage(failure.to_owned()),
                None => reason,
            },
            Some(twin) = twin => FatalReason::Twin(twin),
            () = log.failed() => FatalReason::Storage(log.failure().unwrap_or("the log failed").to_owned()),
        }
    }

    /// Stops the replica and closes its files; when this returns, the directory can be opened again. Proposals in flight
    /// end as unknown. Further calls wait for nothing.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.stop.cancel();
        if let Err(e) = inner.raft.shutdown().await {
            warn!(error = %e, "the replica did not stop cleanly");
        }
        inner.tasks.close();
        inner.tasks.wait().await;
        let closer = inner.closer.lock().expect("nothing panics while it holds the closer").take();
        if let Some((closer, lock)) = closer {
            closer.close().await;
            drop(lock);
        }
    }
}

#[cfg(test)]
impl Raft {
    /// Lets the disk of this replica's log stand still until what is returned is dropped.
    pub(crate) fn stall_disk(&self) -> std::sync::mpsc::Sender<()> {
        self.inner.closer.lock().unwrap().as_ref().unwrap().0.stall()
    }

    /// Makes the first half of a change of the voters, and keeps this member from making the second for as long as
    /// what is returned is held.
    pub(crate) async fn leave_half_done(&self, voters: &[&[NodeId]]) -> tokio::sync::MutexGuard<'_, ()> {
        let held = self.inner.members.changing.lock().await;
        let raft = &self.inner.raft;
        let known = raft.server_metrics().borrow_watched().membership_config.clone();
        let nodes: std::collections::BTreeMap<_, _> = known.nodes().map(|(id, seat)| (*id, seat.clone())).collect();
        let voters = voters.iter().map(|voters| voters.iter().copied().collect()).collect();
        let joint = openraft::Membership::new(voters, nodes).unwrap();
        raft.append_membership(joint, openraft::EntryPayload::Blank, []).await.unwrap();
        held
    }
}

/// Waits until openraft's core has ended.
async fn ended(raft: &OpenRaft) -> FatalReason {
    let mut metrics = raft.metrics();
    loop {
        let state = metrics.borrow_watched().running_state.clone();
        match state {
            Err(Fatal::StorageError(e)) => return FatalReason::Storage(e.to_string()),
            Err(Fatal::Panicked) => return FatalReason::Panicked,
            Err(Fatal::Stopped) => return FatalReason::Stopped,
            Ok(()) => {}
        }
        if metrics.changed().await.is_err() {
            // The core is gone without a word, which only a panic does.
            return FatalReason::Panicked;
        }
    }
}

/// Takes a snapshot when the log has grown to `bytes_max`, and purges up to it if that was not enough: few large entries
/// weigh as much as many small ones.
async fn bound_log(raft: &OpenRaft, progress: &Progress, counting: &Counting, bytes_max: u64) {
    let mut purged_at = 0;
    loop {
        tokio::time::sleep(SIZE_CHECK).await;
        if counting.log.bytes() <= bytes_max {
            continue;
        }
        let snapshot = raft.metrics().borrow_watched().snapshot.map_or(0, |id| id.index);
        // Half of the log behind a snapshot is kept for members that are a little behind, until there is a newer one.
        let outcome = if snapshot > purged_at {
            purged_at = snapshot;
            raft.trigger().purge_log(snapshot).await
        } else if progress.index() > snapshot {
            raft.trigger().snapshot().await
        } else {
            Ok(())
        };
        if outcome.is_err() {
            return;
        }
    }
}

/// Turns openraft's metrics into signals.
struct Observer {
    raft: OpenRaft,
    local: Arc<Local>,
    progress: Arc<Progress>,
    counting: Arc<Counting>,
    founders: Arc<Founders>,
}

impl Observer {
    fn status(&self) -> Status {
        let standing = self.founders.standing();
        status::status(&self.raft, &self.progress, &self.local.cluster, standing, self.local.heartbeat)
    }

    async fn observe(self, leadership: watch::Sender<Option<Leadership>>, changes: watch::Sender<Status>) {
        let mut metrics = self.raft.server_metrics();
        let mut standing = self.founders.changes();
        let mut leader: Option<NodeId> = None;
        loop {
            let applied = self.progress.watch();
            let id = *applied.borrow();
            let led = status::leadership(&self.raft, self.local.id, id);
            let waits_for_own_entry = led.is_none() && self.leads();
            leadership.send_if_modified(|current| {
                let changed = *current != led;
                *current = led;
                changed
            });
            let current = metrics.borrow_watched().current_leader;
            if current != leader {
                leader = current;
                self.counting.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            changes.send_replace(self.status());
            let own_entry = own_entry(applied, waits_for_own_entry);
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { break },
                _ = standing.changed() => {}
                () = own_entry => {}
            }
        }
        // Whoever waits on these sees the replica as it ended: without a leader.
        leadership.send_replace(None);
    }

    fn leads(&self) -> bool {
        let metrics = self.raft.server_metrics();
        metrics.borrow_watched().state == openraft::ServerState::Leader
    }
}

/// Applying matters to the observer only until the first entry of its own term.
async fn own_entry(mut applied: watch::Receiver<Option<crate::entry::LogId>>, wanted: bool) {
    if !wanted || applied.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl std::fmt::Debug for Raft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raft").finish_non_exhaustive()
    }
}
