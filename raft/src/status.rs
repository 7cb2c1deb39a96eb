//! What a replica tells about itself and its group.

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, LogIdOptionExt, ServerState};

use crate::apply::{Applier, Progress};
use crate::entry::{Group, LeaderId, LogId};
use crate::founding::Standing;
use crate::net::link::Local;
use crate::settings::{Addresses, NodeId};
use crate::space::Space;

type OpenRaft = openraft::Raft<Group, Applier>;

/// What this member does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It orders the proposals of its term.
    Leader,
    /// It votes and follows a leader.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It receives everything and does not vote, or is not a member yet.
    Learner,
}

/// Whether a member counts for majorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberRole {
    /// It votes.
    Voter,
    /// It only receives.
    Learner,
}

/// How a member looks from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It leads, as far as this member knows.
    Leader,
    /// It answered this leader within the last three heartbeats.
    Following,
    /// It did not.
    Silent,
    /// This member does not lead and can't tell.
    Unknown,
}

/// A member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Whether it votes.
    pub role: MemberRole,
    /// How it looks from here.
    pub state: MemberState,
    /// The space that is left to it, if it is short of space; told by the leader, and by each member of itself.
    pub short: Option<Space>,
    /// The index up to which its log is known to equal the leader's; told by the leader only.
    pub matched: Option<u64>,
}

/// A look at the replica. The parts are from one moment, which may be some milliseconds ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub id: NodeId,
    /// The cluster's name, as people chose it.
    pub cluster: String,
    /// The cluster's id: drawn when it was founded or restored, so no two clusters share one. `None` until it is known here.
    pub cluster_id: Option<u64>,
    /// Whether it belongs to a founded cluster.
    pub standing: Standing,
    /// What it does.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The term it is in.
    pub term: u64,
    /// Index of the last entry in its log, whether committed or not.
    pub last_log: Option<u64>,
    /// Index up to which it knows entries to be committed.
    pub committed: Option<u64>,
    /// Index up to which the application has applied; 0 if nothing.
    pub applied: u64,
    /// Index up to which the current snapshot reaches.
    pub snapshot: Option<u64>,
    /// Index up to which the log is purged.
    pub purged: Option<u64>,
    /// On the leader: for how long a majority has not been heard.
    pub quorum_acked_ms_ago: Option<u64>,
    /// The members by id, as of the latest membership in its log.
    pub members: Vec<Member>,
    /// Voters that must answer for anything to be decided.
    pub quorum: usize,
    /// Whether a change of the voters is half done: for now majorities of both the old and the new ones are needed.
    pub joint: bool,
}

/// The right to act as the leader of one term. Compares equal only within that term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The term that this member leads.
    pub term: u64,
    pub(crate) leader: LeaderId,
}

impl Leadership {
    /// A leadership that no member holds, for the tests of those who only compare them.
    #[doc(hidden)]
    pub fn for_tests(term: u64) -> Leadership {
        Leadership { term, leader: LeaderId { term, node_id: 0 } }
    }
}

/// The leadership of `id`, if it leads and has applied the first entry of its own term.
pub(crate) fn leadership(raft: &OpenRaft, id: NodeId, applied: Option<LogId>) -> Option<Leadership> {
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.vote.leader_id;
    let leads = metrics.state == ServerState::Leader && metrics.vote.committed && leader.node_id == id;
    // Entries of a term are applied after all of the terms before.
    let own_entry_applied = applied.is_some_and(|applied| applied.leader_id == leader);
    (leads && own_entry_applied).then_some(Leadership { term: leader.term, leader })
}

pub(crate) fn status(raft: &OpenRaft, progress: &Progress, local: &Local, standing: Standing) -> Status {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let members = metrics.membership_config.membership();
    let voters: Vec<NodeId> = members.voter_ids().collect();
    let state_of = |id: &NodeId| {
        if metrics.current_leader == Some(*id) {
            return MemberState::Leader;
        }
        match &metrics.heartbeat {
            None => MemberState::Unknown,
            Some(heard) => match heard.get(id) {
                Some(Some(heard)) if heard.elapsed() < local.heartbeat * 3 => MemberState::Following,
                _ => MemberState::Silent,
            },
        }
    };
    let members = members.nodes().map(|(id, seat)| Member {
        id: *id,
        addresses: seat.addresses.clone(),
        role: if voters.contains(id) { MemberRole::Voter } else { MemberRole::Learner },
        state: state_of(id),
        short: local.shortage.of(*id),
        matched: metrics.replication.as_ref().and_then(|matched| matched.get(id).cloned().flatten().index()),
    });
    let configs = metrics.membership_config.membership().get_joint_config();
    let quorum = configs.iter().map(|voters| voters.len() / 2 + 1).max().unwrap_or(0);
    let acked = metrics.last_quorum_acked.filter(|_| metrics.state == ServerState::Leader);
    Status {
        id: metrics.id,
        cluster: local.cluster.clone(),
        cluster_id: Some(progress.roster().cluster_id).filter(|id| *id != 0),
        standing,
        role: match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner | ServerState::Shutdown => Role::Learner,
        },
        leader: metrics.current_leader,
        term: metrics.current_term,
        last_log: metrics.last_log_index,
        committed: metrics.local_committed.index(),
        applied: progress.index(),
        snapshot: metrics.snapshot.index(),
        purged: metrics.purged.index(),
        quorum_acked_ms_ago: acked.map(|acked| u64::try_from(acked.elapsed().as_millis()).unwrap_or(u64::MAX)),
        members: members.collect(),
        quorum,
        joint: configs.len() > 1,
    }
}
