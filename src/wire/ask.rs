//! What a gateway is asked about its own connections and their topics, which nobody else knows.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::directory::{ConnectionId, Revision, Serial};

/// A question to a gateway. Answers may come in any order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRequest {
    /// Chosen by the caller, unique on this stream.
    pub id: u64,
    /// The question.
    pub ask: GatewayAsk,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayAsk {
    /// The topics with most subscribers.
    Most {
        /// Those that begin so.
        prefix: String,
        /// So many at most.
        limit: u32,
    },
    /// How many subscribers these topics have.
    Counts(Vec<Arc<str>>),
    /// Who is subscribed to a topic.
    Members {
        /// The topic.
        topic: Arc<str>,
        /// Those after this one.
        after: Option<Serial>,
        /// So many at most.
        limit: u32,
    },
    /// Subscribe connections to topics, or end that.
    Subscribe {
        /// Which; all are of this gateway.
        connections: Vec<ConnectionId>,
        /// To what.
        topics: Vec<Arc<str>>,
        /// Otherwise it ends.
        begins: bool,
        /// How long the gateway may take, milliseconds.
        timeout_ms: u32,
    },
    /// Who is subscribed to a topic, as soon as that is not what the asker knows.
    Presence {
        /// The topic.
        topic: Arc<str>,
        /// The version that the asker knows.
        known: Option<u64>,
        /// When the gateway answers though nothing has changed, milliseconds.
        timeout_ms: u32,
    },
}

/// Subscribers of a topic with more are counted and not named to those who want to see them.
pub const PRESENCE_MEMBERS_MAX: usize = 1000;

/// Answer to the [`GatewayRequest`] with the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayResponse {
    /// The question's id.
    pub id: u64,
    /// The answer.
    pub answer: GatewayAnswer,
}

/// What a gateway says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayAnswer {
    /// To `Most`: topics and their subscribers, most first.
    Most(Vec<(Arc<str>, u64)>),
    /// To `Counts`: one for each, in order.
    Counts(Vec<u64>),
    /// To `Members`.
    Members {
        /// In order of their serials.
        members: Vec<Member>,
        /// Whether there are more after the last.
        more: bool,
    },
    /// To `Subscribe`: one for each connection, in order.
    Subscribed(Vec<Subscribed>),
    /// To `Presence`.
    Presence {
        /// Another one means that something may have changed.
        version: u64,
        /// How many there are.
        count: u64,
        /// All of them; none where there are more than [`PRESENCE_MEMBERS_MAX`]. `None`: the asker knows them.
        members: Option<Vec<Member>>,
    },
}

/// A subscriber of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its connection.
    pub id: ConnectionId,
    /// Whose it is.
    pub user: Arc<str>,
    /// Its device; may be empty.
    pub device: Arc<str>,
}

/// What became of subscriptions of one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subscribed {
    /// It is so as of this revision.
    At(Revision),
    /// No such connection here.
    Gone,
    /// It was refused; nothing has changed.
    Refused {
        /// A word for programs.
        code: String,
        /// A sentence for people.
        why: String,
        /// Whether trying again later may help.
        temporary: bool,
    },
}
