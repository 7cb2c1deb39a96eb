//! Topics: a session joins and leaves them, and the feed tells its first and last subscriber of each exactly once; lookups and lists
//! show what the changes make of the directory.
//!
//! Operations: `batch`, with `join` and `leave`; `topic`, a lookup; `top`, a list, asked with `prefix` and `limit`; watches.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::feed::{Log, Replay, State};
use super::known::Known;
use crate::history::{History, Operation};
use crate::verdict::{Anomaly, Checked};

/// Judges the topics of a history.
pub fn check(history: &History) -> Checked {
    let operations = history.operations();
    let log = Log::of_history(history);
    let (changes, mut anomalies) = told(&operations, &log);
    anomalies.extend(left_behind(&log));
    let (lookups, wrong) = shown(&operations, &log);
    anomalies.extend(wrong);
    let summary = format!("{changes} changes of topics were acknowledged, {lookups} answers compared with the watch.");
    Checked::new("topics", &["I6", "I12"], summary, anomalies)
        .at_least("acknowledged changes of topics", 200, changes)
        .at_least("answers about topics", 200, lookups)
}

fn anomaly(name: &str, what: String, events: Vec<usize>) -> Anomaly {
    Anomaly { name: name.to_owned(), what, events }
}

/// What happened to a topic of a session: whether it joined, and the topic.
type Change<'a> = (bool, &'a str);

/// What acknowledged batches must have told, once each, and nothing else; how many changes there were. A session does one batch
/// at a time; where the outcome of one is not known nothing is said about the session from then on.
fn told(operations: &[Operation<'_>], log: &Log<'_>) -> (usize, Vec<Anomaly>) {
    let mut seen: BTreeMap<u64, BTreeMap<u64, Vec<Change<'_>>>> = BTreeMap::new();
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    for ((revision, _), (change, _)) in &log.changes {
        let (Some(kind), Some(epoch)) = (change["type"].as_str(), change["epoch"].as_u64()) else { continue };
        match (kind, change["topic"].as_str()) {
            ("gateway.down", _) => drop(ends.insert(epoch, *revision)),
            ("topic.joined" | "topic.left", Some(topic)) => {
                let of_session = seen.entry(epoch).or_default();
                of_session.entry(*revision).or_default().push((kind == "topic.joined", topic));
            }
            _ => {}
        }
    }
    let mut sessions: BTreeMap<u64, Session<'_>> = BTreeMap::new();
    let mut found = Vec::new();
    let mut count = 0;
    for batch in operations.iter().filter(|operation| operation.f() == "batch") {
        let Some(epoch) = batch.invoked.value["epoch"].as_u64() else { continue };
        let session = sessions.entry(epoch).or_default();
        let Some((revision, expected)) = session.batch(batch) else { continue };
        count += expected.len();
        if revision > log.complete_to() {
            continue;
        }
        let told = seen.get(&epoch).and_then(|told| told.get(&revision)).cloned().unwrap_or_default();
        if told != expected {
            let what = format!("session {epoch} did {expected:?} at {revision}, and the watch shows {told:?}");
            found.push(anomaly("topics and watch differ", what, batch.ended.iter().map(|e| e.index).collect()));
        }
    }
    for (epoch, session) in sessions.iter().filter(|(_, session)| !session.unsure) {
        for (revision, told) in seen.get(epoch).into_iter().flatten() {
            if !session.revisions.contains(revision) && ends.get(epoch) != Some(revision) {
                let what = format!("session {epoch} did nothing at {revision}, and the watch shows {told:?}");
                found.push(anomaly("topics and watch differ", what, Vec::new()));
            }
        }
    }
    (count, found)
}

/// A session as its own batches make it.
#[derive(Default)]
struct Session<'a> {
    joined: BTreeSet<&'a str>,
    revisions: BTreeSet<u64>,
    unsure: bool,
}

impl<'a> Session<'a> {
    /// What a batch must have told, and at which revision; `None` if that can't be said.
    fn batch(&mut self, batch: &Operation<'a>) -> Option<(u64, Vec<Change<'a>>)> {
        self.unsure |= batch.known().is_none();
        let result = batch.result().filter(|_| !self.unsure)?;
        let revision = result["revision"].as_u64()?;
        self.revisions.insert(revision);
        let mut expected = Vec::new();
        for (nth, op) in batch.invoked.value["ops"].as_array()?.iter().enumerate() {
            let joins = op["op"] == "join";
            if !(joins || op["op"] == "leave") || result["results"][nth]["ok"] != true {
                continue;
            }
            for topic in op["topics"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let changed = if joins { self.joined.insert(topic) } else { self.joined.remove(topic) };
                expected.extend(changed.then_some((joins, topic)));
            }
        }
        Some((revision, expected))
    }
}

/// A session that ended has left all topics at that very revision.
fn left_behind(log: &Log<'_>) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let mut topics: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    let mut ended: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    for ((revision, _), (change, event)) in log.changes.iter().filter(|((at, _), _)| *at <= log.complete_to()) {
        let (Some(kind), Some(epoch)) = (change["type"].as_str(), change["epoch"].as_u64()) else { continue };
        let topic = change["topic"].as_str().unwrap_or_default();
        match kind {
            "gateway.down" => drop(ended.insert(epoch, (*revision, *event))),
            "topic.joined" => drop(topics.entry(epoch).or_default().insert(topic)),
            "topic.left" if ended.get(&epoch).is_none_or(|(end, _)| end == revision) => {
                topics.entry(epoch).or_default().remove(topic);
            }
            _ => {}
        }
    }
    for (epoch, (revision, event)) in ended {
        if let Some(left) = topics.get(&epoch).filter(|topics| !topics.is_empty()) {
            let what = format!("session {epoch} ended at {revision} and has not left {left:?}");
            found.push(anomaly("left behind", what, vec![event]));
        }
    }
    found
}

/// Lookups and lists against the changes, and against what was known when they were asked; how many there were.
fn shown(operations: &[Operation<'_>], log: &Log<'_>) -> (usize, Vec<Anomaly>) {
    let known = Known::of(operations);
    let asked = operations.iter().filter(|operation| matches!(operation.f(), "topic" | "top"));
    let mut answers: Vec<(u64, &Operation<'_>, &Value)> = asked
        .filter_map(|operation| Some((operation.result()?["revision"].as_u64()?, operation, operation.result()?)))
        .collect();
    answers.sort_by_key(|(revision, ..)| *revision);
    let mut replay = Replay::new(log);
    let mut found = Vec::new();
    let mut compared = 0;
    for (revision, operation, answer) in &answers {
        let events: Vec<usize> = operation.ended.iter().map(|ended| ended.index).collect();
        let must = known.before(operation.began());
        if *revision < must {
            let what = format!("{} was answered at {revision}, when {must} was known", operation.key());
            found.push(anomaly("stale topics", what, events.clone()));
        }
        if *revision > log.complete_to() {
            continue;
        }
        compared += 1;
        let state = replay.to(*revision);
        let expected = match operation.f() {
            "topic" => lookup(state, operation.key()),
            _ => list(state, &operation.invoked.value),
        };
        let differs = expected.as_object().into_iter().flatten().any(|(name, value)| answer[name] != *value);
        if differs {
            let what = format!("{} at {revision} was answered as {answer}; it was {expected}", operation.key());
            found.push(anomaly("wrong topics", what, events));
        }
    }
    (compared, found)
}

/// A gateway whose subscribers can't be asked for counts as one.
fn lookup(state: &State<'_>, topic: &str) -> Value {
    let gateways = state.topics.get(topic).cloned().unwrap_or_default();
    serde_json::json!({ "connections": gateways.len(), "gateways": gateways })
}

/// The most subscribed ones first, then by name.
fn list(state: &State<'_>, asked: &Value) -> Value {
    let prefix = asked["prefix"].as_str().unwrap_or_default();
    let held = state.topics.iter().filter(|(topic, gateways)| topic.starts_with(prefix) && !gateways.is_empty());
    let mut held: Vec<(usize, &str)> = held.map(|(topic, gateways)| (gateways.len(), *topic)).collect();
    held.sort_by_key(|(count, topic)| (std::cmp::Reverse(*count), *topic));
    held.truncate(asked["limit"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX));
    let shown = |(count, topic)| serde_json::json!({ "topic": topic, "connections": count, "gateways": count });
    serde_json::json!({ "topics": held.into_iter().map(shown).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::told::Told;

    fn change(revision: u64, n: u64, kind: &str, topic: &str) -> Value {
        json!({ "revision": revision, "n": n, "type": kind, "topic": topic, "gateway": "gw", "epoch": 1 })
    }

    fn watched(lines: &[Value]) -> Told {
        let mut lines = lines.to_vec();
        lines.push(json!({ "revision": 9, "type": "progress" }));
        Told::default().ok((0, 9), ("watch", "w"), json!({ "from": "0" }), json!({ "lines": lines }))
    }

    fn batch(told: Told, op: &str, topics: &[&str], revision: u64) -> Told {
        let asked = json!({ "epoch": 1, "ops": [{ "op": op, "topics": topics }] });
        told.ok(
            (revision, revision),
            ("batch", "s-1"),
            asked,
            json!({ "revision": revision, "results": [{ "ok": true }] }),
        )
    }

    fn names(told: Told) -> Vec<String> {
        check(&told.history()).anomalies.into_iter().map(|anomaly| anomaly.name).collect()
    }

    #[test]
    fn first_and_last_subscribers_are_told_once() {
        let (joined, left) = (change(2, 0, "topic.joined", "t"), change(4, 0, "topic.left", "t"));
        let acts = |told| batch(batch(batch(told, "join", &["t"], 2), "join", &["t"], 3), "leave", &["t", "u"], 4);
        assert_eq!(names(acts(watched(&[joined.clone(), left.clone()]))), [""; 0]);
        assert_eq!(
            names(acts(watched(std::slice::from_ref(&joined)))),
            ["topics and watch differ"],
            "nobody told the last"
        );
        let again = change(3, 0, "topic.joined", "t");
        assert_eq!(names(acts(watched(&[joined.clone(), again, left.clone()]))), ["topics and watch differ"]);
        let nobodys = change(7, 0, "topic.joined", "u");
        assert_eq!(names(acts(watched(&[joined, left, nobodys]))), ["topics and watch differ"]);
    }

    #[test]
    fn a_session_that_ends_leaves_everything() {
        let joined = change(2, 0, "topic.joined", "t");
        let down = json!({ "revision": 5, "n": 0, "type": "gateway.down", "gateway": "gw", "epoch": 1 });
        let told = batch(watched(&[joined.clone(), down.clone(), change(5, 1, "topic.left", "t")]), "join", &["t"], 2);
        assert_eq!(names(told), [""; 0]);
        assert_eq!(names(batch(watched(&[joined, down]), "join", &["t"], 2)), ["left behind"]);
    }

    #[test]
    fn answers_that_are_wrong_or_stale_are_found() {
        let told = watched(&[change(2, 0, "topic.joined", "t"), change(2, 1, "topic.joined", "u")]);
        let told = batch(told, "join", &["t", "u"], 2);
        let look =
            |at_ms: u64, answer: Value| names(told.clone().ok((at_ms, at_ms + 1), ("topic", "t"), json!({}), answer));
        assert_eq!(look(20, json!({ "revision": 2, "connections": 1, "gateways": ["gw"] })), [""; 0]);
        assert_eq!(look(20, json!({ "revision": 2, "connections": 0, "gateways": [] })), ["wrong topics"]);
        assert_eq!(look(20, json!({ "revision": 1, "connections": 0, "gateways": [] })), ["stale topics"]);
        let top = |limit: u64, topics: &[&str]| {
            let topics: Vec<Value> =
                topics.iter().map(|topic| json!({ "topic": topic, "connections": 1, "gateways": 1 })).collect();
            let answer = json!({ "revision": 3, "topics": topics });
            names(told.clone().ok((20, 21), ("top", ""), json!({ "prefix": "", "limit": limit }), answer))
        };
        assert_eq!((top(5, &["t", "u"]), top(1, &["t"])), (vec![], vec![]));
        assert_eq!(
            (top(5, &["u", "t"]), top(5, &["t"])),
            (vec!["wrong topics".to_owned()], vec!["wrong topics".to_owned()])
        );
    }
}
