//! What is done to the log files before `raft-log` opens them: tell a torn write from damage.
//!
//! Left to itself, `raft-log` cuts the newest file at the first record that it can't read to the end, whatever follows,
//! and removes a newest file whose first record is incomplete. Here that is decided first, by these rules:
//!
//! - Only the newest file can end in a torn write: an older one was synced before the next got its first record.
//! - A torn write is the last thing in the file. It is shorter than it says, or part of it (a whole sector, or all that
//!   follows) was never written and reads as zeros. It was not acknowledged: an acknowledgement follows an fsync. It is
//!   cut off.
//! - Anything else that can't be read is damage: a record with readable ones after it, or a last record that is complete
//!   but fails its checksum. The node refuses to start. What was acknowledged may be in there, and a member that forgets
//!   what it acknowledged can make its group lose it.
//!
//! A single flipped bit in a last record could in theory be a torn write; sectors are written whole, so it is treated
//! as damage.
//!
//! Whatever is left is synced: after a kill, the page cache may hold records that never reached the disk, and from now on
//! this node vouches for them.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use raft_log::codeq::Decode;
use raft_log::{RaftLogAction, RaftLogRecord};
use tracing::warn;

use super::engine::RecoveryError;
use super::record::{DiskLogId, DiskPayload, HEAD_BYTES, LOG_ID_BYTES, Records, VOTE_BYTES, length_in_head};

const TYPE_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 8;
const SECTOR_BYTES: usize = 512;
const TYPES: u32 = 6;

/// What was found in the files.
#[derive(Default)]
pub(super) struct Prepared {
    /// Offset behind the last record, counted over all files that there ever were.
    pub(super) end: u64,
    /// Bytes that were cut off.
    pub(super) cut: u64,
    /// The entries in the newest file.
    pub(super) newest: VecDeque<(DiskLogId, DiskPayload)>,
}

/// Prepares the files of `dir` for `raft-log`, which must go as far as they were `durable`. Nothing is changed before all is
/// found in order.
pub(super) fn prepare(dir: &Path, durable: Option<u64>) -> Result<Prepared, RecoveryError> {
    let in_dir = |source| RecoveryError::Io { path: dir.to_owned(), source };
    let mut files = chunks(dir).map_err(in_dir)?;
    let mut unbegun = Vec::new();
    let mut found = Prepared::default();
    while let Some(file) = files.last() {
        let in_file = |source| RecoveryError::Io { path: file.clone(), source };
        let bytes = std::fs::read(file).map_err(in_file)?;
        let kept = readable(file, &bytes, &mut found.newest)?;
        found.cut += (bytes.len() - kept) as u64;
        if kept == 0 {
            // A file without its first record was being created; the one before it is the newest that counts.
            unbegun.extend(files.pop());
            continue;
        }
        let end = start(file).unwrap_or_default() + kept as u64;
        found.end = end;
        if Some(end) < durable {
            let what = format!("the log ends here, {} bytes before what was durable", durable.unwrap_or(end) - end);
            return Err(RecoveryError::Damaged { file: file.clone(), offset: Some(kept as u64), what });
        }
        if kept < bytes.len() {
            warn!(file = %file.display(), offset = kept, bytes = bytes.len() - kept, "cut a torn write off the log");
        }
        let open = OpenOptions::new().write(true).open(file).map_err(in_file)?;
        open.set_len(kept as u64).and_then(|()| open.sync_all()).map_err(in_file)?;
        break;
    }
    joined(&files)?;
    if files.is_empty() && durable.is_some() {
        let what = "the log files of this node are gone".to_owned();
        return Err(RecoveryError::Damaged { file: dir.to_owned(), offset: None, what });
    }
    for file in unbegun {
        std::fs::remove_file(&file).map_err(|source| RecoveryError::Io { path: file, source })?;
    }
    if let [.., older, _newest] = files.as_slice() {
        let synced = File::open(older).and_then(|file| file.sync_all());
        synced.map_err(|source| RecoveryError::Io { path: older.clone(), source })?;
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(in_dir)?;
    Ok(found)
}

/// Every file must begin where the one before it ends.
fn joined(files: &[PathBuf]) -> Result<(), RecoveryError> {
    for pair in files.windows(2) {
        let [file, next] = pair else { continue };
        let length = file.metadata().map_err(|source| RecoveryError::Io { path: file.clone(), source })?.len();
        if start(file).map(|start| start + length) != start(next) || length == 0 {
            let what = format!("it ends there, but the next file is {}", next.display());
            return Err(RecoveryError::Damaged { file: file.clone(), offset: Some(length), what });
        }
    }
    Ok(())
}

/// The offset at which a file starts, from its name.
fn start(file: &Path) -> Option<u64> {
    raft_log::chunked_wal::Config::parse_chunk_file_name(file.file_name()?.to_str()?).ok()
}

/// The log files, oldest first.
pub(super) fn chunks(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            files.push(path);
        }
    }
    // The names carry zero-padded offsets, so they sort as the offsets do.
    files.sort();
    Ok(files)
}

/// How many bytes of the newest file are whole records. The rest is a torn write, or this is an error. What the records append and
/// don't take back is added to `entries`.
pub(super) fn readable(
    file: &Path,
    bytes: &[u8],
    entries: &mut VecDeque<(DiskLogId, DiskPayload)>,
) -> Result<usize, RecoveryError> {
    let mut at = 0;
    while at < bytes.len() {
        match record_at(&bytes[at..]) {
            Ok((record, length)) => {
                at += length;
                match record {
                    RaftLogRecord::Action(RaftLogAction::Append(id, payload)) => {
                        entries.push_back((id, payload));
                    }
                    RaftLogRecord::Action(RaftLogAction::TruncateAfter(keep)) => {
                        let kept = |id: &DiskLogId| keep.is_some_and(|keep| id.index <= keep.index);
                        entries.truncate(entries.partition_point(|(id, _)| kept(id)));
                    }
                    _ => {}
                }
            }
            Err(what) => match damage(bytes, at) {
                None => return Ok(at),
                Some(why) => {
                    let what = format!("{what}; {why}");
                    return Err(RecoveryError::Damaged { file: file.to_owned(), offset: Some(at as u64), what });
                }
            },
        }
    }
    Ok(at)
}

fn record_at(bytes: &[u8]) -> Result<(RaftLogRecord<Records>, usize), io::Error> {
    let mut rest = bytes;
    let record = RaftLogRecord::<Records>::decode(&mut rest)?;
    Ok((record, bytes.len() - rest.len()))
}

/// Says why the unreadable record at `at` is not a torn write; `None` if it is one.
fn damage(bytes: &[u8], at: usize) -> Option<&'static str> {
    let rest = &bytes[at..];
    let (resume, end, short) = match extent(rest) {
        // The rest is inside this entry, also where it looks like records: proposals may contain anything.
        Extent::Entry(length) if length > rest.len() => return None,
        Extent::Entry(length) => (at + length, at + length, false),
        Extent::Fixed(length) => (at + 1, (at + length).min(bytes.len()), length > rest.len()),
        Extent::CutShort => (at + 1, bytes.len(), true),
        Extent::Unknown => (at + 1, bytes.len(), false),
    };
    if (resume..bytes.len()).any(|from| is_record(&bytes[from..])) {
        return Some("readable records follow it");
    }
    if short || rest.iter().all(|byte| *byte == 0) || has_zero_sector(bytes, at, end) {
        return None;
    }
    Some("it is complete but fails its checksum")
}

/// A cheap look first: most offsets are no record, and this runs for every offset.
fn is_record(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, 0, kind, ..] if u32::from(*kind) < TYPES) && record_at(bytes).is_ok()
}

enum Extent {
    /// An entry of this many bytes, by its own head.
    Entry(usize),
    /// Another record, of this many bytes if its type is to be trusted.
    Fixed(usize),
    /// The file ends before the record could say how long it is.
    CutShort,
    /// The head can't be trusted.
    Unknown,
}

fn extent(rest: &[u8]) -> Extent {
    let Some((kind, body)) = rest.split_at_checked(TYPE_BYTES) else {
        return Extent::CutShort;
    };
    let kind = u32::from_be_bytes(kind.try_into().expect("four bytes were split off"));
    let fixed = |length: usize| Extent::Fixed(TYPE_BYTES + length + CHECKSUM_BYTES);
    match kind {
        0 => fixed(VOTE_BYTES),
        1 => match body.get(LOG_ID_BYTES..LOG_ID_BYTES + HEAD_BYTES) {
            None => Extent::CutShort,
            Some(head) => match length_in_head(head.try_into().expect("the range has the size of a head")) {
                Some(length) => {
                    Extent::Entry(TYPE_BYTES + LOG_ID_BYTES + HEAD_BYTES + length as usize + CHECKSUM_BYTES)
                }
                None => Extent::Unknown,
            },
        },
        2 | 4 => fixed(LOG_ID_BYTES),
        3 => match body.first() {
            None => Extent::CutShort,
            Some(0) => fixed(1),
            Some(1) => fixed(1 + LOG_ID_BYTES),
            Some(_) => Extent::Unknown,
        },
        5 => checkpoint_extent(body),
        _ => Extent::Unknown,
    }
}

/// A checkpoint is a version and five optional parts of fixed size: vote, last, committed, purged, owner.
fn checkpoint_extent(body: &[u8]) -> Extent {
    let mut length = 1;
    for part in [VOTE_BYTES, LOG_ID_BYTES, LOG_ID_BYTES, LOG_ID_BYTES, 16] {
        match body.get(length) {
            None => return Extent::CutShort,
            Some(0) => length += 1,
            Some(1) => length += 1 + part,
            Some(_) => return Extent::Unknown,
        }
    }
    Extent::Fixed(TYPE_BYTES + length + CHECKSUM_BYTES)
}

/// Whether a sector's worth of the record at `from..to` was never written. Sectors are counted from the start of the file.
fn has_zero_sector(bytes: &[u8], from: usize, to: usize) -> bool {
    let mut start = from;
    while start < to {
        let end = ((start / SECTOR_BYTES + 1) * SECTOR_BYTES).min(to);
        // Every record begins with zeros, those of its type: where a sector has no more of it, they say nothing.
        if end - from >= TYPE_BYTES && bytes[start..end].iter().all(|byte| *byte == 0) {
            return true;
        }
        start = end;
    }
    false
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use raft_log::codeq::Encode;

    use super::*;
    use crate::entry::{Data, Entry};
    use crate::fuzz::log_id;

    fn record(index: u64, bytes: usize) -> Vec<u8> {
        let log_id = log_id(7, index);
        let entry = Entry { log_id, payload: EntryPayload::Normal(Data(vec![b'x'; bytes].into())) };
        let mut record = Vec::new();
        let action = RaftLogAction::Append(DiskLogId::from(&log_id), DiskPayload::of(&entry));
        RaftLogRecord::<Records>::Action(action).encode(&mut record).unwrap();
        record
    }

    #[test]
    fn a_record_that_begins_at_the_end_of_a_sector_is_no_torn_write_for_that() {
        let around = record(0, 0).len();
        for begins in SECTOR_BYTES - 6..=SECTOR_BYTES + 6 {
            let mut bytes = record(0, begins - around);
            assert_eq!(bytes.len(), begins);
            bytes.extend(record(1, 600));
            bytes[begins + 300] ^= 1;
            let found = readable(Path::new("log"), &bytes, &mut VecDeque::new());
            let Err(RecoveryError::Damaged { offset, .. }) = found else { panic!("begins at {begins}: {found:?}") };
            assert_eq!(offset, Some(begins as u64));
        }
    }

    #[test]
    fn an_index_beyond_all_entries_is_read() {
        let mut bytes = record(3, 10);
        let action = RaftLogAction::TruncateAfter(Some(DiskLogId::from(&log_id(7, u64::MAX))));
        RaftLogRecord::<Records>::Action(action).encode(&mut bytes).unwrap();
        let mut entries = VecDeque::new();
        assert_eq!(readable(Path::new("log"), &bytes, &mut entries).unwrap(), bytes.len());
        assert_eq!(entries.len(), 1);
    }
}
