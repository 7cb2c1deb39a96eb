//! Watches: ordered, unique, without a gap, resumable, true to their marks and filters; and the state that follows from them is
//! the one that every process lists (I6, I12).
//!
//! Operations: `watch` (see [`super::feed`]); `batch`, of a session of the test's own, with its operations and their results;
//! `open` and `end` of such a session; `list`, what a process shows when all is quiet.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::feed::{self, ALL, Log, Position, Replay, Segment, mark, place, position};
use super::known::Known;
use crate::history::{History, Kind, Operation};
use crate::verdict::{Anomaly, Checked, Verdict};

/// Judges the watches of a history.
pub fn check(history: &History) -> Checked {
    let operations = history.operations();
    let segments = feed::segments(&operations);
    let log = Log::of(&segments);
    let mut anomalies = Vec::new();
    for segment in &segments {
        anomalies.extend(out_of_order(segment));
        anomalies.extend(gaps(segment, &log));
    }
    anomalies.extend(holes(&log));
    anomalies.extend(compactions(&operations));
    let (writes, unseen) = writes(&operations, &log);
    anomalies.extend(unseen);
    let (lists, differing) = lists(&operations, &log);
    anomalies.extend(differing);
    let lines = segments.iter().map(|segment| segment.lines.len()).sum::<usize>();
    let resumed = segments.iter().filter(|segment| segment.from.is_some_and(|from| from.0 > 0)).count();
    let summary = format!(
        "{} streams showed {lines} lines of {} changes; {writes} acknowledged writes and {lists} lists were compared with them.",
        segments.len(),
        log.changes.len(),
    );
    let mut checked = Checked::new("watch", &["I6", "I12"], summary, anomalies)
        .at_least("changes", 300, log.changes.len())
        .at_least("resumptions", 10, resumed)
        .at_least("acknowledged writes", 200, writes)
        .at_least("lists", 1, lists)
        .figure("lines", lines)
        .figure("complete_to_revision", log.complete_to());
    if log.covered.len() != 1 {
        checked.verdict = checked.verdict.max(Verdict::Unknown);
        checked.summary += " There are changes that no stream without a filter covers.";
    }
    checked
}

fn anomaly(name: &str, what: String, events: Vec<usize>) -> Anomaly {
    Anomaly { name: name.to_owned(), what, events }
}

/// Order, uniqueness, and marks that are true, within one stream.
fn out_of_order(segment: &Segment<'_>) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let mut told = |name: &str, what: String| found.push(anomaly(name, what, vec![segment.event]));
    let mut last: Option<(Position, bool)> = segment.from.map(|from| (from, true));
    for line in segment.lines {
        let Some(at) = place(line) else {
            told("line without a place", format!("a stream showed {line}"));
            continue;
        };
        let is_mark = line["type"] == "progress";
        if line["id"].as_str().is_some_and(|id| position(id) != Some(at)) {
            told("wrong id", format!("the id of a server-sent event is not that of its change: {line}"));
        }
        match last {
            Some((before, true)) if at <= before && !is_mark => {
                told("change behind a mark", format!("{} came after the mark {}", mark(at), mark(before)));
            }
            Some((before, _)) if at == before && !is_mark => {
                told("repeated change", format!("{} came twice in one stream", mark(at)));
            }
            Some((before, _)) if at < before => {
                told("reordered change", format!("{} came after {}", mark(at), mark(before)));
            }
            _ => {}
        }
        last = Some((last.map_or(at, |(before, _)| before.max(at)), is_mark));
    }
    found
}

/// What others saw and this stream should have shown, and what it showed in another form.
fn gaps(segment: &Segment<'_>, log: &Log<'_>) -> Vec<Anomaly> {
    let Some((from, to)) = segment.range() else { return Vec::new() };
    let shown: BTreeMap<Position, &Value> =
        segment.lines.iter().filter_map(|line| Some((place(line)?, line))).collect();
    let mut found = Vec::new();
    let after = (std::ops::Bound::Excluded(from), std::ops::Bound::Included(to));
    for (at, (change, event)) in log.changes.range(after).filter(|(_, (change, _))| segment.filter.wants(change)) {
        let events = vec![*event, segment.event];
        match shown.get(at) {
            None => {
                let what =
                    format!("{} is missing in a stream from {} to {}: {change}", mark(*at), mark(from), mark(to));
                found.push(anomaly("gap", what, events));
            }
            Some(line) if !same(line, change) => {
                let what = format!("{} is {change} for one and {line} for another", mark(*at));
                found.push(anomaly("differing change", what, events));
            }
            Some(_) => {}
        }
    }
    let changes = shown.iter().filter(|(_, line)| line["type"] != "progress");
    for (at, line) in changes.filter(|(_, line)| !segment.filter.wants(line)) {
        let what = format!("{} was shown against the filter: {line}", mark(*at));
        found.push(anomaly("unwanted change", what, vec![segment.event]));
    }
    found
}

/// Whether two lines tell the same. When something happened is for people: each node tells its own time.
fn same(one: &Value, other: &Value) -> bool {
    let told = |line: &Value| -> BTreeMap<String, Value> {
        let fields = line.as_object().cloned().unwrap_or_default();
        fields.into_iter().filter(|(name, _)| name != "id" && name != "at").collect()
    };
    told(one) == told(other)
}

/// Numbers within a revision begin with 0 and leave none out, where everything was seen.
fn holes(log: &Log<'_>) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let mut last: Position = (0, ALL);
    for (at, (change, event)) in &log.changes {
        let expected = if at.0 == last.0 { last.1.wrapping_add(1) } else { 0 };
        let covered = log.covered.iter().any(|(from, to)| *from <= (at.0.saturating_sub(1), ALL) && at <= to);
        if covered && at.1 != expected {
            let what = format!("what came before {} within its revision is missing: {change}", mark(*at));
            found.push(anomaly("hole in a revision", what, vec![*event]));
        }
        last = *at;
    }
    found
}

/// `compacted` is said only of what really is not held any more.
fn compactions(operations: &[Operation<'_>]) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for operation in operations.iter().filter(|operation| operation.f() == "watch") {
        let Some(refused) = operation.result().map(|result| &result["compacted"]).filter(|told| told.is_object())
        else {
            continue;
        };
        let from = operation.invoked.value["from"].as_str().and_then(position).unwrap_or_default();
        let (oldest, now) = (refused["oldest_revision"].as_u64().unwrap_or_default(), refused["revision"].as_u64());
        // What comes after R.n begins inside R, so that R itself must be held.
        let is_old = from.0 < oldest || (from.0 == oldest && from.1 != ALL);
        if !is_old && now.is_none_or(|now| from.0 <= now) {
            let what = format!("the mark {} was refused, while everything after {oldest} is held", mark(from));
            found.push(anomaly("false compacted", what, operation.ended.iter().map(|ended| ended.index).collect()));
        }
    }
    found
}

/// What acknowledged writes of our own sessions should have left in the log, and what is in it that nobody wrote. Also how
/// many writes there were.
fn writes(operations: &[Operation<'_>], log: &Log<'_>) -> (usize, Vec<Anomaly>) {
    let mut written = Written::of(log);
    let mut count = 0;
    // What began after the end of a session and is in the log shows that its end is there, too.
    let began = |operation: &Operation<'_>| {
        let revision = operation.result()?["revision"].as_u64()?;
        (matches!(operation.f(), "batch" | "list") && revision <= log.complete_to()).then_some(operation.began())
    };
    let last_began = operations.iter().filter_map(began).max().unwrap_or(0);
    for operation in operations.iter().filter(|operation| matches!(operation.f(), "open" | "end" | "batch")) {
        let index = operation.ended.map_or(operation.invoked.index, |ended| ended.index);
        match (operation.f(), operation.result()) {
            ("batch", result) => {
                written.batch(operation, result, index);
                count += result.map_or(0, |result| result["results"].as_array().map_or(0, Vec::len));
            }
            ("open", Some(result)) => {
                let epoch = result["epoch"].as_u64().unwrap_or_default();
                written.ours.insert(epoch);
                written.once(epoch, &format!("gateway.up of {epoch}"), index);
            }
            ("end", Some(_)) if operation.known().is_some_and(|known| known < last_began) => {
                let epoch = operation.key().trim_start_matches("s-");
                written.at_all(&format!("gateway.down of {epoch}"), index);
            }
            _ => {}
        }
    }
    (count, written.verdict(log))
}

/// The log by what happened in it, beside what was asked for.
struct Written {
    /// Revisions by what happened: `connection.opened of c-7-1`.
    seen: BTreeMap<String, Vec<u64>>,
    complete_to: u64,
    /// Epochs of sessions of the test.
    ours: BTreeSet<u64>,
    /// Registrations that were asked for and not refused: id, user.
    asked: BTreeMap<String, String>,
    anomalies: Vec<Anomaly>,
}

impl Written {
    fn of(log: &Log<'_>) -> Self {
        let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (at, (change, _)) in &log.changes {
            let about = change["connection"].as_str().map_or_else(|| change["epoch"].to_string(), str::to_owned);
            let about = format!("{} of {about}", change["type"].as_str().unwrap_or_default());
            seen.entry(about).or_default().push(at.0);
        }
        let (ours, asked) = Default::default();
        Self { seen, complete_to: log.complete_to(), ours, asked, anomalies: Vec::new() }
    }

    /// It must be in the log at that revision, and nowhere else.
    fn once(&mut self, revision: u64, what: &str, event: usize) {
        let seen = self.seen.get(what).map_or(&[][..], Vec::as_slice);
        if revision <= self.complete_to && seen != [revision] {
            let what = format!("{what} was acknowledged at {revision} and is in the watch at {seen:?}");
            self.anomalies.push(anomaly("write and watch differ", what, vec![event]));
        }
    }

    /// It must be in the log at that revision.
    fn there(&mut self, revision: u64, what: &str, event: usize) {
        let seen = self.seen.get(what).map_or(&[][..], Vec::as_slice);
        if revision <= self.complete_to && !seen.contains(&revision) {
            let what = format!("{what} was acknowledged at {revision} and is in the watch at {seen:?}");
            self.anomalies.push(anomaly("write and watch differ", what, vec![event]));
        }
    }

    /// It must be in the log, wherever.
    fn at_all(&mut self, what: &str, event: usize) {
        if !self.seen.contains_key(what) {
            let what = format!("{what} was acknowledged and is not in the watch");
            self.anomalies.push(anomaly("write and watch differ", what, vec![event]));
        }
    }

    /// It must not be in the log at that revision.
    fn absent(&mut self, revision: u64, what: &str, event: usize) {
        if self.seen.get(what).is_some_and(|seen| seen.contains(&revision)) {
            let what = format!("{what} was refused, and is in the watch at {revision}");
            self.anomalies.push(anomaly("refused and seen", what, vec![event]));
        }
    }

    fn batch(&mut self, operation: &Operation<'_>, result: Option<&Value>, event: usize) {
        let (asked, revision) = (&operation.invoked.value, result.and_then(|result| result["revision"].as_u64()));
        for (nth, op) in asked["ops"].as_array().into_iter().flatten().enumerate() {
            let id = format!("c-{}-{}", asked["epoch"], op["serial"]);
            let done = result.map(|result| &result["results"][nth]);
            let refused = operation.kind() == Kind::Fail || done.is_some_and(|done| done["error"].is_object());
            let opened = format!("connection.opened of {id}");
            match (op["op"].as_str(), revision) {
                (Some("register"), _) if refused => {
                    self.absent(revision.unwrap_or_default(), &opened, event);
                }
                (Some("register"), revision) => {
                    self.asked.insert(id, op["user"].as_str().unwrap_or_default().to_owned());
                    if let Some(revision) = revision {
                        self.once(revision, &opened, event);
                    }
                }
                (Some("unregister"), Some(revision)) if !refused => {
                    let closed = format!("connection.closed of {id}");
                    match done.is_some_and(|done| done["existed"] == true) {
                        true => self.once(revision, &closed, event),
                        false => self.absent(revision, &closed, event),
                    }
                }
                (Some("meta"), Some(revision)) if !refused => {
                    self.there(revision, &format!("meta.changed of {id}"), event);
                }
                _ => {}
            }
        }
    }

    /// With what nobody asked for.
    fn verdict(mut self, log: &Log<'_>) -> Vec<Anomaly> {
        for (at, (change, event)) in log.changes.iter().filter(|(_, (change, _))| change["type"] == "connection.opened")
        {
            let (id, user) = (change["connection"].as_str().unwrap_or_default(), change["user"].as_str());
            let is_ours = change["epoch"].as_u64().is_some_and(|epoch| self.ours.contains(&epoch));
            if is_ours && self.asked.get(id).map(String::as_str) != user {
                let what = format!("nobody asked for what is at {}: {change}", mark(*at));
                self.anomalies.push(anomaly("phantom", what, vec![*event]));
            }
        }
        self.anomalies
    }
}

/// Compares what processes listed with the state that follows from the changes; also how many lists there were.
fn lists(operations: &[Operation<'_>], log: &Log<'_>) -> (usize, Vec<Anomaly>) {
    let mut found = Vec::new();
    let known = Known::of(operations);
    let listed = operations.iter().filter(|operation| operation.f() == "list");
    for list in listed.clone() {
        let revision = list.result().and_then(|result| result["revision"].as_u64());
        let must = known.before(list.began());
        if let Some((revision, ended)) = revision.zip(list.ended).filter(|(revision, _)| *revision < must) {
            let what = format!("{} listed what was there at {revision}, when {must} was known", list.key());
            found.push(anomaly("stale list", what, vec![ended.index]));
        }
    }
    let mut lists: Vec<(u64, &Value, usize)> = listed
        .filter_map(|list| Some((list.result()?["revision"].as_u64()?, list.result()?, list.ended?.index)))
        .filter(|(revision, ..)| *revision <= log.complete_to())
        .collect();
    lists.sort_by_key(|(revision, _, index)| (*revision, *index));
    let mut replay = Replay::new(log);
    for (revision, list, index) in &lists {
        let state = replay.to(*revision);
        let shown: BTreeMap<&str, &Value> = list["connections"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|connection| Some((connection["id"].as_str()?, connection)))
            .collect();
        for id in shown.keys().chain(state.connections.keys()).collect::<BTreeSet<_>>() {
            let (followed, shown) = (state.connections.get(id), shown.get(id));
            let agree = followed.zip(shown).is_some_and(|(followed, shown)| {
                followed.user == shown["user"]
                    && followed.gateway == shown["gateway"]
                    && followed.granted == shown["granted"]
                    && followed.device == shown["device"].as_str().unwrap_or_default()
                    && followed
                        .meta
                        .is_none_or(|(meta, version)| *meta == shown["meta"] && shown["meta_version"] == version)
            });
            if !agree {
                let what = format!("{id} at {revision}: the changes make {followed:?}, a process lists {shown:?}");
                found.push(anomaly("state and watch differ", what, vec![*index]));
            }
        }
    }
    replay.to(log.complete_to());
    found
        .extend(replay.misfits.into_iter().map(|(what, event)| anomaly("change that does not fit", what, vec![event])));
    (lists.len(), found)
}

#[cfg(test)]
mod tests;
