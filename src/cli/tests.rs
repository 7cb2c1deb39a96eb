//! Verbs against a server that answers what it is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use clap::Parser;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{ClientVerb, Exit};
use crate::net::Listener;
use crate::net::http::{ServeLimits, serve};

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    verb: ClientVerb,
}

/// Answers every request with the next of the answers, the last one again and again.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    _served: JoinHandle<()>,
}

impl Server {
    async fn answering(answers: &[(u16, &'static str)]) -> Self {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let answers = Arc::new(Mutex::new(answers.to_vec()));
        let noted = Arc::clone(&seen);
        let router =
            Router::new().fallback(move |request: Request| {
                noted.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
                let mut answers = answers.lock().unwrap();
                let (status, body) = if answers.len() > 1 { answers.remove(0) } else { answers[0] };
                async move {
                    Response::builder().status(StatusCode::from_u16(status).unwrap()).body(Body::from(body)).unwrap()
                }
            });
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.address());
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, router, ServeLimits::default(), stop.clone()));
        Self { url, seen, stop, _served: served }
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn run(api: &str, words: &[&str]) -> Exit {
    let line = ["switchboard"].iter().chain(words).copied().chain(["--api", api]);
    let run = Line::try_parse_from(line).unwrap().verb.run();
    timeout(Duration::from_secs(10), run).await.expect("a verb ends")
}

/// A port that nobody listens on.
async fn nowhere() -> String {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.address())
}

const OFFLINE: &str = r#"{"user":"a","online":false,"connections":[],"last_seen":null,"revision":5}"#;
const HISTORY: &str = r#"{"events":[{"revision":9,"n":2,"type":"connection.closed","user":"a","connection":"c-1-2",
    "gateway":"g","epoch":1,"granted":5,"reason":"died","at":"2026-01-01T00:00:00.000Z"},
    {"revision":9,"n":3,"type":"user.offline","user":"a","at":"2026-01-01T00:00:00.000Z"}],"oldest_revision":7}"#;
const REFUSED: &str = r#"{"error":{"code":"unavailable","message":"no quorum","temporary":true}}"#;
const NOBODY: &str = r#"{"error":{"code":"offline","message":"not connected","temporary":false},"as_of_revision":5}"#;
const INVALID: &str = r#"{"error":{"code":"bad_request","message":"user: no","temporary":false}}"#;
const PUSHED: &str = r#"{"id":"m-1","outcome":"partial","delivered":1,"failed":1,"revision":9,"results":[
    {"connection":"c-1-1","gateway":"g","epoch":1,"status":"written"},
    {"connection":"c-1-2","gateway":"g","epoch":1,"status":"gone"}]}"#;
const MISSED: &str = r#"{"id":"m-1","outcome":"failed","delivered":0,"failed":0,"revision":9,"results":[]}"#;
const LEADERLESS: &str = r#"{"cluster":"c","node":1,"leader":null,"term":3,"members":[],"applied":1,"committed":1}"#;

const KICKED: &str = r#"{"disconnected":2,"pending":["c-1-2"],"revision":9}"#;
const NOT_KICKED: &str = r#"{"disconnected":0,"pending":[],"revision":9}"#;
const MISSING: &str = r#"{"error":{"code":"not_found","message":"a is not banned","temporary":false}}"#;
const BANNED: &str =
    r#"{"user":"a","until":"2030-01-31T12:00:00.000Z","reason":null,"revision":9,"disconnected":0,"pending":[]}"#;
const BANS: &str =
    r#"{"bans":[{"user":"a","until":null,"reason":"spam","revision":9}],"next_cursor":"1.YQ","revision":9}"#;
const TOPICS: &str = r#"{"topics":[{"topic":"room:7","connections":3,"gateways":2}],"at_least":true,"revision":9}"#;

#[tokio::test]
async fn exit_codes_tell_what_became_of_it() {
    let push = ["push", "user", "a", "--data", "1"];
    for (words, status, body, exit) in [
        (&["whereis", "a"][..], 200, OFFLINE, Exit::NotFound),
        (&["whereis", "a"], 503, REFUSED, Exit::NoQuorum),
        (&["whereis", "a"], 400, INVALID, Exit::Usage),
        (&["whereis", "a"], 200, "<html>", Exit::Failed),
        (&["gateways", "list"], 502, "bad gateway", Exit::Failed),
        (&["history", "a"], 200, HISTORY, Exit::Done),
        (&["history", "a", "-o", "json"], 200, HISTORY, Exit::Done),
        (&["history", "a"], 200, r#"{"events":[],"oldest_revision":7}"#, Exit::NotFound),
        (&["history", "a"], 200, r#"{"events":[{"revision":"x"}],"oldest_revision":7}"#, Exit::Failed),
        (&["history", "a"], 503, REFUSED, Exit::NoQuorum),
        (&["history", ""], 400, INVALID, Exit::Usage),
        (&["status"], 200, LEADERLESS, Exit::NoQuorum),
        (&push, 200, PUSHED, Exit::Done),
        (&push, 200, MISSED, Exit::Failed),
        (&push, 404, NOBODY, Exit::NotFound),
        (&["push", "user", "a", "--data", "hello"], 200, PUSHED, Exit::Usage),
        (&["kick", "a", "--device", "web"], 200, KICKED, Exit::Done),
        (&["kick", "a"], 200, NOT_KICKED, Exit::NotFound),
        (&["kick", "a", "--code", "7"], 400, INVALID, Exit::Usage),
        (&["kick", "--connection", "c-1-2"], 204, "", Exit::Done),
        (&["kick", "--connection", "c-1-2"], 404, MISSING, Exit::NotFound),
        (&["kick", "--connection", "c-1-2"], 503, REFUSED, Exit::NoQuorum),
        (&["bans", "list"], 200, BANS, Exit::Done),
        (&["bans", "add", "a"], 200, BANNED, Exit::Done),
        (&["bans", "add", "a", "--until", "2001-01-01T00:00:00Z"], 400, INVALID, Exit::Usage),
        (&["bans", "remove", "a"], 204, "", Exit::Done),
        (&["bans", "remove", "a", "-o", "json"], 404, MISSING, Exit::NotFound),
        (&["topics"], 200, TOPICS, Exit::Done),
        (&["topics", "-o", "json"], 503, REFUSED, Exit::NoQuorum),
        (&["watch", "--from", "1"], 410, INVALID, Exit::Usage),
        (&["watch"], 503, REFUSED, Exit::NoQuorum),
    ] {
        let server = Server::answering(&[(status, body)]).await;
        assert_eq!(run(&server.url, words).await, exit, "{words:?} with {status}");
        server.stop.cancel();
    }
}

#[tokio::test]
async fn the_next_api_is_asked_when_one_can_not_be_reached() {
    let server = Server::answering(&[(200, OFFLINE)]).await;
    let apis = format!("{},{}/", nowhere().await, server.url);
    assert_eq!(run(&apis, &["whereis", "a/b ü", "-o", "json"]).await, Exit::NotFound);
    assert_eq!(server.seen(), ["GET /v1/users/a%2Fb%20%C3%BC"]);
    assert_eq!(run(&apis, &["push", "connection", "c-1-2", "--data", "{}"]).await, Exit::Failed);
    assert_eq!(server.seen(), ["POST /v1/connections/c-1-2/push"]);
    assert_eq!(run(&apis, &["connections", "list", "--user", "a&b"]).await, Exit::Done);
    assert_eq!(server.seen(), ["GET /v1/connections?user=a%26b&limit=100"]);
    for (words, request) in [
        (&["topics", "--prefix", "a b", "--limit", "7"][..], "GET /v1/topics?prefix=a%20b&limit=7"),
        (&["bans", "list", "--cursor", "1.YQ"], "GET /v1/bans?limit=100&cursor=1.YQ"),
        (&["bans", "add", "a/b"], "PUT /v1/bans/a%2Fb"),
        (&["bans", "remove", "a/b"], "DELETE /v1/bans/a%2Fb"),
        (&["kick", "a/b"], "POST /v1/users/a%2Fb/disconnect"),
        (
            &["kick", "--connection", "c-1-2", "--reason", "go away"],
            "DELETE /v1/connections/c-1-2?code=4003&reason=go%20away",
        ),
    ] {
        run(&apis, words).await;
        assert_eq!(server.seen(), [request]);
    }
    assert_eq!(run(&nowhere().await, &["status"]).await, Exit::Failed);
    assert_eq!(run("https://127.0.0.1:1", &["status"]).await, Exit::Usage);
}

#[tokio::test]
async fn a_watch_goes_on_after_its_last_mark() {
    let first = "{\"revision\":7,\"n\":1,\"type\":\"user.online\",\"user\":\"a\"}\n";
    let second = "\n{\"revision\":9,\"type\":\"progress\"}\n";
    let gone = r#"{"error":{"code":"compacted","message":"too old","temporary":false},"oldest_revision":42}"#;
    let server = Server::answering(&[(200, first), (503, REFUSED), (200, second), (410, gone)]).await;
    assert_eq!(run(&server.url, &["watch", "--types", "user.online"]).await, Exit::Failed);
    let expected = [
        "GET /v1/watch?types=user.online",
        "GET /v1/watch?from_revision=7.1&types=user.online",
        "GET /v1/watch?from_revision=7.1&types=user.online",
        "GET /v1/watch?from_revision=9&types=user.online",
    ];
    assert_eq!(server.seen(), expected);
}

#[test]
fn apis_and_messages_are_checked_before_anything_is_sent() {
    let parse = |words: &[&str]| Line::try_parse_from(["switchboard"].iter().chain(words));
    let Ok(Line { verb: ClientVerb::Status(args) }) = parse(&["status"]) else { panic!("status needs nothing") };
    assert_eq!(args.api.api, ["http://127.0.0.1:8101", "http://127.0.0.1:7101"]);
    let Ok(Line { verb: ClientVerb::Status(args) }) = parse(&["status", "--api", "a:1", "--api", "b:2"]) else {
        panic!("--api is repeatable")
    };
    assert_eq!(args.api.api, ["a:1", "b:2"]);
    assert!(parse(&["push", "user", "a"]).is_err());
    assert!(parse(&["push", "user", "a", "--data", "1", "--file", "f"]).is_err());
    assert!(parse(&["push", "user", "a", "--data", "1", "--ack", "maybe"]).is_err());
    assert!(parse(&["whereis"]).is_err());
    assert!(parse(&["kick"]).is_err());
    assert!(parse(&["kick", "a", "--connection", "c-1-2"]).is_err());
    assert!(parse(&["kick", "--device", "web"]).is_err());
}
