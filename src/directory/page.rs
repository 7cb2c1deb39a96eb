//! A page: up to 64 connections with consecutive serials, packed into one block of bytes that is copied as a whole.

use std::ops::Range;

use super::ids::{ConnectionId, Epoch, Serial};
use super::interner::Interner;
use super::outcome::Connection;
use super::packed::{Base, Packed};

/// A page holds `2^PAGE_BITS` serials: as many as its bitmap has bits. Smaller ones take more memory, because what a page costs
/// beside its connections is divided by those that are left when most of them have gone. The first change after a freeze copies
/// one, some 3 KB.
pub(super) const PAGE_BITS: u32 = 6;

const LOW_MAX: u8 = (1 << PAGE_BITS) - 1;

/// What a buffer for one record begins with: most need less than half of it.
const RECORD_BYTES_USUAL: usize = 128;

/// Bytes of the mark that says where a record ends. 64 of the longest take less than 2^24 bytes.
const MARK: usize = 3;

/// Which page of which session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PageKey {
    pub(super) epoch: Epoch,
    pub(super) number: u64,
}

impl PageKey {
    pub(super) fn of(id: ConnectionId) -> Self {
        Self { epoch: id.epoch, number: id.serial >> PAGE_BITS }
    }

    /// The connection of the page whose serial has these low bits.
    pub(super) fn id(self, low: u8) -> ConnectionId {
        ConnectionId { epoch: self.epoch, serial: (self.number << PAGE_BITS) | Serial::from(low) }
    }
}

/// The low bits of a serial: which of its page it is.
pub(super) fn low_of(serial: Serial) -> u8 {
    (serial & Serial::from(LOW_MAX)) as u8
}

/// Bit *i* of `present` says that the serial with low bits *i* is there. `bytes` holds the records of those that are, in
/// order, and after them, as many, a mark for each: the place in `bytes` where it ends.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) key: PageKey,
    present: u64,
    base: Base,
    bytes: Vec<u8>,
}

impl Page {
    /// An empty page; times on it are counted from those of `first`.
    pub(super) fn new(key: PageKey, first: &Connection) -> Self {
        Self { key, present: 0, base: Base::of(first), bytes: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.present.count_ones() as usize
    }

    /// Bytes of the records with their marks.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn holds(&self, low: u8) -> bool {
        self.present & (1 << low) != 0
    }

    /// Reads a connection that is there.
    pub(super) fn get<'a>(&'a self, low: u8, devices: &'a Interner) -> Packed<'a> {
        Packed::read(self.record(self.rank(low)), self.base, devices)
    }

    /// Whether a connection that is there is a user's.
    pub(super) fn user_is(&self, low: u8, user: &str) -> bool {
        Packed::user_bytes(self.record(self.rank(low))) == user.as_bytes()
    }

    /// What is there, in order.
    pub(super) fn iter<'a>(&'a self, devices: &'a Interner) -> impl Iterator<Item = (ConnectionId, Packed<'a>)> {
        let mut left = self.present;
        (0..self.len()).map(move |rank| {
            let low = left.trailing_zeros() as u8;
            left &= left - 1;
            (self.key.id(low), Packed::read(self.record(rank), self.base, devices))
        })
    }

    /// Adds a connection, or replaces what is kept of it.
    pub(super) fn put(&mut self, low: u8, connection: &Connection, devices: &mut Interner) {
        let mut record = Vec::with_capacity(RECORD_BYTES_USUAL);
        Packed::pack(connection, self.base, devices, &mut record);
        let rank = self.rank(low);
        if !self.holds(low) {
            // First a record without bytes, then the record.
            make_room(&mut self.bytes, record.len() + MARK);
            let (mark, start) = (self.mark(rank), self.start(rank));
            replace(&mut self.bytes, mark..mark, &bytes_of_mark(start));
            self.present |= 1 << low;
            self.set_record(rank, start..start, &record);
        } else {
            self.set_record(rank, self.start(rank)..self.end(rank), &record);
            give_back(&mut self.bytes);
        }
    }

    /// Removes a connection that is there.
    pub(super) fn remove(&mut self, low: u8) {
        let rank = self.rank(low);
        self.set_record(rank, self.start(rank)..self.end(rank), &[]);
        let mark = self.mark(rank);
        replace(&mut self.bytes, mark..mark + MARK, &[]);
        self.present &= !(1 << low);
        give_back(&mut self.bytes);
    }

    /// Every record has a mark, in order, and nothing is between them.
    pub(super) fn check(&self) -> Result<(), String> {
        let ends: Vec<usize> = (0..self.len()).map(|rank| self.end(rank)).collect();
        if ends.is_empty() || !ends.is_sorted_by(|a, b| a < b) || ends.last() != Some(&self.mark(0)) {
            return Err(format!("page {:?} has {} bytes and records that end at {ends:?}", self.key, self.bytes.len()));
        }
        Ok(())
    }

    /// How many are before one that is or would be there.
    fn rank(&self, low: u8) -> usize {
        (self.present & ((1 << low) - 1)).count_ones() as usize
    }

    fn record(&self, rank: usize) -> &[u8] {
        &self.bytes[self.start(rank)..self.end(rank)]
    }

    fn start(&self, rank: usize) -> usize {
        rank.checked_sub(1).map_or(0, |before| self.end(before))
    }

    fn end(&self, rank: usize) -> usize {
        let mark = self.mark(rank);
        let [a, b, c] = [self.bytes[mark], self.bytes[mark + 1], self.bytes[mark + 2]];
        u32::from_le_bytes([a, b, c, 0]) as usize
    }

    /// Where a mark is.
    fn mark(&self, rank: usize) -> usize {
        self.bytes.len() - (self.len() - rank) * MARK
    }

    /// Replaces the bytes of a record, and moves the marks of those from it on.
    fn set_record(&mut self, rank: usize, old: Range<usize>, new: &[u8]) {
        let (before, after) = (old.len(), new.len());
        replace(&mut self.bytes, old, new);
        for rank in rank..self.len() {
            let (mark, end) = (self.mark(rank), self.end(rank) + after - before);
            self.bytes[mark..mark + MARK].copy_from_slice(&bytes_of_mark(end));
        }
    }
}

fn bytes_of_mark(end: usize) -> [u8; MARK] {
    debug_assert!(end < 1 << (8 * MARK), "texts are within their limits");
    let [a, b, c, ..] = (end as u64).to_le_bytes();
    [a, b, c]
}

/// Puts bytes in the place of others, and moves what follows.
fn replace(bytes: &mut Vec<u8>, old: Range<usize>, new: &[u8]) {
    let (before, end) = (bytes.len(), old.start + new.len());
    let after = before - old.len() + new.len();
    if after > before {
        make_room(bytes, after - before);
        bytes.resize(after, 0);
    }
    bytes.copy_within(old.end..before, end);
    bytes[old.start..end].copy_from_slice(new);
    bytes.truncate(after);
}

fn make_room(bytes: &mut Vec<u8>, more: usize) {
    if bytes.capacity() - bytes.len() < more {
        bytes.reserve_exact(capacity_for(bytes.len() + more) - bytes.len());
    }
}

/// Shrinks by moving to another block. A block that gives back its end leaves a hole in which nothing fits that grows to the size
/// of a page: after some hours of coming and going such holes took twice as much memory as the connections.
fn give_back(bytes: &mut Vec<u8>) {
    let fitting = capacity_for(bytes.len());
    if bytes.capacity() > fitting + fitting / 4 {
        let mut smaller = Vec::with_capacity(fitting);
        smaller.extend_from_slice(bytes);
        *bytes = smaller;
    }
}

/// Of a few sizes only, so that a block that is given back fits another page; 16 to each doubling, because what is not used
/// costs as much as what is.
fn capacity_for(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 16).max(16);
    // With what an allocator puts before it.
    (bytes + size_of::<usize>()).next_multiple_of(step) - size_of::<usize>()
}
