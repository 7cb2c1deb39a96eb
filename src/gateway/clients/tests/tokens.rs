//! Clients with tokens: where they may stand, what is refused and how, how long they last.

use serde_json::json;

use super::*;
use crate::pattern::Pattern;
use crate::tokens::tests::keys::{SECRET, settings, token};
use crate::tokens::{JwksPlace, JwksSource, KeySet, Minter};

/// A gateway that takes tokens.
async fn with_tokens(change: impl FnOnce(&mut Settings)) -> Bench {
    Bench::start(|gateway| {
        gateway.tokens = Some(settings(KeySet::secret(SECRET).unwrap()));
        change(gateway);
    })
    .await
}

/// Milliseconds from now on the wall clock, as a claim.
fn in_ms(ms: u64) -> f64 {
    (clock::wall_ms() + ms) as f64 / 1000.0
}

#[tokio::test]
async fn a_token_is_taken_in_each_of_its_four_places() {
    let bench = with_tokens(|_| {}).await;
    let token = token(&json!({ "sub": "alice", "device": "tv", "meta": { "v": 1 }, "exp": in_ms(60_000) }));
    let header = format!("Authorization: bearer {token}\r\n");
    let protocol = format!("Sec-WebSocket-Protocol: switchboard.v1, bearer.{token}\r\n");
    for (target, headers) in [("/ws", header.as_str()), ("/ws", &protocol), (&format!("/ws?token={token}"), "")] {
        let (mut client, head) = Raw::ask(bench.address, target, headers).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(!head.contains(&token), "what is chosen is the protocol only: {head}");
        assert_eq!(head.contains("switchboard.v1"), headers == protocol, "{head}");
        assert_eq!(client.expect("welcome").await["user"], "alice");
    }
    let mut client = Raw::open(bench.address, "/ws").await;
    client.expect("hello").await;
    client.say(&json!({ "type": "connect", "token": token, "device": "ignored" }).to_string()).await;
    assert_eq!(client.expect("welcome").await["user"], "alice");
    bench.held(1).await;
    let shown = |bench: &Bench| {
        bench.world.read(|directory| {
            let held = directory.connections_of("alice");
            (held[0].connection.device.to_string(), held[0].connection.meta.as_deref().map(str::to_owned))
        })
    };
    assert_eq!(shown(&bench), (String::from("tv"), Some(String::from(r#"{"v":1}"#))));
}

#[tokio::test]
async fn who_shows_no_good_token_is_refused_with_the_reason_and_without_the_token() {
    let bench = with_tokens(|_| {}).await;
    let good = token(&json!({ "sub": "alice" }));
    let expired = token(&json!({ "sub": "alice", "exp": 1000 }));
    let early = token(&json!({ "sub": "alice", "nbf": in_ms(60_000) }));
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.";
    for (target, why) in [
        ("/ws?user=alice".to_owned(), "a token is needed"),
        (format!("/ws?token={expired}"), "has expired"),
        (format!("/ws?token={early}"), "not valid yet"),
        (format!("/ws?token={unsigned}"), "not signed"),
        (format!("/ws?token={good}x"), "is wrong"),
        (format!("/ws?user=bob&token={good}"), "another user's"),
        (format!("/ws?token={}", "x".repeat(8000)), "no JWT"),
    ] {
        let (mut client, head) = Raw::ask(bench.address, &target, "").await;
        let body = String::from_utf8(client.drain().await.0).unwrap();
        assert!(
            head.starts_with("HTTP/1.1 401 ") && head.to_ascii_lowercase().contains("www-authenticate: bearer"),
            "{head}"
        );
        assert!(body.contains(r#""code":"unauthorized""#) && body.contains(why), "{target}: {body}");
        assert!(!body.contains("eyJ") && !head.contains("eyJ"), "{head}{body}");
    }
    let long = "x".repeat(9000);
    for (connect, why) in [
        (json!({ "type": "connect", "user": "alice" }), "a token is needed"),
        (json!({ "type": "connect", "token": expired }), "has expired"),
        (json!({ "type": "connect", "token": unsigned }), "not signed"),
        (json!({ "type": "connect", "token": long }), "longer than"),
        (json!({ "type": "connect", "user": "bob", "token": good }), "another user's"),
    ] {
        let mut client = Raw::open(bench.address, "/ws").await;
        client.expect("hello").await;
        client.say(&connect.to_string()).await;
        let goodbye = client.expect_end(4001).await;
        assert!(goodbye["message"].as_str().unwrap().contains(why), "{goodbye}");
        assert!(!goodbye.to_string().contains("eyJ"), "{goodbye}");
    }
    bench.held(0).await;
}

#[tokio::test]
async fn without_keys_to_check_a_token_with_the_client_is_asked_to_come_back() {
    let bench = with_tokens(|gateway| {
        // Nobody listens there.
        let at = JwksPlace::Url(String::from("http://127.0.0.1:9/jwks"));
        let jwks = Some(JwksSource { at, refresh: Duration::from_secs(60) });
        gateway.tokens = Some(crate::tokens::Settings { jwks, ..settings(KeySet::default()) });
    })
    .await;
    let token = token(&json!({ "sub": "alice" }));
    let (_, head) = Raw::ask(bench.address, &format!("/ws?token={token}"), "").await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.to_ascii_lowercase().contains("retry-after"), "{head}");
    let mut client = Raw::open(bench.address, "/ws").await;
    client.expect("hello").await;
    client.say(&json!({ "type": "connect", "token": token }).to_string()).await;
    assert_eq!(client.expect_end(4100).await["reconnect"], true);
}

#[tokio::test]
async fn a_connection_ends_with_its_token_unless_a_newer_one_is_brought() {
    let bench = with_tokens(|_| {}).await;
    let short = |user: &str, ms| token(&json!({ "sub": user, "exp": in_ms(ms) }));
    let mut ends = Raw::open(bench.address, &format!("/ws?token={}", short("ends", 2000))).await;
    let mut stays = Raw::open(bench.address, &format!("/ws?token={}", short("stays", 2000))).await;
    ends.expect("welcome").await;
    stays.expect("welcome").await;
    for (token, why) in [
        (short("other", 60_000), "another user's"),
        (token(&json!({ "sub": "stays", "exp": 1000 })), "has expired"),
        (String::from("nonsense"), "no JWT"),
    ] {
        stays.say(&json!({ "type": "refresh", "id": 3, "token": token }).to_string()).await;
        let error = stays.expect("error").await;
        assert_eq!((&error["re"], &error["code"]), (&json!(3), &json!("unauthorized")));
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
    let refresh = json!({ "type": "refresh", "id": "again", "token": short("stays", 60_000) });
    stays.say(&refresh.to_string()).await;
    let ok = stays.expect("ok").await;
    assert_eq!(ok["re"], "again");
    assert!(ok["revision"].is_u64(), "{ok}");
    // An older one that is shown late takes nothing away.
    stays.say(&json!({ "type": "refresh", "id": 4, "token": short("stays", 500) }).to_string()).await;
    stays.expect("ok").await;
    let goodbye = ends.expect_end(4202).await;
    assert_eq!((&goodbye["reason"], &goodbye["reconnect"]), (&json!("token_expired"), &json!(true)));
    stays.say(r#"{"type":"what","id":5}"#).await;
    assert_eq!(stays.expect("error").await["re"], 5, "it is still there");
    bench.held(1).await;
}

#[tokio::test]
async fn a_token_says_which_connections_of_its_user_may_live_beside_it() {
    let bench = with_tokens(|_| {}).await;
    let open =
        async |claims: serde_json::Value| Raw::open(bench.address, &format!("/ws?token={}", token(&claims))).await;
    // One connection, where the gateway lets users have several; and then it is served under the lease only.
    let newest = json!({ "sub": "alice", "policy": "newest_wins" });
    let mut first = open(newest.clone()).await;
    first.expect("welcome").await;
    let mut second = open(newest).await;
    first.expect_end(4004).await;
    second.expect("welcome").await;
    let mut shared = open(json!({ "sub": "bob" })).await;
    shared.expect("welcome").await;
    bench.hub.lease.hold(bench.epoch, clock::boottime());
    for (client, is_served) in [(&mut second, false), (&mut shared, true)] {
        client.say(r#"{"type":"what","id":1}"#).await;
        match is_served {
            true => drop(client.expect("error").await),
            false => client.expect_silence().await,
        }
    }
    bench.lease(bench.epoch);
    bench.hub.table.wake_all();
    second.expect("error").await;
    // Fewer than the gateway allows.
    let alone = json!({ "sub": "carol", "max": 1 });
    let mut one = open(alone.clone()).await;
    one.expect("welcome").await;
    open(alone).await.expect_end(4005).await;
}

#[tokio::test]
async fn who_waits_for_keys_is_sent_away_without_waiting_for_them() {
    // It takes connections and never answers.
    let silent = Listener::bind("127.0.0.1:0").await.unwrap();
    let at = JwksPlace::Url(format!("http://{}/jwks", silent.address()));
    let bench = with_tokens(|gateway| {
        let jwks = Some(JwksSource { at, refresh: Duration::from_secs(60) });
        gateway.tokens = Some(crate::tokens::Settings { jwks, ..settings(KeySet::secret(SECRET).unwrap()) });
    })
    .await;
    // The keys that are there do for it.
    let mut client = Raw::open(bench.address, &format!("/ws?token={}", token(&json!({ "sub": "alice" })))).await;
    client.expect("welcome").await;
    let other = Minter::secret(b"another secret that is long enough", None).unwrap();
    let unknown = other.mint(json!({ "sub": "alice" }).as_object().unwrap());
    client.say(r#"{"type":"what","id":1}"#).await;
    client.say(&json!({ "type": "refresh", "id": 2, "token": unknown }).to_string()).await;
    assert_eq!(client.expect("error").await["re"], 1);
    bench.hub.send_away(CloseCode::Drain);
    assert_eq!(client.expect("goodbye").await["code"], 4200);
}

#[tokio::test]
async fn a_token_subscribes_to_topics_and_says_to_which_others_its_client_may() {
    let bench = with_tokens(|_| {}).await;
    let token = token(&json!({ "sub": "alice", "topics": ["news"], "subscribe": ["room:*"] }));
    let mut client = Raw::open(bench.address, &format!("/ws?token={token}&topics=room:1")).await;
    client.expect("welcome").await;
    let of_gateway = || {
        bench
            .world
            .read(|directory| directory.topics_of(bench.epoch, None).map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(of_gateway(), ["news", "room:1"]);
    client.say(r#"{"type":"subscribe","id":1,"topics":["room:2"]}"#).await;
    client.expect("ok").await;
    client.say(r#"{"type":"subscribe","id":2,"topics":["other"]}"#).await;
    assert_eq!(client.expect("error").await["code"], "forbidden");
}

#[tokio::test]
async fn where_no_tokens_are_taken_there_is_nothing_to_refresh() {
    let bench = Bench::start(|_| {}).await;
    let (mut client, _) = bench.welcomed("alice").await;
    client.say(r#"{"type":"refresh","id":1,"token":"t"}"#).await;
    let error = client.expect("error").await;
    assert!(error["message"].as_str().unwrap().contains("no client authentication"), "{error}");
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_and_programs_are_not() {
    let origins = ["https://*.example.com", "http://localhost:*"].map(Pattern::new);
    let bench = Bench::start(|gateway| gateway.origins = Some(origins.to_vec())).await;
    for (headers, status) in [
        ("", 101),
        ("Origin: https://chat.example.com\r\n", 101),
        ("Origin: https://Chat.Example.com\r\n", 101),
        ("Origin: http://localhost:5173\r\n", 101),
        ("Origin: http://chat.example.com\r\n", 403),
        ("Origin: https://example.com.evil.org\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: \r\n", 403),
        ("Origin: https://chat.example.com\r\nOrigin: https://evil.org\r\n", 403),
    ] {
        let (_, head) = Raw::ask(bench.address, "/ws?user=alice", headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {head}");
    }
    let bench = Bench::start(|_| {}).await;
    let (_, head) = Raw::ask(bench.address, "/ws?user=alice", "Origin: https://anywhere.org\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}
