//! Linearizable reads: an index that covers everything acknowledged before the reader asked, on any member.
//!
//! The leader confirms by a round of heartbeats that it still leads; no clock is trusted. Readers share rounds: while one
//! runs, newcomers gather, and the next one is for all of them. A reader never joins a round that began before it asked,
//! for that round may miss a write that was acknowledged in between.

use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{ReadPolicy, async_runtime::watch::WatchReceiver};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::apply::{Applier, Progress};
use crate::counters::{Counting, count};
use crate::entry::{Group, Seat};
use crate::net::frame::{Purpose, ReadAnswer};
use crate::net::link::{Lines, Local};
use crate::settings::{Addresses, NodeId};

type OpenRaft = openraft::Raft<Group, Applier>;

/// Why a read can't be linearizable now. Nothing was changed; trying again, or elsewhere, is always safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader is known, or the leader can't reach a majority.
    #[error("no majority of the members answers")]
    NoQuorum,
    /// This member believed in a leader that does not lead, or that it can't reach.
    #[error("this member can't reach the leader")]
    NotLeader {
        /// Who may lead.
        leader: Option<(NodeId, Addresses)>,
    },
    /// The index was not confirmed or applied in time.
    #[error("the read index was not confirmed and applied in time")]
    Timeout,
    /// Too many readers wait.
    #[error("too many reads wait for an index")]
    Overloaded,
    /// This replica has stopped.
    #[error("this replica has stopped")]
    Stopped,
}

/// Between two attempts of a round, unless the leader changes before.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Why one round failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoundError {
    NotLeader,
    NoQuorum,
    Stopped,
}

type Round = Result<u64, RoundError>;

/// Rounds of this member as the leader.
#[derive(Clone)]
pub(crate) struct LocalRounds {
    waiting: mpsc::Sender<oneshot::Sender<Round>>,
}

impl LocalRounds {
    /// The index that a round, begun after this call, confirms; not yet waited to be applied.
    pub(crate) async fn confirm(&self) -> Round {
        let (to, answer) = oneshot::channel();
        self.waiting.send(to).await.map_err(|_| RoundError::Stopped)?;
        answer.await.unwrap_or(Err(RoundError::Stopped))
    }
}

/// Answers everyone who waits with one round, again and again.
async fn share<F: Future<Output = Round>>(
    mut waiting: mpsc::Receiver<oneshot::Sender<Round>>,
    stop: CancellationToken,
    round: impl Fn() -> F,
) {
    let mut together = Vec::new();
    let all = waiting.max_capacity();
    // Whoever was taken before the round begins may share it.
    while stop.run_until_cancelled(waiting.recv_many(&mut together, all)).await.is_some_and(|taken| taken > 0) {
        let Some(outcome) = stop.run_until_cancelled(round()).await else { return };
        for reader in together.drain(..) {
            // A reader that gave up has dropped its end.
            let _ = reader.send(outcome);
        }
    }
}

/// Everything that reads need.
pub(crate) struct Reads {
    pub(crate) local: LocalRounds,
    waiting: mpsc::Sender<oneshot::Sender<Round>>,
    raft: OpenRaft,
    progress: Arc<Progress>,
    within: Duration,
}

/// What the tasks of rounds share.
struct Rounds {
    raft: OpenRaft,
    local: LocalRounds,
    this: Arc<Local>,
    lines: Arc<Lines>,
    /// How long a leader is waited for, and how long a round may take.
    within: Duration,
}

impl Reads {
    /// Starts the tasks that run rounds; they end with `stop`.
    pub(crate) fn start(
        raft: OpenRaft,
        this: Arc<Local>,
        lines: Arc<Lines>,
        progress: Arc<Progress>,
        counting: Arc<Counting>,
        (tasks, stop): (&tokio_util::task::TaskTracker, &CancellationToken),
    ) -> Reads {
        let limits = &this.limits;
        let (to_local, of_local) = mpsc::channel(limits.reads_waiting);
        let (waiting, of_all) = mpsc::channel(limits.reads_waiting);
        let local = LocalRounds { waiting: to_local };
        let within = limits.read_within;
        let leader = raft.clone();
        tasks.spawn(share(of_local, stop.clone(), move || {
            count(&counting.read_rounds);
            let leader = leader.clone();
            async move { confirm(&leader).await }
        }));
        let rounds = Arc::new(Rounds {
            raft: raft.clone(),
            local: local.clone(),
            within: this.limits.answer_within,
            this,
            lines,
        });
        tasks.spawn(share(of_all, stop.clone(), move || {
            let rounds = rounds.clone();
            async move { rounds.run().await }
        }));
        Reads { local, waiting, raft, progress, within }
    }

    /// See [`Raft::read_index`](crate::Raft::read_index).
    pub(crate) async fn index(&self) -> Result<u64, ReadError> {
        let deadline = Instant::now() + self.within;
        let (to, answer) = oneshot::channel();
        self.waiting.try_send(to).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        let round = timeout_at(deadline, answer).await.map_err(|_| ReadError::Timeout)?;
        let index = round.unwrap_or(Err(RoundError::Stopped)).map_err(|e| match e {
            RoundError::NotLeader => ReadError::NotLeader { leader: leader_of(&self.raft).map(named) },
            RoundError::NoQuorum => ReadError::NoQuorum,
            RoundError::Stopped => ReadError::Stopped,
        })?;
        timeout_at(deadline, self.progress.reached(index)).await.map_err(|_| ReadError::Timeout)?;
        Ok(index)
    }
}

fn named((id, seat): (NodeId, Seat)) -> (NodeId, Addresses) {
    (id, seat.addresses)
}

/// The leader that this member knows, with its seat.
pub(crate) fn leader_of(raft: &OpenRaft) -> Option<(NodeId, Seat)> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader?;
    let seat = metrics.membership_config.get_node(&leader)?.clone();
    Some((leader, seat))
}

/// One round of this member as the leader.
async fn confirm(raft: &OpenRaft) -> Round {
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => Ok(linearizer.read_log_id().index()),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(RoundError::NotLeader),
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(RoundError::NoQuorum),
        Err(RaftError::Fatal(_)) => Err(RoundError::Stopped),
    }
}

impl Rounds {
    /// One round, by whoever leads. While the leadership changes it is tried again: a later round is as good.
    async fn run(&self) -> Round {
        let deadline = Instant::now() + self.within;
        // One receiver for all attempts: a new one takes what has changed before it for news, and would never wait.
        let mut changes = self.raft.server_metrics();
        loop {
            let round = self.try_round(deadline).await;
            if round != Err(RoundError::NotLeader) || Instant::now() + RETRY_PAUSE > deadline {
                return round;
            }
            // A change of leader ends the pause, if it is noticed in time.
            let _ = timeout(RETRY_PAUSE, changes.changed()).await;
        }
    }

    async fn try_round(&self, deadline: Instant) -> Round {
        let Ok(leader) = timeout_at(deadline, self.leader()).await else {
            return Err(RoundError::NoQuorum);
        };
        let Some((id, seat)) = leader else {
            return Err(RoundError::Stopped);
        };
        if id == self.this.id {
            return timeout_at(deadline, self.local.confirm()).await.unwrap_or(Err(RoundError::NoQuorum));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let asked = self.lines.call(&self.this, (id, &seat), Purpose::Read, &(), left).await;
        match asked {
            Ok(ReadAnswer::Index(index)) => Ok(index),
            Ok(ReadAnswer::NoQuorum) => Err(RoundError::NoQuorum),
            Ok(ReadAnswer::NotLeader) | Err(_) => Err(RoundError::NotLeader),
        }
    }

    /// Waits until a leader is known. `None` once the replica has stopped.
    async fn leader(&self) -> Option<(NodeId, Seat)> {
        let mut changes = self.raft.server_metrics();
        loop {
            if let Some(leader) = leader_of(&self.raft) {
                return Some(leader);
            }
            changes.changed().await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_while_a_round_runs_waits_for_the_next_one() {
        let (to, waiting) = mpsc::channel(4);
        let (begun, mut rounds) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let sharing = share(waiting, stop.clone(), || {
            let begun = begun.clone();
            async move {
                let (end, ended) = oneshot::channel();
                begun.send(end).await.expect("the test waits for rounds");
                ended.await.expect("the test ends every round")
            }
        });
        let asking = async {
            let ask = || {
                let (reader, answer) = oneshot::channel();
                to.try_send(reader).unwrap();
                answer
            };
            let first = ask();
            let end = rounds.recv().await.unwrap();
            let second = ask();
            end.send(Ok(7)).unwrap();
            assert_eq!(first.await, Ok(Ok(7)));
            let end = rounds.recv().await.unwrap();
            end.send(Ok(9)).unwrap();
            assert_eq!(second.await, Ok(Ok(9)), "a round that began before the question may miss a write");
            stop.cancel();
        };
        let both = async { tokio::join!(sharing, asking) };
        timeout(Duration::from_secs(20), both).await.expect("every reader has its round");
    }
}
