//! Histories as tests of checkers tell them: operation by operation, in any order.

use serde_json::Value;

use crate::history::{Event, History, Kind, Process};

/// A history that is being told.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    events: Vec<Event>,
    processes: u32,
}

impl Told {
    /// An operation, with the milliseconds at which it began and ended, each by a client of its own.
    pub(super) fn operation(
        mut self,
        at_ms: (u64, u64),
        (f, key): (&str, &str),
        asked: Value,
        end: (Kind, Value),
    ) -> Self {
        self.processes += 1;
        for (ms, kind, value) in [(at_ms.0, Kind::Invoke, asked), (at_ms.1, end.0, end.1)] {
            self.events.push(Event {
                index: 0,
                time: ms * 1_000_000,
                process: Process::Client(self.processes),
                kind,
                f: f.to_owned(),
                key: Some(key.to_owned()),
                value,
                error: None,
            });
        }
        self
    }

    /// As [`Self::operation`], one that happened.
    pub(super) fn ok(self, at_ms: (u64, u64), what: (&str, &str), asked: Value, result: Value) -> Self {
        self.operation(at_ms, what, asked, (Kind::Ok, result))
    }

    /// In the order of time.
    pub(super) fn history(mut self) -> History {
        self.events.sort_by_key(|event| event.time);
        for (index, event) in self.events.iter_mut().enumerate() {
            event.index = index;
        }
        History { events: self.events }
    }
}
