//! Faults as intervals of time.

use serde_json::Value;

use crate::history::{History, Kind, Operation};
use crate::nemesis::FAULTS;

/// A fault that nobody gave a colour.
const GREY: &str = "#C8C8C8";

/// What heals a fault is called like the fault, with this behind.
const END: &str = "-end";

/// From when something began to break until it was healed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Band {
    /// Name of the fault.
    pub(super) fault: String,
    /// As CSS spells it.
    pub(super) colour: &'static str,
    /// What exactly was broken.
    pub(super) what: Value,
    /// Index of the event with which it begins.
    pub(super) event: usize,
    /// Nanoseconds since the run began.
    pub(super) begin: u64,
    /// The same; the end of the history for what was never healed.
    pub(super) end: u64,
}

/// Colour of a fault.
fn colour(fault: &str) -> &'static str {
    FAULTS.iter().find(|known| known.name == fault).map_or(GREY, |known| known.colour)
}

/// When the last event was noted.
pub(super) fn end_of(history: &History) -> u64 {
    history.events.last().map_or(0, |event| event.time)
}

/// Faults in the order in which they began. One that was not injected makes no band; one of which nobody knows makes one.
pub(super) fn bands(history: &History) -> Vec<Band> {
    let over = end_of(history);
    let mut bands: Vec<Band> = Vec::new();
    for operation in history.faults() {
        if let Some(fault) = operation.f().strip_suffix(END) {
            let healed = operation.ended.map_or(over, |ended| ended.time);
            let open = bands.iter_mut().filter(|band| band.fault == fault && band.end == u64::MAX);
            open.for_each(|band| band.end = healed);
        } else if operation.kind() != Kind::Fail {
            bands.push(begun(&operation));
        }
    }
    bands.iter_mut().for_each(|band| band.end = band.end.min(over));
    bands
}

fn begun(operation: &Operation<'_>) -> Band {
    Band {
        fault: operation.f().to_owned(),
        colour: colour(operation.f()),
        what: operation.ended.map_or(Value::Null, |ended| ended.value.clone()),
        event: operation.invoked.index,
        begin: operation.began(),
        end: u64::MAX,
    }
}

/// Faults that were not injected, and why: index and time of the event, name, reason.
pub(super) fn skipped(history: &History) -> Vec<(usize, u64, String, Value)> {
    let faults = history.faults().into_iter().filter(|operation| operation.kind() == Kind::Fail);
    let told = faults.filter_map(|fault| {
        let ended = fault.ended?;
        Some((fault.invoked.index, ended.time, fault.f().to_owned(), ended.value.clone()))
    });
    told.collect()
}

/// Intervals in which at least one fault was there, joined and in order.
pub(super) fn joined(bands: &[Band]) -> Vec<(u64, u64)> {
    let mut sorted: Vec<(u64, u64)> = bands.iter().map(|band| (band.begin, band.end)).collect();
    sorted.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (begin, end) in sorted {
        match joined.last_mut().filter(|last| begin <= last.1) {
            Some(last) => last.1 = last.1.max(end),
            None => joined.push((begin, end)),
        }
    }
    joined
}
