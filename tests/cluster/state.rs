//! The state as a whole: nodes agree on it, it can be saved while they serve, and what is wrong is found.

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{Cluster, Load, eventually};

/// A snapshot at every few entries, and little log behind it.
const OFTEN: [&str; 2] = ["--snapshot-every", "100"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_agree_after_installed_snapshots_and_restarts() {
    let mut cluster = Cluster::found(3);
    for id in 1..=3 {
        cluster.start_node_with(id, &OFTEN).await;
    }
    cluster.wait_ready().await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let load = Load::start(&nodes, 3);
    load.more(100).await;
    cluster.check().await;

    // One is away for so long that what it misses is purged.
    let away = cluster.follower().await;
    cluster.nodes.get_mut(&away).unwrap().kill();
    load.more(3000).await;
    cluster.nodes.get_mut(&away).unwrap().restart().await;
    cluster.wait_ready().await;
    let installed = eventually("the node that was away is told where the others are", async || {
        let metrics = cluster.http.text(&cluster.node(away).api(), "/metrics").await;
        let count =
            metrics.lines().find_map(|line| line.strip_prefix("switchboard_raft_snapshots_installed_total "))?;
        count.parse::<u64>().ok().filter(|count| *count > 0)
    })
    .await;
    println!("{installed} snapshots were installed");
    let under_load = cluster.check().await;
    assert_eq!(under_load["nodes"].as_array().unwrap().len(), 3);

    let users = load.finish().await;
    cluster.check().await;
    for node in cluster.nodes.values_mut() {
        node.kill();
    }
    for node in cluster.nodes.values_mut() {
        node.restart().await;
    }
    cluster.wait_ready().await;
    cluster.check().await;
    cluster.assert_all_online(&users).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_agree_is_found_and_named() {
    let mut cluster = Cluster::start(3, 1).await;
    let found = cluster.check().await;
    assert_eq!(found["cluster_id"].as_str().unwrap().len(), 16);
    let follower = cluster.follower().await;
    cluster.nodes.get_mut(&follower).unwrap().kill();
    let leader = cluster.leader().await;
    let api = cluster.node(leader).api();
    let done = cluster.verb(&["check", "--api", &api]).await;
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.err.contains(&format!("node {follower} does not answer")), "{done:?}");

    // The data directory of the one that is down is sound; that of one that runs is not touched.
    let dir = cluster.data_dir(follower).display().to_string();
    let before = files(&cluster.data_dir(follower));
    let done = cluster.verb(&["check", "--data-dir", &dir, "-o", "json"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let offline = done.json();
    assert_eq!((&offline["node"], &offline["cluster_id"]), (&json!(follower), &found["cluster_id"]));
    assert_eq!(offline["state"]["invariants"], "hold");
    let hash = cluster.http.get(&api, "/v1/cluster/hash").await.body;
    if hash["revision"] == offline["state"]["revision"] {
        assert_eq!(hash["sha256"], offline["state"]["sha256"]);
    }
    assert_eq!(files(&cluster.data_dir(follower)), before, "nothing was changed");
    let running = cluster.verb(&["check", "--data-dir", &cluster.data_dir(leader).display().to_string()]).await;
    assert!(running.code == 1 && running.err.contains("stop it first"), "{running:?}");

    // A torn write is told of and left; damage is named.
    let log = only_log(&cluster.data_dir(follower));
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 3]).unwrap();
    let torn = cluster.verb(&["check", "--data-dir", &dir, "-o", "json"]).await;
    assert!(torn.code == 0 && torn.json()["torn_bytes"].as_u64().unwrap() > 0, "{torn:?}");
    assert_eq!(std::fs::read(&log).unwrap().len(), whole.len() - 3);
    let mut damaged = whole.clone();
    damaged[300] ^= 4;
    std::fs::write(&log, &damaged).unwrap();
    let found = cluster.verb(&["check", "--data-dir", &dir]).await;
    assert!(found.code == 1 && found.err.contains("damaged at byte"), "{found:?}");
}

/// Every file below a directory with its bytes.
fn files(dir: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.clone(), std::fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn only_log(dir: &std::path::Path) -> std::path::PathBuf {
    let mut found = files(&dir.join("log")).into_iter().map(|(path, _)| path);
    found.find(|path| path.extension().is_some_and(|extension| extension == "wal")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_is_of_the_revision_that_was_asked_for() {
    let cluster = Cluster::start(3, 1).await;
    cluster.connect("gw-1", "alice").await;
    let api = cluster.node(cluster.follower().await).api();
    let now = cluster.http.get(&api, "/v1/cluster/hash?consistency=linearizable&check=true").await;
    assert_eq!((now.status, &now.body["invariants"]), (200, &json!("hold")), "{}", now.body);
    let revision = now.body["revision"].as_u64().unwrap();
    assert_eq!(now.headers["x-revision"], revision.to_string().as_str());
    assert_eq!(now.body["sha256"].as_str().unwrap().len(), 64);

    let later = format!("/v1/cluster/hash?revision={}&timeout_ms=20000", revision + 3);
    let (hash, ()) = tokio::join!(cluster.http.get(&api, &later), async {
        for user in ["bob", "carol", "dave"] {
            cluster.connect("gw-1", user).await;
        }
    });
    assert_eq!((hash.status, hash.body["revision"].as_u64()), (200, Some(revision + 3)), "{}", hash.body);
    let passed = cluster.http.get(&api, &format!("/v1/cluster/hash?revision={revision}")).await;
    assert_eq!((passed.status, &passed.body["error"]["code"]), (410, &json!("compacted")), "{}", passed.body);
    let never = cluster.http.get(&api, &format!("/v1/cluster/hash?revision={}&timeout_ms=50", revision + 1000)).await;
    assert_eq!(never.status, 504, "{}", never.body);

    for (method, path) in
        [(Method::GET, "/v1/cluster/hash"), (Method::POST, "/v1/cluster/snapshot"), (Method::GET, "/v1/cluster/backup")]
    {
        let gateway = cluster.gateway("gw-1").api();
        let answer = cluster.http.send(method, &gateway, path, &[], None).await.unwrap();
        assert_eq!((answer.status, &answer.body["error"]["code"]), (501, &json!("not_implemented")), "{path}");
    }
    let taken = cluster.http.post(&api, "/v1/cluster/snapshot", Value::Null).await;
    assert_eq!(taken.status, 200);
    assert!(taken.body["revision"].as_u64().unwrap() >= revision + 3, "{}", taken.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_saved_whole_or_not_at_all() {
    let mut cluster = Cluster::start(1, 1).await;
    for n in 0..20 {
        cluster.connect("gw-1", &format!("user-{n}")).await;
    }
    let (api, file) = (cluster.node(1).api(), cluster.file("backup"));
    let name = file.to_str().unwrap();
    // The gateway names the nodes.
    let gateway = cluster.gateway("gw-1").api();
    let saved = cluster.verb(&["snapshot", "save", name, "-o", "json", "--api", &gateway]).await;
    assert_eq!(saved.code, 0, "{saved:?}");
    let inspected = cluster.verb(&["snapshot", "inspect", name, "-o", "json"]).await;
    assert_eq!(inspected.code, 0, "{inspected:?}");
    let (saved, inspected) = (saved.json(), inspected.json());
    for field in ["revision", "cluster_id", "bytes"] {
        assert_eq!(saved[field], inspected[field], "{field}");
    }
    let hash = cluster.http.get(&api, "/v1/cluster/hash").await.body;
    if hash["revision"] == inspected["revision"] {
        assert_eq!(hash["sha256"], inspected["state"]["sha256"], "the hash of a backup is that of its state");
    }
    assert_eq!(inspected["cluster"], "switchboard");
    assert_eq!(inspected["state"]["invariants"], "hold");

    let again = cluster.verb(&["snapshot", "save", name, "--api", &api]).await;
    assert!(again.code == 2 && again.err.contains("--overwrite"), "{again:?}");
    let replaced = cluster.verb(&["snapshot", "save", name, "--overwrite", "--api", &api]).await;
    assert_eq!(replaced.code, 0, "{replaced:?}");

    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let cut = cluster.verb(&["snapshot", "inspect", name, "-o", "json"]).await;
    assert!(cut.code == 1 && cut.err.contains("ends early"), "{cut:?}");
    assert_eq!(cut.json()["cluster_id"], inspected["cluster_id"], "the head can be read");
    let refused =
        cluster.verb(&["snapshot", "restore", name, "--data-dir", cluster.file("never").to_str().unwrap()]).await;
    assert!(refused.code == 1 && !cluster.file("never").exists(), "{refused:?}");
    cluster.nodes.get_mut(&1).unwrap().kill();
    let gone = cluster.verb(&["snapshot", "save", cluster.file("none").to_str().unwrap(), "--api", &api]).await;
    assert!(gone.code == 1 && !cluster.file("none").exists(), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_gives_its_place_to_the_next() {
    let cluster = Cluster::start(1, 0).await;
    let api = cluster.node(1).api();
    let held =
        [cluster.http.lines(&api, "/v1/cluster/backup").await, cluster.http.lines(&api, "/v1/cluster/backup").await];
    drop(held);
    // Both places are free again as soon as the node has noticed, or has sent everything.
    eventually("there is a place", async || cluster.http.try_lines(&api, "/v1/cluster/backup").await.ok()).await;
}
