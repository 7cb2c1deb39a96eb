//! Bodies of lookups.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Where a user is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserBody {
    /// The user that was asked for.
    pub user: String,
    /// Whether there is any connection.
    pub online: bool,
    /// All of them, oldest grant first.
    pub connections: Vec<ConnectionBody>,
    /// When the user was last seen, where that is still known.
    pub last_seen: Option<String>,
    /// Revision of the directory that this shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// What is retained of a user: the answer to `GET /v1/users/{user}/history`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryBody {
    /// The changes that are about the user, the oldest first, as in a watch.
    pub events: Vec<Box<RawValue>>,
    /// Nothing is missing that happened after this revision; of what happened up to it nothing is told.
    pub oldest_revision: u64,
}

/// One connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectionBody {
    /// Its id.
    pub id: String,
    /// Whose; left out where the surrounding body says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of its gateway.
    pub gateway: String,
    /// Epoch of the gateway's session.
    pub epoch: u64,
    /// Revision at which it was granted.
    pub granted: u64,
    /// Which device, where that was told.
    pub device: Option<String>,
    /// When the client arrived, RFC 3339.
    pub connected_at: String,
    /// The client's address.
    pub remote: Option<String>,
    /// Metadata, a JSON object.
    pub meta: Box<RawValue>,
    /// Version of the metadata.
    pub meta_version: u32,
}

/// Body of `POST /v1/users:lookup`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UsersQuery {
    /// The users.
    pub users: Vec<String>,
}

/// Its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UsersBody {
    /// By user.
    pub users: BTreeMap<String, UserBody>,
    /// Revision of the directory that this shows.
    pub revision: u64,
}

/// A page of connections.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectionList {
    /// Ordered by id.
    pub connections: Vec<ConnectionBody>,
    /// Asks for the next page; null after the last.
    pub next_cursor: Option<String>,
    /// Of a list by topic: gateways that have subscribers and can't be asked who they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    /// Revision of the directory that this page shows.
    pub revision: u64,
}

/// Counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stats {
    /// Live connections.
    pub connections: u64,
    /// Users with at least one.
    pub users: u64,
    /// Topics with at least one subscriber; null on a gateway that reached no directory node.
    pub topics: Option<u64>,
    /// Gateways with a live session.
    pub gateways: Vec<super::Gateway>,
    /// Revision of the directory that this shows.
    pub revision: u64,
}
