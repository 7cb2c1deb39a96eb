//! What is known of sessions: the live ones with their window of numbered batches, the ended ones that still hold
//! memory, and which process a gateway's name belongs to.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::Reason;
use super::ids::{Epoch, Serial};
use super::limits::BATCHES_IN_FLIGHT_MAX;
use super::outcome::{BatchDone, BatchRefused, Connection, Session};

/// A session that is alive.
#[derive(Debug, Clone)]
pub(super) struct Alive {
    pub(super) session: Arc<Session>,
    /// Connections that it holds.
    pub(super) connections: u64,
    /// Those of them that claim something for themselves alone.
    pub(super) exclusive: u64,
    /// Topics of which it has subscribers.
    pub(super) topics: u64,
    /// The largest serial that it asked for.
    pub(super) last_serial: Option<Serial>,
    pub(super) window: Window,
}

impl Alive {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self { session, connections: 0, exclusive: 0, topics: 0, last_serial: None, window: Window::default() }
    }
}

/// A session that is over and still holds memory.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) session: Arc<Session>,
    pub(super) reason: Reason,
    /// Connections that are still held.
    pub(super) held: u64,
    /// Whether its exclusive connections keep their claims, because they may still be served.
    pub(super) claims: bool,
}

/// By how much the connections of sessions change in one entry.
#[derive(Debug, Default)]
pub(super) struct Counts(Vec<(Epoch, Change)>);

/// By how much those of one session do.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Change {
    pub(super) connections: i64,
    pub(super) exclusive: i64,
}

impl Counts {
    pub(super) fn opened(&mut self, epoch: Epoch, connection: &Connection) {
        self.add(epoch, connection, 1);
    }

    pub(super) fn closed(&mut self, epoch: Epoch, connection: &Connection) {
        self.add(epoch, connection, -1);
    }

    fn add(&mut self, epoch: Epoch, connection: &Connection, by: i64) {
        let at = self.0.iter().position(|(of, _)| *of == epoch).unwrap_or_else(|| {
            self.0.push((epoch, Change::default()));
            self.0.len() - 1
        });
        let change = &mut self.0[at].1;
        change.connections += by;
        change.exclusive += if connection.claim.is_some() { by } else { 0 };
    }

    pub(super) fn changes(self) -> impl Iterator<Item = (Epoch, Change)> {
        self.0.into_iter()
    }
}

/// The process that opened the latest session under a gateway's name. Outlives the session, to recognise late copies of
/// its requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Incumbent {
    pub(super) nonce: Arc<str>,
    pub(super) attempt: u64,
    pub(super) epoch: Epoch,
}

/// The numbered batches of a session: the outcomes of the latest, and so what the next has to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    /// Number of the latest; 0 before the first.
    last: u64,
    /// Those up to `last`, oldest first, at most [`BATCHES_IN_FLIGHT_MAX`].
    done: VecDeque<BatchDone>,
}

impl Window {
    /// Number of the latest batch; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The outcomes that are held, oldest first.
    pub(super) fn done(&self) -> impl Iterator<Item = &BatchDone> {
        self.done.iter()
    }

    /// The answer to a batch that is not the next one, `None` if it is.
    pub(super) fn answer(&self, seq: u64) -> Option<Result<BatchDone, BatchRefused>> {
        let expected = self.last + 1;
        // `last` batches were applied, so it is not less than the number of those held.
        let oldest = expected - self.done.len() as u64;
        match seq {
            seq if seq == expected => None,
            seq if seq > expected => Some(Err(BatchRefused::Gap { expected })),
            seq if seq < oldest || self.done.is_empty() => Some(Err(BatchRefused::TooOld { oldest })),
            seq => Some(Ok(self.done[(seq - oldest) as usize].clone())),
        }
    }

    /// Notes the outcome of the next batch.
    pub(super) fn push(&mut self, done: BatchDone) {
        if self.done.len() == BATCHES_IN_FLIGHT_MAX {
            self.done.pop_front();
        }
        self.done.push_back(done);
        self.last += 1;
    }

    /// A window whose latest batch has this number, before [`Self::restore`] gave it the outcomes.
    pub(super) fn ending_at(last: u64) -> Self {
        Self { last, done: VecDeque::new() }
    }

    /// Gives back the outcomes that it held, oldest first.
    pub(super) fn restore(&mut self, done: BatchDone) {
        self.done.push_back(done);
    }

    /// Whether it can have come about by applying batches.
    pub(super) fn is_plausible(&self) -> bool {
        self.last < u64::MAX && self.done.len() as u64 == self.last.min(BATCHES_IN_FLIGHT_MAX as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(revision: u64) -> BatchDone {
        BatchDone { revision, ops: Arc::new([]) }
    }

    #[test]
    fn the_window_answers_the_latest_batches_and_refuses_the_rest() {
        let mut window = Window::default();
        assert_eq!(window.answer(0), Some(Err(BatchRefused::TooOld { oldest: 1 })));
        assert_eq!(window.answer(2), Some(Err(BatchRefused::Gap { expected: 1 })));
        let size = BATCHES_IN_FLIGHT_MAX as u64;
        for seq in 1..=size + 1 {
            assert_eq!(window.answer(seq), None);
            window.push(done(100 + seq));
            assert!(window.is_plausible());
        }
        assert_eq!(window.answer(1), Some(Err(BatchRefused::TooOld { oldest: 2 })));
        assert_eq!(window.answer(2), Some(Ok(done(102))));
        assert_eq!(window.answer(size + 1), Some(Ok(done(101 + size))));
        assert_eq!(window.answer(u64::MAX), Some(Err(BatchRefused::Gap { expected: size + 2 })));
    }
}
