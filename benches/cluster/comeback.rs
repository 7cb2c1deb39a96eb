//! Many gateways lose their sessions at once and register what they hold again.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use switchboard::client::Directory;
use switchboard::directory::{Batch, Epoch, GatewayAddresses, Op, OpOutcome, OpenSession, Reason, Register, Revision};
use switchboard::wire::peer::{Answer, RequestBody};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::processes::{Cluster, get, load};
use super::registrations::registration;
use super::table::{Table, Target, median};

const GATEWAYS: usize = 8;
const CONNECTIONS: u64 = 100_000;
const BATCH: u64 = 512;
const IN_FLIGHT: usize = 4;
const RUNS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run(table: &mut Table) {
    let cluster = Cluster::start().await;
    let mut gateways = Vec::new();
    for n in 0..GATEWAYS {
        gateways.push(Gateway { directory: cluster.directory(&format!("gateway back-{n}")), n, attempt: 0, epoch: 0 });
    }
    let (mut gateways, first) = all(gateways, Vec::new()).await;
    println!("  {CONNECTIONS} connections, {GATEWAYS} gateways: registered in {:.2} s", first.took.as_secs_f64());
    let (mut back, mut since) = (Vec::new(), first.granted);
    for _ in 0..RUNS {
        for gateway in &gateways {
            // As when their leases ran out.
            let end = RequestBody::EndSession { epoch: gateway.epoch, reason: Reason::Expired, fenced: true };
            gateway.directory.ask(end, PATIENCE).await.expect("the session ends");
        }
        let stats =
            get(&cluster.http, &format!("http://{}/v1/stats", cluster.nodes[0].api)).await.expect("an answer").1;
        assert!(String::from_utf8_lossy(&stats).contains("\"connections\":0"), "all of them are gone");
        let (same, again) = all(gateways, since).await;
        (gateways, since) = (same, again.granted);
        back.push(again.took.as_secs_f64());
        println!("  all of them back after {:.2} s", again.took.as_secs_f64());
    }
    println!("  load {}", load());
    let what = format!("{CONNECTIONS} connections registered again, through {GATEWAYS} new sessions");
    let beside = Some(("the first time", first.took.as_secs_f64()));
    table.line(&what, "s", Target::AtMost(10.0), median(&back).0, beside);
}

/// How long it took, and when each connection was granted, by gateway and serial.
struct Registered {
    took: Duration,
    granted: Vec<Vec<Revision>>,
}

async fn all(gateways: Vec<Gateway>, since: Vec<Vec<Revision>>) -> (Vec<Gateway>, Registered) {
    let (began, mut tasks) = (Instant::now(), JoinSet::new());
    for mut gateway in gateways {
        let since = since.get(gateway.n).cloned();
        tasks.spawn(async move {
            let granted = gateway.register(since).await;
            (gateway, granted)
        });
    }
    let mut done = tasks.join_all().await;
    let took = began.elapsed();
    done.sort_by_key(|(gateway, _)| gateway.n);
    let (gateways, granted) = done.into_iter().unzip();
    (gateways, Registered { took, granted })
}

/// A gateway as the directory sees it.
struct Gateway {
    directory: Directory,
    n: usize,
    attempt: u64,
    epoch: Epoch,
}

impl Gateway {
    /// Opens a session and registers everything in it, each with when it was granted before.
    async fn register(&mut self, since: Option<Vec<Revision>>) -> Vec<Revision> {
        self.attempt += 1;
        let open = OpenSession {
            gateway: format!("back-{}", self.n).into(),
            nonce: "bench".into(),
            attempt: self.attempt,
            lease_ms: 60_000,
            addresses: GatewayAddresses::default(),
        };
        let Ok(Answer::Opened { epoch, .. }) = self.directory.ask(RequestBody::OpenSession(open), PATIENCE).await
        else {
            panic!("no session");
        };
        self.epoch = epoch;
        let each = CONNECTIONS / GATEWAYS as u64;
        let mut granted = vec![0; each as usize];
        let mut firsts = (0..each).step_by(BATCH as usize).zip(1..);
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < IN_FLIGHT
                && let Some((first, seq)) = firsts.next()
            {
                let serials = first..each.min(first + BATCH);
                let ops = serials.map(|n| again(self.n, n, since.as_ref().map(|since| since[n as usize])));
                let batch = RequestBody::Batch(Batch { epoch, seq: Some(seq), ops: ops.collect() });
                let directory = self.directory.clone();
                under_way.push(async move { (first, directory.ask(batch, PATIENCE).await) });
            }
            let Some((first, answer)) = under_way.next().await else { return granted };
            let Ok(Answer::Batch(Ok(done))) = answer else { panic!("a batch was not applied: {answer:?}") };
            for (at, outcome) in (first as usize..).zip(done.ops.iter()) {
                let OpOutcome::Registered { granted: at_revision, .. } = outcome else { panic!("{outcome:?}") };
                granted[at] = *at_revision;
            }
        }
    }
}

fn again(gateway: usize, n: u64, since: Option<Revision>) -> Op {
    match registration(gateway, n + 1) {
        Op::Register(register) => Op::Register(Register { since, ..register }),
        other => other,
    }
}
