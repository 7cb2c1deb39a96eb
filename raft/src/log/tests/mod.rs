//! The same tests for every engine: openraft's own suite, a model that is reopened after every operation (`model`), and
//! damage at every offset (`damage`). `power_cut` needs root.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership, StorageError};
use tempfile::TempDir;

use super::{LogCloser, LogStore, Owner, RecoveryError, dir_in, open};
use crate::apply::{Applier, Progress};
use crate::counters::Counting;
use crate::entry::{Data, Entry, Group, LeaderId, LogId, Vote};
use crate::machine::{Frozen, StateMachine};
use crate::settings::{Limits, LogEngine};
use crate::snapshot::Snapshots;
use crate::space::Headroom;

/// Makes a test of every function, for each engine.
macro_rules! for_each_engine {
    ($($test:ident),+ $(,)?) => {
        mod raft_log {
            $(#[test] fn $test() { $crate::log::tests::run(super::$test($crate::LogEngine::RaftLog)); })+
        }
        mod sled {
            $(#[test] fn $test() { $crate::log::tests::run(super::$test($crate::LogEngine::Sled)); })+
        }
    };
}
mod damage;
mod model;
pub(super) mod power_cut;

const OWNER: Owner = Owner { id: 1, nonce: 7 };

for_each_engine!(
    passes_the_suite_of_openraft,
    a_log_opens_for_its_owner_only_and_once,
    purged_space_returns_also_that_of_votes_alone,
    entries_of_the_largest_size_are_kept,
    entries_of_a_lower_term_take_the_place_of_those_taken_back,
    nothing_is_acknowledged_before_it_is_on_disk,
);

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

/// A directory in memory, where there is such a place: nothing here depends on a disk.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Small files and a small cache, so that every test crosses from one file to the next and reads what left memory.
fn limits() -> Limits {
    Limits { log_chunk_bytes: 2048, log_cache_bytes: 2048, ..Limits::default() }
}

fn space(dir: &Path) -> Arc<Headroom> {
    Arc::new(Headroom::new(dir, 0))
}

fn opened(dir: &Path, engine: LogEngine, create: bool) -> Result<(LogStore, LogCloser), RecoveryError> {
    opened_with(dir, engine, create, &limits())
}

fn opened_with(
    dir: &Path,
    engine: LogEngine,
    create: bool,
    limits: &Limits,
) -> Result<(LogStore, LogCloser), RecoveryError> {
    std::fs::create_dir_all(dir_in(dir, engine)).unwrap();
    let opened = open(dir, engine, OWNER, create, limits, (Arc::default(), space(dir)))?;
    Ok((opened.store, opened.closer))
}

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&self, _: u64, _: &[u8], _: Option<&mut Vec<u8>>) -> io::Result<()> {
        Ok(())
    }

    fn applied(&self, _: u64) {}

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(Nothing)
    }

    fn restore(&self, _: u64, _: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
}

impl Frozen for Nothing {
    fn write_to(&self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

struct Builder(LogEngine);

impl StoreBuilder<Group, LogStore, Applier, (TempDir, LogCloser)> for Builder {
    async fn build(&self) -> Result<((TempDir, LogCloser), LogStore, Applier), StorageError<Group>> {
        let dir = scratch();
        let snapshots = dir.path().join("snapshots");
        std::fs::create_dir(&snapshots).unwrap();
        let (store, closer) = opened(dir.path(), self.0, true).unwrap();
        let snapshots = Arc::new(Snapshots::open(&snapshots, space(dir.path())).unwrap());
        let counting = Arc::new(Counting::default());
        let applier =
            Applier::new("test".to_owned(), Arc::new(Nothing), snapshots, Arc::new(Progress::new()), counting);
        Ok(((dir, closer), store, applier))
    }
}

#[cfg(feature = "simulation")]
#[test]
fn the_engine_of_simulations_passes_the_suite_of_openraft() {
    run(passes_the_suite_of_openraft(LogEngine::Memory));
}

async fn passes_the_suite_of_openraft(engine: LogEngine) {
    Suite::test_all(Builder(engine)).await.unwrap();
}

fn vote(term: u64, node: u64, committed: bool) -> Vote {
    Vote { leader_id: LeaderId::new(term, node), committed }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId::new(term, 1), index }
}

fn entry(id: LogId, size: usize) -> Entry {
    let payload = match size {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Membership(Membership::new_with_defaults(vec![[1, 2].into()], [])),
        _ => EntryPayload::Normal(Data(vec![u8::try_from(id.index % 251).unwrap(); size].into())),
    };
    Entry { log_id: id, payload }
}

async fn append(store: &mut LogStore, entries: Vec<Entry>) {
    let (to, flushed) = Group::oneshot();
    store.append(entries, IOFlushed::signal(to)).await.unwrap();
    flushed.await.unwrap().unwrap();
}

async fn a_log_opens_for_its_owner_only_and_once(engine: LogEngine) {
    let dir = scratch();
    let (store, closer) = opened(dir.path(), engine, true).unwrap();
    let second = opened(dir.path(), engine, false).map(drop).unwrap_err();
    assert!(matches!(second, RecoveryError::Io { .. }), "it is open already: {second}");
    closer.close().await;
    drop(store);
    let stranger = Owner { id: 2, nonce: 7 };
    let refused = open(dir.path(), engine, stranger, false, &limits(), (Arc::default(), space(dir.path())))
        .map(drop)
        .unwrap_err();
    assert!(refused.to_string().contains("belongs to node 1"), "{refused}");
}

async fn purged_space_returns_also_that_of_votes_alone(engine: LogEngine) {
    let dir = scratch();
    let (mut store, closer) = opened(dir.path(), engine, true).unwrap();
    for index in 0..2000 {
        append(&mut store, vec![entry(id(1, index), 100)]).await;
    }
    let before = bytes_in(&dir_in(dir.path(), engine));
    store.purge(id(1, 1999)).await.unwrap();
    for term in 2..1000 {
        store.save_vote(&vote(term, 1, false)).await.unwrap();
    }
    closer.close().await;
    let after = bytes_in(&dir_in(dir.path(), engine));
    // A tree uses its space again and returns little of it; it must not grow.
    let most = if engine == LogEngine::RaftLog { 20 * 1024 } else { before + 64 * 1024 };
    assert!(before > 200_000 && after <= most, "{before} bytes before, {after} after");
    assert!(read_back(dir.path(), engine).await.unwrap().is_empty());
}

async fn entries_of_the_largest_size_are_kept(engine: LogEngine) {
    let dir = scratch();
    let (mut store, closer) = opened(dir.path(), engine, true).unwrap();
    let entries: Vec<Entry> = (0..24).map(|index| entry(id(1, index), 64 * 1024 + 2 * index as usize)).collect();
    append(&mut store, entries.clone()).await;
    append(&mut store, vec![entry(id(1, 24), Limits::default().entry_bytes_max)]).await;
    closer.close().await;
    let found = read_back(dir.path(), engine).await.unwrap();
    assert!(found[..24] == entries && found[24] == entry(id(1, 24), Limits::default().entry_bytes_max));
    // What sled keeps outside of its file it never syncs.
    let blobs = dir_in(dir.path(), engine).join("blobs");
    assert!(!blobs.exists() || std::fs::read_dir(blobs).unwrap().next().is_none());
}

/// The mark of the end is written after every sync, so whatever is acknowledged has moved it: votes as well as entries.
async fn nothing_is_acknowledged_before_it_is_on_disk(engine: LogEngine) {
    let dir = scratch();
    let (mut store, closer) = opened(dir.path(), engine, true).unwrap();
    let mark = || std::fs::read(super::end::path_in(&dir_in(dir.path(), engine))).unwrap();
    // Often, because whoever acknowledges too early may be overtaken by the disk.
    for index in 0..200 {
        let before = mark();
        append(&mut store, vec![entry(id(1, index), 100)]).await;
        let appended = mark();
        assert!(appended != before, "entry {index} was acknowledged and not on disk");
        store.save_vote(&vote(index + 2, 1, false)).await.unwrap();
        assert!(mark() != appended, "the vote of term {} was acknowledged and not on disk", index + 2);
    }
    closer.close().await;
}

/// A leader of term 3 appends alone; one of term 4 has entries of term 2 in their places. So ids may become lower.
async fn entries_of_a_lower_term_take_the_place_of_those_taken_back(engine: LogEngine) {
    let dir = scratch();
    let (mut store, closer) = opened(dir.path(), engine, true).unwrap();
    let mut expected: Vec<Entry> = (0..20).map(|index| entry(id(1, index), 100)).collect();
    append(&mut store, expected.clone()).await;
    append(&mut store, (20..60).map(|index| entry(id(3, index), 100)).collect()).await;
    store.truncate_after(Some(id(1, 19))).await.unwrap();
    // From the same file as the truncation on, and over several more.
    for index in 20..90 {
        expected.push(entry(id(2, index), 101));
        append(&mut store, vec![entry(id(2, index), 101)]).await;
        let read = store.get_log_reader().await.try_get_log_entries(..).await.unwrap();
        assert!(read == expected, "after entry {index}");
        if index % 7 == 0 {
            let copy = tempfile::tempdir().unwrap();
            copy_files(dir.path(), copy.path());
            assert!(read_back(copy.path(), engine).await.unwrap() == expected, "reopened after entry {index}");
        }
    }
    closer.close().await;
    assert!(read_back(dir.path(), engine).await.unwrap() == expected);
}

fn copy_files(from: &Path, to: &Path) {
    for file in files_below(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(&file, copy).unwrap();
    }
}

/// The entries of a log, or why it does not open.
async fn read_back(dir: &Path, engine: LogEngine) -> Result<Vec<Entry>, RecoveryError> {
    let (mut store, closer) = opened(dir, engine, false)?;
    let entries = store.get_log_reader().await.try_get_log_entries(..).await.unwrap();
    closer.close().await;
    Ok(entries)
}

/// The files of a directory and below, in order.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for found in std::fs::read_dir(dir).unwrap() {
        let path = found.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn bytes_in(dir: &Path) -> u64 {
    files_below(dir).iter().map(|file| file.metadata().unwrap().len()).sum()
}
