//! Pushes: what was acknowledged reached a socket of the named connection and no other, once and in order (I8); who is called
//! offline was (I9).
//!
//! Operations: `connect` of a user, answered with the welcome, the number of the `socket` and its connection; `frame`, a push as
//! it came to a socket under the connection that it was then; `barrier`, a question and its answer on a socket: what was written to it
//! before the question was asked came before the answer; `push`, with its caller, its items and what became of each.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::feed::Log;
use super::known::Known;
use crate::history::{History, Operation};
use crate::verdict::{Anomaly, Checked};

/// A push as it came.
struct Frame<'a> {
    user: &'a str,
    socket: u64,
    connection: &'a str,
    id: &'a str,
    index: usize,
}

/// One item of a push that was answered.
struct Item<'a> {
    id: &'a str,
    /// Whom it was for, either of both.
    user: Option<&'a str>,
    connection: Option<&'a str>,
    result: Option<&'a Value>,
    caller: u64,
    began: u64,
    /// When it was answered, and by which event.
    answered: Option<u64>,
    index: usize,
    ack: &'a str,
}

/// Connections that it was acknowledged for.
fn reached<'a>(item: &Item<'a>) -> Vec<(&'a str, &'a str)> {
    let results = item.result.and_then(|result| result["results"].as_array()).into_iter().flatten();
    let reached = results.filter_map(|result| Some((result["connection"].as_str()?, result["status"].as_str()?)));
    reached.filter(|(_, status)| matches!(*status, "acked" | "written")).collect()
}

/// All that happened.
struct Story<'a> {
    frames: Vec<Frame<'a>>,
    items: Vec<Item<'a>>,
    /// When the last barrier of each socket began that was answered.
    barriers: BTreeMap<u64, u64>,
    /// Sockets by the connections that they have been, with the user.
    sockets: BTreeMap<&'a str, (u64, &'a str)>,
    /// The grant of each connection, as its client was told.
    grants: BTreeMap<&'a str, u64>,
    anomalies: Vec<Anomaly>,
}

fn anomaly(name: &str, what: String, events: Vec<usize>) -> Anomaly {
    Anomaly { name: name.to_owned(), what, events }
}

/// Judges the pushes of a history.
pub fn check(history: &History) -> Checked {
    let operations = history.operations();
    let mut story = Story::of(&operations);
    let acknowledged = story.lost();
    story.misdirected();
    story.doubled();
    let ordered = story.disordered();
    let log = Log::of_history(history);
    let offline = story.offline(&log, &Known::of(&operations));
    let unknown = story.items.iter().filter(|item| item.answered.is_none()).count();
    let summary = format!(
        "{} pushes, {acknowledged} acknowledged for a connection, {} received, {offline} answered as offline, {unknown} unknown.",
        story.items.len(),
        story.frames.len(),
    );
    Checked::new("push", &["I8", "I9"], summary, story.anomalies)
        .at_least("pushes that had to be received", 200, acknowledged)
        .at_least("pushes received", 300, story.frames.len())
        .at_least("offline answers that were judged", 30, offline)
        .at_least("pairs in order", 100, ordered)
        .figure("unknown", unknown)
}

impl<'a> Story<'a> {
    fn of(operations: &[Operation<'a>]) -> Self {
        let mut story = Self {
            frames: Vec::new(),
            items: Vec::new(),
            barriers: BTreeMap::new(),
            sockets: BTreeMap::new(),
            grants: BTreeMap::new(),
            anomalies: Vec::new(),
        };
        for operation in operations {
            match operation.f() {
                "connect" => story.connected(operation),
                "frame" => story.frame(operation),
                "barrier" if operation.result().is_some() => {
                    let socket = operation.invoked.value["socket"].as_u64().unwrap_or_default();
                    story.barriers.insert(socket, operation.began());
                }
                "push" => story.pushed(operation),
                _ => {}
            }
        }
        story
    }

    fn connected(&mut self, operation: &Operation<'a>) {
        let Some(result) = operation.result() else { return };
        self.is_now(operation.key(), result);
    }

    /// A socket is a connection from now on.
    fn is_now(&mut self, user: &'a str, told: &'a Value) {
        let Some((socket, connection)) = told["socket"].as_u64().zip(told["connection"].as_str()) else { return };
        self.sockets.insert(connection, (socket, user));
        self.grants.insert(connection, told["granted"].as_u64().unwrap_or_default());
    }

    fn frame(&mut self, operation: &Operation<'a>) {
        let Some((told, ended)) = operation.result().zip(operation.ended) else { return };
        if told["type"] == "rebound" {
            return self.is_now(operation.key(), told);
        }
        let Some((socket, connection)) = told["socket"].as_u64().zip(told["connection"].as_str()) else { return };
        let id = told["id"].as_str().unwrap_or_default();
        if self.grants.get(connection).is_some_and(|granted| told["granted"] != *granted) {
            let what =
                format!("{id} came to {connection} as granted at {}, not {}", told["granted"], self.grants[connection]);
            self.anomalies.push(anomaly("wrong grant", what, vec![ended.index]));
        }
        self.frames.push(Frame { user: operation.key(), socket, connection, id, index: ended.index });
    }

    fn pushed(&mut self, operation: &Operation<'a>) {
        let asked = &operation.invoked.value;
        let results = operation.result().and_then(|result| result["results"].as_array());
        for (nth, item) in asked["items"].as_array().into_iter().flatten().enumerate() {
            self.items.push(Item {
                id: item["id"].as_str().unwrap_or_default(),
                user: item["user"].as_str(),
                connection: item["connection"].as_str(),
                result: results.and_then(|results| results.get(nth)),
                caller: asked["caller"].as_u64().unwrap_or_default(),
                began: operation.began(),
                answered: operation.result().and(operation.known()),
                index: operation.ended.map_or(operation.invoked.index, |ended| ended.index),
                ack: asked["ack"].as_str().unwrap_or("written"),
            });
        }
    }

    /// Acknowledged, and never received by a socket that lived on; how many were looked at.
    fn lost(&mut self) -> usize {
        let received: BTreeSet<(&str, &str)> = self.frames.iter().map(|frame| (frame.id, frame.connection)).collect();
        let mut count = 0;
        for item in self.items.iter().filter(|item| item.ack != "none") {
            let Some(answered) = item.answered else { continue };
            for (connection, status) in reached(item) {
                let has = received.contains(&(item.id, connection));
                let socket = self.sockets.get(connection).map(|(socket, _)| *socket);
                // What a gateway had written when it was killed may have got lost with it.
                let lived_on =
                    socket.and_then(|socket| self.barriers.get(&socket)).is_some_and(|when| *when >= answered);
                count += usize::from(has || lived_on);
                if !has && (lived_on || status == "acked") {
                    let what = format!("{} was {status} for {connection}, which never received it", item.id);
                    self.anomalies.push(anomaly("lost push", what, vec![item.index]));
                }
                let wanted = item.connection.is_none_or(|wanted| wanted == connection);
                let users = self.sockets.get(connection).is_none_or(|(_, user)| item.user.is_none_or(|u| u == *user));
                if !wanted || !users {
                    let what = format!("{} was {status} for {connection}, for which it was not", item.id);
                    self.anomalies.push(anomaly("misdirected push", what, vec![item.index]));
                }
            }
        }
        count
    }

    /// Received by somebody for whom it was not.
    fn misdirected(&mut self) {
        let items: BTreeMap<&str, &Item<'_>> = self.items.iter().map(|item| (item.id, item)).collect();
        for frame in &self.frames {
            let Frame { user, connection, id, .. } = frame;
            let events = vec![frame.index];
            match items.get(id) {
                None => {
                    self.anomalies.push(anomaly("push from nowhere", format!("{connection} received {id:?}"), events));
                }
                Some(item)
                    if item.user.is_some_and(|wanted| wanted != *user)
                        || item.connection.is_some_and(|wanted| wanted != *connection) =>
                {
                    let whom = item.user.or(item.connection).unwrap_or_default();
                    let what = format!("{id} was for {whom}, and {connection} of {user} received it");
                    self.anomalies.push(anomaly("misdirected push", what, events));
                }
                Some(_) => {}
            }
        }
    }

    fn doubled(&mut self) {
        let mut first: BTreeMap<(u64, &str, &str), usize> = BTreeMap::new();
        for frame in &self.frames {
            if let Some(former) = first.insert((frame.socket, frame.connection, frame.id), frame.index) {
                let what = format!("{} received {} twice", frame.connection, frame.id);
                self.anomalies.push(anomaly("double delivery", what, vec![former, frame.index]));
            }
        }
    }

    /// Pushes of one caller to one connection of which one began after the other was answered, or that share a batch, and that came
    /// the other way round; how many pairs were looked at.
    fn disordered(&mut self) -> usize {
        // The order of items is that of their caller: it does one push at a time.
        let nth: BTreeMap<&str, usize> = self.items.iter().enumerate().map(|(nth, item)| (item.id, nth)).collect();
        let mut last: BTreeMap<(u64, &str, u64), (usize, usize)> = BTreeMap::new();
        let mut pairs = 0;
        for frame in &self.frames {
            let Some(this) = nth.get(frame.id).copied() else { continue };
            let item = &self.items[this];
            // One whose outcome is not known may arrive late.
            if !reached(item).iter().any(|(connection, _)| *connection == frame.connection) {
                continue;
            }
            let Some((latest, index)) = last.insert((frame.socket, frame.connection, item.caller), (this, frame.index))
            else {
                continue;
            };
            pairs += 1;
            let after = &self.items[latest];
            let one_after_the_other = item.answered.is_some_and(|answered| answered <= after.began);
            if latest > this && (one_after_the_other || item.index == after.index) {
                let what = format!("{} came to {} before {}", after.id, frame.connection, item.id);
                self.anomalies.push(anomaly("reordered push", what, vec![index, frame.index]));
            }
        }
        pairs
    }

    /// Called offline, and there; or offline as of a moment that was over. How many answers were looked at.
    fn offline(&mut self, log: &Log<'_>, known: &Known) -> usize {
        let lives = lives(log);
        let mut count = 0;
        for item in &self.items {
            let Some(at) = item.result.and_then(|result| result["offline"].as_u64()) else { continue };
            let must = known.before(item.began);
            if at < must {
                let what = format!("{} was answered as of {at}, when {must} was known already", item.id);
                self.anomalies.push(anomaly("offline long ago", what, vec![item.index]));
            }
            // Of what no watcher has shown nothing can be said.
            if at > log.complete_to() {
                continue;
            }
            count += 1;
            let there = lives.iter().find(|(id, life)| {
                let meant = item.user.is_some_and(|user| user == life.user) || item.connection == Some(**id);
                meant && life.opened <= at && life.closed.is_none_or(|closed| closed > at)
            });
            if let Some((id, life)) = there {
                let what = format!("{} was answered as offline as of {at}, and {id} was there: {life:?}", item.id);
                self.anomalies.push(anomaly("false offline", what, vec![item.index]));
            }
        }
        count
    }
}

/// From when to when a connection was there.
#[derive(Debug)]
struct Life<'a> {
    user: &'a str,
    opened: u64,
    closed: Option<u64>,
}

fn lives<'a>(log: &Log<'a>) -> BTreeMap<&'a str, Life<'a>> {
    let mut lives: BTreeMap<&str, Life<'_>> = BTreeMap::new();
    for ((revision, _), (change, _)) in &log.changes {
        let (id, user) = (change["connection"].as_str(), change["user"].as_str());
        let Some((id, user)) = id.zip(user) else { continue };
        if change["type"] == "connection.opened" {
            lives.insert(id, Life { user, opened: *revision, closed: None });
        } else if change["type"] == "connection.closed"
            && let Some(life) = lives.get_mut(id)
        {
            life.closed = Some(*revision);
        }
    }
    lives
}

#[cfg(test)]
mod tests;
