//! Disks without space: new writes are refused early, everything else goes on, and nobody has to be restarted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Cluster, Disk, Load, eventually, within};

/// The reserve of the nodes here: 1 MiB.
const RESERVE: &[&str] = &["--disk-reserve", "1MiB"];
/// Less than the reserve, enough for what is essential.
const SHORT: &str = "space 600000";
/// Not even enough for that.
const EXHAUSTED: &str = "space 200000";

/// Asks any node to open a session, which is a new write.
async fn write(cluster: &Cluster, name: &str) -> Answer {
    let api = cluster.nodes.values().find(|node| node.is_running()).unwrap().api();
    let open = json!({ "gateway": name, "nonce": "n", "lease_ms": 60_000 });
    cluster.http.post(&api, "/v1/sessions", open).await
}

/// Waits until a new write is refused for lack of space; the message.
async fn refused(cluster: &Cluster) -> String {
    let mut nth = 0;
    let body = eventually("new writes are refused", async || {
        nth += 1;
        let answer = write(cluster, &format!("refused-{nth}")).await;
        (answer.status == 503).then_some(answer.body)
    })
    .await;
    let error = &body["error"];
    assert_eq!(
        (&error["code"], &error["temporary"], &error["applied"]),
        (&json!("unavailable"), &json!(true), &json!("no")),
        "{body}"
    );
    error["message"].as_str().unwrap().to_owned()
}

async fn applied(cluster: &Cluster, id: u64) -> u64 {
    cluster.http.get(&cluster.node(id).api(), "/v1/cluster").await.body["applied"].as_u64().unwrap()
}

fn disks(cluster: &Cluster) -> Vec<Disk> {
    cluster.nodes.keys().map(|id| cluster.disk(*id)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_space_new_writes_are_refused_and_all_else_goes_on() {
    let mut cluster = Cluster::on_failing_disks(3);
    cluster.start_all(RESERVE, 2).await;
    let mut stays = cluster.connect("gw-1", "stays").await;
    cluster.connect("gw-2", "goes").await;
    let ended = write(&cluster, "ends").await.body["session"].as_str().unwrap().to_owned();
    let leader = cluster.leader().await;

    disks(&cluster).iter().for_each(|disk| disk.obey(SHORT));
    let message = refused(&cluster).await;
    let dir = cluster.data_dir(leader);
    for word in [&format!("node {leader} "), dir.to_str().unwrap(), " 598016 bytes", "1048576", "free some"] {
        assert!(message.contains(word), "{word:?} is missing in {message:?}");
    }

    // Those who look after it are told.
    let api = cluster.node(leader).api();
    let ready = cluster.http.get(&api, "/readyz").await;
    assert!(ready.status == 200 && ready.body["warning"].as_str().unwrap().contains("598016"), "{}", ready.body);
    let group = cluster.http.get(&api, "/v1/cluster").await.body;
    assert!(group["members"].as_array().unwrap().iter().all(|m| m["short_of_space"] == 598_016), "{group}");
    eventually("the metrics tell", async || {
        let refusing = cluster.metric(&api, "switchboard_disk_refusing").await;
        (refusing == 1.0 && cluster.metric(&api, "switchboard_disk_free_bytes").await == 598_016.0).then_some(())
    })
    .await;

    // Reads, pushes and renewals need no space; endings are let into the reserve.
    let before = cluster.renewals().await;
    cluster.gateways.get_mut("gw-2").unwrap().kill();
    let end = format!("/v1/sessions/{ended}");
    assert_eq!(cluster.http.send(Method::DELETE, &api, &end, &[], None).await.unwrap().status, 204);
    within(Duration::from_secs(10), "the killed gateway's lease runs out", async || {
        (cluster.user(&api, "goes").await["online"] == false).then_some(())
    })
    .await;
    for api in cluster.apis() {
        assert_eq!(cluster.user(&api, "stays").await["connections"][0]["id"], stays.id);
        let cached = cluster.http.get(&api, "/v1/users/stays?consistency=cached&max_stale_ms=5000").await;
        assert_eq!((cached.status, &cached.body["online"]), (200, &json!(true)));
    }
    cluster.http.post(&api, "/v1/users/stays/push", json!({ "data": "still here" })).await;
    assert_eq!(stays.expect_push().await, "still here");
    eventually("the lease of the other one is renewed", async || {
        (cluster.renewals().await >= before + 4.0).then_some(())
    })
    .await;

    disks(&cluster).iter().for_each(Disk::heal);
    eventually("new writes are taken again", async || (write(&cluster, "taken").await.status == 201).then_some(()))
        .await;
    assert_eq!(cluster.leader().await, leader, "nobody had more space, so nobody took over");
    assert!(cluster.http.get(&api, "/readyz").await.body.get("warning").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_space_hands_over_to_a_node_that_has_it() {
    let mut cluster = Cluster::on_failing_disks(3);
    cluster.start_all(RESERVE, 0).await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let load = Load::start(&nodes, 2);
    load.more(50).await;
    let first = cluster.leader().await;
    cluster.disk(first).obey(SHORT);
    let second = eventually("another one leads", async || {
        let leader = cluster.leader().await;
        (leader != first).then_some(leader)
    })
    .await;
    load.more(200).await;

    // It is the only one that has space, and not enough of a majority: what nobody could commit is refused.
    let third = 6 - first - second;
    cluster.disk(third).obey(SHORT);
    let message = refused(&cluster).await;
    assert!(message.contains(&format!("node {} ", first.min(third))), "{message}");
    assert_eq!(cluster.leader().await, second);

    // Nobody who has space is left, and a leader is still found.
    cluster.disk(second).obey(SHORT);
    cluster.nodes.get_mut(&second).unwrap().kill();
    let last = cluster.leader().await;
    assert_ne!(last, second);
    eventually("reads go on", async || {
        (cluster.http.get(&cluster.node(last).api(), "/v1/users/w0-1-0").await.status == 200).then_some(())
    })
    .await;
    disks(&cluster).iter().for_each(Disk::heal);
    load.more(50).await;
    cluster.nodes.get_mut(&second).unwrap().restart().await;
    cluster.wait_ready().await;
    cluster.assert_all_online(&load.finish().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_any_space_waits_and_catches_up() {
    let mut cluster = Cluster::on_failing_disks(3);
    cluster.start_all(&[RESERVE, &["--snapshot-every", "100"]].concat(), 0).await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let load = Load::start(&nodes, 2);
    load.more(50).await;
    cluster.disk(follower).obey(EXHAUSTED);
    let stuck = eventually("it takes nothing more", async || {
        let before = applied(&cluster, follower).await;
        load.more(100).await;
        (applied(&cluster, follower).await == before).then_some(before)
    })
    .await;
    // Far enough that only a snapshot brings it back.
    load.more(2000).await;
    assert_eq!(applied(&cluster, follower).await, stuck);
    assert_eq!(cluster.leader().await, leader, "heartbeats go on, so nobody stands for election");

    cluster.disk(follower).heal();
    let users = load.finish().await;
    let goal = applied(&cluster, leader).await;
    eventually("it has caught up", async || (applied(&cluster, follower).await >= goal).then_some(())).await;
    cluster.assert_all_online(&users).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_finds_no_space_is_given_up_and_taken_later() {
    let mut cluster = Cluster::on_failing_disks(1);
    cluster.start_all(&["--snapshot-every", "100"], 0).await;
    let api = cluster.node(1).api();
    cluster.disk(1).obey("write enospc in snapshots");
    let load = Load::start(std::slice::from_ref(&api), 2);
    eventually("a snapshot is given up", async || {
        cluster.node(1).log().contains("no space for a snapshot").then_some(())
    })
    .await;
    load.more(100).await;
    let snapshots = cluster.data_dir(1).join("snapshots");
    let files = || std::fs::read_dir(&snapshots).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>();
    let is_whole = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "snapshot");
    assert!(!files().iter().any(is_whole));
    cluster.disk(1).heal();
    eventually("it is taken", async || files().iter().any(is_whole).then_some(())).await;
    cluster.assert_all_online(&load.finish().await).await;
}

/// A small disk for everything below a directory. It is gone with this.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None` where this process may not mount anything.
    fn mount(on: &'a Path, size: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(on).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(on))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_filled_by_writes_never_becomes_full() {
    let mut cluster = Cluster::on_failing_disks(3);
    let place = cluster.data().to_owned();
    let Some(_disk) = SmallDisk::mount(&place, "size=12m") else {
        eprintln!("not tested: only root may mount a small disk");
        return;
    };
    let ballast = place.join("ballast");
    std::fs::write(&ballast, vec![0; 4 << 20]).unwrap();
    cluster.start_all(RESERVE, 0).await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let load = Load::start(&nodes, 4);
    let filler = Filler::start(&cluster).await;
    let message = refused(&cluster).await;
    assert!(message.contains(place.to_str().unwrap()), "{message}");
    assert!(filler.fill(&cluster).await >= 400, "everything is refused");
    std::fs::remove_file(&ballast).unwrap();
    load.more(50).await;
    assert!(cluster.nodes.values_mut().all(|node| node.still_runs()), "nobody ended");
    cluster.assert_all_online(&load.finish().await).await;
}

/// A session whose large metadata fill the disk.
struct Filler(String);

impl Filler {
    async fn start(cluster: &Cluster) -> Self {
        let session = write(cluster, "filler").await.body["session"].as_str().unwrap().to_owned();
        let filler = Self(session);
        while filler.fill(cluster).await == 200 {}
        filler
    }

    /// Registers one connection with as much as it may carry; the status of the answer.
    async fn fill(&self, cluster: &Cluster) -> u16 {
        static SERIALS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let ops: Vec<Value> = (0..64)
            .map(|_| {
                let serial = SERIALS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let meta = json!({ "x": "x".repeat(4000) });
                json!({ "op": "register", "serial": serial, "user": format!("filler-{serial}"), "meta": meta })
            })
            .collect();
        let path = format!("/v1/sessions/{}/batch", self.0);
        let api = cluster.nodes.values().next().unwrap().api();
        cluster.http.try_post(&api, &path, &json!({ "ops": ops })).await.map_or(0, |answer| answer.status)
    }
}
