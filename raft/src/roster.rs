//! What the group remembers beyond its present members.
//!
//! It follows from the committed memberships alone, so it is equal on every member at equal indices, and it is part of every
//! snapshot, because the entries it follows from are purged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::entry::Seat;
use crate::settings::NodeId;

/// The cluster's own name, and every member it ever had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Roster {
    /// Names the cluster itself, whatever people call it; 0 before the first membership. A restore draws a new one.
    pub(crate) cluster_id: u64,
    /// Every id that was ever a member's, with the nonce of its data directory. An id is never used again, not even for
    /// the same machine: what a lost directory had promised is promised under its id.
    pub(crate) directories: BTreeMap<NodeId, u64>,
}

impl Roster {
    /// Notes the members of a committed membership.
    pub(crate) fn note<'a>(&mut self, members: impl Iterator<Item = (&'a NodeId, &'a Seat)>) {
        for (id, seat) in members {
            if self.cluster_id == 0 {
                // Random, and drawn for a directory that founded no other cluster.
                self.cluster_id = seat.nonce;
            }
            self.directories.insert(*id, seat.nonce);
        }
    }
}
