//! The end of a transfer of leadership that was begun.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::VoteRequest;
use tokio::time::timeout;
use tracing::warn;

use crate::change::ChangeError;
use crate::entry::Vote;
use crate::net::link::Local;
use crate::raft::OpenRaft;
use crate::settings::NodeId;

/// Waits until `to` leads, for as long as that may take.
pub(crate) async fn see_taken_up(raft: OpenRaft, local: Arc<Local>, to: NodeId) -> Result<(), ChangeError> {
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
