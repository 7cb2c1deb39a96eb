//! Everything that this crate reads from other members or from its disk, as functions of bytes.
//!
//! Each panics where something does not hold that is claimed elsewhere: that whatever is there is read or refused, that what
//! is read can be written again, that damage is never taken for what was written. `jepsen/fuzz` looks for bytes with which one
//! panics; the tests below give a small part of them on every run. No part of the interface: it is there for these two only.

use std::path::Path;

use arbitrary::Arbitrary;
use openraft::vote::RaftLeaderId as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use crate::entry::{LeaderId, LogId};
use crate::identity::Identity;
use crate::net::frame::{
    self, AppendAnswer, AppendAsk, FoundingAnswer, FoundingAsk, Greeting, Hello, JoinAnswer, ReadAnswer,
    SnapshotAnswer, SnapshotHead, VoteAnswer, VoteAsk,
};
use crate::settings::Limits;
use crate::{log, snapshot};

#[cfg(test)]
mod tests;

/// A function of bytes that panics where a claim does not hold.
pub type Target = fn(&[u8]);

/// Every target with its name.
pub const TARGETS: [(&str, Target); 6] = [
    ("raft_frames", raft_frames),
    ("log_records", log_records),
    ("log_recovery", log_recovery),
    ("log_files", log_files),
    ("snapshot_files", snapshot_files),
    ("member_files", member_files),
];

/// Frames between members: the first byte says for which kind of message they are taken, the rest is a stream of them.
pub fn raft_frames(data: &[u8]) {
    let Some((kind, stream)) = data.split_first() else { return };
    let mut stream = BytesMut::from(stream);
    let mut codec = codec(kind % 16 < 2);
    while let Ok(Some(frame)) = codec.decode(&mut stream) {
        match kind % 16 {
            0 => {
                if let Ok(hello) = Hello::decode(&frame) {
                    assert_eq!(Hello::decode(&hello.encode()), Ok(hello), "a hello reads back as itself");
                }
            }
            1 => reads_back::<Greeting>(&frame),
            2 => reads_back::<AppendAsk>(&frame),
            3 => reads_back::<AppendAnswer>(&frame),
            4 => reads_back::<VoteAsk>(&frame),
            5 => reads_back::<VoteAnswer>(&frame),
            6 => reads_back::<ReadAnswer>(&frame),
            7 => reads_back::<SnapshotHead>(&frame),
            8 => reads_back::<SnapshotAnswer>(&frame),
            9 => reads_back::<FoundingAsk>(&frame),
            10 => reads_back::<FoundingAnswer>(&frame),
            _ => reads_back::<JoinAnswer>(&frame),
        }
    }
}

/// As the frames of a stream are cut, before and after the greeting.
fn codec(before_greeting: bool) -> LengthDelimitedCodec {
    let most = if before_greeting { Limits::HELLO_BYTES_MAX } else { Limits::default().frame_bytes_max };
    LengthDelimitedCodec::builder().little_endian().max_frame_length(most).new_codec()
}

/// What can be read is written as bytes that are read as the same.
fn reads_back<T: Serialize + DeserializeOwned>(frame: &[u8]) {
    let Ok(message) = frame::decode::<T>(frame) else { return };
    let written = frame::encode(&message).expect("what was read can be written");
    let again: T = frame::decode(&written).expect("what was written can be read");
    assert_eq!(frame::encode(&again).expect("it was written before"), written, "a message reads back as itself");
}

/// Bytes where a log file should be. A first byte that is odd says that they are the bodies of records, which are given
/// checksums that fit: so what is inside of them is looked at, too.
pub fn log_records(data: &[u8]) {
    log::fuzz::records(data);
}

/// A log file that was written, and then damaged.
pub fn log_recovery(data: &[u8]) {
    log::fuzz::recovery(data);
}

/// The files of a log that an engine wrote, one of them damaged, and opened again.
pub fn log_files(data: &[u8]) {
    log::fuzz::files::files(data);
}

/// A snapshot file that was written, and then damaged; and bytes where one should be.
pub fn snapshot_files(data: &[u8]) {
    snapshot::fuzz::files(data);
}

/// The identity of a data directory, and the mark of the end of its log: as they are, and with a checksum that fits.
pub fn member_files(data: &[u8]) {
    let file = Path::new("identity");
    let mut summed = data.to_vec();
    summed.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    for bytes in [data, &summed] {
        if let Ok(identity) = Identity::decode(file, bytes) {
            let again = Identity::decode(file, &identity.encode()).expect("what was read can be written");
            assert_eq!(again, identity, "an identity reads back as itself");
        }
    }
    log::fuzz::end_mark(data);
}

/// What is done to bytes after they were written.
#[derive(Debug, Arbitrary)]
pub(crate) enum Damage {
    Nothing,
    /// What is behind this place is gone.
    Cut(u16),
    /// One byte has other bits.
    Flip(u16, u8),
    /// What is behind this place reads as zeros.
    Zeros(u16),
    /// So many bytes, from the first place on, read as zeros.
    Hole(u16, u16),
}

impl Damage {
    /// Damages the bytes. Places are counted around them.
    pub(crate) fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        let place = |at: u16| usize::from(at) % length.max(1);
        match *self {
            _ if length == 0 => {}
            Damage::Nothing => {}
            Damage::Cut(at) => bytes.truncate(place(at)),
            Damage::Flip(at, bits) => bytes[place(at)] ^= bits,
            Damage::Zeros(at) => bytes[place(at)..].fill(0),
            Damage::Hole(at, count) => bytes[place(at)..].iter_mut().take(count.into()).for_each(|byte| *byte = 0),
        }
    }
}

/// A log id whose leader is node 1.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId::new(term, 1), index }
}
