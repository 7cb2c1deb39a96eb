//! What a writer does, drawn from a seed: the writer and whoever judges it draw the same.

use std::collections::VecDeque;

use openraft::storage::{RaftLogReader, RaftLogStorage};

use crate::entry::{Data, Entry, LogId, Vote};
use crate::log::LogStore;
use crate::log::tests::{id, vote};

/// Entries kept when a log is purged, and how many there are before.
const KEPT: usize = 150;
const MOST: usize = 500;

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Held {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) entries: VecDeque<Entry>,
}

pub(super) enum Step {
    Vote(Vote),
    Append(Vec<Entry>),
    Commit(LogId),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
}

impl Held {
    pub(super) async fn read(store: &mut LogStore) -> Held {
        let state = store.get_log_state().await.unwrap();
        let committed = store.read_committed().await.unwrap();
        let mut reader = store.get_log_reader().await;
        Held {
            vote: reader.read_vote().await.unwrap(),
            purged: state.last_purged_log_id,
            last: state.last_log_id,
            committed,
            entries: reader.try_get_log_entries(..).await.unwrap().into(),
        }
    }

    /// Whether this is what was `found`; the mark of what is committed may lag.
    pub(super) fn is(&self, found: &Held) -> bool {
        (self.vote, self.purged, self.last) == (found.vote, found.purged, found.last)
            && self.committed.max(self.purged) >= found.committed
            && self.entries == found.entries
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.last = Some(entry.log_id);
        self.entries.push_back(entry);
    }

    pub(super) fn take(&mut self, step: &Step) {
        match step {
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Append(entries) => entries.iter().cloned().for_each(|entry| self.push(entry)),
            Step::Commit(upto) => self.committed = Some(*upto),
            Step::TruncateAfter(keep) => {
                self.last = *keep;
                self.entries.retain(|entry| Some(entry.log_id) <= *keep);
            }
            Step::Purge(upto) => {
                self.purged = Some(*upto);
                self.last = self.last.max(Some(*upto));
                self.entries.retain(|entry| entry.log_id.index > upto.index);
            }
        }
    }
}

/// Draws steps and keeps what the log must hold after each.
pub(super) struct Plan {
    pub(super) held: Held,
    state: u64,
    /// As after a restart, or when another leader says otherwise.
    new_term: bool,
}

impl Plan {
    pub(super) fn new(seed: u64, held: Held) -> Plan {
        Plan { held, state: seed, new_term: true }
    }

    /// A number below `n`.
    fn draw(&mut self, n: u64) -> u64 {
        self.state = mixed(self.state);
        self.state % n
    }

    fn term(&self) -> u64 {
        self.held.vote.map_or(0, |vote| vote.leader_id.term)
    }

    pub(super) fn next(&mut self) -> Step {
        let step = self.choose();
        self.held.take(&step);
        step
    }

    fn choose(&mut self) -> Step {
        if std::mem::take(&mut self.new_term) {
            return Step::Vote(vote(self.term() + 1, 1, true));
        }
        let held = &self.held;
        let (purged, last) = (held.purged, held.last);
        if held.entries.len() > MOST {
            return Step::Purge(held.entries[held.entries.len() - KEPT].log_id);
        }
        let next = last.map_or(0, |last| last.index + 1);
        match self.draw(40) {
            0 => Step::Vote(vote(self.term() + 1, 1, true)),
            1 => {
                // As after an installed snapshot: beyond the last entry.
                let ahead = self.draw(5);
                Step::Purge(id(self.term(), next + ahead))
            }
            2..=5 if last > self.held.committed.max(purged) => self.truncation(),
            6..=12 if last > self.held.committed.max(purged) => Step::Commit(last.unwrap()),
            _ => {
                let count = 1 + self.draw(40);
                let entries = (next..next + count).map(|index| self.entry(index));
                Step::Append(entries.collect())
            }
        }
    }

    /// Takes back some of what is not committed. A new term follows.
    fn truncation(&mut self) -> Step {
        self.new_term = true;
        let floor = self.held.committed.max(self.held.purged);
        let back = self.draw(30) as usize;
        let keep = self.held.entries.iter().rev().nth(back + 1).map(|entry| entry.log_id);
        Step::TruncateAfter(keep.max(floor))
    }

    /// Lengths from a few bytes to some kilobytes, and no two entries alike.
    fn entry(&mut self, index: u64) -> Entry {
        let log_id = id(self.term(), index);
        let length = if self.draw(50) == 0 { 20_000 } else { 8 + self.draw(1500) as usize };
        let mut word = mixed(self.state ^ index);
        let mut data = Vec::with_capacity(length + 8);
        while data.len() < length {
            word = mixed(word);
            data.extend_from_slice(&word.to_be_bytes());
        }
        Entry { log_id, payload: openraft::EntryPayload::Normal(Data(data.into())) }
    }
}

/// splitmix64.
fn mixed(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
