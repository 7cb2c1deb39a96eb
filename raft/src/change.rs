//! Why the members were not changed as asked.

use crate::settings::{Addresses, NodeId};

/// Why the members were not changed as asked, or leadership was not transferred.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This member does not lead. Not applied.
    #[error("this member does not lead")]
    NotLeader {
        /// Who leads, as far as this member knows.
        leader: Option<(NodeId, Addresses)>,
    },
    /// This member leads but has not heard from a majority for an election timeout. Not applied.
    #[error("no majority of the members answers")]
    NoQuorum,
    /// Another change is under way. Not applied; it passes.
    #[error("another change of the members is under way; repeat this one when it is done")]
    Busy,
    /// There is no such member. Not applied.
    #[error("node {0} is no member of the cluster, and never was")]
    NoMember(NodeId),
    /// A node that was a member once. Not applied.
    #[error("node {0} was removed from the cluster; it can only come back with an empty directory and a new id")]
    Removed(NodeId),
    /// Nobody answers at the address of a newcomer. Not applied.
    #[error("no node answers at {address} ({why}); start node {id} there with --join first")]
    NobodyThere {
        /// Who was to be added.
        id: NodeId,
        /// Where it was looked for.
        address: String,
        /// What the network says.
        why: String,
    },
    /// Somebody else answers, or the newcomer can't be added as it is. Not applied.
    #[error("the node at {address} can't be added as node {id}: {why}")]
    WrongNewcomer {
        /// Who was to be added.
        id: NodeId,
        /// Where it was looked for.
        address: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The id was a member's with another data directory. Not applied.
    #[error("the id {0} was used before, with another data directory; ids are never used again: choose a new one")]
    IdUsed(NodeId),
    /// The id is a member's, which is reached elsewhere. Not applied.
    #[error(
        "node {id} is a member already, at {address}; to move it, remove it and add it with an empty directory and a new id"
    )]
    Elsewhere {
        /// The member.
        id: NodeId,
        /// Its address in the membership.
        address: String,
    },
    /// The member does not answer the leader. Not applied.
    #[error("node {0} does not answer the leader; start it, or choose another one")]
    Silent(NodeId),
    /// The member lacks too many entries. Not applied; it passes as the member catches up.
    #[error("node {id} lacks {lag} entries, and {lag_max} are allowed; repeat this when it has caught up")]
    Behind {
        /// The member.
        id: NodeId,
        /// Entries that it lacks.
        lag: u64,
        /// How many it may lack.
        lag_max: u64,
    },
    /// The member does not vote, so it can't lead. Not applied.
    #[error("node {0} is a learner, so it can't lead; promote it first")]
    NotVoter(NodeId),
    /// The last voter can't be removed. Not applied.
    #[error("node {0} is the only voter; without it the cluster would be gone. Add and promote another one first")]
    LastVoter(NodeId),
    /// After the change too few voters would answer. Not applied.
    #[error(
        "of the {voters} voters after this change only {answering} answer now, and {needed} are needed: nothing could be \
         decided any more. Start the silent ones, or remove those first"
    )]
    NoMajority {
        /// Voters after the change.
        voters: usize,
        /// How many of them follow the leader now, itself included.
        answering: usize,
        /// How many must.
        needed: usize,
    },
    /// Its fate was not learned in time, or the leader was lost meanwhile. Repeating it is safe.
    #[error("the outcome is not known; repeating it is safe, and the list of members tells")]
    Unknown,
    /// This replica has stopped. Not applied.
    #[error("this replica has stopped")]
    Stopped,
}
