//! Bodies about topics.

use serde::{Deserialize, Serialize};

/// A topic, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicCount {
    /// Its name.
    pub topic: String,
    /// Subscribers, see [`TopicBody::at_least`].
    pub connections: u64,
    /// Gateways that have subscribers.
    pub gateways: u64,
}

/// Answer to `GET /v1/topics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicList {
    /// Most subscribers first, then by name.
    pub topics: Vec<TopicCount>,
    /// As in [`TopicBody::at_least`], of all of them.
    pub at_least: bool,
    /// Revision of the directory that this shows.
    pub revision: u64,
}

/// Answer to `GET /v1/topics/{topic}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicBody {
    /// The topic that was asked for.
    pub topic: String,
    /// Subscribers.
    pub connections: u64,
    /// Names of the gateways that have subscribers, in order.
    pub gateways: Vec<String>,
    /// Whether there may be more: a gateway that can't be asked counts as one subscriber, because it has one at least.
    pub at_least: bool,
    /// Revision of the directory that this shows.
    pub revision: u64,
}

/// Answer to `GET /v1/topics/{topic}/members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicMembers {
    /// Who is subscribed, as far as gateways can be asked.
    pub members: Vec<TopicMember>,
    /// Asks for the next page; null after the last.
    pub next_cursor: Option<String>,
    /// Gateways that have subscribers and can't be asked who they are, in order.
    pub unknown: Vec<String>,
    /// Revision of the directory that this shows.
    pub revision: u64,
}

/// A subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicMember {
    /// Who.
    pub user: String,
    /// By which connection.
    pub connection: String,
}

/// Body of `POST /v1/users/{user}/subscribe` and `unsubscribe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeBody {
    /// To what.
    pub topics: Vec<String>,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeAnswer {
    /// Connections of the user of which it is so now.
    pub connections: u64,
    /// Connections of which it is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<SubscribeRefused>,
    /// Gateways of the user's connections that gave no answer; whether it was done there is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<String>,
    /// The revision that shows it.
    pub revision: u64,
}

/// Why a connection was not subscribed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeRefused {
    /// Which.
    pub connection: String,
    /// A word for programs, as in the client's own error.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// Whether trying again later may help.
    pub temporary: bool,
}
