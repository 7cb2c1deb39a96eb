//! An engine for simulations: the log is in memory, on a disk that forgets at a crash what was not synced.
//!
//! What is durable is told apart from what is only written. A crash keeps the first part of the latter, as a torn write
//! would, an append entry by entry.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use super::engine::{Engine, Entries, Flushing, Marks, Record, RecoveryError};
use super::record::{DiskLogId, DiskPayload};
use crate::simulation::{Disk, Flaw};

/// Unsynced writes that a disk which only says that it syncs holds back.
const HELD_BACK: usize = 64;

/// A log.
#[derive(Clone, Debug, Default)]
struct Image {
    marks: Marks,
    entries: BTreeMap<u64, (DiskLogId, DiskPayload)>,
    /// Grows with every write.
    end: u64,
}

impl Image {
    fn apply(&mut self, record: Record) {
        self.end += 1;
        match record {
            Record::Owner(owner) => self.marks.owner = Some(owner),
            Record::Vote(vote) => self.marks.vote = Some(vote),
            Record::Append(entries) => {
                for (id, payload) in entries {
                    self.marks.last = Some(id);
                    self.entries.insert(id.index, (id, payload));
                }
            }
            Record::TruncateFrom(index) => {
                self.entries.split_off(&index);
                self.marks.last = self.entries.last_key_value().map(|(_, (id, _))| *id).or(self.marks.purged);
            }
            Record::PurgeUpto(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.marks.purged = Some(upto);
                self.marks.last = self.marks.last.filter(|last| last.index > upto.index).or(Some(upto));
            }
            Record::Committed(id) => self.marks.committed = Some(id),
        }
    }
}

/// What is on one disk, and how it behaves.
pub(crate) struct State {
    durable: Image,
    /// Written behind that, in order; an append has one entry here.
    pending: Vec<Record>,
    pub(crate) pace: Box<dyn FnMut() -> Duration + Send>,
    pub(crate) flaw: Flaw,
    pub(crate) failing: bool,
}

impl Default for State {
    fn default() -> State {
        State {
            durable: Image::default(),
            pending: Vec::new(),
            pace: Box::new(|| Duration::ZERO),
            flaw: Flaw::None,
            failing: false,
        }
    }
}

impl State {
    pub(crate) fn unsynced(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn crash(&mut self, kept: usize) {
        self.sync(kept);
        self.pending.clear();
    }

    fn sync(&mut self, first: usize) {
        for record in self.pending.drain(..first.min(self.pending.len())) {
            match record {
                Record::Vote(_) if self.flaw == Flaw::ForgetsVotes => self.durable.end += 1,
                record => self.durable.apply(record),
            }
        }
    }
}

/// The log of one member, as it was written.
pub(super) struct Memory {
    written: Image,
    disk: Disk,
}

impl Memory {
    pub(super) fn open(dir: &Path, durable: Option<u64>) -> Result<Memory, RecoveryError> {
        let disk = Disk::below(dir);
        let mut state = disk.state();
        match durable {
            // Whoever creates a log does so in an empty directory.
            None => (state.durable, state.pending) = (Image::default(), Vec::new()),
            Some(end) if state.durable.end < end => {
                let what = format!("it was durable up to {end}, and ends at {}", state.durable.end);
                return Err(RecoveryError::Damaged { file: dir.to_owned(), offset: None, what });
            }
            Some(_) => {}
        }
        let written = state.durable.clone();
        drop(state);
        Ok(Memory { written, disk })
    }
}

impl Engine for Memory {
    fn marks(&self) -> Marks {
        self.written.marks
    }

    fn write(&mut self, record: Record) -> io::Result<()> {
        let singly: Vec<Record> = match record {
            Record::Append(entries) => entries.into_iter().map(|entry| Record::Append(vec![entry])).collect(),
            record => vec![record],
        };
        let mut state = self.disk.state();
        for record in singly {
            state.pending.push(record.clone());
            self.written.apply(record);
        }
        Ok(())
    }

    fn flush(&mut self, sync: bool) -> io::Result<Flushing> {
        let disk = self.disk.clone();
        Ok(Box::new(move || {
            let mut state = disk.state();
            if state.failing {
                return Err(io::Error::other("the simulated disk fails"));
            }
            // Nothing else is written while a flush is under way.
            let all = state.pending.len();
            match state.flaw {
                Flaw::AcknowledgesUnsynced => state.sync(all.saturating_sub(HELD_BACK)),
                _ if sync => state.sync(all),
                _ => {}
            }
            Ok(())
        }))
    }

    fn read(&self, range: Range<u64>) -> Entries<'_> {
        let end = range.end.max(range.start);
        Box::new(self.written.entries.range(range.start..end).map(|(_, entry)| Ok(entry.clone())))
    }

    fn end(&self) -> u64 {
        self.written.end
    }

    fn on_disk_bytes(&self) -> u64 {
        self.written.entries.values().map(|(_, payload)| payload.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entry, LeaderId, LogId};
    use openraft::EntryPayload;

    fn append(range: Range<u64>) -> Record {
        let blank = |index| Entry {
            log_id: LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index },
            payload: EntryPayload::Blank,
        };
        Record::Append(range.map(|index| ((&blank(index).log_id).into(), DiskPayload::of(&blank(index)))).collect())
    }

    fn indices(log: &Memory) -> Vec<u64> {
        log.read(0..u64::MAX).map(|entry| entry.unwrap().0.index).collect()
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_the_first_part_of_the_rest() {
        let dir = Path::new("a simulated disk");
        let mut log = Memory::open(dir, None).unwrap();
        log.write(append(0..3)).unwrap();
        log.flush(true).unwrap()().unwrap();
        let durable = log.end();
        log.write(append(3..9)).unwrap();
        let disk = Disk::below(dir);
        assert_eq!((indices(&log).len(), disk.unsynced()), (9, 6));
        drop(log);
        disk.crash(2);
        let log = Memory::open(dir, Some(durable)).unwrap();
        assert_eq!((indices(&log), log.marks().last.map(|last| last.index)), ((0..5).collect(), Some(4)));
    }

    #[test]
    fn a_disk_that_only_says_that_it_syncs_is_found_out_at_the_next_start() {
        let dir = Path::new("a simulated disk that lies");
        let disk = Disk::below(dir);
        disk.set_flaw(Flaw::AcknowledgesUnsynced);
        let mut log = Memory::open(dir, None).unwrap();
        log.write(append(0..3)).unwrap();
        log.flush(true).unwrap()().unwrap();
        let durable = log.end();
        drop(log);
        disk.crash(0);
        assert!(matches!(Memory::open(dir, Some(durable)), Err(RecoveryError::Damaged { .. })));
    }
}
