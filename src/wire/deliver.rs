//! What travels to gateways: messages for connections of one gateway, named or not, and what became of them.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::directory::{ConnectionId, Revision};

/// A message for connections of one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliver {
    /// Chosen by the sender, unique on this link.
    pub id: u64,
    /// What to deliver.
    pub message: Arc<Message>,
    /// To whom.
    pub targets: Targets,
    /// The revision at which the targets were resolved; the gateway first applies at least that.
    pub resolved: Revision,
}

/// To whom a message goes in one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Targets {
    /// These connections.
    Each(Vec<ConnectionId>),
    /// All who are subscribed to the message's topic; without a topic all clients. The gateway knows who that is.
    Many(Pick),
}

/// Which of many connections are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pick {
    /// Only these devices; empty: all.
    pub devices: Vec<Arc<str>>,
    /// Not these connections.
    pub except: Vec<ConnectionId>,
    /// Written to so many a second, and answered at once; 0: written without a pause.
    pub rate_per_s: u32,
}

/// Ids of messages whose sender named a key begin so, which no other id does; a gateway writes such a message once per
/// connection, however often it arrives.
pub const KEYED_PREFIX: &str = "m-k-";

/// A message, encoded once for all of its receivers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id, `m-…`.
    pub id: Arc<str>,
    /// Set when it was pushed to a topic.
    pub topic: Option<Arc<str>>,
    /// A word for the receiving program.
    pub event: Option<Arc<str>>,
    /// The payload.
    pub data: Payload,
    /// When the sender wants its answer.
    pub ack: Ack,
    /// How long the gateway may take to answer, milliseconds.
    pub timeout_ms: u32,
}

/// Payload of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// JSON text, passed on as it came.
    Json(Bytes),
    /// Base64 text of binary data, passed on as it came.
    Base64(Bytes),
}

/// When a push is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// As soon as the outbox has it.
    None,
    /// When it was written to the socket.
    #[default]
    Written,
    /// When the client has acknowledged it.
    Client,
}

/// Answer to the [`Deliver`] with the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// The delivery's id.
    pub id: u64,
    /// What became of it.
    pub delivery: Delivery,
}

/// What became of a message at one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// One per named target, in order.
    Each(Vec<TargetStatus>),
    /// Of many.
    Many(Reached),
    /// As many messages are written at a rate as the gateway takes at once. Nothing was written.
    Busy,
}

/// Single connections that are told of a message for many, of each gateway and in the answer of a service.
pub const RESULTS_MAX: usize = 100;

/// What became of a message for many connections of one gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Connections that it reached; of one that is written at a rate: that it will be written to.
    pub delivered: u64,
    /// Connections that it did not reach although they are there.
    pub failed: u64,
    /// Connections that are there and were excepted.
    pub excepted: u64,
    /// Some of them, at most [`RESULTS_MAX`]: first of those that it did not reach.
    pub results: Vec<(ConnectionId, TargetStatus)>,
}

/// What became of a message for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetStatus {
    /// The client acknowledged it.
    Acked,
    /// It was written to the socket, or, where nobody waits for that, queued for it.
    Written,
    /// No such connection here. Nothing was written.
    Gone,
    /// The connection is no longer the owner. Nothing was written.
    Fenced,
    /// The outbox was full; the connection is closed.
    Slow,
    /// The gateway was not reached. Nothing is known.
    Unreachable,
    /// No acknowledgement in time; it may still arrive.
    Timeout,
}
