//! The files of a log, written by the engine itself, one of them damaged, and opened again.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use arbitrary::{Arbitrary, Unstructured};

use super::super::engine::{self, Engine, Marks, Record, RecoveryError};
use super::super::load;
use super::super::record::{DiskLogId, DiskPayload, DiskVote, Owner};
use super::super::recovery::chunks;
use super::{Entries, Write, append};
use crate::counters::LogCounters;
use crate::entry::Vote;
use crate::fuzz::{Damage, log_id};
use crate::settings::{Limits, LogEngine};

/// Writes of one log at most.
const WRITES_MAX: usize = 24;

#[derive(Debug, Arbitrary)]
struct Written {
    writes: Vec<Write>,
    /// So many of the last writes were not acknowledged.
    unacknowledged: u8,
    /// The file that is damaged, counted from the newest.
    file: u8,
    damage: Damage,
}

/// What a log holds.
#[derive(Debug, PartialEq)]
struct Held {
    marks: Marks,
    entries: Entries,
}

/// What was acknowledged is found as it was written, or the log does not open: damage is never passed over. Of what was not
/// acknowledged, the end may be missing.
pub(crate) fn files(data: &[u8]) {
    let Ok(drawn) = Written::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let scratch = scratch();
    let dir = &scratch.0;
    let writes = &drawn.writes[..drawn.writes.len().min(WRITES_MAX)];
    let after = write(dir, writes);
    let newest = after.len() - 1;
    let acknowledged = newest.saturating_sub(usize::from(drawn.unacknowledged) % 4);
    let mut files = chunks(dir).expect("the directory can be read");
    files.reverse();
    let file = &files[usize::from(drawn.file) % files.len()];
    let mut bytes = fs::read(file).expect("the file can be read");
    let whole = bytes.clone();
    drawn.damage.apply(&mut bytes);
    fs::write(file, &bytes).expect("the file can be written");

    match reopen(dir, Some(after[acknowledged].0)) {
        Ok(found) => {
            let known = after[acknowledged..].iter().any(|(_, held)| *held == found);
            assert!(known, "{:?} was passed over: {found:?}", drawn.damage);
        }
        Err(refused) => assert!(bytes != whole, "an undamaged log is refused: {refused}"),
    }
}

/// Writes a log, and tells after each write where it ends and what it holds.
fn write(dir: &Path, writes: &[Write]) -> Vec<(u64, Held)> {
    let mut log = open(dir, None).expect("an empty directory opens");
    let put = |log: &mut dyn Engine, record| log.write(record).expect("the disk takes it");
    put(log.as_mut(), Record::Owner(Owner { id: 1, nonce: 7 }));
    let mut after = vec![(log.end(), held(log.as_ref()))];
    for write in writes {
        let Some(record) = record(write, &after[after.len() - 1].1.marks) else { continue };
        put(log.as_mut(), record);
        let flushing = log.flush(true).expect("the disk takes it");
        flushing().expect("the disk takes it");
        after.push((log.end(), held(log.as_ref())));
    }
    let flushing = log.flush(true).expect("the disk takes it");
    flushing().expect("the disk takes it");
    after
}

/// What the log is told, if it is something that its user would tell it.
fn record(write: &Write, marks: &Marks) -> Option<Record> {
    let last = marks.last.map(|last| last.index);
    let purged = marks.purged.map(|purged| purged.index);
    let next = last.map_or(0, |last| last + 1);
    let back = |back: u8| last?.checked_sub(u64::from(back) % 8).filter(|index| Some(*index) > purged);
    let is_open = |index: &u64| marks.committed.is_none_or(|id| id.index < *index);
    let entry = |bytes: Vec<u8>| {
        let mut entries = Entries::new();
        append(7, next, bytes, &mut entries);
        Record::Append(entries.into())
    };
    match write {
        Write::Vote { term, committed } => {
            let leader_id = log_id((*term).into(), 0).leader_id;
            let vote = DiskVote::from(&Vote { leader_id, committed: *committed });
            marks.vote.is_none_or(|former| former <= vote).then_some(Record::Vote(vote))
        }
        Write::Append { bytes, .. } => Some(entry(bytes.clone())),
        Write::Fill { byte, count } => Some(entry(vec![*byte; usize::from(*count) % 1024])),
        // What is committed is never taken back, nor committed again, and nothing else is purged.
        Write::Truncate { back: count } => back(*count).filter(is_open).map(Record::TruncateFrom),
        Write::Commit { back: count } => back(*count).filter(is_open).map(|index| Record::Committed(id(index))),
        Write::Purge { back: count } => {
            let committed = marks.committed.map(|id| id.index);
            back(*count).filter(|index| Some(*index) <= committed).map(|index| Record::PurgeUpto(id(index)))
        }
    }
}

fn id(index: u64) -> DiskLogId {
    DiskLogId::from(&log_id(7, index))
}

fn held(log: &dyn Engine) -> Held {
    let entries: Result<Vec<(DiskLogId, DiskPayload)>, _> = log.read(0..u64::MAX).collect();
    Held { marks: log.marks(), entries: entries.expect("what is written is read").into() }
}

fn open(dir: &Path, durable: Option<u64>) -> Result<Box<dyn Engine>, RecoveryError> {
    let limits = Limits { log_chunk_bytes: 1024, ..Limits::default() };
    engine::open(LogEngine::RaftLog, dir, durable, &limits, &LogCounters::default())
}

/// As a member opens its log when it starts.
fn reopen(dir: &Path, durable: Option<u64>) -> Result<Held, String> {
    let log = open(dir, durable).map_err(|refused| refused.to_string())?;
    load(log.as_ref(), Limits::default().log_cache_bytes)?;
    Ok(held(log.as_ref()))
}

/// An empty directory of this thread, in memory if there is such a place.
fn scratch() -> Scratch {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let dir = base.join(format!("switchboard-fuzz-{}-{:?}", std::process::id(), thread::current().id()));
    fs::create_dir_all(&dir).expect("there is space for a scratch directory");
    Scratch(dir)
}

/// A directory that is gone when it is not needed any more.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
