//! Durable registrations through three nodes: batched, and one by one from 64 clients.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, StreamExt};
use switchboard::client::Directory;
use switchboard::directory::{Batch, Epoch, GatewayAddresses, Op, OpOutcome, OpenSession, Policy, Register};
use switchboard::wire::peer::{Answer, Failure, RequestBody};
use tokio::time::{Instant, sleep};

use super::floors;
use super::processes::{Cluster, load, own_cpu};
use super::redis::Redis;
use super::table::{Table, Target, Times, median};

/// Gateways that register batches.
const GATEWAYS: usize = 4;

/// Registrations of one batch, and batches of one gateway under way.
const BATCH: usize = 256;
const IN_FLIGHT: usize = 8;

/// Clients that register one by one.
const CLIENTS: usize = 64;

const RUNS: usize = 3;
const RUN: Duration = Duration::from_secs(5);

/// Long enough that no lease has to be renewed meanwhile.
const LEASE_MS: u32 = 60_000;

/// Gauges and the counts of fsyncs are brought up to date every second.
const GAUGES: Duration = Duration::from_millis(1200);

/// One way of registering, measured several times.
struct Way {
    name: &'static str,
    callers: usize,
    ops: usize,
    in_flight: usize,
    target: f64,
}

pub(crate) async fn run(table: &mut Table) {
    let batched =
        Way { name: "registrations, batched", callers: GATEWAYS, ops: BATCH, in_flight: IN_FLIGHT, target: 100_000.0 };
    let single = Way {
        name: "registrations, one by one from 64 clients",
        callers: CLIENTS,
        ops: 1,
        in_flight: 1,
        target: 10_000.0,
    };
    for way in [batched, single] {
        let mut cluster = Cluster::start().await;
        let measured = measure(&way, &cluster).await;
        // Nothing of the cluster may run beside what it is compared with.
        cluster.nodes.clear();
        let (dir, chunk) = (cluster.dir().to_owned(), measured.ops_per_sync * op_bytes() as f64);
        let floor = tokio::task::spawn_blocking(move || floors::durable_appends(&dir, chunk as usize, RUN / 2));
        let floor = floor.await.expect("no writer panics") * measured.ops_per_sync;
        let floor_name = format!("append + fdatasync of {:.0} to each of 3 files", measured.ops_per_sync);
        table.line(way.name, "1/s", Target::AtLeast(way.target), measured.rate, Some((&floor_name, floor)));
        let depth = way.ops * way.in_flight;
        match Redis::start(&cluster.host(99), cluster.dir()) {
            Some(redis) => {
                let rate = redis.sets(way.callers, depth, op_bytes(), RUN).await;
                let peer = format!("Redis, fsync always, 1 copy, {} connections, {depth} deep", way.callers);
                table.line("... the same", "1/s", Target::None, measured.rate, Some((&peer, rate)));
            }
            None => println!("  no redis-server is installed: the peer is left out"),
        }
        table.line("... answered after, p50", "ms", Target::None, measured.p50, None);
        table.line("... answered after, p99", "ms", Target::None, measured.p99, None);
    }
}

struct Measured {
    rate: f64,
    p50: f64,
    p99: f64,
    /// Registrations that shared an fsync of the leader.
    ops_per_sync: f64,
}

/// Registers several times.
async fn measure(way: &Way, cluster: &Cluster) -> Measured {
    let leader = &cluster.nodes[cluster.leader().await];
    let mut callers: Vec<Caller> = Vec::new();
    for n in 0..way.callers {
        callers.push(Caller::new(cluster, n).await);
    }
    let figures = async || {
        sleep(GAUGES).await;
        let fsyncs = leader.metric(&cluster.http, "switchboard_raft_fsync_duration_seconds_count").await;
        let entries = leader.metric(&cluster.http, "switchboard_raft_commit_index").await;
        (fsyncs, entries)
    };
    register(way, &mut callers, Duration::from_secs(1)).await;
    let (mut rates, mut times, mut server, mut client, mut total) = (Vec::new(), Times::default(), 0.0, 0.0, 0);
    let before = figures().await;
    for _ in 0..RUNS {
        let (cpu, own, began) = (cluster.cpu(), own_cpu(), Instant::now());
        let (done, took) = register(way, &mut callers, RUN).await;
        rates.push(done as f64 / began.elapsed().as_secs_f64());
        server += cluster.cpu() - cpu;
        client += own_cpu() - own;
        total += done;
        times.extend(took);
    }
    let after = figures().await;
    let (rate, low, high) = median(&rates);
    let (fsyncs, entries, each) = (after.0 - before.0, after.1 - before.1, 1e6 / total as f64);
    let (p50, p99) = (times.percentile_ms(0.5), times.percentile_ms(0.99));
    println!("  {}: {rate:.0}/s ({low:.0} to {high:.0}), answered after {p50:.2} ms p50, {p99:.2} ms p99", way.name);
    println!(
        "  {:.1} an entry, {:.2} entries an fsync; CPU each: {:.1} us in three nodes, {:.1} us in the driver; load {}",
        total as f64 / entries,
        entries / fsyncs,
        server * each,
        client * each,
        load()
    );
    Measured { rate, p50, p99, ops_per_sync: total as f64 / fsyncs }
}

/// Registers through all callers at once; returns how many were granted and how long each answer took.
async fn register(way: &Way, callers: &mut Vec<Caller>, time: Duration) -> (usize, Times) {
    let (ops, in_flight) = (way.ops, way.in_flight);
    let running: Vec<_> = callers
        .drain(..)
        .map(|mut caller| {
            tokio::spawn(async move {
                let result = caller.register(ops, in_flight, time).await;
                (caller, result)
            })
        })
        .collect();
    let (mut total, mut times) = (0, Times::default());
    for task in running {
        let (caller, (done, took)) = task.await.expect("no caller panics");
        callers.push(caller);
        total += done;
        times.extend(took);
    }
    (total, times)
}

/// A gateway as the directory sees it: one session, one stream.
struct Caller {
    directory: Directory,
    n: usize,
    epoch: Epoch,
    seq: u64,
    serial: u64,
}

/// How long the answer took, and the answer.
type Asked = BoxFuture<'static, (Duration, Result<Answer, Failure>)>;

impl Caller {
    async fn new(cluster: &Cluster, n: usize) -> Self {
        let name = format!("bench-{n}");
        let directory = cluster.directory(&name);
        let epoch = open_session(&directory, &name, LEASE_MS).await;
        Self { directory, n, epoch, seq: 0, serial: 0 }
    }

    /// Keeps so many batches under way. The first attempt of each must succeed: nothing fails here.
    async fn register(&mut self, ops: usize, in_flight: usize, time: Duration) -> (usize, Times) {
        let began = Instant::now();
        let (mut under_way, mut granted, mut times) = (FuturesOrdered::<Asked>::new(), 0, Times::default());
        loop {
            while under_way.len() < in_flight && began.elapsed() < time {
                under_way.push_back(self.ask(ops));
            }
            let Some((took, answer)) = under_way.next().await else { return (granted, times) };
            times.push(took);
            let Ok(Answer::Batch(Ok(done))) = answer else { panic!("a batch was not applied: {answer:?}") };
            granted += done.ops.iter().filter(|outcome| matches!(outcome, OpOutcome::Registered { .. })).count();
        }
    }

    fn ask(&mut self, ops: usize) -> Asked {
        self.seq += 1;
        let first = self.serial;
        self.serial += ops as u64;
        let ops = (first..self.serial).map(|serial| registration(self.n, serial + 1)).collect();
        let batch = RequestBody::Batch(Batch { epoch: self.epoch, seq: Some(self.seq), ops });
        let (directory, asked) = (self.directory.clone(), Instant::now());
        let mut answer: Asked = Box::pin(async move {
            let answer = directory.ask_once(batch).await;
            (asked.elapsed(), answer)
        });
        // Polled once now: batches leave in the order in which they were made.
        match (&mut answer).now_or_never() {
            Some(answer) => Box::pin(std::future::ready(answer)),
            None => answer,
        }
    }
}

/// Opens a session as a gateway does.
pub(crate) async fn open_session(directory: &Directory, gateway: &str, lease_ms: u32) -> Epoch {
    let open = OpenSession {
        gateway: gateway.into(),
        nonce: "bench".into(),
        attempt: 1,
        lease_ms,
        addresses: GatewayAddresses::default(),
    };
    match directory.ask(RequestBody::OpenSession(open), Duration::from_secs(10)).await {
        Ok(Answer::Opened { epoch, .. }) => epoch,
        other => panic!("no session: {other:?}"),
    }
}

/// What a gateway registers when a client arrives.
pub(crate) fn registration(caller: usize, serial: u64) -> Op {
    let user = (((caller as u64) << 40) + serial).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Op::Register(Register {
        serial,
        user: format!("user:{user:016x}").into(),
        device: "web".into(),
        policy: Policy::multi(16),
        since: None,
        connected_at_ms: 1_700_000_000_000,
        remote: Some("203.0.113.7:51234".into()),
        meta: None,
    })
}

/// Bytes of a registration in the log.
fn op_bytes() -> usize {
    postcard::to_allocvec(&registration(1, 1_000_000)).expect("it has a binary form").len()
}
