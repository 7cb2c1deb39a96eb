//! Sessions of gateways of one's own, and pushes.

use super::*;
use crate::push::{PushRefused, Target};
use crate::view::Stale;
use crate::wire::peer::{Ack, Failure, Payload, TargetStatus};

#[tokio::test]
async fn a_session_lives_from_opening_to_its_end() {
    let api = Api::start().await;
    let open = json!({"gateway": "gw-9", "nonce": "me", "lease_ms": 4000});
    let got = api.post("/v1/sessions", open.clone()).await;
    let body = got.json();
    assert_eq!(got.status, 201);
    let epoch = body["epoch"].as_u64().unwrap();
    let expected = json!({"session": format!("s-{epoch}"), "epoch": epoch, "lease_ms": 4000, "serve_ms": 3200,
                          "renew_every_ms": 800});
    assert_eq!(body, expected);
    assert_eq!(
        api.post("/v1/sessions", open).await.json(),
        expected,
        "a repeated request is answered as the first was"
    );
    let taken = api.post("/v1/sessions", json!({"gateway": "gw-9"})).await;
    assert_eq!(taken.error(), (409, "conflict".into()));

    let path = format!("/v1/sessions/s-{epoch}");
    let renewed = api.call(Method::PUT, &format!("{path}/renew"), &[], "").await;
    assert_eq!(
        renewed.json(),
        json!({"lease_ms": 4000, "serve_ms": 3200, "release": [], "requests": [],
                          "revision": api.backend.revision()})
    );
    let ids = api.register(&path, &["alice"]).await;
    assert_eq!(ids, [format!("c-{epoch}-1")]);
    for _ in 0..2 {
        let ended = api.call(Method::DELETE, &path, &[], r#"{"fenced":true}"#).await;
        assert_eq!((ended.status, ended.body.len()), (204, 0));
    }
    assert_eq!(api.get("/v1/users/alice").await.json()["online"], json!(false));
    let renewed = api.call(Method::PUT, &format!("{path}/renew"), &[], r#"{"handled_revision":3}"#).await;
    assert_eq!(renewed.error(), (410, "gone".into()));
    assert_eq!(api.post(&format!("{path}/batch"), json!({"ops": []})).await.error(), (412, "fenced".into()));
    assert_eq!(api.post("/v1/sessions/s-x/batch", json!({"ops": []})).await.error(), (412, "fenced".into()));
    assert_eq!(api.call(Method::DELETE, "/v1/sessions/what", &[], "").await.status, 204);
}

#[tokio::test]
async fn a_session_that_makes_no_sense_is_refused() {
    let api = Api::start().await;
    for body in [
        json!({}),
        json!({"gateway": ""}),
        json!({"gateway": "g", "lease_ms": 2999}),
        json!({"gateway": "g", "lease_ms": 60001}),
        json!({"gateway": "g", "lease_ms": "3s"}),
        json!({"gateway": "g", "nonce": ""}),
        json!({"gateway": "g", "deliver_url": "ftp://x"}),
    ] {
        assert_eq!(api.post("/v1/sessions", body.clone()).await.error(), (400, "bad_request".into()), "{body}");
    }
    let https = json!({"gateway": "g", "deliver_url": "https://x/"});
    assert_eq!(api.post("/v1/sessions", https).await.error(), (501, "not_implemented".into()));
    assert_eq!(api.backend.revision(), 0, "nothing was proposed");
}

#[tokio::test]
async fn every_operation_of_a_batch_has_its_outcome() {
    let api = Api::start().await;
    let (session, epoch) = api.session("gw").await;
    let batch = json!({"seq": 1, "ops": [
        {"op": "register", "serial": 1, "user": "alice", "meta": {"a": [1, 2]}, "remote": "203.0.113.7"},
        {"op": "register", "serial": 1, "user": "bob"},
        {"op": "register", "serial": 2, "user": "alice", "max": 1},
        {"op": "register", "serial": 3, "user": "bad\u{7}"},
        {"op": "meta", "serial": 1, "meta": {"b": 1}, "if_version": 1},
        {"op": "meta", "serial": 1, "meta": {"b": 2}, "if_version": 1},
        {"op": "meta", "serial": 9, "meta": {}},
        {"op": "unregister", "serial": 9},
    ]});
    let got = api.post(&format!("{session}/batch"), batch.clone()).await;
    let body = got.json();
    assert_eq!((got.status, got.header("x-revision")), (200, Some(body["revision"].to_string().as_str())));
    let results = body["results"].as_array().unwrap();
    let code = |n: usize| results[n]["error"]["code"].as_str();
    assert_eq!(
        results[0],
        json!({"ok": true, "connection": format!("c-{epoch}-1"), "granted": body["revision"], "superseded": []})
    );
    assert_eq!(code(1), Some("conflict"));
    assert_eq!(code(2), Some("connection_limit"));
    assert_eq!(code(3), Some("bad_request"));
    assert_eq!(results[4], json!({"ok": true, "meta_version": 2}));
    assert_eq!((code(5), code(6)), (Some("fenced"), Some("not_found")));
    assert_eq!(results[7], json!({"ok": true, "existed": false}));
    assert_eq!(api.post(&format!("{session}/batch"), batch).await.json(), body, "a repeated batch takes effect once");
    assert_eq!(api.get("/v1/users/alice").await.json()["connections"][0]["meta"], json!({"b": 1}));

    let gap = api.post(&format!("{session}/batch"), json!({"seq": 3, "ops": []})).await;
    assert_eq!((gap.error(), &gap.json()["expected"]), ((409, "conflict".into()), &json!(2)));
    assert_eq!(gap.json()["error"]["applied"], json!("no"));
}

#[tokio::test]
async fn a_batch_that_can_not_be_meant_changes_nothing() {
    let api = Api::start().await;
    let (session, _) = api.session("gw").await;
    let before = api.backend.revision();
    let register = |extra: Value| {
        let mut op = json!({"op": "register", "serial": 2, "user": "bob"});
        op.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        op
    };
    for (op, expected) in [
        (register(json!({"policy": "best"})), 400),
        (register(json!({"per": "room"})), 400),
        (register(json!({"handover": "soon"})), 400),
        (register(json!({"max": 0})), 400),
        (register(json!({"meta": [1]})), 400),
        (json!({"op": "register", "serial": 1}), 400),
        (json!({"op": "register", "user": "bob"}), 400),
        (json!({"op": "unregister"}), 400),
        (json!({"op": "join", "serial": 1}), 400),
        (json!({"op": "leave", "topics": []}), 400),
        (json!({"op": "join", "topics": vec!["t"; 257]}), 413),
        (json!({"op": "dance", "serial": 1}), 400),
        (json!({"op": "meta", "serial": 1}), 400),
        (json!({"serial": 1}), 400),
    ] {
        let first = register(json!({"serial": 1, "handover": "wait", "per": "user", "policy": "multi"}));
        let got = api.post(&format!("{session}/batch"), json!({"ops": [first, op]})).await;
        assert_eq!(got.error().0, expected, "{op}");
    }
    let many: Vec<_> = (0..4097).map(|n| json!({"op": "unregister", "serial": n})).collect();
    let got = api.post(&format!("{session}/batch"), json!({ "ops": many })).await;
    assert_eq!(got.error(), (413, "too_large".into()));
    assert_eq!(api.backend.revision(), before, "nothing was proposed");
    assert_eq!(api.post(&format!("{session}/batch"), json!({"ops": &many[1..]})).await.status, 200);
}

#[tokio::test]
async fn a_failed_write_says_whether_it_took_effect() {
    let api = Api::start().await;
    let leader = Some((1, String::from("127.0.0.1:7201")));
    for (failure, status, code, applied) in [
        (Failure::NoQuorum, 503, "unavailable", "no"),
        (Failure::NotLeader { leader }, 503, "unavailable", "no"),
        (Failure::Overloaded, 429, "rate_limited", "no"),
        (Failure::Unknown, 503, "unavailable", "unknown"),
        (Failure::Refused { why: "too long".into() }, 400, "bad_request", "no"),
    ] {
        let names_leader = matches!(failure, Failure::NotLeader { .. });
        api.backend.tell(|told| told.failure = Some(failure));
        let got = api.post("/v1/sessions/s-1/batch", json!({"ops": []})).await;
        assert_eq!(got.error(), (status, code.into()));
        let error = got.json()["error"].clone();
        assert_eq!(error["applied"], json!(applied));
        assert_eq!(error["leader"], if names_leader { json!("127.0.0.1:7101") } else { Value::Null });
        assert_eq!(error["temporary"], json!(status != 400));
        assert_eq!(got.header("retry-after"), if status == 400 { None } else { Some("1") });
    }
}

#[tokio::test]
async fn a_push_is_told_by_its_targets() {
    let api = Api::start().await;
    let (session, epoch) = api.session("gw").await;
    let ids = api.register(&session, &["alice", "alice", "bob"]).await;
    let data = r#"{"data": {"z":1, "a":1.50},"event":"chat","ack":"client","timeout_ms":500,"devices":["web"],"except":["c-9-9"]}"#;
    let got = api.call(Method::POST, "/v1/users/alice/push", &[], data).await;
    let body = got.json();
    assert_eq!(
        (got.status, &body["outcome"], &body["delivered"], &body["failed"]),
        (200, &json!("delivered"), &json!(2), &json!(0))
    );
    assert_eq!(body["results"][0], json!({"connection": ids[0], "gateway": "gw", "epoch": epoch, "status": "written"}));
    assert!(body["id"].as_str().is_some_and(|id| id.starts_with("m-") && id.len() == 18), "{body}");
    {
        let pushed = api.backend.pushed.lock().unwrap();
        let message = &pushed[0].message;
        assert_eq!(message.data, Payload::Json(Bytes::from_static(br#"{"z":1, "a":1.50}"#)), "passed on as it came");
        assert_eq!((message.ack, message.timeout_ms, message.event.as_deref()), (Ack::Client, 500, Some("chat")));
        assert_eq!((pushed[0].except.len(), pushed[0].devices.len()), (1, 1));
    }
    let offline = api.post("/v1/users/nobody/push", json!({"data": 1})).await;
    assert_eq!(
        (offline.error(), &offline.json()["as_of_revision"]),
        ((404, "offline".into()), &json!(api.backend.revision()))
    );
    for gone in ["c-1-99", "nonsense"] {
        let got = api.post(&format!("/v1/connections/{gone}/push"), json!({"data": 1})).await;
        assert_eq!((got.error(), got.json()["as_of_revision"].is_u64()), ((404, "offline".into()), true));
    }
    let path = format!("/v1/connections/{}/push", ids[2]);
    let matching = format!("\"{epoch}\"");
    for (if_match, status) in [(matching.as_str(), 200), ("\"9\"", 412), ("*", 200), ("x", 400)] {
        let got = api.call(Method::POST, &path, &[("if-match", if_match)], r#"{"data_b64":"aGk="}"#).await;
        assert_eq!(got.status, status, "{if_match}");
    }
    api.backend.tell(|told| told.status = Some(TargetStatus::Slow));
    assert_eq!(api.post("/v1/users/bob/push", json!({"data": null})).await.json()["outcome"], json!("failed"));
    let last = api.backend.pushed.lock().unwrap().last().unwrap().message.data.clone();
    assert_eq!(last, Payload::Json(Bytes::from_static(b"null")));
    for (refused, status, code) in
        [(PushRefused::Unavailable(Stale::NoQuorum), 503, "unavailable"), (PushRefused::Timeout, 504, "timeout")]
    {
        api.backend.tell(|told| told.refused = Some(refused));
        assert_eq!(api.post("/v1/users/bob/push", json!({"data": 1})).await.error(), (status, code.into()));
    }
}

#[tokio::test]
async fn a_push_that_makes_no_sense_is_refused() {
    let api = Api::start().await;
    for (body, status) in [
        (json!({}), 400),
        (json!({"data": 1, "data_b64": "aGk="}), 400),
        (json!({"data_b64": "!"}), 400),
        (json!({"data_b64": "aGk"}), 400),
        (json!({"data": 1, "ack": "maybe"}), 400),
        (json!({"data": 1, "timeout_ms": 0}), 400),
        (json!({"data": 1, "timeout_ms": 60001}), 400),
        (json!({"data": 1, "except": ["x"]}), 400),
        (json!({"data": 1, "event": "x".repeat(129)}), 400),
        (json!({"data": 1, "ttl_ms": 1}), 501),
        (json!({"data": 1, "rate_per_s": 1, "ack": "none"}), 400),
        (json!({"data": "x".repeat(1 << 20)}), 413),
    ] {
        assert_eq!(api.post("/v1/users/a/push", body).await.error().0, status);
    }
    assert!(api.backend.pushed.lock().unwrap().is_empty());
    let key = "k".repeat(129);
    let got = api.call(Method::POST, "/v1/users/a/push", &[("idempotency-key", &key)], r#"{"data":1}"#).await;
    assert_eq!(got.error(), (400, "bad_request".into()));
}

#[tokio::test]
async fn an_idempotency_key_names_one_message_per_target() {
    let api = Api::start().await;
    let (session, _) = api.session("gw").await;
    api.register(&session, &["alice", "bob"]).await;
    let push = async |user: &str, key: &str| {
        let path = format!("/v1/users/{user}/push");
        let got = api.call(Method::POST, &path, &[("idempotency-key", key)], r#"{"data":1}"#).await;
        got.json()["id"].as_str().unwrap().to_owned()
    };
    let first = push("alice", "k1").await;
    assert_eq!(push("alice", "k1").await, first);
    assert_ne!(push("alice", "k2").await, first);
    assert_ne!(push("bob", "k1").await, first);
}

#[tokio::test]
async fn a_batch_of_pushes_answers_each_in_its_place() {
    let api = Api::start().await;
    let (session, _) = api.session("gw").await;
    let ids = api.register(&session, &["alice", "bob"]).await;
    let items = json!({"items": [
        {"user": "alice", "data": 1},
        {"user": "nobody", "data": 2},
        {"topic": "room:7", "data": 3},
        {"connection": ids[1], "data": null},
        {"user": "alice", "connection": ids[1], "data": 5},
        {"user": "alice"},
        {"user": "", "data": 7},
        {"connection": "nonsense", "data": 8},
    ]});
    let got = api.post("/v1/push:batch", items).await;
    assert_eq!(got.status, 200);
    let results = got.json()["results"].clone();
    let code = |n: usize| results[n]["error"]["code"].as_str();
    assert_eq!((&results[0]["outcome"], &results[3]["outcome"]), (&json!("delivered"), &json!("delivered")));
    assert_eq!(results[3]["results"][0]["connection"], json!(ids[1]));
    assert_eq!((code(1), results[1]["as_of_revision"].is_u64()), (Some("offline"), true));
    assert_eq!((code(2), code(4), code(5)), (Some("offline"), Some("bad_request"), Some("bad_request")));
    assert_eq!((code(6), code(7)), (Some("bad_request"), Some("offline")));
    let many: Vec<_> = (0..1001).map(|n| json!({"user": "alice", "data": n})).collect();
    assert_eq!(api.post("/v1/push:batch", json!({"items": &many[1..]})).await.status, 200);
    assert_eq!(api.post("/v1/push:batch", json!({ "items": many })).await.error(), (413, "too_large".into()));
    assert_eq!(api.post("/v1/push:batch", json!({"items": []})).await.json(), json!({"results": []}));
}

#[tokio::test]
async fn topics_and_everybody_are_pushed_to() {
    let api = Api::start().await;
    let (session, _) = api.session("gw").await;
    api.register(&session, &["alice", "bob"]).await;
    let push = |path: &'static str, body| api.post(path, body);
    assert_eq!(push("/v1/topics/room:7/push", json!({"data": 1})).await.error(), (404, "offline".into()));
    let join = json!({"ops": [{"op": "join", "topics": ["room:7"]}]});
    assert_eq!(api.post(&format!("{session}/batch"), join).await.status, 200);
    let got = push("/v1/topics/room:7/push", json!({"data": 1, "devices": ["web"], "event": "e"})).await;
    let answer = got.json();
    assert_eq!((got.status, &answer["outcome"], &answer["delivered"]), (200, &json!("delivered"), &json!(2)));
    let got = push("/v1/broadcast", json!({"data": 2, "ack": "none", "rate_per_s": 10})).await;
    assert_eq!((got.status, &got.json()["outcome"]), (202, &json!("accepted")));
    {
        let pushed = api.backend.pushed.lock().unwrap();
        let [.., topic, all] = pushed.as_slice() else { panic!() };
        assert_eq!(
            (topic.target.clone(), topic.message.topic.as_deref()),
            (Target::Topic("room:7".into()), Some("room:7"))
        );
        assert_eq!((all.target.clone(), all.message.topic.as_deref(), all.rate_per_s), (Target::All, None, 10));
        assert_eq!((&*topic.devices[0], topic.message.event.as_deref()), ("web", Some("e")));
    }
    for (path, body) in [
        ("/v1/broadcast", json!({"data": 1, "rate_per_s": 1})),
        ("/v1/topics/a%00/push", json!({"data": 1})),
        ("/v1/topics/a/push", json!({"data": 1, "rate_per_s": 1_u64 << 40, "ack": "none"})),
    ] {
        assert_eq!(push(path, body).await.error(), (400, "bad_request".into()), "{path}");
    }
    let gateway = "gw-2".into();
    api.backend.tell(|told| told.refused = Some(PushRefused::Busy { gateway }));
    assert_eq!(push("/v1/broadcast", json!({"data": 1})).await.error(), (429, "rate_limited".into()));
    api.backend.tell(|told| told.refused = Some(PushRefused::Unreached { gateways: vec!["gw-2".into()] }));
    assert_eq!(push("/v1/broadcast", json!({"data": 1})).await.error(), (503, "unavailable".into()));
}
