//! The engine `sled`: a tree of entries by index, and the marks of the log as one value.
//!
//! sled appends every change of its pages to one file, `db`, and at the start follows that file for as long as it can read
//! it. So what it finds is a state that was there once; it may be an older one, because it takes damage for a torn write,
//! and it may lack changes in the middle, because it skips what it can't read of a segment that was full. Neither is told.
//! Three things here make every such loss visible:
//!
//! - Every entry carries the checksum of the one before it (`stored`): none can be missing or of another time.
//! - The marks carry the checksum of the last entry, and a number that grows with every write: the end of this log.
//! - The mark of the end knows the newest number that was durable. What is found must not be older.
//!
//! Three more make it durable. `flush` of sled 0.34 starts the writing of data but syncs neither the length of the file nor
//! the cache of the disk, so `fdatasync` follows. Its values outside of `db` ("blobs") are never synced, so no value or
//! page is long enough to become one. And it overwrites space that was given up as soon as newer data was written, before
//! that is durable; so there is never more than half a segment between two syncs.

mod stored;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use self::stored::{Damage, Reader, State, key};
use super::engine::{Engine, Entries, Flushing, Marks, Record, RecoveryError};
use super::record::{DiskLogId, DiskPayload};
use crate::counters::LogCounters;
use crate::settings::Limits;

/// sled's file consists of segments of this size, if log files are to be that large. Space is used again by whole ones.
const SEGMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
const SEGMENT_BYTES_MIN: usize = 16 * 1024;
/// A page holds up to 18 parts, and must stay below a quarter of a segment to be kept in `db`.
const PARTS_PER_SEGMENT: usize = 128;
/// What sled writes is at most about so many times as long as what it was given: pages are written again and again.
const AMPLIFICATION: usize = 8;
/// Keys removed in one step, a few milliseconds of work: commits wait no longer.
const TIDY_KEYS: usize = 256;
/// Pages that sled keeps in memory. The window is the cache; this one is for the pages that are being changed.
const PAGE_CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// sled gives up the lock of its file on a thread of its own, a moment after it was closed.
const UNLOCKED_WITHIN: Duration = Duration::from_secs(5);

const MARKS: &[u8] = b"marks";

pub(super) struct Tree {
    db: sled::Db,
    /// Entries by index, in parts.
    entries: sled::Tree,
    /// One value, by itself: it is written with every flush, and with it the page that it is on.
    marks: sled::Tree,
    /// sled's file, to sync it.
    file: Arc<File>,
    state: State,
    /// The state in memory is newer than the one in the tree.
    changed: bool,
    /// Entries may be left that were purged.
    untidy: bool,
    part_bytes: usize,
    /// Bytes written since the last sync, and when one is due.
    unsynced: usize,
    unsynced_max: usize,
}

impl Tree {
    pub(super) fn open(
        dir: &Path,
        durable: Option<u64>,
        limits: &Limits,
        counters: &LogCounters,
    ) -> Result<Tree, RecoveryError> {
        let fail = |source| RecoveryError::Io { path: dir.to_owned(), source };
        if durable.is_some() {
            all_there(dir)?;
        }
        let segment_bytes = limits.log_chunk_bytes.next_power_of_two().clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let db = open(dir, segment_bytes).map_err(|e| refusal(dir, e))?;
        let marks = guarded(|| db.open_tree(MARKS)).map_err(|e| refusal(dir, e))?;
        let state = match guarded(|| marks.get(MARKS)).map_err(|e| refusal(dir, e))? {
            Some(value) => State::decode(&value).map_err(|e| refusal(dir, e))?,
            None if durable.is_none() => State::default(),
            None => return Err(refusal(dir, stored::damaged("the marks of the log are gone".to_owned()))),
        };
        if Some(state.sequence) < durable {
            let what =
                format!("write {} was durable, but {} is the newest found", durable.unwrap_or(0), state.sequence);
            return Err(refusal(dir, stored::damaged(what)));
        }
        // From now on this node vouches for what it found, and after a kill that may be in memory only.
        let file = File::options().read(true).write(true).open(dir.join("db")).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        for path in [&dir.join("conf"), dir] {
            File::open(path).and_then(|opened| opened.sync_all()).map_err(fail)?;
        }
        let mut tree = Tree {
            entries: (*db).clone(),
            db,
            marks,
            file: Arc::new(file),
            untidy: state.marks.purged.is_some(),
            state,
            changed: false,
            part_bytes: segment_bytes / PARTS_PER_SEGMENT,
            unsynced: 0,
            unsynced_max: segment_bytes / 2 / AMPLIFICATION,
        };
        let cut = tree.remove_from(next_index(tree.state.marks.last)).map_err(|e| refusal(dir, e))?;
        // What was purged and is still there is read here, so that damage in it ends the start and not a later commit.
        while tree.tidy().map_err(|e| refusal(dir, e))? {}
        if cut > 0 {
            warn!(dir = %dir.display(), bytes = cut, "cut a torn write off the log");
            counters.cut(cut);
        }
        Ok(tree)
    }

    fn append(&mut self, entries: Vec<(DiskLogId, DiskPayload)>) -> io::Result<()> {
        for (id, payload) in entries {
            let (bytes, sum) = stored::encode(self.state.chain, id, &payload)?;
            for (part, value) in bytes.chunks(self.part_bytes).enumerate() {
                guarded(|| self.entries.insert(key(id.index, part), value))?;
                self.wrote(value.len())?;
            }
            self.state.chain = sum;
            self.state.marks.last = Some(id);
        }
        Ok(())
    }

    fn truncate_from(&mut self, index: u64) -> io::Result<()> {
        let purged = self.state.marks.purged;
        if index == next_index(purged) {
            (self.state.marks.last, self.state.chain) = (purged, 0);
        } else {
            let mut kept = Reader::new(&self.entries, index - 1..index, None);
            let ((id, _), sum) = kept.next().unwrap_or_else(|| Err(stored::missing(index - 1)))?;
            (self.state.marks.last, self.state.chain) = (Some(id), sum);
        }
        // Before the entries go and others take their places: what is beyond the last one does not count.
        self.save_marks()?;
        self.remove_from(index).map(drop)
    }

    fn purge_upto(&mut self, upto: DiskLogId) -> io::Result<()> {
        let marks = &mut self.state.marks;
        marks.purged = Some(upto);
        if marks.last.is_none_or(|last| last.index <= upto.index) {
            marks.last = Some(upto);
            self.state.chain = 0;
        }
        self.untidy = true;
        // Before any of them goes, so that no restart finds a gap.
        self.save_marks()
    }

    fn save_marks(&mut self) -> io::Result<()> {
        self.state.sequence += 1;
        let value = self.state.encode()?;
        guarded(|| self.marks.insert(MARKS, value.as_slice()))?;
        self.changed = false;
        self.wrote(value.len())
    }

    /// Removes every entry from `index` on. Returns how many bytes they had.
    fn remove_from(&mut self, index: u64) -> io::Result<u64> {
        let mut removed = 0;
        loop {
            let (keys, bytes) = self.remove_some(index..u64::MAX)?;
            removed += bytes;
            if keys < TIDY_KEYS {
                return Ok(removed);
            }
        }
    }

    /// Removes the first keys of a range. Returns how many, and how many bytes.
    fn remove_some(&mut self, range: Range<u64>) -> io::Result<(usize, u64)> {
        let range = key(range.start, 0)..key(range.end, 0);
        let keys = guarded(|| self.entries.range(range).keys().take(TIDY_KEYS).collect::<sled::Result<Vec<_>>>())?;
        let mut bytes = 0;
        for key in &keys {
            let removed = guarded(|| self.entries.remove(key))?.map_or(0, |value| value.len());
            bytes += removed as u64;
            self.wrote(removed)?;
        }
        Ok((keys.len(), bytes))
    }

    /// Counts what was written, and syncs when there is as much as may be lost at once.
    fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        self.unsynced += stored::KEY_BYTES + bytes;
        if self.unsynced >= self.unsynced_max {
            guarded(|| self.db.flush())?;
            sync_data(&self.file)?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

impl Engine for Tree {
    fn marks(&self) -> Marks {
        self.state.marks
    }

    fn write(&mut self, record: Record) -> io::Result<()> {
        self.changed = true;
        match record {
            Record::Owner(owner) => self.state.marks.owner = Some(owner),
            Record::Vote(vote) => self.state.marks.vote = Some(vote),
            Record::Committed(id) => self.state.marks.committed = Some(id),
            Record::Append(entries) => self.append(entries)?,
            Record::TruncateFrom(index) => self.truncate_from(index)?,
            Record::PurgeUpto(upto) => self.purge_upto(upto)?,
        }
        Ok(())
    }

    /// Without `sync` there is nothing to do: what follows takes it along.
    fn flush(&mut self, sync: bool) -> io::Result<Flushing> {
        if !sync {
            return Ok(Box::new(|| Ok(())));
        }
        if self.changed {
            self.save_marks()?;
        }
        self.unsynced = 0;
        let (db, file) = (self.db.clone(), self.file.clone());
        Ok(Box::new(move || {
            guarded(|| db.flush())?;
            sync_data(&file)
        }))
    }

    fn tidy(&mut self) -> io::Result<bool> {
        if self.untidy {
            let (keys, _) = self.remove_some(0..next_index(self.state.marks.purged))?;
            self.untidy = keys == TIDY_KEYS;
        }
        Ok(self.untidy)
    }

    fn read(&self, range: Range<u64>) -> Entries<'_> {
        let marks = &self.state.marks;
        let range = range.start.max(next_index(marks.purged))..range.end.min(next_index(marks.last));
        let last = marks.last.map(|last| (last.index, self.state.chain));
        Box::new(Reader::new(&self.entries, range, last).map(|item| item.map(|(entry, _)| entry)))
    }

    fn end(&self) -> u64 {
        self.state.sequence
    }

    fn on_disk_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |found| found.len())
    }
}

/// What sled's flush leaves out.
fn sync_data(file: &File) -> io::Result<()> {
    #[cfg(test)]
    if super::tests::power_cut::without_sync() {
        return Ok(());
    }
    file.sync_data()
}

fn next_index(id: Option<DiskLogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

/// Refuses before sled is asked, which would make new files where old ones are missing.
fn all_there(dir: &Path) -> Result<(), RecoveryError> {
    for name in ["conf", "db"] {
        let file = dir.join(name);
        let found = match std::fs::metadata(&file) {
            Ok(found) => found.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(RecoveryError::Io { path: file, source }),
        };
        if found == 0 {
            return Err(RecoveryError::Damaged { file, offset: None, what: "it is gone or empty".to_owned() });
        }
    }
    Ok(())
}

fn open(dir: &Path, segment_bytes: usize) -> io::Result<sled::Db> {
    let config = sled::Config::new()
        .path(dir)
        .segment_size(segment_bytes)
        .cache_capacity(PAGE_CACHE_BYTES)
        // The log's thread flushes.
        .flush_every_ms(None);
    let began = Instant::now();
    loop {
        match guarded(|| config.open()) {
            // The directory is ours alone, so this is our former self.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && began.elapsed() < UNLOCKED_WITHIN => {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
}

/// Asks sled. It panics where it finds what it does not expect; here that is an error like others.
fn guarded<T>(ask: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(answer) => answer.map_err(of_sled),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            Err(stored::damaged(format!("sled gave up: {text}")))
        }
    }
}

fn of_sled(error: sled::Error) -> io::Error {
    match error {
        // How it says that the file is locked.
        sled::Error::Io(e) if e.to_string().contains("could not acquire lock") => io::ErrorKind::WouldBlock.into(),
        sled::Error::Io(e) => e,
        sled::Error::Corruption { at: Some(at), .. } => {
            let damage = Damage { offset: Some(at.lid()), what: "sled can't read what it wrote there".to_owned() };
            io::Error::new(io::ErrorKind::InvalidData, damage)
        }
        other => stored::damaged(format!("sled: {other}")),
    }
}

/// Errors of the system are the disk's; all others are about what was read.
fn refusal(dir: &Path, error: io::Error) -> RecoveryError {
    if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::WouldBlock {
        return RecoveryError::Io { path: dir.to_owned(), source: error };
    }
    let offset = error.get_ref().and_then(|inner| inner.downcast_ref::<Damage>()).and_then(|damage| damage.offset);
    RecoveryError::Damaged { file: dir.join("db"), offset, what: error.to_string() }
}
