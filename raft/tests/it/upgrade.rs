//! Members of different releases in one group.

use std::time::Duration;

use switchboard_raft::{FatalReason, Formats};

use crate::harness::{Cluster, until};
use crate::register::set;

const OLD: Formats = Formats { oldest: 1, newest: 1, writes: 1 };
/// Knows the new form, and still writes the old one.
const BETWEEN: Formats = Formats { oldest: 1, newest: 2, writes: 1 };
const NEW: Formats = Formats { oldest: 1, newest: 2, writes: 2 };

async fn start_as(cluster: &mut Cluster, id: u64, formats: Formats) {
    let mut settings = cluster.settings(id);
    settings.formats = formats;
    cluster.start_with(settings).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_that_follow_each_other_are_replaced_one_member_at_a_time() {
    let mut cluster = Cluster::new(1..=3);
    for id in 1..=3 {
        start_as(&mut cluster, id, OLD).await;
    }
    cluster.set("x", "1").await;
    let mut written = 0;
    for release in [BETWEEN, NEW] {
        for id in 1..=3 {
            cluster.stop(id).await;
            cluster.set(&format!("without {id}"), "1").await;
            start_as(&mut cluster, id, release).await;
            let last = cluster.set(&format!("with {id}"), "1").await;
            cluster.reaches(id, last.index).await;
            written = cluster.machine(id).len();
        }
    }
    assert_eq!(written, 7, "every register is on the last member that came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_never_led_by_one_whose_entries_it_cannot_read() {
    let mut cluster = Cluster::new(1..=3);
    for (id, release) in [(1, OLD), (2, OLD), (3, NEW)] {
        start_as(&mut cluster, id, release).await;
    }
    // The newest follows the others, and helps one of them to lead.
    let first = cluster.set("x", "1").await;
    cluster.reaches(3, first.index).await;
    let stopped = cluster.leader_among(&[1, 2]).await;
    cluster.stop(stopped).await;
    let left = 3 - stopped;
    cluster.leader_among(&[left]).await;
    // Asked to take over, it is refused the one vote that it needs.
    let refused = cluster.raft(left).counters().peers_refused;
    cluster.raft(left).hand_over(Duration::from_secs(1)).await;
    assert!(cluster.raft(3).leadership().borrow().is_none(), "it leads nobody");
    until("it was refused", || (cluster.raft(left).counters().peers_refused > refused).then_some(())).await;
    let second = cluster.set("x", "2").await;
    cluster.leader_among(&[left]).await;
    cluster.reaches(3, second.index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_cannot_be_read_ends_the_member_at_that_entry() {
    let mut cluster = Cluster::new([1]);
    cluster.start(1).await;
    let last = cluster.set("x", "1").await;
    let raft = cluster.raft(1);
    let unreadable = tokio::spawn({
        let raft = raft.clone();
        async move { raft.propose(set("unreadable", "1")).await }
    });
    let FatalReason::Storage(why) = raft.stopped().await else { panic!("it ends for what it has stored") };
    assert!(why.contains(&format!("entry {} can't be read", last.index + 1)), "{why}");
    assert!(unreadable.await.unwrap().is_err());
    assert_eq!(raft.applied(), last.index, "nothing was applied after it");
    // Nor does it start again: the entry is still there.
    cluster.stop(1).await;
    let refused = cluster.start_with(cluster.settings(1)).await;
    assert!(refused.as_ref().is_err_and(|e| e.to_string().contains("can't be read")), "{refused:?}");
}
