//! What travels between members.
//!
//! ```text
//! connector:  "SWBR" 1                  the service's listener reads this much and hands the stream over
//!             frame(hello)
//! acceptor:   frame(greeting)           welcome, or why not; then the stream is closed
//! both:       frames, as the purpose has it
//! ```
//! A frame is a length (u32 LE) and as many bytes of postcard. A hello begins with a byte for its own form, and says which
//! versions of the messages its sender speaks; the greeting names the one that is spoken from there on. Requests carry a number that their answers repeat, so
//! that the answer to a request given up earlier is told from the one that is waited for.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::entry::{Group, SnapshotMeta, Vote};
use crate::settings::{Addresses, Formats, Limits, NodeId};
use crate::space::Space;
use crate::stream::Stream;

/// The first bytes of every connection between members, written by the connector.
pub const PREAMBLE: &[u8; 5] = b"SWBR\x01";

/// The form of a hello. It is raised only if the fields that lead to a common version change.
const HELLO_FORM: u8 = 2;
/// The versions of the messages after the greeting that this crate speaks, oldest and newest.
pub(crate) const SPEAKS: (u8, u8) = (1, 1);

pub(crate) type Wire = Framed<Box<dyn Stream>, LengthDelimitedCodec>;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// A pipelined stream of entries.
    Append,
    /// Signs of life, and the rounds that confirm a leader. Beside `Append`, so that entries never delay them.
    Heartbeat,
    /// Votes, and the transfer of leadership.
    Vote,
    /// Read indices.
    Read,
    /// Snapshots.
    Snapshot,
    /// Questions of a member that has not been founded. Nonces need not be known for it.
    Founding,
    /// The question who is there, before a member is added. Nonces need not be known for it either.
    Join,
}

/// Who connects to whom, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) cluster: String,
    pub(crate) from: NodeId,
    pub(crate) from_nonce: u64,
    pub(crate) to: NodeId,
    /// The nonce that the connector's membership has for the acceptor; 0 if it has none.
    pub(crate) to_nonce: u64,
    pub(crate) purpose: Purpose,
    /// The oldest and the newest version of the messages that the connector speaks.
    pub(crate) speaks: (u8, u8),
    /// What the connector's application reads and writes.
    pub(crate) formats: Formats,
}

/// The answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Greeting {
    /// The messages that follow are of this version.
    Welcome {
        version: u8,
    },
    Refused(Refusal),
}

/// Why a stream is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it does not speak this protocol")]
    Garbage,
    #[error("its hello has form {theirs}, this member knows form {ours}; run releases that follow each other")]
    HelloForm { theirs: u8, ours: u8 },
    #[error("it speaks versions {theirs:?} of the protocol, this member {ours:?}; run releases that follow each other")]
    Version { theirs: (u8, u8), ours: (u8, u8) },
    #[error(
        "it writes entries of form {writes}, this member reads forms {oldest} to {newest}; upgrade this member first"
    )]
    Format { writes: u8, oldest: u8, newest: u8 },
    #[error("it belongs to cluster {theirs:?}, this member to {ours:?}")]
    Cluster { theirs: String, ours: String },
    #[error("it looks for node {wanted}, this is node {here}")]
    WrongNode { wanted: NodeId, here: NodeId },
    #[error(
        "it looks for another data directory of node {0}: the one that the group knows was lost. Start the node with an \
         empty directory, --join and a new id"
    )]
    OtherDirectory(NodeId),
    #[error("node {0} comes with another data directory than the one that the group knows")]
    Impostor(NodeId),
    #[error("too many streams of this kind are open")]
    Busy,
    #[error("node {0} has no space for entries; free some in its data directory")]
    NoSpace(NodeId),
    #[error(
        "node {0} was removed from the cluster; its id and its data directory are never used again. Start it with an empty \
         directory, --join and a new id"
    )]
    Removed(NodeId),
}

/// The newest version of the messages that both sides speak.
pub(crate) fn common_version(theirs: (u8, u8)) -> Result<u8, Refusal> {
    let newest = theirs.1.min(SPEAKS.1);
    let spoken = newest >= theirs.0.max(SPEAKS.0);
    spoken.then_some(newest).ok_or(Refusal::Version { theirs, ours: SPEAKS })
}

impl Hello {
    pub(crate) fn encode(&self) -> Bytes {
        postcard::to_extend(self, vec![HELLO_FORM]).expect("a hello is plain data").into()
    }

    pub(crate) fn decode(frame: &[u8]) -> Result<Hello, Refusal> {
        match frame {
            [HELLO_FORM, hello @ ..] => postcard::from_bytes(hello).map_err(|_| Refusal::Garbage),
            [theirs, ..] => Err(Refusal::HelloForm { theirs: *theirs, ours: HELLO_FORM }),
            [] => Err(Refusal::Garbage),
        }
    }
}

/// `Append` and `Heartbeat`, to the acceptor.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum AppendAsk {
    /// Keeps the connection.
    Ping,
    Append(u64, AppendEntriesRequest<Group>),
}

/// `Append` and `Heartbeat`, back: one for each request, in order.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct AppendAnswer {
    pub(crate) number: u64,
    /// The space that is left to the acceptor, if it is short of it.
    pub(crate) short: Option<Space>,
    pub(crate) result: StreamAppendResult<Group>,
}

/// `Vote`, to the acceptor.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum VoteAsk {
    Vote(VoteRequest<Group>),
    PreVote(VoteRequest<Group>),
    Transfer(TransferLeaderRequest<Group>),
}

/// `Vote`, back.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum VoteAnswer {
    Vote(VoteResponse<Group>),
    Transfer(TransferLeaderResponse<Group>),
    /// The acceptor is stopping.
    Stopped,
}

/// `Read`, back: the index up to which a reader must have applied, or who leads instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReadAnswer {
    Index(u64),
    NotLeader,
    NoQuorum,
}

/// `Snapshot`, to the acceptor: this, then chunks of a checksum (crc32, u32 LE) and bytes, `bytes` in all.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct SnapshotHead {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) bytes: u64,
}

/// `Snapshot`, back, once: after the installation, or as soon as it is refused.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum SnapshotAnswer {
    Installed(SnapshotResponse<Group>),
    Failed(String),
}

/// `Founding`, to the acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoundingAsk {
    /// Whom the asking founder was told to found the cluster with, itself included.
    pub(crate) founders: BTreeSet<NodeId>,
}

/// `Founding`, back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FoundingAnswer {
    /// Nothing was ever stored in the acceptor's directory, which has this nonce.
    Empty { nonce: u64, addresses: Addresses },
    /// The cluster is founded. `seated` tells whether it knows the asking directory as its member.
    Founded { seated: bool },
    /// The acceptor has voted or received something, but no membership yet.
    Underway,
    /// The acceptor was told other founders, or to join.
    OtherFounders { founders: BTreeSet<NodeId> },
}

/// `Join`, back. The question has no content: the hello names who is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JoinAnswer {
    /// The acceptor waits to be added: nothing was ever stored in its directory, which has this nonce.
    Waiting { nonce: u64, addresses: Addresses },
    /// The acceptor's directory is empty, but it was told to found a cluster of its own.
    Founder,
    /// The acceptor's directory holds the state of this cluster; 0 where that is not known yet. `process` is drawn anew
    /// for every start of the acceptor.
    Stored { nonce: u64, process: u64, cluster_id: u64, addresses: Addresses },
}

/// Frames on a stream. Before the greeting nothing larger than a greeting is read.
pub(crate) fn framed(stream: Box<dyn Stream>) -> Wire {
    let codec = LengthDelimitedCodec::builder().little_endian().max_frame_length(Limits::HELLO_BYTES_MAX).new_codec();
    Framed::new(stream, codec)
}

/// Allows full-sized frames, after the greeting.
pub(crate) fn allow_large(wire: &mut Wire, limits: &Limits) {
    wire.codec_mut().set_max_frame_length(limits.frame_bytes_max);
}

pub(crate) fn encode(message: &impl Serialize) -> io::Result<Bytes> {
    postcard::to_allocvec(message).map(Bytes::from).map_err(io::Error::other)
}

pub(crate) fn decode<T: DeserializeOwned>(frame: &[u8]) -> io::Result<T> {
    postcard::from_bytes(frame).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
