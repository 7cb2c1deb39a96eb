//! Log files, whatever happened to them.

pub(crate) mod files;

use std::collections::VecDeque;
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use openraft::EntryPayload;
use raft_log::codeq::Encode;
use raft_log::{RaftLogAction, RaftLogRecord};

use super::end;
use super::engine::RecoveryError;
use super::record::{DiskLogId, DiskPayload, DiskVote, Records};
use super::recovery::readable;
use crate::entry::{Data, Entry, Vote};
use crate::fuzz::{Damage, log_id};

type Entries = VecDeque<(DiskLogId, DiskPayload)>;

fn read(bytes: &[u8]) -> Result<(usize, Entries), RecoveryError> {
    let mut entries = Entries::new();
    let kept = readable(Path::new("log"), bytes, &mut entries)?;
    Ok((kept, entries))
}

/// Whatever is there is refused, or cut to what is read the same way ever after.
pub(crate) fn records(data: &[u8]) {
    let Some((summed, data)) = data.split_first() else { return };
    let bytes = if summed % 2 == 1 { with_checksums(data) } else { data.to_vec() };
    let Ok((kept, entries)) = read(&bytes) else { return };
    let again = read(&bytes[..kept]).expect("what was kept is in order");
    assert_eq!(again, (kept, entries), "what was kept is kept");
}

/// Records of a kind, a length and a body, each with a checksum that fits.
fn with_checksums(mut rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let [kind, length, body @ ..] = rest {
        let (body, after) = body.split_at(usize::from(*length).min(body.len()));
        let begin = bytes.len();
        bytes.extend_from_slice(&u32::from(*kind).to_be_bytes());
        bytes.extend_from_slice(body);
        let sum = crc32fast::hash(&bytes[begin..]);
        bytes.extend_from_slice(&u64::from(sum).to_be_bytes());
        rest = after;
    }
    bytes
}

/// What a log is told.
#[derive(Debug, Arbitrary)]
enum Write {
    Vote {
        term: u8,
        committed: bool,
    },
    /// An entry that follows the last one.
    Append {
        term: u8,
        bytes: Vec<u8>,
    },
    /// An entry with as many equal bytes: zeros, and sectors full of them.
    Fill {
        byte: u8,
        count: u16,
    },
    /// Takes back the last entries.
    Truncate {
        back: u8,
    },
    Commit {
        back: u8,
    },
    Purge {
        back: u8,
    },
}

#[derive(Debug, Arbitrary)]
struct Written {
    writes: Vec<Write>,
    damage: Damage,
}

/// A file, and after each of its records where that ends and which entries there are.
struct Expected {
    bytes: Vec<u8>,
    after: Vec<(usize, Entries)>,
}

impl Expected {
    fn of(writes: &[Write]) -> Expected {
        let mut expected = Expected { bytes: Vec::new(), after: vec![(0, Entries::new())] };
        for write in writes {
            let mut entries = expected.after.last().expect("there is a beginning").1.clone();
            let next = entries.back().map_or(0, |(last, _)| last.index + 1);
            let id = |back: u8| DiskLogId::from(&log_id(7, next.saturating_sub(u64::from(back) + 1)));
            let action = match write {
                Write::Vote { term, committed } => {
                    let vote = Vote { leader_id: log_id((*term).into(), 0).leader_id, committed: *committed };
                    RaftLogAction::SaveVote(DiskVote::from(&vote))
                }
                Write::Append { term, bytes } => append((*term).into(), next, bytes.clone(), &mut entries),
                Write::Fill { byte, count } => append(7, next, vec![*byte; usize::from(*count) % 2048], &mut entries),
                Write::Truncate { back } => {
                    let keep = next.saturating_sub(u64::from(*back));
                    entries.retain(|(id, _)| id.index < keep);
                    RaftLogAction::TruncateAfter(keep.checked_sub(1).map(|last| DiskLogId::from(&log_id(7, last))))
                }
                Write::Commit { back } => RaftLogAction::Commit(id(*back)),
                Write::Purge { back } => RaftLogAction::PurgeUpto(id(*back)),
            };
            let record = RaftLogRecord::<Records>::Action(action);
            record.encode(&mut expected.bytes).expect("memory takes all bytes");
            expected.after.push((expected.bytes.len(), entries));
        }
        expected
    }
}

fn append(term: u64, index: u64, bytes: Vec<u8>, entries: &mut Entries) -> RaftLogAction<Records> {
    let log_id = log_id(term, index);
    let payload = DiskPayload::of(&Entry { log_id, payload: EntryPayload::Normal(Data(bytes.into())) });
    let id = DiskLogId::from(&log_id);
    entries.push_back((id, payload.clone()));
    RaftLogAction::Append(id, payload)
}

/// What is found in a damaged file is what was written before the damage, and nothing else. A file that was cut is always
/// read; one with a byte changed is refused, unless it is in the last record and a sector of that reads as zeros.
pub(crate) fn recovery(data: &[u8]) {
    let Ok(Written { writes, damage }) = Written::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let Expected { bytes, after } = Expected::of(&writes);
    let mut damaged = bytes.clone();
    damage.apply(&mut damaged);
    let same = bytes.iter().zip(&damaged).take_while(|(was, is)| was == is).count();
    let whole = after.iter().rposition(|(end, _)| *end <= same).expect("nothing comes before the beginning");
    let (end, entries) = &after[whole];
    let found = read(&damaged);
    if damaged.len() == bytes.len() && same == bytes.len() || matches!(damage, Damage::Cut(_)) {
        let found = found.expect("what is whole, or cut, is read");
        assert_eq!(found, (*end, entries.clone()), "what was written is found: {damage:?}");
        return;
    }
    match found {
        Ok(found) => {
            assert_eq!(found, (*end, entries.clone()), "what was written is found: {damage:?}");
            let torn = whole + 2 == after.len() && has_empty_sector(&damaged, *end);
            assert!(torn || !matches!(damage, Damage::Flip(..)), "a changed byte was passed over: {damage:?}");
        }
        Err(RecoveryError::Damaged { offset, .. }) => {
            assert_eq!(offset, Some(*end as u64), "the damage is told where it begins: {damage:?}");
        }
        Err(other) => panic!("nothing but bytes is read: {other}"),
    }
}

/// Whether what a sector has of the last record reads as zeros, and says something: every record begins with three of them.
fn has_empty_sector(bytes: &[u8], record: usize) -> bool {
    let (mut from, mut found) = (record, false);
    while from < bytes.len() {
        let to = (from / 512 * 512 + 512).min(bytes.len());
        found |= (to - record > 3) && bytes[from..to].iter().all(|byte| *byte == 0);
        from = to;
    }
    found
}

/// A slot of the mark of the end says what was written into it, or nothing.
pub(crate) fn end_mark(data: &[u8]) {
    let Some(bytes) = data.first_chunk() else { return };
    if let Some((times, end)) = end::read(bytes) {
        assert_eq!(end::slot(times, end), *bytes, "a slot reads back as itself");
    }
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"));
    let (times, end) = (word(0), word(8));
    assert_eq!(end::read(&end::slot(times, end)), Some((times, end)), "what was written is read");
}

/// A slot of that mark.
#[cfg(test)]
pub(crate) fn slot(times: u64, end: u64) -> Vec<u8> {
    end::slot(times, end).to_vec()
}
