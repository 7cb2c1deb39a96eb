//! Requests that no handler should see, and what is said of every request.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test]
async fn every_failure_has_the_one_form() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/nothing").await.error(), (404, "not_found".into()));
    assert_eq!(api.get("/v1/users/").await.error(), (404, "not_found".into()));
    let wrong = api.call(Method::DELETE, "/v1/stats", &[], "").await;
    assert_eq!(wrong.error(), (405, "method_not_allowed".into()));
    assert!(wrong.header("allow").is_some_and(|allow| allow.contains("GET")));
    for body in ["", "{", "[]", r#"{"users":3}"#, "\u{0}"] {
        let got = api.call(Method::POST, "/v1/users:lookup", &[], body.to_owned()).await;
        assert_eq!(got.error(), (400, "bad_request".into()), "{body:?}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let got = api.call(Method::POST, "/v1/users/a/push", &[], format!("{{\"data\":{deep}}}")).await;
    assert_eq!(got.error(), (404, "offline".into()), "what is passed on raw costs no stack");
    let got = api.call(Method::POST, "/v1/users:lookup", &[], deep).await;
    assert_eq!(got.error(), (400, "bad_request".into()));
    let large = vec![b' '; 3 << 20];
    assert_eq!(api.call(Method::POST, "/v1/users/a/push", &[], large).await.error(), (413, "too_large".into()));
    let head = b"POST /v1/users/a/push HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n";
    let answer = api.raw(head).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "a body that is asked for first is never sent: {answer}");
    for (method, path) in [
        (Method::GET, "/v1/webhooks"),
        (Method::POST, "/v1/webhooks"),
        (Method::POST, "/v1/cluster/members/2/demote"),
        (Method::POST, "/v1/gateways/gw-1/drain"),
        (Method::GET, "/v1/cluster/backup"),
        (Method::GET, "/v1/openapi.json"),
        (Method::GET, "/goim/online/top"),
        (Method::GET, "/"),
    ] {
        assert_eq!(api.call(method, path, &[], "").await.error(), (501, "not_implemented".into()), "{path}");
    }
}

#[tokio::test]
async fn a_body_is_an_object_and_never_its_fields_in_a_row() {
    let api = Api::start().await;
    let (session, _) = api.session("gw-1").await;
    let renew = format!("{session}/renew");
    for (method, path, body) in [
        (Method::PUT, "/v1/bans/bob", "[]"),
        (Method::PUT, "/v1/bans/bob", "[null,\"spam\"]"),
        (Method::POST, "/v1/users:lookup", " [[\"a\"]]"),
        (Method::POST, "/v1/sessions", "[\"gw-2\"]"),
        (Method::PUT, renew.as_str(), "[3]"),
        (Method::DELETE, session.as_str(), "[true]"),
    ] {
        let got = api.call(method, path, &[], body).await;
        assert_eq!(got.error(), (400, "bad_request".into()), "{path}: {body}");
    }
    assert_eq!(api.get("/v1/bans").await.json()["bans"], json!([]));
    assert_eq!(api.put(&renew, json!({})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_process_tells_about_itself() {
    crate::telemetry::install_metrics();
    let api = Api::start().await;
    assert_eq!(api.get("/livez").await.status, 200);
    assert_eq!(api.get("/readyz").await.status, 200);
    api.backend.ready.store(false, Ordering::Relaxed);
    let unready = api.get("/readyz").await;
    assert_eq!(unready.error(), (503, "unavailable".into()));
    assert!(unready.json()["error"]["message"].as_str().unwrap().contains("catching up"));
    assert_eq!(api.get("/v1/info").await.json()["role"], json!("directory"));
    assert_eq!(api.get("/v1/cluster").await.json()["members"][0]["id"], json!(1));
    api.get("/v1/users/some%20body").await;
    api.get("/a/path/of/my/own").await;
    let metrics = String::from_utf8(api.get("/metrics").await.body.to_vec()).unwrap();
    for expected in [
        "switchboard_http_requests_total{route=\"/v1/users/{user}\",code=\"200\"}",
        "switchboard_http_requests_total{route=\"none\",code=\"404\"}",
        "switchboard_http_request_duration_seconds_count{route=\"/livez\"}",
    ] {
        assert!(metrics.contains(expected), "{expected} is missing in\n{metrics}");
    }
    assert!(!metrics.contains("some") && !metrics.contains("/a/path"), "{metrics}");
}

#[tokio::test]
async fn a_request_keeps_its_id_or_gets_one() {
    let api = Api::start().await;
    let with = async |id: &str| {
        let got = api.call(Method::GET, "/livez", &[("x-request-id", id)], "").await;
        got.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(with("mine-7").await, "mine-7");
    assert_ne!(with("two words").await, "two words");
    assert_eq!(with(&"x".repeat(129)).await.len(), 16);
    assert!(api.get("/v1/nothing").await.header("x-request-id").is_some());
}

#[tokio::test]
async fn heads_that_no_handler_should_see_are_refused() {
    let api = Api::start().await;
    let of = async |head: String| {
        let answer = api.raw(head.as_bytes()).await;
        answer.split(' ').nth(1).unwrap_or("closed").to_owned()
    };
    assert_eq!(of("GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into()).await, "200");
    assert_eq!(of("GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into()).await, "400");
    assert_eq!(of("GET /livez HTTP/1.1\r\n\r\n".into()).await, "400");
    assert_eq!(of(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000))).await, "414");
    assert_eq!(of(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(17_000))).await, "431");
    assert_eq!(of(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000))).await, "431");
    assert_eq!(of("what is this\r\n\r\n".into()).await, "400");
}

#[tokio::test]
async fn slow_senders_are_not_waited_for() {
    let quick = Duration::from_millis(50);
    let limits = ApiLimits { body_timeout: quick, ..ApiLimits::default() };
    let api = Api::with(limits, ServeLimits { header_timeout: quick, ..ServeLimits::default() }).await;
    let answer = api.raw(b"GET /livez HTTP/1.1\r\nHost: a\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(api.raw(b"").await, "");
    let answer = api.raw(b"POST /v1/users:lookup HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"timeout\""), "{answer}");
}

#[tokio::test]
async fn connections_are_limited_and_given_back() {
    let api = Api::with(ApiLimits::default(), ServeLimits { connections_max: 1, ..ServeLimits::default() }).await;
    let mut first = net::connect(&api.address).await.unwrap();
    first.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(first.read_u8().await.is_ok());
    let refused = api.raw(b"").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    let body = refused.split("\r\n\r\n").nth(1).unwrap();
    assert!(refused.contains(&format!("content-length: {}\r\n", body.len())), "{refused}");
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["error"]["code"], json!("unavailable"));
    drop(first);
    let served = async {
        while !api.raw(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.contains(" 200 ") {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, served).await.expect("the place is free again");
}

#[tokio::test]
async fn a_listener_ends_with_its_idle_connections() {
    let api = Api::start().await;
    let silent = net::connect(&api.address).await.unwrap();
    let mut kept = net::connect(&api.address).await.unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(kept.read_u8().await.is_ok());
    api.stop.cancel();
    timeout(Duration::from_secs(2), api.served).await.expect("it does not wait for silent connections").unwrap();
    drop(silent);
}
