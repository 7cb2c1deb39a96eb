//! What needs a look inside: a disk that stands still, a change that is left half-done, on streams in memory.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{SinkExt, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::entry::{Group, LogId, Vote};
use crate::net::frame::{self, AppendAnswer, AppendAsk, Purpose};
use crate::net::link::Link;
use crate::{Addresses, ChangeError, Connect, Frozen, NodeId, PREAMBLE, Raft, Settings, StateMachine, Stream};

#[derive(Default)]
struct Last(Mutex<Vec<u8>>);

impl StateMachine for Last {
    fn apply(&self, _: u64, data: &[u8], _: Option<&mut Vec<u8>>) -> io::Result<()> {
        *self.0.lock().unwrap() = data.to_vec();
        Ok(())
    }

    fn applied(&self, _: u64) {}

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(Last(Mutex::new(self.0.lock().unwrap().clone())))
    }

    fn restore(&self, _: u64, from: &mut dyn Read) -> io::Result<()> {
        from.read_to_end(&mut self.0.lock().unwrap()).map(drop)
    }
}

impl Frozen for Last {
    fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.0.lock().unwrap())
    }
}

/// Streams in memory between replicas that are known by their addresses.
#[derive(Default)]
struct Switch(Mutex<BTreeMap<String, Raft>>);

impl Connect for Switch {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let raft = self.0.lock().unwrap().get(address).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
            let (here, mut there) = tokio::io::duplex(256 * 1024);
            tokio::spawn(async move {
                let mut preamble = [0; 5];
                if there.read_exact(&mut preamble).await.is_ok() && &preamble == PREAMBLE {
                    raft.accept(Box::new(there));
                }
            });
            Ok(Box::new(here) as Box<dyn Stream>)
        })
    }
}

async fn three() -> (TempDir, BTreeMap<NodeId, Raft>) {
    let (dir, nodes, _) = three_and_more(0).await;
    (dir, nodes)
}

/// Three founders, and others that wait to be added.
async fn three_and_more(others: u64) -> (TempDir, BTreeMap<NodeId, Raft>, Arc<Switch>) {
    let (dir, switch) = (tempfile::tempdir().unwrap(), Arc::new(Switch::default()));
    let addresses = |id: NodeId| Addresses { peer: id.to_string(), api: String::new() };
    let mut nodes = BTreeMap::new();
    for id in 1..=3 + others {
        let mut settings = Settings::new(id, "test", dir.path().join(id.to_string()), id);
        settings.join = id > 3;
        settings.founders = (1..=3).filter(|_| id <= 3).map(|id| (id, addresses(id))).collect();
        settings.limits.promote_lag_max = 20;
        settings.limits.catch_up_within = Duration::from_millis(300);
        let raft = Raft::start(settings, Arc::new(Last::default()), switch.clone()).await.unwrap();
        switch.0.lock().unwrap().insert(id.to_string(), raft.clone());
        nodes.insert(id, raft);
    }
    (dir, nodes, switch)
}

async fn leader(nodes: &BTreeMap<NodeId, Raft>) -> NodeId {
    let mut changes = nodes[&1].status_changes();
    let found = timeout(Duration::from_secs(20), async {
        loop {
            let known = changes.borrow_and_update().leader;
            if let Some(leader) = known
                && nodes[&leader].leadership().borrow().is_some()
            {
                return leader;
            }
            let _ = timeout(Duration::from_millis(20), changes.changed()).await;
        }
    });
    found.await.expect("a leader is elected")
}

/// Every member has noted the term of the leader: one that has not can't do it while its disk stands still.
async fn all_reached(nodes: &BTreeMap<NodeId, Raft>, leader: NodeId) -> u64 {
    let reached = nodes[&leader].propose(Bytes::from_static(b"x")).await.unwrap().index;
    for raft in nodes.values() {
        raft.wait_applied(reached, Duration::from_secs(20)).await.unwrap();
    }
    nodes[&leader].status().term
}

async fn works_while_stalled(nodes: &BTreeMap<NodeId, Raft>, leader: NodeId, stalled: NodeId) {
    let term = all_reached(nodes, leader).await;
    let stop = nodes[&stalled].stall_disk();
    // Two seconds are more than three of the longest election timeouts.
    let end = tokio::time::Instant::now() + Duration::from_secs(2);
    let mut proposed = 0;
    while tokio::time::Instant::now() < end {
        nodes[&leader].propose(Bytes::from_static(b"x")).await.unwrap();
        nodes[&leader].read_index().await.unwrap();
        proposed += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(proposed > 20, "{proposed} proposals went through");
    for raft in nodes.values() {
        assert_eq!((raft.status().leader, raft.status().term), (Some(leader), term), "nobody stood for election");
    }
    drop(stop);
    let last = nodes[&leader].applied();
    nodes[&stalled].wait_applied(last, Duration::from_secs(20)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_and_reads_go_on_while_every_disk_stands_still() {
    let (_dir, nodes) = three().await;
    let leader = leader(&nodes).await;
    let term = all_reached(&nodes, leader).await;
    let stops: Vec<_> = nodes.values().map(Raft::stall_disk).collect();
    let proposer = nodes[&leader].clone();
    let waiting = tokio::spawn(async move { proposer.propose(Bytes::from_static(b"late")).await });
    let end = tokio::time::Instant::now() + Duration::from_secs(2);
    let mut read = 0;
    while tokio::time::Instant::now() < end {
        for raft in nodes.values() {
            raft.read_index().await.expect("a read needs no disk");
            read += 1;
        }
    }
    assert!(read > 60, "{read} reads in two seconds: they waited for something");
    for raft in nodes.values() {
        assert_eq!((raft.status().leader, raft.status().term), (Some(leader), term), "nobody stood for election");
    }
    assert!(!waiting.is_finished(), "nothing is acknowledged that is on no disk");
    drop(stops);
    waiting.await.unwrap().unwrap();
}

/// A member that is about to vote for somebody else, but whose disk has not taken the vote yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_votes_for_another_one_confirms_its_leader_no_more() {
    let (_dir, nodes) = three().await;
    let leader = leader(&nodes).await;
    let term = all_reached(&nodes, leader).await;
    let mut others = nodes.keys().copied().filter(|id| *id != leader);
    let (voter, candidate) = (others.next().unwrap(), others.next().unwrap());
    let (raft, local) = nodes[&leader].parts();
    let (vote, seat) = {
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.vote, metrics.membership_config.get_node(&voter).unwrap().clone())
    };
    let mut link = Link::open(&local, voter, &seat, Purpose::Heartbeat).await.unwrap();
    let heartbeat = || AppendEntriesRequest { vote, prev_log_id: None, leader_commit: None, entries: Vec::new() };
    assert!(ask(&mut link, heartbeat()).await.unwrap().is_ok());

    let stop = nodes[&voter].stall_disk();
    assert!(ask(&mut link, heartbeat()).await.unwrap().is_ok(), "the disk alone is no reason to be silent");
    let (of_voter, _) = nodes[&voter].parts();
    let last_log_id = Some(LogId::new(vote.leader_id, u64::MAX));
    let request = VoteRequest { vote: Vote::new(term + 1, candidate), last_log_id, leadership_transfer: true };
    let granted = tokio::spawn(async move { of_voter.vote(request).await });
    let until_silent = async { while ask(&mut link, heartbeat()).await.is_some() {} };
    timeout(Duration::from_secs(20), until_silent)
        .await
        .expect("it falls silent, though its disk has no other vote yet");
    assert!(!granted.is_finished());
    drop(stop);
    assert!(granted.await.unwrap().unwrap().vote_granted);
    let late = timeout(Duration::from_secs(20), link.wire.next()).await.unwrap().unwrap().unwrap();
    let late: AppendAnswer = frame::decode(&late).unwrap();
    assert!(matches!(late.result, Err(StreamAppendError::HigherVote(_))), "{:?}", late.result);
}

/// The answer to a heartbeat, unless it takes much longer than any that does not wait for a disk.
async fn ask(link: &mut Link, heartbeat: AppendEntriesRequest<Group>) -> Option<StreamAppendResult<Group>> {
    let number = link.next;
    link.next += 1;
    link.wire.send(frame::encode(&AppendAsk::Append(number, heartbeat)).unwrap()).await.unwrap();
    let frame = timeout(Duration::from_secs(2), link.wire.next()).await.ok()?;
    let answer: AppendAnswer = frame::decode(&frame?.unwrap()).unwrap();
    assert_eq!(answer.number, number);
    Some(answer.result)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_stands_still_costs_no_election() {
    let (_dir, nodes) = three().await;
    let leader = leader(&nodes).await;
    let follower = *nodes.keys().find(|id| **id != leader).unwrap();
    works_while_stalled(&nodes, leader, follower).await;
    // The leader's own disk counts for its own acknowledgement only: the other two are a majority.
    works_while_stalled(&nodes, leader, leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_lags_is_not_promoted_before_it_has_caught_up() {
    let (_dir, nodes, _) = three_and_more(1).await;
    let leader = &nodes[&leader(&nodes).await];
    leader.add_learner(4, "4").await.unwrap();
    leader.promote(77).await.unwrap_err();
    let reached = leader.applied();
    nodes[&4].wait_applied(reached, Duration::from_secs(20)).await.unwrap();
    let stop = nodes[&4].stall_disk();
    for _ in 0..50 {
        leader.propose(Bytes::from_static(b"x")).await.unwrap();
    }
    // A disk that stands still may keep it from answering at all.
    let refused = leader.promote(4).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Behind { id: 4, lag: 21.., .. } | ChangeError::Silent(4)), "{refused}");
    drop(stop);
    let promoted = timeout(Duration::from_secs(20), async {
        while let Err(e) = leader.promote(4).await {
            assert!(matches!(e, ChangeError::Behind { .. } | ChangeError::Silent(_)), "{e}");
        }
    });
    promoted.await.expect("it catches up and votes");
    assert_eq!(leader.status().quorum, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_left_half_done_is_completed_by_the_next_leader() {
    let (_dir, mut nodes, switch) = three_and_more(1).await;
    let first = leader(&nodes).await;
    nodes[&first].add_learner(4, "4").await.unwrap();
    let former = nodes[&first].clone();
    let _held = former.leave_half_done(&[&[1, 2, 3], &[1, 2, 3, 4]]).await;
    assert!(nodes[&first].status().joint);
    switch.0.lock().unwrap().remove(&first.to_string());
    nodes.remove(&first).unwrap().shutdown().await;
    let completed = timeout(Duration::from_secs(20), async {
        // Whoever leads next needs majorities of both, and then has four voters.
        while !nodes.values().any(|raft| {
            let status = raft.status();
            raft.leadership().borrow().is_some() && !status.joint && status.quorum == 3
        }) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    completed.await.expect("the next leader completes it");
}
