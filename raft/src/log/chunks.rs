//! The engine `raft-log`: files of a limited size, each record appended to the newest.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::codeq::Span;
use raft_log::{RaftLog, Segment};

use super::engine::{Engine, Entries, Flushing, Marks, Record, RecoveryError};
use super::record::{DiskLogId, DiskPayload, Flushed, Records};
use super::recovery;
use crate::counters::LogCounters;
use crate::settings::Limits;

pub(super) struct Chunks {
    log: RaftLog<Records>,
    /// Offset behind the last record, counted over all files that there ever were.
    end: u64,
    newest: Newest,
}

/// The entries that can't be read from a file yet: those of the newest file, which `raft-log` never reads, and of full ones
/// until a flush has passed them on.
///
/// `raft-log` keeps them in a cache of its own, but decides by log ids what may leave it: whatever is not above the last entry
/// of the file before. After a truncation into that file, new entries may well be lower, and were then not found anywhere. The
/// bytes of an entry are shared with that cache and with the window.
#[derive(Default)]
struct Newest {
    /// In the order of their indices.
    entries: VecDeque<(DiskLogId, DiskPayload)>,
    /// Entries below are in full files.
    full_below: u64,
    /// Entries below were in full files when the last flush began. Flushes are awaited one by one.
    flushing_below: u64,
}

impl Newest {
    /// How many entries are below an index.
    fn position(&self, index: u64) -> usize {
        self.entries.partition_point(|(id, _)| id.index < index)
    }

    fn truncate_from(&mut self, index: u64) {
        self.entries.truncate(self.position(index));
        self.full_below = self.full_below.min(index);
        self.flushing_below = self.flushing_below.min(index);
    }

    fn file_is_full(&mut self) {
        self.full_below = self.entries.back().map_or(self.full_below, |(last, _)| last.index + 1);
    }

    fn flush(&mut self) {
        self.entries.drain(..self.position(self.flushing_below));
        self.flushing_below = self.full_below;
    }
}

impl Chunks {
    pub(super) fn open(
        dir: &Path,
        durable: Option<u64>,
        limits: &Limits,
        counters: &LogCounters,
    ) -> Result<Chunks, RecoveryError> {
        let fail = |source| RecoveryError::Io { path: dir.to_owned(), source };
        let damaged = |what: String| RecoveryError::Damaged { file: dir.to_owned(), offset: None, what };
        let found = recovery::prepare(dir, durable)?;
        counters.cut(found.cut);
        let log = open(dir, limits.log_chunk_bytes, limits.flush_gather).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => fail(e),
            _ => damaged(e.to_string()),
        })?;
        let newest = Newest { entries: found.newest, ..Newest::default() };
        Ok(Chunks { log, end: found.end, newest })
    }
}

impl Engine for Chunks {
    fn marks(&self) -> Marks {
        let state = self.log.log_state();
        Marks {
            vote: state.vote().copied(),
            last: state.last().copied(),
            committed: state.committed().copied(),
            purged: state.purged().copied(),
            owner: state.user_data,
        }
    }

    fn write(&mut self, record: Record) -> io::Result<()> {
        match record {
            Record::Owner(owner) => self.log.save_user_data(Some(owner)).map(|written| self.wrote(&written)),
            Record::Vote(vote) => self.log.save_vote(vote).map(|written| self.wrote(&written)),
            Record::Append(entries) => entries.into_iter().try_for_each(|(id, payload)| {
                let written = self.log.append([(id, payload.clone())])?;
                self.newest.entries.push_back((id, payload));
                self.wrote(&written);
                Ok(())
            }),
            Record::TruncateFrom(index) => {
                self.newest.truncate_from(index);
                self.log.truncate(index).map(|written| self.wrote(&written))
            }
            Record::PurgeUpto(upto) => self.log.purge(upto).map(|written| self.wrote(&written)),
            Record::Committed(id) => self.log.commit(id).map(|written| self.wrote(&written)),
        }
    }

    /// Files that are purged go behind a sync, so that no restart finds a gap.
    fn flush(&mut self, sync: bool) -> io::Result<Flushing> {
        #[cfg(test)]
        let sync = sync && !super::tests::power_cut::without_sync();
        self.newest.flush();
        let (to, flushed) = sync_channel(1);
        self.log.flush(sync, Some(Flushed(to)))?;
        let ended = || Err(io::Error::other("the log's flush thread ended"));
        Ok(Box::new(move || flushed.recv().unwrap_or_else(|_| ended())))
    }

    fn read(&self, range: Range<u64>) -> Entries<'_> {
        let purged = self.log.log_state().purged().map_or(0, |purged| purged.index + 1);
        let start = range.start.max(purged);
        let end = range.end.max(start);
        // What is in memory here is the end of the log, without a gap.
        let in_memory = self.newest.entries.front().map_or(end, |(first, _)| first.index).clamp(start, end);
        let newest = self.newest.entries.range(self.newest.position(in_memory)..self.newest.position(end));
        Box::new(self.log.read(start, in_memory).chain(newest.cloned().map(Ok)))
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn on_disk_bytes(&self) -> u64 {
        self.log.on_disk_size()
    }
}

impl Chunks {
    /// Counts a record. Where it is not the next, it is the first of a new file, behind the one that was written.
    fn wrote(&mut self, written: &Segment) {
        if written.offset != self.end {
            self.newest.file_is_full();
        }
        self.end = written.end().0;
    }
}

/// Opens the engine on prepared files.
fn open(dir: &Path, chunk_bytes: usize, gather: Duration) -> io::Result<RaftLog<Records>> {
    let dir = dir.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"))?;
    let mut config = raft_log::Config::new(dir);
    config.wal.chunk_max_size = Some(chunk_bytes);
    config.wal.flush_batch_wait = Some(gather);
    // The default reserves 64 MiB for every file that is replayed.
    config.wal.read_buffer_size = Some(1024 * 1024);
    // Torn writes were cut before (see `recovery`); whatever the engine can't read now is damage.
    config.wal.truncate_incomplete_record = Some(false);
    // The window is the cache. The engine keeps what its newest file holds in any case.
    config.log_cache_max_items = Some(0);
    config.log_cache_capacity = Some(0);
    RaftLog::open(Arc::new(config))
}
