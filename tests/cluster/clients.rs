//! What clients get who do what they should not. Nobody else notices.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use crate::harness::{Cluster, Process, Socket, in_time};

/// A text frame as a client sends it, with whatever bytes.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0, 0, 0, 0]);
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_answered_with_the_documented_close_code() {
    let cluster = Cluster::start(1, 1).await;
    let mut bystander = cluster.connect("gw-1", "bystander").await;
    let text_close = [("{not json", 4000), ("[1,2]", 4000), ("", 4000)];
    for (text, code) in text_close {
        let mut socket = cluster.connect("gw-1", "garbage").await;
        socket.send_message(Message::text(text)).await;
        socket.expect_close(code).await;
    }
    let mut socket = cluster.connect("gw-1", "garbage").await;
    socket.send_message(Message::Binary(Bytes::from_static(b"\0\x01\x02"))).await;
    socket.expect_close(4000).await;

    // Bytes that no library would send.
    let raw = [
        ("a frame over the limit", masked(0x81, &vec![b'x'; 70_000]), 4009),
        ("invalid UTF-8", masked(0x81, b"\xff\xfe"), 1007),
        ("a reserved opcode", masked(0x83, b"x"), 1002),
        ("a reserved bit", masked(0xc1, b"{}"), 1002),
        ("no mask", vec![0x81, 2, b'{', b'}'], 1002),
        ("a ping that is too long", masked(0x89, &[b'x'; 126]), 1002),
    ];
    for (what, bytes, code) in raw {
        let mut socket = cluster.connect("gw-1", "garbage").await;
        socket.raw().write_all(&bytes).await.unwrap();
        assert_eq!(socket.expect_close_frame().await, code, "{what}");
    }

    // Only the head of a frame of 10 MB: nothing is allocated for it.
    let mut socket = cluster.connect("gw-1", "garbage").await;
    let mut head = vec![0x81, 0x80 | 127];
    head.extend_from_slice(&10_000_000_u64.to_be_bytes());
    head.extend_from_slice(&[0, 0, 0, 0]);
    socket.raw().write_all(&head).await.unwrap();
    assert_eq!(socket.expect_close_frame().await, 4009);

    // What is merely unknown is answered, and the connection goes on.
    let mut socket = cluster.connect("gw-1", "polite").await;
    socket.send(json!({ "type": "dance", "id": 7 })).await;
    let error = socket.frame("error").await;
    assert_eq!((&error["re"], &error["temporary"]), (&json!(7), &json!(false)));
    socket.send(json!({ "type": "send", "id": "s", "data": 1 })).await;
    let error = socket.frame("error").await;
    assert_eq!((&error["re"], &error["code"]), (&json!("s"), &json!("not_implemented")));

    let api = cluster.gateway("gw-1").api();
    assert_eq!(cluster.http.post(&api, "/v1/users/bystander/push", json!({ "data": 1 })).await.status, 200);
    assert_eq!(bystander.expect_push().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_say_who_they_are_has_to_leave() {
    let cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway("gw-1");

    // In the first frame instead of the URL.
    let mut late = Socket::open(gateway, "/ws").await;
    let hello = late.frame("hello").await;
    assert_eq!(hello["frame_bytes_max"], 65536);
    late.send(json!({ "type": "connect", "user": "late", "device": "tv", "meta": { "v": 1 } })).await;
    late.welcome().await;
    let user = cluster.user(&gateway.api(), "late").await;
    assert_eq!(user["connections"][0]["device"], "tv");
    assert_eq!(user["connections"][0]["meta"], json!({ "v": 1 }));

    // Never.
    let mut silent = Socket::open(gateway, "/ws").await;
    silent.frame("hello").await;
    silent.expect_close(4008).await;

    // Something that can't be.
    for path in ["/ws?user=", "/ws?user=a%00b", &format!("/ws?user={}", "x".repeat(129))] {
        assert_eq!(refused(gateway, path).await, 400, "{path}");
    }
    // Credentials where nothing checks them.
    assert_eq!(refused(gateway, "/ws?user=eve&token=secret").await, 401);
    let mut eve = Socket::open(gateway, "/ws").await;
    eve.frame("hello").await;
    eve.send(json!({ "type": "connect", "user": "eve", "token": "secret" })).await;
    eve.expect_close(4001).await;
    assert!(!gateway.log().contains("secret"), "credentials are never logged");
}

async fn refused(gateway: &Process, path: &str) -> u16 {
    match Socket::try_open(gateway, path).await {
        Err(Error::Http(answer)) => answer.status().as_u16(),
        Err(other) => panic!("{path}: {other}"),
        Ok(_) => panic!("{path} was accepted"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_a_limit_of_connections_in_the_whole_cluster() {
    let mut cluster = Cluster::found(1);
    cluster.start_node(1).await;
    cluster.start_gateway_with("gw-1", &["--max", "2"]).await;
    cluster.start_gateway_with("gw-2", &["--max", "2"]).await;
    cluster.wait_ready().await;
    let first = cluster.connect("gw-1", "many").await;
    let _second = cluster.connect("gw-2", "many").await;
    let mut third = Socket::open(cluster.gateway("gw-1"), "/ws?user=many").await;
    let goodbye = third.expect_close(4005).await;
    assert_eq!(goodbye["reconnect"], false);
    first.close().await;
    crate::harness::eventually("there is room again", async || {
        let mut socket = Socket::open(cluster.gateway("gw-2"), "/ws?user=many").await;
        (socket.next().await.is_ok_and(|frame| frame["type"] == "welcome")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_clients_are_pinged_and_then_closed() {
    let mut cluster = Cluster::found(1);
    cluster.start_node(1).await;
    cluster.start_gateway_with("gw-1", &["--ping", "1s", "--pong-timeout", "1s"]).await;
    cluster.wait_ready().await;
    let mut silent = cluster.connect("gw-1", "silent").await;
    silent.expect_close(4108).await;
    let api = cluster.gateway("gw-1").api();
    crate::harness::eventually("the entry is gone", async || {
        (cluster.user(&api, "silent").await["online"] == false).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handshake_is_cut_off_and_a_strange_one_refused() {
    let cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway("gw-1");
    let mut slow = tokio::net::TcpStream::connect(gateway.address("clients")).await.unwrap();
    slow.write_all(b"GET /ws?user=slow HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The limit is 10 s; what is said before the end of the stream does not matter.
    let _ = in_time("the cut", slow.read_to_end(&mut answer)).await;

    let mut strange = tokio::net::TcpStream::connect(gateway.address("peer")).await.unwrap();
    strange.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = in_time("the cut", strange.read_to_end(&mut answer)).await;
    assert_eq!(cluster.http.get(&gateway.api(), "/readyz").await.status, 200);
}
