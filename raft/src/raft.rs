//! The handle to a running replica.

use std::fs::File;
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
use crate::backup::Backup;
use crate::change::ChangeError;
use crate::counters::{Counters, Counting};
use crate::entry::Group;
use crate::founding::{Founders, Standing};
use crate::log::LogCloser;
use crate::machine::StateMachine;
use crate::members::Members;
use crate::net::link::Local;
use crate::net::serve::Server;
use crate::observer::Observer;
use crate::propose::{Proposals, ProposeError, Proposed};
use crate::reads::{ReadError, Reads};
use crate::settings::{NodeId, Settings};
use crate::snapshot::Snapshots;
use crate::space::Space;
use crate::start::{self, StartError};
use crate::status::{self, Leadership, Status};
use crate::stream::{Connect, Stream};

pub(crate) type OpenRaft = openraft::Raft<Group, Applier>;

/// How long a snapshot that is being taken is waited for before another one is asked for.
const SNAPSHOT_LOOK: Duration = Duration::from_millis(250);
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
    /// Nothing was ever applied here.
    #[error("this replica has no state yet")]
    Nothing,
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
    snapshots: Arc<Snapshots>,
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
        self.local.shortage.own.close();
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
        let start::Built { raft, local, lines, log, progress, counting, snapshots, pristine, closer, lock } = built;
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
            (raft.clone(), log),
            progress.clone(),
            snapshots.clone(),
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
        let keeper = observer.clone();
        let (leadership, changes) = observer.spawn(&tasks, &stop);
        let members =
            Members::new(raft.clone(), local.clone(), lines, progress.clone(), leadership.clone(), tasks.clone());
        let (kept, keeping, election_max) = (stop.clone(), members.clone(), settings.election.1);
        tasks.spawn(async move {
            let shortage = &keeper.local.shortage;
            kept.run_until_cancelled(shortage.keep(&keeping, election_max, || keeper.status())).await;
        });
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
            snapshots,
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
        self.check_space(self.inner.local.shortage.refuses())?;
        self.propose_on(None, data).await
    }

    /// As [`propose`](Raft::propose), for an entry that ends or frees something: it may use a part of the space that is
    /// kept free.
    pub async fn propose_essential(&self, data: Bytes) -> Result<Proposed, ProposeError> {
        self.propose_on(None, data).await
    }

    /// As [`propose_essential`](Raft::propose_essential), on the condition that this member still leads in that very term.
    /// It is decided at the moment of appending, and the proposal is never passed on to another leader.
    pub async fn propose_as(&self, leadership: &Leadership, data: Bytes) -> Result<Proposed, ProposeError> {
        self.propose_on(Some(leadership), data).await
    }

    async fn propose_on(&self, leadership: Option<&Leadership>, data: Bytes) -> Result<Proposed, ProposeError> {
        let Inner { raft, local, counting, proposals, .. } = &*self.inner;
        self.check_space(local.shortage.exhausted())?;
        proposals.propose(raft, counting, leadership, data).await
    }

    /// For whose sake [`propose`](Raft::propose) refuses, if this member leads: which one is short of space.
    pub fn refuses(&self) -> Option<(NodeId, Space)> {
        self.inner.local.shortage.refuses().filter(|_| self.leads())
    }

    fn check_space(&self, short: Option<(NodeId, Space)>) -> Result<(), ProposeError> {
        match short.filter(|_| self.leads()) {
            Some((node, space)) => Err(ProposeError::NoSpace { node, space }),
            None => Ok(()),
        }
    }

    /// Only a leader's space matters to a proposal: from others it goes to the leader.
    fn leads(&self) -> bool {
        self.inner.raft.server_metrics().borrow_watched().state == openraft::ServerState::Leader
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
        status::status(&inner.raft, &inner.progress, &inner.local, inner.founders.standing())
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

    /// The space that is left for the data directory.
    pub fn space(&self) -> Space {
        self.inner.local.shortage.own.seen()
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
            return Err(SnapshotError::Nothing);
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
                if let Ok(gone) = timeout(SNAPSHOT_LOOK, metrics.changed()).await {
                    gone.map_err(|_| SnapshotError::Stopped)?;
                }
            }
        });
        taken.await.unwrap_or(Err(SnapshotError::Timeout))
    }

    /// Takes a snapshot as [`trigger_snapshot`](Raft::trigger_snapshot) does, and opens it.
    pub async fn backup(&self) -> Result<Backup, SnapshotError> {
        self.trigger_snapshot().await?;
        self.inner.snapshots.current().map(Backup::new).ok_or(SnapshotError::Nothing)
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
        inner.local.shortage.own.close();
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

    /// What is inside, for tests that speak to openraft or in its name.
    pub(crate) fn parts(&self) -> (OpenRaft, Arc<Local>) {
        (self.inner.raft.clone(), self.inner.local.clone())
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

impl std::fmt::Debug for Raft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raft").finish_non_exhaustive()
    }
}
