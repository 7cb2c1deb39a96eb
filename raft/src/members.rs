//! Changing who belongs to the group, while it works.
//!
//! Only the leader changes the members, one change at a time. A change of the voters is two entries: first majorities of
//! both the old and the new voters are needed (the joint membership), then of the new ones alone.
//!
//! - *Nobody gets in unasked.* A member is added after it was asked who it is: its id, its cluster, and that its directory
//!   is empty. The membership records the directory's nonce, so nothing else can take that seat.
//! - *No id is used twice.* The roster knows every id that was ever a member's, with its directory. The same id with the
//!   same directory is a repeated request, anything else is refused.
//! - *No change takes the majority away.* A joint membership counts from the moment it is appended; if one of its
//!   majorities did not answer, the group would stand still with no way back. So a change is refused unless enough of the
//!   voters that it leaves are following now.
//! - *Nothing is left half-done.* Where a leader is lost between the two entries, the next one completes the change as soon
//!   as it leads; so does the same leader, should the second entry have failed.
//! - *Every change says on which membership it stands* (`LastMembershipLogId`) and in which term (`CommittedLeaderId`); the
//!   core checks both in the moment of appending.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardReason, RaftError};
use openraft::raft::{Precondition, VoteRequest};
use openraft::{ChangeMembers, LogIdOptionExt};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::apply::{Applier, Progress};
use crate::change::ChangeError;
use crate::entry::{Group, Seat, StoredMembership, Vote};
use crate::founding::Founders;
use crate::leaving;
use crate::net::frame::{JoinAnswer, Purpose, Refusal};
use crate::net::link::{Lines, LinkError, Local};
use crate::reads::leader_of;
use crate::settings::{Addresses, NodeId};
use crate::status::Leadership;

type OpenRaft = openraft::Raft<Group, Applier>;
type Change = ChangeMembers<NodeId, Seat>;
type Refused = RaftError<Group, ClientWriteError<Group>>;

/// Between two looks at how far a member has come, or at a change that is half done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Heartbeats for which a member may be silent and still counts as there.
const HEARTBEATS_AWAITED: u32 = 5;

/// What a change stands on.
struct Ground {
    leadership: Leadership,
    members: Arc<StoredMembership>,
    /// Whether that membership is known to be committed.
    committed: bool,
}

impl Ground {
    fn voters(&self) -> BTreeSet<NodeId> {
        self.members.voter_ids().collect()
    }

    fn is_joint(&self) -> bool {
        self.members.get_joint_config().len() > 1
    }

    /// Whether the first half of a change is committed, and the second is missing.
    fn is_half_done(&self) -> bool {
        self.is_joint() && self.committed
    }

    fn index(&self) -> u64 {
        self.members.log_id().index().unwrap_or(0)
    }
}

/// Changes the members while this one leads.
pub(crate) struct Members {
    raft: OpenRaft,
    local: Arc<Local>,
    lines: Arc<Lines>,
    progress: Arc<Progress>,
    leadership: watch::Receiver<Option<Leadership>>,
    /// Held during a change.
    pub(crate) changing: Mutex<()>,
}

impl Members {
    pub(crate) fn new(
        raft: OpenRaft,
        local: Arc<Local>,
        lines: Arc<Lines>,
        progress: Arc<Progress>,
        leadership: watch::Receiver<Option<Leadership>>,
    ) -> Arc<Members> {
        Arc::new(Members { raft, local, lines, progress, leadership, changing: Mutex::new(()) })
    }

    /// See [`Raft::add_learner`](crate::Raft::add_learner).
    pub(crate) async fn add(&self, id: NodeId, peer: &str) -> Result<u64, ChangeError> {
        let _one = self.begin()?;
        let ground = self.settled().await?;
        let seated = ground.members.get_node(&id);
        if let Some(seat) = seated.filter(|seat| seat.addresses.peer != peer) {
            return Err(ChangeError::Elsewhere { id, address: seat.addresses.peer.clone() });
        }
        let known = self.progress.roster().directories.get(&id).copied();
        let seat = match self.ask(id, peer).await? {
            JoinAnswer::Waiting { nonce, addresses } if known.is_none_or(|known| known == nonce) => {
                Seat { addresses: Addresses { peer: peer.to_owned(), ..addresses }, nonce }
            }
            // It was added before, and the answer was lost.
            JoinAnswer::Stored { nonce, .. } if seated.is_some() && known == Some(nonce) => return Ok(ground.index()),
            JoinAnswer::Stored { nonce, .. } if known == Some(nonce) => return Err(ChangeError::Removed(id)),
            _ if known.is_some() => return Err(ChangeError::IdUsed(id)),
            JoinAnswer::Waiting { .. } => return Err(ChangeError::IdUsed(id)),
            JoinAnswer::Founder => {
                let why = "it was started with --peers, to found a cluster of its own; start it with --join";
                return Err(ChangeError::WrongNewcomer { id, address: peer.to_owned(), why: why.to_owned() });
            }
            JoinAnswer::Stored { cluster_id, .. } => {
                let why = format!(
                    "its data directory is not empty, it holds the state of cluster {cluster_id:016x}; start it with an \
                     empty one"
                );
                return Err(ChangeError::WrongNewcomer { id, address: peer.to_owned(), why });
            }
        };
        if seated.is_some() {
            return Ok(ground.index());
        }
        info!(id, addresses = %seat.addresses, "adding a node as a learner");
        self.change(&ground, Change::AddNodes(BTreeMap::from([(id, seat)])), true).await
    }

    /// See [`Raft::promote`](crate::Raft::promote).
    pub(crate) async fn promote(&self, id: NodeId) -> Result<u64, ChangeError> {
        let _one = self.begin()?;
        let ground = self.settled().await?;
        self.member(&ground, id)?;
        let mut voters = ground.voters();
        if !voters.insert(id) {
            return Ok(ground.index());
        }
        self.caught_up(id, self.local.limits.promote_lag_max).await?;
        self.keeps_majority(&voters).await?;
        info!(id, "promoting a learner to a voter");
        self.change(&ground, Change::AddVoterIds(BTreeSet::from([id])), true).await
    }

    /// See [`Raft::remove`](crate::Raft::remove).
    pub(crate) async fn remove(&self, id: NodeId) -> Result<u64, ChangeError> {
        let _one = self.begin()?;
        let ground = self.settled().await?;
        match self.member(&ground, id) {
            Err(ChangeError::Removed(_)) => return Ok(ground.index()),
            found => found?,
        };
        let mut voters = ground.voters();
        let votes = voters.remove(&id);
        if voters.is_empty() {
            return Err(ChangeError::LastVoter(id));
        }
        let change = if votes {
            self.keeps_majority(&voters).await?;
            Change::RemoveVoters(BTreeSet::from([id]))
        } else {
            Change::RemoveNodes(BTreeSet::from([id]))
        };
        if id == self.local.id {
            // A leader that removes itself would have to lead a group that it does not belong to.
            let next = self.best_successor(&ground).ok_or(ChangeError::NoQuorum)?;
            self.transfer(next).await?;
            return Err(self.not_leader());
        }
        info!(id, votes, "removing a node");
        self.change(&ground, change, false).await
    }

    /// See [`Raft::transfer_leader`](crate::Raft::transfer_leader).
    pub(crate) async fn transfer_leader(&self, to: NodeId) -> Result<(), ChangeError> {
        let _one = self.begin()?;
        let ground = self.settled().await?;
        self.member(&ground, to)?;
        if !ground.voters().contains(&to) {
            return Err(ChangeError::NotVoter(to));
        }
        if to == self.local.id {
            return Ok(());
        }
        self.caught_up(to, self.local.limits.promote_lag_max).await?;
        self.transfer(to).await
    }

    /// Hands leadership to the voter that is most up to date, for a planned stop. Returns whether this member does not lead
    /// any more.
    pub(crate) async fn hand_over(&self) -> bool {
        match self.ground() {
            Err(_) => true,
            Ok(ground) => match self.best_successor(&ground) {
                Some(next) => self.transfer(next).await.is_ok(),
                None => false,
            },
        }
    }

    fn begin(&self) -> Result<MutexGuard<'_, ()>, ChangeError> {
        self.changing.try_lock().map_err(|_| ChangeError::Busy)
    }

    fn not_leader(&self) -> ChangeError {
        let leader = leader_of(&self.raft).filter(|(id, _)| *id != self.local.id);
        ChangeError::NotLeader { leader: leader.map(|(id, seat)| (id, seat.addresses)) }
    }

    fn ground(&self) -> Result<Ground, ChangeError> {
        let leadership = self.leadership.borrow().clone().ok_or_else(|| self.not_leader())?;
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.committed_membership_config == metrics.membership_config;
        Ok(Ground { leadership, members: metrics.membership_config.clone(), committed })
    }

    /// What a change may stand on: a membership that is not half-way to another one.
    async fn settled(&self) -> Result<Ground, ChangeError> {
        let ground = self.ground()?;
        if !ground.committed {
            return Err(ChangeError::Busy);
        }
        if !ground.is_joint() {
            return Ok(ground);
        }
        self.complete(&ground).await?;
        let ground = self.ground()?;
        if ground.is_joint() { Err(ChangeError::Busy) } else { Ok(ground) }
    }

    /// The second half of a change of which only the first was made. As in the first, removed voters don't stay as learners.
    async fn complete(&self, ground: &Ground) -> Result<u64, ChangeError> {
        warn!(voters = ?ground.members.get_joint_config(), "completing a change of the voters that was left half-done");
        self.change(ground, Change::AddVoterIds(BTreeSet::new()), false).await
    }

    fn member<'a>(&self, ground: &'a Ground, id: NodeId) -> Result<&'a Seat, ChangeError> {
        let once = self.progress.roster().directories.contains_key(&id);
        let gone = || if once { ChangeError::Removed(id) } else { ChangeError::NoMember(id) };
        ground.members.get_node(&id).ok_or_else(gone)
    }

    /// Asks who is at an address.
    async fn ask(&self, id: NodeId, peer: &str) -> Result<JoinAnswer, ChangeError> {
        let seat = Seat { addresses: Addresses { peer: peer.to_owned(), api: String::new() }, nonce: 0 };
        let within = self.local.limits.answer_within;
        let asked = self.lines.call(&self.local, (id, &seat), Purpose::Join, &(), within).await;
        let address = peer.to_owned();
        asked.map_err(|e| match e {
            LinkError::Unreachable { source, .. } => ChangeError::NobodyThere { id, address, why: source.to_string() },
            LinkError::Refused { refusal, .. } => {
                let why = match refusal {
                    Refusal::WrongNode { here, .. } => format!("node {here} answers there; is it the right address?"),
                    Refusal::Cluster { theirs, ours } => {
                        format!("it belongs to cluster {ours:?}, not to {theirs:?}; start it with --cluster {theirs}")
                    }
                    other => other.to_string(),
                };
                ChangeError::WrongNewcomer { id, address, why }
            }
        })
    }

    /// Proposes a change and waits for it, and until this member acts on it.
    async fn change(&self, ground: &Ground, change: Change, retain: bool) -> Result<u64, ChangeError> {
        let deadline = Instant::now() + self.local.limits.change_within;
        let proposed = self.propose(ground, change, retain);
        let Ok(proposed) = timeout_at(deadline, proposed).await else {
            return Err(ChangeError::Unknown);
        };
        if let Err(e) = proposed {
            // The error may be that of the second entry, when the first is there.
            let appended = self.raft.server_metrics().borrow_watched().membership_config != ground.members;
            if !appended {
                return Err(self.refused(e));
            }
        }
        timeout_at(deadline, self.see_through(ground)).await.unwrap_or(Err(ChangeError::Unknown))
    }

    async fn propose(&self, ground: &Ground, change: Change, retain: bool) -> Result<(), Refused> {
        let conditions = [
            Precondition::CommittedLeaderId { committed_leader_id: ground.leadership.leader },
            Precondition::LastMembershipLogId { last_membership_log_id: *ground.members.log_id() },
        ];
        self.raft.change_membership_if(change, retain, conditions).await.map(drop)
    }

    /// Waits, as long as this member leads, until the membership that came after `before` is complete; makes the second half
    /// of it where that failed.
    async fn see_through(&self, before: &Ground) -> Result<u64, ChangeError> {
        loop {
            let now = self.ground().map_err(|_| ChangeError::Unknown)?;
            if now.leadership != before.leadership {
                return Err(ChangeError::Unknown);
            }
            if now.committed && !now.is_joint() && now.members != before.members {
                return Ok(now.index());
            }
            if now.is_half_done() {
                // What comes of it shows in the membership.
                let _ = self.propose(&now, Change::AddVoterIds(BTreeSet::new()), false).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Of a change of which nothing was appended.
    fn refused(&self, e: Refused) -> ChangeError {
        match e {
            RaftError::Fatal(_) => ChangeError::Stopped,
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => ChangeError::Unknown,
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => match to.reason {
                ForwardReason::LeaseExpired => ChangeError::NoQuorum,
                _ => ChangeError::NotLeader { leader: to.leader_id.zip(to.leader_node.map(|seat| seat.addresses)) },
            },
            // Another change came between: one of another leader, or one whose outcome was not learned.
            RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => ChangeError::Busy,
            RaftError::APIError(ClientWriteError::ChangeMembershipError(e)) => {
                if !matches!(e, ChangeMembershipError::InProgress(_)) {
                    warn!(error = %e, "a change of the members was checked, and refused all the same");
                }
                ChangeError::Busy
            }
        }
    }

    /// Whether the member is known to have heard this leader after that moment.
    fn follows(&self, id: NodeId, since: Instant) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&id).copied().flatten());
        id == self.local.id || heard.is_some_and(|heard| openraft::Instant::elapsed(&*heard) <= since.elapsed())
    }

    /// Entries that the member lacks, as far as this leader knows.
    fn lag(&self, id: NodeId) -> u64 {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&id).cloned().flatten().index());
        let last = metrics.last_log_index.unwrap_or(0);
        last.saturating_sub(matched.unwrap_or(0))
    }

    /// Waits a little until the member follows and lacks no more than so many entries.
    async fn caught_up(&self, id: NodeId, lag_max: u64) -> Result<(), ChangeError> {
        let began = Instant::now();
        let deadline = began + self.local.limits.catch_up_within;
        loop {
            let (follows, lag) = (self.follows(id, began), self.lag(id));
            if follows && lag <= lag_max {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let behind = ChangeError::Behind { id, lag, lag_max };
                return Err(if follows { behind } else { ChangeError::Silent(id) });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Refuses voters of which no majority answers a heartbeat that is sent after this call.
    async fn keeps_majority(&self, voters: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let began = Instant::now();
        let deadline = began + self.local.heartbeat * HEARTBEATS_AWAITED;
        let needed = voters.len() / 2 + 1;
        loop {
            let answering = voters.iter().filter(|id| self.follows(**id, began)).count();
            if answering >= needed {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(ChangeError::NoMajority { voters: voters.len(), answering, needed });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The voter that follows, has space on its disk, and lacks the least.
    fn best_successor(&self, ground: &Ground) -> Option<NodeId> {
        let lately = Instant::now().checked_sub(self.local.heartbeat * HEARTBEATS_AWAITED)?;
        let fit = |id: &NodeId| self.follows(*id, lately) && self.local.shortage.of(*id).is_none();
        let others = ground.voters().into_iter().filter(|id| *id != self.local.id && fit(id));
        others.min_by_key(|id| self.lag(*id))
    }

    /// Asks a voter to take over, and waits until it has. From the first moment proposals are refused here; so what was begun
    /// is brought to an end also when nobody waits for it any more.
    async fn transfer(&self, to: NodeId) -> Result<(), ChangeError> {
        info!(to, "handing leadership over");
        self.raft.trigger().transfer_leader(to).await.map_err(|_| ChangeError::Stopped)?;
        let taken = tokio::spawn(see_taken_up(self.raft.clone(), self.local.clone(), to));
        taken.await.unwrap_or(Err(ChangeError::Stopped))
    }

    /// Whether this member may stand for election. One that was removed never does.
    pub(crate) fn stand_for_election(&self, may: bool) {
        self.raft.runtime_config().elect(may && !*self.local.removed.borrow());
    }

    /// Starts what looks after this member's place in the group, from its founding on, until `stop`. What is returned tells of another process
    /// with the same identity.
    pub(crate) fn watch(
        self: Arc<Self>,
        founders: Arc<Founders>,
        data_dir: PathBuf,
        (tasks, stop): (&TaskTracker, &CancellationToken),
    ) -> watch::Receiver<Option<String>> {
        let (tell, twin) = watch::channel(None);
        let (founding, completing, leaving) = (stop.clone(), stop.clone(), stop.clone());
        let (this, founded) = (self.clone(), founders.clone());
        tasks.spawn(async move {
            founding.run_until_cancelled(founded.found(&this.raft, &this.lines)).await;
        });
        let this = self.clone();
        tasks.spawn(async move {
            completing.run_until_cancelled(this.complete_left_overs()).await;
        });
        tasks.spawn(async move {
            let Members { raft, local, lines, progress, .. } = &*self;
            let removal = leaving::notice_removal(raft, local, progress, &founders, &data_dir);
            let twins = async { tell.send_replace(Some(leaving::notice_twin(progress, local, lines).await)) };
            leaving.run_until_cancelled(futures_util::future::join(removal, twins)).await;
        });
        twin
    }

    /// Completes, whenever this member leads, a change that was left half-done. Ends with the replica.
    async fn complete_left_overs(&self) {
        let mut metrics = self.raft.server_metrics();
        let mut leadership = self.leadership.clone();
        loop {
            if let (Ok(ground), Ok(_one)) = (self.ground(), self.begin())
                && ground.is_half_done()
                && let Err(e) = self.complete(&ground).await
            {
                warn!(error = %e, "a change of the voters is still half-done; it is tried again");
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                changed = leadership.changed() => if changed.is_err() { return },
            }
            // A change that is under way here holds the lock, and changes the metrics again when it is done.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Waits until `to` leads, for as long as that may take.
async fn see_taken_up(raft: OpenRaft, local: Arc<Local>, to: NodeId) -> Result<(), ChangeError> {
    let mut metrics = raft.server_metrics();
    let other = timeout(local.limits.transfer_within, async {
        loop {
            let leader = metrics.borrow_watched().current_leader.filter(|leader| *leader != local.id);
            if leader.is_some() || metrics.changed().await.is_err() {
                return leader;
            }
        }
    });
    match other.await {
        Ok(Some(leader)) if leader == to => Ok(()),
        Ok(Some(leader)) => {
            warn!(to, leader, "leadership was handed over, and another node took it");
            Err(ChangeError::Unknown)
        }
        Ok(None) => Err(ChangeError::Stopped),
        Err(_) => {
            warn!(to, "leadership was handed over, and nobody took it; an election follows");
            resign(&raft, to).await;
            Err(ChangeError::Unknown)
        }
    }
}

/// Ends a transfer that `to` did not take up. openraft's leader neither proposes nor shows that it lives once it began
/// one, and waits for its successor without end. Granting `to` the vote that it was meant to ask for, which is always
/// safe, makes this member a follower that can be elected like any other.
async fn resign(raft: &OpenRaft, to: NodeId) {
    let term = raft.metrics().borrow_watched().current_term;
    let last_log_id = raft.data_metrics().borrow_watched().last_log;
    let request = VoteRequest { vote: Vote::new(term + 1, to), last_log_id, leadership_transfer: true };
    if let Err(e) = raft.vote(request).await {
        warn!(error = %e, "the leader can't resign");
    }
}
