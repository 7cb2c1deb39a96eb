//! The one form of errors.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
    /// Further fields that belong to the code, such as `as_of_revision` of `offline`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A word for programs.
    pub code: ErrorCode,
    /// A sentence for people: what happened, to what, and what to do.
    pub message: String,
    /// Whether trying again later may help.
    pub temporary: bool,
    /// After a write: whether it took effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
    /// Of `unavailable`: the leader's API address, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Of `conflict` over a place that only one connection can have: who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Box<OwnerBody>>,
}

/// Who has a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerBody {
    /// Its connection.
    pub connection: String,
    /// Name of its gateway.
    pub gateway: String,
    /// Which device, where that was told.
    pub device: Option<String>,
    /// When it was granted, or since when it waits to be.
    pub granted: u64,
    /// Whether lookups show it. Otherwise the place will be free soon, or goes to somebody who already waits for it.
    pub live: bool,
}

/// The words for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request can't be understood.
    BadRequest,
    /// No credentials, or wrong ones.
    Unauthorized,
    /// These credentials may not do that.
    Forbidden,
    /// No such thing.
    NotFound,
    /// The user, or this connection, is not connected: exact.
    Offline,
    /// Somebody else holds it.
    Conflict,
    /// An old epoch or version was named.
    Fenced,
    /// Larger than a limit.
    TooLarge,
    /// Faster than a limit.
    RateLimited,
    /// Not known, or not possible now.
    Unavailable,
    /// No answer in time.
    Timeout,
    /// No longer held.
    Compacted,
    /// The session is over.
    Gone,
    /// Not offered by this version.
    NotImplemented,
    /// The user has as many connections as the policy allows.
    ConnectionLimit,
    /// The method is not offered here.
    MethodNotAllowed,
}

/// Whether a failed write took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// It did not; repeating it is safe.
    No,
    /// It may have, or may still; repeat it with the same epoch and serial or key.
    Unknown,
}
