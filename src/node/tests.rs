//! A group of real nodes on loopback, with real disks, in one process.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use tokio::time::Instant;

use super::*;
use crate::client::{Directory, Settings as ClientSettings};
use crate::clock;
use crate::directory::{
    Ban, Batch, ConnectionId, Event, GatewayAddresses, Op, OpOutcome, OpenSession, Policy, Reason, Register,
};
use crate::net::http::Client;
use crate::wire::peer::{Answer, Failure, GroupChange, RequestBody, Stamp, WatchFrame, WatchFrom, Who};

mod ownership;

const PATIENCE: Duration = Duration::from_secs(20);

struct Group {
    nodes: Vec<Node>,
    directory: Directory,
    _data: tempfile::TempDir,
}

async fn group(size: u64) -> Group {
    let data = tempfile::tempdir().unwrap();
    let mut listeners = Vec::new();
    for _ in 0..size {
        let bind = || Listener::bind("127.0.0.1:0");
        listeners.push((bind().await.unwrap(), bind().await.unwrap()));
    }
    let peers: BTreeMap<u64, String> = (1..).zip(listeners.iter().map(|(_, p)| p.address().to_string())).collect();
    let mut nodes = Vec::new();
    for (id, (api, peer)) in (1..).zip(listeners) {
        let settings = Settings {
            id,
            cluster: "test".to_owned(),
            data_dir: data.path().join(id.to_string()),
            listen_api: String::new(),
            listen_peer: String::new(),
            advertise_peer: None,
            advertise_api: None,
            peers: peers.clone(),
            join: false,
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(300), Duration::from_millis(600)),
            snapshot_every: SNAPSHOT_EVERY,
            disk_reserve: 0,
            retain_events: RETAIN_EVENTS,
            retain_bytes: RETAIN_BYTES,
            log_engine: LogEngine::default(),
        };
        nodes.push(Node::start_on(settings, api, peer, CancellationToken::new()).await.unwrap());
    }
    let nodes_known = peers.into_values().collect();
    let directory =
        Directory::new(ClientSettings { cluster: "test".to_owned(), name: "a test".to_owned(), nodes: nodes_known });
    Group { nodes, directory, _data: data }
}

fn open(gateway: &str, nonce: &str) -> RequestBody {
    RequestBody::OpenSession(OpenSession {
        gateway: gateway.into(),
        nonce: nonce.into(),
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
        policy: Policy::multi(16),
        since: None,
        connected_at_ms: 1,
        remote: None,
        meta: None,
    })
}

impl Group {
    async fn ask(&self, body: RequestBody) -> Answer {
        self.directory.ask(body, PATIENCE).await.unwrap()
    }

    async fn session(&self, gateway: &str) -> u64 {
        let Answer::Opened { epoch, .. } = self.ask(open(gateway, "n")).await else { panic!("not opened") };
        epoch
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_registers_renews_and_expires_when_it_falls_silent() {
    let group = group(3).await;
    let epoch = group.session("gw-1").await;
    let ops = vec![register(1, "alice"), register(2, "bob")];
    let batch = RequestBody::Batch(Batch { epoch, seq: Some(1), ops });
    let Answer::Batch(Ok(done)) = group.ask(batch.clone()).await else { panic!("refused") };
    assert!(matches!(done.ops[0], OpOutcome::Registered { granted, .. } if granted == done.revision));
    assert_eq!(group.ask(batch).await, Answer::Batch(Ok(done)), "a repeated batch is answered as the first was");

    let Answer::Taken { epoch: holder } = group.ask(open("gw-1", "other")).await else { panic!("not taken") };
    assert_eq!(holder, epoch);
    let silent_since = Instant::now();
    let renewed = group.ask(RequestBody::Renew { epoch, handled: 0 }).await;
    assert!(matches!(renewed, Answer::Renewed { lease_ms: 3000, release, .. } if release.is_empty()));

    let mut watch = group.directory.watch(WatchFrom::After(epoch)).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            if let WatchFrame::Events { events, .. } = watch.next().await.unwrap()
                && events.iter().any(|event| matches!(event, Event::SessionEnded { reason: Reason::Expired, .. }))
            {
                break silent_since.elapsed();
            }
        }
    });
    let after = ended.await.expect("a silent session ends");
    assert!(after >= Duration::from_secs(3), "a lease is never shortened: {after:?}");
    assert_eq!(group.ask(RequestBody::Renew { epoch, handled: 0 }).await, Answer::Gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_serves_watches_and_echoes_stamps_after_what_they_saw() {
    let group = group(3).await;
    let epoch = group.session("gw-1").await;
    for (seq, user) in (1..).zip(["a", "b", "c"]) {
        let batch = Batch { epoch, seq: Some(seq), ops: vec![register(seq, user)] };
        assert!(matches!(group.ask(RequestBody::Batch(batch)).await, Answer::Batch(Ok(_))));
    }
    for _ in &group.nodes {
        // Another node each time.
        let mut watch = group.directory.watch(WatchFrom::Snapshot).await.unwrap();
        let (mut sessions, mut users) = (0, Vec::new());
        let revision = loop {
            match watch.next().await.unwrap() {
                WatchFrame::SnapshotChunk { sessions: more, connections } => {
                    sessions += more.len();
                    users.extend(connections.iter().map(|(_, connection)| connection.user.to_string()));
                }
                WatchFrame::SnapshotEnd { revision } => break revision,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((sessions, users), (1, vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
        assert!(watch.stamper().try_send(Stamp(7)));
        let echoed = loop {
            if let WatchFrame::Progress { revision, stamp: Some(7) } = watch.next().await.unwrap() {
                break revision;
            }
        };
        assert!(echoed >= revision);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_decides_and_the_others_point_to_it() {
    let group = group(3).await;
    group.session("gw-1").await;
    let leader = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Answer::Cluster(cluster) = group.ask(RequestBody::Cluster).await
                && let Some(leader) = cluster.leader
                && cluster.members.iter().all(|member| !member.api.is_empty())
            {
                break leader;
            }
        }
    });
    let leader = leader.await.unwrap();
    let follower = group.nodes.iter().find(|node| node.status().id != leader).unwrap();
    let lone = Directory::new(ClientSettings {
        cluster: "test".to_owned(),
        name: "a test".to_owned(),
        nodes: vec![follower.peer.to_string()],
    });
    let refused = lone.ask_once(RequestBody::Leases).await.unwrap_err();
    assert!(matches!(refused, Failure::NotLeader { leader: Some((id, _)) } if id == leader), "{refused:?}");
    assert!(matches!(lone.ask(RequestBody::Leases, PATIENCE).await, Ok(Answer::Leases(leases)) if leases.len() == 1));
}

async fn frame(watch: &mut crate::client::WatchStream) -> WatchFrame {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("a watch says something").unwrap()
}

/// Why a watch ends.
async fn end(watch: &mut crate::client::WatchStream) -> String {
    loop {
        if let WatchFrame::Ended { why } = frame(watch).await {
            return why;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_waits_where_the_node_is_behind_its_mark_and_sessions_can_be_had_alone() {
    let group = group(1).await;
    let epoch = group.session("gw-1").await;
    let mark = epoch + 2;
    let mut ahead = group.directory.watch(WatchFrom::After(mark)).await.unwrap();
    let mut sessions = group.directory.watch(WatchFrom::Sessions).await.unwrap();
    for serial in 1..=4 {
        let batch = Batch { epoch, seq: Some(serial), ops: vec![register(serial, "a")] };
        assert!(matches!(group.ask(RequestBody::Batch(batch)).await, Answer::Batch(Ok(_))));
    }
    let mut revisions = Vec::new();
    while revisions.len() < 2 {
        match frame(&mut ahead).await {
            WatchFrame::Events { revision, .. } => revisions.push(revision),
            WatchFrame::Progress { revision, .. } => assert!(revision >= mark, "it never leads back"),
            WatchFrame::Members(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(revisions, [mark + 1, mark + 2]);
    let WatchFrame::SnapshotChunk { sessions: live, connections } = frame(&mut sessions).await else {
        panic!("no sessions")
    };
    assert_eq!((live.len(), live[0].0, connections.len()), (1, epoch, 0));
    assert!(matches!(frame(&mut sessions).await, WatchFrame::SnapshotEnd { .. }), "no connection comes");

    let whom = vec![Who::User("a".into()), Who::Holder(ConnectionId { epoch, serial: 9 }), Who::User("b".into())];
    let Answer::Found(found) = group.ask(RequestBody::Find(whom)).await else { panic!("not found") };
    let counts: Vec<_> = found.users.iter().map(|user| (user.user.as_deref(), user.connections.len())).collect();
    assert_eq!(counts, [(Some("a"), 4), (None, 0), (Some("b"), 0)]);
    assert_eq!((found.sessions.len(), found.revision >= mark + 2), (1, true));
    let many = RequestBody::Find((0..2000).map(|n| Who::User(n.to_string().into())).collect());
    assert!(matches!(group.directory.ask(many, PATIENCE).await, Err(Failure::Refused { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_or_is_left_alone_ends_its_watches() {
    let group = group(3).await;
    let epoch = group.session("gw-1").await;
    // One at every node; none of them sends a stamp.
    let mut watches = Vec::new();
    for node in &group.nodes {
        let settings = ClientSettings {
            cluster: "test".to_owned(),
            name: "a test".to_owned(),
            nodes: vec![node.peer.to_string()],
        };
        let directory = Directory::new(settings);
        watches.push(directory.watch(WatchFrom::After(epoch)).await.unwrap());
    }
    let Answer::Cluster(cluster) = group.ask(RequestBody::Cluster).await else { panic!("no cluster") };
    let leader = cluster.leader.unwrap();
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let removed = group.ask(RequestBody::Change(GroupChange::Remove { id: follower })).await;
    assert!(matches!(removed, Answer::Changed(Ok(_))), "{removed:?}");
    let mut of = |id: u64| watches.remove(usize::try_from(id).unwrap() - 1);
    // It need not have heard of its removal: then it finds that it can't confirm what it knows.
    let why = end(&mut of(follower)).await;
    assert!(why.contains("removed") || why.contains("can't confirm"), "{why}");

    let position = if leader > follower { leader - 1 } else { leader };
    let mut of_leader = of(position);
    let other = (1..=3).find(|id| ![leader, follower].contains(id)).unwrap();
    let mut nodes = group.nodes;
    drop(nodes.remove(usize::try_from(other).unwrap() - 1));
    assert!(end(&mut of_leader).await.contains("can't confirm"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_left_alone_acknowledges_no_renewal() {
    let mut group = group(3).await;
    let epoch = group.session("gw-1").await;
    let leader = group.nodes.iter().position(|node| node.status().leader == Some(node.status().id)).unwrap();
    let leader = group.nodes.swap_remove(leader);
    let directory = Directory::new(ClientSettings {
        cluster: "test".to_owned(),
        name: "gateway gw-1".to_owned(),
        nodes: vec![leader.peer.to_string()],
    });
    let renew = || directory.ask_once(RequestBody::Renew { epoch, handled: 0 });
    assert!(matches!(renew().await, Ok(Answer::Renewed { .. })));
    group.nodes.clear();
    // It does not give up its office at once. Until then it believes that it leads, and is asked all the time.
    const WATCHED: Duration = Duration::from_secs(1);
    let (alone, mut renewed) = (Instant::now(), None);
    let acked = loop {
        assert!(alone.elapsed() < PATIENCE, "it notices that it is alone");
        if matches!(renew().await, Ok(Answer::Renewed { .. })) {
            renewed = Some(Instant::now());
        }
        let ago = Duration::from_millis(leader.status().quorum_acked_ms_ago.unwrap_or(u64::MAX));
        if ago > WATCHED {
            break Instant::now().checked_sub(ago);
        }
    };
    let after = renewed.and_then(|renewed| Some(renewed.saturating_duration_since(acked?))).unwrap_or_default();
    assert!(after < WATCHED / 2, "renewed {after:?} after a majority was heard for the last time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_left_alone_answers_from_memory_only_where_it_is_asked_to_and_echoes_no_stamp() {
    let mut group = group(3).await;
    let epoch = group.session("gw-1").await;
    let alone = group.nodes.swap_remove(0);
    let (cluster, name) = ("test".to_owned(), "a test".to_owned());
    let directory = Directory::new(ClientSettings { cluster, name, nodes: vec![alone.peer.to_string()] });
    let http = Client::new();
    let ask = async |query: &str| {
        let url = format!("http://{}/v1/users/alice{query}", alone.api);
        let answer = http.request(Method::GET, &url, HeaderMap::new(), Bytes::new(), PATIENCE).await;
        answer.expect("it answers").status
    };
    assert_eq!(ask("").await, StatusCode::OK);
    group.nodes.clear();
    let since = Instant::now();
    while ask("?timeout_ms=500").await != StatusCode::SERVICE_UNAVAILABLE {
        assert!(since.elapsed() < PATIENCE, "it notices that it is alone");
    }
    assert_eq!(ask("?consistency=cached").await, StatusCode::OK);
    // It may take the watch for a while yet, and then ends it.
    let Ok(mut watch) = directory.watch(WatchFrom::After(epoch)).await else { return };
    assert!(watch.stamper().try_send(Stamp(7)));
    loop {
        match frame(&mut watch).await {
            WatchFrame::Ended { why } => break assert!(why.contains("can't confirm"), "{why}"),
            WatchFrame::Progress { stamp, .. } => assert_eq!(stamp, None, "nothing was confirmed"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_never_reads_is_cut_off_and_nobody_else_notices() {
    let group = group(1).await;
    let epoch = group.session("gw-1").await;
    let mut slow = group.directory.watch(WatchFrom::After(epoch)).await.unwrap();
    let mut quick = group.directory.watch(WatchFrom::After(epoch)).await.unwrap();
    // More than the sockets between them hold.
    const BATCHES: u64 = 40;
    const OPS: u64 = 200;
    for seq in 1..=BATCHES {
        let ops = (1..=OPS).map(|n| {
            let Op::Register(plain) = register(seq * OPS + n, &format!("u-{seq}-{n}")) else { unreachable!() };
            Op::Register(Register { meta: Some("m".repeat(4000).into()), ..plain })
        });
        let batch = RequestBody::Batch(Batch { epoch, seq: Some(seq), ops: ops.collect() });
        assert!(matches!(group.ask(batch).await, Answer::Batch(Ok(_))));
        group.ask(RequestBody::Renew { epoch, handled: 0 }).await;
    }
    // The session may end meanwhile, which is told, too.
    let opens = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Opened { .. })).count() as u64;
    let (mut opened, mut marks) = (0, 0);
    // Marks come twice a second: so the other one has had longer than a write may take.
    while opened < OPS * BATCHES || marks < 30 {
        match frame(&mut quick).await {
            WatchFrame::Events { events, .. } => opened += opens(&events),
            WatchFrame::Progress { .. } => marks += 1,
            _ => {}
        }
    }
    assert_eq!(opened, OPS * BATCHES);
    let mut read = 0;
    let error = loop {
        match tokio::time::timeout(PATIENCE, slow.next()).await.expect("it was cut off") {
            Ok(WatchFrame::Events { events, .. }) => read += opens(&events),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(read < OPS * BATCHES, "{error}");
    // It comes back, and nothing is missing.
    let mut again = group.directory.watch(WatchFrom::After(epoch)).await.unwrap();
    let mut opened = 0;
    while opened < OPS * BATCHES {
        if let WatchFrame::Events { events, .. } = frame(&mut again).await {
            opened += opens(&events);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_is_lifted_when_it_is_over_and_not_before() {
    let group = group(1).await;
    let RequestBody::OpenSession(open) = open("gw-1", "n") else { unreachable!("it opens one") };
    // Nobody renews it.
    let opened = group.ask(RequestBody::OpenSession(OpenSession { lease_ms: 60_000, ..open })).await;
    let Answer::Opened { epoch, .. } = opened else { panic!("{opened:?}") };
    let until_ms = clock::wall_ms() + 700;
    for (user, until_ms) in [("alice", Some(until_ms)), ("bob", Some(until_ms + 3_600_000)), ("carol", None)] {
        let ban = Ban { until_ms, reason: None };
        let asked = group.ask(RequestBody::Ban { user: user.into(), ban }).await;
        assert!(matches!(asked, Answer::Asked { connections, .. } if connections.is_empty()));
    }
    let mut seq = 0;
    let mut try_to_register = async |user: &str| {
        seq += 1;
        let batch = Batch { epoch, seq: Some(seq), ops: vec![register(seq, user)] };
        let Answer::Batch(Ok(done)) = group.ask(RequestBody::Batch(batch)).await else { panic!("refused") };
        (matches!(done.ops[0], OpOutcome::Registered { .. }), clock::wall_ms())
    };
    let lifted = tokio::time::timeout(PATIENCE, async {
        loop {
            if let (true, at_ms) = try_to_register("alice").await {
                break at_ms;
            }
        }
    });
    let at_ms = lifted.await.expect("a ban that is over is lifted");
    assert!(at_ms >= until_ms, "{} ms too early", until_ms - at_ms);
    for user in ["bob", "carol"] {
        assert!(!try_to_register(user).await.0, "{user} is banned for longer");
    }
}
