//! Exclusive users have one serving owner at any instant, seen from the sockets.
//!
//! What arrives late may have been in a buffer of the kernel, so arrival alone says nothing. But a push that was *asked for* after the
//! welcome of a newer connection had been received must not come out of an older one, at any time: that needs no slack.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::history::{History, Kind, Operation};
use crate::verdict::{Anomaly, Checked};

/// A connection was granted to a socket: by its welcome, or by a rebound.
#[derive(Debug, Clone, Copy)]
struct Grant {
    granted: u64,
    socket: u64,
    /// The attempt to connect began here; a rebound has none.
    began: Option<usize>,
    /// The socket was told here.
    told: usize,
}

/// What the sockets of one user saw.
#[derive(Debug, Default)]
struct Seen<'a> {
    grants: Vec<Grant>,
    frames: Vec<&'a Operation<'a>>,
    lookups: Vec<&'a Operation<'a>>,
}

/// Checks each user of the history.
pub fn check(history: &History) -> Checked {
    let operations = history.operations();
    let users = seen(&operations);
    let asked: BTreeMap<u64, usize> = operations
        .iter()
        .filter(|operation| operation.f() == "push")
        .filter_map(|push| Some((push.invoked.value["payload"].as_u64()?, push.invoked.index)))
        .collect();
    let mut judge = Judge { asked, anomalies: Vec::new(), in_flight: 0 };
    for (user, seen) in &users {
        judge.grants(user, &seen.grants);
        let told = Told::new(&seen.grants);
        seen.frames.iter().for_each(|frame| judge.frame(user, frame, &told));
        judge.lookups(user, &seen.lookups, &seen.grants);
    }
    let (grants, frames): (usize, usize) =
        users.values().fold((0, 0), |(g, f), seen| (g + seen.grants.len(), f + seen.frames.len()));
    let summary = format!(
        "{frames} frames on connections of {grants} grants to {} exclusive users were compared with when they were asked for.",
        users.len()
    );
    let superseded = operations.iter().filter(|operation| closed_with(operation, 4004)).count();
    Checked::new("one owner", &["I2", "I5"], summary, judge.anomalies)
        .at_least("grants", 50, grants)
        .at_least("frames", 200, frames)
        .at_least("superseded", 50, superseded)
        .figure("frames_in_flight_at_a_take_over", judge.in_flight)
}

fn closed_with(operation: &Operation<'_>, code: u64) -> bool {
    let refused = format!("{code}");
    let told = operation.f() == "goodbye" && operation.result().is_some_and(|goodbye| goodbye["code"] == code);
    let error = operation.ended.and_then(|ended| ended.error.as_deref());
    told || (operation.f() == "connect" && error.is_some_and(|error| error.contains(&refused)))
}

fn seen<'a>(operations: &'a [Operation<'a>]) -> BTreeMap<&'a str, Seen<'a>> {
    let mut users: BTreeMap<&str, Seen<'a>> = BTreeMap::new();
    for operation in operations {
        let Some(result) = operation.result() else { continue };
        let seen = users.entry(operation.key()).or_default();
        let told = operation.ended.map_or(usize::MAX, |ended| ended.index);
        match operation.f() {
            "connect" => seen.grants.extend(grant(result, Some(operation.invoked.index), told)),
            "rebound" => seen.grants.extend(grant(result, None, told)),
            "frame" => seen.frames.push(operation),
            "lookup" => seen.lookups.push(operation),
            _ => {}
        }
    }
    users.retain(|_, seen| !seen.grants.is_empty());
    users
}

fn grant(result: &Value, began: Option<usize>, told: usize) -> Option<Grant> {
    Some(Grant { granted: result["granted"].as_u64()?, socket: result["socket"].as_u64()?, began, told })
}

/// The grants of a user, so that the latest one before an event is found at once.
struct Told {
    /// In the order in which sockets were told: the latest grant until then, and the latest one of another socket than that.
    latest: Vec<(usize, Grant, Option<Grant>)>,
    /// Where each socket was told of each of its grants.
    own: BTreeMap<(u64, u64), usize>,
}

impl Told {
    fn new(grants: &[Grant]) -> Self {
        let mut grants = grants.to_vec();
        grants.sort_by_key(|grant| grant.told);
        let mut latest: Vec<(usize, Grant, Option<Grant>)> = Vec::new();
        for grant in &grants {
            let (first, second) = match latest.last() {
                None => (*grant, None),
                Some((_, first, second)) if grant.granted > first.granted => {
                    (*grant, if first.socket == grant.socket { *second } else { Some(*first) })
                }
                Some((_, first, second)) => {
                    let is_second = grant.socket != first.socket && second.is_none_or(|s| grant.granted > s.granted);
                    (*first, if is_second { Some(*grant) } else { *second })
                }
            };
            latest.push((grant.told, first, second));
        }
        let own = grants.iter().map(|grant| ((grant.socket, grant.granted), grant.told)).collect();
        Self { latest, own }
    }

    /// The latest grant that was told before an event, to any socket but this one.
    fn latest(&self, before: usize, other_than: Option<u64>) -> Option<Grant> {
        let nth = self.latest.partition_point(|(told, ..)| *told < before).checked_sub(1)?;
        let (_, first, second) = self.latest[nth];
        if other_than == Some(first.socket) { second } else { Some(first) }
    }
}

struct Judge {
    /// Where each push was asked for, by payload.
    asked: BTreeMap<u64, usize>,
    anomalies: Vec<Anomaly>,
    in_flight: usize,
}

impl Judge {
    fn tell(&mut self, name: &str, what: String, events: Vec<usize>) {
        self.anomalies.push(Anomaly { name: name.to_owned(), what, events });
    }

    /// Each grant is unique, and whoever arrives after another was told has a later one.
    fn grants(&mut self, user: &str, grants: &[Grant]) {
        let mut by_number: BTreeMap<u64, &Grant> = BTreeMap::new();
        for grant in grants {
            if let Some(other) = by_number.insert(grant.granted, grant) {
                let what = format!("{user}: {} was granted to two connections", grant.granted);
                self.tell("granted twice", what, vec![other.told, grant.told]);
            }
        }
        let told = Told::new(grants);
        for later in grants {
            let before = later.began.and_then(|began| told.latest(began, None));
            if let Some(earlier) = before.filter(|earlier| earlier.granted >= later.granted) {
                let what = format!("{user}: {} was granted after {}", later.granted, earlier.granted);
                self.tell("grant going back", what, vec![earlier.told, later.told]);
            }
        }
    }

    fn frame(&mut self, user: &str, frame: &Operation<'_>, told: &Told) {
        let (Some(result), Some(received)) = (frame.result(), frame.ended) else { return };
        let number = |name: &str| result[name].as_u64().unwrap_or_default();
        let (socket, granted, payload) = (number("socket"), number("granted"), number("payload"));
        if told.own.get(&(socket, granted)).is_none_or(|told| *told > received.index) {
            let what = format!("{user}: a frame names grant {granted}, which its socket was not told");
            self.tell("foreign grant", what, vec![received.index]);
        }
        let Some(asked) = self.asked.get(&payload).copied() else {
            let what = format!("{user}: a frame carries {payload}, which nobody has sent");
            return self.tell("made up", what, vec![received.index]);
        };
        let newer = |before: usize| told.latest(before, Some(socket)).filter(|grant| grant.granted > granted);
        if let Some(newer) = newer(asked) {
            let what = format!(
                "{user}: push {payload} was asked for after the welcome of {}, and came out of the connection granted at {granted}",
                newer.granted
            );
            self.tell("two owners", what, vec![newer.told, asked, received.index]);
        } else if newer(received.index).is_some() {
            self.in_flight += 1;
        }
    }

    /// Lookups show one owner, never an earlier one than was shown or told before.
    fn lookups(&mut self, user: &str, lookups: &[&Operation<'_>], grants: &[Grant]) {
        let told = grants.iter().map(|grant| (grant.told, grant.granted));
        let mut known: Vec<(usize, u64)> = told.collect();
        for lookup in lookups {
            let shown = shown(lookup);
            known.extend(lookup.ended.filter(|_| shown.len() == 1).map(|ended| (ended.index, shown[0])));
        }
        known.sort_unstable();
        let mut latest = 0;
        for (_, granted) in &mut known {
            latest = latest.max(*granted);
            *granted = latest;
        }
        for lookup in lookups {
            let (shown, began) = (shown(lookup), lookup.invoked.index);
            if shown.len() > 1 {
                let what = format!("{user}: a lookup shows {} connections of an exclusive user", shown.len());
                self.tell("two owners", what, vec![began]);
            }
            let before = known.partition_point(|(at, _)| *at < began).checked_sub(1).map(|at| known[at].1);
            let stale = shown.iter().find(|granted| before.is_some_and(|before| **granted < before));
            if let Some(granted) = stale {
                let what = format!(
                    "{user}: a lookup shows the owner granted at {granted}, after {} was known",
                    before.unwrap_or_default()
                );
                self.tell("stale owner", what, vec![began]);
            }
        }
    }
}

/// The grants that a lookup shows.
fn shown(lookup: &Operation<'_>) -> Vec<u64> {
    debug_assert!(lookup.kind() == Kind::Ok, "others show nothing");
    let all = lookup.result().and_then(|result| result["connections"].as_array()).into_iter().flatten();
    all.filter_map(|pair| pair[1].as_u64()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::made_up::Story;
    use crate::verdict::Verdict;

    fn connect(story: &mut Story, socket: u64, granted: u64) {
        story.ok("connect", "alice", json!(null), json!({ "socket": socket, "granted": granted }));
    }

    fn push(story: &mut Story, payload: u64) {
        story.ok("push", "alice", json!({ "payload": payload }), json!({}));
    }

    fn frame(story: &mut Story, socket: u64, granted: u64, payload: u64) {
        let frame = json!({ "socket": socket, "granted": granted, "payload": payload });
        story.ok("frame", "alice", json!(null), frame);
    }

    fn names(story: &Story) -> Vec<String> {
        let checked = check(&story.history());
        assert_ne!(checked.verdict, Verdict::Valid, "too little happened in any case");
        checked.anomalies.into_iter().map(|anomaly| anomaly.name).collect()
    }

    #[test]
    fn a_push_that_was_asked_for_after_the_newer_welcome_must_not_reach_the_older_socket() {
        let mut story = Story::default();
        connect(&mut story, 1, 10);
        push(&mut story, 1);
        connect(&mut story, 2, 20);
        frame(&mut story, 1, 10, 1);
        assert!(names(&story).is_empty(), "it was on its way");
        push(&mut story, 2);
        frame(&mut story, 2, 20, 2);
        assert!(names(&story).is_empty());
        frame(&mut story, 1, 10, 2);
        assert_eq!(names(&story), ["two owners"]);
    }

    #[test]
    fn a_rebound_makes_an_older_socket_the_owner_again() {
        let mut story = Story::default();
        connect(&mut story, 1, 10);
        connect(&mut story, 2, 20);
        story.ok("rebound", "alice", json!(null), json!({ "socket": 1, "granted": 30 }));
        push(&mut story, 1);
        frame(&mut story, 1, 30, 1);
        assert!(names(&story).is_empty());
        frame(&mut story, 2, 20, 1);
        assert_eq!(names(&story), ["two owners"]);
    }

    #[test]
    fn grants_are_unique_and_only_grow() {
        let mut story = Story::default();
        connect(&mut story, 1, 10);
        connect(&mut story, 2, 10);
        assert_eq!(names(&story), ["granted twice", "grant going back"]);
        let mut back = Story::default();
        connect(&mut back, 1, 10);
        connect(&mut back, 2, 9);
        assert_eq!(names(&back), ["grant going back"]);
    }

    #[test]
    fn frames_name_a_grant_of_their_socket_and_a_push_that_was_sent() {
        let mut story = Story::default();
        connect(&mut story, 1, 10);
        push(&mut story, 1);
        frame(&mut story, 1, 11, 1);
        assert_eq!(names(&story), ["foreign grant"]);
        frame(&mut story, 1, 10, 7);
        assert_eq!(names(&story), ["foreign grant", "made up"]);
    }

    #[test]
    fn lookups_show_one_owner_and_never_an_earlier_one() {
        let lookup = |story: &mut Story, shown: &[(&str, u64)]| {
            story.ok("lookup", "alice", json!(null), json!({ "connections": shown, "revision": 99 }));
        };
        let mut story = Story::default();
        connect(&mut story, 1, 10);
        lookup(&mut story, &[("c-5-1", 10)]);
        lookup(&mut story, &[]);
        connect(&mut story, 2, 20);
        assert!(names(&story).is_empty());
        lookup(&mut story, &[("c-5-1", 10)]);
        assert_eq!(names(&story), ["stale owner"]);
        lookup(&mut story, &[("c-5-1", 20), ("c-5-2", 21)]);
        assert_eq!(names(&story), ["stale owner", "two owners"]);
    }
}
