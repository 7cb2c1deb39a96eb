//! What this crate tells openraft about its types: the bytes of an entry, the seat of a member, and the way an answer
//! travels back to its proposer.

use std::fmt;

use bytes::Bytes;
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, RaftTypeConfig};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::settings::{Addresses, NodeId};

/// The one type configuration of this crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group;

impl RaftTypeConfig for Group {
    type D = Data;
    type R = Vec<u8>;
    type NodeId = NodeId;
    type Node = Seat;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Data, NodeId, Seat>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = ReplyTo<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Entry = openraft::alias::EntryOf<Group>;
pub(crate) type LogId = openraft::alias::LogIdOf<Group>;
pub(crate) type Vote = openraft::alias::VoteOf<Group>;
pub(crate) type LeaderId = openraft::alias::CommittedLeaderIdOf<Group>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Group>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Group>;

/// The proposed bytes. Cloning shares them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Data(pub(crate) Bytes);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A member as the membership entry records it.
///
/// The nonce names the member's data directory, not only its id: a directory that was lost and created anew has another
/// nonce, so it can neither be asked for a vote nor be sent entries in the name of the lost one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub(crate) addresses: Addresses,
    pub(crate) nonce: u64,
}

/// Carries an outcome to the proposer. The permits of a proposal come back when openraft is done with it, also if the
/// proposer stopped waiting: they bound what is in flight, not who is interested.
pub(crate) struct ReplyTo<T> {
    to: oneshot::Sender<T>,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl<T> ReplyTo<T> {
    /// The permits are for one proposal and for its bytes.
    pub(crate) fn new(permits: (OwnedSemaphorePermit, OwnedSemaphorePermit)) -> (ReplyTo<T>, oneshot::Receiver<T>) {
        let (to, from) = oneshot::channel();
        (ReplyTo { to, _permits: permits }, from)
    }
}

impl<T: OptionalSend + 'static> Responder<Group, T> for ReplyTo<T> {
    fn on_complete(self, outcome: T) {
        // A proposer that stopped waiting has dropped its end; nobody is left to tell.
        let _ = self.to.send(outcome);
    }
}
