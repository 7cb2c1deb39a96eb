//! A session with a million connections ends: what the others notice of it.

use std::time::Duration;

use switchboard::client::Directory;
use switchboard::directory::{Batch, Epoch, Reason};
use switchboard::wire::peer::{Answer, RequestBody};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::processes::{Cluster, get, load};
use super::registrations::{open_session, registration};
use super::table::{Table, Target, Times};

const CONNECTIONS: u64 = 1_000_000;
const BATCH: u64 = 1024;
const IN_FLIGHT: usize = 8;
const LEASE_MS: u32 = 60_000;

/// A renewal of another session, so often.
const RENEW_EVERY: Duration = Duration::from_millis(25);

/// As long before the end as after it.
const WATCHED: Duration = Duration::from_secs(10);

/// How long memory is watched after that, and how often.
const COOLING: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(5);

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(table: &mut Table) {
    let cluster = Cluster::start().await;
    let empty = largest(&cluster).await;
    let (large, other) = (cluster.directory("gateway large"), cluster.directory("gateway other").for_leases(PATIENCE));
    let epoch = open_session(&large, "large", LEASE_MS).await;
    let witness = open_session(&other, "other", LEASE_MS).await;
    fill(&large, epoch).await;
    let full = largest(&cluster).await;
    let changes = elections(&cluster).await;
    let mut before = renew(other.clone(), witness).await;

    let renewing = tokio::spawn(renew(other, witness));
    let began = Instant::now();
    let end = RequestBody::EndSession { epoch, reason: Reason::Expired, fenced: true };
    large.ask(end, PATIENCE).await.expect("the session ends");
    let decided = began.elapsed();
    let mut gone = JoinSet::new();
    for node in &cluster.nodes {
        let (http, api) = (cluster.http.clone(), node.api.clone());
        gone.spawn(async move {
            while count(&http, &api).await != Some(0) {
                sleep(Duration::from_millis(2)).await;
            }
        });
    }
    gone.join_all().await;
    let everywhere = began.elapsed();
    let mut after = renewing.await.expect("no renewal panics");
    assert_eq!(changes, elections(&cluster).await, "nobody was elected");
    println!("  decided after {:.1} ms; load {}", decided.as_secs_f64() * 1e3, load());

    let ms = everywhere.as_secs_f64() * 1e3;
    let what = "session of 1,000,000 ended, until every node shows none of it";
    table.line(what, "ms", Target::None, ms, Some(("decided", decided.as_secs_f64() * 1e3)));
    for (share, name) in [(0.5, "p50"), (0.99, "p99"), (1.0, "longest")] {
        let beside = Some(("before", before.percentile_ms(share)));
        let what = format!("... renewals of another session in the {} s from then, {name}", WATCHED.as_secs());
        table.line(&what, "ms", Target::None, after.percentile_ms(share), beside);
    }
    let mut sizes = Vec::new();
    for _ in 0..COOLING.as_secs() / LOOK_EVERY.as_secs() {
        sleep(LOOK_EVERY).await;
        sizes.push(format!("{:.0}", largest(&cluster).await.resident));
    }
    println!("  MB resident in the largest node, every {} s: {}", LOOK_EVERY.as_secs(), sizes.join(" "));
    let cooled = largest(&cluster).await;
    let anew = open_session(&large, "anew", LEASE_MS).await;
    fill(&large, anew).await;
    let refilled = largest(&cluster).await;
    let sizes = [
        ("empty", empty),
        ("with the session", full),
        ("a minute after its end", cooled),
        ("with another session of as many", refilled),
    ];
    for (when, size) in sizes {
        let what = format!("memory of the largest node, {when}");
        table.line(&what, "MB", Target::None, size.resident, Some(("retained changes", size.retained)));
    }
}

/// What a process has in memory, MB.
struct Size {
    resident: f64,
    retained: f64,
}

/// The node with the most.
async fn largest(cluster: &Cluster) -> Size {
    let mut largest = Size { resident: 0.0, retained: 0.0 };
    for node in &cluster.nodes {
        let resident = node.metric(&cluster.http, "process_resident_memory_bytes").await / 1e6;
        if resident > largest.resident {
            let retained = node.metric(&cluster.http, "switchboard_watch_retained_bytes").await / 1e6;
            largest = Size { resident, retained };
        }
    }
    largest
}

/// Registers everything in one session.
async fn fill(directory: &Directory, epoch: Epoch) {
    let mut under_way = JoinSet::new();
    for first in (0..CONNECTIONS).step_by(BATCH as usize) {
        if under_way.len() >= IN_FLIGHT {
            under_way.join_next().await.expect("there are some").expect("no batch panics");
        }
        let ops = (first..CONNECTIONS.min(first + BATCH)).map(|n| registration(0, n + 1)).collect();
        let directory = directory.clone();
        under_way.spawn(async move {
            let batch = RequestBody::Batch(Batch { epoch, seq: None, ops });
            let answer = directory.ask(batch, PATIENCE).await;
            assert!(matches!(answer, Ok(Answer::Batch(Ok(_)))), "a batch was not applied: {answer:?}");
        });
    }
    under_way.join_all().await;
}

/// Renews a session for a while; how long each renewal took.
async fn renew(directory: Directory, epoch: Epoch) -> Times {
    let (began, mut ticks, mut times) = (Instant::now(), interval(RENEW_EVERY), Times::default());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while began.elapsed() < WATCHED {
        ticks.tick().await;
        let asked = Instant::now();
        let answer = directory.ask(RequestBody::Renew { epoch, handled: 0 }, PATIENCE).await;
        assert!(matches!(answer, Ok(Answer::Renewed { .. })), "{answer:?}");
        times.push(asked.elapsed());
    }
    times
}

async fn count(http: &switchboard::net::http::Client, api: &str) -> Option<u64> {
    let (_, body) = get(http, &format!("http://{api}/v1/stats")).await?;
    serde_json::from_slice::<serde_json::Value>(&body).ok()?["connections"].as_u64()
}

async fn elections(cluster: &Cluster) -> f64 {
    let mut changes = 0.0;
    for node in &cluster.nodes {
        changes += node.metric(&cluster.http, "switchboard_raft_leader_changes_total").await;
    }
    changes
}
