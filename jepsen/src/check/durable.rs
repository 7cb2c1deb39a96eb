//! What was acknowledged is there at the end, everywhere, and nothing else is; numbers only grow, also across restarts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use switchboard::directory::{ConnectionId, Epoch};

use super::lease::{Session, sessions};
use super::user::{first_asked, id};
use crate::history::{History, Kind, Operation};
use crate::verdict::{Anomaly, Checked};

/// Anomalies of one kind in one list that are told one by one; the rest is counted.
const TOLD_MAX: usize = 5;

/// Checks the whole history.
pub fn check(history: &History) -> Checked {
    let operations = history.operations();
    let mut judge = Judge { appended: appended(&operations), sessions: sessions(&operations), anomalies: Vec::new() };
    judge.numbers(&operations);
    let over = over(&operations);
    let lists: Vec<&Operation<'_>> = operations.iter().filter(|operation| operation.f() == "list").collect();
    let mut complete = 0;
    for list in &lists {
        complete += usize::from(judge.list(list, &over));
    }
    let count = |kind: Kind| judge.appended.values().filter(|appended| appended.kind == kind).count();
    let (acknowledged, unknown) = (count(Kind::Ok), count(Kind::Info));
    let judged = judge.appended.iter().filter(|(id, a)| a.kind == Kind::Ok && !over.contains(&id.epoch)).count();
    let summary = format!(
        "{judged} of {acknowledged} acknowledged registrations, those whose sessions live, were looked for in {complete} complete lists."
    );
    Checked::new("durable", &["I10"], summary, judge.anomalies)
        .at_least("acknowledged", 500, judged)
        .at_least("lists", 2, complete)
        .figure("sessions_over", over.len())
        .figure("unknown", unknown)
}

/// A registration.
#[derive(Debug)]
struct Appended {
    kind: Kind,
    granted: Option<u64>,
    event: usize,
}

/// Every registration, by its id: `append` names the first one and how many there are.
fn appended(operations: &[Operation<'_>]) -> BTreeMap<ConnectionId, Appended> {
    let mut appended = BTreeMap::new();
    for append in operations.iter().filter(|operation| operation.f() == "append") {
        let asked = &append.invoked.value;
        let (Some(first), Some(count)) = (id(&asked["first"]), asked["count"].as_u64()) else { continue };
        let granted = append.result().and_then(|result| result["revision"].as_u64());
        for serial in first.serial..first.serial + count {
            let one = Appended { kind: append.kind(), granted, event: append.invoked.index };
            appended.insert(ConnectionId { epoch: first.epoch, serial }, one);
        }
    }
    appended
}

/// Sessions that are over: their registrations went with them.
fn over(operations: &[Operation<'_>]) -> BTreeSet<Epoch> {
    let over = operations.iter().filter(|operation| {
        let why = operation.ended.and_then(|ended| ended.error.as_deref()).unwrap_or_default();
        why.starts_with("gone") || why.starts_with("fenced")
    });
    let epochs = over.filter_map(|operation| match operation.f() {
        "renew" => operation.key().strip_prefix("s-")?.parse().ok(),
        "append" => Some(id(&operation.invoked.value["first"])?.epoch),
        _ => None,
    });
    epochs.collect()
}

struct Judge {
    appended: BTreeMap<ConnectionId, Appended>,
    sessions: BTreeMap<Epoch, Session>,
    anomalies: Vec<Anomaly>,
}

impl Judge {
    fn tell(&mut self, name: &str, what: String, events: Vec<usize>) {
        self.anomalies.push(Anomaly { name: name.to_owned(), what, events });
    }

    /// What begins after something was acknowledged gets a higher number: revisions of registrations, and epochs among them.
    fn numbers(&mut self, operations: &[Operation<'_>]) {
        let mut events = Vec::new();
        let first_asked = first_asked(operations);
        for operation in operations {
            let (Some(result), Some(ended)) = (operation.result(), operation.ended) else { continue };
            let number = match operation.f() {
                "append" => result["revision"].as_u64(),
                "open" => result["epoch"].as_u64(),
                _ => None,
            };
            let Some(number) = number else { continue };
            let first = first_asked.get(operation.invoked.value["nonce"].as_str().unwrap_or_default());
            let asked = first.filter(|_| operation.f() == "open").map_or(operation.invoked.index, |first| first.index);
            events.push((asked, number, false));
            events.push((ended.index, number, true));
        }
        events.sort_unstable();
        let mut highest = 0;
        for (at, number, known) in events {
            if known {
                highest = highest.max(number);
            } else if number <= highest {
                let what = format!("{number} was given out after {highest} had been acknowledged");
                self.tell("number going back", what, vec![at]);
            }
        }
    }

    /// Whether the list is complete, so that it says something.
    fn list(&mut self, list: &Operation<'_>, over: &BTreeSet<Epoch>) -> bool {
        let (Some(result), Some(ended)) = (list.result(), list.ended) else { return false };
        let place = format!("{} of {}", list.invoked.value["consistency"], list.invoked.value["api"]);
        let events = vec![list.invoked.index, ended.index];
        let shown: BTreeMap<ConnectionId, u64> = shown(result);
        let mut wrong: Vec<(&str, String)> = Vec::new();
        // Nobody renews any more when lists are made, so sessions end some time.
        let lives = |id: &ConnectionId| {
            let session = self.sessions.get(&id.epoch);
            session.and_then(|session| session.lives_until(ended.time)).is_some_and(|until| ended.time < until)
        };
        for (id, appended) in &self.appended {
            let what = match (appended.kind, shown.get(id)) {
                (Kind::Ok, None) if !over.contains(&id.epoch) && lives(id) => ("lost", "is missing".to_owned()),
                (Kind::Ok, Some(granted)) if appended.granted != Some(*granted) => {
                    ("grant changed", format!("was granted at {:?} and is shown with {granted}", appended.granted))
                }
                (Kind::Fail, Some(_)) => ("refused and there", "was refused and is there".to_owned()),
                _ => continue,
            };
            wrong.push((what.0, format!("{id} (event {}) {}", appended.event, what.1)));
        }
        let made_up = shown.keys().filter(|id| !self.appended.contains_key(id));
        wrong.extend(made_up.map(|id| ("made up", format!("{id} is there, which nobody has registered"))));
        let count = wrong.len();
        for (name, what) in wrong.into_iter().take(TOLD_MAX) {
            self.tell(name, format!("the {place} list: {what} ({count} are wrong in this list)"), events.clone());
        }
        true
    }
}

/// `{"connections":[["c-1-2",17],…]}`
fn shown(result: &Value) -> BTreeMap<ConnectionId, u64> {
    let all = result["connections"].as_array().into_iter().flatten();
    all.filter_map(|pair| Some((id(&pair[0])?, pair[1].as_u64()?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::made_up::Story;

    fn append(story: &mut Story, serial: u64, revision: u64) {
        let asked = json!({ "first": format!("c-5-{serial}"), "count": 2 });
        story.ok("append", "", asked, json!({ "revision": revision }));
    }

    fn list(story: &mut Story, shown: &[(&str, u64)]) {
        let asked = json!({ "api": "node-1", "consistency": "linearizable" });
        story.ok("list", "", asked, json!({ "connections": shown }));
    }

    fn names(story: &Story) -> Vec<String> {
        check(&story.history()).anomalies.into_iter().map(|anomaly| anomaly.name).collect()
    }

    #[test]
    fn what_was_acknowledged_and_is_missing_is_lost() {
        let mut story = Story::default();
        story.ok("open", "own-1", json!({ "nonce": "n" }), json!({ "epoch": 5, "lease_ms": 60_000 }));
        append(&mut story, 1, 10);
        append(&mut story, 3, 11);
        list(&mut story, &[("c-5-1", 10), ("c-5-2", 10), ("c-5-3", 11), ("c-5-4", 11)]);
        assert!(names(&story).is_empty());
        list(&mut story, &[("c-5-1", 10), ("c-5-2", 10), ("c-5-3", 11)]);
        assert_eq!(names(&story), ["lost"]);
        let mut late = story.clone();
        late.pass(50_000);
        list(&mut late, &[]);
        assert_eq!(names(&late), ["lost"], "nobody renewed for so long");
        let process = story.begin("renew", "s-5", json!(null));
        story.end(process, Kind::Fail, json!(null), Some("gone: over"));
        assert!(names(&story).is_empty(), "it went with its session");
    }

    #[test]
    fn what_nobody_knows_may_be_there_and_what_was_refused_or_made_up_may_not() {
        let mut story = Story::default();
        for (serial, kind) in [(1, Kind::Info), (3, Kind::Fail)] {
            let asked = json!({ "first": format!("c-5-{serial}"), "count": 2 });
            let process = story.begin("append", "", asked);
            story.end(process, kind, json!(null), Some("why"));
        }
        list(&mut story, &[("c-5-1", 10)]);
        assert!(names(&story).is_empty());
        list(&mut story, &[("c-5-3", 10), ("c-6-1", 12)]);
        assert_eq!(names(&story), ["refused and there", "made up"]);
    }

    #[test]
    fn numbers_never_go_back() {
        let mut story = Story::default();
        append(&mut story, 1, 10);
        append(&mut story, 3, 10);
        assert_eq!(names(&story), ["number going back"]);
        let mut epochs = Story::default();
        append(&mut epochs, 1, 10);
        epochs.ok("open", "own-1", json!(null), json!({ "epoch": 9 }));
        assert_eq!(names(&epochs), ["number going back"]);
        let mut changed = Story::default();
        append(&mut changed, 1, 10);
        list(&mut changed, &[("c-5-1", 10), ("c-5-2", 9)]);
        assert_eq!(names(&changed), ["grant changed"]);
    }
}
