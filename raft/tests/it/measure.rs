//! How fast it is here. Run with `cargo test --release -p switchboard-raft measure -- --ignored --nocapture --test-threads=1`.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use switchboard_raft::{LogEngine, Settings};

use crate::harness::Cluster;
use crate::register::set;

const FOR: Duration = Duration::from_secs(3);
const DATA_BYTES: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_proposals() {
    for engine in LogEngine::ALL {
        for callers in [1, 16, 64, 256, 1024] {
            measure(engine, callers, DATA_BYTES).await;
        }
        // About as many bytes as a batch of registrations has.
        measure(engine, 16, 16 * 1024).await;
    }
}

async fn measure(engine: LogEngine, callers: usize, data_bytes: usize) {
    let mut cluster = Cluster::new(1..=3);
    cluster.engine = engine;
    for id in 1..=3 {
        // A machine that does other work, too, must not end a measurement by an election.
        let election = (Duration::from_secs(1), Duration::from_secs(2));
        cluster.start_with(Settings { election, ..cluster.settings(id) }).await.unwrap();
    }
    let leader = cluster.leader().await;
    let raft = cluster.raft(leader);
    let (before, written_before) = (raft.counters(), bytes_written());
    let end = Instant::now() + FOR;
    let calls = (0..callers).map(|caller| {
        let raft = raft.clone();
        tokio::spawn(async move {
            let (command, mut took) = (set(&format!("r{caller}"), vec![1; data_bytes]), Vec::new());
            while Instant::now() < end {
                let began = Instant::now();
                raft.propose(command.clone()).await.unwrap();
                took.push(began.elapsed());
            }
            took
        })
    });
    let mut took: Vec<Duration> = join_all(calls).await.into_iter().flat_map(Result::unwrap).collect();
    took.sort_unstable();
    let (after, written) = (raft.counters(), bytes_written() - written_before);
    let entries = after.entries_written - before.entries_written;
    let fsyncs = after.fsyncs.count - before.fsyncs.count;
    let (per_entry, disk) = (written / 3 / entries, after.log_bytes / entries);
    cluster.stop(leader).await;
    let began = Instant::now();
    cluster.start(leader).await;
    println!(
        "{engine:8} {callers:5} callers of {data_bytes:5} B: {:7.0} proposals/s, p50 {:?}, p99 {:?}, {:.1} entries per fsync, \
         {:?} per fsync, {per_entry} B written and {disk} B kept per entry; opened again in {:?}",
        took.len() as f64 / FOR.as_secs_f64(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        entries as f64 / fsyncs as f64,
        (after.fsyncs.sum - before.fsyncs.sum) / u32::try_from(fsyncs).unwrap(),
        began.elapsed(),
    );
}

/// Bytes that this process caused to be written to disks.
fn bytes_written() -> u64 {
    let counts = std::fs::read_to_string("/proc/self/io").unwrap();
    counts.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_reads_and_fail_over() {
    let mut cluster = Cluster::of_three().await;
    cluster.set("x", "1").await;
    let leader = cluster.leader().await;
    for (who, id) in [("leader", leader), ("follower", 1 + leader % 3)] {
        for callers in [1, 64] {
            let (raft, end) = (cluster.raft(id), Instant::now() + Duration::from_secs(1));
            let calls = (0..callers).map(|_| async {
                let mut reads = 0u64;
                while Instant::now() < end {
                    raft.read_index().await.unwrap();
                    reads += 1;
                }
                reads
            });
            let reads: u64 = join_all(calls).await.into_iter().sum();
            println!("{callers:3} callers on the {who}: {reads} linearizable reads/s");
        }
    }
    let mut gaps = Vec::new();
    for round in 0..20 {
        let leader = cluster.leader().await;
        let stopped = Instant::now();
        cluster.stop(leader).await;
        cluster.set(&format!("r{round}"), "x").await;
        gaps.push(stopped.elapsed());
        cluster.start(leader).await;
        let index = cluster.raft(cluster.leader().await).applied();
        cluster.reaches(leader, index).await;
    }
    gaps.sort_unstable();
    println!("from the stop of a leader to the next success: median {:?}, worst of 20 {:?}", gaps[10], gaps[19]);
}
