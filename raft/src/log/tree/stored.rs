//! How entries and marks look as values of the tree, and how they are read and checked.
//!
//! An entry is `previous sum | sum | log id | kind, length, checksum of both | data`, cut into parts. Its sum covers the
//! previous one: an entry that is missing or from another time breaks the chain.

use std::error::Error;
use std::fmt;
use std::io;
use std::iter::Peekable;
use std::ops::Range;

use raft_log::codeq::{Decode, Encode};
use sled::IVec;

use super::guarded;
use crate::log::engine::Marks;
use crate::log::record::{DiskLogId, DiskPayload, DiskVote, HEAD_BYTES, LOG_ID_BYTES, Owner, length_in_head};

/// Index and part, both big-endian, so that the order of keys is the order of the log.
pub(super) const KEY_BYTES: usize = 12;
const SUMS_BYTES: usize = 8;
const BEFORE_DATA_BYTES: usize = SUMS_BYTES + LOG_ID_BYTES + HEAD_BYTES;
const STATE_FORMAT: u8 = 1;

/// Something that can't be what was written.
#[derive(Debug)]
pub(super) struct Damage {
    /// Where in sled's file, if sled told.
    pub(super) offset: Option<u64>,
    pub(super) what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Damage {}

pub(super) fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Damage { offset: None, what })
}

pub(super) fn missing(index: u64) -> io::Error {
    damaged(format!("entry {index} is missing"))
}

pub(super) fn key(index: u64, part: usize) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&index.to_be_bytes());
    // An entry has at most 256 MiB.
    key[8..].copy_from_slice(&u32::try_from(part).unwrap_or(u32::MAX).to_be_bytes());
    key
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes were asked for"))
}

fn sum_of(previous: u32, body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&previous.to_be_bytes());
    sum.update(body);
    sum.finalize()
}

/// The value of an entry, and its sum for the next one.
pub(super) fn encode(previous: u32, id: DiskLogId, payload: &DiskPayload) -> io::Result<(Vec<u8>, u32)> {
    let mut bytes = vec![0; SUMS_BYTES];
    id.encode(&mut bytes)?;
    payload.encode(&mut bytes)?;
    let sum = sum_of(previous, &bytes[SUMS_BYTES..]);
    bytes[..4].copy_from_slice(&previous.to_be_bytes());
    bytes[4..SUMS_BYTES].copy_from_slice(&sum.to_be_bytes());
    Ok((bytes, sum))
}

/// Reads entries one after the other and checks each, and that it follows the one before.
pub(super) struct Reader {
    parts: Peekable<sled::Iter>,
    previous: Option<u32>,
    /// Index and sum that the last entry of the log must have.
    last: Option<(u64, u32)>,
}

type Stored = ((DiskLogId, DiskPayload), u32);

impl Reader {
    pub(super) fn new(tree: &sled::Tree, range: Range<u64>, last: Option<(u64, u32)>) -> Reader {
        let keys = key(range.start, 0)..key(range.end.max(range.start), 0);
        Reader { parts: tree.range(keys).peekable(), previous: None, last }
    }

    fn part(&mut self) -> io::Result<Option<(u64, u32, IVec)>> {
        let Some((key, value)) = guarded(|| self.parts.next().transpose())? else { return Ok(None) };
        match key.split_at_checked(8) {
            Some((index, part)) if part.len() == 4 => {
                let index = u64::from_be_bytes(index.try_into().expect("eight bytes were split off"));
                Ok(Some((index, word(part), value)))
            }
            _ => Err(damaged(format!("{key:?} is no key of an entry"))),
        }
    }

    fn entry(&mut self) -> io::Result<Option<Stored>> {
        let Some((index, first, value)) = self.part()? else { return Ok(None) };
        let incomplete = |what: &str| damaged(format!("entry {index} {what}"));
        let head = value.get(BEFORE_DATA_BYTES - HEAD_BYTES..BEFORE_DATA_BYTES).filter(|_| first == 0);
        let head = head.ok_or_else(|| incomplete("lacks its beginning"))?;
        let head = head.try_into().expect("the range has the size of a head");
        let length = length_in_head(head).ok_or_else(|| incomplete("has a damaged head"))?;
        let mut bytes = value.to_vec();
        for part in 1.. {
            if bytes.len() >= BEFORE_DATA_BYTES + length as usize {
                break;
            }
            match self.part()? {
                Some((of, nth, value)) if of == index && nth == part => bytes.extend_from_slice(&value),
                _ => return Err(incomplete("lacks a part")),
            }
        }
        let (sums, body) = bytes.split_at(SUMS_BYTES);
        let (previous, sum) = (word(&sums[..4]), word(&sums[4..]));
        let mut rest = body;
        let id = DiskLogId::decode(&mut rest)?;
        let payload = DiskPayload::decode(&mut rest)?;
        if !rest.is_empty() || id.index != index || sum != sum_of(previous, body) {
            return Err(incomplete("fails its checksum"));
        }
        if self.previous.is_some_and(|expected| expected != previous) {
            return Err(incomplete("does not follow the entry before it"));
        }
        if self.last.is_some_and(|(last, expected)| last == index && expected != sum) {
            return Err(incomplete("is not the one that was written last"));
        }
        self.previous = Some(sum);
        Ok(Some(((id, payload), sum)))
    }
}

impl Iterator for Reader {
    type Item = io::Result<Stored>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entry().transpose()
    }
}

/// The marks as they are stored, with what is needed to know them for the newest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct State {
    pub(super) marks: Marks,
    /// Grows with every write of the marks.
    pub(super) sequence: u64,
    /// The sum of the last entry; 0 if there is none.
    pub(super) chain: u32,
}

impl State {
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![STATE_FORMAT];
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.chain.to_be_bytes());
        let Marks { vote, last, committed, purged, owner } = self.marks;
        vote.encode(&mut bytes)?;
        for id in [last, committed, purged] {
            id.encode(&mut bytes)?;
        }
        owner.encode(&mut bytes)?;
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> io::Result<State> {
        let bad = |what: &str| damaged(format!("the marks of the log {what}"));
        let (covered, sum) = bytes.split_last_chunk().ok_or_else(|| bad("are too short"))?;
        if crc32fast::hash(covered) != u32::from_be_bytes(*sum) {
            return Err(bad("fail their checksum"));
        }
        let mut rest = match covered {
            [STATE_FORMAT, rest @ ..] if rest.len() >= 12 => rest,
            _ => return Err(bad("have an unknown form")),
        };
        let rest = &mut rest;
        let sequence = u64::decode(&mut *rest)?;
        let chain = u32::decode(&mut *rest)?;
        let vote = Option::<DiskVote>::decode(&mut *rest)?;
        let mut id = || Option::<DiskLogId>::decode(&mut *rest);
        let (last, committed, purged) = (id()?, id()?, id()?);
        let owner = Option::<Owner>::decode(&mut *rest)?;
        Ok(State { marks: Marks { vote, last, committed, purged, owner }, sequence, chain })
    }
}
