//! A short run of every target, and the seeds from which it starts.

use std::path::Path;

use super::{TARGETS, populated};
use crate::node::fixture;

#[path = "../../jepsen/fuzz/tests/smoke.rs"]
mod smoke;

/// The kinds of messages, in the order of `peer_messages`.
const MESSAGES: [&str; 10] = [
    "hello-3",
    "hello-answer-3",
    "request-3",
    "response-3",
    "watch-3",
    "stamp-3",
    "deliver-3",
    "delivered-3",
    "gateway-request-3",
    "gateway-response-3",
];

const FRAMES: [&str; 10] = [
    r#"{"type":"pong"}"#,
    r#"{"type":"ack","seq":7}"#,
    r#"{"type":"ack"}"#,
    r#"{"type":"connect","user":"ada","device":"web","meta":{"x":1},"id":5}"#,
    r#"{"type":"connect","user":"ada","resume":{"token":"t","seq":1},"topics":["a"],"id":{"n":[1e9]}}"#,
    r#"{"type":"connect","user":"ada","token":"t","meta":null}"#,
    r#"{"type":"subscribe","id":"\u00e9","topics":["a"]}"#,
    r#"{"type":"send","to":"bob","data":[1,2.5e-7,"\ud83d\ude00"]}"#,
    r#"{"type":"what","id":[1]}"#,
    r#"{"type":"refresh","id":3,"token":"a.b.c"}"#,
];

const UPGRADES: [&str; 4] = [
    "/ws?user=ada&device=web\nConnection: keep-alive, Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: switchboard.v1, bearer.abc",
    "/ws?user=%C3%A9%20%2B&topics=a,b&resume=t&seq=4\nconnection: upgrade\nupgrade: websocket",
    "/ws?token=abc\nAuthorization: Bearer abc",
    "http://gw/ws?user=%00",
];

/// A token, claims, and key sets.
const TOKENS: [&str; 6] = [
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
    "{\"sub\":\"ada\",\"exp\":1900000060.5,\"nbf\":1,\"device\":\"web\",\"meta\":{\"a\":[1]},\"topics\":[\"a\"],\"subscribe\":\"room:*\"}",
    "{\"sub\":7,\"policy\":\"newest_wins\",\"per\":\"device\",\"handover\":\"immediate\",\"max\":3,\"aud\":[\"x\"],\"iss\":\"y\"}",
    "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"a\",\"alg\":\"EdDSA\",\"x\":\"iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w\"},{\"kty\":\"RSA\",\"use\":\"sig\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
    "{\"keys\":[{\"kty\":\"oct\",\"k\":\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\"},{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"}]}",
];

const TEXTS: [&str; 16] = [
    "c-812-7",
    "c-0-18446744073709551615",
    "s-812",
    "812",
    "812.3",
    "1.32c.7",
    "1.YWRh",
    "2023-11-14T23:13:20.123+01:00",
    "2023-11-14T22:13:20.122000001Z",
    "\"812\"",
    "*",
    "consistency=cached&max_stale_ms=100&min_revision=7&timeout_ms=250",
    "limit=100&cursor=1.32c.7",
    "types=user.online,gateway.down&user=ada&prefix=a%2F",
    "timeout_ms=0&consistency=linearizable",
    "a=%ff&=&b",
];

const FILES: [&str; 5] = [
    "log-format = 'json'\n[client]\napi = ['http://a', 'http://b']\n[gateway]\nid = 'gw-1'\nlisten_api = 'x:1'\nlisten-peer = 'x:2'\n\
     policy = 'newest_wins'\nlisten-clients = 'x:3'\ndirectory = ['d:1', 'd:2']\ninsecure = true\nlease = '3s'",
    "[directory]\nid = 1\ndata-dir = 'd'\nlisten-api = '127.0.0.1:7101'\nlisten-peer = '127.0.0.1:7201'\ndisk-reserve = '64MiB'\n\
     heartbeat = '100ms'\nelection = '300ms-600ms'\n[directory.peers]\n1 = 'a:1'\n2 = 'b:2'",
    "[dev]\ndirectories = 3\ngateways = 2\nlease = '3s'\nports = 'auto'",
    "300ms-600ms\n2=localhost:7202\n1h 2m 3s 4ms 5us 6ns\n1.5GiB\n10kB",
    "[gateway]\ninsecure = 7.5",
];

const REQUESTS: [&str; 38] = [
    "GET /v1/users/ada?consistency=cached&max_stale_ms=100\nx-request-id: abc\n\n",
    "HEAD /v1/users/ada\n\n",
    "GET /v1/users/%61%2Fda/history?min_revision=3\n\n",
    "POST /v1/users:lookup\n\n{\"users\":[\"ada\",\"bob\",\"nobody\"]}",
    "POST /v1/users/ada/disconnect\n\n{\"code\":4003,\"reason\":\"moved\",\"except\":[\"c-1-1\"],\"devices\":[\"web\"],\"timeout_ms\":5}",
    "GET /v1/connections/c-1-1\n\n",
    "DELETE /v1/connections/c-1-1?code=4001&reason=bye&timeout_ms=10\n\n",
    "PUT /v1/connections/c-1-1/meta\nIf-Match: \"1\"\n\n{\"a\":[1,{\"b\":null}]}",
    "GET /v1/connections?user=ada&gateway=gw-1&device=web&limit=1&cursor=1.1.1\n\n",
    "GET /v1/bans?limit=1&cursor=1.YWRh\n\n",
    "PUT /v1/bans/bob\n\n{\"until\":\"2099-01-31T12:00:00Z\",\"reason\":\"spam\",\"timeout_ms\":0}",
    "DELETE /v1/bans/cy\n\n",
    "GET /v1/topics?prefix=t&limit=2\n\n",
    "GET /v1/topics/t1\n\n",
    "GET /v1/topics/t%3A3/members?limit=3&cursor=x\n\n",
    "GET /v1/stats\n\n",
    "GET /v1/gateways\n\n",
    "POST /v1/users/ada/push\nIdempotency-Key: k\n\n{\"data\":{\"a\":1},\"event\":\"chat\",\"ack\":\"client\",\"timeout_ms\":100}",
    "POST /v1/connections/c-1-1/push\nIf-Match: \"1\"\n\n{\"data_b64\":\"AAEC\",\"ack\":\"none\"}",
    "POST /v1/push:batch\n\n{\"items\":[{\"user\":\"ada\",\"data\":1},{\"connection\":\"c-1-1\",\"data\":null},{\"topic\":\"t\",\"data\":2}]}",
    "GET /v1/watch?from_revision=3.1&types=user.online,topic.left&user=ada\nLast-Event-ID: 7\nAccept: application/x-ndjson\n\n",
    "POST /v1/sessions\n\n{\"gateway\":\"gw-9\",\"nonce\":\"n\",\"url\":\"ws://x/ws\",\"deliver_url\":\"http://x/d\",\"lease_ms\":3000,\"attempt\":1}",
    "DELETE /v1/sessions/s-1\n\n{\"fenced\":true}",
    "PUT /v1/sessions/s-1/renew\n\n{\"handled_revision\":7}",
    "POST /v1/sessions/s-1/batch\n\n{\"seq\":2,\"ops\":[{\"op\":\"register\",\"serial\":9,\"user\":\"eve\",\"device\":\"web\",\"policy\":\"multi\",\"max\":3},{\"op\":\"unregister\",\"serial\":1,\"reason\":\"kicked\"}]}",
    "POST /v1/sessions/s-2/batch\n\n{\"ops\":[{\"op\":\"register\",\"serial\":9,\"user\":\"ada\",\"policy\":\"newest_wins\",\"per\":\"device\",\"handover\":\"wait\",\"since\":5,\"remote\":\"1.2.3.4:5\",\"meta\":{\"a\":1}}]}",
    "POST /v1/sessions/s-1/batch\n\n{\"ops\":[{\"op\":\"meta\",\"serial\":1,\"meta\":{},\"if_version\":1},{\"op\":\"join\",\"topics\":[\"a\",\"b\"]},{\"op\":\"leave\",\"topics\":[\"t1\"]}]}",
    "GET /v1/cluster?consistency=cached\n\n",
    "GET /v1/cluster/hash?check=true&revision=3&timeout_ms=10\n\n",
    "POST /v1/cluster/snapshot\n\n",
    "GET /v1/cluster/backup\n\n",
    "POST /v1/cluster/members\n\n{\"id\":4,\"peer\":\"node-4:7200\"}",
    "DELETE /v1/cluster/members/4\n\n",
    "POST /v1/cluster/members/4/promote\n\n",
    "POST /v1/cluster/transfer-leader\n\n{\"to\":2}",
    "GET /readyz\n\n",
    "PATCH /v1/info\n\n",
    "GET /goim/x?a=b\n\n",
];

fn golden(name: &str) -> Vec<u8> {
    fixture::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex")))
}

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// WebSocket frames as a client masks them, with a mask of zeros.
fn masked(frames: &[(u8, &[u8])]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (opcode, payload) in frames {
        let length = u8::try_from(payload.len().min(125)).unwrap();
        stream.extend([*opcode, 0x80 | length, 0, 0, 0, 0]);
        stream.extend_from_slice(&payload[..length.into()]);
    }
    stream
}

fn sockets() -> Vec<Vec<u8>> {
    let long = [&[0x81, 0xfe, 0, 200, 0, 0, 0, 0], vec![b'x'; 200].as_slice()].concat();
    vec![
        masked(&[(0x81, FRAMES[1].as_bytes()), (0x89, b"ping"), (0x88, b"\x03\xe8bye")]),
        masked(&[(0x01, b"{\"type\":"), (0x8a, b""), (0x80, b"\"pong\"}"), (0x82, b"\x00\x01")]),
        masked(&[(0x81, b"\xff\xfe")]),
        long,
        vec![0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
    ]
}

/// Frames as they are on a stream, behind the number of pieces and their sizes.
fn streams() -> Vec<Vec<u8>> {
    let requests = golden("request-3");
    let frame = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let stream = [frame(&requests[..40]), frame(&[]), frame(&requests[40..]), frame(&[1, 7])].concat();
    [&[][..], &[1, 1, 1], &[3, 1, 200, 1]].map(|pieces| [stream.as_slice(), pieces].concat()).to_vec()
}

fn states() -> Vec<Vec<u8>> {
    let mut state = Vec::new();
    populated().write_to(&mut state).unwrap();
    // Behind magic, form, length and checksum are the records.
    let records = |state: &[u8]| [&[1], &state[20..]].concat();
    let golden = golden("state-2");
    vec![[&[0], golden.as_slice()].concat(), records(&golden), records(&state)]
}

/// Bytes that a structure is drawn from, so that it has this and that in it.
fn drawn(rows: usize) -> Vec<Vec<u8>> {
    (0..rows).map(|row| (0..128 + 96 * row).map(|n| ((n * n + 7 * n * row + row) % 251) as u8).collect()).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "client_frames" => bytes(&FRAMES),
        "client_sockets" => sockets(),
        "client_upgrades" => bytes(&UPGRADES),
        "client_tokens" => bytes(&TOKENS),
        "peer_messages" => {
            (0u8..).zip(MESSAGES).map(|(kind, name)| [&[kind], golden(name).as_slice()].concat()).collect()
        }
        "peer_streams" => streams(),
        "log_entries" => entries(),
        "states" => states(),
        "commands" => drawn(8),
        "http_requests" => bytes(&REQUESTS),
        "texts" => bytes(&TEXTS),
        "configuration" => bytes(&FILES),
        other => panic!("{other} has no seeds"),
    }
}

/// Each entry of the fixture, which is a row of them.
fn entries() -> Vec<Vec<u8>> {
    let row = golden("entry-2");
    let mut entries = Vec::new();
    let mut rest = row.as_slice();
    while let [_form, entry @ ..] = rest {
        let (_, after) = postcard::take_from_bytes::<crate::directory::Entry>(entry).unwrap();
        entries.push(rest[..rest.len() - after.len()].to_vec());
        rest = after;
    }
    entries
}

#[test]
fn no_target_fails_near_its_seeds() {
    smoke::run(&TARGETS, seeds);
}

#[test]
fn the_state_that_requests_and_entries_meet_has_something_of_everything() {
    let directory = populated();
    assert_eq!(directory.check_invariants(), Ok(()));
    let stats = directory.stats();
    assert_eq!(
        (stats.connections, stats.users, stats.sessions),
        (3, 3, 2),
        "those of the ended session count until they are reclaimed"
    );
    let ended: Vec<_> = directory.ended_sessions().map(|ended| ended.epoch).collect();
    assert_eq!((ended, directory.bans().count(), directory.topic_count()), (vec![3], 1, 3));
    assert!(directory.is_pending("c-2-2".parse().unwrap()), "one waits for the place of another");
}
