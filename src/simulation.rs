//! The world of a simulation: a thread that has entered one has its network and its clock from there, and no other thread.
//!
//! Only compiled for jepsen/, which builds worlds. Everything else runs as it does without one.

use std::cell::RefCell;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::directory::Entry;

/// What a simulated process finds around it.
pub trait World: Debug + Send + Sync {
    /// Listens on `host:port`.
    ///
    /// # Errors
    /// When somebody does so already, or the host is not this one.
    fn bind(&self, address: &str) -> io::Result<Box<dyn Accept>>;

    /// Connects to `host:port`.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Pipe>>;

    /// The clock that counts sleep, on the machine whose process runs now.
    fn boottime(&self) -> Duration;

    /// The wall clock of that machine, milliseconds since 1970.
    fn wall_ms(&self) -> u64;

    /// Whether a bug is planted, to see that it is found.
    fn is_planted(&self, bug: Bug) -> bool;

    /// The node that runs now has applied an entry: every node tells the same of one revision.
    fn applied(&self, revision: u64, entry: &Entry);
}

/// A bug that a world may plant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A leader acknowledges renewals without asking a quorum whether it still leads.
    RenewsUnconfirmed,
    /// A new leader goes by no deadline at all, so that whoever has not renewed yet is overdue.
    ForgetsLeases,
}

/// A simulated listener.
pub trait Accept: Debug + Send + Sync {
    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// The next connection, and who made it.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Pipe, SocketAddr)>>;
}

/// One end of a simulated stream. Dropping a half closes it.
pub struct Pipe {
    /// What the other end writes.
    pub read: Box<dyn AsyncRead + Send + Sync + Unpin>,
    /// To the other end.
    pub write: Box<dyn AsyncWrite + Send + Sync + Unpin>,
}

thread_local! {
    static WORLD: RefCell<Option<Arc<dyn World>>> = const { RefCell::new(None) };
}

/// From now on this thread is in a world.
pub fn enter(world: Arc<dyn World>) {
    WORLD.set(Some(world));
}

/// Whether the world that this thread is in, if any, plants a bug.
pub(crate) fn is_planted(bug: Bug) -> bool {
    world().is_some_and(|world| world.is_planted(bug))
}

/// The world that this thread is in, if any.
pub(crate) fn world() -> Option<Arc<dyn World>> {
    WORLD.with_borrow(Clone::clone)
}
