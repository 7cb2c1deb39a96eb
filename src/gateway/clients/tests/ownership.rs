//! Exclusive connections: who waits, who has to go, and what happens when the lease is over.

use super::*;
use crate::directory::{Ban, Command, Disconnect, OpOutcome, Release, Whom};
use crate::gateway::{Handover, Per};
use crate::wire::peer::{Ack, Deliver, Message, Payload, TargetStatus, Targets};

const NEWEST: Policy = Policy::NewestWins { per: Per::User, handover: Handover::Wait };

async fn exclusive() -> Bench {
    Bench::start(|settings| settings.policy = NEWEST).await
}

fn message(data: &str, ack: Ack) -> Arc<Message> {
    let data = Payload::Json(data.to_owned().into());
    Arc::new(Message { id: "m".into(), topic: None, event: None, data, ack, timeout_ms: 300 })
}

impl Bench {
    async fn push(&self, serial: u64, data: &str, ack: Ack) -> TargetStatus {
        let targets = vec![crate::directory::ConnectionId { epoch: *self.session.borrow().as_ref().unwrap(), serial }];
        self.deliver(Deliver { id: 0, message: message(data, ack), targets: Targets::Each(targets), resolved: 0 }).await
            [0]
    }

    /// The own deadline is over, as after a stall.
    fn expire(&self) {
        self.hub.lease.hold(self.epoch, clock::boottime());
    }

    /// A renewal is acknowledged after all.
    fn confirm(&self) {
        assert!(self.hub.lease.extend(clock::boottime() + Duration::from_secs(3600)));
        self.hub.table.wake_all();
    }

    fn owner(&self, user: &str) -> Option<u64> {
        self.world.read(|directory| {
            let owners = directory.connections_of(user);
            assert!(owners.len() <= 1, "{owners:?}");
            owners.first().map(|owner| owner.id.serial)
        })
    }
}

#[tokio::test]
async fn a_newcomer_is_welcomed_when_the_other_has_stopped() {
    let bench = exclusive().await;
    let (mut first, _) = bench.welcomed("alice").await;
    let mut second = Raw::open(bench.address, "/ws?user=alice&device=tv").await;
    let goodbye = first.expect_end(4004).await;
    assert_eq!((&goodbye["reason"], &goodbye["reconnect"]), (&"superseded".into(), &false.into()));
    assert_eq!(bench.owner("alice"), Some(2), "it was unregistered before it was told");
    let welcome = second.expect("welcome").await;
    assert_eq!(welcome["connection"], format!("c-{}-2", bench.epoch));
    assert_eq!(bench.push(1, "1", Ack::Written).await, TargetStatus::Gone);
    assert_eq!(bench.push(2, "1", Ack::Written).await, TargetStatus::Written);
    assert_eq!(second.expect("push").await["granted"], welcome["granted"]);
    assert_eq!(bench.hub.common.pending(), 0);
}

#[tokio::test]
async fn who_waits_for_another_gateway_is_welcomed_by_its_release_also_when_the_watch_has_a_gap() {
    let bench = exclusive().await;
    let elsewhere = bench.world.open_session_of("gw-2", 1);
    for (serial, user) in [(1, "alice"), (2, "bob"), (3, "carol"), (4, "dave")] {
        bench.world.register_elsewhere(elsewhere, serial, user, NEWEST);
    }
    let mut alice = Raw::open(bench.address, "/ws?user=alice").await;
    let mut bob = Raw::open(bench.address, "/ws?user=bob").await;
    let mut carol = Raw::open(bench.address, "/ws?user=carol").await;
    let _dave = Raw::open(bench.address, "/ws?user=dave").await;
    bench.pending(4).await;
    alice.expect_silence().await;
    bench.world.unregister_elsewhere(elsewhere, 1);
    assert_eq!(alice.expect("welcome").await["user"], "alice");
    // The watch broke off meanwhile, and goes on after a gap.
    bench.world.watched_by(None);
    bench.world.unregister_elsewhere(elsewhere, 2);
    bench.world.register_elsewhere(elsewhere, 5, "carol", NEWEST);
    bench.ours.missed_some();
    carol.expect_end(4004).await;
    assert_eq!(bob.expect("welcome").await["user"], "bob");
    alice.expect_silence().await;
    assert_eq!(bench.hub.common.pending(), 1, "dave waits as before");
}

impl Bench {
    /// Waits until so many clients wait for their places.
    async fn pending(&self, count: usize) {
        let reached = tokio::time::timeout(Duration::from_secs(10), async {
            while self.hub.common.pending() != count {
                tokio::task::yield_now().await;
            }
        });
        reached.await.expect("they wait");
    }
}

#[tokio::test]
async fn who_waits_and_is_outbid_or_leaves_is_gone_and_who_waits_too_long_comes_back_later() {
    let bench = Bench::start(|settings| {
        settings.policy = NEWEST;
        settings.lease = Duration::from_millis(1500);
        settings.registrar.pending_slack = Duration::from_millis(500);
    })
    .await;
    let elsewhere = bench.world.open_session_of("gw-2", 1);
    bench.world.register_elsewhere(elsewhere, 1, "alice", NEWEST);
    let mut first = Raw::open(bench.address, "/ws?user=alice").await;
    bench.pending(1).await;
    let leaving = Raw::open(bench.address, "/ws?user=alice").await;
    first.expect_end(4004).await;
    drop(leaving);
    bench.pending(0).await;
    let mut patient = Raw::open(bench.address, "/ws?user=alice").await;
    let goodbye = patient.expect_end(4100).await;
    assert_eq!(goodbye["reconnect"], true);
    bench.world.unregister_elsewhere(elsewhere, 1);
    assert_eq!(bench.owner("alice"), None, "nobody is granted what nobody waits for any more");
}

#[tokio::test]
async fn newcomers_that_wait_are_limited() {
    let bench = Bench::start(|settings| {
        settings.policy = NEWEST;
        settings.registrar.pending_max = 1;
    })
    .await;
    let elsewhere = bench.world.open_session_of("gw-2", 1);
    bench.world.register_elsewhere(elsewhere, 1, "alice", NEWEST);
    bench.world.register_elsewhere(elsewhere, 2, "bob", NEWEST);
    let _waits = Raw::open(bench.address, "/ws?user=alice").await;
    bench.pending(1).await;
    let mut one_too_many = Raw::open(bench.address, "/ws?user=bob").await;
    one_too_many.expect_end(4100).await;
}

#[tokio::test]
async fn a_place_that_is_kept_is_refused_without_a_word_about_who_has_it() {
    let bench = Bench::start(|settings| settings.policy = Policy::OldestWins { per: Per::Device }).await;
    let (_first, _) = bench.welcomed("alice").await;
    let mut second = Raw::open(bench.address, "/ws?user=alice&device=web").await;
    let goodbye = second.expect_end(4004).await;
    let message = goodbye["message"].as_str().unwrap();
    assert!(message.contains("policy") && !message.contains("gw-1") && !message.contains("c-"), "{message}");
    let mut other = Raw::open(bench.address, "/ws?user=alice&device=tv").await;
    other.expect("welcome").await;
}

#[tokio::test]
async fn what_somebody_asks_for_is_told_with_code_and_reason_and_counts_as_handled_when_it_has_stopped() {
    let bench = Bench::start(|_| {}).await;
    let (mut alice, serial) = bench.welcomed("alice").await;
    let id = crate::directory::ConnectionId { epoch: bench.epoch, serial };
    let release = Release { code: 4500, reason: Some("moved".into()) };
    bench.world.apply(Command::Disconnect(Disconnect { whom: Whom::Connection(id), release: release.clone() }));
    let goodbye = alice.expect_end(4500).await;
    assert_eq!((&goodbye["reason"], &goodbye["reconnect"]), (&"moved".into(), &true.into()));
    bench.held(0).await;

    // The watch does not tell of it, but a renewal does.
    let (mut bob, serial) = bench.welcomed("bob").await;
    let (id, release) =
        (crate::directory::ConnectionId { epoch: bench.epoch, serial }, Release { code: 4003, ..release });
    bench.ours.asked(bench.epoch, 90, &[(id, release.clone())]);
    assert_eq!(bob.expect_end(4003).await["reason"], "moved");
    assert_eq!(bench.ours.handled(), 90);
    bench.ours.asked(bench.epoch, 95, &[]);
    bench.ours.asked(bench.epoch, 93, &[]);
    assert_eq!(bench.ours.handled(), 95, "answers may overtake each other");

    let ban = Ban { until_ms: None, reason: Some("spam".into()) };
    bench.world.apply(Command::Ban { user: "eve".into(), ban });
    let mut eve = Raw::open(bench.address, "/ws?user=eve").await;
    assert_eq!(eve.expect_end(4003).await["reason"], "spam");
}

#[tokio::test]
async fn a_connection_that_only_the_directory_has_is_unregistered_when_it_is_to_be_released() {
    let bench = exclusive().await;
    let OpOutcome::Registered { .. } = bench.world.register_elsewhere(bench.epoch, 700, "ghost", NEWEST) else {
        panic!("nobody else is there")
    };
    let id = crate::directory::ConnectionId { epoch: bench.epoch, serial: 700 };
    bench.ours.asked(bench.epoch, 9, &[(id, Release::superseded())]);
    bench.held(0).await;
}

#[tokio::test]
async fn past_the_deadline_nothing_is_written_or_passed_on_and_then_it_goes_on() {
    let bench = exclusive().await;
    let (mut alice, serial) = bench.welcomed("alice").await;
    let asked = tokio::time::timeout(Duration::from_secs(10), bench.push(serial, "1", Ack::Client));
    let (_, status) = tokio::join!(
        async {
            assert_eq!(alice.expect("push").await["data"], 1);
            bench.expire();
            alice.say(r#"{"type":"ack","seq":1}"#).await;
            alice.say(r#"{"type":"what","id":1}"#).await;
            alice.send(PING, b"still there?").await;
        },
        asked
    );
    assert_eq!(status.unwrap(), TargetStatus::Timeout, "an acknowledgement is not passed on");
    assert_eq!(bench.push(serial, "2", Ack::Written).await, TargetStatus::Fenced);
    alice.expect_silence().await;
    bench.confirm();
    assert_eq!(alice.expect("error").await["re"], 1);
    assert_eq!(alice.frame().await, Some((PONG, b"still there?".to_vec())));
    assert_eq!(bench.push(serial, "3", Ack::Written).await, TargetStatus::Written);
    assert_eq!(alice.expect("push").await["data"], 3);
}

#[tokio::test]
async fn who_arrives_without_a_lease_waits_a_while_for_it_and_is_told_to_come_back_then() {
    let bench = Bench::start(|settings| {
        settings.policy = NEWEST;
        settings.clients.lease_wait = Duration::from_secs(1);
        settings.clients.lease_waiters_max = 1;
    })
    .await;
    bench.expire();
    let first = tokio::spawn(Raw::ask(bench.address, "/ws?user=alice", ""));
    let refused = |head: &str| head.starts_with("HTTP/1.1 503 ") && head.to_ascii_lowercase().contains("retry-after");
    let (_, head) = first.await.unwrap();
    assert!(refused(&head), "it waited in vain: {head}");

    let waits = tokio::spawn(Raw::ask(bench.address, "/ws?user=alice", ""));
    while bench.hub.lease_waiters() == 0 {
        tokio::task::yield_now().await;
    }
    let (_, head) = Raw::ask(bench.address, "/ws?user=bob", "").await;
    assert!(refused(&head) && !waits.is_finished(), "no place among those who wait: {head}");
    bench.confirm();
    let (mut alice, head) = waits.await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    alice.expect("welcome").await;
}

#[tokio::test]
async fn shared_connections_are_served_without_a_lease() {
    let bench = Bench::start(|_| {}).await;
    let (mut alice, serial) = bench.welcomed("alice").await;
    bench.expire();
    assert_eq!(bench.push(serial, "1", Ack::Written).await, TargetStatus::Written);
    assert_eq!(alice.expect("push").await["data"], 1);
}

/// Fills the socket of a client that does not read: some of what is queued is in the socket, the rest waits for room.
async fn clogged(bench: &Bench, serial: u64) -> usize {
    let data = format!("\"{}\"", "x".repeat(200 << 10));
    let mut written = 0;
    while bench.push(serial, &data, Ack::Written).await == TargetStatus::Written {
        written += 1;
    }
    written
}

#[tokio::test]
async fn what_was_queued_leaves_when_the_lease_is_held_again() {
    let bench = exclusive().await;
    let (mut alice, serial) = bench.welcomed("alice").await;
    let written = clogged(&bench, serial).await;
    bench.expire();
    let (before, _) = alice.drain().await;
    bench.confirm();
    let (after, ended) = alice.drain().await;
    assert!(!after.is_empty() && !ended);
    let whole = [before, after].concat();
    let frames = whole.windows(12).filter(|window| window == b"\"type\":\"push").count();
    assert_eq!(frames, written + 1, "and what was torn is mended");
}

#[tokio::test]
async fn what_was_queued_for_one_that_lost_its_place_never_leaves() {
    let bench = exclusive().await;
    let (mut alice, serial) = bench.welcomed("alice").await;
    let written = clogged(&bench, serial).await;
    let (mut bob, _) = bench.welcomed("bob").await;
    let (mut carol, kept) = bench.welcomed("carol").await;
    // A stall, in which others take over.
    bench.expire();
    bench.world.end_session(bench.epoch);
    let elsewhere = bench.world.open_session_of("gw-2", 1);
    for (serial, user) in [(1, "alice"), (2, "bob")] {
        let outcome = bench.world.register_elsewhere(elsewhere, serial, user, NEWEST);
        assert!(matches!(outcome, OpOutcome::Registered { .. }), "{outcome:?}");
    }
    let (before, _) = alice.drain().await;
    assert!(before.len() < (written + 1) * (200 << 10), "{written} were written, and a part of the next");
    let epoch = bench.world.open_session(2);
    bench.lease(epoch);
    bob.expect_end(4004).await;
    let (after, ended) = alice.drain().await;
    let torn = String::from_utf8_lossy(&after);
    assert!(ended && !torn.contains('x') && !torn.contains("push"), "{} bytes", after.len());
    // Who kept its place goes on.
    assert_eq!(carol.expect("rebound").await["connection"], format!("c-{epoch}-{kept}"));
    assert_eq!(bench.push(kept, "1", Ack::Written).await, TargetStatus::Written);
    assert_eq!(carol.expect("push").await["data"], 1);
    assert_eq!((bench.owner("alice"), bench.owner("bob")), (Some(1), Some(2)));
}
