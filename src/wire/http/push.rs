//! Bodies of pushes.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ErrorBody;
use crate::wire::peer::{Ack, TargetStatus};

/// Body of a push.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PushBody {
    /// Any JSON; either this or `data_b64`.
    #[serde(default, deserialize_with = "super::present", skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// Base64 of binary data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_b64: Option<String>,
    /// A word for the receiving program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// When to answer.
    #[serde(default)]
    pub ack: Ack,
    /// How long to wait for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Only to these devices of the user; empty: to all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Not to these connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Not offered yet: anything but 0 is refused.
    #[serde(default)]
    pub ttl_ms: u64,
    /// Of a push to a topic or to all that is not waited for: to so many connections a second; 0: without a pause.
    #[serde(default)]
    pub rate_per_s: u64,
}

/// Body of `POST /v1/push:batch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushBatch {
    /// In order.
    pub items: Vec<PushItem>,
}

/// One push of a batch; names exactly one target. Everything else is as in [`PushBody`], spelled out because a raw
/// value can't be kept inside a flattened field.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PushItem {
    /// To this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// To this connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// To this topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// As in [`PushBody`].
    #[serde(deserialize_with = "super::present", skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// As in [`PushBody`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_b64: Option<String>,
    /// As in [`PushBody`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// As in [`PushBody`].
    pub ack: Ack,
    /// As in [`PushBody`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// As in [`PushBody`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// As in [`PushBody`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// As in [`PushBody`].
    pub ttl_ms: u64,
    /// As in [`PushBody`].
    pub rate_per_s: u64,
}

/// Answers of a batch, in order; each is an answer or an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PushBatchAnswer {
    /// In order.
    pub results: Vec<PushResult>,
}

/// One result of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PushResult {
    /// It was carried out.
    Done(PushAnswer),
    /// It was not.
    Failed(ErrorBody),
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PushAnswer {
    /// Id of the message.
    pub id: String,
    /// In one word.
    pub outcome: PushOutcome,
    /// Targets that it reached.
    pub delivered: u64,
    /// Targets that it did not reach.
    pub failed: u64,
    /// Revision at which the targets were resolved.
    pub revision: u64,
    /// One per target; of a push to a topic or to all, of at most a hundred of them, those that were not reached first.
    pub results: Vec<PushTarget>,
    /// Of a push to a topic or to all: gateways that gave no answer, each of which counts as one target that was not reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<String>,
}

/// A push in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushOutcome {
    /// Every target was reached.
    Delivered,
    /// Some were.
    Partial,
    /// None was.
    Failed,
    /// Taken, not waited for.
    Accepted,
}

/// What became of a push for one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushTarget {
    /// The connection.
    pub connection: String,
    /// Its gateway.
    pub gateway: String,
    /// Epoch of the gateway's session.
    pub epoch: u64,
    /// What became of it.
    pub status: TargetStatus,
}
