//! What a process knows of the directory. Two implementors: a directory node reads its state machine, a gateway its replica.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::directory::{Connection, ConnectionId, Epoch, Revision, Session};

/// A live connection and the session that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: ConnectionId,
    /// What is kept of it.
    pub connection: Arc<Connection>,
    /// What is kept of its session.
    pub session: Arc<Session>,
}

/// A value and the revision of the directory that it was read at: exactly that state, not merely one near it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// The revision.
    pub revision: Revision,
}

/// Counts of what lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections.
    pub connections: u64,
    /// Users with at least one.
    pub users: u64,
}

/// Why a view can't be made fresh enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// No quorum confirms what this process knows.
    #[error("the directory has no quorum, or is out of reach")]
    NoQuorum,
    /// It did not catch up in time.
    #[error("this process did not catch up with the directory in time")]
    Timeout,
}

/// What a process knows of the directory. All reads are of memory and never wait; freshness is bought beforehand by
/// [`View::linearize`] or [`View::reach`].
pub trait View: Send + Sync + 'static {
    /// The live connections of a user, ordered by grant.
    fn user(&self, user: &str) -> At<Vec<Found>>;

    /// A live connection.
    fn connection(&self, id: ConnectionId) -> At<Option<Found>>;

    /// At most `limit` live connections with ids above `after`, ordered by id.
    fn scan(&self, after: Option<ConnectionId>, limit: usize) -> At<Vec<Found>>;

    /// Live sessions ordered by epoch, with the number of their live connections.
    fn sessions(&self) -> At<Vec<(Epoch, Arc<Session>, u64)>>;

    /// Counts of what lives.
    fn counts(&self) -> At<Counts>;

    /// The revision that reads show now, at least.
    fn revision(&self) -> Revision;

    /// How old an answer may be that is read now; `None`: not known, it may be of any age.
    fn staleness(&self) -> Option<Duration>;

    /// Waits until reads show every change that was acknowledged anywhere before this call.
    fn linearize(&self) -> impl Future<Output = Result<(), Stale>> + Send;

    /// Waits until reads show `revision`.
    fn reach(&self, revision: Revision, within: Duration) -> impl Future<Output = Result<(), Stale>> + Send;
}
