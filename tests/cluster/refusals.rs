//! Nodes that are given the wrong data, the wrong name or the wrong place refuse, and say what to do.

use std::path::{Path, PathBuf};

use crate::harness::{Cluster, Load, eventually};

/// The program with these arguments ends: its exit code and what it says.
async fn refused(cluster: &Cluster, arguments: &[String]) -> (i32, String) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, out, err) = cluster.run(&arguments).await;
    assert_eq!(out, "", "it never said that it is ready");
    let last = err.lines().rfind(|line| line.starts_with("switchboard: ")).unwrap_or_else(|| panic!("{code}: {err}"));
    (code, last.to_owned())
}

fn with(arguments: &[String], flag: &str, value: &str) -> Vec<String> {
    let mut arguments = arguments.to_vec();
    match arguments.iter().position(|argument| argument == flag) {
        Some(at) => value.clone_into(&mut arguments[at + 1]),
        None => arguments.extend([flag.to_owned(), value.to_owned()]),
    }
    arguments
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The largest file below a directory.
fn largest(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|file| file.metadata().unwrap().len()).unwrap()
}

/// Changes one bit in the middle of a file.
fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// A cluster of one node with a log and a snapshot, stopped.
async fn stopped() -> Cluster {
    let mut cluster = Cluster::found(1);
    cluster.start_node_with(1, &["--snapshot-every", "100"]).await;
    cluster.wait_ready().await;
    let load = Load::start(&cluster.apis(), 8);
    let snapshots = cluster.data_dir(1).join("snapshots");
    eventually("there is a snapshot", async || {
        load.more(100).await;
        std::fs::read_dir(&snapshots).ok()?.next().map(drop)
    })
    .await;
    load.more(200).await;
    load.finish().await;
    let node = cluster.nodes.get_mut(&1).unwrap();
    node.terminate();
    assert_eq!(node.ended().await, 0);
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_serves_its_own_node_and_cluster_only_and_one_process_at_a_time() {
    let mut cluster = Cluster::start(1, 0).await;
    let own = cluster.node_arguments(1);
    let dir = cluster.data_dir(1).display().to_string();
    let (code, why) = refused(&cluster, &own).await;
    assert!(code == 1 && why.contains("use"), "while it runs: {why}");
    cluster.nodes.get_mut(&1).unwrap().kill();
    cluster.nodes.clear();

    let (code, why) = refused(&cluster, &with(&own, "--cluster", "other")).await;
    assert!(code == 1 && why.contains(&dir) && why.contains("\"other\"") && why.contains("--join"), "{why}");
    let renamed = with(&with(&own, "--id", "2"), "--peers", &format!("2={}", cluster.peer(1)));
    let (code, why) = refused(&cluster, &renamed).await;
    assert!(code == 1 && why.contains(&dir) && why.contains("node 1") && why.contains("node 2"), "{why}");
    let both: Vec<String> = own.iter().cloned().chain(["--join".to_owned()]).collect();
    let (code, why) = refused(&cluster, &both).await;
    assert!(code == 2 && why.contains("--join"), "{why}");
    cluster.start_node(1).await;
    cluster.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_by_file_and_place_and_nothing_starts_on_it() {
    let cluster = stopped().await;
    let (own, dir) = (cluster.node_arguments(1), cluster.data_dir(1));
    let pristine = dir.with_extension("pristine");
    copy(&dir, &pristine);
    let log = largest(&dir.join("log"));
    let cases =
        [(log.clone(), Some("at byte ")), (largest(&dir.join("snapshots")), None), (dir.join("identity"), None)];
    for (file, place) in &cases {
        flip(file);
        let (code, why) = refused(&cluster, &own).await;
        assert_eq!(code, 1, "{why}");
        let file = file.display().to_string();
        for expected in [&*file, "--join", "new id", place.unwrap_or_default()] {
            assert!(why.contains(expected), "{expected}: {why}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
        copy(&pristine, &dir);
    }
    // A part that is missing.
    for missing in [log.clone(), dir.join("identity")] {
        std::fs::remove_file(&missing).unwrap();
        let (code, why) = refused(&cluster, &own).await;
        assert!(
            code == 1 && why.contains(&dir.display().to_string()) && why.contains("--join"),
            "{}: {why}",
            missing.display()
        );
        std::fs::remove_dir_all(&dir).unwrap();
        copy(&pristine, &dir);
    }
    // What was copied back whole starts as if nothing had been.
    let mut cluster = cluster;
    cluster.nodes.get_mut(&1).unwrap().restart().await;
    cluster.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_directory_does_not_run_beside_the_original() {
    let mut cluster = Cluster::start(3, 0).await;
    let copied = cluster.data_dir(3).with_extension("copy");
    cluster.nodes.get_mut(&3).unwrap().kill();
    copy(&cluster.data_dir(3), &copied);
    cluster.nodes.get_mut(&3).unwrap().restart().await;
    cluster.wait_ready().await;
    let elsewhere = cluster.peer(9);
    let (mut arguments, own) = (cluster.node_arguments(3), cluster.peer(3));
    for (flag, value) in [
        ("--data-dir", &*copied.display().to_string()),
        ("--listen-peer", &*elsewhere),
        ("--listen-api", &*elsewhere.replace("7200", "7100")),
        ("--advertise-peer", &*elsewhere),
    ] {
        arguments = with(&arguments, flag, value);
    }
    let (code, why) = refused(&cluster, &arguments).await;
    assert!(code == 1 && why.contains(&own) && why.contains("copy") && why.contains("node 3"), "{why}");
    cluster.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_that_do_not_fit_together_say_so() {
    let mut cluster = Cluster::found(3);
    cluster.start_node(1).await;
    cluster.start_node_with(2, &["--cluster", "other"]).await;
    for (id, other) in [(1, "other"), (2, "switchboard")] {
        let api = cluster.node(id).api();
        eventually("it says that the names differ", async || {
            let answer = cluster.http.try_get(&api, "/readyz").await?;
            let why = answer.body["error"]["message"].as_str()?;
            (answer.status == 503 && why.contains("--cluster") && why.contains(&format!("{other:?}"))).then_some(())
        })
        .await;
    }
    // Corrected, the cluster begins.
    cluster.nodes.get_mut(&2).unwrap().kill();
    std::fs::remove_dir_all(cluster.data_dir(2)).unwrap();
    cluster.start_node(2).await;
    cluster.start_node(3).await;
    cluster.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_directory_does_not_come_back_under_its_id_by_joining() {
    let mut cluster = Cluster::start(3, 0).await;
    let lost = cluster.follower().await;
    cluster.nodes.get_mut(&lost).unwrap().kill();
    std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    cluster.nodes.remove(&lost);
    let mut arguments = cluster.node_arguments(lost);
    let peers = arguments.iter().position(|argument| argument == "--peers").unwrap();
    arguments.splice(peers..peers + 2, ["--join".to_owned()]);
    let wiped = crate::harness::Process::start(&arguments, &cluster.data_dir(lost).with_extension("log")).await;
    eventually("it learns that the id is known", async || {
        let answer = cluster.http.try_get(&wiped.api(), "/readyz").await?;
        answer.body["error"]["message"].as_str()?.contains("new id").then_some(())
    })
    .await;
    let (code, _, err) = cluster.run(&["members", "add", &lost.to_string(), &cluster.peer(lost)]).await;
    assert!(code == 1 && err.contains("never used again"), "{err}");
    // The way out: it is removed, and comes back under another id.
    cluster.remove(lost).await;
    drop(wiped);
    cluster.join(4, "voter").await;
    cluster.wait_ready().await;
}
