//! The state machine as readers see it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard_raft::Raft;
use tokio::time::Instant;

use super::replicated::Replicated;
use crate::directory::{ConnectionId, Epoch, LiveConnection, Revision, Session};
use crate::view::{At, Counts, Found, Stale, View};

/// Longest wait for a read to be confirmed.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a node confirms what it knows while nobody asks, so that cached reads can say how old they are.
const CONFIRM_EVERY: Duration = Duration::from_millis(250);

/// The state machine of this node.
#[derive(Debug)]
pub(super) struct NodeView {
    raft: Raft,
    state: Arc<Replicated>,
    pub(super) confirmed: Arc<Confirmed>,
}

/// When the latest read began that was confirmed.
#[derive(Debug, Default)]
pub(super) struct Confirmed(Mutex<Option<Instant>>);

impl Confirmed {
    /// A read was confirmed that began then.
    pub(super) fn note(&self, began: Instant) {
        let mut latest = self.latest();
        *latest = (*latest).max(Some(began));
    }

    /// How long ago that is; `None`: never.
    pub(super) fn age(&self) -> Option<Duration> {
        self.latest().map(|began| began.elapsed())
    }

    fn latest(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.lock().expect("no code panics while holding this lock")
    }
}

impl NodeView {
    pub(super) fn new(raft: Raft, state: Arc<Replicated>) -> Self {
        Self { raft, state, confirmed: Arc::default() }
    }

    /// Confirms now and then what this node knows.
    pub(super) async fn keep_confirming(self: Arc<Self>) {
        loop {
            // Whether it succeeded shows in the staleness.
            let _ = self.linearize().await;
            tokio::time::sleep(CONFIRM_EVERY).await;
        }
    }
}

fn found(live: LiveConnection<'_>) -> Found {
    Found { id: live.id, connection: live.connection, session: Arc::clone(live.session) }
}

impl View for NodeView {
    async fn users(&self, users: &[&str]) -> Result<Vec<At<Vec<Found>>>, Stale> {
        let look = |user: &&str| {
            // Each by itself: applying waits while the state is read.
            let directory = self.state.read();
            let value = directory.connections_of(user).into_iter().map(found).collect();
            At { value, revision: directory.revision() }
        };
        Ok(users.iter().map(look).collect())
    }

    async fn connection(&self, id: ConnectionId) -> Result<At<Option<Found>>, Stale> {
        let directory = self.state.read();
        Ok(At { value: directory.connection(id).map(found), revision: directory.revision() })
    }

    fn scan(&self, after: Option<ConnectionId>, limit: usize) -> At<Vec<Found>> {
        // A page may be long; applying should not wait for it.
        let directory = self.state.frozen();
        At { value: directory.scan(after).take(limit).map(found).collect(), revision: directory.revision() }
    }

    fn sessions(&self) -> At<Vec<(Epoch, Arc<Session>, u64)>> {
        let directory = self.state.read();
        let value = directory.sessions().map(|live| (live.epoch, Arc::clone(live.session), live.connections)).collect();
        At { value, revision: directory.revision() }
    }

    fn subscribed(&self, topic: &str) -> At<Vec<(Epoch, Arc<Session>)>> {
        let directory = self.state.read();
        let session = |epoch| directory.session(epoch).map(|live| (epoch, Arc::clone(live.session)));
        let value = directory.sessions_of(topic).into_iter().filter_map(session).collect();
        At { value, revision: directory.revision() }
    }

    fn counts(&self) -> At<Counts> {
        let directory = self.state.read();
        let stats = directory.stats();
        At { value: Counts { connections: stats.connections, users: stats.users }, revision: directory.revision() }
    }

    fn revision(&self) -> Revision {
        self.state.read().revision()
    }

    fn staleness(&self) -> Option<Duration> {
        self.confirmed.age()
    }

    async fn linearize(&self) -> Result<(), Stale> {
        let began = Instant::now();
        match tokio::time::timeout(CONFIRM_TIMEOUT, self.raft.read_index()).await {
            Ok(Ok(_)) => {
                self.confirmed.note(began);
                Ok(())
            }
            Ok(Err(_)) => Err(Stale::NoQuorum),
            Err(_) => Err(Stale::Timeout),
        }
    }

    async fn reach(&self, revision: Revision, within: Duration) -> Result<(), Stale> {
        self.raft.wait_applied(revision, within).await.map_err(|_| Stale::Timeout)
    }
}
