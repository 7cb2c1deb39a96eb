//! What became of a command, and the events that watchers see.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::{Ban, GatewayAddresses, Per, Reason, Release};
use super::ids::{ConnectionId, Epoch, Revision};
use super::state::Directory;

/// What applying one entry gave.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// One outcome per command, in order.
    pub outcomes: Vec<Outcome>,
    /// What changed, in order; the position is the `n` of the mark `(revision, n)`.
    pub events: Vec<Event>,
    /// One per [`Event::SessionEnded`], in order.
    pub ends: Vec<SessionEnd>,
}

/// A session that an entry ended, with what it takes to list its connections one by one.
///
/// Whoever keeps it keeps the memory of the state at that moment; drop it as soon as the list is made.
#[derive(Debug, Clone)]
pub struct SessionEnd {
    /// Position of the [`Event::SessionEnded`] in the events of the entry.
    pub n: usize,
    /// The session.
    pub epoch: Epoch,
    /// The directory as it was right after this event, before the rest of the entry; see [`Directory::closed_by`].
    pub frozen: Directory,
}

/// What became of one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Of an `OpenSession`: the epoch of the session, which may be one that an earlier copy of the request opened.
    Opened(Result<Epoch, OpenRefused>),
    /// Of an `EndSession`: whether the session was alive.
    Ended(bool),
    /// Of a `Batch`.
    Batch(Result<BatchDone, BatchRefused>),
    /// Of a `Reclaim`: how much of the session is still held.
    Reclaimed {
        /// Connections, waiting ones and topics that are left.
        left: u64,
    },
    /// Of a `ReleaseClaims`: whether there were claims to release.
    ClaimsReleased(bool),
    /// Of a `Disconnect`: the connections whose gateways are asked to close them.
    Asked(Vec<ConnectionId>),
    /// Of a `Ban`: the connections whose gateways are asked to close them.
    Banned(Result<Vec<ConnectionId>, Invalid>),
    /// Of an `Unban`: whether there was such a ban.
    Unbanned(bool),
}

/// A batch that was applied, now or when its first copy arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchDone {
    /// When it was applied.
    pub revision: Revision,
    /// One per operation, in order.
    pub ops: Arc<[OpOutcome]>,
}

/// Why a session was not opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OpenRefused {
    /// Another process holds a live session under this gateway's name.
    #[error("the gateway id is in use by another process (session s-{epoch})")]
    Conflict {
        /// Its session.
        epoch: Epoch,
        /// Its process.
        nonce: Arc<str>,
        /// Where it is reached.
        addresses: GatewayAddresses,
    },
    /// A late copy of a request whose session has already ended.
    #[error("this request is a late copy; the session that it opened is over")]
    Stale,
    /// A second `OpenSession` in one entry; the proposer must not do that. Safe to propose again.
    #[error("two sessions can't be opened by one log entry")]
    NotAlone,
    /// A field is outside its limits.
    #[error("{0}")]
    Invalid(Invalid),
}

/// Why no operation of a batch was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum BatchRefused {
    /// The session is not alive.
    #[error("the session is over")]
    Fenced,
    /// An earlier batch is missing.
    #[error("batch {expected} has to come first")]
    Gap {
        /// The number that would be accepted.
        expected: u64,
    },
    /// So old that its outcome is no longer held.
    #[error("outcomes are held back to batch {oldest} only")]
    TooOld {
        /// The oldest number whose outcome is held.
        oldest: u64,
    },
}

/// What became of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpOutcome {
    /// The connection is there.
    Registered {
        /// When it was granted.
        granted: Revision,
        /// The connections whose place it took in that moment. A repeated registration names none.
        superseded: Box<[ConnectionId]>,
    },
    /// The connection waits until those whose place it takes are released. [`Event::Opened`] tells that it is granted,
    /// [`Event::ReleaseAsked`] that another one came in between.
    Pending,
    /// The connection is not there.
    Unregistered {
        /// Whether this removed it.
        existed: bool,
    },
    /// The metadata is replaced.
    MetaSet {
        /// Its version now.
        version: u32,
    },
    /// The session is where it was asked to be: in the topics, or out of them.
    Topics {
        /// Topics of which that was not so before.
        changed: u32,
    },
    /// Nothing changed.
    Refused(OpRefused),
}

/// Why an operation changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OpRefused {
    /// The user has as many connections as the policy allows.
    #[error("the user has all the connections that are allowed, {max}")]
    ConnectionLimit {
        /// The limit.
        max: u32,
    },
    /// The policy gives the place to whoever is there.
    #[error("the place is taken by {} on gateway {}", .owner.id, .owner.gateway)]
    Conflict {
        /// Who that is.
        owner: Box<Owner>,
    },
    /// A socket of a former session lost its place while it had none.
    #[error("{by} took its place meanwhile")]
    Superseded {
        /// To whom.
        by: ConnectionId,
    },
    /// The session has subscribers of as many topics as it may.
    #[error("the gateway has subscribers of 1,000,000 topics already")]
    TopicLimit,
    /// The user is banned.
    #[error("the user is banned{}", .0.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    Banned(Box<Ban>),
    /// Serials only grow within a session, and one is never used twice.
    #[error("the serial was used before, or a larger one was; serials only grow")]
    SerialReused,
    /// No such connection.
    #[error("no such connection")]
    NotFound,
    /// The metadata has another version.
    #[error("the metadata has version {current}")]
    VersionMismatch {
        /// The version that it has.
        current: u32,
    },
    /// A field is outside its limits.
    #[error("{0}")]
    Invalid(Invalid),
}

/// A field that is outside its limits (see [`super::limits`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Invalid {
    /// Of a user.
    #[error("a user is 1 to 128 bytes of text without control characters")]
    User,
    /// Of a device.
    #[error("a device is at most 128 bytes of text without control characters")]
    Device,
    /// Of a gateway's name or nonce.
    #[error("a gateway id is 1 to 128 bytes of text without control characters")]
    Gateway,
    /// Of metadata or another text that is kept with an entry.
    #[error("metadata, reasons and addresses are at most 4,096 bytes")]
    TooLong,
    /// Of a topic.
    #[error("a topic is 1 to 128 bytes of text without control characters")]
    Topic,
    /// Of the number of bans.
    #[error("1,000,000 users are banned already")]
    TooManyBans,
    /// Of the topics of one operation.
    #[error("an operation names at most 256 topics")]
    TooManyTopics,
}

/// Who has the place that a newcomer was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Which connection.
    pub id: ConnectionId,
    /// Its gateway.
    pub gateway: Arc<str>,
    /// Its device; empty if it was not told.
    pub device: Arc<str>,
    /// When it was granted, or since when it waits to be.
    pub granted: Revision,
    /// Whether lookups show it. Otherwise it holds the place for a while only: its session ended and its gateway may not
    /// have noticed yet, or it waits itself.
    pub live: bool,
}

/// One change that watchers see. Replicas apply it; feeds for people are derived from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A gateway has a session.
    SessionOpened {
        /// Its epoch.
        epoch: Epoch,
        /// The gateway.
        session: Arc<Session>,
    },
    /// A session and every connection of it are gone. The connections are not listed.
    SessionEnded {
        /// Its epoch.
        epoch: Epoch,
        /// Its gateway.
        gateway: Arc<str>,
        /// Why.
        reason: Reason,
    },
    /// A connection is there.
    Opened {
        /// Which.
        id: ConnectionId,
        /// What is kept of it.
        connection: Arc<Connection>,
        /// Its gateway.
        gateway: Arc<str>,
        /// Whether the user had no connection before.
        first: bool,
    },
    /// A connection is gone.
    Closed {
        /// Which.
        id: ConnectionId,
        /// Whose.
        user: Arc<str>,
        /// Its gateway.
        gateway: Arc<str>,
        /// When it had been granted.
        granted: Revision,
        /// Why.
        reason: Reason,
        /// Whether the user has no connection any more.
        last: bool,
    },
    /// The metadata of a connection was replaced.
    MetaChanged {
        /// Which.
        id: ConnectionId,
        /// Whose.
        user: Arc<str>,
        /// Its gateway.
        gateway: Arc<str>,
        /// When it had been granted.
        granted: Revision,
        /// The new JSON object as text.
        meta: Arc<str>,
        /// Its version.
        version: u32,
    },
    /// A gateway is asked to close a connection, or to give up one that waits, and to unregister it then.
    ReleaseAsked {
        /// Which.
        id: ConnectionId,
        /// Whose.
        user: Arc<str>,
        /// Its gateway.
        gateway: Arc<str>,
        /// What its client is told.
        release: Release,
    },
    /// A session has its first subscriber of a topic.
    TopicJoined {
        /// Which topic.
        topic: Arc<str>,
        /// The session.
        epoch: Epoch,
        /// Its gateway.
        gateway: Arc<str>,
    },
    /// A session has no subscriber of a topic any more. When the session itself ends this is not told: see
    /// [`Directory::left_by`].
    TopicLeft {
        /// Which topic.
        topic: Arc<str>,
        /// The session.
        epoch: Epoch,
        /// Its gateway.
        gateway: Arc<str>,
    },
}

/// What is kept of a session, apart from its connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Name of the gateway.
    pub gateway: Arc<str>,
    /// The process.
    pub nonce: Arc<str>,
    /// Which session of that process.
    pub attempt: u64,
    /// Length of the lease, milliseconds.
    pub lease_ms: u32,
    /// Where the gateway is reached.
    pub addresses: GatewayAddresses,
}

/// What is kept of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Whose.
    pub user: Arc<str>,
    /// Which device; empty if it was not told.
    pub device: Arc<str>,
    /// When it was granted; orders the connections of one user.
    pub granted: Revision,
    /// Wall clock of the gateway when the client arrived, milliseconds since 1970.
    pub connected_at_ms: u64,
    /// The client's address.
    pub remote: Option<Arc<str>>,
    /// A JSON object as text, if there is any.
    pub meta: Option<Arc<str>>,
    /// Counts the replacements of the metadata, from 1.
    pub meta_version: u32,
    /// What it claims for itself alone.
    pub claim: Option<Per>,
}
