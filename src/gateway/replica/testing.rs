//! A replica without a stream, for tests: told every frame and every answer.

use std::sync::Arc;

use super::Replica;
use super::follow::Follower;
use crate::client::{self, Directory};
use crate::directory::{Connection, ConnectionId, Epoch, Revision};
use crate::gateway::settings::ReplicaMode;
use crate::view::{At, View};
use crate::wire::peer::{FoundUsers, WatchFrame, WatchFrom};

/// A replica without a stream.
pub(crate) struct LoneReplica {
    replica: Arc<Replica>,
    follower: Follower,
}

impl LoneReplica {
    /// One that holds everybody, or at most so many users.
    pub(crate) fn new(users_max: Option<usize>) -> Self {
        let replica = Arc::new(Replica::alone(users_max.map_or(ReplicaMode::Full, ReplicaMode::Lru)));
        let nobody = client::Settings { cluster: "test".into(), name: "a test".into(), nodes: Vec::new() };
        Self { follower: Follower::new(Arc::clone(&replica), Directory::new(nobody)), replica }
    }

    /// Where the next watch begins.
    pub(crate) fn begin(&mut self) -> WatchFrom {
        self.follower.begin()
    }

    /// Takes a frame. `false`: the watch can't go on.
    pub(crate) fn take(&mut self, frame: WatchFrame) -> bool {
        let goes_on = self.follower.take(frame).is_ok();
        self.follower.reclaim(2);
        goes_on
    }

    /// What a node was asked for arrives.
    pub(crate) fn answered(&mut self, answer: FoundUsers) {
        if let Some(asked) = &self.replica.asked {
            asked.keep(answer);
        }
        self.follower.take_answers();
    }

    /// The revision that is shown, if there is anything to show yet.
    pub(crate) fn revision(&self) -> Option<Revision> {
        self.replica.is_loaded().then(|| self.replica.revision())
    }

    /// The connections of a user, unless the user is not held.
    pub(crate) fn look(&self, user: &str) -> Option<At<Vec<(ConnectionId, Connection)>>> {
        let At { value, revision } = self.replica.store.load().user(user)?;
        let value = value.into_iter().map(|found| (found.id, Connection::clone(&found.connection))).collect();
        Some(At { value, revision })
    }

    /// The sessions that have subscribers of a topic.
    pub(crate) fn subscribed(&self, topic: &str) -> At<Vec<Epoch>> {
        let At { value, revision } = self.replica.subscribed(topic);
        At { value: value.into_iter().map(|(epoch, _)| epoch).collect(), revision }
    }

    /// How many users and connections are in memory.
    pub(crate) fn held(&self) -> (u64, usize) {
        (self.replica.store.load().users_held(), self.replica.scan(None, usize::MAX).value.len())
    }
}
