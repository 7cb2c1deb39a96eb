//! Lookups, lists, counts.

use std::time::Duration;

use super::*;
use crate::view::Stale;

#[tokio::test]
async fn a_user_is_found_where_it_was_registered() {
    let api = Api::start().await;
    let (session, epoch) = api.session("gw-9").await;
    let ids = api.register(&session, &["alice", "bob", "alice"]).await;

    let got = api.get("/v1/users/alice").await;
    let body = got.json();
    assert_eq!((got.status, &body["online"], &body["user"]), (200, &json!(true), &json!("alice")));
    assert_eq!(got.header("x-revision"), Some(api.backend.revision().to_string().as_str()));
    assert_eq!(body["revision"], json!(api.backend.revision()));
    assert_eq!(got.header("x-staleness-ms"), None);
    let first = &body["connections"][0];
    assert_eq!(first["id"], json!(ids[0]));
    assert_eq!((&first["gateway"], &first["epoch"], &first["device"]), (&json!("gw-9"), &json!(epoch), &json!("web")));
    assert_eq!((&first["meta"], &first["meta_version"]), (&json!({}), &json!(1)));
    assert_eq!(body["connections"].as_array().unwrap().len(), 2);

    let unknown = api.get("/v1/users/nobody").await;
    assert_eq!((unknown.status, &unknown.json()["online"]), (200, &json!(false)));
    assert_eq!(api.call(Method::HEAD, "/v1/users/alice", &[], "").await.status, 200);
    assert_eq!(api.call(Method::HEAD, "/v1/users/nobody", &[], "").await.status, 404);

    let one = api.get(&format!("/v1/connections/{}", ids[1])).await;
    assert_eq!((one.status, &one.json()["user"]), (200, &json!("bob")));
    assert_eq!(api.get("/v1/connections/c-1-99").await.error(), (404, "not_found".into()));
    assert_eq!(api.get("/v1/connections/what").await.error(), (404, "not_found".into()));
}

#[tokio::test]
async fn names_are_percent_decoded_and_checked() {
    let api = Api::start().await;
    let (session, _) = api.session("gw").await;
    api.register(&session, &["a/b c", "jürgen", "50%"]).await;
    for (path, user) in [("a%2Fb%20c", "a/b c"), ("j%C3%BCrgen", "jürgen"), ("50%25", "50%")] {
        let body = api.get(&format!("/v1/users/{path}")).await.json();
        assert_eq!((&body["user"], &body["online"]), (&json!(user), &json!(true)));
    }
    for bad in ["%00", "%0A", "%FF", &"x".repeat(129)] {
        assert_eq!(api.get(&format!("/v1/users/{bad}")).await.error(), (400, "bad_request".into()), "{bad}");
    }
    assert_eq!(api.get(&format!("/v1/users/{}", "x".repeat(128))).await.status, 200);
    assert_eq!(api.get(&format!("/v1/connections/{}", "x".repeat(129))).await.error(), (400, "bad_request".into()));
}

#[tokio::test]
async fn many_users_are_looked_up_at_once() {
    let api = Api::start().await;
    let (session, _) = api.session("gw").await;
    api.register(&session, &["alice"]).await;
    let got = api.post("/v1/users:lookup", json!({"users": ["alice", "bob"]})).await.json();
    assert_eq!(got["users"]["alice"]["online"], json!(true));
    assert_eq!(got["users"]["bob"]["online"], json!(false));
    assert_eq!(got["revision"], json!(api.backend.revision()));
    let many: Vec<_> = (0..10_001).map(|n| n.to_string()).collect();
    assert_eq!(api.post("/v1/users:lookup", json!({"users": &many[1..]})).await.status, 200);
    assert_eq!(api.post("/v1/users:lookup", json!({ "users": many })).await.error(), (413, "too_large".into()));
    assert_eq!(api.post("/v1/users:lookup", json!({"users": [""]})).await.error(), (400, "bad_request".into()));
    assert_eq!(api.post("/v1/users:lookup", json!({})).await.error(), (400, "bad_request".into()));
}

#[tokio::test]
async fn a_read_is_as_fresh_as_was_asked_or_refused() {
    let api = Api::start().await;
    let cached = api.get("/v1/users/a?consistency=cached").await;
    assert_eq!((cached.status, cached.header("x-staleness-ms")), (200, Some("7")));
    assert_eq!(api.get("/v1/users/a?consistency=cached&max_stale_ms=7").await.status, 200);
    assert_eq!(api.get("/v1/users/a?consistency=cached&max_stale_ms=6").await.error(), (503, "unavailable".into()));

    api.backend.tell(|told| (told.stale, told.staleness) = (Some(Stale::NoQuorum), None));
    let refused = api.get("/v1/users/a").await;
    assert_eq!(refused.error(), (503, "unavailable".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let never_confirmed = api.get("/v1/users/a?consistency=cached").await;
    assert_eq!(never_confirmed.error(), (503, "unavailable".into()), "what was never learned is not shown as nobody");
    assert_eq!(api.get("/v1/users/a?consistency=cached&max_stale_ms=60000").await.status, 503);
    assert_eq!(api.call(Method::HEAD, "/v1/users/a", &[], "").await.status, 503);

    api.backend.tell(|told| (told.stale, told.staleness) = (None, Some(Duration::from_millis(7))));
    assert_eq!(api.get("/v1/users/a?min_revision=99&timeout_ms=20").await.error(), (504, "timeout".into()));
    let waiting = async { api.get("/v1/users/a?min_revision=1&consistency=cached").await.json()["revision"].clone() };
    let (revision, _) = tokio::join!(waiting, api.session("gw"));
    assert_eq!(revision, json!(1));

    for bad in ["consistency=strong", "min_revision=x", "timeout_ms=0", "timeout_ms=99999999", "max_stale_ms=-1"] {
        let got = api.get(&format!("/v1/users/a?{bad}")).await;
        assert_eq!(got.error(), (400, "bad_request".into()));
        let field = bad.split('=').next().unwrap();
        assert!(got.json()["error"]["message"].as_str().unwrap().starts_with(field), "{}", got.json());
    }
}

#[tokio::test]
async fn lists_come_in_pages_and_by_filter() {
    let api = Api::start().await;
    let (one, _) = api.session("gw-1").await;
    let (two, _) = api.session("gw-2").await;
    let mut ids = api.register(&one, &["a", "b", "c"]).await;
    ids.extend(api.register(&two, &["a", "d"]).await);

    for filter in ["", "&consistency=cached", "&device=web"] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("/v1/connections?limit=2&cursor={cursor}{filter}")).await.json();
            seen.extend(page["connections"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = next.to_owned();
        }
        assert_eq!(seen, ids, "{filter}");
    }
    let of = async |query: &str| {
        let page = api.get(&format!("/v1/connections?{query}")).await.json();
        let users = page["connections"].as_array().unwrap().iter().map(|c| c["user"].as_str().unwrap().to_owned());
        (users.collect::<Vec<_>>().join(""), page["next_cursor"].is_string())
    };
    assert_eq!(of("gateway=gw-1").await, ("abc".into(), false));
    assert_eq!(of("gateway=gw-1&limit=2").await, ("ab".into(), true));
    assert_eq!(of("gateway=gw-2").await, ("ad".into(), false));
    assert_eq!(of("gateway=gw-3").await, (String::new(), false));
    assert_eq!(of("user=a").await, ("aa".into(), false));
    assert_eq!(of("user=a&limit=1").await, ("a".into(), true));
    assert_eq!(of("user=a&gateway=gw-2").await, ("a".into(), false));
    assert_eq!(of("device=ios").await, (String::new(), false));
    assert_eq!(of("topic=room:7").await, (String::new(), false));
    for bad in ["limit=0", "limit=x", "limit=10001", "cursor=c-1-2"] {
        assert_eq!(api.get(&format!("/v1/connections?{bad}")).await.error(), (400, "bad_request".into()), "{bad}");
    }
}

#[tokio::test]
async fn gateways_share_new_clients_by_what_they_hold() {
    let api = Api::start().await;
    let (one, epoch) = api.session("gw-1").await;
    api.session("gw-0").await;
    api.register(&one, &["a", "b"]).await;
    let body = api.get("/v1/gateways").await.json();
    let gateways = body["gateways"].as_array().unwrap();
    assert_eq!((&gateways[0]["id"], &gateways[1]["id"]), (&json!("gw-0"), &json!("gw-1")));
    assert_eq!((&gateways[0]["weight"], &gateways[1]["weight"]), (&json!(0.75), &json!(0.25)));
    assert_eq!((&gateways[1]["connections"], &gateways[1]["epoch"]), (&json!(2), &json!(epoch)));
    assert_eq!((&gateways[1]["lease_remaining_ms"], &gateways[1]["draining"]), (&json!(2411), &json!(false)));
    assert_eq!(body["backoff"], json!({"base_ms": 500, "max_ms": 30000, "factor": 1.8, "jitter": 0.5}));

    let stats = api.get("/v1/stats").await.json();
    assert_eq!((&stats["connections"], &stats["users"], &stats["topics"]), (&json!(2), &json!(2), &json!(0)));
    assert_eq!((stats["gateways"].as_array().unwrap().len(), &stats["revision"]), (2, &body["revision"]));
    api.backend.tell(|told| told.failure = Some(crate::wire::peer::Failure::NoQuorum));
    let body = api.get("/v1/gateways").await.json();
    assert_eq!(body["gateways"][0]["lease_remaining_ms"], Value::Null);
}

#[tokio::test]
async fn a_history_is_told_as_far_back_as_it_goes() {
    const CLOSED: &str = r#"{"revision":9,"n":2,"type":"connection.closed","user":"a/b","meta":{"x":1e2}}"#;
    let api = Api::start().await;
    api.backend.tell(|told| {
        told.staleness = Some(Duration::from_millis(7));
        told.history = vec![("a/b", CLOSED), ("c", r#"{"type":"user.online"}"#)];
    });
    let got = api.get("/v1/users/a%2Fb/history").await;
    let expected = format!(r#"{{"events":[{CLOSED}],"oldest_revision":3}}"#);
    assert_eq!((got.status, std::str::from_utf8(&got.body).unwrap()), (200, expected.as_str()));
    assert_eq!(got.header("x-revision"), Some("0"));
    assert_eq!(api.get("/v1/users/nobody/history").await.json(), json!({"events": [], "oldest_revision": 3}));
    assert_eq!(api.get("/v1/users/a/history?consistency=cached").await.header("x-staleness-ms"), Some("7"));
    assert_eq!(api.get("/v1/users/%00/history").await.error(), (400, "bad_request".into()));
    assert_eq!(api.get("/v1/users/a/history?min_revision=99&timeout_ms=20").await.error(), (504, "timeout".into()));
    api.backend.tell(|told| told.feed_refused = Some(crate::api::FeedRefused::Unavailable("no node".into())));
    assert_eq!(api.get("/v1/users/a/history").await.error(), (503, "unavailable".into()));
}

#[tokio::test]
async fn who_is_offline_was_last_seen_then_as_far_as_that_is_known() {
    let api = Api::start().await;
    let (session, _) = api.session("gw").await;
    api.register(&session, &["here"]).await;
    api.backend.tell(|told| told.last_seen = vec![("gone", 1_700_000_000_123), ("here", 5)]);
    let seen = async |user: &str| api.get(&format!("/v1/users/{user}")).await.json()["last_seen"].clone();
    assert_eq!(seen("gone").await, json!("2023-11-14T22:13:20.123Z"));
    assert_eq!((seen("nobody").await, seen("here").await), (Value::Null, Value::Null), "who is here is not asked for");
    let many = api.post("/v1/users:lookup", json!({"users": ["here", "nobody", "gone"]})).await.json();
    let seen = ["here", "nobody", "gone"].map(|user| many["users"][user]["last_seen"].clone());
    assert_eq!(seen, [Value::Null, Value::Null, json!("2023-11-14T22:13:20.123Z")]);
}

#[tokio::test]
async fn who_is_not_in_memory_and_can_not_be_asked_for_is_never_offline() {
    let api = Api::start().await;
    api.backend.tell(|told| {
        told.staleness = Some(Duration::from_millis(7));
        told.nobody_to_ask = Some(Stale::NoQuorum);
    });
    for knobs in ["", "?consistency=cached", "?consistency=cached&max_stale_ms=100000"] {
        assert_eq!(api.get(&format!("/v1/users/a{knobs}")).await.error(), (503, "unavailable".into()), "{knobs}");
        assert_eq!(api.call(Method::HEAD, &format!("/v1/users/a{knobs}"), &[], "").await.status, 503, "{knobs}");
    }
    assert_eq!(api.post("/v1/users:lookup", json!({"users": ["a"]})).await.error(), (503, "unavailable".into()));
    // Lists and counts are of everything, so somebody else answers.
    for path in ["/v1/connections?limit=7&gateway=g%2F1", "/v1/gateways", "/v1/stats?consistency=cached"] {
        let got = api.get(path).await;
        assert_eq!((got.status, got.header("x-revision"), &*got.body), (418, Some("77"), path.as_bytes()));
    }
    assert_eq!(api.get("/v1/connections?limit=0").await.error(), (400, "bad_request".into()));
}
