//! Faultless histories, and each with the fault that the checker exists for.

use serde_json::json;

use super::*;
use crate::check::told::Told;
use crate::history::Kind;

/// Two users, each with a socket, both watched.
fn two() -> Told {
    let opened = |revision: u64, user: &str| json!({ "revision": revision, "n": 0, "type": "connection.opened", "user": user, "connection": format!("c-1-{revision}") });
    let closed = json!({ "revision": 9, "n": 0, "type": "connection.closed", "user": "b", "connection": "c-1-6" });
    let progress = json!({ "revision": 20, "type": "progress" });
    let lines = json!({ "lines": [opened(5, "a"), opened(6, "b"), closed, progress] });
    let welcome = |socket: u64, revision: u64| json!({ "socket": socket, "connection": format!("c-1-{revision}"), "granted": revision, "revision": revision });
    Told::default()
        .ok((0, 900), ("watch", "w"), json!({ "from": "0" }), lines)
        .ok((1, 2), ("connect", "a"), json!({}), welcome(1, 5))
        .ok((1, 2), ("connect", "b"), json!({}), welcome(2, 6))
}

fn frame(told: Told, at_ms: u64, user: &str, id: &str) -> Told {
    let (socket, granted) = if user == "a" { (1, 5) } else { (2, 6) };
    let value = json!({ "socket": socket, "connection": format!("c-1-{granted}"), "id": id, "granted": granted });
    told.ok((at_ms, at_ms), ("frame", user), Value::Null, value)
}

fn barrier(told: Told, at_ms: u64) -> Told {
    told.ok((at_ms, at_ms + 1), ("barrier", "a"), json!({ "socket": 1 }), Value::Null)
}

fn reached(connection: &str, status: &str) -> Value {
    json!({ "results": [{ "connection": connection, "status": status }] })
}

/// A push to `a`, answered 10 ms later.
fn push(told: Told, at_ms: u64, id: &str, result: Value) -> Told {
    let asked = json!({ "caller": 1, "ack": "written", "items": [{ "id": id, "user": "a" }] });
    let results = vec![result];
    told.ok((at_ms, at_ms + 10), ("push", "a"), asked, json!({ "results": results }))
}

fn names(told: Told) -> Vec<String> {
    check(&told.history()).anomalies.into_iter().map(|anomaly| anomaly.name).collect()
}

#[test]
fn what_was_acknowledged_and_not_received_is_found() {
    let told = push(two(), 10, "p-1", reached("c-1-5", "written"));
    assert_eq!(names(told.clone()), [""; 0], "its socket may have died");
    assert_eq!(names(barrier(told.clone(), 19)), [""; 0], "it was asked before the push was answered");
    assert_eq!(names(barrier(told.clone(), 21)), ["lost push"]);
    assert_eq!(names(frame(barrier(told, 21), 15, "a", "p-1")), [""; 0]);
    let acked = push(two(), 10, "p-1", reached("c-1-5", "acked"));
    assert_eq!(names(acked), ["lost push"], "nobody can have acknowledged it");
    let queued = json!({ "caller": 1, "ack": "none", "items": [{ "id": "p-1", "user": "a" }] });
    let results = json!({ "results": [reached("c-1-5", "written")] });
    assert_eq!(names(barrier(two().ok((1, 2), ("push", "a"), queued, results), 21)), [""; 0], "nothing was promised");
}

#[test]
fn what_reached_another_is_found() {
    let told = push(two(), 10, "p-1", reached("c-1-5", "written"));
    assert_eq!(names(frame(told.clone(), 15, "b", "p-1")), ["misdirected push"]);
    assert_eq!(names(frame(told, 15, "a", "p-2")), ["push from nowhere"]);
    assert_eq!(names(push(two(), 10, "p-1", reached("c-1-6", "written"))), ["misdirected push"]);
    let asked = json!({ "caller": 1, "items": [{ "id": "p-1", "connection": "c-1-4" }] });
    let told = two().ok((10, 20), ("push", "c-1-4"), asked, json!({ "results": [reached("c-1-4", "written")] }));
    assert_eq!(names(frame(told, 15, "a", "p-1")), ["misdirected push"], "it was for a connection that was before");
}

#[test]
fn what_came_twice_or_with_a_wrong_grant_is_found() {
    let told = push(two(), 10, "p-1", reached("c-1-5", "written"));
    assert_eq!(names(frame(frame(told.clone(), 15, "a", "p-1"), 16, "a", "p-1")), ["double delivery"]);
    let value = json!({ "socket": 1, "connection": "c-1-5", "id": "p-1", "granted": 4 });
    assert_eq!(names(told.ok((15, 15), ("frame", "a"), Value::Null, value)), ["wrong grant"]);
}

#[test]
fn what_came_in_another_order_is_found() {
    let told = push(push(two(), 10, "p-1", reached("c-1-5", "written")), 30, "p-2", reached("c-1-5", "written"));
    assert_eq!(names(frame(frame(told.clone(), 35, "a", "p-1"), 36, "a", "p-2")), [""; 0]);
    assert_eq!(names(frame(frame(told, 35, "a", "p-2"), 36, "a", "p-1")), ["reordered push"]);
    let batch = json!({ "caller": 1, "items": [{ "id": "p-1", "user": "a" }, { "id": "p-2", "user": "a" }] });
    let results = json!({ "results": [reached("c-1-5", "written"), reached("c-1-5", "written")] });
    let told = two().ok((10, 20), ("push", "batch"), batch, results);
    assert_eq!(names(frame(frame(told, 15, "a", "p-2"), 16, "a", "p-1")), ["reordered push"]);
    // One that nobody knows of may come whenever it likes.
    let asked = json!({ "caller": 1, "items": [{ "id": "p-1", "user": "a" }] });
    let told = two().operation((10, 20), ("push", "a"), asked, (Kind::Info, Value::Null));
    let told = push(told, 30, "p-2", reached("c-1-5", "written"));
    assert_eq!(names(frame(frame(told, 35, "a", "p-2"), 36, "a", "p-1")), [""; 0]);
}

#[test]
fn who_is_called_offline_and_is_not_is_found() {
    assert_eq!(names(push(two(), 10, "p-1", json!({ "offline": 8 }))), ["false offline"]);
    assert_eq!(names(push(two(), 10, "p-1", json!({ "offline": 5 }))), ["offline long ago", "false offline"]);
    assert_eq!(names(push(two(), 10, "p-1", json!({ "offline": 21 }))), [""; 0], "nobody has watched so far");
    let to = |target: Value, at: u64| {
        let mut item = target;
        item["id"] = json!("p-1");
        let asked = json!({ "caller": 1, "items": [item] });
        names(two().ok((10, 20), ("push", "x"), asked, json!({ "results": [{ "offline": at }] })))
    };
    assert_eq!(to(json!({ "user": "b" }), 8), ["false offline"]);
    assert_eq!(to(json!({ "user": "b" }), 9), [""; 0], "it had gone");
    assert_eq!(to(json!({ "connection": "c-1-6" }), 8), ["false offline"]);
    assert_eq!(to(json!({ "connection": "c-1-6" }), 9), [""; 0]);
}

#[test]
fn a_socket_that_is_another_connection_is_known_by_it() {
    let rebound = json!({ "socket": 1, "type": "rebound", "connection": "c-7-1", "granted": 8 });
    let told = two().ok((5, 5), ("frame", "a"), Value::Null, rebound);
    let value = json!({ "socket": 1, "connection": "c-7-1", "id": "p-1", "granted": 8 });
    let pushed = push(told.clone(), 10, "p-1", reached("c-7-1", "written"));
    assert_eq!(names(pushed.clone().ok((15, 15), ("frame", "a"), Value::Null, value)), [""; 0]);
    assert_eq!(names(barrier(pushed, 30)), ["lost push"]);
}
