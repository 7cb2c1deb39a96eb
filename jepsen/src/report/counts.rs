//! How much happened, by name and outcome; what tables of runs are made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bands;
use crate::history::{History, Kind, Operation};

/// No answer crosses a socket so fast, nanoseconds: what took less was noted without having been asked for.
const AT_ONCE: u64 = 50_000;

/// Counts of a whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// From the beginning to the last event, seconds.
    pub seconds: f64,
    /// Operations of clients, by name.
    pub operations: BTreeMap<String, Ended>,
    /// Faults that were injected, by name.
    pub faults: BTreeMap<String, u64>,
}

/// How operations ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// They happened.
    pub ok: u64,
    /// They did not.
    pub fail: u64,
    /// Nobody knows.
    pub info: u64,
    /// Noted without having been asked for; they count nowhere else.
    pub seen: u64,
}

impl Ended {
    /// What was asked for, however it ended.
    pub fn asked(self) -> u64 {
        self.ok + self.fail + self.info
    }

    fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.fail += other.fail;
        self.info += other.info;
        self.seen += other.seen;
    }
}

impl Counts {
    /// Of a history.
    pub fn of(history: &History) -> Self {
        let mut counts = Self { seconds: seconds(bands::end_of(history)), ..Self::default() };
        for operation in history.operations() {
            let ended = counts.operations.entry(operation.f().to_owned()).or_default();
            match operation.kind() {
                _ if was_seen(&operation) => ended.seen += 1,
                Kind::Ok => ended.ok += 1,
                Kind::Fail => ended.fail += 1,
                Kind::Info | Kind::Invoke => ended.info += 1,
            }
        }
        for band in bands::bands(history) {
            *counts.faults.entry(band.fault).or_default() += 1;
        }
        counts
    }

    /// All names together.
    pub fn all(&self) -> Ended {
        let mut all = Ended::default();
        self.operations.values().for_each(|ended| all.add(*ended));
        all
    }
}

/// Whether it was noted without having been asked for; such an operation has no latency.
pub(super) fn was_seen(operation: &Operation<'_>) -> bool {
    let next = |ended: &&crate::history::Event| {
        ended.kind == Kind::Ok && ended.index == operation.invoked.index + 1 && ended.time - operation.began() < AT_ONCE
    };
    operation.invoked.value.is_null() && operation.ended.as_ref().is_some_and(next)
}

/// Of nanoseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "a run is shorter than the hundred days from which on nanoseconds are lost"
)]
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
