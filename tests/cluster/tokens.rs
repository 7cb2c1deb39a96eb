//! Clients that show tokens, from minting to the end of one.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::http::Response;

use crate::harness::{Cluster, Socket, eventually};

const SECRET: &str = "a secret of the tests that is long enough";

/// A cluster with one gateway that takes tokens, and the file with its secret.
async fn with_tokens(flags: &[&str]) -> (Cluster, String) {
    let mut cluster = Cluster::found(1);
    let file = cluster.file("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let file = file.display().to_string();
    cluster.start_node(1).await;
    let flags =
        [&["--client-token-hmac-secret-file", &file, "--client-allowed-origins", "https://*.example.com"], flags];
    cluster.start_gateway_with("gw-1", &flags.concat()).await;
    cluster.wait_ready().await;
    (cluster, file)
}

async fn mint(cluster: &Cluster, file: &str, words: &[&str]) -> String {
    let done = cluster.verb(&[&["token", "mint", "--secret-file", file], words].concat()).await;
    assert_eq!(done.code, 0, "{done:?}");
    done.out.trim().to_owned()
}

/// The answer to an upgrade that is refused.
async fn refused(cluster: &Cluster, path: &str, headers: &[(&str, &str)]) -> Response<Option<Vec<u8>>> {
    match Socket::try_open_with(cluster.gateway("gw-1"), path, headers).await {
        Err(Error::Http(answer)) => *answer,
        Err(other) => panic!("{path}: {other}"),
        Ok(_) => panic!("{path} {headers:?} was let in"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_minted_lets_in_wherever_it_stands_and_others_do_not() {
    let (cluster, file) = with_tokens(&["--client-token-audience", "chat"]).await;
    let gateway = cluster.gateway("gw-1");
    let good = mint(&cluster, &file, &["--user", "alice", "--device", "tv", "--audience", "chat"]).await;
    let (bearer, protocols) = (format!("Bearer {good}"), format!("switchboard.v1, bearer.{good}"));
    for (path, header) in [
        ("/ws", Some(("authorization", bearer.as_str()))),
        ("/ws", Some(("sec-websocket-protocol", &protocols))),
        (&format!("/ws?token={good}"), None),
        ("/ws", None),
    ] {
        let with_origin = [header, Some(("origin", "https://chat.example.com"))];
        let headers: Vec<_> = with_origin.into_iter().flatten().collect();
        let mut socket = Socket::try_open_with(gateway, path, &headers).await.unwrap();
        if path == "/ws" && header.is_none() {
            socket.frame("hello").await;
            socket.send(json!({ "type": "connect", "token": good })).await;
        }
        assert_eq!(socket.welcome().await["user"], "alice", "{path} {header:?}");
        let user = cluster.user(&gateway.api(), "alice").await;
        assert!(user["connections"].as_array().unwrap().iter().all(|c| c["device"] == "tv"), "{user}");
        socket.close().await;
    }
    let other = mint(&cluster, &file, &["--user", "alice", "--audience", "mail"]).await;
    for (path, headers, status, why) in [
        ("/ws?user=alice".to_owned(), vec![], 401, "a token is needed"),
        (format!("/ws?token={other}"), vec![], 401, "another audience"),
        (format!("/ws?token={good}AAAA"), vec![], 401, "signature"),
        ("/ws".to_owned(), vec![("authorization", "Bearer x.y.z")], 401, "no JWT"),
        (format!("/ws?token={good}"), vec![("origin", "https://evil.org")], 403, "origin"),
    ] {
        let answer = refused(&cluster, &path, &headers).await;
        let body: Value = serde_json::from_slice(answer.body().as_ref().unwrap()).unwrap();
        assert_eq!(answer.status(), status, "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(why), "{body}");
    }
    let failures = cluster.metric(&gateway.api(), "switchboard_auth_failures_total").await;
    assert!((failures - 5.0).abs() < 0.1, "{failures}");
    for token in [&good, &other] {
        assert!(!gateway.log().contains(token.as_str()), "credentials are never logged");
        assert!(!cluster.http.text(&gateway.api(), "/metrics").await.contains(token.as_str()));
    }
    assert!(!gateway.log().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lasts_as_long_as_its_newest_token() {
    let (cluster, file) = with_tokens(&[]).await;
    let gateway = cluster.gateway("gw-1");
    let short = mint(&cluster, &file, &["--user", "alice", "--expires", "6s"]).await;
    let path = format!("/ws?token={short}");
    let (mut ends, mut stays) = (Socket::open(gateway, &path).await, Socket::open(gateway, &path).await);
    ends.welcome().await;
    stays.welcome().await;
    let of_bob = mint(&cluster, &file, &["--user", "bob"]).await;
    stays.send(json!({ "type": "refresh", "id": 1, "token": of_bob })).await;
    assert_eq!(stays.frame("error").await["re"], 1);
    let longer = mint(&cluster, &file, &["--user", "alice", "--expires", "1h"]).await;
    stays.send(json!({ "type": "refresh", "id": 2, "token": longer })).await;
    assert!(stays.frame("ok").await["revision"].is_u64());
    let goodbye = ends.expect_close(4202).await;
    assert_eq!((&goodbye["reason"], &goodbye["reconnect"]), (&json!("token_expired"), &json!(true)));
    eventually("only the other one is left", async || {
        let user = cluster.user(&gateway.api(), "alice").await;
        (user["connections"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    assert_eq!(cluster.http.post(&gateway.api(), "/v1/users/alice/push", json!({ "data": 1 })).await.status, 200);
    assert_eq!(stays.expect_push().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_made_and_checked_on_the_command_line() {
    let cluster = Cluster::found(1);
    let file = cluster.file("secret");
    std::fs::write(&file, SECRET).unwrap();
    let file = file.display().to_string();
    let words = ["--user", "alice", "--topic", "news", "--subscribe", "room:*", "--claims", r#"{"meta":{"v":1}}"#];
    let token = mint(&cluster, &file, &words).await;
    let verified = cluster.verb(&["token", "verify", &token, "--secret-file", &file, "-o", "json"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    let grant = verified.json();
    assert_eq!((&grant["user"], &grant["valid"]), (&json!("alice"), &json!(true)));
    assert_eq!((&grant["topics"], &grant["subscribe"]), (&json!(["news"]), &json!(["room:*"])));
    assert_eq!(grant["meta"], json!({ "v": 1 }));
    let wrong = cluster.verb(&["token", "verify", &format!("{token}AAAA"), "--secret-file", &file, "-o", "json"]).await;
    assert_eq!((wrong.code, &wrong.json()["reason"]), (1, &json!("signature")), "{wrong:?}");
    assert!(wrong.err.contains("signature") && !wrong.err.contains(&token), "{wrong:?}");
    for (words, why) in [
        (&["token", "mint", "--user", "alice"][..], "nothing to sign with"),
        (&["token", "mint", "--user", "", "--secret-file", &file], "would refuse"),
        (&["token", "mint", "--user", "a", "--secret-file", &file, "--algorithm", "ES256"], "can't be signed"),
        (&["token", "mint", "--user", "a", "--key-file", &file], "no private key"),
        (&["token", "verify", &token], "nothing to check it with"),
    ] {
        let done = cluster.verb(words).await;
        assert!(done.code == 2 && done.err.contains(why), "{done:?}");
    }
}
