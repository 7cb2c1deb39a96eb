//! Bodies of what is asked of connections and users: to be closed, to be changed, to be refused.

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/users/{user}/disconnect`; may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DisconnectBody {
    /// The close code, 4000 to 4999; 4003 unless told otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// A sentence for the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// But not these connections.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Only those of these devices; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// How long to wait until they are gone; 0: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisconnectAnswer {
    /// Connections that are asked to be closed.
    pub disconnected: u64,
    /// Those of them that were still there when the wait was over.
    pub pending: Vec<String>,
    /// When they were asked.
    pub revision: u64,
}

/// Answer to `PUT /v1/connections/{id}/meta`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaAnswer {
    /// The version now.
    pub meta_version: u32,
    /// When it was replaced.
    pub revision: u64,
}

/// Body of `PUT /v1/bans/{user}`; may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BanBody {
    /// When it ends, RFC 3339; null: never.
    pub until: Option<String>,
    /// For people, and for the clients that are closed.
    pub reason: Option<String>,
    /// How long to wait until the user's connections are gone; 0: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// A ban.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BannedBody {
    /// Whom.
    pub user: String,
    /// When it ends; null: never.
    pub until: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When it was made.
    pub revision: u64,
}

/// Answer to `PUT /v1/bans/{user}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanAnswer {
    /// The ban.
    #[serde(flatten)]
    pub ban: BannedBody,
    /// Connections of the user that are asked to be closed.
    pub disconnected: u64,
    /// Those of them that were still there when the wait was over.
    pub pending: Vec<String>,
}

/// A page of bans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanList {
    /// Ordered by user.
    pub bans: Vec<BannedBody>,
    /// Asks for the next page; null after the last.
    pub next_cursor: Option<String>,
    /// Revision of the directory that this page shows.
    pub revision: u64,
}
