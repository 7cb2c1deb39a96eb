//! Proposals: bytes in, and the outcome of applying them out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::apply::Applier;
use crate::counters::Counting;
use crate::entry::{Data, Group, ReplyTo};
use crate::settings::{Addresses, Limits, NodeId};
use crate::space::Space;
use crate::status::Leadership;

type OpenRaft = openraft::Raft<Group, Applier>;

/// A proposal that was committed and applied on this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its index in the log: the revision of its changes.
    pub index: u64,
    /// What [`StateMachine::apply`](crate::StateMachine::apply) wrote for the proposer.
    pub reply: Vec<u8>,
}

/// Whether a failed proposal may still take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was not appended and never will be: safe to propose again.
    No,
    /// It may be applied now or later. Proposing again must be idempotent.
    Unknown,
}

/// Why a proposal was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This member does not lead, or not in the term that was asked for. Not applied.
    #[error("this member does not lead")]
    NotLeader {
        /// Who leads, as far as this member knows.
        leader: Option<(NodeId, Addresses)>,
    },
    /// This member leads but has not heard from a majority for an election timeout. Not applied.
    #[error("no majority of the members answers")]
    NoQuorum,
    /// Too many proposals, or too many bytes of them, are in flight. Not applied; it passes.
    #[error("too many proposals are in flight")]
    Overloaded,
    /// A member has so little space that new entries are refused: this one, or one of so many that the others are no
    /// majority. Not applied; it passes when space is freed there.
    #[error(
        "node {node} has {free} bytes free in {dir}, and {reserve} are kept free: nothing new is written until there is \
         space; free some there",
        free = .space.free, dir = .space.dir.display(), reserve = .space.reserve
    )]
    NoSpace {
        /// Which member.
        node: NodeId,
        /// What is left to it.
        space: Space,
    },
    /// The proposal is longer than `entry_bytes_max`. Not applied.
    #[error("the proposal has {bytes} bytes, {bytes_max} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// It was appended, but its fate was not learned: another leader took over, no majority answered in time, or the
    /// replica stopped. It may or may not take effect.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
    /// This replica has stopped. Not applied.
    #[error("this replica has stopped")]
    Stopped,
}

impl ProposeError {
    /// Whether the proposal may have been applied all the same.
    pub fn applied(&self) -> Applied {
        match self {
            ProposeError::Unknown => Applied::Unknown,
            ProposeError::NotLeader { .. }
            | ProposeError::NoQuorum
            | ProposeError::Overloaded
            | ProposeError::NoSpace { .. }
            | ProposeError::TooLarge { .. }
            | ProposeError::Stopped => Applied::No,
        }
    }
}

/// What bounds proposals.
pub(crate) struct Proposals {
    in_flight: Arc<Semaphore>,
    bytes_in_flight: Arc<Semaphore>,
    bytes_max: usize,
    within: Duration,
}

impl Proposals {
    pub(crate) fn new(limits: &Limits) -> Proposals {
        Proposals {
            in_flight: Arc::new(Semaphore::new(limits.proposals_in_flight)),
            bytes_in_flight: Arc::new(Semaphore::new(limits.proposal_bytes_in_flight)),
            bytes_max: limits.entry_bytes_max,
            within: limits.proposal_within,
        }
    }

    /// Proposes; with a leadership, only in its term.
    pub(crate) async fn propose(
        &self,
        raft: &OpenRaft,
        counting: &Counting,
        leadership: Option<&Leadership>,
        data: Bytes,
    ) -> Result<Proposed, ProposeError> {
        if data.len() > self.bytes_max {
            return Err(ProposeError::TooLarge { bytes: data.len(), bytes_max: self.bytes_max });
        }
        let bytes = u32::try_from(data.len()).expect("the limit of an entry was checked to fit");
        let permits = self.in_flight.clone().try_acquire_owned().and_then(|one| {
            let bytes = self.bytes_in_flight.clone().try_acquire_many_owned(bytes)?;
            Ok((one, bytes))
        });
        let permits = permits.map_err(|_| {
            counting.proposals_refused.fetch_add(1, Ordering::Relaxed);
            ProposeError::Overloaded
        })?;
        if raft.metrics().borrow_watched().running_state.is_err() {
            return Err(ProposeError::Stopped);
        }
        let (reply, answer) = ReplyTo::new(permits);
        let mut write = raft.write(Data(data)).responder(reply);
        if let Some(leadership) = leadership {
            write = write.with_leader(leadership.leader);
        }
        write.await.map_err(|_| ProposeError::Stopped)?;
        let Ok(Ok(outcome)) = timeout(self.within, answer).await else {
            return Err(ProposeError::Unknown);
        };
        outcome.map(|written| Proposed { index: written.log_id.index, reply: written.data }).map_err(refused)
    }
}

fn refused(error: ClientWriteError<Group>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(ForwardToLeader { reason: ForwardReason::LeaseExpired, .. }) => {
            ProposeError::NoQuorum
        }
        ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, leader_node, .. }) => {
            ProposeError::NotLeader { leader: leader_id.zip(leader_node.map(|seat| seat.addresses)) }
        }
        // Neither concerns application data; both refuse before anything is appended.
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ProposeError::NotLeader { leader: None }
        }
        ClientWriteError::LogEntryDiscarded(_) => ProposeError::Unknown,
    }
}
