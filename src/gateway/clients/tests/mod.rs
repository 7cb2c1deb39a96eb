//! Client sockets over real TCP, with a directory in memory behind the registrar.

mod deliver;
mod ownership;
mod raw;
mod rfc6455;
mod size;
mod tokens;
mod topics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raw::{BINARY, CLOSE, PING, PONG, Raw, TEXT, frame};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Hub, router};
use crate::clock;
use crate::gateway::Policy;
use crate::gateway::delivery::Deliveries;
use crate::gateway::lease::Lease;
use crate::gateway::meters::Meters;
use crate::gateway::ours::Ours;
use crate::gateway::registrar::{Lines, Registrar};
use crate::gateway::replica::Replica;
use crate::gateway::running::look_after;
use crate::gateway::settings::{ReplicaMode, Settings};
use crate::gateway::table::Table;
use crate::gateway::testing::World;
use crate::net::Listener;
use crate::net::http::{ServeLimits, serve};
use crate::push::Local;
use crate::wire::close::CloseCode;
use crate::wire::peer::{Deliver, Delivery, TargetStatus};

/// A gateway without a cluster.
struct Bench {
    hub: Arc<Hub>,
    ours: Arc<Ours>,
    world: World,
    deliveries: Deliveries,
    address: SocketAddr,
    session: watch::Sender<Option<u64>>,
    epoch: u64,
    _tasks: JoinSet<()>,
}

impl Bench {
    /// A gateway that has a session.
    async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let mut bench = Self::start_without_session(change).await;
        bench.epoch = bench.world.open_session(1);
        bench.lease(bench.epoch);
        bench.hub.replica.load_nothing();
        bench
    }

    async fn start_without_session(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { id: String::from("gw-1"), ..Settings::default() };
        change(&mut settings);
        let settings = Arc::new(settings);
        let world = World::new(1);
        let meters = Meters::new("test");
        let (table, lease) = (Arc::<Table>::default(), Arc::<Lease>::default());
        let replica = Arc::new(Replica::alone(ReplicaMode::Full));
        let (commands, commands_out) = mpsc::channel(1000);
        let (session, session_out) = watch::channel(None);
        let lines = Lines { commands: commands_out, session: session_out, fenced: watch::channel(0).0 };
        let ours = Arc::new(Ours::new(Arc::clone(&table), Arc::clone(&lease), commands.clone()));
        world.watched_by(Some(Arc::clone(&ours)));
        let hub = Arc::new(Hub::new(
            Arc::clone(&settings),
            meters.clone(),
            Arc::clone(&table),
            Arc::clone(&lease),
            Arc::clone(&replica),
            commands,
        ));
        let registrar =
            Registrar::new(world.clone(), Arc::clone(&table), settings.registrar.clone(), settings.policy, lines);
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address();
        let mut tasks = JoinSet::new();
        let never = CancellationToken::new;
        tasks.spawn(registrar.run(never()));
        tasks.spawn(look_after(Arc::clone(&hub), never()));
        tasks.spawn(Arc::clone(&hub).keep_keys(never()));
        tasks.spawn(serve(listener, router(Arc::clone(&hub)), ServeLimits::default(), never()));
        let deliveries = Deliveries::new(table, lease, replica, meters, settings.peers.clone());
        Self { hub, ours, world, deliveries, address, session, epoch: 0, _tasks: tasks }
    }

    fn lease(&self, epoch: u64) {
        self.hub.lease.hold(epoch, clock::boottime() + Duration::from_secs(3600));
        self.session.send_replace(Some(epoch));
    }

    /// What becomes of a message for named targets.
    async fn deliver(&self, delivery: Deliver) -> Vec<TargetStatus> {
        match self.deliveries.outcome(self.deliveries.enter(delivery).await).await {
            Delivery::Each(statuses) => statuses,
            other => panic!("{other:?}"),
        }
    }

    /// A client that was welcomed, and its serial.
    async fn welcomed(&self, user: &str) -> (Raw, u64) {
        let mut client = Raw::open(self.address, &format!("/ws?user={user}&device=web")).await;
        let welcome = client.expect("welcome").await;
        let serial = welcome["connection"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        (client, serial)
    }

    /// Waits until the directory holds so many connections.
    async fn held(&self, connections: u64) {
        let reached = tokio::time::timeout(Duration::from_secs(10), async {
            while self.world.read(|directory| directory.stats().connections) != connections {
                tokio::task::yield_now().await;
            }
        });
        reached.await.expect("it comes to that");
    }
}

#[tokio::test]
async fn a_client_is_turned_away_before_the_upgrade_with_a_reason() {
    let bench = Bench::start_without_session(|settings| settings.clients.lease_wait = Duration::from_millis(50)).await;
    let (_, head) = Raw::ask(bench.address, "/ws?user=alice", "").await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.to_ascii_lowercase().contains("\r\nretry-after: "), "{head}");
    let bench = Bench::start(|settings| settings.clients.connections_max = 1).await;
    for (target, headers, status) in [
        ("/ws?user=alice&token=secret", "", 401),
        ("/ws?user=alice", "Authorization: Bearer secret\r\n", 401),
        ("/ws?user=alice", "Sec-WebSocket-Protocol: switchboard.v1, bearer.secret\r\n", 401),
        ("/ws?user=", "", 400),
        ("/ws?user=a%0Ab", "", 400),
        ("/ws?user=alice&device=%00", "", 400),
        ("/ws?user=alice&topics=a,b%0A", "", 400),
        ("/elsewhere", "", 404),
    ] {
        let (_, head) = Raw::ask(bench.address, target, headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {head}");
    }
    let (_only, _) = bench.welcomed("alice").await;
    let (_, head) = Raw::ask(bench.address, "/ws?user=bob", "").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let bench = Bench::start(|settings| settings.clients.per_address_max = 0).await;
    let (_, head) = Raw::ask(bench.address, "/ws?user=bob", "").await;
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
}

#[tokio::test]
async fn a_subprotocol_is_chosen_only_where_ours_was_offered() {
    let bench = Bench::start(|_| {}).await;
    for (headers, chosen) in [
        ("", false),
        ("Sec-WebSocket-Protocol: other\r\n", false),
        ("Sec-WebSocket-Protocol: other, switchboard.v1\r\n", true),
    ] {
        let (mut client, head) = Raw::ask(bench.address, "/ws?user=alice", headers).await;
        assert_eq!(head.to_ascii_lowercase().contains("sec-websocket-protocol: switchboard.v1"), chosen, "{head}");
        client.expect("welcome").await;
    }
}

#[tokio::test]
async fn a_client_is_welcomed_when_the_directory_has_it_and_forgotten_when_it_leaves() {
    let bench = Bench::start(|_| {}).await;
    let mut client = Raw::open(bench.address, "/ws?user=al%20ice&device=web&resume=t").await;
    let welcome = client.expect("welcome").await;
    let epoch = bench.epoch;
    assert_eq!(welcome["connection"], format!("c-{epoch}-1"));
    assert_eq!((&welcome["user"], &welcome["gateway"]), (&"al ice".into(), &"gw-1".into()));
    assert!(welcome["revision"].as_u64() >= welcome["granted"].as_u64(), "{welcome}");
    let refused = client.expect("error").await;
    assert_eq!(refused["code"], "not_implemented", "resume was asked for");
    bench.held(1).await;
    client.send(CLOSE, &1000_u16.to_be_bytes()).await;
    assert_eq!(client.frame().await, Some((CLOSE, 1000_u16.to_be_bytes().to_vec())));
    assert_eq!(client.frame().await, None);
    bench.held(0).await;
    let (client, _) = bench.welcomed("bob").await;
    drop(client);
    bench.held(0).await;
}

#[tokio::test]
async fn without_a_user_in_the_upgrade_the_first_frame_tells() {
    let bench = Bench::start(|_| {}).await;
    let mut client = Raw::open(bench.address, "/ws").await;
    let hello = client.expect("hello").await;
    assert_eq!(hello["frame_bytes_max"], 65_536);
    client.say(r#"{"type":"subscribe","id":1,"topics":["a"]}"#).await;
    assert_eq!(client.expect("error").await["re"], 1);
    client
        .say(r#"{"type":"connect","user":"alice","device":"ios","meta":{"v":1},"resume":{"token":"t","seq":1}}"#)
        .await;
    assert_eq!(client.expect("welcome").await["user"], "alice");
    assert_eq!(client.expect("error").await["code"], "not_implemented");
    let meta = bench.world.read(|d| d.connections_of("alice")[0].connection.meta.clone());
    assert_eq!(meta.as_deref(), Some(r#"{"v":1}"#));
    for (connect, code) in [
        (r#"{"type":"connect"}"#, 4000),
        (r#"{"type":"connect","user":"a","token":"t"}"#, 4001),
        (r#"{"type":"connect","user":"a\u0000"}"#, 4000),
        (r#"{"type":"connect","user":"a","meta":[]}"#, 4000),
        ("{", 4000),
    ] {
        let mut client = Raw::open(bench.address, "/ws").await;
        client.expect("hello").await;
        client.say(connect).await;
        assert_eq!(client.expect_end(code).await["reconnect"], false);
    }
}

#[tokio::test]
async fn a_client_that_does_not_say_who_it_is_is_not_waited_for() {
    let bench = Bench::start(|settings| settings.clients.connect_timeout = Duration::from_millis(50)).await;
    let mut client = Raw::open(bench.address, "/ws").await;
    client.expect("hello").await;
    client.expect_end(4008).await;
}

#[tokio::test]
async fn requests_are_answered_pings_too_and_fragments_are_put_together() {
    let bench = Bench::start(|_| {}).await;
    let (mut client, _) = bench.welcomed("alice").await;
    client.say(r#"{"type":"send","id":"x","data":1}"#).await;
    let error = client.expect("error").await;
    assert_eq!((&error["re"], &error["code"]), (&"x".into(), &"not_implemented".into()));
    client.write(&frame(TEXT, br#"{"type":"#)).await;
    client.send(PING, b"between").await;
    client.write(&frame(0x80, br#""what","id":7}"#)).await;
    assert_eq!(client.frame().await, Some((PONG, b"between".to_vec())));
    let error = client.expect("error").await;
    assert_eq!((&error["re"], &error["code"]), (&7.into(), &"bad_request".into()));
}

#[tokio::test]
async fn whatever_is_wrong_there_is_a_goodbye_and_a_close_frame() {
    let bench = Bench::start(|settings| settings.policy = Policy::multi(100)).await;
    let ten_megabytes = frame(0x81, &vec![b'x'; 10 << 20]);
    let claims_an_exabyte = [&[0x81, 0xff][..], &(1_u64 << 60).to_be_bytes(), &[0; 4]].concat();
    for (what, bytes, code) in [
        ("not JSON", frame(0x81, b"what?"), 4000),
        ("a binary message", frame(0x80 | BINARY, b"{}"), 4000),
        ("a frame above the limit", frame(0x81, &vec![b' '; 65_537]), 4009),
        ("a frame far above the limit", ten_megabytes, 4009),
        ("a length that nobody has", claims_an_exabyte, 4009),
        ("fragments above the limit", [frame(0x01, &[b' '; 65_000]), frame(0x80, &[b' '; 1000])].concat(), 4009),
        ("no UTF-8", frame(0x81, b"\"\xff\xfe\""), 1007),
        ("an unmasked frame", b"\x81\x02{}".to_vec(), 1002),
        ("a reserved bit", frame(0xc1, b"{}"), 1002),
        ("an opcode that does not exist", frame(0x83, b""), 1002),
        ("a ping that is too long", frame(0x80 | PING, &[0; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a fragmented ping", frame(PING, b""), 1002),
        ("too many messages", frame(0x81, br#"{"type":"pong"}"#).repeat(300), 4129),
    ] {
        let (mut client, _) = bench.welcomed("mallory").await;
        eprintln!("{what}");
        client.write(&bytes).await;
        client.expect_end(code).await;
    }
    bench.held(0).await;
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_then_closed_and_one_that_answers_stays() {
    let bench = Bench::start(|settings| {
        settings.clients.heartbeat = Duration::from_millis(250);
        settings.clients.pong_timeout = Duration::from_millis(1500);
    })
    .await;
    let (mut silent, _) = bench.welcomed("silent").await;
    let (mut alive, _) = bench.welcomed("alive").await;
    for _ in 0..8 {
        alive.expect("ping").await;
        alive.say(r#"{"type":"pong"}"#).await;
    }
    silent.expect("ping").await;
    silent.expect_end(4108).await;
    bench.held(1).await;
}

#[tokio::test]
async fn a_registration_that_is_not_committed_in_time_ends_with_4100_and_leaves_no_ghost() {
    let bench = Bench::start(|settings| settings.registrar.register_wait = Duration::from_millis(80)).await;
    bench.world.set_trouble(100);
    bench.world.watched_by(None);
    let mut client = Raw::open(bench.address, "/ws?user=alice").await;
    assert_eq!(client.expect_end(4100).await["reconnect"], true);
    bench.world.set_trouble(0);
    bench.held(0).await;
}

#[tokio::test]
async fn one_connection_too_many_of_a_user_is_told_so() {
    let bench = Bench::start(|settings| settings.policy = Policy::multi(1)).await;
    let (_first, _) = bench.welcomed("alice").await;
    let mut second = Raw::open(bench.address, "/ws?user=alice").await;
    second.expect_end(4005).await;
}

#[tokio::test]
async fn a_drain_sends_everybody_away_also_those_who_only_arrive() {
    let bench = Bench::start(|_| {}).await;
    let (mut client, _) = bench.welcomed("alice").await;
    let mut arriving = Raw::open(bench.address, "/ws").await;
    arriving.expect("hello").await;
    bench.hub.send_away(CloseCode::Drain);
    let goodbye = client.expect_end(4200).await;
    assert_eq!((&goodbye["reconnect"], goodbye["after_ms"].as_u64() < Some(5000)), (&true.into(), true));
    arriving.expect_end(4200).await;
    // Their sockets are closed by the server when they close theirs.
    drop((client, arriving));
    tokio::time::timeout(Duration::from_secs(10), bench.hub.seats.all_left()).await.unwrap();
    bench.held(0).await;
    let (_, head) = Raw::ask(bench.address, "/ws?user=bob", "").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
}

#[tokio::test]
async fn a_new_session_keeps_the_socket_and_gives_a_new_id() {
    let bench = Bench::start(|_| {}).await;
    let (mut client, serial) = bench.welcomed("alice").await;
    bench.world.end_session(bench.epoch);
    bench.held(0).await;
    let epoch = bench.world.open_session(2);
    bench.lease(epoch);
    let rebound = client.expect("rebound").await;
    assert_eq!(rebound["connection"], format!("c-{epoch}-{serial}"));
    bench.held(1).await;
}
