//! A snapshot of a million connections: how long it takes, what it holds up, and how soon a node is back with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use rustix::process::Signal;
use switchboard::client::Directory;
use switchboard::directory::{Batch, Epoch};
use switchboard::wire::peer::{Answer, RequestBody};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::processes::Cluster;
use super::registrations::{open_session, registration};
use super::table::{Table, Target, Times};

const CONNECTIONS: u64 = 1_000_000;

/// Connections of one batch.
const BATCH: u64 = 1000;

/// Snapshots that are taken of the same state; each needs a change in between.
const SNAPSHOTS: usize = 5;

/// Long enough that no lease has to be renewed by hand meanwhile.
const LEASE_MS: u32 = 60_000;

const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// For how long the probes run beside a snapshot, and without one.
const LOOK: Duration = Duration::from_millis(1500);

pub(crate) async fn run(table: &mut Table) {
    let mut cluster = Cluster::start().await;
    let directory = cluster.directory("bench");
    fill(&directory).await;
    let epoch = open_session(&directory, "probe", LEASE_MS).await;
    let mut serial = 0;
    let (mut quiet, mut beside) = (Probed::default(), Probed::default());
    let mut taken = Times::default();
    for _ in 0..SNAPSHOTS {
        quiet.extend(probe(&directory, epoch, &mut serial, async {}).await);
        let began = Instant::now();
        let snapshots = async {
            // All at once, as it happens when they follow from the number of entries.
            for node in &cluster.nodes {
                snapshot(&cluster, &node.api).await;
            }
            taken.push(began.elapsed() / u32::try_from(cluster.nodes.len()).expect("three nodes"));
        };
        beside.extend(probe(&directory, epoch, &mut serial, snapshots).await);
    }
    let longest = |times: &mut Times| times.percentile_ms(1.0);
    table.line("snapshot of 1,000,000 connections written", "ms", Target::AtMost(1000.0), longest(&mut taken), None);
    for (what, mut quiet, mut beside) in
        [("renewals", quiet.renewals, beside.renewals), ("registrations", quiet.registrations, beside.registrations)]
    {
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
            let what = format!("... {what} meanwhile, {name} of {}", beside.len());
            let without = quiet.percentile_ms(share);
            table.line(&what, "ms", Target::None, beside.percentile_ms(share), Some(("without a snapshot", without)));
        }
    }
    let away = (cluster.leader().await + 1) % cluster.nodes.len();
    cluster.nodes[away].signal(Signal::TERM);
    sleep(LOOK).await;
    cluster.nodes[away].kill();
    let began = Instant::now();
    cluster.restart(away).await;
    let ready = began.elapsed().as_secs_f64();
    println!("  a node with {CONNECTIONS} connections in its snapshot is ready after {ready:.2} s");
    table.line("restart to ready with them", "s", Target::AtMost(5.0), ready, None);
}

/// Registers everybody.
async fn fill(directory: &Directory) {
    let epoch = open_session(directory, "full", LEASE_MS).await;
    let began = Instant::now();
    for first in (0..CONNECTIONS).step_by(BATCH as usize) {
        let ops = (first..first + BATCH).map(|serial| registration(0, serial + 1)).collect();
        let batch = RequestBody::Batch(Batch { epoch, seq: None, ops });
        let answer = directory.ask(batch, ASK_TIMEOUT).await;
        assert!(matches!(answer, Ok(Answer::Batch(Ok(_)))), "a batch was not applied: {answer:?}");
    }
    println!("  registered {CONNECTIONS} connections in {:.1} s", began.elapsed().as_secs_f64());
}

async fn snapshot(cluster: &Cluster, api: &str) {
    let url = format!("http://{api}/v1/cluster/snapshot");
    let answer = cluster.http.request(Method::POST, &url, HeaderMap::new(), Bytes::new(), ASK_TIMEOUT).await;
    assert!(answer.is_ok_and(|answer| answer.status.is_success()), "no snapshot at {url}");
}

/// How long answers took.
#[derive(Default)]
struct Probed {
    renewals: Times,
    registrations: Times,
}

impl Probed {
    fn extend(&mut self, other: Self) {
        self.renewals.extend(other.renewals);
        self.registrations.extend(other.registrations);
    }
}

/// Renews and registers, each as fast as it is answered, for as long as `work` takes and at least for a look.
async fn probe(directory: &Directory, epoch: Epoch, serial: &mut u64, work: impl Future<Output = ()>) -> Probed {
    let stop = Arc::new(AtomicBool::new(false));
    let renewals = ask_again(directory, &stop, move |_| RequestBody::Renew { epoch, handled: 0 });
    let first = *serial;
    let registrations = ask_again(directory, &stop, move |n| {
        let ops = vec![registration(1, first + n + 1)];
        RequestBody::Batch(Batch { epoch, seq: None, ops })
    });
    tokio::join!(work, sleep(LOOK));
    stop.store(true, Relaxed);
    let renewals = renewals.await.expect("no probe panics");
    let registrations = registrations.await.expect("no probe panics");
    *serial += registrations.len() as u64;
    Probed { renewals, registrations }
}

fn ask_again(
    directory: &Directory,
    stop: &Arc<AtomicBool>,
    request: impl Fn(u64) -> RequestBody + Send + 'static,
) -> JoinHandle<Times> {
    let (directory, stop) = (directory.clone(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut times = Times::default();
        while !stop.load(Relaxed) {
            let began = Instant::now();
            let answer = directory.ask(request(times.len() as u64), ASK_TIMEOUT).await;
            assert!(matches!(answer, Ok(Answer::Renewed { .. } | Answer::Batch(Ok(_)))), "{answer:?}");
            times.push(began.elapsed());
        }
        times
    })
}
