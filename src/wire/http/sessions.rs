//! Bodies for gateways of one's own.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::ErrorDetail;
use crate::directory::{ConnectionId, Reason, Release, Serial};
use crate::wire::peer::TargetStatus;

/// Body of `POST /v1/sessions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenSessionBody {
    /// Name of the gateway.
    pub gateway: String,
    /// Names the process; with it a repeated request is answered as the first was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// WebSocket URL for clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where pushes are delivered by HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_url: Option<String>,
    /// Length of the lease.
    #[serde(default = "default_lease_ms")]
    pub lease_ms: u32,
    /// Counts the sessions that this process (nonce) has asked for, from 1. A higher one replaces the former session.
    #[serde(default = "first_attempt")]
    pub attempt: u64,
}

fn default_lease_ms() -> u32 {
    3000
}

fn first_attempt() -> u64 {
    1
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionBody {
    /// `s-<epoch>`.
    pub session: String,
    /// The fencing token.
    pub epoch: u64,
    /// Length of the lease.
    pub lease_ms: u64,
    /// How long to serve after the moment at which the request or renewal was *sent*.
    pub serve_ms: u64,
    /// How often to renew.
    pub renew_every_ms: u64,
}

/// Body of `PUT /v1/sessions/{s}/renew`; may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RenewBody {
    /// Release requests up to this revision were handled.
    #[serde(default)]
    pub handled_revision: u64,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewAnswer {
    /// Length of the lease.
    pub lease_ms: u64,
    /// How long to serve after the moment at which the renewal was *sent*.
    pub serve_ms: u64,
    /// Connections to stop serving and to unregister.
    pub release: Vec<String>,
    /// The same in the same order, with what their clients are to be told.
    #[serde(default)]
    pub requests: Vec<ReleaseRequest>,
    /// The revision at which that was so: what the next renewal says in `handled_revision` when it is done.
    pub revision: u64,
}

/// A connection that is to be released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// Which.
    pub connection: String,
    /// The close code for its client.
    pub code: u16,
    /// A sentence for its client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ReleaseRequest {
    /// A request for one connection.
    #[must_use]
    pub fn new(id: ConnectionId, release: &Release) -> Self {
        let Release { code, reason } = release;
        Self { connection: id.to_string(), code: *code, reason: reason.as_deref().map(str::to_owned) }
    }
}

/// What a `deliver_url` gets when a connection is to be released: to be confirmed by an `unregister`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseBody {
    /// Always `release`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which, and what its client is to be told.
    #[serde(flatten)]
    pub request: ReleaseRequest,
}

/// Body of `DELETE /v1/sessions/{s}`; may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EndSessionBody {
    /// The gateway had stopped serving every connection before it sent this.
    #[serde(default)]
    pub fenced: bool,
}

/// Body of `POST /v1/sessions/{s}/batch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BatchBody {
    /// Counts up by one; makes a retry safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The changes, in order.
    pub ops: Vec<OpBody>,
}

/// One change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpBody {
    /// `register`, `unregister`, `meta`, `join` or `leave`.
    pub op: String,
    /// The connection's number within the session. `join` and `leave` are about the session as a whole and do without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// Of `register`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Of `register`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Of `register`: `multi`, `newest_wins` or `oldest_wins`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Of `register`: `user` or `device`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<String>,
    /// Of `register`: `wait` or `immediate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<String>,
    /// Of `register`: live connections of the user at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// Of `register`, for a socket that was open in a former session: when it was granted there. It takes nobody's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Of `register`: the client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// Of `register` and `meta`: a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Box<RawValue>>,
    /// Of `meta`: refused unless this is the current version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<u32>,
    /// Of `unregister`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Of `join` and `leave`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<Vec<String>>,
}

/// Answer to a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// When it was applied.
    pub revision: u64,
    /// One per change, in order.
    pub results: Vec<OpAnswer>,
}

/// What became of one change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OpAnswer {
    /// True when it was carried out; left out when it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    /// Of `register`: the connection's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// Of `register`: when it was granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<u64>,
    /// Of `register`: true when it waits until those whose place it takes have released it; the grant follows as
    /// `connection.opened`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<bool>,
    /// Of `register`: connections whose place it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<Vec<String>>,
    /// Of `unregister`: whether the connection had been there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existed: Option<bool>,
    /// Of `meta`: the version now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_version: Option<u32>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
}

/// What a `deliver_url` gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliverBody {
    /// Id of the message.
    pub id: String,
    /// To whom.
    pub connections: Vec<String>,
    /// A word for the receiving program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// JSON payload.
    #[serde(default, deserialize_with = "super::present", skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// Base64 payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_b64: Option<String>,
    /// The latest grant among the connections.
    pub granted: u64,
}

/// What a `deliver_url` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeliverAnswer {
    /// One per connection, in any order.
    pub results: Vec<DeliverResult>,
}

/// What became of a delivery for one connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeliverResult {
    /// The connection.
    pub connection: String,
    /// What became of it.
    pub status: TargetStatus,
    /// Further fields are ignored.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
}
