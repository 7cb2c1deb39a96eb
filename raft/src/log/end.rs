//! The mark of the end: how far the log was durable, in a file that is no part of the engine's.
//!
//! A log that lost its end looks like one that never had it, for a torn write is nothing unusual there. This mark tells them
//! apart: what it has passed was acknowledged and must be found. It is written after every sync, in place, but not synced itself:
//! that would double the time of every commit. A kill loses none of it. The system writes it back by itself, as a rule within
//! half a minute; so after a cut of the power it may be as much older than what was acknowledged, and is never newer.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::engine::RecoveryError;

const MAGIC: &[u8; 4] = b"SWEM";
/// Magic, how often the mark was written, the end of the log, checksum.
const SLOT_BYTES: usize = 24;
/// Two slots by turns, in blocks of their own: a torn write leaves the other one.
const BLOCK_BYTES: u64 = 4096;

/// The file, locked for this process.
pub(super) struct EndMark {
    file: File,
    times: u64,
}

pub(super) fn path_in(dir: &Path) -> PathBuf {
    dir.join("end-mark")
}

impl EndMark {
    /// Creates it so that it is there as a whole, or not at all.
    pub(super) fn create(dir: &Path, end: u64) -> io::Result<EndMark> {
        let aside = dir.join("end-mark.tmp");
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&aside)?;
        file.try_lock()?;
        file.set_len(2 * BLOCK_BYTES)?;
        let mut mark = EndMark { file, times: 0 };
        mark.reached(end)?;
        mark.reached(end)?;
        mark.file.sync_all()?;
        std::fs::rename(&aside, path_in(dir))?;
        File::open(dir)?.sync_all()?;
        Ok(mark)
    }

    /// Opens and locks it. Returns also how far the log was durable.
    pub(super) fn open(dir: &Path) -> Result<(EndMark, u64), RecoveryError> {
        let path = &path_in(dir);
        let fail = |source| RecoveryError::Io { path: path.clone(), source };
        let damaged = |what: &str| RecoveryError::Damaged { file: path.clone(), offset: None, what: what.to_owned() };
        let file = File::options().read(true).write(true).open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => damaged("it is gone"),
            _ => fail(e),
        })?;
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => fail(io::ErrorKind::WouldBlock.into()),
            TryLockError::Error(e) => fail(e),
        })?;
        let mut newest = None;
        for nth in 0..2 {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, nth * BLOCK_BYTES) {
                Ok(()) => newest = newest.max(read(&bytes)),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(fail(e)),
            }
        }
        let (times, end) = newest.ok_or_else(|| damaged("neither of its two slots can be read"))?;
        Ok((EndMark { file, times }, end))
    }

    /// Notes that the log is durable up to `end`.
    pub(super) fn reached(&mut self, end: u64) -> io::Result<()> {
        self.times += 1;
        self.file.write_all_at(&slot(self.times, end), (self.times % 2) * BLOCK_BYTES)
    }
}

pub(super) fn slot(times: u64, end: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..12].copy_from_slice(&times.to_be_bytes());
    bytes[12..20].copy_from_slice(&end.to_be_bytes());
    let sum = crc32fast::hash(&bytes[..20]);
    bytes[20..].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// How often the mark was written, and the end of the log.
pub(super) fn read(bytes: &[u8; SLOT_BYTES]) -> Option<(u64, u64)> {
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"));
    let (times, end) = (word(4), word(12));
    (slot(times, end) == *bytes).then_some((times, end))
}
