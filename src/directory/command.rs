//! What the log carries: entries of commands, and the operations of a batch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{ConnectionId, Epoch, Revision, Serial};
use super::limits;

/// One entry of the replicated log. Many gateways' commands share it; they are applied in order, and the revision of
/// every one of them is the entry's index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Wall clock of the proposer, milliseconds since 1970. Data for people; no rule looks at it.
    pub at_ms: u64,
    /// At most one of them is an [`Command::OpenSession`], because the entry's index becomes the epoch.
    pub commands: Vec<Command>,
}

/// A change that is asked for. Each yields one [`super::Outcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A gateway asks for a session.
    OpenSession(OpenSession),
    /// A session ends and its connections with it, in O(1). Ending a session that is not alive changes nothing.
    EndSession {
        /// The session.
        epoch: Epoch,
        /// Why; every connection of it is closed with this reason.
        reason: Reason,
        /// Whether its gateway has certainly stopped serving exclusive connections: it says so itself, or its lease ran
        /// out. Otherwise their claims stay until [`Command::ReleaseClaims`].
        fenced: bool,
    },
    /// Frees the exclusive claims of a session that ended without its gateway being known to have stopped. To be proposed
    /// one whole lease after that ending was applied.
    ReleaseClaims {
        /// The session that ended.
        epoch: Epoch,
    },
    /// A gateway changes its connections.
    Batch(Batch),
    /// Goes on with what the end of a session began: grants what waited for its connections, then frees their memory,
    /// `limit` of them at most. While its claims stay it changes nothing.
    Reclaim {
        /// The session that ended.
        epoch: Epoch,
        /// Connections, waiting ones and topics that are dealt with at most.
        limit: u32,
    },
    /// Asks gateways to close connections. It removes nothing: their unregistrations do.
    Disconnect(Disconnect),
    /// Refuses registrations of a user from now on, and asks for its connections to be closed.
    Ban {
        /// Whom.
        user: Arc<str>,
        /// What is kept of it.
        ban: Ban,
    },
    /// Lifts a ban.
    Unban {
        /// Of whom.
        user: Arc<str>,
        /// Only the ban that was made at this revision; a later one stays.
        made: Option<Revision>,
    },
}

/// Connections that are asked to be closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnect {
    /// Which.
    pub whom: Whom,
    /// What their clients are told.
    pub release: Release,
}

/// Connections of one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whom {
    /// This one.
    Connection(ConnectionId),
    /// Those of a user.
    User {
        /// The user.
        user: Arc<str>,
        /// Those of these devices only; all if there are none.
        devices: Vec<Arc<str>>,
        /// But not these.
        except: Vec<ConnectionId>,
    },
}

/// What a client is told whose connection is to be closed. The directory only passes it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The close code.
    pub code: u16,
    /// A sentence, if there is one.
    pub reason: Option<Arc<str>>,
}

impl Release {
    /// Another connection takes its place.
    pub fn superseded() -> Self {
        Self { code: limits::CODE_SUPERSEDED, reason: None }
    }
}

/// Why a user is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Wall clock, milliseconds since 1970, at which the proposer of changes is to lift it. The directory only keeps it.
    pub until_ms: Option<u64>,
    /// For people.
    pub reason: Option<Arc<str>>,
}

/// A gateway asks for a session.
///
/// A repeated request (same nonce, attempt not above the recorded one) changes nothing. A higher attempt of the same
/// nonce ends the former session as replaced. Another nonce is refused while the incumbent's session is alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Name of the gateway, given by its operator.
    pub gateway: Arc<str>,
    /// Names the process: chosen at random when it starts.
    pub nonce: Arc<str>,
    /// Counts the sessions that this process has asked for, from 1.
    pub attempt: u64,
    /// Length of the lease in milliseconds. The directory records it; whether it is over is decided outside.
    pub lease_ms: u32,
    /// Where the gateway is reached.
    pub addresses: GatewayAddresses,
}

/// Where a gateway is reached. All of it is data for others; the directory only keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayAddresses {
    /// WebSocket URL for clients.
    pub url: Option<Arc<str>>,
    /// HTTP address for services, `host:port`.
    pub api: Option<Arc<str>>,
    /// Address of the internal protocol, `host:port`; pushes go there.
    pub peer: Option<Arc<str>>,
    /// Where a gateway of one's own takes its pushes by HTTP instead.
    pub deliver_url: Option<Arc<str>>,
}

/// Changes of one session, applied together and in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The session. If it is not alive the batch is refused as fenced and changes nothing.
    pub epoch: Epoch,
    /// Counts the numbered batches of the session from 1. A repeated number is answered as the first time was. Without
    /// a number the batch is applied as it comes.
    pub seq: Option<u64>,
    /// The changes; each has its own outcome, a refused one does not stop the others.
    pub ops: Vec<Op>,
}

impl Batch {
    /// What applying it takes, in operations: one about topics counts as many as it names.
    pub fn size(&self) -> usize {
        let of = |op: &Op| match op {
            Op::Join { topics } | Op::Leave { topics } => topics.len().max(1),
            Op::Register(_) | Op::Unregister { .. } | Op::Meta { .. } => 1,
        };
        self.ops.iter().map(of).sum()
    }
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A connection begins.
    Register(Register),
    /// A connection ends. Ending one that is not there succeeds.
    Unregister {
        /// The connection.
        serial: Serial,
        /// Why, for watchers.
        reason: Reason,
    },
    /// Replaces the metadata of a connection.
    Meta {
        /// The connection.
        serial: Serial,
        /// A JSON object as text.
        meta: Arc<str>,
        /// Refused unless this is the current version.
        if_version: Option<u32>,
    },
    /// The session has subscribers of these topics. How many, and who, is its gateway's business.
    Join {
        /// Each 1 to 128 bytes without control characters.
        topics: Vec<Arc<str>>,
    },
    /// The session has no subscribers of these topics any more.
    Leave {
        /// Topics that it had not joined are passed over.
        topics: Vec<Arc<str>>,
    },
}

/// A connection begins. Repeating it word for word is answered as the first time was, as long as the connection lives;
/// of the words, the policy is not remembered, nor the metadata once it was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Above every serial that the session has asked for before, whether it was granted or not: so a late copy of a
    /// refused request can't bring a connection into being after its client has left.
    pub serial: Serial,
    /// Who it is; 1 to 128 bytes without control characters.
    pub user: Arc<str>,
    /// Which device, empty if it was not told; at most 128 bytes.
    pub device: Arc<str>,
    /// Which connections of the user may live beside it.
    pub policy: Policy,
    /// Of an open socket that was registered in a former session: when it was granted there. It takes nobody's place.
    pub since: Option<Revision>,
    /// Wall clock of the gateway when the client arrived, milliseconds since 1970.
    pub connected_at_ms: u64,
    /// The client's address, for people.
    pub remote: Option<Arc<str>>,
    /// A JSON object as text.
    pub meta: Option<Arc<str>>,
}

/// Which connections of a user may live beside each other. The newcomer's policy decides about the others.
///
/// A connection with one of the last two policies is *exclusive*: it holds a claim on its user or device, and no other
/// exclusive connection that claims the same is granted before that claim is freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Any number up to `max`; one more is refused. The count is of the whole cluster.
    Multi {
        /// Live connections at most, this one included.
        max: u32,
        /// Of the user, or of the user's device.
        per: Per,
    },
    /// The newcomer takes the place of those that are there.
    NewestWins {
        /// Whose place.
        per: Per,
        /// When.
        handover: Handover,
    },
    /// The newcomer is refused while another is there.
    OldestWins {
        /// Which others count.
        per: Per,
    },
}

impl Policy {
    /// Any number of connections of a user up to `max`.
    pub fn multi(max: u32) -> Self {
        Self::Multi { max, per: Per::User }
    }

    /// What a connection with this policy claims for itself alone.
    pub fn claim(self) -> Option<Per> {
        match self {
            Self::Multi { .. } => None,
            Self::NewestWins { per, .. } | Self::OldestWins { per } => Some(per),
        }
    }
}

/// What a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// All connections of a user.
    User,
    /// Those of one device of a user.
    Device,
}

/// When a newcomer takes another's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// When the others' gateways have stopped serving them: until then they stay, and the newcomer waits.
    Wait,
    /// At once: for a moment, the others may still be served.
    Immediate,
}

/// Why a connection or a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The client went, or the owner of the session ended it.
    Closed,
    /// The gateway's lease ran out.
    Expired,
    /// The gateway's process was gone.
    Died,
    /// Somebody disconnected it.
    Kicked,
    /// Another connection took its place.
    Superseded,
    /// The gateway was drained or shut down.
    Drained,
    /// Another session of the same gateway took its place.
    Replaced,
    /// The client stopped answering.
    NoPong,
    /// The client read too slowly.
    SlowConsumer,
}
