//! Closing, changing and banning from outside the gateways, and topics.

use super::*;
use crate::clock;
use crate::wire::peer::{GatewayAnswer, GatewayAsk, Member, Subscribed};

#[tokio::test]
async fn a_disconnect_asks_the_gateway_and_says_who_is_still_there() {
    let api = Api::start().await;
    let (session, epoch) = api.session("gw").await;
    let ids = api.register(&session, &["alice", "alice", "alice", "bob"]).await;
    let asked = json!({"code": 4321, "reason": "moved", "except": [ids[1]], "devices": ["web"], "timeout_ms": 0});
    let got = api.post("/v1/users/alice/disconnect", asked).await;
    let revision = api.backend.revision();
    assert_eq!(got.json(), json!({"disconnected": 2, "pending": [ids[0], ids[2]], "revision": revision}));
    assert_eq!(got.header("x-revision"), Some(revision.to_string().as_str()));
    let renewed = api.call(Method::PUT, &format!("{session}/renew"), &[], "").await.json();
    let request = |id: &String| json!({"connection": id, "code": 4321, "reason": "moved"});
    assert_eq!(renewed["requests"], json!([request(&ids[0]), request(&ids[2])]));
    assert_eq!(
        api.get("/v1/users/alice").await.json()["connections"].as_array().unwrap().len(),
        3,
        "asked, not removed"
    );

    // The answer waits until the gateway has done it.
    let (answered, ()) = tokio::join!(api.call(Method::POST, "/v1/users/bob/disconnect", &[], ""), async {
        while api.backend.revision() == revision {
            tokio::task::yield_now().await;
        }
        api.op(&session, json!({"op": "unregister", "serial": 4, "reason": "kicked"})).await;
    });
    assert_eq!(answered.json(), json!({"disconnected": 1, "pending": [], "revision": revision + 1}));
    let nobody = api.call(Method::POST, "/v1/users/nobody/disconnect", &[], "").await;
    assert_eq!((nobody.status, &nobody.json()["disconnected"]), (200, &json!(0)));

    let gone = api.call(Method::DELETE, &format!("/v1/connections/{}?timeout_ms=0&code=4500", ids[1]), &[], "").await;
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    let renewed = api.call(Method::PUT, &format!("{session}/renew"), &[], "").await.json();
    assert_eq!(renewed["requests"][1], json!({"connection": ids[1], "code": 4500}));
    for id in [format!("c-{epoch}-99"), "c-99-1".into(), "nonsense".into()] {
        let got = api.call(Method::DELETE, &format!("/v1/connections/{id}"), &[], "").await;
        assert_eq!((got.error(), &got.json()["error"]["applied"]), ((404, "not_found".into()), &json!("no")), "{id}");
    }
}

#[tokio::test]
async fn a_disconnect_that_makes_no_sense_is_refused() {
    let api = Api::start().await;
    for body in [
        json!({"code": 3999}),
        json!({"code": 5000}),
        json!({"code": "kicked"}),
        json!({"reason": "x".repeat(124)}),
        json!({"reason": "a\nb"}),
        json!({"except": ["everybody"]}),
        json!({"devices": ["x".repeat(129)]}),
        json!({"timeout_ms": 60_001}),
    ] {
        assert_eq!(api.post("/v1/users/a/disconnect", body.clone()).await.error().0, 400, "{body}");
    }
    for query in ["code=1000", "code=x", "timeout_ms=60001"] {
        let got = api.call(Method::DELETE, &format!("/v1/connections/c-1-1?{query}"), &[], "").await;
        assert_eq!(got.error().0, 400, "{query}");
    }
    assert_eq!(api.backend.revision(), 0, "nothing was proposed");
    let failure = crate::wire::peer::Failure::Unknown;
    api.backend.tell(|told| told.failure = Some(failure));
    let got = api.post("/v1/users/a/disconnect", json!({})).await;
    assert_eq!((got.error(), &got.json()["error"]["applied"]), ((503, "unavailable".into()), &json!("unknown")));
}

#[tokio::test]
async fn metadata_is_replaced_if_it_is_what_the_caller_has_seen() {
    let api = Api::start().await;
    let (session, epoch) = api.session("gw").await;
    let id = api.register(&session, &["alice"]).await.remove(0);
    let path = format!("/v1/connections/{id}/meta");
    let put = async |if_match: &str, body: &str| {
        api.call(Method::PUT, &path, &[("if-match", if_match)], body.to_owned()).await
    };
    let got = put("\"1\"", r#" {"a": 1} "#).await;
    assert_eq!(got.json(), json!({"meta_version": 2, "revision": api.backend.revision()}));
    let shown = api.get(&format!("/v1/connections/{id}")).await.json();
    assert_eq!((&shown["meta"], &shown["meta_version"]), (&json!({"a": 1}), &json!(2)));
    let other = put("\"1\"", "{}").await;
    assert_eq!((other.error(), &other.json()["meta_version"]), ((412, "fenced".into()), &json!(2)));
    assert_eq!(put("*", "{}").await.json()["meta_version"], json!(3));
    assert_eq!(api.put(&path, json!({})).await.json()["meta_version"], json!(4));
    for (body, status) in [("[1]", 400), ("", 400), ("{", 400), ("7", 400)] {
        assert_eq!(put("*", body).await.error().0, status, "{body}");
    }
    assert_eq!(put("x", "{}").await.error().0, 400);
    for length in [5000, 70_000] {
        assert_eq!(put("*", &json!({"a": "x".repeat(length)}).to_string()).await.error(), (413, "too_large".into()));
    }
    for id in [format!("c-{epoch}-99"), "c-99-1".into(), "nonsense".into()] {
        let got = api.put(&format!("/v1/connections/{id}/meta"), json!({})).await;
        assert_eq!((got.error(), &got.json()["error"]["applied"]), ((404, "not_found".into()), &json!("no")), "{id}");
    }
}

#[tokio::test]
async fn a_banned_user_is_closed_and_refused_until_the_ban_is_lifted() {
    let api = Api::start().await;
    let (session, _) = api.session("gw").await;
    let ids = api.register(&session, &["alice"]).await;
    let until = clock::rfc3339(clock::wall_ms() + 3_600_000);
    let got = api.put("/v1/bans/alice", json!({"until": until, "reason": "spam", "timeout_ms": 0})).await;
    let revision = api.backend.revision();
    let ban = json!({"user": "alice", "until": until, "reason": "spam", "revision": revision});
    let mut expected = ban.clone();
    expected["disconnected"] = json!(1);
    expected["pending"] = json!(ids);
    assert_eq!((got.status, got.json()), (200, expected));
    assert_eq!(api.get("/v1/bans").await.json(), json!({"bans": [ban], "next_cursor": null, "revision": revision}));
    let renewed = api.call(Method::PUT, &format!("{session}/renew"), &[], "").await.json();
    assert_eq!(renewed["requests"], json!([{"connection": ids[0], "code": 4003, "reason": "spam"}]));
    let refused = api.op(&session, json!({"op": "register", "serial": 2, "user": "alice"})).await;
    assert_eq!(refused["error"]["code"], json!("forbidden"));
    assert_eq!(refused["error"]["message"], json!("the user is banned: spam"));

    let lifted = api.call(Method::DELETE, "/v1/bans/alice", &[], "").await;
    assert_eq!((lifted.status, lifted.body.len()), (204, 0));
    assert_eq!(api.call(Method::DELETE, "/v1/bans/alice", &[], "").await.error(), (404, "not_found".into()));
    assert_eq!(api.op(&session, json!({"op": "register", "serial": 3, "user": "alice"})).await["ok"], json!(true));
    assert_eq!(api.put("/v1/bans/bob", json!({})).await.json()["until"], Value::Null);
}

#[tokio::test]
async fn a_ban_that_makes_no_sense_is_refused() {
    let api = Api::start().await;
    for body in [
        json!({"until": "2001-01-01T00:00:00Z"}),
        json!({"until": "tomorrow"}),
        json!({"until": 7}),
        json!({"reason": "x".repeat(4097)}),
        json!({"reason": "a\u{7}"}),
    ] {
        assert_eq!(api.put("/v1/bans/a", body.clone()).await.error(), (400, "bad_request".into()), "{body}");
    }
    assert_eq!(api.put("/v1/bans/a%07", json!({})).await.error().0, 400);
    assert_eq!(api.backend.revision(), 0, "nothing was proposed");
}

#[tokio::test]
async fn bans_come_in_pages_by_user() {
    let api = Api::start().await;
    let mut users: Vec<String> = (0..25).map(|n| format!("user %/{}", n * 7 % 25)).collect();
    for user in &users {
        let path = format!("/v1/bans/{}", user.replace('%', "%25").replace(' ', "%20").replace('/', "%2F"));
        assert_eq!(api.put(&path, json!({})).await.status, 200);
    }
    users.sort();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/v1/bans?limit=10{cursor}")).await.json();
        seen.extend(page["bans"].as_array().unwrap().iter().map(|ban| ban["user"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, users);
    for query in ["limit=0", "limit=10001", "cursor=7", "cursor=1.%25"] {
        assert_eq!(api.get(&format!("/v1/bans?{query}")).await.error().0, 400, "{query}");
    }
}

#[tokio::test]
async fn topics_are_counted_by_gateways_and_members_are_not_made_up() {
    let api = Api::start().await;
    let ((one, _), (two, _)) = (api.session("gw-b").await, api.session("gw-a").await);
    api.op(&one, json!({"op": "join", "topics": ["room:7", "room/8"]})).await;
    api.op(&two, json!({"op": "join", "topics": ["room:7"]})).await;
    let revision = api.backend.revision();
    let got = api.get("/v1/topics?prefix=room:&limit=5").await;
    let topics = json!([{"topic": "room:7", "connections": 2, "gateways": 2}]);
    assert_eq!(got.json(), json!({"topics": topics, "at_least": true, "revision": revision}));
    assert_eq!(got.header("x-revision"), Some(revision.to_string().as_str()));
    assert_eq!(
        api.get("/v1/topics/room:7").await.json(),
        json!({"topic": "room:7", "connections": 2, "gateways": ["gw-a", "gw-b"], "at_least": true, "revision": revision})
    );
    let members = api.get("/v1/topics/room%2F8/members").await.json();
    assert_eq!(members, json!({"members": [], "next_cursor": null, "unknown": ["gw-b"], "revision": revision}));
    let nobody = api.get("/v1/topics/room:9").await.json();
    assert_eq!((&nobody["connections"], &nobody["at_least"]), (&json!(0), &json!(false)));
    assert_eq!(api.get("/v1/topics/room:9/members").await.json()["unknown"], json!([]));
    assert_eq!(api.get("/v1/stats").await.json()["topics"], json!(2));
    for path in ["/v1/topics/a%07", "/v1/topics?limit=0", &format!("/v1/topics?prefix={}", "x".repeat(129))] {
        assert_eq!(api.get(path).await.error().0, 400, "{path}");
    }
    api.call(Method::DELETE, &one, &[], "").await;
    assert_eq!(api.get("/v1/topics/room%2F8").await.json()["gateways"], json!([]));
}

#[tokio::test]
async fn gateways_tell_how_many_are_subscribed_and_who() {
    let api = Api::start().await;
    let ((one, _), (two, _)) = (api.session("gw-a").await, api.session("gw-b").await);
    let ids = api.register(&one, &["alice", "bob"]).await;
    for session in [&one, &two] {
        api.op(session, json!({"op": "join", "topics": ["room:7", "news"]})).await;
    }
    // The first has alice and bob in room:7 and nobody in news; the second can be asked for counts only.
    api.backend.tell(|told| {
        told.of_gateways = Some(|gateway, ask| {
            let member = |serial: u64, user: &str| {
                // Its session is the first entry of the log.
                let (id, device) = (crate::directory::ConnectionId { epoch: 1, serial }, "".into());
                Member { id, user: user.into(), device }
            };
            match (gateway, ask) {
                ("gw-a", GatewayAsk::Most { .. }) => Some(GatewayAnswer::Most(vec![("room:7".into(), 2)])),
                ("gw-a", GatewayAsk::Counts(topics)) => Some(GatewayAnswer::Counts(
                    topics.iter().map(|topic| 2 * u64::from(&**topic == "room:7")).collect(),
                )),
                ("gw-b", GatewayAsk::Most { .. }) => Some(GatewayAnswer::Most(vec![("news".into(), 5)])),
                ("gw-b", GatewayAsk::Counts(topics)) => Some(GatewayAnswer::Counts(vec![5; topics.len()])),
                ("gw-a", GatewayAsk::Members { after, limit, .. }) => {
                    let all = [member(1, "alice"), member(2, "bob")];
                    let rest: Vec<_> =
                        all.into_iter().filter(|m| after.is_none_or(|after| m.id.serial > after)).collect();
                    let more = rest.len() > *limit as usize;
                    Some(GatewayAnswer::Members { members: rest.into_iter().take(*limit as usize).collect(), more })
                }
                ("gw-a", GatewayAsk::Subscribe { connections, .. }) => {
                    let refused =
                        Subscribed::Refused { code: "limit".into(), why: "too many".into(), temporary: false };
                    Some(GatewayAnswer::Subscribed([vec![refused], vec![Subscribed::At(99)]].concat()))
                        .filter(|_| connections.len() == 2)
                        .or(Some(GatewayAnswer::Subscribed(vec![Subscribed::At(99); connections.len()])))
                }
                _ => None,
            }
        });
    });
    let list = api.get("/v1/topics").await.json();
    let topic = |name: &str, connections| json!({"topic": name, "connections": connections, "gateways": 2});
    assert_eq!((&list["topics"], &list["at_least"]), (&json!([topic("room:7", 7), topic("news", 5)]), &json!(false)));
    let shown = api.get("/v1/topics/room:7").await.json();
    assert_eq!((&shown["connections"], &shown["at_least"]), (&json!(7), &json!(false)));
    let page = api.get("/v1/topics/room:7/members?limit=1").await.json();
    assert_eq!(page["members"], json!([{"user": "alice", "connection": "c-1-1"}]));
    let next = page["next_cursor"].as_str().unwrap();
    let page = api.get(&format!("/v1/topics/room:7/members?limit=1&cursor={next}")).await.json();
    assert_eq!(page["members"][0]["user"], "bob");
    assert_eq!((&page["next_cursor"], &page["unknown"]), (&Value::Null, &json!(["gw-b"])));
    let connections = api.get("/v1/connections?topic=room:7&user=bob").await.json();
    assert_eq!((&connections["connections"][0]["id"], &connections["unknown"]), (&json!(ids[1]), &json!(["gw-b"])));
    let subscribed = api.post("/v1/users/alice/subscribe", json!({"topics": ["room:7", "b", "b"]})).await.json();
    assert_eq!((&subscribed["connections"], &subscribed["revision"]), (&json!(1), &json!(99)));
    let (gateway, ask) = api.backend.asked.lock().unwrap().pop().unwrap();
    let GatewayAsk::Subscribe { topics, begins: true, .. } = ask else { panic!("{ask:?}") };
    assert_eq!((&*gateway, topics), ("gw-a", vec!["b".into(), "room:7".into()]));
    api.register(&two, &["carol"]).await;
    let unknown = api.post("/v1/users/carol/unsubscribe", json!({"topics": ["b"]})).await;
    assert_eq!(unknown.error(), (503, "unavailable".into()));
    let nobody = api.post("/v1/users/nobody/unsubscribe", json!({"topics": ["b"]})).await.json();
    assert_eq!(nobody["connections"], 0);
    for body in [json!({"topics": []}), json!({"topics": [""]}), json!({})] {
        assert_eq!(api.post("/v1/users/alice/subscribe", body).await.error(), (400, "bad_request".into()));
    }
}

#[tokio::test]
async fn what_a_gateway_does_not_hold_is_asked_of_a_node() {
    let api = Api::start().await;
    api.backend.tell(|told| told.passed_on = Some(""));
    for path in ["/v1/bans?limit=3", "/v1/topics?prefix=a"] {
        let got = api.get(path).await;
        assert_eq!((&got.body[..], got.header("x-revision")), (path.as_bytes(), Some("77")));
    }
    assert_eq!(api.get("/v1/stats").await.json()["topics"], Value::Null, "the rest is known all the same");
    let stats = r#"{"connections":1,"users":1,"topics":9,"gateways":[],"revision":5}"#;
    api.backend.tell(|told| told.passed_on = Some(stats));
    assert_eq!(api.get("/v1/stats").await.json()["topics"], json!(9));
}
