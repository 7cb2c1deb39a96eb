//! A group of real nodes on loopback, with real disks, in one process.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::client::{Directory, Settings as ClientSettings};
use crate::clock;
use crate::directory::{Ban, Batch, GatewayAddresses, Op, OpOutcome, OpenSession, Policy, Reason, Register};
use crate::wire::peer::{Answer, Failure, RequestBody, Stamp, WatchFrame, WatchFrom};

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
                && events
                    .iter()
                    .any(|event| matches!(event, crate::directory::Event::SessionEnded { reason: Reason::Expired, .. }))
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
