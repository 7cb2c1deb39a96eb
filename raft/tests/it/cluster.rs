//! Elections, proposals, reads, restarts and catching up, in clusters of three.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use switchboard_raft::*;

use crate::harness::{Cluster, PATIENCE, until};
use crate::register::set;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elects_applies_everywhere_and_shares_flushes() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let raft = cluster.raft(leader);
    let before = raft.counters();
    let proposals = (0..2000).map(|i| {
        let raft = raft.clone();
        async move { raft.propose(set(&format!("r{i}"), "x")).await.unwrap().index }
    });
    let mut indices = join_all(proposals).await;
    let last = *indices.iter().max().unwrap();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), 2000, "every proposal has an index of its own");
    for id in 1..=3 {
        cluster.reaches(id, last).await;
        assert_eq!(cluster.machine(id).map(), cluster.machine(leader).map());
    }
    let after = raft.counters();
    let (entries, fsyncs) = (after.entries_written - before.entries_written, after.fsyncs.count - before.fsyncs.count);
    assert!(fsyncs * 5 < entries, "{entries} entries took {fsyncs} flushes");
    let again = cluster.set("r0", "y").await;
    assert_eq!(again.reply, b"x", "the reply is the value before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_linearizable_on_every_member() {
    let cluster = Cluster::of_three().await;
    for round in 0..20 {
        let value = round.to_string();
        let written = cluster.set("x", &value).await;
        for id in 1..=3 {
            let index = cluster.raft(id).read_index().await.unwrap();
            assert!(index >= written.index, "a read index covers what was acknowledged before");
            assert!(cluster.raft(id).applied() >= index, "and is applied");
            assert_eq!(cluster.machine(id).get("x").unwrap(), value.as_bytes());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_share_rounds_and_write_no_entry() {
    let cluster = Cluster::of_three().await;
    cluster.set("x", "1").await;
    let leader = cluster.raft(cluster.leader().await);
    for id in 1..=3 {
        let before = (leader.counters().read_rounds, leader.status().last_log);
        let raft = cluster.raft(id);
        let reads = join_all((0..1000).map(|_| raft.read_index())).await;
        assert!(reads.iter().all(Result::is_ok));
        let rounds = leader.counters().read_rounds - before.0;
        assert!((1..200).contains(&rounds), "{rounds} rounds for 1000 readers of node {id}");
        assert_eq!(leader.status().last_log, before.1, "a read is no entry of the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::of_three().await;
    for i in 0..100 {
        cluster.set(&format!("r{i}"), "x").await;
    }
    let old = cluster.leader().await;
    cluster.stop(old).await;
    let stopped = Instant::now();
    cluster.set("after", "x").await;
    let gap = stopped.elapsed();
    assert!(gap < Duration::from_secs(3), "without a leader for {gap:?}");
    let new = cluster.leader().await;
    assert_eq!(cluster.machine(new).len(), 101);
    cluster.start(old).await;
    let index = cluster.raft(old).read_index().await.unwrap();
    cluster.reaches(old, index).await;
    assert_eq!(cluster.machine(old).len(), 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_stop_hands_over() {
    let cluster = Cluster::of_three().await;
    cluster.set("x", "1").await;
    let old = cluster.leader().await;
    until("the others are known to follow", || {
        let following = |member: &&Member| member.state == MemberState::Following;
        (cluster.raft(old).status().members.iter().filter(following).count() == 2).then_some(())
    })
    .await;
    let asked = Instant::now();
    assert!(cluster.raft(old).hand_over(PATIENCE).await);
    let rest: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    let new = cluster.leader_among(&rest).await;
    cluster.raft(new).propose(set("x", "2")).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?}", asked.elapsed());
    assert!(cluster.raft(new).hand_over(PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_after_all_restart() {
    let mut cluster = Cluster::of_three().await;
    for round in 0..3 {
        let mut last = 0;
        for i in 0..50 {
            last = cluster.set(&format!("r{round}-{i}"), "x").await.index;
        }
        cluster.stop_all().await;
        cluster.start_all().await;
        let leader = cluster.leader().await;
        for id in 1..=3 {
            cluster.reaches(id, last).await;
            assert_eq!(cluster.machine(id).len(), 50 * (round + 1));
        }
        assert!(cluster.raft(leader).leadership().borrow().as_ref().unwrap().term > round as u64 + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catches_up_by_log() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.stop(away).await;
    let mut last = 0;
    for i in 0..200 {
        last = cluster.set(&format!("r{i}"), "x").await.index;
    }
    cluster.start(away).await;
    cluster.reaches(away, last).await;
    assert_eq!(cluster.machine(away).restored(), 0, "no snapshot was needed");
    assert_eq!(cluster.machine(away).len(), 200);
}

/// Limits that make snapshots and purges frequent.
pub(crate) fn small() -> Limits {
    Limits {
        log_chunk_bytes: 256 * 1024,
        log_cache_bytes: 128 * 1024,
        snapshot_every_entries: 500,
        entries_kept_after_snapshot: 50,
        snapshot_chunk_bytes: 64 * 1024,
        ..Limits::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catches_up_by_snapshot_and_the_disk_comes_back() {
    let mut cluster = Cluster::new(1..=3);
    cluster.limits = small();
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.stop(away).await;
    // 4000 entries of 2 KiB over 1000 registers: 8 MiB of log, 2 MiB of state.
    let last = cluster.fill(4000, 2048, 1000).await;
    let leader = cluster.leader().await;
    let raft = cluster.raft(leader);
    until("the log is purged", || raft.status().purged.filter(|purged| *purged > last - 1000)).await;
    until("its files are gone", || (cluster.log_bytes_on_disk(leader) < 3 * 1024 * 1024).then_some(())).await;
    cluster.start(away).await;
    cluster.reaches(away, last).await;
    assert!(cluster.machine(away).restored() > 0, "it came by snapshot");
    assert_eq!(cluster.machine(away).map(), cluster.machine(leader).map());
    // Counted once it is installed in full, a moment after it is applied; more than once if the leader took a newer one
    // and purged behind it meanwhile.
    until("it is counted", || (cluster.raft(away).counters().snapshots_installed.count > 0).then_some(())).await;

    // What a snapshot and the rest of the log hold is everything, also after a restart.
    let map = cluster.machine(leader).map();
    cluster.stop_all().await;
    cluster.start_all().await;
    for id in 1..=3 {
        cluster.reaches(id, last).await;
        assert_eq!(cluster.machine(id).map(), map);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_large_entries_are_bounded_by_bytes() {
    let mut cluster = Cluster::new([1]);
    cluster.limits = Limits { snapshot_every_log_bytes: 2 * 1024 * 1024, log_chunk_bytes: 512 * 1024, ..small() };
    cluster.start_all().await;
    for _ in 0..60 {
        cluster.set("large", &"x".repeat(128 * 1024)).await;
    }
    until("the log is small again", || (cluster.log_bytes_on_disk(1) <= 3 * 1024 * 1024).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_loses_its_office() {
    let cluster = Cluster::of_three().await;
    let old = cluster.leader().await;
    let rest: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    let office = cluster.raft(old).leadership().borrow().clone().unwrap();
    cluster.network.isolate(old, rest.iter().copied());
    let new = cluster.leader_among(&rest).await;
    let written = cluster.raft(new).propose(set("x", "new")).await.unwrap();
    let refused = tokio::time::timeout(PATIENCE, cluster.raft(old).read_index()).await.unwrap();
    assert!(refused.is_err(), "a leader without a majority confirms no read");
    until("proposals are refused for want of a majority", || {
        let raft = cluster.raft(old);
        let refused = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current()
                .block_on(tokio::time::timeout(Duration::from_millis(100), raft.propose(set("x", "old"))))
        });
        matches!(refused, Ok(Err(ProposeError::NoQuorum))).then_some(())
    })
    .await;
    cluster.network.heal();
    until("the old leader knows", || cluster.raft(old).leadership().borrow().is_none().then_some(())).await;
    let late = cluster.raft(old).propose_as(&office, set("x", "late")).await.unwrap_err();
    assert_eq!(late.applied(), Applied::No);
    cluster.reaches(old, written.index).await;
    let index = cluster.raft(old).read_index().await.unwrap();
    assert!(index >= written.index);
    assert_eq!(cluster.machine(old).get("x").unwrap(), b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_office_ends_with_its_term() {
    let mut cluster = Cluster::new([1]);
    cluster.start(1).await;
    cluster.leader().await;
    let first = cluster.raft(1).leadership().borrow().clone().unwrap();
    cluster.raft(1).propose_as(&first, set("x", "1")).await.unwrap();
    cluster.stop(1).await;
    cluster.start(1).await;
    cluster.leader().await;
    let second = cluster.raft(1).leadership().borrow().clone().unwrap();
    assert!(second.term > first.term, "a restarted leader is elected anew");
    let late = cluster.raft(1).propose_as(&first, set("x", "2")).await.unwrap_err();
    assert!(matches!(late, ProposeError::NotLeader { .. }), "{late:?}");
    cluster.raft(1).propose_as(&second, set("x", "3")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_proposals_refuse_and_recover() {
    let mut cluster = Cluster::new([1]);
    cluster.limits.proposals_in_flight = 4;
    cluster.start(1).await;
    cluster.leader().await;
    let raft = cluster.raft(1);
    let large = raft.propose(set("x", vec![0; 2 * 1024 * 1024])).await.unwrap_err();
    assert!(matches!(large, ProposeError::TooLarge { .. }), "{large:?}");
    let outcomes = join_all((0..64).map(|_| raft.propose(set("x", "1")))).await;
    assert!(outcomes.iter().any(|outcome| outcome == &Err(ProposeError::Overloaded)));
    assert!(outcomes.iter().any(Result::is_ok));
    assert!(raft.counters().proposals_refused > 0);
    raft.propose(set("x", "2")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_application_ends_the_replica() {
    let mut cluster = Cluster::new([1]);
    cluster.start(1).await;
    cluster.leader().await;
    let raft = cluster.raft(1);
    let outcome = raft.propose(set("panic", "")).await.unwrap_err();
    assert_eq!(outcome, ProposeError::Unknown);
    let reason = tokio::time::timeout(PATIENCE, raft.stopped()).await.unwrap();
    assert!(matches!(reason, FatalReason::Storage(_)), "{reason:?}");
    assert_eq!(raft.propose(set("x", "1")).await.unwrap_err(), ProposeError::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_application_while_it_is_frozen_ends_the_replica() {
    let mut cluster = Cluster::new([1]);
    cluster.start(1).await;
    cluster.set("unfreezable", "").await;
    let raft = cluster.raft(1);
    let asking = raft.clone();
    let asked = tokio::spawn(async move { asking.trigger_snapshot().await });
    let reason = tokio::time::timeout(PATIENCE, raft.stopped()).await.unwrap();
    assert!(matches!(&reason, FatalReason::Storage(why) if why.contains("panicked")), "{reason:?}");
    tokio::time::timeout(PATIENCE, raft.shutdown()).await.expect("it can be shut down");
    tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap().expect_err("there is no snapshot");
}
