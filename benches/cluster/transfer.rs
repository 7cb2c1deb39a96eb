//! Leadership moves on purpose: for how long no registration is answered.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use rustix::process::Signal;
use switchboard::client::Directory;
use switchboard::directory::Batch;
use switchboard::wire::http::TransferLeaderBody;
use switchboard::wire::peer::{Answer, RequestBody};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::processes::{Cluster, load};
use super::registrations::{open_session, registration};
use super::table::{Table, Target, Times};

const TRANSFERS: usize = 20;
const STOPS: usize = 10;

/// Callers that register one by one, each after the answer to the one before.
const CALLERS: usize = 8;

/// Long enough that no lease has to be renewed meanwhile.
const LEASE_MS: u32 = 60_000;

/// For how long answers are looked at after a transfer has begun, and between two of them.
const LOOK: Duration = Duration::from_millis(1000);

/// When registrations were answered.
type Answered = Arc<Mutex<Vec<Instant>>>;

pub(crate) async fn run(table: &mut Table) {
    let mut cluster = Cluster::start().await;
    let answered = Answered::default();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let directory = cluster.directory("bench");
        let epoch = open_session(&directory, &format!("gw-{caller}"), LEASE_MS).await;
        callers.spawn(register(directory, epoch, caller, Arc::clone(&answered)));
    }
    sleep(LOOK).await;
    let quiet = longest(&answered, Instant::now() - LOOK);
    let (mut transfers, mut stops) = (Times::default(), Times::default());
    for _ in 0..TRANSFERS {
        let leader = cluster.leader().await;
        let to = (leader + 1) % cluster.nodes.len();
        let began = Instant::now();
        transfer(&cluster, to as u64 + 1).await;
        sleep(LOOK.saturating_sub(began.elapsed())).await;
        transfers.push(longest(&answered, began));
    }
    for _ in 0..STOPS {
        let leader = cluster.leader().await;
        let began = Instant::now();
        cluster.nodes[leader].signal(Signal::TERM);
        sleep(LOOK).await;
        stops.push(longest(&answered, began));
        cluster.nodes[leader].kill();
        cluster.restart(leader).await;
    }
    println!("  transfers {transfers:?}; stops {stops:?}; load {}", load());
    let quiet = Some(("longest of a second without a transfer", quiet.as_secs_f64() * 1000.0));
    let target = Target::AtMost(50.0);
    table.line(
        "leadership transferred, longest time without an answer, p50",
        "ms",
        target,
        transfers.percentile_ms(0.5),
        quiet,
    );
    table.line("... longest of 20", "ms", Target::None, transfers.percentile_ms(1.0), quiet);
    table.line(
        "leader stopped (SIGTERM), longest time without an answer, p50",
        "ms",
        target,
        stops.percentile_ms(0.5),
        quiet,
    );
    table.line("... longest of 10", "ms", Target::None, stops.percentile_ms(1.0), quiet);
}

async fn register(directory: Directory, epoch: u64, caller: usize, answered: Answered) {
    for seq in 1.. {
        let batch = Batch { epoch, seq: Some(seq), ops: vec![registration(caller, seq)] };
        let answer = directory.ask(RequestBody::Batch(batch), Duration::from_secs(10)).await;
        assert!(matches!(answer, Ok(Answer::Batch(Ok(_)))), "{answer:?}");
        answered.lock().expect("nobody panics while holding it").push(Instant::now());
    }
}

async fn transfer(cluster: &Cluster, to: u64) {
    let body = serde_json::to_vec(&TransferLeaderBody { to }).expect("it has a JSON form");
    let url = format!("http://{}/v1/cluster/transfer-leader", cluster.nodes[0].api);
    let within = Duration::from_secs(10);
    let asked = cluster.http.request(Method::POST, &url, HeaderMap::new(), body.into(), within).await;
    let answer = asked.expect("an answer");
    assert!(answer.status.is_success(), "{}", String::from_utf8_lossy(&answer.body));
}

/// The longest time between two answers, from the last one before `began` on.
fn longest(answered: &Answered, began: Instant) -> Duration {
    let mut answered = answered.lock().expect("nobody panics while holding it");
    let from = answered.iter().rposition(|at| *at < began).unwrap_or(0);
    let gaps = answered[from..].windows(2).map(|pair| pair[1] - pair[0]);
    let open = answered.last().map_or(LOOK, Instant::elapsed);
    let longest = gaps.max().unwrap_or_default().max(open);
    answered.drain(..from);
    longest
}
