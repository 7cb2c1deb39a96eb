//! A process that is killed again and again: what it acknowledged is there afterwards.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use switchboard_raft::*;

use crate::harness::Cluster;
use crate::register::set;

const ROUNDS: u64 = 8;
const DIR: &str = "RAFT_KILL_DIR";
const ROUND: &str = "RAFT_KILL_ROUND";
const ENGINE: &str = "RAFT_KILL_ENGINE";

/// One node in a directory, with small files and frequent snapshots.
fn settings(mut settings: Settings) -> Settings {
    settings.heartbeat = Duration::from_millis(30);
    settings.election = (Duration::from_millis(70), Duration::from_millis(120));
    settings.limits = Limits {
        log_chunk_bytes: 128 * 1024,
        snapshot_every_entries: 400,
        entries_kept_after_snapshot: 100,
        ..Limits::default()
    };
    settings
}

/// The process that is killed: it proposes and prints what was acknowledged, until it dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn victim() {
    let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) else { return };
    let mut cluster = Cluster::new([1]);
    cluster.engine = std::env::var(ENGINE).unwrap().parse().unwrap();
    let mut here = settings(cluster.settings(1));
    here.data_dir = dir.into();
    cluster.start_with(here).await.unwrap();
    cluster.leader().await;
    let (to, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
    for task in 0..16 {
        let (raft, to, round) = (cluster.raft(1), to.clone(), round.clone());
        tokio::spawn(async move {
            for nth in 0u64.. {
                let name = format!("{round}-{task}-{nth}");
                raft.propose(set(&name, vec![1; 64])).await.unwrap();
                to.send(name).unwrap();
            }
        });
    }
    let mut out = std::io::stdout();
    while let Some(name) = acknowledged.recv().await {
        writeln!(out, "ack {name}").unwrap();
    }
}

/// Runs the victim for a while and kills it. Returns what it acknowledged.
fn run_and_kill(dir: &std::path::Path, engine: LogEngine, round: u64) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::victim", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(ROUND, round.to_string())
        .env(ENGINE, engine.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut names = Vec::new();
    // Killed after another number of acknowledgements each time: in the midst of writes, snapshots and purges.
    let enough = 50 + (round * 397) as usize % 1500;
    while names.len() < enough {
        let line = lines.next().expect("the victim runs until it is killed").unwrap();
        names.extend(line.strip_prefix("ack ").map(str::to_owned));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    names.extend(lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("ack ").map(str::to_owned)));
    // The last line may have been cut in the midst.
    names.pop();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills() {
    survives_kills(LogEngine::RaftLog).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kills_with_sled() {
    survives_kills(LogEngine::Sled).await;
}

async fn survives_kills(engine: LogEngine) {
    let mut cluster = Cluster::new([1]);
    cluster.engine = engine;
    let dir = cluster.data_dir(1);
    let mut acknowledged = HashSet::new();
    for round in 0..ROUNDS {
        let dir = dir.clone();
        let names = tokio::task::spawn_blocking(move || run_and_kill(&dir, engine, round)).await.unwrap();
        acknowledged.extend(names);
        cluster.start_with(settings(cluster.settings(1))).await.unwrap();
        cluster.leader().await;
        let map = cluster.machine(1).map();
        let lost = acknowledged.iter().filter(|name| !map.contains_key(name.as_bytes())).count();
        assert_eq!(lost, 0, "of {} acknowledged in {round} rounds", acknowledged.len());
        cluster.stop(1).await;
    }
}
