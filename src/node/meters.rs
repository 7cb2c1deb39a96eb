//! Figures that are counted as things happen: the operations that this node proposed, and the watches that it serves.

use std::sync::Arc;

use metrics::{Counter, Gauge, gauge};

use crate::directory::{Command, Entry, Op, OpOutcome, OpRefused, Outcome};

/// Counters of `switchboard_ops_total`, looked up once.
#[derive(Debug)]
pub(super) struct OpMeters {
    register: [Counter; 5],
    unregister: Counter,
    meta: [Counter; 2],
    topics: [Counter; 2],
    takeovers: Counter,
    fenced: Counter,
}

impl OpMeters {
    pub(super) fn new(process: &Arc<str>) -> Self {
        let counter = |op: &'static str, result: &'static str| metrics::counter!("switchboard_ops_total", "process" => Arc::clone(process), "op" => op, "result" => result);
        Self {
            register: ["ok", "pending", "limit", "conflict", "refused"].map(|result| counter("register", result)),
            unregister: counter("unregister", "ok"),
            meta: [counter("meta", "ok"), counter("meta", "refused")],
            topics: [counter("topics", "ok"), counter("topics", "refused")],
            takeovers: metrics::counter!("switchboard_takeovers_total", "process" => Arc::clone(process)),
            fenced: counter("batch", "refused"),
        }
    }

    /// Counts the operations of an entry.
    pub(super) fn count(&self, entry: &Entry, outcomes: &[Outcome]) {
        for (command, outcome) in entry.commands.iter().zip(outcomes) {
            match (command, outcome) {
                (Command::Batch(batch), Outcome::Batch(Ok(done))) => {
                    for (op, outcome) in batch.ops.iter().zip(done.ops.iter()) {
                        self.count_op(op, outcome);
                    }
                }
                (Command::Batch(_), _) => self.fenced.increment(1),
                _ => {}
            }
        }
    }

    fn count_op(&self, op: &Op, outcome: &OpOutcome) {
        let counter = match (op, outcome) {
            (Op::Register(_), OpOutcome::Pending) => &self.register[1],
            (Op::Register(_), OpOutcome::Refused(OpRefused::ConnectionLimit { .. })) => &self.register[2],
            (Op::Register(_), OpOutcome::Refused(OpRefused::Conflict { .. })) => &self.register[3],
            (Op::Register(_), OpOutcome::Refused(_)) => &self.register[4],
            (Op::Register(_), _) => &self.register[0],
            (Op::Unregister { .. }, _) => &self.unregister,
            (Op::Meta { .. }, OpOutcome::Refused(_)) => &self.meta[1],
            (Op::Meta { .. }, _) => &self.meta[0],
            (Op::Join { .. } | Op::Leave { .. }, OpOutcome::Refused(_)) => &self.topics[1],
            (Op::Join { .. } | Op::Leave { .. }, _) => &self.topics[0],
        };
        counter.increment(1);
        // A newcomer that waits takes the place over, too, unless another one comes in between.
        if matches!(outcome, OpOutcome::Pending)
            || matches!(outcome, OpOutcome::Registered { superseded, .. } if !superseded.is_empty())
        {
            self.takeovers.increment(1);
        }
    }
}

/// Counts a watch for as long as it is served.
pub(super) struct Watching(Gauge);

impl Watching {
    pub(super) fn begin(process: &Arc<str>) -> Self {
        let watchers = gauge!("switchboard_watchers", "process" => Arc::clone(process));
        watchers.increment(1.0);
        Self(watchers)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
