//! Members come, go and change roles while the group works.

use std::time::Duration;

use switchboard_raft::*;

use crate::harness::{Cluster, addresses, copy_all, name, until};
use crate::register::set;

/// Whom the leader counts as voters and learners, once no change is under way.
async fn roles(cluster: &Cluster) -> (Vec<u64>, Vec<u64>) {
    let leader = cluster.leader().await;
    let status = until("no change is half done", || {
        let status = cluster.raft(leader).status();
        (!status.joint).then_some(status)
    })
    .await;
    let of = |role| status.members.iter().filter(move |m| m.role == role).map(|m| m.id).collect();
    (of(MemberRole::Voter), of(MemberRole::Learner))
}

async fn is_removed(cluster: &Cluster, id: u64) {
    until("the node learns that it was removed", || {
        (cluster.raft(id).status().standing == Standing::Removed).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_grows_shrinks_and_replaces_all_its_founders() {
    let mut cluster = Cluster::new([1]);
    cluster.start(1).await;
    cluster.set("x", "1").await;
    for id in 2..=5 {
        cluster.join(id).await;
        assert_eq!(roles(&cluster).await.1, [id], "it learns before it votes");
        cluster.promote(id).await;
    }
    assert_eq!(roles(&cluster).await, ((1..=5).collect(), vec![]));
    cluster.set("x", "2").await;
    for id in [1, 2] {
        cluster.remove(id).await;
        is_removed(&cluster, id).await;
        cluster.stop(id).await;
    }
    assert_eq!(roles(&cluster).await.0, [3, 4, 5]);
    let written = cluster.set("x", "3").await;
    for id in 3..=5 {
        cluster.reaches(id, written.index).await;
        assert_eq!(cluster.machine(id).get("x").unwrap(), b"3");
        assert_eq!(cluster.raft(id).status().members[0].addresses, addresses(3));
    }
    // Their directories are enough to begin again.
    cluster.stop_all().await;
    for id in 3..=5 {
        cluster.start(id).await;
    }
    cluster.set("x", "4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_changes_nothing_more() {
    let mut cluster = Cluster::of_three().await;
    cluster.join(4).await;
    let before = cluster.raft(cluster.leader().await).status().last_log;
    let again = cluster.change(|raft| async move { raft.add_learner(4, &name(4)).await }).await;
    assert!(again.is_ok(), "{again:?}");
    cluster.promote(4).await;
    cluster.promote(4).await;
    cluster.remove(4).await;
    cluster.remove(4).await;
    let leader = cluster.leader().await;
    cluster.raft(leader).transfer_leader(leader).await.unwrap();
    let appended = cluster.raft(leader).status().last_log.unwrap() - before.unwrap();
    assert!(appended <= 4, "two entries for each change of the voters, none for a repetition: {appended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_can_not_be_added_is_refused_with_the_reason() {
    let mut cluster = Cluster::of_three().await;
    let add = async |cluster: &Cluster, id: u64, at: u64| {
        cluster.change(|raft| async move { raft.add_learner(id, &name(at)).await }).await.unwrap_err()
    };
    let nobody = add(&cluster, 4, 4).await;
    assert!(matches!(nobody, ChangeError::NobodyThere { id: 4, .. }) && nobody.to_string().contains("--join"));
    let other = add(&cluster, 4, 3).await;
    assert!(matches!(other, ChangeError::WrongNewcomer { .. }) && other.to_string().contains("node 3 answers"));
    let moved = add(&cluster, 3, 2).await;
    assert!(matches!(moved, ChangeError::Elsewhere { id: 3, .. }), "{moved}");

    let mut elsewhere = cluster.settings(5);
    elsewhere.cluster = "other".to_owned();
    cluster.start_with(elsewhere).await.unwrap();
    let named_otherwise = add(&cluster, 5, 5).await;
    assert!(named_otherwise.to_string().contains("cluster \"other\""), "{named_otherwise}");

    let mut founder = cluster.settings(6);
    founder.join = false;
    founder.founders = [6, 7].map(|id| (id, addresses(id))).into();
    cluster.start_with(founder).await.unwrap();
    let founding = add(&cluster, 6, 6).await;
    assert!(founding.to_string().contains("--peers"), "{founding}");

    let mut alone = cluster.settings(8);
    alone.join = false;
    alone.founders = [(8, addresses(8))].into();
    cluster.start_with(alone).await.unwrap();
    cluster.leader_among(&[8]).await;
    let founded = cluster.raft(1).add_learner(8, &name(8)).await;
    let founded = match founded {
        Err(ChangeError::NotLeader { leader }) => cluster.raft(leader.unwrap().0).add_learner(8, &name(8)).await,
        told => told,
    };
    assert!(founded.unwrap_err().to_string().contains("not empty"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_was_used_is_never_used_again() {
    let mut cluster = Cluster::of_three().await;
    // A member's directory is lost; it comes back under its id, as a newcomer.
    let lost = (1..=3).find(|id| cluster.raft(*id).leadership().borrow().is_none()).unwrap();
    cluster.stop(lost).await;
    std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    cluster.founders.remove(&lost);
    cluster.start(lost).await;
    let again = cluster.change(|raft| async move { raft.add_learner(lost, &name(lost)).await }).await;
    assert_eq!(again.unwrap_err(), ChangeError::IdUsed(lost));
    let why = until("it is told", || match cluster.raft(lost).status().standing {
        Standing::ShutOut(why) => Some(why),
        _ => None,
    })
    .await;
    assert!(why.contains("new id"), "{why}");
    cluster.stop(lost).await;
    // Nor after it was removed, with whatever directory.
    cluster.remove(lost).await;
    cluster.start(lost).await;
    let again = cluster.change(|raft| async move { raft.add_learner(lost, &name(lost)).await }).await;
    assert_eq!(again.unwrap_err(), ChangeError::IdUsed(lost));
    // All of them remember, and so does a snapshot.
    let leader = cluster.leader().await;
    cluster.raft(leader).trigger_snapshot().await.unwrap();
    cluster.stop_all().await;
    for id in (1..=3).filter(|id| *id != lost) {
        cluster.founders.remove(&id);
        cluster.start(id).await;
    }
    cluster.start(lost).await;
    let again = cluster.change(|raft| async move { raft.add_learner(lost, &name(lost)).await }).await;
    assert_eq!(again.unwrap_err(), ChangeError::IdUsed(lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_told_disturbs_nobody_and_does_not_start_again() {
    let mut cluster = Cluster::new(1..=4);
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let away = 1 + leader % 4;
    let here = 1 + away % 4;
    // One is there, the other is away when it happens.
    cluster.stop(away).await;
    for id in [away, here].into_iter().filter(|id| *id != leader) {
        cluster.remove(id).await;
    }
    if here != leader {
        is_removed(&cluster, here).await;
    }
    let (leader, term) = (cluster.leader().await, cluster.raft(cluster.leader().await).status().term);
    cluster.start(away).await;
    is_removed(&cluster, away).await;
    assert_eq!(cluster.raft(away).propose(set("x", "1")).await.unwrap_err().applied(), Applied::No);
    assert!(cluster.raft(away).read_index().await.is_err());
    cluster.set("x", "2").await;
    assert_eq!(cluster.raft(leader).status().term, term, "nobody had to be elected");
    cluster.stop(away).await;
    let refused = cluster.start_with(cluster.settings(away)).await.unwrap_err();
    assert!(matches!(refused, StartError::Removed(_, id) if id == away), "{refused}");
    assert!(refused.to_string().contains("new id"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_takes_the_majority_away() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let (dead, alive) = (1 + leader % 3, 1 + (leader + 1) % 3);
    cluster.stop(dead).await;
    // Of the leader and the dead one only the leader would answer.
    let refused = cluster.change(|raft| async move { raft.remove(alive).await }).await;
    assert!(matches!(refused, Err(ChangeError::NoMajority { voters: 2, answering: 1, needed: 2 })), "{refused:?}");
    cluster.set("x", "1").await;
    // First the dead one, then another one.
    cluster.remove(dead).await;
    cluster.join(4).await;
    cluster.promote(4).await;
    cluster.remove(alive).await;
    let mut left = vec![leader, 4];
    left.sort_unstable();
    assert_eq!(roles(&cluster).await.0, left);
    cluster.remove(4).await;
    let last = cluster.leader().await;
    assert_eq!(cluster.raft(last).remove(last).await.unwrap_err(), ChangeError::LastVoter(last));
    assert_eq!(cluster.raft(last).remove(77).await.unwrap_err(), ChangeError::NoMember(77));
    cluster.set("x", "2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_sent_and_the_leader_can_be_removed() {
    let mut cluster = Cluster::of_three().await;
    cluster.join(4).await;
    let learner = cluster.change(|raft| async move { raft.transfer_leader(4).await }).await;
    assert_eq!(learner.unwrap_err(), ChangeError::NotVoter(4));
    for to in [1, 2, 3, 1] {
        cluster.change(|raft| async move { raft.transfer_leader(to).await }).await.unwrap();
        assert_eq!(cluster.leader_among(&[to]).await, to);
        cluster.set("x", "1").await;
    }
    let refused = cluster.raft(2).transfer_leader(3).await.unwrap_err();
    assert!(matches!(refused, ChangeError::NotLeader { leader: Some((1, _)) }), "{refused:?}");
    // It hands over first, and the next one removes it.
    cluster.remove(1).await;
    is_removed(&cluster, 1).await;
    assert_eq!(roles(&cluster).await.0, [2, 3]);
    cluster.set("x", "2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_that_needs_a_snapshot_catches_up_and_votes() {
    let mut cluster = Cluster::new([1]);
    cluster.limits.snapshot_every_entries = 50;
    cluster.limits.entries_kept_after_snapshot = 5;
    cluster.start(1).await;
    cluster.leader().await;
    for n in 0..200 {
        cluster.raft(1).propose(set(&format!("r{n}"), "1")).await.unwrap();
    }
    until("the log is cut", || cluster.raft(1).status().purged.filter(|purged| *purged > 50)).await;
    cluster.join(2).await;
    cluster.promote(2).await;
    assert_eq!(cluster.machine(2).restored(), 1);
    let written = cluster.set("x", "1").await;
    cluster.reaches(2, written.index).await;
    assert_eq!(cluster.machine(2).map(), cluster.machine(1).map());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_on_a_copied_directory_does_not_take_part() {
    let mut cluster = Cluster::of_three().await;
    cluster.set("x", "1").await;
    let copied = cluster.dir.path().join("copy");
    cluster.stop(3).await;
    copy_all(&cluster.data_dir(3), &copied);
    let mut settings = cluster.settings(3);
    settings.data_dir = copied;
    settings.advertise = addresses(9);
    // While the original runs, the copy does not start.
    cluster.start(3).await;
    let original = cluster.nodes.remove(&3).unwrap();
    let refused = cluster.start_with(settings.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::Twin { id: 3, .. }), "{refused}");
    assert!(refused.to_string().contains("copy"), "{refused}");
    cluster.nodes.insert(3, original);
    let written = cluster.set("x", "2").await;
    cluster.reaches(3, written.index).await;
    // A copy that was there first ends when the original comes back.
    cluster.stop(3).await;
    let machine = std::sync::Arc::new(crate::register::Registers::default());
    let dialer = std::sync::Arc::new(crate::harness::Dialer { network: cluster.network.clone(), from: 9 });
    let twin = Raft::start(settings, machine, dialer).await.unwrap();
    cluster.start(3).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), twin.stopped()).await.unwrap();
    assert!(matches!(&ended, FatalReason::Twin(why) if why.contains("copy")), "{ended:?}");
    twin.shutdown().await;
    cluster.set("x", "3").await;
}
