//! Changes of the group, asked of the leader, and who is told of the members there are.

use switchboard_raft::{ChangeError, Raft, Standing};

use super::requests::Requests;
use crate::client::Directory;
use crate::wire::peer::{Answer, ChangeRefusal, ChangeRefused, Failure, GroupChange};

/// What a node says to everybody once it was removed.
const REMOVED: &str = "this node was removed from the cluster; ask another one. To bring it back, start it with an empty \
                       data directory, --join and a new id, and add it again";

/// Why a node must not answer for the cluster at all: it is no member any more, or can't become one.
pub(super) fn shut_out(raft: &Raft) -> Option<String> {
    match raft.standing() {
        Standing::ShutOut(why) => Some(why),
        Standing::Removed => Some(REMOVED.to_owned()),
        Standing::Seated | Standing::Founding | Standing::Joining => None,
    }
}

/// Peer addresses of the members that this node knows.
pub(super) fn addresses(raft: &Raft) -> Vec<String> {
    raft.status_changes().borrow().members.iter().map(|member| member.addresses.peer.clone()).collect()
}

/// Tells the client of this node's own questions about every change of the members. Ends with the replica.
pub(super) async fn keep_learning(raft: Raft, others: Directory) {
    let mut changes = raft.status_changes();
    loop {
        others.learn(addresses(&raft));
        if changes.changed().await.is_err() {
            return;
        }
    }
}

impl Requests {
    /// Changes the group, if this node leads it.
    pub(super) async fn change(&self, change: GroupChange) -> Result<Answer, Failure> {
        let raft = &self.raft;
        let changed = match change {
            GroupChange::Add { id, peer } => raft.add_learner(id, &peer).await,
            GroupChange::Promote { id } => raft.promote(id).await,
            GroupChange::Remove { id } => raft.remove(id).await,
            GroupChange::TransferLeader { to } => raft.transfer_leader(to).await.map(|()| raft.applied()),
        };
        let error = match changed {
            Ok(revision) => return Ok(Answer::Changed(Ok(revision))),
            Err(error) => error,
        };
        let kind = match &error {
            ChangeError::NotLeader { leader } => {
                let leader = leader.as_ref().map(|(id, addresses)| (*id, addresses.peer.clone()));
                return Err(Failure::NotLeader { leader });
            }
            ChangeError::NoQuorum => return Err(Failure::NoQuorum),
            ChangeError::Unknown => return Err(Failure::Unknown),
            ChangeError::Stopped => return Err(Failure::NotLeader { leader: None }),
            ChangeError::NoMember(_) => ChangeRefusal::NoMember,
            ChangeError::Busy => ChangeRefusal::Busy,
            ChangeError::Behind { .. } => ChangeRefusal::Behind,
            _ => ChangeRefusal::Conflict,
        };
        Ok(Answer::Changed(Err(ChangeRefused { kind, why: error.to_string() })))
    }
}
