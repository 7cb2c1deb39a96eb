//! The leader is killed: how long until the next registration succeeds.

use std::time::Duration;

use switchboard::directory::Batch;
use switchboard::wire::peer::{Answer, RequestBody};
use tokio::time::{Instant, sleep};

use super::processes::{Cluster, load};
use super::registrations::{open_session, registration};
use super::table::{Table, Target, Times};

const RUNS: u64 = 20;

/// Long enough that no lease has to be renewed between two runs.
const LEASE_MS: u32 = 60_000;

pub(crate) async fn run(table: &mut Table) {
    let mut cluster = Cluster::start().await;
    let directory = cluster.directory("bench");
    let (mut times, mut shown) = (Times::default(), Vec::new());
    let mut epoch = 0;
    for run in 0..RUNS {
        // A session of its own: the time that restarts take does not count against its lease.
        epoch = open_session(&directory, &format!("gw-{run}-{epoch}"), LEASE_MS).await;
        let register = async |seq: u64| {
            let batch = Batch { epoch, seq: Some(seq), ops: vec![registration(run as usize, seq)] };
            directory.ask(RequestBody::Batch(batch), Duration::from_secs(10)).await
        };
        let before = register(1).await;
        assert!(matches!(before, Ok(Answer::Batch(Ok(_)))), "{before:?}");
        let leader = cluster.leader().await;
        // Anywhere between two heartbeats.
        sleep(Duration::from_millis(200 + run * 13 % 100)).await;
        let killed = Instant::now();
        cluster.nodes[leader].kill();
        let after = register(2).await;
        let took = killed.elapsed();
        assert!(matches!(after, Ok(Answer::Batch(Ok(_)))), "{after:?}");
        times.push(took);
        shown.push(took.as_millis());
        cluster.restart(leader).await;
    }
    println!("  milliseconds of each run: {shown:?}; load {}", load());
    let election = "shortest election timeout";
    table.line(
        "leader killed, next registration, p50",
        "ms",
        Target::None,
        times.percentile_ms(0.5),
        Some((election, 300.0)),
    );
    let target = Target::AtMost(1000.0);
    table.line("... p99 of 20 runs", "ms", target, times.percentile_ms(0.99), Some((election, 300.0)));
}
