//! The WebSocket protocol to the letter: the cases of the Autobahn test suite that apply to a server without compression.
//!
//! Nothing here echoes, so a text comes back as the `id` of a request that does not exist. Binary messages are refused, a
//! message above the limit ends with 4009, and every close by the server is announced by a goodbye.

use super::*;

/// How the bytes of a client arrive: all at once, or in pieces of this size.
const PIECES: [usize; 3] = [usize::MAX, 997, 1];

/// A request that is answered with this text.
fn request(text: &str) -> String {
    serde_json::json!({ "type": "echo", "id": text }).to_string()
}

impl Bench {
    /// A gateway where one user may have many connections.
    async fn crowded() -> Self {
        Self::start(|settings| settings.policy = Policy::multi(1000)).await
    }

    async fn client(&self) -> Raw {
        self.welcomed("alice").await.0
    }
}

impl Raw {
    async fn write_in_pieces(&mut self, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece) {
            self.write(piece).await;
        }
    }

    async fn expect_echo(&mut self, text: &str) {
        assert_eq!(self.expect("error").await["re"], text);
    }

    /// Code of the close frame that comes next, after which the stream ends; 0 for one without a code.
    async fn closed(&mut self) -> u16 {
        loop {
            let (opcode, payload) = self.frame().await.expect("a close frame");
            if opcode == CLOSE {
                assert_eq!(self.frame().await, None, "and then the end");
                return payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
            }
        }
    }
}

#[tokio::test]
async fn messages_of_every_length_are_read_however_they_arrive() {
    let bench = Bench::crowded().await;
    let around = request("").len();
    for piece in PIECES {
        let mut client = bench.client().await;
        for length in [around, 125, 126, 127, 128, 65_535, 65_536] {
            let text = "*".repeat(length - around);
            let request = request(&text);
            if piece == 1 && request.len() > 1000 {
                continue;
            }
            client.write_in_pieces(&frame(0x80 | TEXT, request.as_bytes()), piece).await;
            client.expect_echo(&text).await;
        }
    }
}

#[tokio::test]
async fn pings_are_answered_with_what_they_say_and_pongs_are_not() {
    let bench = Bench::crowded().await;
    let mut client = bench.client().await;
    client.send(PONG, b"nobody asked").await;
    client.send(PONG, b"").await;
    for piece in PIECES {
        for said in [&b""[..], b"Hello", &[0, 255, 254, 253, 0], &[0xfe; 125]] {
            client.write_in_pieces(&frame(0x80 | PING, said), piece).await;
            assert_eq!(client.frame().await, Some((PONG, said.to_vec())));
        }
    }
    let pings: Vec<u8> = (0..10).flat_map(|nth| frame(0x80 | PING, &[nth])).collect();
    client.write(&pings).await;
    // Of pings that came together only the last has to be answered.
    let mut answered = Vec::new();
    while answered.last() != Some(&9) {
        let Some((PONG, said)) = client.frame().await else { panic!("not a pong after {answered:?}") };
        answered.extend(said);
    }
    assert!(answered.is_sorted(), "{answered:?}");
    let mut client = bench.client().await;
    client.send(PING, &[0; 126]).await;
    assert_eq!(client.closed().await, 1002);
}

#[tokio::test]
async fn reserved_bits_and_opcodes_and_missing_masks_end_the_connection() {
    let bench = Bench::crowded().await;
    let reserved_bits = (1..8).map(|bits| 0x80 | bits << 4 | TEXT);
    let reserved_opcodes = (3..8).chain(11..16).map(|opcode| 0x80 | opcode);
    for first in reserved_bits.chain(reserved_opcodes) {
        let mut client = bench.client().await;
        client.say(&request("before")).await;
        client.expect_echo("before").await;
        client.write(&frame(first, b"x")).await;
        client.say(&request("after")).await;
        assert_eq!(client.closed().await, 1002, "{first:#x}");
    }
    let mut client = bench.client().await;
    client.write(b"\x89\x00").await;
    assert_eq!(client.closed().await, 1002, "not masked");
}

#[tokio::test]
async fn fragments_make_one_message_with_control_frames_between_them() {
    let bench = Bench::crowded().await;
    let text = request(&"fragments".repeat(500));
    let (continued, last_part): (u8, u8) = (0, 0x80);
    for piece in PIECES {
        for size in [1300, 2000, 4000] {
            let mut client = bench.client().await;
            let mut bytes = frame(TEXT, b"");
            for (nth, part) in text.as_bytes().chunks(size).enumerate() {
                bytes.extend(frame(continued, part));
                if nth == 0 {
                    bytes.extend(frame(0x80 | PING, b"between"));
                }
            }
            bytes.extend(frame(last_part, b""));
            client.write_in_pieces(&bytes, piece.max(100)).await;
            assert_eq!(client.frame().await, Some((PONG, b"between".to_vec())));
            client.expect_echo(&"fragments".repeat(500)).await;
        }
    }
    let (begun, last) = (frame(TEXT, b"{"), frame(0x80 | TEXT, b"}"));
    for (what, bytes) in [
        ("a continuation of nothing, the last", frame(last_part, b"x")),
        ("a continuation of nothing", frame(continued, b"x")),
        ("a continuation of what is complete", [frame(0x80 | PING, b""), frame(last_part, b"x")].concat()),
        ("a message within another", [begun.clone(), last.clone()].concat()),
        ("a message begun within another", [begun.clone(), begun].concat()),
        ("a ping in parts", [frame(PING, b"a"), frame(last_part, b"b")].concat()),
        ("a pong in parts", [frame(PONG, b"a"), frame(last_part, b"b")].concat()),
    ] {
        let mut client = bench.client().await;
        client.write(&bytes).await;
        assert_eq!(client.closed().await, 1002, "{what}");
    }
}

#[tokio::test]
async fn text_is_utf_8_also_where_it_is_cut() {
    let bench = Bench::crowded().await;
    let text = "Hello-µ@ßöäüàá-UTF-8!! κόσμε \u{10ffff} \u{fffd} \u{d7ff}\u{e000}";
    let asked = serde_json::to_vec(&serde_json::json!({ "type": "echo", "id": text })).unwrap();
    let mut client = bench.client().await;
    for cut in 1..asked.len() {
        if cut % 150 == 0 {
            client = bench.client().await;
        }
        client.write(&[frame(TEXT, &asked[..cut]), frame(0x80, &asked[cut..])].concat()).await;
        client.expect_echo(text).await;
    }
    for wrong in [
        &b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"[..],
        b"\xf4\x90\x80\x80",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xbf\xbf",
        b"\xf8\x88\x80\x80\x80",
        b"\xce",
        b"\x80",
        b"\xff",
    ] {
        let mut client = bench.client().await;
        client.write(&[frame(TEXT, b"{\""), frame(0x80, wrong)].concat()).await;
        assert_eq!(client.closed().await, 1007, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_a_wrong_one_with_1002() {
    let bench = Bench::crowded().await;
    let close = |code: u16, reason: &[u8]| [&code.to_be_bytes()[..], reason].concat();
    let good = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    for code in good {
        for reason in [&b""[..], b"Hello", &[b'*'; 123]] {
            let mut client = bench.client().await;
            client.send(CLOSE, &close(code, reason)).await;
            // What comes after a close is not read.
            client.say(&request("after")).await;
            assert_eq!(client.closed().await, code);
        }
    }
    let mut client = bench.client().await;
    client.send(CLOSE, b"").await;
    client.send(PING, b"after").await;
    assert_eq!(client.closed().await, 0, "a close without a code is answered without one");
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let mut client = bench.client().await;
        client.send(CLOSE, &close(code, b"")).await;
        assert_eq!(client.closed().await, 1002, "{code}");
    }
    for (payload, code) in [
        (b"x".to_vec(), 1002),
        (close(1000, &[b'*'; 124]), 1002),
        (close(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"), 1007),
    ] {
        let mut client = bench.client().await;
        client.send(CLOSE, &payload).await;
        assert_eq!(client.closed().await, code, "{payload:?}");
    }
    bench.held(0).await;
}
