//! Bodies of the HTTP API, version 1. Server, CLI and tests share them.

mod cluster;
mod control;
mod error;
mod lookup;
mod push;
mod sessions;
mod state;
mod topics;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

pub use cluster::{
    AddMemberBody, Cluster, Gateway, Gateways, Info, LeaderAnswer, Member, MemberAnswer, MemberRole, ReconnectBackoff,
    TransferLeaderBody,
};
pub use control::{BanAnswer, BanBody, BanList, BannedBody, DisconnectAnswer, DisconnectBody, MetaAnswer};
pub use error::{Applied, ErrorBody, ErrorCode, ErrorDetail, OwnerBody};
pub use lookup::{ConnectionBody, ConnectionList, HistoryBody, Stats, UserBody, UsersBody, UsersQuery};
pub use push::{PushAnswer, PushBatch, PushBatchAnswer, PushBody, PushItem, PushOutcome, PushResult, PushTarget};
pub use sessions::{
    BatchAnswer, BatchBody, DeliverAnswer, DeliverBody, DeliverResult, EndSessionBody, OpAnswer, OpBody,
    OpenSessionBody, ReleaseBody, ReleaseRequest, RenewAnswer, RenewBody, SessionBody,
};
pub use state::{INVARIANTS_HOLD, SnapshotTaken, StateHash, cluster_id, hex};
pub use topics::{
    SubscribeAnswer, SubscribeBody, SubscribeRefused, TopicBody, TopicCount, TopicList, TopicMember, TopicMembers,
};

/// A field that may be left out and whose `null` is a value like any other.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}
