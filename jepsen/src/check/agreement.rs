//! Members agree: equal revisions are equal states (I12), there is one leader a term, and in the end one configuration, in which
//! nobody who was removed takes part (I11).
//!
//! Operations: `hash`, what a node says of its state; `cluster`, what a process says of the group, `"final":true` when all is
//! quiet. A process that refuses to speak for the group is noted with `status` and `temporary` instead.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::history::{History, Operation};
use crate::verdict::{Anomaly, Checked};

/// Judges the hashes of a history.
pub fn hashes(history: &History) -> Checked {
    let mut by_revision: BTreeMap<u64, BTreeMap<&str, (&str, usize)>> = BTreeMap::new();
    let operations = history.of("hash");
    for operation in &operations {
        let Some((result, ended)) = operation.result().zip(operation.ended) else { continue };
        if let Some((revision, sha256)) = result["revision"].as_u64().zip(result["sha256"].as_str()) {
            // The same node twice is a comparison, too: a restart or an installed snapshot may lie between.
            let told = by_revision.entry(revision).or_default();
            if let Some((former, _)) = told.get(operation.key()).copied().filter(|(former, _)| *former != sha256) {
                told.insert("the same node before", (former, ended.index));
            }
            told.insert(operation.key(), (sha256, ended.index));
        }
    }
    let mut anomalies = Vec::new();
    let mut compared = 0;
    for (revision, told) in by_revision.iter().filter(|(_, told)| told.len() > 1) {
        compared += told.len() - 1;
        if told.values().map(|(sha256, _)| sha256).collect::<BTreeSet<_>>().len() > 1 {
            let what = format!("at {revision} states differ: {told:?}");
            let events = told.values().map(|(_, index)| *index).collect();
            anomalies.push(Anomaly { name: "differing states".to_owned(), what, events });
        }
    }
    let summary = format!("{} hashes of {} revisions were compared.", operations.len(), by_revision.len());
    Checked::new("hash", &["I12"], summary, anomalies).at_least("hashes compared with another node", 5, compared)
}

/// One answer about the group.
struct View<'a> {
    body: &'a Value,
    key: &'a str,
    index: usize,
    is_final: bool,
}

impl<'a> View<'a> {
    fn of(operation: &Operation<'a>) -> Option<Self> {
        let (body, ended) = (operation.result()?, operation.ended?);
        let is_final = operation.invoked.value["final"] == true;
        Some(Self { body, key: operation.key(), index: ended.index, is_final })
    }

    /// Id, role and address of each member; `None` if it does not speak for the group.
    fn members(&self) -> Option<BTreeSet<(u64, &'a str, &'a str)>> {
        let of = |member: &'a Value| Some((member["id"].as_u64()?, member["role"].as_str()?, member["peer"].as_str()?));
        self.body["members"].as_array()?.iter().map(of).collect()
    }
}

/// Judges what processes said of the group.
pub fn members(history: &History) -> Checked {
    let operations = history.of("cluster");
    let views: Vec<View<'_>> = operations.iter().filter_map(View::of).collect();
    let mut anomalies = leaders(&views);
    anomalies.extend(ids(&views));
    anomalies.extend(ending(&views));
    let configurations: BTreeSet<_> = views.iter().filter_map(View::members).collect();
    let finals = views.iter().filter(|view| view.is_final && view.members().is_some()).count();
    let summary = format!("{} answers about the group showed {} configurations.", views.len(), configurations.len());
    Checked::new("members", &["I11"], summary, anomalies)
        .at_least("answers about the group", 20, views.len())
        .at_least("last answers about the group", 3, finals)
        .figure("configurations", configurations.len())
}

fn anomaly(name: &str, what: String, views: &[&View<'_>]) -> Anomaly {
    Anomaly { name: name.to_owned(), what, events: views.iter().map(|view| view.index).collect() }
}

fn leaders(views: &[View<'_>]) -> Vec<Anomaly> {
    let mut by_term: BTreeMap<u64, &View<'_>> = BTreeMap::new();
    let mut found = Vec::new();
    for view in views {
        let Some((term, leader)) = view.body["term"].as_u64().zip(view.body["leader"].as_u64()) else { continue };
        let first = *by_term.entry(term).or_insert(view);
        if first.body["leader"] != leader {
            let what = format!("in term {term} both {} and {leader} were called leader", first.body["leader"]);
            found.push(anomaly("two leaders", what, &[first, view]));
        }
    }
    found
}

/// An id has one address for ever, and who was removed does not come back under it.
fn ids(views: &[View<'_>]) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let mut addresses: BTreeMap<u64, (&str, &View<'_>)> = BTreeMap::new();
    // What each node said last, and whom it had seen go: a node that lags shows what others have forgotten.
    let mut said: BTreeMap<u64, (BTreeSet<u64>, BTreeSet<u64>)> = BTreeMap::new();
    for view in views {
        let Some(members) = view.members() else { continue };
        for (id, _, peer) in &members {
            let (first, by) = *addresses.entry(*id).or_insert((*peer, view));
            if first != *peer {
                let what = format!("{id} was at {first} and is at {peer}");
                found.push(anomaly("id used twice", what, &[by, view]));
            }
        }
        let Some(node) = view.body["node"].as_u64() else { continue };
        let now: BTreeSet<u64> = members.iter().map(|(id, ..)| *id).collect();
        let (before, gone) = said.entry(node).or_default();
        gone.extend(before.difference(&now));
        for id in now.intersection(gone) {
            let what = format!("{} told that {id} had left, and then that it is a member", view.key);
            found.push(anomaly("id used twice", what, &[view]));
        }
        *before = now;
    }
    found
}

/// In the end there is one configuration, one leader, no change half done, and nobody else speaks for the group.
fn ending(views: &[View<'_>]) -> Vec<Anomaly> {
    let finals: Vec<&View<'_>> = views.iter().filter(|view| view.is_final).collect();
    let mut found = Vec::new();
    let Some((first, members)) = finals.iter().find_map(|view| Some((*view, view.members()?))) else { return found };
    for view in &finals {
        let Some(others) = view.members() else { continue };
        if others != members || view.body["leader"] != first.body["leader"] {
            let what = format!("in the end {} shows {} and {} shows {}", first.key, first.body, view.key, view.body);
            found.push(anomaly("no agreement", what, &[first, view]));
        }
        if view.body["changing"] == true {
            found.push(anomaly("half a change", format!("in the end {} shows {}", view.key, view.body), &[view]));
        }
        let speaks = view.body["node"].as_u64();
        if let Some(node) = speaks.filter(|node| !others.iter().any(|(id, ..)| id == node)) {
            let what = format!("{} is no member and speaks for the group as node {node}", view.key);
            found.push(anomaly("removed node serves", what, &[view]));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::told::Told;

    fn names(checked: Checked) -> Vec<String> {
        checked.anomalies.into_iter().map(|anomaly| anomaly.name).collect()
    }

    #[test]
    fn states_that_differ_are_found() {
        let hash = |told: Told, node: &str, revision: u64, sha256: &str| {
            told.ok((1, 2), ("hash", node), json!({}), json!({ "revision": revision, "sha256": sha256 }))
        };
        let told = hash(hash(hash(Told::default(), "node-1", 5, "aa"), "node-2", 5, "aa"), "node-3", 6, "bb");
        assert_eq!(names(hashes(&told.clone().history())), [""; 0]);
        assert_eq!(names(hashes(&hash(told.clone(), "node-3", 5, "ab").history())), ["differing states"]);
        let itself = hash(told, "node-3", 6, "bc");
        assert_eq!(names(hashes(&itself.history())), ["differing states"], "a node must not contradict itself");
    }

    fn group(node: u64, leader: u64, ids: &[u64]) -> Value {
        let member = |id: &u64| json!({ "id": id, "role": "voter", "peer": format!("10.0.0.{id}:7200") });
        let members: Vec<Value> = ids.iter().map(member).collect();
        json!({ "node": node, "leader": leader, "term": 3, "members": members, "changing": false })
    }

    fn asked(told: Told, is_final: bool, body: Value) -> Told {
        let key = format!("node-{}", body["node"]);
        told.ok((1, 2), ("cluster", &key), json!({ "final": is_final }), body)
    }

    #[test]
    fn two_leaders_and_ids_that_come_back_are_found() {
        let told = asked(asked(Told::default(), false, group(1, 1, &[1, 2, 3])), false, group(2, 1, &[1, 2, 3]));
        assert_eq!(names(members(&told.clone().history())), [""; 0]);
        assert_eq!(names(members(&asked(told.clone(), false, group(3, 3, &[1, 2, 3])).history())), ["two leaders"]);
        let left = asked(told.clone(), false, group(1, 1, &[1, 2]));
        assert_eq!(names(members(&left.clone().history())), [""; 0]);
        assert_eq!(names(members(&asked(left, false, group(1, 1, &[1, 2, 3])).history())), ["id used twice"]);
        let mut moved = group(2, 1, &[1, 2, 3]);
        moved["members"][2]["peer"] = json!("10.0.0.9:7200");
        assert_eq!(names(members(&asked(told, false, moved).history())), ["id used twice"]);
    }

    #[test]
    fn in_the_end_all_must_agree() {
        let told = asked(asked(Told::default(), true, group(1, 1, &[1, 2, 3])), true, group(2, 1, &[1, 2, 3]));
        let told = asked(told, true, json!({ "node": 4, "status": 503, "temporary": false }));
        assert_eq!(names(members(&told.clone().history())), [""; 0]);
        assert_eq!(
            names(members(&asked(told.clone(), true, group(3, 1, &[1, 2])).history())).first().unwrap(),
            "no agreement"
        );
        let serves = asked(told.clone(), true, group(4, 1, &[1, 2, 3]));
        assert_eq!(names(members(&serves.history())), ["removed node serves"]);
        let mut half = group(3, 1, &[1, 2, 3]);
        half["changing"] = json!(true);
        assert_eq!(names(members(&asked(told, true, half).history())), ["half a change"]);
    }
}
