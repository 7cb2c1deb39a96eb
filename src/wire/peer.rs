//! The internal binary protocol on peer listeners: sessions, watch and delivery.
//!
//! A connection begins with the five bytes of [`PREAMBLE`]; then both sides exchange frames, each a big-endian `u32` length
//! and that many bytes of postcard. The first frame is a [`Hello`], answered by a [`HelloAnswer`]; its purpose says what
//! follows. Streams that begin with the preamble of `raft/` go there instead.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use super::ask::{
    GatewayAnswer, GatewayAsk, GatewayRequest, GatewayResponse, Member, PRESENCE_MEMBERS_MAX, Subscribed,
};
pub use super::deliver::{
    Ack, Deliver, Delivered, Delivery, KEYED_PREFIX, Message, Payload, Pick, RESULTS_MAX, Reached, TargetStatus,
    Targets,
};
use crate::directory::{
    Ban, Batch, BatchDone, BatchRefused, Connection, ConnectionId, Disconnect, Epoch, Event, OpenSession, Reason,
    Release, Revision, Session,
};

/// First bytes of a stream of this protocol: four letters, and the form of the [`Hello`], which hardly ever changes.
pub const PREAMBLE: [u8; 5] = *b"SWBP\x02";

/// Versions of everything that follows a hello, oldest and newest.
pub type Versions = (u8, u8);

/// The versions that this release speaks. A release speaks the one before its own, so that processes can be replaced one
/// by one.
pub const SPEAKS: Versions = (3, 3);

/// The newest version that both sides speak.
#[must_use]
pub fn common_version(theirs: Versions) -> Option<u8> {
    let newest = theirs.1.min(SPEAKS.1);
    (newest >= theirs.0.max(SPEAKS.0)).then_some(newest)
}

/// Longest frame that is taken, bytes. A snapshot chunk or a batch stays far below it.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Says who is calling and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Both sides must be of one cluster.
    pub cluster: String,
    /// Who calls: `node 2`, `gateway gw-1`. For logs.
    pub from: String,
    /// What follows.
    pub purpose: Purpose,
    /// The versions that the caller speaks.
    pub speaks: Versions,
}

impl Hello {
    /// The hello of this release.
    #[must_use]
    pub fn new(cluster: impl Into<String>, from: impl Into<String>, purpose: Purpose) -> Self {
        Self { cluster: cluster.into(), from: from.into(), purpose, speaks: SPEAKS }
    }
}

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// [`Request`]s to a directory node, each answered by a [`Response`].
    Control,
    /// The changes of the directory: [`WatchFrame`]s from the node, [`Stamp`]s from the watcher.
    Watch(WatchFrom),
    /// [`Deliver`] to a gateway, each answered by a [`Delivered`].
    Link,
    /// Nothing: the caller only wants to know who answers here.
    Identify,
    /// As `Control`, for opening, renewing and ending sessions: a node answers these whatever else it has to do.
    Leases,
    /// [`GatewayRequest`]s to a gateway, each answered by a [`GatewayResponse`].
    Ask,
}

/// Answer to a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloAnswer {
    /// Go on.
    Accepted {
        /// Role and name of the process, as in [`Hello::from`].
        name: String,
        /// Names the process; chosen at random when it started.
        nonce: Arc<str>,
        /// What follows is of this version.
        version: u8,
        /// Of a directory node that has a state: of which cluster, and how far it is.
        cluster: Option<ClusterMark>,
    },
    /// The stream is closed after this.
    Refused {
        /// A sentence for the log of the caller.
        why: String,
    },
}

/// Which cluster a state belongs to, and how far it is. Clusters that were made of one another by a restore have the same name;
/// the newer one is far ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMark {
    /// Drawn when the cluster was founded or restored.
    pub id: u64,
    /// What the node has applied.
    pub revision: Revision,
}

/// A question to a directory node. Answers may come in any order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the caller, unique on this stream.
    pub id: u64,
    /// The question.
    pub body: RequestBody,
}

/// What is asked. `Cluster`, `Find` and `LastSeen` are answered by every node, all else by the leader only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// Open a session.
    OpenSession(OpenSession),
    /// End a session.
    EndSession {
        /// Which.
        epoch: Epoch,
        /// Why.
        reason: Reason,
        /// Whether the gateway has stopped serving exclusive connections; otherwise their claims stay for a lease.
        fenced: bool,
    },
    /// Change connections. Numbered batches of one session that are sent on one stream are proposed in that order.
    Batch(Batch),
    /// Extend a lease.
    Renew {
        /// Of which session.
        epoch: Epoch,
        /// Up to which revision release requests were handled.
        handled: Revision,
    },
    /// Ask for connections to be closed.
    Disconnect(Disconnect),
    /// Refuse a user from now on, and ask for its connections to be closed.
    Ban {
        /// Whom.
        user: Arc<str>,
        /// Until when, and why.
        ban: Ban,
    },
    /// Lift a ban.
    Unban {
        /// Of whom.
        user: Arc<str>,
    },
    /// How long the leases still run.
    Leases,
    /// The members of the group, as this node knows them, and the leader as far as it can be asked.
    Cluster,
    /// The members of the group, as the leader knows them.
    Members,
    /// Change the group.
    Change(GroupChange),
    /// Where users are, by a linearizable read.
    Find(Vec<Who>),
    /// When users were last connected who are not now.
    LastSeen {
        /// The users.
        users: Vec<Arc<str>>,
        /// The node first applies at least this revision.
        revision: Revision,
    },
}

/// Who is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// A user.
    User(Arc<str>),
    /// The user who has this connection.
    Holder(ConnectionId),
}

/// A change of the group of directory nodes. Each may be repeated: what is so already is not changed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupChange {
    /// Add a node as a learner.
    Add {
        /// Its id.
        id: u64,
        /// Where it waits, `host:port`.
        peer: String,
    },
    /// Make a learner a voter.
    Promote {
        /// Its id.
        id: u64,
    },
    /// Remove a node for ever.
    Remove {
        /// Its id.
        id: u64,
    },
    /// Let another voter lead.
    TransferLeader {
        /// Its id.
        to: u64,
    },
}

/// Answer to the [`Request`] with the same id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The request's id.
    pub id: u64,
    /// The answer.
    pub result: Result<Answer, Failure>,
}

/// What a request gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// To `OpenSession`.
    Opened {
        /// The epoch.
        epoch: Epoch,
        /// Length of the lease that was granted, milliseconds; it counts from the moment at which the request was sent.
        lease_ms: u32,
    },
    /// To `OpenSession`: another process holds the name.
    Taken {
        /// Its session.
        epoch: Epoch,
    },
    /// To `OpenSession`: it can't be granted as asked; repeating it does not help.
    NotOpened {
        /// Why.
        why: String,
    },
    /// To `EndSession`.
    Ended {
        /// Whether the session was alive.
        existed: bool,
    },
    /// To `Batch`.
    Batch(Result<BatchDone, BatchRefused>),
    /// To `Renew`.
    Renewed {
        /// Length of the lease, milliseconds; it counts from the moment at which the renewal was sent.
        lease_ms: u32,
        /// Connections that the gateway is asked to release, and what their clients are told; the rest of them comes with later
        /// renewals if there are many.
        release: Vec<(ConnectionId, Release)>,
        /// The revision at which that was so; the gateway says in its next renewal when it has done it.
        revision: Revision,
    },
    /// To `Renew`: the session is over.
    Gone,
    /// To `Disconnect` and `Ban`: the connections whose gateways are asked to close them.
    Asked {
        /// Which.
        connections: Vec<ConnectionId>,
        /// When that was so.
        revision: Revision,
    },
    /// To `Unban`.
    Unbanned {
        /// Whether there was a ban.
        existed: bool,
        /// When that was so.
        revision: Revision,
    },
    /// To `Leases`: milliseconds left, by session.
    Leases(Vec<(Epoch, u64)>),
    /// To `Cluster` and `Members`.
    Cluster(super::http::Cluster),
    /// To `Change`: the revision at which it is so.
    Changed(Result<Revision, ChangeRefused>),
    /// To `Find`.
    Found(FoundUsers),
    /// To `LastSeen`: milliseconds since 1970, in order; `None` where it is no longer retained, or never was.
    LastSeen(Vec<Option<u64>>),
}

/// Where users are at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundUsers {
    /// The revision.
    pub revision: Revision,
    /// The sessions that hold the connections, each once.
    pub sessions: Vec<(Epoch, Arc<Session>)>,
    /// One for each who was looked for, in order.
    pub users: Vec<FoundUser>,
}

/// Where a user is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundUser {
    /// The user; `None` where a connection was named that nobody has.
    pub user: Option<Arc<str>>,
    /// All connections of the user.
    pub connections: Vec<(ConnectionId, Arc<Connection>)>,
}

/// Why the group was not changed. Nothing was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct ChangeRefused {
    /// For programs.
    pub kind: ChangeRefusal,
    /// For people: what happened, to what, and what to do.
    pub why: String,
}

/// Kinds of refusals of a change of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeRefusal {
    /// There is no such member.
    NoMember,
    /// Another change is under way; this passes.
    Busy,
    /// The member has not caught up, or was not reached yet; this passes.
    Behind,
    /// Too few voters would answer; this passes when they do.
    Unanswered,
    /// As things are, it can't be done.
    Conflict,
}

/// Why there is no answer. Whether the request may have taken effect is always told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// Another node leads. Nothing was changed.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if known: node id and peer address.
        leader: Option<(u64, String)>,
    },
    /// No quorum. Nothing was changed.
    #[error("the directory has no quorum")]
    NoQuorum,
    /// Too much is waiting already. Nothing was changed.
    #[error("too many requests are waiting for the leader")]
    Overloaded,
    /// A node has no space for anything new. Nothing was changed; it passes when space is freed there.
    #[error(
        "directory node {node} has {free_bytes} bytes free in {dir}, and {reserve_bytes} are kept free: nothing new is \
         registered until there is space; free some there"
    )]
    NoSpace {
        /// Which node.
        node: u64,
        /// Its data directory.
        dir: String,
        /// What is left there.
        free_bytes: u64,
        /// What is kept free.
        reserve_bytes: u64,
    },
    /// A request outside its limits. Nothing was changed; repeating it does not help.
    #[error("{why}")]
    Refused {
        /// Which limit.
        why: String,
    },
    /// The gateway renews but has not handled what it was asked to release for a whole lease. Nothing was changed; the lease
    /// is not extended.
    #[error(
        "the lease is not extended: release requests since revision {since} were not handled for a whole lease; stop serving \
         those connections, unregister them, and say so in handled_revision"
    )]
    Ignored {
        /// Since when the oldest of them stands.
        since: Revision,
    },
    /// It may or may not take effect. Repeating the same request is safe.
    #[error("the outcome is not known")]
    Unknown,
    /// This node does not belong to the group any more, or never did. Nothing was changed; others may help.
    #[error("{why}")]
    ShutOut {
        /// Why, and what to do.
        why: String,
    },
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchFrom {
    /// With a snapshot of the present state.
    Snapshot,
    /// With what comes after this revision; answered by `Compacted` if that is no longer held.
    After(Revision),
    /// As `Snapshot`, but without connections: for a replica that asks for the users that it needs.
    Sessions,
}

/// What a watcher sends: its own clock, to be echoed. Two clocks are never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(pub u64);

/// What a watcher receives, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum WatchFrame {
    /// A part of the state at the revision that the closing `SnapshotEnd` names.
    SnapshotChunk {
        /// Live sessions; all of them come before the first connection.
        sessions: Vec<(Epoch, Arc<Session>)>,
        /// Live connections, ordered by id over all chunks.
        connections: Vec<(ConnectionId, Arc<Connection>)>,
    },
    /// The snapshot is complete.
    SnapshotEnd {
        /// The revision that it shows.
        revision: Revision,
    },
    /// All changes of one revision.
    Events {
        /// The revision.
        revision: Revision,
        /// Wall clock of the proposer, milliseconds since 1970.
        at_ms: u64,
        /// In order; the position is the `n` of the mark `(revision, n)`.
        events: Vec<Event>,
    },
    /// Everything up to `revision` was sent. With a stamp: a linearizable read that began after the stamp arrived saw
    /// no later revision.
    Progress {
        /// Everything up to here was sent.
        revision: Revision,
        /// The watcher's newest stamp that this answers.
        stamp: Option<u64>,
    },
    /// What was asked for is no longer held: begin again with a snapshot. The stream ends.
    Compacted {
        /// The oldest revision after which a watch may begin.
        oldest: Revision,
    },
    /// The node can't go on: ask another one. The stream ends.
    Ended {
        /// A sentence for the log.
        why: String,
    },
    /// Peer addresses of all members of the group; at the beginning, and whenever they change.
    Members(Vec<String>),
    /// A part of the state, as `SnapshotChunk`: topics and the sessions that have subscribers of them. It comes after the
    /// sessions, also where no connections are wanted.
    SnapshotTopics(Vec<(Arc<str>, Vec<Epoch>)>),
}
