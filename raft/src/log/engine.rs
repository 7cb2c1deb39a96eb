//! What an engine does for the log: it keeps records in one order, and says when they are durable.
//!
//! The window, the thread, group commit and openraft's traits stand above this and are the same for every engine. Below are
//! `chunks` (the `raft-log` crate) and `tree` (the `sled` crate).

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

#[cfg(feature = "simulation")]
use super::memory;
use super::record::{DiskLogId, DiskPayload, DiskVote, Owner};
use super::{chunks, tree};
use crate::counters::LogCounters;
use crate::settings::{Limits, LogEngine};

/// The single values of a log, as of the last record written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Marks {
    pub(super) vote: Option<DiskVote>,
    /// The last entry, or what was purged if there is none.
    pub(super) last: Option<DiskLogId>,
    pub(super) committed: Option<DiskLogId>,
    pub(super) purged: Option<DiskLogId>,
    pub(super) owner: Option<Owner>,
}

impl Marks {
    /// Neither a vote nor an entry was ever stored.
    pub(super) fn is_pristine(&self) -> bool {
        self.vote.is_none() && self.last.is_none()
    }
}

/// What is written. The caller has checked it against the marks.
#[cfg_attr(feature = "simulation", derive(Clone))]
pub(super) enum Record {
    Owner(Owner),
    Vote(DiskVote),
    /// Entries that follow the last one without a gap.
    Append(Vec<(DiskLogId, DiskPayload)>),
    /// Takes back this entry and all after it; there is at least one.
    TruncateFrom(u64),
    /// Forgets this entry and all before it. It may lie beyond the last one.
    PurgeUpto(DiskLogId),
    Committed(DiskLogId),
}

/// Waits for a flush that was begun. The engine may be read meanwhile.
pub(super) type Flushing = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Entries as they are read, in order.
pub(super) type Entries<'a> = Box<dyn Iterator<Item = io::Result<(DiskLogId, DiskPayload)>> + 'a>;

/// Keeps one log. After an error nothing is tried again: the log is dropped and its process ends.
pub(super) trait Engine: Send {
    fn marks(&self) -> Marks;

    /// Adds a record behind all earlier ones. A durable record implies that every one before it is durable.
    fn write(&mut self, record: Record) -> io::Result<()>;

    /// Begins to pass everything written on to the system and, with `sync`, to make it survive a power cut.
    fn flush(&mut self, sync: bool) -> io::Result<Flushing>;

    /// Takes a small step of cleaning up, for which nobody waits. Returns whether there is more to do.
    fn tidy(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// The entries of a range, from what was written, durable or not.
    fn read(&self, range: Range<u64>) -> Entries<'_>;

    /// Where the log ends: grows with what is written, and is found again when it is opened.
    fn end(&self) -> u64;

    /// What the log takes of the disk now.
    fn on_disk_bytes(&self) -> u64;
}

/// What is wrong with a log, for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    /// Damage.
    #[error("{file} is damaged{}: {what}", at(*.offset))]
    Damaged { file: PathBuf, offset: Option<u64>, what: String },
    /// The disk refused.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn at(offset: Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" at byte {offset}"))
}

/// Opens the log of a kind in `dir`. Its files must be there and go as far as it was `durable`; with `None` there are none yet.
pub(super) fn open(
    kind: LogEngine,
    dir: &Path,
    durable: Option<u64>,
    limits: &Limits,
    counters: &LogCounters,
) -> Result<Box<dyn Engine>, RecoveryError> {
    Ok(match kind {
        LogEngine::RaftLog => Box::new(chunks::Chunks::open(dir, durable, limits, counters)?),
        LogEngine::Sled => Box::new(tree::Tree::open(dir, durable, limits, counters)?),
        #[cfg(feature = "simulation")]
        LogEngine::Memory => Box::new(memory::Memory::open(dir, durable)?),
    })
}
