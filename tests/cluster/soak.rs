//! The defaults hold on a bad machine: for ten minutes disks stall and every core is taken, and nobody is elected.
//!
//! `cargo test --test cluster soak -- --ignored --nocapture`; `SOAK_MINUTES` makes it longer or shorter.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::harness::{Cluster, Http, Socket, eventually, pause};

/// One flush of this many stands still, on every node, by chance.
const STALLS: &str = "fsync delay 350 0.02";
/// Clients that come and go without a pause, at each gateway.
const CLIENTS: usize = 8;
/// Sessions whose renewals are timed, at each node.
const SESSIONS: usize = 2;
/// As a gateway does it: five times a lease.
const RENEW_EVERY: Duration = Duration::from_millis(600);

/// How often the machine's own pauses are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Processes that take all the time that a core gives them.
struct Hogs(Vec<Child>);

impl Hogs {
    fn start() -> Self {
        let cores = std::thread::available_parallelism().unwrap().get();
        let hog = |_| Command::new("yes").stdout(Stdio::null()).spawn().unwrap();
        Self((0..cores).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

/// Opens a session and renews it until the end; how long each renewal took, and how many had no success.
async fn renew(api: String, name: String, end: Instant) -> (Vec<Duration>, usize) {
    let http = Http::default();
    let open = json!({ "gateway": name, "nonce": "n", "lease_ms": 3000 });
    let session = http.post(&api, "/v1/sessions", open).await.body["session"].as_str().unwrap().to_owned();
    let path = format!("/v1/sessions/{session}/renew");
    let mut ticks = interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut took, mut failed) = (Vec::new(), 0);
    while Instant::now() < end {
        ticks.tick().await;
        let began = Instant::now();
        match http.send(Method::PUT, &api, &path, &[], Some(&json!({}))).await {
            Ok(answer) if answer.status == 200 => took.push(began.elapsed()),
            _ => failed += 1,
        }
    }
    (took, failed)
}

/// The longest time for which this process, which has little to do, did not get its turn: what the machine itself owes.
async fn longest_pause(end: Instant) -> Duration {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    while Instant::now() < end {
        ticks.tick().await;
        longest = longest.max(last.elapsed().saturating_sub(LOOK_EVERY));
        last = Instant::now();
    }
    longest
}

/// What became of clients.
#[derive(Default)]
struct Clients {
    served: AtomicU64,
    turned_away: AtomicU64,
}

/// Clients come, get a push, and go.
async fn come_and_go(clients: String, api: String, name: String, end: Instant, count: Arc<Clients>) {
    let http = Http::default();
    while Instant::now() < end {
        let path = format!("/ws?user={name}&device=soak");
        if serve(&http, &clients, &api, &path).await.is_some() {
            count.served.fetch_add(1, Relaxed);
        } else {
            count.turned_away.fetch_add(1, Relaxed);
            pause().await;
        }
    }
}

/// One client: it is welcomed and gets a push.
async fn serve(http: &Http, clients: &str, api: &str, path: &str) -> Option<()> {
    let mut socket = Socket::try_open_at(clients, path).await.ok()?;
    let welcome = socket.next().await.ok().filter(|frame| frame["type"] == "welcome")?;
    let push = format!("/v1/connections/{}/push", welcome["connection"].as_str()?);
    let pushed = http.try_post(api, &push, &json!({ "data": 1 })).await?;
    (pushed.body["delivered"] == 1).then_some(())
}

/// What must not move: term, changes of leader, ended sessions, fenced gateways.
pub(crate) async fn upheavals(cluster: &Cluster) -> Value {
    let group = cluster.http.get(&cluster.node(1).api(), "/v1/cluster").await.body;
    let (mut changes, mut expired, mut fenced) = (0.0, 0.0, 0.0);
    for node in cluster.nodes.values() {
        changes += cluster.metric(&node.api(), "switchboard_raft_leader_changes_total").await;
        expired += cluster.metric(&node.api(), "switchboard_session_expirations_total").await;
    }
    for gateway in cluster.gateways.values() {
        fenced += cluster.metric(&gateway.api(), "switchboard_gateway_self_fenced_total").await;
    }
    json!({ "term": group["term"], "leader": group["leader"], "leader changes": changes, "expirations": expired,
            "fenced": fenced })
}

fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

fn minutes() -> u64 {
    std::env::var("SOAK_MINUTES").map_or(10, |text| text.parse().expect("SOAK_MINUTES is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes ten minutes"]
async fn nobody_is_elected_while_disks_stall_and_every_core_is_taken() {
    let mut cluster = Cluster::on_failing_disks(3);
    cluster.start_all(&[], 2).await;
    cluster.connect("gw-1", "first").await;
    // The figures are looked up once a second; each node has learned of one leader.
    let before = eventually("the nodes tell of their leader", async || {
        let now = upheavals(&cluster).await;
        (now["leader changes"] == 3.0).then_some(now)
    })
    .await;
    let _hogs = Hogs::start();
    cluster.nodes.keys().for_each(|id| cluster.disk(*id).obey(STALLS));
    let (began, end) = (Instant::now(), Instant::now() + Duration::from_secs(60 * minutes()));
    let clients = Arc::new(Clients::default());
    let (mut renewing, mut coming) = (JoinSet::new(), JoinSet::new());
    for node in cluster.nodes.values() {
        for nth in 0..SESSIONS {
            renewing.spawn(renew(node.api(), format!("soak-{}-{nth}", node.ready()["id"].as_str().unwrap()), end));
        }
    }
    for (id, gateway) in &cluster.gateways {
        for nth in 0..CLIENTS {
            let (address, name) = (gateway.address("clients").to_owned(), format!("{id}-{nth}"));
            coming.spawn(come_and_go(address, gateway.api(), name, end, Arc::clone(&clients)));
        }
    }
    let (mut took, mut failed) = (Vec::new(), 0);
    let machine = longest_pause(end).await;
    while let Some(of_one) = renewing.join_next().await {
        let of_one = of_one.unwrap();
        took.extend(of_one.0);
        failed += of_one.1;
    }
    while let Some(done) = coming.join_next().await {
        done.unwrap();
    }
    took.sort_unstable();
    let after = upheavals(&cluster).await;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    println!("{:?} at load {}; the machine paused this process for up to {machine:?}", began.elapsed(), load.trim());
    println!("before {before}\nafter  {after}");
    let (served, turned_away) = (clients.served.load(Relaxed), clients.turned_away.load(Relaxed));
    println!("{served} clients came, got a push and went; {turned_away} were turned away");
    let [median, p99, longest] = [0.5, 0.99, 1.0].map(|part| quantile(&took, part));
    println!("{} renewals: median {median:?}, p99 {p99:?}, longest {longest:?}; {failed} failed", took.len());
    for node in cluster.nodes.values() {
        let flushes = cluster.metric(&node.api(), "switchboard_raft_fsync_duration_seconds_count").await;
        let quick = cluster.metric(&node.api(), "switchboard_raft_fsync_duration_seconds_bucket{le=\"0.25\"}").await;
        println!("{}: {flushes} flushes, {} of them longer than 250 ms", node.api(), flushes - quick);
    }
    assert_eq!(before, after, "an election, or a session that ended or was fenced");
    assert!(took.len() > 100 && served > 100, "there was a load");
}
