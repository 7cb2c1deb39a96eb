//! A gateway is frozen, or killed: how long until no node shows its connections any more.

use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use switchboard::net::http::Client;
use switchboard::wire::http::UserBody;
use tokio::time::{Instant, sleep};

use super::processes::{Cluster, Process, get, load};
use super::sockets::Sockets;
use super::table::{Table, Target, Times};

const RUNS: usize = 5;

/// Of kills.
const KILLS: usize = 20;
const SOCKETS: usize = 200;
const LEASE: Duration = Duration::from_secs(3);
const LEASE_FLAG: &str = "3s";

/// How late an ending may be.
const GRACE: Duration = Duration::from_millis(500);

/// How soon a process that was killed is gone for readers, milliseconds: the median, and the longest.
const KILLED: (f64, f64) = (100.0, 500.0);

const POLL: Duration = Duration::from_millis(5);
const GIVE_UP: Duration = Duration::from_secs(15);

pub(crate) async fn run(table: &mut Table) {
    let cluster = Cluster::start().await;
    let (frozen, killed) = (freeze(&cluster).await, kill(&cluster).await);
    println!("  load {}", load());
    let (late, lease) = ((LEASE + GRACE).as_secs_f64() * 1e3, LEASE.as_secs_f64() * 1e3);
    let beside = Some(("the lease", lease));
    for (what, mut times, targets) in [
        ("gateway frozen", frozen, (Target::None, Target::AtMost(late))),
        ("gateway killed", killed, (Target::AtMost(KILLED.0), Target::AtMost(KILLED.1))),
    ] {
        let (runs, median, longest) = (times.len(), times.percentile_ms(0.5), times.percentile_ms(1.0));
        table.line(&format!("{what}, entries gone, median"), "ms", targets.0, median, beside);
        table.line(&format!("... longest of {runs} runs"), "ms", targets.1, longest, beside);
    }
}

/// Freezes a gateway, waits for its entries to go, thaws it, and waits for them to come back.
async fn freeze(cluster: &Cluster) -> Times {
    let gateway = cluster.gateway(1, LEASE_FLAG).await;
    let _sockets = Sockets::open(&gateway.clients, users("frozen"), |_| {}).await;
    let mut times = Times::default();
    for run in 0..RUNS {
        // Anywhere between two renewals.
        sleep(LEASE / 5 + Duration::from_millis(110 * run as u64)).await;
        let began = Instant::now();
        gateway.signal(Signal::STOP);
        everywhere(cluster, &users("frozen"), false).await;
        let took = began.elapsed();
        gateway.signal(Signal::CONT);
        let thawed = Instant::now();
        everywhere(cluster, &users("frozen"), true).await;
        let back = thawed.elapsed().as_millis();
        println!("  frozen: gone everywhere after {} ms, back {back} ms after the thaw", took.as_millis());
        times.push(took);
    }
    times
}

async fn kill(cluster: &Cluster) -> Times {
    let mut times = Times::default();
    for run in 0..KILLS {
        let mut gateway: Process = cluster.gateway(2 + run, LEASE_FLAG).await;
        let _sockets = Sockets::open(&gateway.clients, users("killed"), |_| {}).await;
        sleep(LEASE / 5 + Duration::from_millis(29 * run as u64)).await;
        everywhere(cluster, &users("killed"), true).await;
        let began = Instant::now();
        gateway.kill();
        everywhere(cluster, &users("killed"), false).await;
        let took = began.elapsed();
        println!("  killed: gone everywhere after {} ms", took.as_millis());
        times.push(took);
    }
    times
}

fn users(word: &str) -> Vec<String> {
    (0..SOCKETS).map(|n| format!("{word}-{n}")).collect()
}

/// Waits until every node says, linearizably, that the first and the last user are online, or are not.
async fn everywhere(cluster: &Cluster, users: &[String], online: bool) {
    let ends = [&users[0], &users[users.len() - 1]];
    let asked = cluster.nodes.iter().flat_map(|node| ends.map(|user| until(&cluster.http, node, user, online)));
    join_all(asked).await;
}

async fn until(http: &Client, node: &Process, user: &str, online: bool) {
    let give_up = Instant::now() + GIVE_UP;
    loop {
        let body = get(http, &format!("http://{}/v1/users/{user}", node.api)).await.map(|(_, body)| body);
        let found = body.and_then(|body| serde_json::from_slice::<UserBody>(&body).ok());
        if found.is_some_and(|found| found.online == online) {
            return;
        }
        assert!(Instant::now() < give_up, "{user} is still not online={online}");
        sleep(POLL).await;
    }
}
