//! Data directories: whose they are, what damage does, and that nothing acknowledged is lost by a kill.

use std::path::PathBuf;

use switchboard_raft::*;

use crate::harness::{Cluster, PATIENCE, until};

async fn refused(cluster: &mut Cluster, settings: Settings) -> StartError {
    cluster.start_with(settings).await.expect_err("it must not start")
}

/// As refused with the settings that it had.
async fn refused_again(cluster: &mut Cluster) -> StartError {
    let settings = cluster.settings(1);
    refused(cluster, settings).await
}

async fn one_with_data() -> Cluster {
    let mut cluster = Cluster::new([1]);
    cluster.start(1).await;
    for i in 0..20 {
        cluster.set(&format!("r{i}"), "x").await;
    }
    cluster
}

/// The only file of a kind in a directory below the data directory.
fn only_file(cluster: &Cluster, below: &str, extension: &str) -> PathBuf {
    let files = std::fs::read_dir(cluster.data_dir(1).join(below)).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn flip(file: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 4;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_belongs_to_one_node_of_one_cluster() {
    let mut cluster = one_with_data().await;
    let in_use = refused_again(&mut cluster).await;
    assert!(matches!(in_use, StartError::InUse(_)), "{in_use}");
    cluster.stop(1).await;

    let mut other_cluster = cluster.settings(1);
    other_cluster.cluster = "other".to_owned();
    let foreign = refused(&mut cluster, other_cluster).await;
    assert!(matches!(&foreign, StartError::Foreign(what) if what.contains("\"test\"")), "{foreign}");

    let mut other_node = cluster.settings(1);
    other_node.id = 2;
    other_node.founders = [(2, Addresses::default())].into();
    let foreign = refused(&mut cluster, other_node).await;
    assert!(matches!(&foreign, StartError::Foreign(what) if what.contains("node 1")), "{foreign}");

    cluster.start(1).await;
    cluster.set("still", "here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_stays_with_its_engine() {
    for (first, second) in [(LogEngine::RaftLog, LogEngine::Sled), (LogEngine::Sled, LogEngine::RaftLog)] {
        let mut cluster = Cluster::new([1]);
        cluster.engine = first;
        cluster.start(1).await;
        cluster.set("x", "1").await;
        cluster.stop(1).await;
        let other = Settings { engine: second, ..cluster.settings(1) };
        let refused_as = |e: StartError| match e {
            StartError::Engine { found, asked, .. } => assert_eq!((found, asked), (first, second)),
            other => panic!("{other}"),
        };
        let told = refused(&mut cluster, other.clone()).await;
        assert!(told.to_string().contains(&format!("--log-engine {first}")), "{told}");
        refused_as(told);
        // Nor is a log passed over that an interrupted creation may have left behind.
        let identity = cluster.data_dir(1).join("identity");
        let bytes = std::fs::read(&identity).unwrap();
        std::fs::remove_file(&identity).unwrap();
        refused_as(refused(&mut cluster, other).await);
        std::fs::write(&identity, bytes).unwrap();
        cluster.start(1).await;
        cluster.set("still", "here").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_and_ends_the_start() {
    let mut cluster = one_with_data().await;
    cluster.raft(1).trigger_snapshot().await.unwrap();
    cluster.stop(1).await;
    let snapshot = only_file(&cluster, "snapshots", "snapshot");
    let log = only_file(&cluster, "log", "wal");
    let files = [(cluster.data_dir(1).join("identity"), 9), (snapshot.clone(), 60), (log.clone(), 200)];
    for (file, at) in &files {
        flip(file, *at);
        let error = refused_again(&mut cluster).await;
        let text = error.to_string();
        assert!(matches!(error, StartError::Damaged(_)), "{text}");
        assert!(text.contains(file.to_str().unwrap()) && text.contains("--join"), "{text}");
        flip(file, *at);
    }
    let aside = cluster.dir.path().join("aside");
    std::fs::rename(cluster.data_dir(1).join("log"), &aside).unwrap();
    let gone = refused_again(&mut cluster).await;
    assert!(matches!(gone, StartError::Damaged(_)), "{gone}");
    std::fs::remove_dir_all(cluster.data_dir(1).join("log")).unwrap();
    std::fs::rename(&aside, cluster.data_dir(1).join("log")).unwrap();
    cluster.start(1).await;
    cluster.leader().await;
    assert_eq!(cluster.machine(1).len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_writes_leave_nothing_behind() {
    let mut cluster = one_with_data().await;
    cluster.raft(1).trigger_snapshot().await.unwrap();
    cluster.set("more", "x").await;
    let newer = cluster.raft(1).trigger_snapshot().await.unwrap();
    let snapshot = only_file(&cluster, "snapshots", "snapshot");
    assert!(snapshot.to_str().unwrap().contains(&format!("{newer:020}")));
    cluster.stop(1).await;
    let leftover = snapshot.with_file_name("7.tmp");
    std::fs::write(&leftover, "half a snapshot").unwrap();
    std::fs::write(cluster.data_dir(1).join("identity.tmp"), "half an identity").unwrap();
    cluster.start(1).await;
    assert!(!leftover.exists());
    cluster.leader().await;
    assert_eq!(cluster.machine(1).restored(), 1);
    assert_eq!(cluster.machine(1).len(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_space_waits_writes_votes_and_can_be_stopped() {
    let mut cluster = one_with_data().await;
    cluster.stop(1).await;
    let mut settings = cluster.settings(1);
    // More than any disk has.
    settings.limits.disk_reserve_bytes = u64::MAX / 2;
    cluster.start_with(settings).await.unwrap();
    let raft = cluster.raft(1);
    until("its vote is written, and it leads", || (raft.status().role == Role::Leader).then_some(())).await;
    let refused = raft.propose(bytes::Bytes::from_static(b"x")).await.unwrap_err();
    assert!(matches!(&refused, ProposeError::NoSpace { node: 1, .. }), "{refused}");
    assert_eq!(refused.applied(), Applied::No);
    assert_eq!(*raft.leadership().borrow(), None, "its first entry waits for space");
    tokio::time::timeout(PATIENCE, cluster.stop(1)).await.expect("it does not wait for space when it is stopped");

    cluster.start(1).await;
    cluster.set("now", "there is space").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contradictory_settings_are_refused() {
    let mut cluster = Cluster::new([1]);
    let mut joins_and_founds = cluster.settings(1);
    joins_and_founds.join = true;
    assert!(matches!(refused(&mut cluster, joins_and_founds).await, StartError::Settings(_)));
    let mut no_gather = cluster.settings(1);
    no_gather.limits.flush_gather = std::time::Duration::ZERO;
    assert!(matches!(refused(&mut cluster, no_gather).await, StartError::Settings(_)));
}
