//! openraft's own suite, a model that is reopened after every operation, and damage at sampled offsets.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership, StorageError};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{LogCloser, LogStore, Owner, RecoveryError, open};
use crate::apply::{Applier, Progress};
use crate::counters::Counting;
use crate::entry::{Data, Entry, Group, LeaderId, LogId, Vote};
use crate::machine::{Frozen, StateMachine};
use crate::settings::{Limits, LogEngine};
use crate::snapshot::Snapshots;
use crate::space::Watch;

const OWNER: Owner = Owner { id: 1, nonce: 7 };

/// Small files and a small cache, so that every test crosses from one file to the next and reads what left memory.
fn limits() -> Limits {
    Limits { log_chunk_bytes: 2048, log_cache_bytes: 2048, ..Limits::default() }
}

fn space(dir: &Path) -> Arc<Watch> {
    Arc::new(Watch::new(dir, 0))
}

fn opened(dir: &Path, create: bool) -> Result<(LogStore, LogCloser), RecoveryError> {
    std::fs::create_dir_all(super::dir_in(dir, LogEngine::RaftLog)).unwrap();
    let opened = open(dir, LogEngine::RaftLog, OWNER, create, &limits(), (Arc::default(), space(dir)))?;
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

struct Builder;

impl StoreBuilder<Group, LogStore, Applier, (TempDir, LogCloser)> for Builder {
    async fn build(&self) -> Result<((TempDir, LogCloser), LogStore, Applier), StorageError<Group>> {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = dir.path().join("snapshots");
        std::fs::create_dir(&snapshots).unwrap();
        let (store, closer) = opened(dir.path(), true).unwrap();
        let snapshots = Arc::new(Snapshots::open(&snapshots, space(dir.path())).unwrap());
        let counting = Arc::new(Counting::default());
        let applier =
            Applier::new("test".to_owned(), Arc::new(Nothing), snapshots, Arc::new(Progress::new()), counting);
        Ok(((dir, closer), store, applier))
    }
}

#[tokio::test]
async fn passes_the_suite_of_openraft() {
    Suite::test_all(Builder).await.unwrap();
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

/// What the log must hold: too simple to be wrong.
#[derive(Default)]
struct Model {
    vote: Option<Vote>,
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    last: Option<LogId>,
    committed: Option<LogId>,
    term: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Vote,
    Append { count: usize, size: usize },
    NewTerm,
    Commit(u64),
    Truncate(u64),
    Purge(u64),
    PurgeBeyond(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Vote),
        6 => (1..20usize, prop_oneof![Just(0), Just(1), 2..600usize]).prop_map(|(count, size)| Step::Append { count, size }),
        1 => Just(Step::NewTerm),
        3 => (0..20u64).prop_map(Step::Commit),
        2 => (0..20u64).prop_map(Step::Truncate),
        2 => (0..30u64).prop_map(Step::Purge),
        1 => (1..10u64).prop_map(Step::PurgeBeyond),
    ];
    proptest::collection::vec(step, 1..25)
}

impl Model {
    fn next(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// Takes a step in the model and in the store.
    async fn take(&mut self, step: &Step, store: &mut LogStore) {
        match *step {
            Step::Vote => {
                self.term += 1;
                let vote = vote(self.term, self.term % 3, self.term.is_multiple_of(2));
                self.vote = Some(vote);
                store.save_vote(&vote).await.unwrap();
            }
            Step::NewTerm => self.term += 1,
            Step::Append { count, size } => {
                let first = self.next();
                let ids = (first..first + count as u64).map(|index| id(self.term, index));
                let entries: Vec<Entry> = ids.map(|id| entry(id, size)).collect();
                self.last = entries.last().map(|entry| entry.log_id);
                self.entries.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
                append(store, entries).await;
            }
            Step::Commit(back) => self.commit(back, store).await,
            Step::Truncate(back) => self.truncate(back, store).await,
            Step::Purge(back) => self.purge(back, store).await,
            Step::PurgeBeyond(ahead) => {
                self.term += 1;
                let upto = id(self.term, self.next() + ahead);
                self.entries.clear();
                (self.purged, self.last) = (Some(upto), Some(upto));
                store.purge(upto).await.unwrap();
            }
        }
        self.settle(store).await;
    }

    async fn commit(&mut self, back: u64, store: &mut LogStore) {
        let target = self.last.and_then(|last| self.entries.get(&last.index.saturating_sub(back)));
        let target = target.map(|entry| entry.log_id);
        if target > self.committed {
            self.committed = target;
            store.save_committed(target).await.unwrap();
        }
    }

    async fn truncate(&mut self, back: u64, store: &mut LogStore) {
        // Neither committed nor purged entries are ever taken back.
        let floor = self.committed.max(self.purged);
        let keep = self.next().checked_sub(back + 1).and_then(|index| self.entries.get(&index));
        let keep = keep.map(|entry| entry.log_id).max(floor);
        self.entries.retain(|index, _| keep.is_some_and(|keep| *index <= keep.index));
        self.last = keep.min(self.last);
        store.truncate_after(keep).await.unwrap();
    }

    async fn purge(&mut self, back: u64, store: &mut LogStore) {
        let Some(upto) = self.last.and_then(|last| self.entries.get(&last.index.saturating_sub(back))) else { return };
        let upto = upto.log_id;
        self.entries.retain(|index, _| *index > upto.index);
        self.purged = Some(upto);
        store.purge(upto).await.unwrap();
    }

    /// What is not awaited by its caller is made durable by the next flush; a vote asks for one.
    async fn settle(&mut self, store: &mut LogStore) {
        self.term += 1;
        let vote = vote(self.term, 1, false);
        self.vote = Some(vote);
        store.save_vote(&vote).await.unwrap();
    }

    async fn check(&self, store: &mut LogStore) {
        let state = store.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (self.purged, self.last));
        let mut reader = store.get_log_reader().await;
        assert_eq!(reader.read_vote().await.unwrap(), self.vote);
        let expected: Vec<Entry> = self.entries.values().cloned().collect();
        assert_eq!(reader.try_get_log_entries(..).await.unwrap(), expected);
        for (index, entry) in &self.entries {
            let limited = reader.limited_get_log_entries(*index, u64::MAX).await.unwrap();
            assert_eq!(limited.first(), Some(entry));
        }
        let committed = store.read_committed().await.unwrap();
        assert!(committed.max(self.purged) >= self.committed, "{committed:?} is behind {:?}", self.committed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn is_the_same_when_reopened_after_every_operation(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut model = Model::default();
            let (mut store, mut closer) = opened(dir.path(), true).unwrap();
            for step in &steps {
                model.take(step, &mut store).await;
                model.check(&mut store).await;
                closer.close().await;
                drop(store);
                (store, closer) = opened(dir.path(), false).unwrap();
                model.check(&mut store).await;
            }
            closer.close().await;
        });
    }
}

/// A closed log in three files, with entries 0..count of about a hundred bytes.
async fn written(dir: &Path, count: u64) {
    let (mut store, closer) = opened(dir, true).unwrap();
    store.save_vote(&vote(1, 1, true)).await.unwrap();
    for index in 0..count {
        append(&mut store, vec![entry(id(1, index), 100)]).await;
    }
    closer.close().await;
}

/// The entries of a log, or why it does not open.
async fn read_back(dir: &Path) -> Result<Vec<Entry>, RecoveryError> {
    let (mut store, closer) = opened(dir, false)?;
    let entries = store.get_log_reader().await.try_get_log_entries(..).await.unwrap();
    closer.close().await;
    Ok(entries)
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    super::recovery::chunks(&super::dir_in(dir, LogEngine::RaftLog)).unwrap()
}

/// Copies a log to a directory of its own, and changes one file there.
fn with_change(from: &Path, file: usize, change: impl Fn(&mut Vec<u8>)) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (nth, path) in files(from).into_iter().enumerate() {
        let mut bytes = std::fs::read(&path).unwrap();
        if nth == file {
            change(&mut bytes);
        }
        let to = copy.path().join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_torn_last_record_is_cut_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 40).await;
    let all = read_back(dir.path()).await.unwrap();
    assert_eq!(all.len(), 40);
    let files = files(dir.path());
    assert!(files.len() >= 3);
    let newest = files.len() - 1;
    let size = std::fs::metadata(&files[newest]).unwrap().len() as usize;
    let record = 4 + 24 + 9 + 100 + 8;
    for torn in 1..=record {
        // Shorter, as a killed process or a full disk leaves it; or of full length with zeros, as a power cut does.
        let short = with_change(dir.path(), newest, |bytes| bytes.truncate(size - torn));
        assert_eq!(read_back(short.path()).await.unwrap(), all[..39], "{torn} bytes short");
        let zeros = with_change(dir.path(), newest, |bytes| bytes[size - record..].fill(0));
        assert_eq!(read_back(zeros.path()).await.unwrap(), all[..39]);
    }
    // What was cut stays cut, and the log goes on behind it.
    let short = with_change(dir.path(), newest, |bytes| bytes.truncate(size - 3));
    let (mut store, closer) = opened(short.path(), false).unwrap();
    append(&mut store, vec![entry(id(2, 39), 50)]).await;
    closer.close().await;
    assert_eq!(read_back(short.path()).await.unwrap()[39], entry(id(2, 39), 50));
}

#[tokio::test]
async fn a_flipped_bit_never_changes_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 40).await;
    let all = read_back(dir.path()).await.unwrap();
    let files = files(dir.path());
    for (nth, file) in files.iter().enumerate() {
        let size = std::fs::metadata(file).unwrap().len() as usize;
        let last_record = size - (4 + 24 + 9 + 100 + 8);
        for at in (0..size).step_by(3) {
            let flipped = with_change(dir.path(), nth, |bytes| bytes[at] ^= 1 << (at % 8));
            match read_back(flipped.path()).await {
                Err(RecoveryError::Damaged { .. }) => {}
                Err(e) => panic!("byte {at} of file {nth}: {e}"),
                // A last record that says it is longer than the file looks like one that was torn.
                Ok(entries) => {
                    assert!(nth == files.len() - 1 && at >= last_record, "byte {at} of file {nth} went unnoticed");
                    assert_eq!(entries, all[..39], "byte {at} of file {nth}");
                }
            }
        }
    }
}

#[tokio::test]
async fn missing_files_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 60).await;
    let files = files(dir.path());
    for missing in &files[..files.len() - 1] {
        let copy = with_change(dir.path(), usize::MAX, |_| {});
        std::fs::remove_file(copy.path().join(missing.strip_prefix(dir.path()).unwrap())).unwrap();
        let refused = read_back(copy.path()).await.unwrap_err();
        assert!(matches!(refused, RecoveryError::Damaged { .. }), "{refused}");
    }
    let none = tempfile::tempdir().unwrap();
    assert!(matches!(opened(none.path(), false), Err(RecoveryError::Damaged { .. })), "all files are gone");
}

#[tokio::test]
async fn a_log_opens_for_its_owner_only_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, closer) = opened(dir.path(), true).unwrap();
    let second = opened(dir.path(), false).map(drop).unwrap_err();
    assert!(matches!(second, RecoveryError::Io { .. }), "it is open already: {second}");
    closer.close().await;
    drop(store);
    let stranger = Owner { id: 2, nonce: 7 };
    let refused = open(dir.path(), LogEngine::RaftLog, stranger, false, &limits(), (Arc::default(), space(dir.path())))
        .map(drop)
        .unwrap_err();
    assert!(matches!(refused, RecoveryError::Damaged { .. }), "{refused}");
}

#[tokio::test]
async fn purged_files_are_removed_also_those_of_votes_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, closer) = opened(dir.path(), true).unwrap();
    for index in 0..200 {
        append(&mut store, vec![entry(id(1, index), 100)]).await;
    }
    let before = files(dir.path()).len();
    store.purge(id(1, 199)).await.unwrap();
    for term in 2..100 {
        store.save_vote(&vote(term, 1, false)).await.unwrap();
    }
    closer.close().await;
    let after = files(dir.path()).len();
    assert!(before > 10 && after <= 3, "{before} files before, {after} after");
    assert!(read_back(dir.path()).await.unwrap().is_empty());
}
