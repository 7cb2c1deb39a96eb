//! Who may have a place, and who is asked to give it up.

use super::*;

fn exclusive(serial: u64, user: &str, more: &Value) -> Value {
    let mut op = json!({"op": "register", "serial": serial, "user": user, "policy": "newest_wins"});
    op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    op
}

#[tokio::test]
async fn the_newest_waits_for_its_place_unless_it_wants_it_at_once() {
    let api = Api::start().await;
    let ((old, old_epoch), (new, new_epoch)) = (api.session("old").await, api.session("new").await);
    api.op(&old, exclusive(1, "alice", &json!({"device": "web"}))).await;
    let waits = api.op(&new, exclusive(1, "alice", &json!({"handover": "wait"}))).await;
    assert_eq!(waits, json!({"ok": true, "connection": format!("c-{new_epoch}-1"), "pending": true}));

    let renewed = api.call(Method::PUT, &format!("{old}/renew"), &[], "").await.json();
    assert_eq!(renewed["release"], json!([format!("c-{old_epoch}-1")]));
    assert_eq!(renewed["requests"], json!([{"connection": format!("c-{old_epoch}-1"), "code": 4004}]));
    assert_eq!(renewed["revision"], json!(api.backend.revision()));
    api.op(&old, json!({"op": "unregister", "serial": 1, "reason": "superseded"})).await;
    let granted = api.get("/v1/users/alice").await.json()["connections"][0].clone();
    assert_eq!((&granted["gateway"], &granted["granted"]), (&json!("new"), &json!(api.backend.revision())));

    // Another device stands beside it, and is taken away at once.
    let by_device = json!({"device": "ios", "per": "device"});
    api.op(&old, exclusive(2, "bob", &by_device)).await;
    let immediate = json!({"device": "ios", "per": "device", "handover": "immediate"});
    let taken = api.op(&new, exclusive(2, "bob", &immediate)).await;
    assert_eq!(taken["superseded"], json!([format!("c-{old_epoch}-2")]));
    let beside = api.op(&old, exclusive(3, "bob", &json!({"device": "web", "per": "device"}))).await;
    assert_eq!(beside["superseded"], json!([]));
}

#[tokio::test]
async fn a_refused_newcomer_is_told_who_has_the_place_and_whether_it_may_soon_be_free() {
    let api = Api::start().await;
    let ((old, epoch), (new, _)) = (api.session("old").await, api.session("new").await);
    let granted = api.op(&old, exclusive(1, "alice", &json!({"device": "web"}))).await["granted"].clone();
    let oldest = |serial| exclusive(serial, "alice", &json!({"policy": "oldest_wins"}));
    let refused = api.op(&new, oldest(1)).await["error"].clone();
    let owner = json!({"connection": format!("c-{epoch}-1"), "gateway": "old", "device": "web", "granted": granted, "live": true});
    assert_eq!((&refused["code"], &refused["owner"]), (&json!("conflict"), &owner));
    assert_eq!(refused["temporary"], json!(false));
    assert!(refused["message"].as_str().unwrap().contains("on gateway old"), "{refused}");

    // Its gateway has gone without a word, so it may still serve.
    api.call(Method::DELETE, &old, &[], "").await;
    let refused = api.op(&new, oldest(2)).await["error"].clone();
    assert_eq!((&refused["owner"]["live"], &refused["temporary"]), (&json!(false), &json!(true)));
    api.call(Method::DELETE, &old, &[], r#"{"fenced":true}"#).await;
    assert_eq!(api.op(&new, oldest(3)).await["ok"], json!(true), "what is fenced claims nothing");
}

#[tokio::test]
async fn an_open_socket_does_not_come_back_over_a_later_grant() {
    let api = Api::start().await;
    let ((old, _), (new, epoch)) = (api.session("old").await, api.session("new").await);
    let since = api.op(&old, exclusive(1, "alice", &json!({}))).await["granted"].clone();
    api.call(Method::DELETE, &old, &[], r#"{"fenced":true}"#).await;
    api.op(&new, exclusive(1, "alice", &json!({}))).await;
    let (again, _) = api.session("old-2").await;
    let refused = api.op(&again, exclusive(1, "alice", &json!({"since": since}))).await["error"].clone();
    assert_eq!(refused["code"], json!("conflict"));
    assert!(refused["message"].as_str().unwrap().starts_with(&format!("c-{epoch}-1 ")), "{refused}");
}

#[tokio::test]
async fn limits_count_users_or_devices_and_what_raced_may_be_tried_again() {
    let api = Api::start().await;
    let (session, _) = api.session("gw").await;
    let register = |serial: u64, device: &str, per: &str| json!({"op": "register", "serial": serial, "user": "a", "device": device, "per": per, "max": 1});
    assert_eq!(api.op(&session, register(1, "web", "device")).await["ok"], json!(true));
    assert_eq!(api.op(&session, register(2, "ios", "device")).await["ok"], json!(true));
    assert_eq!(api.op(&session, register(3, "ios", "device")).await["error"]["code"], json!("connection_limit"));
    assert_eq!(api.op(&session, register(4, "tv", "user")).await["error"]["code"], json!("connection_limit"));
    let raced = api.op(&session, json!({"op": "meta", "serial": 1, "meta": {}, "if_version": 7})).await;
    assert_eq!((&raced["error"]["code"], &raced["error"]["temporary"]), (&json!("fenced"), &json!(true)));
}

#[tokio::test]
async fn a_session_joins_and_leaves_topics_whoever_of_it_subscribes() {
    let api = Api::start().await;
    let (session, _) = api.session("gw").await;
    for op in [
        json!({"op": "join", "serial": 7, "topics": ["room:7", "room:8"]}),
        json!({"op": "join", "topics": ["room:7"]}),
        json!({"op": "leave", "serial": 9, "topics": ["room:8", "room:9"]}),
    ] {
        assert_eq!(api.op(&session, op.clone()).await, json!({"ok": true}), "{op}");
    }
    let refused = api.op(&session, json!({"op": "join", "topics": ["a\u{7}"]})).await;
    assert_eq!(refused["error"]["code"], json!("bad_request"));
    let join = |count: usize| json!({"op": "join", "topics": vec!["t"; count]});
    let full = || json!({"ops": (0..16).map(|_| join(256)).collect::<Vec<_>>()});
    assert_eq!(api.post(&format!("{session}/batch"), full()).await.status, 200);
    let mut more = full();
    more["ops"].as_array_mut().unwrap().push(join(1));
    assert_eq!(api.post(&format!("{session}/batch"), more).await.error(), (413, "too_large".into()));
}
