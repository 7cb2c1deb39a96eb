//! What the log carries: entries of commands, and the operations of a batch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{Epoch, Serial};

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
    },
    /// A gateway changes its connections.
    Batch(Batch),
    /// Frees the memory of at most `limit` connections of an ended session. No reader can tell the difference.
    Reclaim {
        /// The session that ended.
        epoch: Epoch,
        /// Connections freed at most.
        limit: u32,
    },
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
    /// Wall clock of the gateway when the client arrived, milliseconds since 1970.
    pub connected_at_ms: u64,
    /// The client's address, for people.
    pub remote: Option<Arc<str>>,
    /// A JSON object as text.
    pub meta: Option<Arc<str>>,
}

/// Which connections of a user may live beside each other. The newcomer's policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Any number up to `max`; one more is refused. The count is of the whole cluster.
    Multi {
        /// Live connections of the user at most, this one included.
        max: u32,
    },
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
