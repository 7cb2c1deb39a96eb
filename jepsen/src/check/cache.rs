//! Cached answers (I7): never older than they say or than was asked for, never going back, and what they show is what the
//! directory was at their revision.
//!
//! Operations: `read`, of a user, asked with `max_stale_ms` and `min_revision` where they are wanted, answered with `revision`,
//! `staleness_ms` and the connections; besides whatever else tells revisions, and watches for what was true at them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::feed::{Log, Replay};
use super::known::Known;
use crate::history::{History, Operation};
use crate::verdict::{Anomaly, Checked};

/// Nanoseconds in a millisecond.
const MS: u64 = 1_000_000;

/// An answer, and what was asked.
#[derive(Clone, Copy)]
struct Read<'a> {
    operation: Operation<'a>,
    asked: &'a Value,
    answer: &'a Value,
    revision: u64,
    staleness_ms: u64,
    ended: u64,
    index: usize,
}

impl<'a> Read<'a> {
    fn of(operation: Operation<'a>) -> Option<Self> {
        let (answer, ended) = (operation.result()?, operation.ended?);
        let (revision, staleness_ms) = (answer["revision"].as_u64()?, answer["staleness_ms"].as_u64()?);
        let asked = &operation.invoked.value;
        Some(Self { operation, asked, answer, revision, staleness_ms, ended: ended.time, index: ended.index })
    }

    fn anomaly(&self, name: &str, what: String) -> Anomaly {
        Anomaly { name: name.to_owned(), what, events: vec![self.operation.invoked.index, self.index] }
    }

    fn process(&self) -> &'a str {
        self.asked["process"].as_str().unwrap_or_default()
    }
}

/// Judges the cached answers of a history.
pub fn check(history: &History) -> Checked {
    let operations = history.operations();
    let known = Known::of(&operations);
    let log = Log::of_history(history);
    let cached = operations.iter().filter(|operation| operation.f() == "read");
    let reads: Vec<Read<'_>> = cached.clone().filter_map(|operation| Read::of(*operation)).collect();
    let refused = cached.count() - reads.len();
    let mut anomalies: Vec<Anomaly> = reads.iter().flat_map(|read| age(read, &known)).collect();
    anomalies.extend(going_back(&reads, history));
    let (compared, wrong) = contents(&reads, &log);
    anomalies.extend(wrong);
    let oldest = reads.iter().map(|read| read.staleness_ms).max().unwrap_or(0);
    let aged = reads.iter().filter(|read| read.staleness_ms > 0).count();
    let summary = format!("{} cached answers, the oldest {oldest} ms old, {refused} refused.", reads.len());
    Checked::new("cache", &["I7"], summary, anomalies)
        .at_least("cached answers", 300, reads.len())
        .at_least("cached answers compared with the watch", 300, compared)
        .figure("refused", refused)
        .figure("with an age", aged)
        .figure("oldest_ms", oldest)
}

/// What was committed before the moment that the answer claims to show must be in it.
fn age(read: &Read<'_>, known: &Known) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let (asked, revision, stale) = (read.asked, read.revision, read.staleness_ms);
    let shown = read.operation.began().saturating_sub(stale * MS);
    let must = known.before(shown);
    if revision < must {
        let what = format!(
            "{} answered at {revision}, at most {stale} ms old; {must} was known {} ms before that",
            read.process(),
            read.operation.began().saturating_sub(shown) / MS,
        );
        found.push(read.anomaly("older than it says", what));
    }
    if let Some(limit) = asked["max_stale_ms"].as_u64().filter(|limit| stale > *limit) {
        found.push(read.anomaly("older than was asked for", format!("{stale} ms, and at most {limit} were asked for")));
    }
    if let Some(least) = asked["min_revision"].as_u64().filter(|least| revision < *least) {
        found.push(read.anomaly("older than was asked for", format!("at {revision}, and {least} was asked for")));
    }
    found
}

/// Faults whose names begin so leave processes running.
const LEAVES_RUNNING: [&str; 11] =
    ["pause", "partition", "packets", "loss", "delay", "reorder", "duplicate", "link", "clock", "transfer", "snapshot"];

/// From when to when processes may have been started again, with the text that names them.
fn restarts(history: &History) -> Vec<(u64, u64, String)> {
    let faults = history.faults();
    let restarts = faults
        .iter()
        .filter(|fault| !fault.f().ends_with("-end") && !LEAVES_RUNNING.iter().any(|name| fault.f().starts_with(name)));
    let of = |fault: &Operation<'_>| {
        let end = format!("{}-end", fault.f());
        let healed = faults.iter().find(|other| other.f() == end && other.began() > fault.began());
        let until = healed.and_then(Operation::known).unwrap_or(u64::MAX);
        (fault.began(), until, fault.ended.map_or(String::new(), |ended| ended.value.to_string()))
    };
    restarts.map(of).collect()
}

/// One process never shows an older state than it did before, unless it was started again in between.
fn going_back(reads: &[Read<'_>], history: &History) -> Vec<Anomaly> {
    let restarts = restarts(history);
    let mut by_process: BTreeMap<&str, Vec<&Read<'_>>> = BTreeMap::new();
    for read in reads {
        by_process.entry(read.process()).or_default().push(read);
    }
    let mut found = Vec::new();
    for (process, mut reads) in by_process {
        reads.sort_by_key(|read| read.ended);
        let mut begun: Vec<&Read<'_>> = reads.clone();
        begun.sort_by_key(|read| read.operation.began());
        let mut ended = reads.into_iter().peekable();
        let mut newest: Option<&Read<'_>> = None;
        for read in begun {
            while let Some(former) = ended.next_if(|former| former.ended < read.operation.began()) {
                newest = newest.filter(|newest| newest.revision >= former.revision).or(Some(former));
            }
            let Some(former) = newest.filter(|newest| newest.revision > read.revision) else { continue };
            let named = format!("\"{process}\"");
            let restarted = restarts.iter().any(|(from, to, what)| {
                what.contains(&named) && *from <= read.ended && *to >= former.operation.began()
            });
            if !restarted {
                let what = format!("{process} answered at {} and then at {}", former.revision, read.revision);
                found.push(read.anomaly("goes back", what));
            }
        }
    }
    found
}

/// What the answers show, compared with what the changes make of the directory; also how many could be compared.
fn contents(reads: &[Read<'_>], log: &Log<'_>) -> (usize, Vec<Anomaly>) {
    let complete = log.complete_to();
    let mut reads: Vec<&Read<'_>> = reads.iter().filter(|read| read.revision <= complete).collect();
    reads.sort_by_key(|read| read.revision);
    let mut replay = Replay::new(log);
    let mut found = Vec::new();
    for read in &reads {
        let state = replay.to(read.revision);
        let user = read.operation.key();
        let held = state.connections.iter().filter(|(_, connection)| connection.user == user).map(|(id, _)| *id);
        let held: BTreeSet<&str> = held.collect();
        let shown = read.answer["connections"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let shown: BTreeSet<&str> = shown.collect();
        if held != shown {
            let what = format!("{} showed {shown:?} of {user} at {}; it was {held:?}", read.process(), read.revision);
            found.push(read.anomaly("not what it was", what));
        }
    }
    (reads.len(), found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::told::Told;
    use crate::history::{Event, Kind, Nemesis, Process};

    fn write(told: Told, at_ms: (u64, u64), revision: u64) -> Told {
        told.ok(at_ms, ("batch", "s-1"), json!({}), json!({ "revision": revision }))
    }

    fn read(told: Told, at_ms: (u64, u64), revision: u64, staleness_ms: u64, asked: Value) -> Told {
        let answer = json!({ "revision": revision, "staleness_ms": staleness_ms, "connections": [] });
        let mut asked = asked;
        asked["process"] = json!("gw-1");
        told.ok(at_ms, ("read", "a"), asked, answer)
    }

    fn names(history: &History) -> Vec<String> {
        check(history).anomalies.into_iter().map(|anomaly| anomaly.name).collect()
    }

    #[test]
    fn an_answer_that_is_older_than_it_says_is_found() {
        let told = write(Told::default(), (100, 200), 7);
        let at = |staleness_ms: u64| names(&read(told.clone(), (500, 510), 6, staleness_ms, json!({})).history());
        assert_eq!(at(300), [""; 0], "it may show the state before the write was answered");
        assert_eq!(at(299), ["older than it says"]);
        assert_eq!(names(&read(told.clone(), (150, 210), 6, 0, json!({})).history()), [""; 0], "both at once");
        let other = read(read(Told::default(), (1, 2), 9, 5, json!({})), (3, 4), 8, 0, json!({}));
        assert!(names(&other.history()).contains(&"older than it says".to_owned()), "what was read is known, too");
    }

    #[test]
    fn an_answer_that_is_older_than_was_asked_for_is_found() {
        let asked = |asked: Value| names(&read(Told::default(), (500, 510), 6, 40, asked).history());
        assert_eq!(asked(json!({ "max_stale_ms": 40, "min_revision": 6 })), [""; 0]);
        assert_eq!(asked(json!({ "max_stale_ms": 39 })), ["older than was asked for"]);
        assert_eq!(asked(json!({ "min_revision": 7 })), ["older than was asked for"]);
    }

    #[test]
    fn a_process_that_goes_back_is_found_unless_it_was_started_again() {
        let told = read(read(Told::default(), (1, 2), 9, 1000, json!({})), (5, 6), 8, 1000, json!({}));
        let mut history = told.history();
        assert_eq!(names(&history), ["goes back"]);
        let fault = |kind, value| Event {
            index: 2,
            time: 3_000_000,
            process: Process::Nemesis(Nemesis::Nemesis),
            kind,
            f: "kill".to_owned(),
            key: None,
            value,
            error: None,
        };
        history.events.insert(2, fault(Kind::Invoke, Value::Null));
        history.events.insert(3, fault(Kind::Ok, json!(["gw-1"])));
        assert_eq!(names(&history), [""; 0]);
        history.events[3].value = json!(["gw-2"]);
        assert_eq!(names(&history), ["goes back"], "another one was");
        for event in &mut history.events[2..4] {
            event.f = "partition-half".to_owned();
        }
        history.events[3].value = json!(["gw-1"]);
        assert_eq!(names(&history), ["goes back"], "that leaves it running");
    }

    #[test]
    fn an_answer_that_was_never_true_is_found() {
        let opened = json!({ "revision": 3, "n": 0, "type": "connection.opened", "connection": "c-1-1", "user": "a", "granted": 3 });
        let lines = json!({ "lines": [opened, { "revision": 6, "type": "progress" }] });
        let told = Told::default().ok((0, 9), ("watch", "w"), json!({ "from": "0" }), lines);
        assert_eq!(names(&read(told.clone(), (500, 510), 2, 1000, json!({})).history()), [""; 0]);
        assert_eq!(names(&read(told, (500, 510), 5, 1000, json!({})).history()), ["not what it was"]);
    }
}
