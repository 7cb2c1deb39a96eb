//! A look into a node that runs, for simulations: what no client can see, as of one moment.

use std::sync::Arc;
use std::time::Duration;

pub use switchboard_raft::simulation::{Disk, Flaw, enter};
use switchboard_raft::{Raft, Status};

use super::replicated::Replicated;
use crate::directory::Directory;

/// A look into a node.
#[derive(Clone)]
pub struct Probe {
    raft: Raft,
    state: Arc<Replicated>,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Probe")
    }
}

impl Probe {
    pub(super) fn new(raft: Raft, state: Arc<Replicated>) -> Self {
        Self { raft, state }
    }

    /// What the log knows of itself and the group.
    pub fn status(&self) -> Status {
        self.raft.status()
    }

    /// The term in which this node leads and has applied its first entry, if it does.
    pub fn leads(&self) -> Option<u64> {
        self.raft.leadership().borrow().as_ref().map(|leadership| leadership.term)
    }

    /// A copy of the state that is applied now.
    pub fn directory(&self) -> Directory {
        self.state.frozen()
    }

    /// Asks another voter to lead.
    pub async fn hand_over(&self, within: Duration) -> bool {
        self.raft.hand_over(within).await
    }
}
