//! How votes, log ids and entries look on disk, under `raft-log`'s records.
//!
//! Every form here has a fixed size or a length with a checksum of its own. So a damaged length is seen as damage; it
//! never reads on to the end of the file and passes for a torn write (see `recovery`).

use std::io;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::vote::RaftLeaderId;
use raft_log::codeq::{Decode, Encode};

use crate::entry::{Data, Entry, LeaderId, LogId, Vote};

/// Bytes of a log id on disk.
pub(super) const LOG_ID_BYTES: usize = 24;
/// Bytes of a vote on disk.
pub(super) const VOTE_BYTES: usize = 17;
/// Bytes before the data of an entry: kind, length, checksum of both.
pub(super) const HEAD_BYTES: usize = 9;
/// No entry on disk is longer. Far above any `entry_bytes_max`; it keeps a damaged head from reserving memory.
const ENTRY_BYTES_MAX: u32 = 256 * 1024 * 1024;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// The types of the log, as `raft-log` wants them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records;

impl raft_log::Types for Records {
    type LogId = DiskLogId;
    type LogPayload = DiskPayload;
    type Vote = DiskVote;
    type Callback = Flushed;
    type UserData = Owner;

    fn log_index(log_id: &DiskLogId) -> u64 {
        log_id.index
    }

    fn payload_size(payload: &DiskPayload) -> u64 {
        payload.data.len() as u64
    }
}

/// Told once when what was handed to the engine is on disk, or will never be.
#[derive(Debug)]
pub(super) struct Flushed(pub(super) std::sync::mpsc::SyncSender<io::Result<()>>);

impl raft_log::Callback for Flushed {
    fn send(self, outcome: io::Result<()>) {
        // The writer waits for every flush; it is gone only when the process ends.
        raft_log::Callback::send(self.0, outcome);
    }
}

/// Orders as openraft's log ids do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DiskLogId {
    pub(super) term: u64,
    pub(super) node: u64,
    pub(super) index: u64,
}

impl From<&LogId> for DiskLogId {
    fn from(id: &LogId) -> DiskLogId {
        DiskLogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<&DiskLogId> for LogId {
    fn from(id: &DiskLogId) -> LogId {
        LogId { leader_id: LeaderId::new(id.term, id.node), index: id.index }
    }
}

impl Encode for DiskLogId {
    fn encode<W: io::Write>(&self, mut to: W) -> io::Result<usize> {
        to.write_all(&self.term.to_be_bytes())?;
        to.write_all(&self.node.to_be_bytes())?;
        to.write_all(&self.index.to_be_bytes())?;
        Ok(LOG_ID_BYTES)
    }
}

impl Decode for DiskLogId {
    fn decode<R: io::Read>(mut from: R) -> io::Result<DiskLogId> {
        let mut word = || -> io::Result<u64> {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes)?;
            Ok(u64::from_be_bytes(bytes))
        };
        Ok(DiskLogId { term: word()?, node: word()?, index: word()? })
    }
}

/// Orders as openraft's votes do: by leader, then granted before committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) struct DiskVote {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<&Vote> for DiskVote {
    fn from(vote: &Vote) -> DiskVote {
        DiskVote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<&DiskVote> for Vote {
    fn from(vote: &DiskVote) -> Vote {
        Vote { leader_id: LeaderId::new(vote.term, vote.node), committed: vote.committed }
    }
}

impl Encode for DiskVote {
    fn encode<W: io::Write>(&self, mut to: W) -> io::Result<usize> {
        to.write_all(&self.term.to_be_bytes())?;
        to.write_all(&self.node.to_be_bytes())?;
        to.write_all(&[u8::from(self.committed)])?;
        Ok(VOTE_BYTES)
    }
}

impl Decode for DiskVote {
    fn decode<R: io::Read>(mut from: R) -> io::Result<DiskVote> {
        let mut bytes = [0; VOTE_BYTES];
        from.read_exact(&mut bytes)?;
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"));
        Ok(DiskVote { term: word(0), node: word(8), committed: bytes[16] != 0 })
    }
}

/// Who a log belongs to; repeated at the start of every log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The member's id.
    pub(crate) id: u64,
    /// The nonce of its data directory.
    pub(crate) nonce: u64,
}

impl Encode for Owner {
    fn encode<W: io::Write>(&self, mut to: W) -> io::Result<usize> {
        to.write_all(&self.id.to_be_bytes())?;
        to.write_all(&self.nonce.to_be_bytes())?;
        Ok(16)
    }
}

impl Decode for Owner {
    fn decode<R: io::Read>(mut from: R) -> io::Result<Owner> {
        let mut bytes = [0; 16];
        from.read_exact(&mut bytes)?;
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"));
        Ok(Owner { id: word(0), nonce: word(8) })
    }
}

/// An entry without its id. The bytes of a proposal are shared with it, not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskPayload {
    kind: u8,
    data: Bytes,
}

impl DiskPayload {
    pub(crate) fn of(entry: &Entry) -> DiskPayload {
        match &entry.payload {
            EntryPayload::Blank => DiskPayload { kind: BLANK, data: Bytes::new() },
            EntryPayload::Normal(data) => DiskPayload { kind: NORMAL, data: data.0.clone() },
            EntryPayload::Membership(members) => {
                let data = postcard::to_allocvec(members).expect("a membership is plain data");
                DiskPayload { kind: MEMBERSHIP, data: data.into() }
            }
        }
    }

    /// Bytes of the data.
    #[cfg(feature = "simulation")]
    pub(super) fn bytes(&self) -> u64 {
        self.data.len() as u64
    }

    pub(super) fn entry(&self, log_id: LogId) -> io::Result<Entry> {
        let payload = match self.kind {
            BLANK => EntryPayload::Blank,
            NORMAL => EntryPayload::Normal(Data(self.data.clone())),
            MEMBERSHIP => EntryPayload::Membership(
                postcard::from_bytes(&self.data).map_err(|e| damaged(format!("membership of entry {log_id}: {e}")))?,
            ),
            other => return Err(damaged(format!("entry {log_id} has the unknown kind {other}"))),
        };
        Ok(Entry { log_id, payload })
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads the length out of an entry's head; `None` if the head is damaged.
pub(super) fn length_in_head(head: &[u8; HEAD_BYTES]) -> Option<u32> {
    let (covered, sum) = head.split_at(5);
    let sum = u32::from_be_bytes(sum.try_into().expect("four bytes are left"));
    let length = u32::from_be_bytes(covered[1..].try_into().expect("four bytes after the kind"));
    (crc32fast::hash(covered) == sum && length <= ENTRY_BYTES_MAX).then_some(length)
}

impl Encode for DiskPayload {
    fn encode<W: io::Write>(&self, mut to: W) -> io::Result<usize> {
        let length = u32::try_from(self.data.len())
            .ok()
            .filter(|length| *length <= ENTRY_BYTES_MAX)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an entry is too long for the log"))?;
        let mut head = [0; HEAD_BYTES];
        head[0] = self.kind;
        head[1..5].copy_from_slice(&length.to_be_bytes());
        let sum = crc32fast::hash(&head[..5]);
        head[5..].copy_from_slice(&sum.to_be_bytes());
        to.write_all(&head)?;
        to.write_all(&self.data)?;
        Ok(HEAD_BYTES + self.data.len())
    }
}

impl Decode for DiskPayload {
    fn decode<R: io::Read>(mut from: R) -> io::Result<DiskPayload> {
        let mut head = [0; HEAD_BYTES];
        from.read_exact(&mut head)?;
        let length = length_in_head(&head).ok_or_else(|| damaged("the head of an entry is damaged".to_owned()))?;
        let mut data = vec![0; length as usize];
        from.read_exact(&mut data)?;
        Ok(DiskPayload { kind: head[0], data: data.into() })
    }
}
