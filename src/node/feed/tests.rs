//! Feeds of a node without a log.

use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::{advance, timeout};

use super::super::testing::{CONFIRM_WITHIN, LoneNode};
use super::*;
use crate::directory::{Batch, Command, Entry, GatewayAddresses, Op, OpenSession, Policy, Reason, Register};
use crate::node::history;

/// Nothing here takes nearly as long, also by a clock that moves by itself.
const SOON: Duration = Duration::from_secs(60);

fn open(gateway: &str) -> Command {
    Command::OpenSession(OpenSession {
        gateway: gateway.into(),
        nonce: "n".into(),
        attempt: 1,
        lease_ms: 3000,
        addresses: GatewayAddresses::default(),
    })
}

fn register(serial: u64, user: &str) -> Op {
    Op::Register(Register {
        serial,
        user: user.into(),
        device: "".into(),
        policy: Policy::multi(1000),
        since: None,
        connected_at_ms: 1,
        remote: None,
        meta: None,
    })
}

fn batch(epoch: u64, ops: Vec<Op>) -> Command {
    Command::Batch(Batch { epoch, seq: None, ops })
}

fn apply(node: &mut LoneNode, command: Command) -> Revision {
    let revision = node.directory.revision() + 1;
    node.apply(revision, &Entry { at_ms: revision * 1000, commands: vec![command] });
    revision
}

fn from(revision: Revision, n: Option<u32>) -> FeedRequest {
    FeedRequest { from: Some((revision, n)), ..FeedRequest::default() }
}

async fn next(feed: &mut Feed) -> Option<Value> {
    let item = timeout(SOON, feed.next()).await.expect("a feed says something")?;
    let line: Value = serde_json::from_slice(&item.json).unwrap();
    let n = line["n"].as_u64().map(|n| u32::try_from(n).unwrap());
    assert_eq!((line["revision"].as_u64(), n), (Some(item.mark.0), item.mark.1), "the mark is that of the line");
    Some(line)
}

/// The types, and users, of so many lines.
async fn types(feed: &mut Feed, count: usize) -> Vec<String> {
    let mut types = Vec::new();
    for _ in 0..count {
        let line = next(feed).await.unwrap();
        types.push(format!("{} {}", line["type"].as_str().unwrap(), line["user"].as_str().unwrap_or("-")));
    }
    types
}

#[tokio::test(start_paused = true)]
async fn a_filtered_feed_tells_its_progress_however_much_happens_that_it_does_not_show() {
    let mut node = LoneNode::new(100_000);
    let epoch = apply(&mut node, open("gw-1"));
    let of_bob = FeedRequest { user: Some("bob".into()), ..FeedRequest::default() };
    let mut feed = node.feed(of_bob).unwrap();
    let mut marks = Vec::new();
    // Something happens all the time, so there is always more to read at once.
    for serial in 1..=600 {
        apply(&mut node, batch(epoch, vec![register(serial, "alice")]));
        advance(Duration::from_millis(50)).await;
        node.confirm();
        if let Some(item) = futures_util::FutureExt::now_or_never(feed.next()) {
            marks.push((Instant::now(), item.unwrap().mark));
        }
    }
    assert!(marks.len() >= 6, "half a minute passed: {marks:?}");
    let gaps = marks.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(gaps.into_iter().all(|gap| gap < Duration::from_secs(5)), "{marks:?}");
    assert!(marks.windows(2).all(|pair| pair[0].1 < pair[1].1), "and the marks go on: {marks:?}");
    let bob = apply(&mut node, batch(epoch, vec![register(700, "bob")]));
    loop {
        let line = next(&mut feed).await.unwrap();
        if line["type"] != "progress" {
            assert_eq!((&line["revision"], &line["type"]), (&bob.into(), &"connection.opened".into()));
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_is_shown_as_single_connections_under_every_filter_and_from_every_mark() {
    let mut node = LoneNode::new(100_000);
    let (one, two) = (apply(&mut node, open("gw-1")), apply(&mut node, open("gw-2")));
    let users = |serial: u64| format!("u-{}", serial / 2);
    apply(&mut node, batch(one, (2..1002).map(|serial| register(serial, &users(serial))).collect()));
    apply(&mut node, batch(two, vec![register(1, "u-7")]));
    let ended = apply(&mut node, Command::EndSession { epoch: one, reason: Reason::Died, fenced: true });
    let after = apply(&mut node, batch(two, vec![register(2, "late")]));

    let mut all = node.feed(from(ended - 1, None)).unwrap();
    let mut lines = Vec::new();
    loop {
        let line = next(&mut all).await.unwrap();
        if line["revision"] == after {
            break;
        }
        lines.push(line);
    }
    // One for the gateway, one a connection, one for each user but the one who is elsewhere, too.
    assert_eq!(lines.len(), 1 + 1000 + 499);
    assert!(lines.iter().zip(0..).all(|(line, n)| line["n"] == n && line["revision"] == ended));
    assert!(!lines.iter().any(|line| line["type"] == "user.offline" && line["user"] == "u-7"));

    for n in [0, 1, 2, 700, 1499] {
        let mut resumed = node.feed(from(ended, Some(n))).unwrap();
        let next = next(&mut resumed).await.unwrap();
        let expected = lines.get(n as usize + 1);
        assert!(expected.map_or(next["revision"] == after, |expected| next == *expected), "after {n}: {next}");
    }
    let only = FeedRequest { user: Some("u-250".into()), types: vec!["user.offline".into()], ..from(ended - 1, None) };
    let line = next(&mut node.feed(only).unwrap()).await.unwrap();
    assert!(lines.contains(&line) && line["user"] == "u-250", "numbers are those of the whole feed");
    let begins = FeedRequest { prefix: Some("u-25".into()), ..from(ended - 1, None) };
    let mut begins = node.feed(begins).unwrap();
    for line in lines.iter().filter(|line| line["user"].as_str().is_some_and(|user| user.starts_with("u-25"))) {
        assert_eq!(next(&mut begins).await.unwrap(), *line);
    }
    assert_eq!(next(&mut begins).await.unwrap()["type"], "progress");
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_can_not_begin_or_go_on_says_so_or_ends() {
    let mut node = LoneNode::new(5);
    let epoch = apply(&mut node, open("gw-1"));
    let mut behind = node.feed(FeedRequest::default()).unwrap();
    for serial in 1..=9 {
        apply(&mut node, batch(epoch, vec![register(serial, "a")]));
    }
    assert_eq!(next(&mut behind).await, None, "it fell behind what is retained");
    let Err(FeedRefused::Compacted { oldest }) = node.feed(from(3, Some(0))) else { panic!("compacted") };
    assert_eq!(oldest, 5);
    assert!(node.feed(from(oldest, Some(0))).is_err(), "the rest of that revision is gone");
    assert_eq!(types(&mut node.feed(from(oldest, None)).unwrap(), 2).await, ["connection.opened a"; 2]);
    let refused = node.feed(from(11, None)).err();
    assert_eq!(refused, Some(FeedRefused::Ahead { asked: 11, now: 10, oldest: 5 }), "no cluster skips in silence");

    let mut installed = node.feed(FeedRequest::default()).unwrap();
    let mut state = node.directory.clone();
    state.advance(20);
    node.install(state);
    assert_eq!(next(&mut installed).await, None, "a snapshot was installed");
    let mut unsure = node.feed(FeedRequest::default()).unwrap();
    assert_eq!(next(&mut unsure).await.unwrap()["type"], "progress");
    advance(CONFIRM_WITHIN).await;
    // One more mark may be due, and is true.
    while let Some(line) = next(&mut unsure).await {
        assert_eq!(line["type"], "progress");
        assert!(node.unconfirmed_for() <= CONFIRM_WITHIN * 2, "a node that can't confirm what it knows ends its feeds");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_does_not_read_holds_up_nobody_and_is_told_when_it_comes_back() {
    let mut node = LoneNode::new(50);
    let epoch = apply(&mut node, open("gw-1"));
    let mut slow = node.feed(FeedRequest::default()).unwrap();
    let mut quick = node.feed(FeedRequest::default()).unwrap();
    for serial in 1..=1000 {
        apply(&mut node, batch(epoch, vec![register(serial, &format!("u-{serial}"))]));
        let expected = [format!("connection.opened u-{serial}"), format!("user.online u-{serial}")];
        assert_eq!(types(&mut quick, 2).await, expected);
    }
    assert!(node.retained().events <= 50, "what is retained does not wait for anybody");
    assert_eq!(next(&mut slow).await, None);
    assert!(matches!(node.feed(from(epoch, None)), Err(FeedRefused::Compacted { .. })));
}

/// The history of a user is what a feed of the user would have shown since the oldest revision that is told.
async fn check_history(node: &LoneNode, user: &str) -> Vec<Value> {
    node.confirm();
    let history = node.history(user).await;
    let mut feed = node.feed(FeedRequest { user: Some(user.into()), ..from(history.oldest_revision, None) }).unwrap();
    let lines: Vec<Value> = history.lines.iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    for line in &lines {
        assert_eq!(next(&mut feed).await.unwrap(), *line);
    }
    assert_eq!(next(&mut feed).await.unwrap()["type"], "progress", "the feed shows no more");
    lines
}

#[tokio::test(start_paused = true)]
async fn a_history_tells_where_a_user_was_also_when_the_session_ended_and_as_far_back_as_is_retained() {
    let mut node = LoneNode::new(12);
    let (one, two) = (apply(&mut node, open("gw-1")), apply(&mut node, open("gw-2")));
    apply(&mut node, batch(one, vec![register(1, "a"), register(2, "b"), register(3, "a")]));
    let opened = apply(&mut node, batch(two, vec![register(1, "a")]));
    let died = apply(&mut node, Command::EndSession { epoch: one, reason: Reason::Died, fenced: true });
    assert_eq!((node.last_seen("b"), node.last_seen("nobody")), (Some(died * 1000), None), "before it is listed, too");
    let closed = apply(&mut node, batch(two, vec![Op::Unregister { serial: 1, reason: Reason::Closed }]));
    node.settle().await;
    let told: Vec<_> = check_history(&node, "a").await;
    let what = |line: &Value| format!("{} {}", line["revision"], line["type"].as_str().unwrap());
    let expected = [
        format!("{} connection.opened", opened - 1),
        format!("{} user.online", opened - 1),
        format!("{} connection.opened", opened - 1),
        format!("{opened} connection.opened"),
        format!("{died} connection.closed"),
        format!("{died} connection.closed"),
        format!("{closed} connection.closed"),
        format!("{closed} user.offline"),
    ];
    assert_eq!(told.iter().map(what).collect::<Vec<_>>(), expected);
    assert_eq!(
        (&told[4]["reason"], &told[4]["gateway"], &told[6]["reason"]),
        (&"died".into(), &"gw-1".into(), &"closed".into())
    );
    assert_eq!((node.last_seen("a"), node.last_seen("b")), (Some(closed * 1000), Some(died * 1000)));

    for serial in 10..21 {
        apply(&mut node, batch(two, vec![register(serial, "c")]));
        check_history(&node, "a").await;
        check_history(&node, "b").await;
    }
    assert!(node.history("b").await.oldest_revision >= died && node.history("b").await.lines.is_empty());
    assert_eq!((node.last_seen("a"), node.last_seen("b")), (Some(closed * 1000), None), "as far as it is retained");
    let mut state = node.directory.clone();
    state.advance(100);
    node.install(state);
    assert_eq!((node.history("a").await.oldest_revision, node.last_seen("a")), (100, None));
}

#[tokio::test(start_paused = true)]
async fn a_history_that_is_too_long_begins_later_and_says_from_where() {
    let mut node = LoneNode::new(100_000);
    let epoch = apply(&mut node, open("gw-1"));
    for serial in 0..4000 {
        let ops = vec![register(3 * serial + 1, "a"), register(3 * serial + 2, "a")];
        let ops =
            ops.into_iter().chain([1, 2].map(|n| Op::Unregister { serial: 3 * serial + n, reason: Reason::Closed }));
        apply(&mut node, batch(epoch, ops.collect()));
    }
    let told = check_history(&node, "a").await;
    assert!(told.len() > history::CHANGES_MAX && told.len() < history::CHANGES_MAX * 2);
    assert_eq!(told[0]["n"], 0, "revisions are whole");
}

#[tokio::test(start_paused = true)]
async fn what_is_retained_is_bounded_in_bytes_with_the_texts_that_it_has() {
    let mut node = LoneNode::new(100_000).retaining_bytes(1 << 20);
    let epoch = apply(&mut node, open("gw-1"));
    let mut most = 0;
    for serial in 1..=2000 {
        let Op::Register(register) = register(serial, &format!("u-{serial}")) else { unreachable!() };
        let register = Register { meta: Some("m".repeat(4000).into()), ..register };
        apply(&mut node, batch(epoch, vec![Op::Register(register)]));
        assert!(node.retained().bytes <= 1 << 20);
        most = most.max(node.retained().events);
    }
    assert!((60..140).contains(&most), "each has its text twice, here and in the frame: {most}");
    // The end of a session counts with what it closed.
    assert!(node.retained().events > 1);
    apply(&mut node, Command::EndSession { epoch, reason: Reason::Died, fenced: true });
    let guessed = node.retained();
    node.settle().await;
    let listed = node.retained();
    assert!(listed.bytes > 2000 * 100 && listed.bytes <= 1 << 20, "{guessed:?} {listed:?}");
}

#[tokio::test]
#[ignore = "a measurement: cargo test --lib -- --ignored --nocapture what_retention_costs"]
async fn what_retention_costs() {
    const OPS: u64 = 256;
    let mut node = LoneNode::new(1_000_000);
    let epoch = apply(&mut node, open("gw-1"));
    let mut serial = 0;
    let mut timed = |node: &mut LoneNode, batches: u64, users: u64| {
        let mut publishing = Duration::ZERO;
        for _ in 0..batches {
            let ops = (0..OPS).map(|_| {
                serial += 1;
                register(serial, &format!("user-{}", serial % users))
            });
            let entry = Entry { at_ms: 1, commands: vec![batch(epoch, ops.collect())] };
            let revision = node.directory.revision() + 1;
            let applied = node.directory.apply(revision, &entry);
            let began = Instant::now();
            node.publish(revision, applied);
            publishing += began.elapsed();
        }
        println!("publish: {:?} an event", publishing / u32::try_from(batches * OPS).unwrap());
    };
    timed(&mut node, 3900, 500_000);
    timed(&mut node, 400, 500_000);
    println!("retained: {:?}", node.retained());
    let ends = Instant::now();
    apply(&mut node, Command::EndSession { epoch, reason: Reason::Died, fenced: true });
    println!("the end of a session with {serial} connections: {:?}", ends.elapsed());
    let looks = Instant::now();
    for n in 0..10_000 {
        assert_eq!(node.last_seen(&format!("nobody-{n}")), None);
    }
    println!("last_seen of an unknown user before it is listed: {:?}", looks.elapsed() / 10_000);
    let listing = Instant::now();
    node.settle().await;
    println!("listed and indexed in {:?}: {:?}", listing.elapsed(), node.retained());
    for (what, users) in [("an unknown", "nobody"), ("a known", "user")] {
        let looks = Instant::now();
        let seen = (0..100_000).filter(|n| node.last_seen(&format!("{users}-{n}")).is_some()).count();
        println!("last_seen of {what} user: {:?} ({seen})", looks.elapsed() / 100_000);
    }
    let histories = Instant::now();
    for n in 1..=1000 {
        assert!(!node.history(&format!("user-{n}")).await.lines.is_empty());
    }
    println!("a history: {:?}", histories.elapsed() / 1000);
}
