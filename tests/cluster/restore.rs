//! New clusters made of old states: gateways follow, clients keep their sockets, and nothing old is taken for something new.

use std::ops::RangeInclusive;

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{Cluster, Socket, eventually};

/// Below every revision of a restored cluster, above every one of its origin.
const BETWEEN: u64 = 1 << 39;

const ALL: &[(&str, &str)] = &[];

/// Waits for the new id of a client whose socket stays open.
async fn rebound(socket: &mut Socket) -> Value {
    loop {
        let frame = socket.next().await.unwrap_or_else(|close| panic!("closed: {close:?}"));
        assert_eq!(frame["type"], "rebound", "{frame}");
        if frame["epoch"].as_u64().unwrap() > BETWEEN {
            return frame;
        }
    }
}

/// Everything that is old is refused as such, by every process.
async fn assert_old_is_gone(cluster: &Cluster, session: &str, connection: &str, revision: u64) {
    for api in cluster.apis() {
        let renew = format!("/v1/sessions/{session}/renew");
        let renewed = cluster.http.send(Method::PUT, &api, &renew, ALL, Some(&json!({}))).await.unwrap();
        assert_eq!((renewed.status, &renewed.body["error"]["code"]), (410, &json!("gone")), "{}", renewed.body);
        let ops = json!({ "ops": [{ "op": "register", "serial": 900, "user": "ghost" }] });
        let batch = cluster.http.post(&api, &format!("/v1/sessions/{session}/batch"), ops).await;
        assert_eq!((batch.status, &batch.body["error"]["code"]), (412, &json!("fenced")), "{}", batch.body);
        let pushed = cluster.http.post(&api, &format!("/v1/connections/{connection}/push"), json!({ "data": 1 })).await;
        assert_eq!((pushed.status, &pushed.body["error"]["code"]), (404, &json!("offline")), "{}", pushed.body);
        let watch = cluster.http.get(&api, &format!("/v1/watch?from_revision={revision}")).await;
        assert_eq!((watch.status, &watch.body["error"]["code"]), (410, &json!("compacted")), "{}", watch.body);
        assert!(watch.body["oldest_revision"].as_u64().unwrap() > BETWEEN, "{}", watch.body);
    }
}

async fn open_session(cluster: &Cluster) -> (String, String, u64) {
    let api = cluster.node(1).api();
    let open = json!({ "gateway": "own", "nonce": "n", "lease_ms": 60_000 });
    let session = cluster.http.post(&api, "/v1/sessions", open).await.body["session"].as_str().unwrap().to_owned();
    let ops = json!({ "seq": 1, "ops": [{ "op": "register", "serial": 1, "user": "service" }] });
    let done = cluster.http.post(&api, &format!("/v1/sessions/{session}/batch"), ops).await.body;
    let connection = done["results"][0]["connection"].as_str().unwrap().to_owned();
    (session, connection, done["revision"].as_u64().unwrap())
}

async fn cluster_id(cluster: &Cluster, api: &str) -> Value {
    cluster.http.get(api, "/v1/info").await.body["cluster_id"].clone()
}

/// Restores into node 1's place and starts it.
async fn restart_from(cluster: &mut Cluster, file: &str) -> Value {
    cluster.node(1).terminate();
    assert_eq!(cluster.nodes.get_mut(&1).unwrap().ended().await, 0);
    let dir = cluster.data_dir(1);
    let name = dir.to_str().unwrap();
    let occupied = cluster.verb(&["snapshot", "restore", file, "--data-dir", name]).await;
    assert!(occupied.code == 1 && occupied.err.contains("not empty"), "{occupied:?}");
    std::fs::rename(&dir, cluster.file("old")).unwrap();
    let restored = cluster.verb(&["snapshot", "restore", file, "--data-dir", name, "-o", "json"]).await;
    assert_eq!(restored.code, 0, "{restored:?}");
    cluster.start_node(1).await;
    restored.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_cluster_takes_over_and_clients_keep_their_sockets() {
    let mut cluster = Cluster::start(1, 2).await;
    let (session, connection, revision) = open_session(&cluster).await;
    let mut clients = Vec::new();
    for n in 0..6 {
        clients.push(cluster.connect(&format!("gw-{}", 1 + n % 2), &format!("user-{n}")).await);
    }
    let old_id = cluster_id(&cluster, &cluster.node(1).api()).await;
    assert_eq!(cluster_id(&cluster, &cluster.gateway("gw-1").api()).await, old_id);
    let file = cluster.file("backup").to_str().unwrap().to_owned();
    assert_eq!(cluster.verb(&["snapshot", "save", &file, "--api", &cluster.node(1).api()]).await.code, 0);
    // What comes after the backup is unknown to the restored directory, but not to the gateway that holds the socket.
    clients.push(cluster.connect("gw-1", "user-6").await);

    let begun = restart_from(&mut cluster, &file).await;
    assert_eq!(begun["old_cluster_id"], old_id);
    assert!(begun["connections_ended"].as_u64().unwrap() >= 7, "{begun}");
    for socket in &mut clients {
        let old = socket.id.clone();
        let frame = rebound(socket).await;
        assert_ne!(frame["connection"], old.as_str());
        let api = cluster.gateway("gw-2").api();
        let late = cluster.http.post(&api, &format!("/v1/connections/{old}/push"), json!({ "data": "late" })).await;
        assert_ne!(late.body["outcome"], "delivered", "nothing is delivered under an old id: {}", late.body);
    }
    cluster.wait_ready().await;
    for (n, socket) in clients.iter_mut().enumerate() {
        let pushed =
            cluster.http.post(&cluster.node(1).api(), &format!("/v1/users/user-{n}/push"), json!({ "data": n })).await;
        assert_eq!(pushed.body["outcome"], "delivered", "{}", pushed.body);
        assert_eq!(socket.expect_push().await, n, "and nothing else came before");
    }
    assert_old_is_gone(&cluster, &session, &connection, revision).await;
    for api in cluster.apis() {
        assert_eq!(cluster_id(&cluster, &api).await, begun["cluster_id"], "{api}");
    }
    cluster.check().await;
    assert!(cluster.gateway("gw-1").log().contains("another cluster than before"));

    // It is a cluster like any other: it grows, restarts, and can be restored once more.
    cluster.join(2, "voter").await;
    let found = cluster.check().await;
    assert_eq!((found["nodes"].as_array().unwrap().len(), &found["cluster_id"]), (2, &begun["cluster_id"]));
    cluster.nodes.get_mut(&1).unwrap().kill();
    cluster.nodes.get_mut(&1).unwrap().restart().await;
    cluster.wait_ready().await;
    let again =
        cluster.verb(&["snapshot", "save", &file, "--overwrite", "-o", "json", "--api", &cluster.node(1).api()]).await;
    assert_eq!(again.json()["cluster_id"], begun["cluster_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_survivor_of_a_lost_majority_becomes_a_new_cluster() {
    let mut cluster = Cluster::start(3, 1).await;
    let (session, connection, revision) = open_session(&cluster).await;
    let mut client = cluster.connect("gw-1", "stays").await;
    // Everything is on the survivor before the others are lost.
    let survivor = cluster.node(3).api();
    cluster.user(&survivor, "stays").await;
    for node in cluster.nodes.values_mut() {
        node.kill();
    }
    let (old, new) = (cluster.data_dir(3), cluster.file("new"));
    let words = ["force-new-cluster", "--data-dir", old.to_str().unwrap(), "--into", new.to_str().unwrap()];
    let warned = cluster.verb(&words).await;
    assert!(warned.code == 2 && warned.err.contains("--accept-loss") && !new.exists(), "{warned:?}");
    assert!(warned.out.contains("known to be committed up to"), "{warned:?}");
    let forced = cluster.verb(&[&words[..], &["--accept-loss", "-o", "json"]].concat()).await;
    assert_eq!(forced.code, 0, "{forced:?}");
    let forced = forced.json();
    assert!(forced["found"]["log"][1].as_u64() >= Some(revision), "{forced}");
    assert_eq!(forced["new"]["connections_ended"], 2, "{forced}");

    std::fs::rename(&old, cluster.file("old")).unwrap();
    std::fs::rename(&new, &old).unwrap();
    let alone: RangeInclusive<u64> = 3..=3;
    cluster.start_node_of(3, alone, &[]).await;
    rebound(&mut client).await;
    cluster.wait_ready().await;
    let api = cluster.gateway("gw-1").api();
    let follows = async || {
        let known = cluster.http.try_get(&api, "/v1/users/stays").await?;
        (known.body["online"] == true).then_some(())
    };
    eventually("the gateway follows the new cluster", follows).await;
    assert_old_is_gone(&cluster, &session, &connection, revision).await;
    cluster.check().await;

    // A former member that is started all the same is not followed.
    cluster.nodes.get_mut(&2).unwrap().restart().await;
    assert_eq!(cluster.user(&api, "stays").await["online"], true);
    let disagree = cluster.verb(&["check", "--api", &cluster.node(3).api()]).await;
    assert_eq!(disagree.code, 0, "the new cluster does not know of it: {disagree:?}");
}
