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
    /// One user has too many connections to be asked for.
    #[error("the user has more connections than this process can ask for at once; ask a directory node")]
    TooMany,
    /// It did not catch up in time.
    #[error("this process did not catch up with the directory in time")]
    Timeout,
}

/// What a process knows of the directory. Freshness is bought beforehand by [`View::linearize`] or [`View::reach`]; reads are
/// of memory then and wait for nothing, but where a process does not keep everybody in memory and has to ask for a user.
pub trait View: Send + Sync + 'static {
    /// The live connections of users, each ordered by grant; one value for each, in order.
    ///
    /// # Errors
    /// When a user is not in memory, and nobody can be asked. Nobody is ever taken for absent because of that.
    fn users(&self, users: &[&str]) -> impl Future<Output = Result<Vec<At<Vec<Found>>>, Stale>> + Send;

    /// The live connections of a user, as [`View::users`].
    fn user(&self, user: &str) -> impl Future<Output = Result<At<Vec<Found>>, Stale>> + Send {
        async move { self.users(&[user]).await.map(|mut found| found.pop().expect("one was asked for")) }
    }

    /// A live connection. Errors as of [`View::users`].
    fn connection(&self, id: ConnectionId) -> impl Future<Output = Result<At<Option<Found>>, Stale>> + Send;

    /// Whether all of it is in memory. If not, [`View::scan`], [`View::sessions`] and [`View::counts`] say only what is held, so
    /// lists and counts have to be asked of another process.
    fn holds_all(&self) -> bool {
        true
    }

    /// At most `limit` live connections with ids above `after`, ordered by id.
    fn scan(&self, after: Option<ConnectionId>, limit: usize) -> At<Vec<Found>>;

    /// Live sessions ordered by epoch, with the number of their live connections.
    fn sessions(&self) -> At<Vec<(Epoch, Arc<Session>, u64)>>;

    /// The live sessions that have subscribers of a topic, ordered by epoch. Every process has them in memory.
    fn subscribed(&self, topic: &str) -> At<Vec<(Epoch, Arc<Session>)>>;

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
