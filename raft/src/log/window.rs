//! The newest part of the log in memory, with the marks of the whole log.
//!
//! It runs ahead of the disk: what was handed to the writer is readable here at once. Entries leave only after the
//! engine has them, oldest first, when there are more bytes than the limit.

use std::collections::VecDeque;
use std::ops::Range;

use openraft::EntryPayload;

use crate::entry::{Entry, LogId, Vote};

/// What an entry costs beyond its data: itself, its place in the queue, the shared buffer's head.
const ENTRY_OVERHEAD_BYTES: usize = 160;

pub(super) struct Window {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// Index of `entries[0]`, or of the entry that comes next if there is none. What is below is in the engine only.
    first: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    /// The engine has every entry below this index.
    written: u64,
}

/// A part of the log: what is in the window, and the indices before it that only the engine has.
pub(super) struct Part {
    pub(super) on_disk: Range<u64>,
    pub(super) entries: Vec<Entry>,
}

impl Window {
    pub(super) fn new(bytes_max: usize) -> Window {
        Window {
            vote: None,
            committed: None,
            purged: None,
            last: None,
            first: 0,
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
            written: 0,
        }
    }

    fn next_after(id: Option<&LogId>) -> u64 {
        id.map_or(0, |id| id.index + 1)
    }

    /// Adds an entry that follows the last one.
    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.is_empty() {
            self.first = entry.log_id.index;
        }
        debug_assert_eq!(self.first + self.entries.len() as u64, entry.log_id.index, "entries have no gap");
        self.bytes += cost(&entry);
        self.last = Some(entry.log_id);
        self.entries.push_back(entry);
    }

    /// The engine has everything below `next`; what is too much can go.
    pub(super) fn written_below(&mut self, next: u64) {
        self.written = self.written.max(next);
        while self.bytes > self.bytes_max && self.first < self.written {
            let Some(entry) = self.entries.pop_front() else { break };
            self.bytes -= cost(&entry);
            self.first += 1;
        }
    }

    /// Removes what comes after `keep`.
    pub(super) fn truncate_after(&mut self, keep: Option<LogId>) {
        let next = Window::next_after(keep.as_ref()).max(Window::next_after(self.purged.as_ref()));
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= next) {
            let entry = self.entries.pop_back().expect("it was there a moment ago");
            self.bytes -= cost(&entry);
        }
        if self.entries.is_empty() {
            self.first = self.first.min(next);
        }
        self.written = self.written.min(next);
        if self.last > keep {
            self.last = keep.max(self.purged);
        }
    }

    /// Forgets everything up to and including `upto`, which may lie beyond the last entry.
    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged >= Some(upto) {
            return;
        }
        self.purged = Some(upto);
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            let entry = self.entries.pop_front().expect("it was there a moment ago");
            self.bytes -= cost(&entry);
            self.first += 1;
        }
        self.first = self.first.max(upto.index + 1);
        self.written = self.written.max(upto.index + 1);
        if Window::next_after(self.last.as_ref()) <= upto.index + 1 {
            self.last = Some(upto);
        }
    }

    /// What the log holds of `range`, no more than `bytes_max` but at least one entry if there is one in memory.
    pub(super) fn part(&self, range: Range<u64>, bytes_max: usize) -> Part {
        let start = range.start.max(Window::next_after(self.purged.as_ref()));
        let end = range.end.min(Window::next_after(self.last.as_ref()));
        if start >= end {
            return Part { on_disk: 0..0, entries: Vec::new() };
        }
        let on_disk = start..end.min(self.first).max(start);
        let from = (start.max(self.first) - self.first) as usize;
        let to = (end.max(self.first) - self.first) as usize;
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += cost(entry);
            first || bytes <= bytes_max
        };
        let entries = self.entries.range(from.min(to)..to).take_while(fits).cloned().collect();
        Part { on_disk, entries }
    }
}

/// The memory that an entry takes here.
pub(super) fn cost(entry: &Entry) -> usize {
    ENTRY_OVERHEAD_BYTES + data_len(entry)
}

fn data_len(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(data) => data.0.len(),
        EntryPayload::Blank => 0,
        // Rare, and of the order of a hundred bytes a member.
        EntryPayload::Membership(members) => members.nodes().count() * 128,
    }
}
