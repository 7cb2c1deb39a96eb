//! A model of the log that is too simple to be wrong, against a log that is reopened after every operation.

use std::collections::BTreeMap;

use openraft::storage::{RaftLogReader, RaftLogStorage};
use proptest::prelude::*;

use super::{append, entry, id, opened, run, scratch, vote};
use crate::LogEngine;
use crate::entry::{Entry, LogId, Vote};
use crate::log::LogStore;

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

async fn follows_the_model(engine: LogEngine, steps: &[Step]) {
    let dir = scratch();
    let mut model = Model::default();
    let (mut store, mut closer) = opened(dir.path(), engine, true).unwrap();
    for step in steps {
        model.take(step, &mut store).await;
        model.check(&mut store).await;
        closer.close().await;
        drop(store);
        (store, closer) = opened(dir.path(), engine, false).unwrap();
        model.check(&mut store).await;
    }
    closer.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn is_the_same_when_reopened_after_every_operation(steps in steps()) {
        for engine in LogEngine::ALL {
            run(follows_the_model(engine, &steps));
        }
    }
}
