//! Faultless histories, and each with the fault that the checker exists for.

use serde_json::json;

use super::*;
use crate::check::told::Told;

fn opened(revision: u64, n: u64, serial: u64, user: &str) -> Value {
    json!({ "revision": revision, "n": n, "type": "connection.opened", "connection": format!("c-1-{serial}"), "user": user,
        "gateway": "gw", "epoch": 1, "granted": revision })
}

fn online(revision: u64, user: &str) -> Value {
    json!({ "revision": revision, "n": 1, "type": "user.online", "user": user })
}

fn closed(revision: u64, serial: u64, user: &str) -> Value {
    json!({ "revision": revision, "n": 0, "type": "connection.closed", "connection": format!("c-1-{serial}"), "user": user,
        "gateway": "gw", "epoch": 1, "granted": 2 })
}

fn progress(revision: u64) -> Value {
    json!({ "revision": revision, "type": "progress" })
}

/// What a faultless stream shows: a comes, b comes, a goes.
fn lines() -> Vec<Value> {
    let up = json!({ "revision": 1, "n": 0, "type": "gateway.up", "gateway": "gw", "epoch": 1 });
    let offline = json!({ "revision": 4, "n": 1, "type": "user.offline", "user": "a" });
    let (a, b) = (opened(2, 0, 1, "a"), opened(3, 0, 2, "b"));
    vec![up, a, online(2, "a"), b, online(3, "b"), closed(4, 1, "a"), offline, progress(5)]
}

fn stream(told: Told, asked: Value, lines: &[Value]) -> Told {
    told.ok((10, 20), ("watch", "w"), asked, json!({ "lines": lines, "ended": "closed" }))
}

fn batch(told: Told, op: Value, revision: u64, result: Value) -> Told {
    let (ops, results) = (vec![op], vec![result]);
    let asked = json!({ "epoch": 1, "ops": ops });
    told.ok((2, 3), ("batch", "s-1"), asked, json!({ "revision": revision, "results": results }))
}

/// The faultless stream, from the very first change on, and the writes behind it.
fn faultless() -> Told {
    let told = Told::default().ok((0, 1), ("open", "gw"), json!({}), json!({ "session": "s-1", "epoch": 1 }));
    let told = batch(told, json!({ "op": "register", "serial": 1, "user": "a" }), 2, json!({ "ok": true }));
    let told = batch(told, json!({ "op": "register", "serial": 2, "user": "b" }), 3, json!({ "ok": true }));
    let told = batch(told, json!({ "op": "unregister", "serial": 1 }), 4, json!({ "ok": true, "existed": true }));
    stream(told, json!({ "from": "0" }), &lines())
}

fn list(told: Told, connections: Value) -> Told {
    let mut listed = json!({ "revision": 5 });
    listed["connections"] = connections;
    told.ok((30, 31), ("list", "node-1"), json!({}), listed)
}

fn b_listed() -> Value {
    json!([{ "id": "c-1-2", "user": "b", "gateway": "gw", "granted": 3, "device": null, "meta": {}, "meta_version": 1 }])
}

fn names(told: Told) -> Vec<String> {
    check(&told.history()).anomalies.into_iter().map(|anomaly| anomaly.name).collect()
}

#[test]
fn what_is_right_is_not_called_wrong_and_too_little_is_not_called_valid() {
    let told = list(faultless(), b_listed());
    let told = stream(told, json!({ "from": "2.0" }), &lines()[2..]);
    let told = stream(told, json!({ "from": null }), &lines()[3..]);
    let told = stream(told, json!({ "from": "1", "user": "a" }), &[&lines()[1..3], &lines()[5..]].concat());
    let told = stream(told, json!({ "from": "2", "types": ["connection.closed"] }), &[lines()[5].clone(), progress(5)]);
    let checked = check(&told.history());
    assert_eq!(checked.anomalies, []);
    assert_eq!(checked.verdict, Verdict::Unknown, "a few lines prove nothing");
}

#[test]
fn gaps_are_found() {
    for missing in 1..=5 {
        let mut lines = lines();
        lines.remove(missing);
        let found = names(stream(faultless(), json!({ "from": "0" }), &lines));
        assert_eq!(found, ["gap"], "line {missing}");
    }
    // After a resumption that begins one too late; under a filter; within a revision that nobody else has seen.
    let late = stream(faultless(), json!({ "from": "2.0" }), &lines()[3..]);
    assert_eq!(names(late), ["gap"]);
    let filtered = stream(faultless(), json!({ "from": "0", "user": "a" }), &[&lines()[1..2], &lines()[5..]].concat());
    assert_eq!(names(filtered), ["gap"]);
    let mut lines = lines();
    lines.remove(1);
    let hole = stream(Told::default(), json!({ "from": "0" }), &lines);
    assert!(names(hole).contains(&"hole in a revision".to_owned()));
}

#[test]
fn disorder_and_repetition_are_found() {
    let mut swapped = lines();
    swapped.swap(2, 3);
    assert!(names(stream(faultless(), json!({ "from": "0" }), &swapped)).contains(&"reordered change".to_owned()));
    let mut twice = lines();
    twice.insert(3, online(2, "a"));
    assert_eq!(names(stream(faultless(), json!({ "from": "0" }), &twice)), ["repeated change"]);
    let again = stream(faultless(), json!({ "from": "2.1" }), &lines()[2..]);
    assert_eq!(names(again), ["change behind a mark"], "what the mark names was seen");
}

#[test]
fn marks_that_are_not_true_are_found() {
    let mut early = lines();
    early.insert(3, progress(3));
    assert!(names(stream(faultless(), json!({ "from": "0" }), &early)).contains(&"change behind a mark".to_owned()));
    let mut wrong = lines();
    wrong[1]["id"] = json!("3.0");
    assert_eq!(names(stream(faultless(), json!({ "from": "0" }), &wrong)), ["wrong id"]);
}

#[test]
fn one_change_in_two_forms_and_unwanted_ones_are_found() {
    let mut other = lines();
    other[3] = opened(3, 0, 2, "c");
    assert_eq!(names(stream(faultless(), json!({ "from": "0" }), &other)), ["differing change"]);
    let unwanted = stream(faultless(), json!({ "from": "2", "user": "a" }), &lines()[3..]);
    assert_eq!(names(unwanted), ["unwanted change", "unwanted change"]);
}

#[test]
fn compacted_is_believed_only_of_what_is_old() {
    let refused = |from: &str, more: Value| {
        let told = faultless().ok((5, 6), ("watch", "w"), json!({ "from": from }), json!({ "compacted": more }));
        names(told)
    };
    assert_eq!(refused("4", json!({ "oldest_revision": 5 })), [""; 0]);
    assert_eq!(refused("5.1", json!({ "oldest_revision": 5 })), [""; 0]);
    assert_eq!(refused("5", json!({ "oldest_revision": 5 })), ["false compacted"]);
    assert_eq!(refused("9", json!({ "oldest_revision": 5, "revision": 8 })), [""; 0]);
    assert_eq!(refused("8", json!({ "oldest_revision": 5, "revision": 8 })), ["false compacted"]);
}

#[test]
fn writes_that_nobody_sees_and_changes_that_nobody_made_are_found() {
    let register = json!({ "op": "register", "serial": 3, "user": "c" });
    let lost = batch(faultless(), register.clone(), 4, json!({ "ok": true }));
    assert_eq!(names(lost), ["write and watch differ"]);
    let later = batch(faultless(), register, 9, json!({ "ok": true }));
    assert_eq!(names(later), [""; 0], "nobody has watched so far");
    let elsewhere = Told::default().ok((0, 1), ("open", "gw"), json!({}), json!({ "epoch": 1 }));
    let elsewhere = stream(elsewhere, json!({ "from": "0" }), &lines());
    assert_eq!(names(elsewhere), ["phantom", "phantom"]);
    // Unknown is neither: it may be there, or not.
    let op = json!({ "epoch": 1, "seq": 4, "ops": [{ "op": "register", "serial": 4, "user": "d" }] });
    let unknown = |lines: &[Value]| {
        let told = faultless().operation((4, 5), ("batch", "s-1"), op.clone(), (Kind::Info, Value::Null));
        names(stream(told, json!({ "from": "5" }), lines))
    };
    assert_eq!(unknown(&[progress(7)]), [""; 0]);
    assert_eq!(unknown(&[opened(6, 0, 4, "d"), online(6, "d"), progress(7)]), [""; 0]);
    assert_eq!(unknown(&[opened(6, 0, 4, "e"), online(6, "e"), progress(7)]), ["phantom"]);
}

#[test]
fn an_end_that_nobody_sees_is_found() {
    let end = |at_ms: u64| faultless().ok((at_ms, at_ms + 1), ("end", "s-1"), Value::Null, Value::Null);
    assert_eq!(names(list(end(25), b_listed())), ["write and watch differ"]);
    assert_eq!(names(list(end(35), b_listed())), [""; 0], "nobody has looked since");
}

#[test]
fn refused_and_seen_is_found() {
    let told =
        batch(faultless(), json!({ "op": "unregister", "serial": 1 }), 4, json!({ "ok": true, "existed": false }));
    assert_eq!(names(told), ["refused and seen"]);
}

#[test]
fn a_list_that_is_not_what_the_changes_make_is_found() {
    assert_eq!(names(list(faultless(), b_listed())), [""; 0]);
    assert_eq!(names(list(faultless(), json!([]))), ["state and watch differ"]);
    let mut other = b_listed();
    let late = list(batch(faultless(), json!({}), 6, json!({ "ok": true })), b_listed());
    assert_eq!(names(late), ["stale list"], "revision 6 was known before it was asked");
    other[0]["granted"] = json!(2);
    assert_eq!(names(list(faultless(), other)), ["state and watch differ"]);
}

#[test]
fn changes_that_do_not_fit_are_found() {
    let twice = stream(
        Told::default(),
        json!({ "from": "0" }),
        &[opened(1, 0, 1, "a"), online(1, "a"), opened(2, 0, 2, "a"), online(2, "a")],
    );
    assert_eq!(names(twice), [""; 0], "revision 2 may not be complete");
    let twice = stream(
        Told::default(),
        json!({ "from": "0" }),
        &[opened(1, 0, 1, "a"), online(1, "a"), opened(2, 0, 2, "a"), online(2, "a"), progress(3)],
    );
    assert_eq!(names(twice), ["change that does not fit"], "somebody who is there came");
}
