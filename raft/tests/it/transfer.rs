//! Snapshots on their way, and the log that is kept for those who are behind.

use switchboard_raft::*;

use crate::cluster::small;
use crate::harness::{Cluster, PATIENCE, copy_all, until};

/// Bytes of one chunk of a transfer.
const CHUNK: usize = 64 * 1024;

/// A state of 1 MiB at two nodes, and one that is away and needs the snapshot.
async fn with_one_away() -> (Cluster, u64, u64) {
    let mut cluster = Cluster::new(1..=3);
    // Snapshots are taken when the test asks for them.
    cluster.limits = Limits { snapshot_every_entries: 1_000_000, entries_kept_after_snapshot: 0, ..small() };
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.reaches(away, 1).await;
    cluster.stop(away).await;
    let last = cluster.fill(500, 2048, 500).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != away).collect();
    for id in &others {
        cluster.reaches(*id, last).await;
        cluster.raft(*id).trigger_snapshot().await.unwrap();
        let raft = cluster.raft(*id);
        until("the log is purged", || raft.status().purged.filter(|purged| *purged >= last)).await;
    }
    (cluster, away, last)
}

/// Whether a half of a snapshot lies there.
fn receives(cluster: &Cluster, id: u64) -> bool {
    cluster.snapshot_files(id).iter().any(|name| name.ends_with(".tmp"))
}

/// The node has what the leader has, by one snapshot, and nothing else is left.
async fn assert_caught_up(cluster: &Cluster, away: u64, last: u64) {
    cluster.reaches(away, last).await;
    let leader = cluster.leader().await;
    let index = cluster.set("after", "x").await.index;
    cluster.reaches(away, index).await;
    assert_eq!(cluster.machine(away).map(), cluster.machine(leader).map());
    assert_eq!(cluster.machine(away).restored(), 1, "only a whole snapshot was ever installed");
    until("nothing half is left", || (cluster.snapshot_files(away).len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_is_cut_off_begins_again_and_installs_nothing_in_part() {
    let (mut cluster, away, last) = with_one_away().await;
    cluster.network.break_streams(away, [0, 1, 3, 7, 12].map(|chunks| chunks * CHUNK + CHUNK / 2));
    cluster.start(away).await;
    while cluster.network.breaks_left(away) > 0 {
        // The others serve meanwhile.
        cluster.set("meanwhile", "x").await;
    }
    assert_caught_up(&cluster, away, last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_killed_in_the_middle_begins_again() {
    let (mut cluster, away, last) = with_one_away().await;
    // It takes seconds.
    cluster.network.slow_down(away, 300);
    cluster.start(away).await;
    until("it has a part", || receives(&cluster, away).then_some(())).await;
    // What a kill leaves is what is there at some moment.
    let (dir, killed) = (cluster.data_dir(away), cluster.dir.path().join("killed"));
    copy_all(&dir, &killed);
    cluster.stop(away).await;
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&killed, &dir).unwrap();
    assert!(receives(&cluster, away));
    cluster.network.slow_down(away, 0);
    cluster.start(away).await;
    assert_caught_up(&cluster, away, last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_ends_in_the_middle_is_replaced_by_the_next_leader() {
    let (mut cluster, away, last) = with_one_away().await;
    cluster.network.slow_down(away, 300);
    cluster.start(away).await;
    until("it has a part", || receives(&cluster, away).then_some(())).await;
    let sender = cluster.leader().await;
    let other = (1..=3).find(|id| *id != sender && *id != away).unwrap();
    cluster.stop(sender).await;
    cluster.network.slow_down(away, 0);
    // The other one and the receiver are a majority; only the first has everything.
    assert_eq!(cluster.leader_among(&[other]).await, other);
    assert_caught_up(&cluster, away, last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_member_that_answers_is_sent_entries_and_no_snapshots() {
    let mut cluster = Cluster::new(1..=3);
    // An append must be sent, and answered by a machine that has other things to do, before the stream is given up: entries
    // are kept for members that are being streamed to.
    let (append_bytes_max, answer_within) = (128 * 1024, PATIENCE);
    cluster.limits = Limits {
        snapshot_every_entries: 200,
        entries_kept_after_snapshot: 10,
        append_bytes_max,
        answer_within,
        ..small()
    };
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let term = cluster.raft(leader).status().term;
    let slow = (1..=3).find(|id| *id != leader).unwrap();
    let first = cluster.fill(10, 10, 10).await;
    cluster.reaches(slow, first).await;
    // A megabyte a second, and four times as much to be sent.
    cluster.network.slow_down(slow, 1024);
    let mut last = first;
    for taken in 1..=2 {
        last = cluster.fill(1000, 2048, 100).await;
        // It looks now and then whether to take one; a fast machine writes everything between two looks.
        let built = || cluster.raft(leader).counters().snapshots_built.count;
        until("the leader takes a snapshot meanwhile", || (built() >= taken).then_some(())).await;
    }
    cluster.reaches(slow, last).await;
    // A new leader begins a new stream, behind what may be purged by then.
    let led_on = cluster.raft(leader).status().term == term;
    assert!(cluster.machine(slow).restored() <= u64::from(!led_on), "what it needs was kept");
    // Then it is purged, too.
    let raft = cluster.raft(cluster.leader().await);
    until("the log is purged", || raft.status().purged.filter(|purged| *purged + 500 > last)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_for_a_slow_member_has_a_limit() {
    let mut cluster = Cluster::new(1..=3);
    let held = 2 * 1024 * 1024;
    cluster.limits = Limits {
        snapshot_every_entries: 200,
        entries_kept_after_snapshot: 10,
        snapshot_every_log_bytes: held,
        log_bytes_held_max: held,
        ..small()
    };
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let slow = (1..=3).find(|id| *id != leader).unwrap();
    let first = cluster.fill(10, 10, 10).await;
    cluster.reaches(slow, first).await;
    cluster.network.slow_down(slow, 512);
    // 8 MiB in all, of a state of 200 KiB: a snapshot is the shorter way.
    let last = cluster.fill(4000, 2048, 100).await;
    cluster.reaches(slow, last).await;
    let installed = cluster.machine(slow).restored();
    assert!((1..=6).contains(&installed), "{installed} snapshots");
    until("the log is small", || (cluster.log_bytes_on_disk(leader) < 2 * held).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_travels_slowly_is_followed_by_entries() {
    let (mut cluster, away, _) = with_one_away().await;
    cluster.stop_all().await;
    // From now on snapshots are frequent: five would be taken in the time that one of them travels.
    // A machine that has other things to do must not be taken for a stream that is broken.
    let answer_within = PATIENCE;
    cluster.limits = Limits { snapshot_every_entries: 200, entries_kept_after_snapshot: 10, answer_within, ..small() };
    let others: Vec<u64> = (1..=3).filter(|id| *id != away).collect();
    for id in &others {
        cluster.start(*id).await;
    }
    let leader = cluster.leader().await;
    let term = cluster.raft(leader).status().term;
    cluster.network.slow_down(away, 700);
    cluster.start(away).await;
    until("it receives", || receives(&cluster, away).then_some(())).await;
    let last = cluster.fill(1000, 64, 100).await;
    cluster.reaches(away, last).await;
    // A new leader sends what it has.
    let led_on = cluster.raft(leader).status().term == term;
    assert!(cluster.machine(away).restored() <= 1 + u64::from(!led_on), "one was enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_stays_bounded_over_many_snapshots() {
    let mut cluster = Cluster::new([1]);
    cluster.limits = Limits { snapshot_every_entries: 200, ..small() };
    cluster.start_all().await;
    let mut most = 0;
    for _ in 0..15 {
        // 400 KiB of log and one snapshot each round, of a state of 200 KiB.
        cluster.fill(200, 2048, 100).await;
        cluster.raft(1).trigger_snapshot().await.unwrap();
        most = most.max(cluster.bytes_on_disk(1));
    }
    assert!(cluster.raft(1).counters().snapshots_built.count >= 15);
    assert!(most < 2 * 1024 * 1024, "{most} bytes");
    // One more may be about to be written: the node takes them by itself, too.
    until("one file is left", || (cluster.snapshot_files(1).len() == 1).then_some(())).await;
}
