//! Bodies of the HTTP API, version 1. Server, CLI and tests share them.

mod cluster;
mod error;
mod lookup;
mod push;
mod sessions;

pub use cluster::{Cluster, Gateway, Gateways, Info, Member, ReconnectBackoff};
pub use error::{Applied, ErrorBody, ErrorCode, ErrorDetail};
pub use lookup::{ConnectionBody, ConnectionList, Stats, UserBody, UsersBody, UsersQuery};
pub use push::{PushAnswer, PushBatch, PushBatchAnswer, PushBody, PushItem, PushOutcome, PushResult, PushTarget};
pub use sessions::{
    BatchAnswer, BatchBody, DeliverAnswer, DeliverBody, DeliverResult, EndSessionBody, OpAnswer, OpBody,
    OpenSessionBody, RenewAnswer, RenewBody, SessionBody,
};
