//! What damage does, region by region. The one rule: nothing that was acknowledged before the last record is ever lost or
//! altered in silence. `docs/storage.md` shows the table for people.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{RaftLogReader, RaftLogStorage};
use tempfile::TempDir;

use super::{append, entry, files_below, id, limits, opened, scratch, space, vote};
use crate::LogEngine;
use crate::entry::{Entry, LogId, Vote};
use crate::log::{Owner, RecoveryError, dir_in, open};

for_each_engine!(
    a_flipped_bit_never_changes_what_is_read,
    a_torn_last_write_is_cut_and_nothing_else,
    missing_and_empty_files_are_noticed,
    files_of_another_log_are_noticed,
    an_interrupted_creation_is_repeated,
);

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
    for index in 0..12 {
        append(&mut store, vec![entry(id(1, index), 90)]).await;
    }
    store.truncate_after(Some(id(1, 8))).await.unwrap();
    store.save_vote(&vote(2, 1, true)).await.unwrap();
    for index in 9..13 {
        append(&mut store, vec![entry(id(2, index), 91)]).await;
    }
    store.save_committed(Some(id(2, 11))).await.unwrap();
    store.purge(id(1, 3)).await.unwrap();
    for index in 13..20 {
        append(&mut store, vec![entry(id(2, index), ENTRY_BYTES)]).await;
    }
    closer.close().await;
    read_back(dir, engine).await.unwrap()
}

/// The bytes of the last entry, and of its record in the newest file of `raft-log`.
const ENTRY_BYTES: usize = 90;
const LAST_RECORD_BYTES: usize = 4 + 24 + 9 + ENTRY_BYTES + 8;

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
    use Outcome::{Refused, Whole};
    let size = files[name].len();
    let file = name.file_name().unwrap().to_str().unwrap();
    let newest = files.keys().next_back().unwrap();
    match (engine, file) {
        (_, "end-mark") => ("end-mark", &[Whole]),
        (LogEngine::RaftLog, _) if name != newest => ("an older file", &[Refused]),
        (LogEngine::RaftLog, _) if at < size - LAST_RECORD_BYTES => ("the newest file before its end", &[Refused]),
        (LogEngine::RaftLog, _) => ("the last record", &[Refused]),
        (LogEngine::Sled, "db") => ("db", &[Whole, Refused]),
        (LogEngine::Sled, "conf") => ("conf", &[Whole, Refused]),
        _ => ("snap", &[Whole, Refused]),
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
    for ((region, came), times) in seen {
        println!("{engine}: {region}: {came:?} {times} times");
    }
}

/// The file that grows: the newest, or sled's only one.
fn growing(engine: LogEngine, files: &Files) -> PathBuf {
    let suffix = if engine == LogEngine::Sled { "db" } else { "wal" };
    let growing = files.keys().rev().find(|name| name.to_str().unwrap().ends_with(suffix));
    growing.unwrap().clone()
}

async fn a_torn_last_write_is_cut_and_nothing_else(engine: LogEngine) {
    let dir = scratch();
    let before_last = written(dir.path(), engine).await;
    let (mut store, closer) = opened(dir.path(), engine, false).unwrap();
    // As a kill would find it: not closed.
    let mut last = 20;
    let (before, after) = loop {
        append(&mut store, vec![entry(id(2, last), ENTRY_BYTES)]).await;
        let before = load(dir.path());
        append(&mut store, vec![entry(id(2, last + 1), ENTRY_BYTES)]).await;
        let after = load(dir.path());
        last += 2;
        // Both in one file, with nothing of it written anew.
        if before.len() == after.len() && growing(engine, &before) == growing(engine, &after) {
            break (before, after);
        }
    };
    closer.close().await;
    let entries = before_last.entries.into_iter().chain((20..last).map(|index| entry(id(2, index), ENTRY_BYTES)));
    let whole = Found { entries: entries.collect(), ..before_last };

    let file = growing(engine, &after);
    let mark = dir_name(engine).join("end-mark");
    let mut unacknowledged = after.clone();
    unacknowledged.insert(mark, before[&dir_name(engine).join("end-mark")].clone());
    let (from, to) = (written_bytes(&before[&file]), written_bytes(&after[&file]));
    assert!(from < to);
    for at in from..to {
        // Shorter, as a kill or a full disk leaves it; or of full length with zeros, as a power cut does.
        let what = format!("cut at byte {at} of {from}..{to}");
        let short = with_change(&unacknowledged, &file, |bytes| bytes.truncate(at));
        assert_eq!(outcome(short.path(), engine, &whole, &what).await, Outcome::LastLost, "{what}");
        // Had it been acknowledged, it would be missed.
        let short = with_change(&after, &file, |bytes| bytes.truncate(at));
        assert_eq!(outcome(short.path(), engine, &whole, &what).await, Outcome::Refused, "{what}");
    }
    let zeros = with_change(&unacknowledged, &file, |bytes| bytes[from..].fill(0));
    assert_eq!(outcome(zeros.path(), engine, &whole, "zeros").await, Outcome::LastLost);

    // What was cut stays cut, and the log goes on behind it.
    let (mut store, closer) = opened(zeros.path(), engine, false).unwrap();
    append(&mut store, vec![entry(id(3, last - 1), 50)]).await;
    closer.close().await;
    assert_eq!(read_back(zeros.path(), engine).await.unwrap().entries.last(), Some(&entry(id(3, last - 1), 50)));
}

/// Bytes of a file up to the last that is not filling.
fn written_bytes(bytes: &[u8]) -> usize {
    let alike = bytes.iter().rev().take_while(|byte| **byte == *bytes.last().unwrap()).count();
    bytes.len() - if alike > 1 { alike } else { 0 }
}

fn dir_name(engine: LogEngine) -> PathBuf {
    dir_in(Path::new(""), engine)
}

async fn missing_and_empty_files_are_noticed(engine: LogEngine) {
    let dir = scratch();
    let whole = written(dir.path(), engine).await;
    let files = load(dir.path());
    for name in files.keys().filter(|name| !name.ends_with("LOCK")) {
        let file = name.file_name().unwrap().to_str().unwrap();
        let what = format!("{file} is gone or empty");
        let empty = with_change(&files, name, Vec::clear);
        assert_eq!(outcome(empty.path(), engine, &whole, &what).await, Outcome::Refused, "{what}");
        let gone = copied(&files);
        fs::remove_file(gone.path().join(name)).unwrap();
        // A snapshot of sled is made of its file, and can be made again.
        let expected = if file.starts_with("snap") { Outcome::Whole } else { Outcome::Refused };
        assert_eq!(outcome(gone.path(), engine, &whole, &what).await, expected, "{what}");
    }
    let none = scratch();
    assert!(matches!(read_back(none.path(), engine).await, Err(RecoveryError::Damaged { .. })), "all files are gone");
}

/// A file of another log, or of an earlier time of this one, in the place of each.
async fn files_of_another_log_are_noticed(engine: LogEngine) {
    let (dir, other) = (scratch(), scratch());
    let whole = written(dir.path(), engine).await;
    written(other.path(), engine).await;
    let earlier = load(dir.path());
    let (mut store, closer) = opened(dir.path(), engine, false).unwrap();
    for index in 20..60 {
        append(&mut store, vec![entry(id(2, index), ENTRY_BYTES)]).await;
    }
    closer.close().await;
    let files = load(dir.path());
    let growing = growing(engine, &earlier);
    let old = with_change(&files, &growing, |bytes| bytes.clone_from(&earlier[&growing]));
    assert_eq!(outcome(old.path(), engine, &whole, "an earlier file").await, Outcome::Refused);
    let strange = scratch();
    let (mut store, closer) = {
        fs::create_dir_all(dir_in(strange.path(), engine)).unwrap();
        let stranger = Owner { id: 2, nonce: 8 };
        let opened =
            open(strange.path(), engine, stranger, true, &limits(), (Arc::default(), space(strange.path()))).unwrap();
        (opened.store, opened.closer)
    };
    store.save_vote(&vote(1, 1, true)).await.unwrap();
    closer.close().await;
    let refused = read_back(strange.path(), engine).await.unwrap_err();
    assert!(refused.to_string().contains("belongs to node 2"), "{refused}");
}

/// A creation is over when the mark of the end is there; before that, any part of what it wrote may be on disk.
async fn an_interrupted_creation_is_repeated(engine: LogEngine) {
    let dir = scratch();
    let (store, closer) = opened(dir.path(), engine, true).unwrap();
    let mut created = load(dir.path());
    closer.close().await;
    drop(store);
    created.remove(&dir_name(engine).join("end-mark"));
    for (name, bytes) in &created {
        for kept in [0, bytes.len() / 2, bytes.len()] {
            let interrupted = with_change(&created, name, |bytes| bytes.truncate(kept));
            let (mut store, closer) = opened(interrupted.path(), engine, true).unwrap();
            append(&mut store, vec![entry(id(1, 0), 10)]).await;
            closer.close().await;
            assert_eq!(read_back(interrupted.path(), engine).await.unwrap().entries, [entry(id(1, 0), 10)]);
        }
    }
    // What is larger was no mere creation.
    let lost = scratch();
    written(lost.path(), engine).await;
    let (mut store, closer) = opened(lost.path(), engine, false).unwrap();
    append(&mut store, vec![entry(id(2, 20), 80_000)]).await;
    closer.close().await;
    fs::remove_file(lost.path().join(dir_name(engine)).join("end-mark")).unwrap();
    let refused = opened(lost.path(), engine, true).map(drop).unwrap_err();
    assert!(refused.to_string().contains("neither an identity nor"), "{refused}");
}
