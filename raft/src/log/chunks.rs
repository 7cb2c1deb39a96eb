//! The engine `raft-log`: files of a limited size, each record appended to the newest.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use raft_log::RaftLog;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::codeq::Span;

use super::engine::{Engine, Entries, Flushing, Marks, Record, RecoveryError};
use super::record::{Flushed, Records};
use super::recovery;
use crate::counters::LogCounters;
use crate::settings::Limits;

pub(super) struct Chunks {
    log: RaftLog<Records>,
    /// Offset behind the last record, counted over all files that there ever were.
    end: u64,
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
        let (end, cut) = recovery::prepare(dir, durable)?;
        counters.cut(cut);
        let log = open(dir, limits.log_chunk_bytes, limits.flush_gather).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => fail(e),
            _ => damaged(e.to_string()),
        })?;
        Ok(Chunks { log, end })
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
        let log = &mut self.log;
        let segment = match record {
            Record::Owner(owner) => log.save_user_data(Some(owner)),
            Record::Vote(vote) => log.save_vote(vote),
            Record::Append(entries) => log.append(entries),
            Record::TruncateFrom(index) => log.truncate(index),
            Record::PurgeUpto(upto) => log.purge(upto),
            Record::Committed(id) => log.commit(id),
        }?;
        self.end = segment.end().0;
        Ok(())
    }

    /// Files that are purged go behind a sync, so that no restart finds a gap.
    fn flush(&mut self, sync: bool) -> io::Result<Flushing> {
        #[cfg(test)]
        let sync = sync && !super::tests::power_cut::without_sync();
        let (to, flushed) = sync_channel(1);
        self.log.flush(sync, Some(Flushed(to)))?;
        let ended = || Err(io::Error::other("the log's flush thread ended"));
        Ok(Box::new(move || flushed.recv().unwrap_or_else(|_| ended())))
    }

    fn read(&self, range: Range<u64>) -> Entries<'_> {
        Box::new(self.log.read(range.start, range.end))
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn on_disk_bytes(&self) -> u64 {
        self.log.on_disk_size()
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
