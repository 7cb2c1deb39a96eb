//! Streams that don't belong here are refused in words, without harm.

use std::time::Duration;

use switchboard_raft::PREAMBLE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Cluster, PATIENCE};

/// A hello as it is on the wire: its form, then cluster, from, its nonce, to, its nonce, purpose, the versions that it
/// speaks, and the forms that it reads and writes.
fn hello_of(form: u8, cluster: &str, to: (u64, u64), purpose: u8, speaks: (u8, u8), writes: u8) -> Vec<u8> {
    let fields = (cluster, 9u64, 1u64, to.0, to.1, purpose, speaks, (1u8, writes, writes));
    let mut bytes = vec![form];
    bytes.extend(postcard::to_allocvec(&fields).unwrap());
    bytes
}

fn hello(cluster: &str, to: u64, to_nonce: u64, purpose: u8) -> Vec<u8> {
    hello_of(FORM, cluster, (to, to_nonce), purpose, (1, 1), 1)
}

const FORM: u8 = 2;
const APPEND: u8 = 0;
const FOUNDING: u8 = 5;

fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
    frame.extend_from_slice(bytes);
    frame
}

struct Visitor(TcpStream);

impl Visitor {
    async fn to(cluster: &Cluster, id: u64) -> Visitor {
        let mut stream = TcpStream::connect(cluster.nodes[&id].place).await.unwrap();
        stream.write_all(PREAMBLE).await.unwrap();
        Visitor(stream)
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The other side may have closed already, which the next read tells.
        let _ = self.0.write_all(bytes).await;
    }

    /// The next frame, or nothing if the stream was closed.
    async fn frame(&mut self) -> Option<Vec<u8>> {
        let read = async {
            let length = self.0.read_u32_le().await.ok()?;
            let mut frame = vec![0; length as usize];
            self.0.read_exact(&mut frame).await.ok()?;
            Some(frame)
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an answer or the end of the stream")
    }

    async fn is_closed(&mut self) -> bool {
        self.frame().await.is_none()
    }
}

/// In version 1.
const WELCOME: &[u8] = &[0, 1];

/// The number of the reason in a refusal.
fn reason(frame: &[u8]) -> u8 {
    assert_eq!(frame[0], 1, "it is a refusal");
    frame[1]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_in_words() {
    let mut cluster = Cluster::new([1]);
    cluster.limits.hello_within = Duration::from_millis(300);
    cluster.start(1).await;
    cluster.set("x", "1").await;
    let cases = [
        (b"no protocol at all, just some text".to_vec(), 0, "garbage in a frame"),
        (hello_of(200, "test", (1, 0), FOUNDING, (1, 1), 1), 1, "another form of hello"),
        (hello_of(FORM, "test", (1, 0), FOUNDING, (2, 9), 1), 2, "only newer versions"),
        (hello_of(FORM, "test", (1, 0), APPEND, (1, 9), 2), 3, "entries that can't be read"),
        (hello("other", 1, 0, FOUNDING), 4, "another cluster"),
        (hello("test", 2, 0, FOUNDING), 5, "another node"),
        (hello("test", 1, 12345, APPEND), 6, "another data directory"),
        (hello("test", 1, 0, APPEND), 6, "no data directory"),
    ];
    for (greeting, expected, what) in &cases {
        let mut visitor = Visitor::to(&cluster, 1).await;
        visitor.send(&framed(greeting)).await;
        let answer = visitor.frame().await.expect(what);
        // Text begins with a byte that is no known version, which is as good a reason.
        assert!(reason(&answer) == *expected || *expected == 0, "{what}: {answer:?}");
        assert!(visitor.is_closed().await, "{what}");
    }
    let mut silent = Visitor::to(&cluster, 1).await;
    assert!(silent.is_closed().await, "silence ends");
    assert_eq!(cluster.raft(1).counters().peers_refused, cases.len() as u64);
    cluster.set("x", "2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_frames_and_garbage_end_a_stream_and_nothing_else() {
    let mut cluster = Cluster::new([1]);
    cluster.start(1).await;
    cluster.set("x", "1").await;
    // Before the greeting 4 KiB are the limit, afterwards that of frames.
    let mut large = Visitor::to(&cluster, 1).await;
    large.send(&[0xff, 0xff, 0, 0]).await;
    let answer = large.frame().await.unwrap();
    assert_eq!(reason(&answer), 0);
    for garbage in [[0xff; 64].to_vec(), framed(&[0xff; 64]), framed(&[]), 100_000_000u32.to_le_bytes().to_vec()] {
        let mut greeted = Visitor::to(&cluster, 1).await;
        greeted.send(&framed(&hello("test", 1, 0, FOUNDING))).await;
        assert_eq!(greeted.frame().await.unwrap(), WELCOME);
        greeted.send(&garbage).await;
        assert!(greeted.is_closed().await, "{garbage:?}");
    }
    // A half-sent frame, and then the end.
    let mut half = Visitor::to(&cluster, 1).await;
    half.send(&framed(&hello("test", 1, 0, FOUNDING))[..10]).await;
    drop(half);
    cluster.set("x", "2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_above_the_limit_are_closed() {
    let mut cluster = Cluster::new([1]);
    cluster.limits.accepted_streams_max = 4;
    cluster.start(1).await;
    let mut kept = Vec::new();
    for _ in 0..4 {
        let mut visitor = Visitor::to(&cluster, 1).await;
        visitor.send(&framed(&hello("test", 1, 0, FOUNDING))).await;
        assert_eq!(visitor.frame().await.unwrap(), WELCOME);
        kept.push(visitor);
    }
    assert!(Visitor::to(&cluster, 1).await.is_closed().await);
    drop(kept);
    cluster.set("x", "1").await;
}
