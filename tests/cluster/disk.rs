//! Disks that fail, fill up or stand still, under real processes.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::harness::{Cluster, Load, eventually};

/// What a node says when its disk failed: where, what, and what to do.
fn assert_says(log: &str, place: &str, what: &str) {
    let last = log.lines().rev().find(|line| line.starts_with("switchboard: ")).unwrap_or_default();
    for word in [place, what, "start this node again"] {
        assert!(last.contains(word), "{word:?} is missing in what it said last: {last:?}");
    }
}

/// Which node a fault hits.
#[derive(Clone, Copy)]
enum Whose {
    Leader,
    Follower,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_once_ends_its_node_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::on_failing_disks(3);
    cluster.start_all(&[], 1).await;
    let mut client = cluster.connect("gw-1", "stays").await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let load = Load::start(&nodes, 4);
    let (broken, full) = ("Input/output error", "No space left on device (os error 28). Free some space there");
    for (whose, rule, what) in [
        (Whose::Leader, "fsync eio", broken),
        (Whose::Follower, "fsync eio", broken),
        (Whose::Leader, "write eio", broken),
        (Whose::Follower, "write eio", broken),
        (Whose::Leader, "write enospc", full),
    ] {
        load.more(100).await;
        let id = match whose {
            Whose::Leader => cluster.leader().await,
            Whose::Follower => cluster.follower().await,
        };
        let disk = cluster.disk(id);
        disk.obey(rule);
        let node = cluster.nodes.get_mut(&id).unwrap();
        assert_eq!(node.ended().await, 1, "{rule}");
        assert_says(&node.log(), &format!("node-{id}/log"), what);
        assert_eq!(disk.failed().len(), 1, "{rule}: it is not tried again");
        load.more(100).await;
        disk.heal();
        cluster.nodes.get_mut(&id).unwrap().restart().await;
        cluster.wait_ready().await;
    }
    cluster.assert_all_online(&load.finish().await).await;

    let user = cluster.user(&cluster.gateway("gw-1").api(), "stays").await;
    assert_eq!(user["connections"][0]["id"], client.id, "the gateway was not fenced");
    cluster.http.post(&nodes[0], "/v1/users/stays/push", json!({ "data": "still here" })).await;
    assert_eq!(client.expect_push().await, "still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_for_snapshots_ends_its_node_too() {
    let mut cluster = Cluster::on_failing_disks(3);
    cluster.start_all(&["--snapshot-every", "100"], 0).await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let load = Load::start(&nodes, 4);
    for (rule, whose) in [("fsync eio in snapshots", Whose::Follower), ("write eio in snapshots", Whose::Leader)] {
        let id = match whose {
            Whose::Leader => cluster.leader().await,
            Whose::Follower => cluster.follower().await,
        };
        cluster.disk(id).obey(rule);
        let node = cluster.nodes.get_mut(&id).unwrap();
        assert_eq!(node.ended().await, 1, "{rule}");
        assert_says(&node.log(), &format!("node-{id}/snapshots"), "Input/output error");
        // So long that the others have purged what it misses: it comes back by a snapshot of theirs.
        load.more(2000).await;
        node.restart().await;
        let node = cluster.nodes.get_mut(&id).unwrap();
        assert_eq!(node.ended().await, 1, "{rule}, of one that is received");
        assert_says(&node.log(), &format!("node-{id}/snapshots"), "Input/output error");
        cluster.disk(id).heal();
        cluster.nodes.get_mut(&id).unwrap().restart().await;
        cluster.wait_ready().await;
    }
    cluster.assert_all_online(&load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disks_delay_commits_and_neither_heartbeats_nor_renewals() {
    let mut cluster = Cluster::on_failing_disks(3);
    cluster.start_all(&[], 2).await;
    let mut client = cluster.connect("gw-1", "stays").await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let load = Load::start(&nodes, 2);
    load.more(50).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let term = cluster.http.get(&nodes[0], "/v1/cluster").await.body["term"].as_u64().unwrap();
    for (whose, slow) in [(vec![leader], 700), (vec![follower], 700), (vec![1, 2, 3], 700), (vec![1, 2, 3], 1500)] {
        whose.iter().for_each(|id| cluster.disk(*id).obey(&format!("fsync delay {slow}")));
        // Both gateways renew five times a lease: this takes three seconds.
        let before = cluster.renewals().await;
        let began = Instant::now();
        eventually("leases are renewed", async || (cluster.renewals().await >= before + 10.0).then_some(())).await;
        assert!(began.elapsed() < Duration::from_secs(7), "in twice their time: {:?}", began.elapsed());
        if whose.len() == 3 {
            // An entry is acknowledged when it is on disk, and so is every other.
            let began = Instant::now();
            let session = json!({ "gateway": format!("gw-slow-{slow}"), "nonce": "n", "lease_ms": 60_000 });
            cluster.http.post(&nodes[0], "/v1/sessions", session).await;
            assert!(began.elapsed() >= Duration::from_millis(slow), "acknowledged after {:?}", began.elapsed());
        }
        whose.iter().for_each(|id| cluster.disk(*id).heal());
        load.more(20).await;
    }
    let group = cluster.http.get(&nodes[0], "/v1/cluster").await.body;
    assert_eq!((&group["leader"], &group["term"]), (&json!(leader), &json!(term)), "nobody stood for election");
    for gateway in cluster.gateways.values() {
        assert_eq!(cluster.metric(&gateway.api(), "switchboard_gateway_self_fenced_total").await, 0.0);
    }
    for node in &nodes {
        assert_eq!(cluster.metric(node, "switchboard_session_expirations_total").await, 0.0);
    }
    cluster.http.post(&nodes[0], "/v1/users/stays/push", json!({ "data": "still here" })).await;
    assert_eq!(client.expect_push().await, "still here");
    cluster.assert_all_online(&load.finish().await).await;
}
