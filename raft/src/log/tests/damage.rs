//! What damage does, region by region. The one rule: nothing that was acknowledged before the last record is ever lost or
//! altered in silence. `docs/storage.md` shows the table for people.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use openraft::storage::{RaftLogReader, RaftLogStorage};
use tempfile::TempDir;

use super::{append, entry, files_below, for_each_engine, id, opened, scratch, vote};
use crate::LogEngine;
use crate::entry::{Entry, LogId, Vote};
use crate::log::{RecoveryError, dir_in};

for_each_engine!(a_flipped_bit_never_changes_what_is_read,);

/// Everything that a log answers.
#[derive(Debug, PartialEq)]
struct Found {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

async fn read_back(dir: &Path, engine: LogEngine) -> Result<Found, RecoveryError> {
    let (mut store, closer) = opened(dir, engine, false)?;
    let purged = store.get_log_state().await.unwrap().last_purged_log_id;
    let mut reader = store.get_log_reader().await;
    let (vote, entries) = (reader.read_vote().await.unwrap(), reader.try_get_log_entries(..).await.unwrap());
    closer.close().await;
    Ok(Found { vote, purged, entries })
}

/// A closed log of several files or segments with everything that a life brings: votes, a truncation with other entries in
/// the place of the former ones, a purge. Every record was flushed by itself. The last one is an entry.
async fn written(dir: &Path, engine: LogEngine) -> Found {
    let (mut store, closer) = opened(dir, engine, true).unwrap();
    store.save_vote(&vote(1, 1, true)).await.unwrap();
    for index in 0..30 {
        append(&mut store, vec![entry(id(1, index), 100)]).await;
    }
    store.truncate_after(Some(id(1, 22))).await.unwrap();
    store.save_vote(&vote(2, 1, true)).await.unwrap();
    for index in 23..32 {
        append(&mut store, vec![entry(id(2, index), 101)]).await;
    }
    store.save_committed(Some(id(2, 30))).await.unwrap();
    store.purge(id(1, 5)).await.unwrap();
    for index in 32..40 {
        append(&mut store, vec![entry(id(2, index), 100)]).await;
    }
    closer.close().await;
    read_back(dir, engine).await.unwrap()
}

/// The bytes of the last record of that log in the newest file of `raft-log`.
const LAST_RECORD_BYTES: usize = 4 + 24 + 9 + 100 + 8;

/// Files of a log by their paths in the data directory.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn load(dir: &Path) -> Files {
    let name = |file: &PathBuf| file.strip_prefix(dir).unwrap().to_owned();
    files_below(dir).iter().map(|file| (name(file), fs::read(file).unwrap())).collect()
}

fn copied(files: &Files) -> TempDir {
    let copy = scratch();
    for (name, bytes) in files {
        let to = copy.path().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    copy
}

/// Copies a log, and changes one file.
fn with_change(files: &Files, name: &Path, change: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let mut changed = files.clone();
    change(changed.get_mut(name).unwrap());
    copied(&changed)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything is there.
    Whole,
    /// Everything but the last record.
    LastLost,
    Refused,
}

async fn outcome(dir: &Path, engine: LogEngine, whole: &Found, what: &str) -> Outcome {
    match read_back(dir, engine).await {
        Ok(found) if found == *whole => Outcome::Whole,
        Ok(found) => {
            let (_, others) = whole.entries.split_last().unwrap();
            assert!((found.vote, found.purged) == (whole.vote, whole.purged) && found.entries == others, "{what}");
            Outcome::LastLost
        }
        Err(e) => {
            let named = e.to_string().contains(dir.to_str().unwrap());
            assert!(matches!(e, RecoveryError::Damaged { .. }) && named, "{what}: {e}");
            // Opening may change files; what was refused stays refused.
            let again = read_back(dir, engine).await;
            assert!(again.is_err(), "{what}: refused first with {e}, and opened then");
            Outcome::Refused
        }
    }
}

/// What may come of a flipped bit there, in words of the table in `docs/storage.md`.
fn region(engine: LogEngine, files: &Files, name: &Path, at: usize) -> (&'static str, &'static [Outcome]) {
    use Outcome::{LastLost, Refused, Whole};
    let size = files[name].len();
    let file = name.file_name().unwrap().to_str().unwrap();
    let newest = files.keys().next_back().unwrap();
    match (engine, file) {
        (LogEngine::RaftLog, _) if name != newest => ("an older file", &[Refused]),
        (LogEngine::RaftLog, _) if at < size - LAST_RECORD_BYTES => ("the newest file before its end", &[Refused]),
        // A last record that says it is longer than the file looks like one that was torn.
        (LogEngine::RaftLog, _) => ("the last record", &[LastLost, Refused]),
        (LogEngine::Sled, "db") => ("db", &[Whole, Refused]),
        (LogEngine::Sled, "conf") => ("conf", &[Whole, Refused]),
        (LogEngine::Sled, "end-mark") => ("end-mark", &[Whole]),
        (LogEngine::Sled, _) => ("snap", &[Refused]),
    }
}

/// Bytes after `at` that are all alike, as what lies behind the end of a segment; of a large region a sample is enough.
fn step_over(bytes: &[u8], at: usize) -> usize {
    let alike = bytes[at..].iter().take_while(|byte| **byte == bytes[at]).count();
    if alike > 64 { alike.min(509) } else { 1 }
}

async fn a_flipped_bit_never_changes_what_is_read(engine: LogEngine) {
    let dir = scratch();
    let whole = written(dir.path(), engine).await;
    let files = load(dir.path());
    let mut seen: BTreeMap<(&str, Outcome), usize> = BTreeMap::new();
    for (name, bytes) in &files {
        let mut at = 0;
        while at < bytes.len() {
            let flipped = with_change(&files, name, |bytes| bytes[at] ^= 1 << (at % 8));
            let (region, allowed) = region(engine, &files, name, at);
            let what = format!("byte {at} of {}", name.display());
            let came = outcome(flipped.path(), engine, &whole, &what).await;
            assert!(allowed.contains(&came), "{what}, {region}: {came:?}");
            *seen.entry((region, came)).or_default() += 1;
            at += step_over(bytes, at);
        }
    }
    println!("{engine}: {seen:?}");
}
