//! The mark of the end: the number of the newest write that was durable, in a file that is no part of sled's.
//!
//! It is written after every sync, in place, but not synced itself: that would double the time of every commit. The system
//! writes it back by itself within about half a minute, and at once when a process is killed there is nothing to write back. So
//! after a cut of the power it may be somewhat older than what was acknowledged, and never newer.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::log::engine::RecoveryError;

const MAGIC: &[u8; 4] = b"SWEM";
const SLOT_BYTES: usize = 16;
/// Two slots by turns, in blocks of their own: a torn write leaves the other one.
const BLOCK_BYTES: usize = 4096;

/// The file, locked.
pub(super) struct EndMark(File);

impl EndMark {
    pub(super) fn create(path: &Path) -> io::Result<EndMark> {
        let mut bytes = vec![0; 2 * BLOCK_BYTES];
        bytes[..SLOT_BYTES].copy_from_slice(&slot(0));
        let file = File::options().create_new(true).read(true).write(true).open(path)?;
        file.try_lock()?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        Ok(EndMark(file))
    }

    /// Opens and locks it. Returns also the number that it holds.
    pub(super) fn open(path: &Path) -> Result<(EndMark, u64), RecoveryError> {
        let fail = |source| RecoveryError::Io { path: path.to_owned(), source };
        let file = File::options().read(true).write(true).open(path).map_err(fail)?;
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => fail(io::ErrorKind::WouldBlock.into()),
            TryLockError::Error(e) => fail(e),
        })?;
        let mut newest = None;
        for nth in 0..2 {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, nth * BLOCK_BYTES as u64) {
                Ok(()) => newest = newest.max(number(&bytes)),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(fail(e)),
            }
        }
        let what = || "neither of its two numbers can be read".to_owned();
        let damaged = || RecoveryError::Damaged { file: path.to_owned(), offset: Some(0), what: what() };
        Ok((EndMark(file), newest.ok_or_else(damaged)?))
    }

    /// Notes that this write is durable.
    pub(super) fn reached(&self, number: u64) -> io::Result<()> {
        self.0.write_all_at(&slot(number), (number % 2) * BLOCK_BYTES as u64)
    }
}

fn slot(number: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..12].copy_from_slice(&number.to_be_bytes());
    let sum = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn number(bytes: &[u8; SLOT_BYTES]) -> Option<u64> {
    let number = u64::from_be_bytes(bytes[4..12].try_into().expect("a slice of eight bytes"));
    (slot(number) == *bytes).then_some(number)
}
