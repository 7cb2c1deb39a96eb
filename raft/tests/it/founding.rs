//! How a cluster begins: not before all founders are there, once, and never again with a directory that was lost.

use std::time::Duration;

use switchboard_raft::*;

use crate::harness::{Cluster, addresses, until};
use crate::register::set;

/// Whether nobody leads for a second and a half, more than two of the longest election timeouts.
async fn nobody_leads(cluster: &Cluster, ids: &[u64]) -> bool {
    let mut offices: Vec<_> = ids.iter().map(|id| cluster.raft(*id).leadership()).collect();
    let anyone = offices.iter_mut().map(|office| Box::pin(office.wait_for(Option::is_some)));
    tokio::time::timeout(Duration::from_millis(1500), futures_util::future::select_all(anyone)).await.is_err()
}

async fn shut_out(cluster: &Cluster, id: u64) -> String {
    until("the node is shut out", || match cluster.raft(id).status().standing {
        Standing::ShutOut(why) => Some(why),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_for_every_founder() {
    let mut cluster = Cluster::new(1..=3);
    cluster.start(1).await;
    cluster.start(2).await;
    assert!(nobody_leads(&cluster, &[1, 2]).await, "two of three founders don't begin");
    assert_eq!(cluster.raft(1).status().standing, Standing::Founding);
    cluster.start(3).await;
    cluster.leader().await;
    for id in 1..=3 {
        until("every founder is seated", || {
            let status = cluster.raft(id).status();
            (status.standing == Standing::Seated && status.members.len() == 3).then_some(())
        })
        .await;
    }
    let members = cluster.raft(1).status().members;
    assert!(members.iter().all(|member| member.role == MemberRole::Voter));
    assert_eq!(members[2].addresses, addresses(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_at_any_moment_neither_wedge_nor_begin_twice() {
    for round in 0..6u64 {
        let mut cluster = Cluster::new(1..=3);
        cluster.start_all().await;
        // Everyone restarts at a moment of its own, from before the first question to after the first entry.
        for id in [1 + round % 3, 1 + (round + 1) % 3, 1 + (round + 2) % 3] {
            tokio::time::sleep(Duration::from_millis(round * 17)).await;
            cluster.stop(id).await;
            cluster.start(id).await;
        }
        let written = cluster.set("x", "1").await;
        for id in 1..=3 {
            cluster.reaches(id, written.index).await;
            assert_eq!(cluster.machine(id).get("x").unwrap(), b"1");
        }
    }
}

/// Stops a node and starts it again with an empty directory.
async fn lose_directory(cluster: &mut Cluster, id: u64) {
    cluster.stop(id).await;
    std::fs::remove_dir_all(cluster.data_dir(id)).unwrap();
    cluster.start(id).await;
    let why = shut_out(cluster, id).await;
    assert!(why.contains("--join"), "{why}");
}

/// A leader that lost its majority may believe in its office for a while, but it gets nothing done.
async fn gets_nothing_done(cluster: &Cluster, id: u64) -> bool {
    let raft = cluster.raft(id);
    let proposed = tokio::time::timeout(Duration::from_millis(1500), raft.propose(set("x", "lost"))).await;
    !matches!(proposed, Ok(Ok(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_directory_neither_votes_nor_acknowledges() {
    let mut cluster = Cluster::of_three().await;
    cluster.set("x", "1").await;
    lose_directory(&mut cluster, 3).await;
    cluster.set("x", "2").await;
    // With one of the two that remember, the forgetful one is no majority.
    cluster.stop(2).await;
    assert!(gets_nothing_done(&cluster, 1).await);
    assert_eq!(cluster.machine(3).get("x"), None, "it was told nothing");
    cluster.start(2).await;
    cluster.set("x", "3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_founder_that_begins_does_not_begin_again_with_a_lost_directory() {
    let mut cluster = Cluster::of_three().await;
    cluster.set("x", "1").await;
    lose_directory(&mut cluster, 1).await;
    let leader = cluster.leader_among(&[2, 3]).await;
    cluster.raft(leader).propose(set("x", "2")).await.unwrap();
    assert_eq!(cluster.raft(1).status().members, [], "it founded nothing");
    assert_eq!(cluster.machine(1).get("x"), None, "it was told nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_that_were_told_differently_do_not_begin() {
    let mut cluster = Cluster::new(1..=3);
    cluster.start(1).await;
    let mut told_otherwise = cluster.settings(2);
    told_otherwise.founders.remove(&3);
    cluster.start_with(told_otherwise).await.unwrap();
    cluster.start(3).await;
    let why = shut_out(&cluster, 1).await;
    assert!(why.contains("founders"), "{why}");
    assert!(nobody_leads(&cluster, &[1, 2, 3]).await);
    // Corrected, it begins.
    cluster.stop(2).await;
    cluster.start(2).await;
    cluster.set("x", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joining_node_waits() {
    let mut cluster = Cluster::of_three().await;
    cluster.start(4).await;
    assert_eq!(cluster.raft(4).status().standing, Standing::Joining);
    assert!(nobody_leads(&cluster, &[4]).await);
    assert_eq!(cluster.raft(4).propose(set("x", "1")).await.unwrap_err().applied(), Applied::No);
}
