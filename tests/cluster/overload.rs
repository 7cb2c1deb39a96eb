//! Overload never expires a healthy gateway: for ten leases the directory is asked for more than it can do, or its leader gets
//! a fifth of a core.
//!
//! `cargo test --test cluster overload -- --ignored --test-threads=1 --nocapture`; alone, because it takes what there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::harness::{Cluster, Http, Load, Socket, eventually, pause};
use crate::soak::upheavals;

/// Ten leases of three seconds.
const TEN_LEASES: Duration = Duration::from_secs(30);

/// Sessions that flood the directory, each with one batch after the other.
const FLOODERS: usize = 64;

/// Registrations in one batch of a flood; as many unregistrations follow, so that the state stays small.
const BATCH: u64 = 200;

/// Of every tenth of a second, the leader runs for a fifth.
const SLICE: Duration = Duration::from_millis(20);

/// Clients at each gateway.
const CLIENTS: usize = 10;

/// What became of batches.
#[derive(Default)]
struct Flood {
    done: AtomicU64,
    refused: AtomicU64,
}

async fn flood(api: String, name: String, stop: Arc<AtomicBool>, flood: Arc<Flood>) {
    let http = Http::default();
    // Its lease is long: it is not what is looked at.
    let open = json!({ "gateway": name, "nonce": "n", "lease_ms": 60_000 });
    let session = loop {
        let opened = http.try_post(&api, "/v1/sessions", &open).await;
        if let Some(session) = opened.and_then(|answer| answer.body["session"].as_str().map(str::to_owned)) {
            break session;
        }
        assert!(!stop.load(Relaxed), "{name} has no session in all the time");
        pause().await;
    };
    let path = format!("/v1/sessions/{session}/batch");
    let mut first = 1;
    while !stop.load(Relaxed) {
        let registers = (first..first + BATCH)
            .map(|serial| json!({ "op": "register", "serial": serial, "user": format!("{name}-{serial}") }));
        let unregisters = (first..first + BATCH).map(|serial| json!({ "op": "unregister", "serial": serial }));
        let ops: Vec<Value> = registers.chain(unregisters).collect();
        first += BATCH;
        let Some(answer) = http.try_post(&api, &path, &json!({ "ops": ops })).await else {
            pause().await;
            continue;
        };
        if answer.status == 200 {
            flood.done.fetch_add(1, Relaxed);
        } else {
            assert_eq!(answer.body["error"]["temporary"], true, "{} {}", answer.status, answer.body);
            flood.refused.fetch_add(1, Relaxed);
        }
    }
}

/// Clients of all gateways, and what must not move while they are there.
async fn calm(cluster: &Cluster) -> (Vec<Socket>, Value) {
    let mut clients = Vec::new();
    for gateway in cluster.gateways.keys() {
        for nth in 0..CLIENTS {
            clients.push(cluster.connect(gateway, &format!("{gateway}-{nth}")).await);
        }
    }
    let before = eventually("the nodes tell of their leader", async || {
        let now = upheavals(cluster).await;
        (now["leader changes"] == 3.0).then_some(now)
    })
    .await;
    (clients, before)
}

/// No session ended, no gateway fenced itself, and every client has the connection that it was welcomed with.
async fn assert_calm(cluster: &Cluster, clients: Vec<Socket>, before: &Value) {
    let after = upheavals(cluster).await;
    println!("before {before}\nafter  {after}");
    for what in ["expirations", "fenced"] {
        assert_eq!(before[what], after[what], "{what}");
    }
    for (nth, mut client) in clients.into_iter().enumerate() {
        let (gateway, nth) = (1 + nth / CLIENTS, nth % CLIENTS);
        let (api, user) = (cluster.gateway("gw-1").api(), format!("gw-{gateway}-{nth}"));
        cluster.http.post(&api, &format!("/v1/users/{user}/push"), json!({ "data": user })).await;
        assert_eq!(client.expect_push().await, json!(user), "no frame came before it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes the whole machine for half a minute"]
async fn overload_a_flood_of_registrations_ends_no_session() {
    let cluster = Cluster::start(3, 2).await;
    let (clients, before) = calm(&cluster).await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(Flood::default()));
    let mut flooders = JoinSet::new();
    let apis = cluster.apis();
    for nth in 0..FLOODERS {
        let api = apis[nth % apis.len()].clone();
        flooders.spawn(flood(api, format!("flood-{nth}"), Arc::clone(&stop), Arc::clone(&count)));
    }
    let began = Instant::now();
    tokio::time::timeout(TEN_LEASES, std::future::pending::<()>()).await.unwrap_err();
    stop.store(true, Relaxed);
    while let Some(done) = flooders.join_next().await {
        done.unwrap();
    }
    let (done, refused) = (count.done.load(Relaxed), count.refused.load(Relaxed));
    println!(
        "{} registrations and as many unregistrations in {:?}; {refused} batches refused",
        done * BATCH,
        began.elapsed()
    );
    assert!(done > 100, "there was a flood");
    assert_calm(&cluster, clients, &before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes the whole machine for half a minute"]
async fn overload_a_leader_with_a_fifth_of_a_core_ends_no_session() {
    let cluster = Cluster::start(3, 2).await;
    let (clients, before) = calm(&cluster).await;
    let load = Load::start(&cluster.apis(), 8);
    let leader = &cluster.nodes[&cluster.leader().await];
    let (began, mut ticks) = (Instant::now(), interval(SLICE));
    for slice in 0_u64.. {
        ticks.tick().await;
        match slice % 5 {
            0 => leader.thaw(),
            1 => leader.freeze(),
            _ => {}
        }
        if began.elapsed() >= TEN_LEASES {
            leader.thaw();
            break;
        }
    }
    let registered = load.finish().await;
    println!("{} registrations were acknowledged", registered.len());
    assert!(registered.len() > 100, "it goes on, if slowly");
    assert_calm(&cluster, clients, &before).await;
}
