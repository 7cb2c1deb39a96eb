//! Disks that fail, fill up or stand still, under real processes.

use crate::harness::{Cluster, Load};

/// What a node says when its disk failed: where, what, and what to do.
fn assert_says(log: &str, place: &str) {
    let last = log.lines().rev().find(|line| line.starts_with("switchboard: ")).unwrap_or_default();
    for word in [place, "Input/output error", "start this node again"] {
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
    for (whose, rule) in [
        (Whose::Leader, "fsync eio"),
        (Whose::Follower, "fsync eio"),
        (Whose::Leader, "write eio"),
        (Whose::Follower, "write eio"),
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
        assert_says(&node.log(), &format!("node-{id}/log"));
        assert_eq!(disk.failed().len(), 1, "{rule}: it is not tried again");
        load.more(100).await;
        disk.heal();
        cluster.nodes.get_mut(&id).unwrap().restart().await;
        cluster.wait_ready().await;
    }
    cluster.assert_all_online(&load.finish().await).await;

    let user = cluster.user(&cluster.gateway("gw-1").api(), "stays").await;
    assert_eq!(user["connections"][0]["id"], client.id, "the gateway was not fenced");
    cluster.http.post(&nodes[0], "/v1/users/stays/push", serde_json::json!({ "data": "still here" })).await;
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
        assert_says(&node.log(), &format!("node-{id}/snapshots"));
        // So long that the others have purged what it misses: it comes back by a snapshot of theirs.
        load.more(2000).await;
        node.restart().await;
        let node = cluster.nodes.get_mut(&id).unwrap();
        assert_eq!(node.ended().await, 1, "{rule}, of one that is received");
        assert_says(&node.log(), &format!("node-{id}/snapshots"));
        cluster.disk(id).heal();
        cluster.nodes.get_mut(&id).unwrap().restart().await;
        cluster.wait_ready().await;
    }
    cluster.assert_all_online(&load.finish().await).await;
}
