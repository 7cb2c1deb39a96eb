//! Backups, and new clusters that begin with an old state.

use std::fs;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use switchboard_raft::*;

use crate::harness::{Cluster, copy_all};
use crate::register::Registers;

/// Far above what the tests write.
const BASE: u64 = 1 << 40;
const NEW_ID: u64 = 0xfeed;

async fn one_with_data() -> Cluster {
    let mut cluster = Cluster::new([1]);
    cluster.start(1).await;
    for i in 0..20 {
        cluster.set(&format!("r{i}"), "x").await;
    }
    cluster
}

/// A cluster of which nothing runs, whose node 1 is to begin with the state of another one.
async fn seeded() -> Cluster {
    let cluster = one_with_data().await;
    let file = save(&cluster).await;
    let machine = Registers::default();
    Backup::open(&file).unwrap().restore(&machine).unwrap();
    let next = Cluster::new([1]);
    write_seed(&next.data_dir(1), "test", NEW_ID, BASE, &*machine.freeze()).unwrap();
    next
}

/// Writes a backup of node 1 to a file, part by part.
async fn save(cluster: &Cluster) -> PathBuf {
    let backup = cluster.raft(1).backup().await.unwrap();
    let length = backup.bytes().unwrap();
    let mut bytes = Vec::new();
    let mut parts = std::pin::pin!(backup.parts());
    while let Some(part) = parts.next().await {
        bytes.extend_from_slice(&part.unwrap());
    }
    assert_eq!(bytes.len() as u64, length);
    let file = cluster.dir.path().join("backup");
    fs::write(&file, bytes).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_says_what_it_is_and_where_it_is_damaged() {
    let cluster = one_with_data().await;
    let file = save(&cluster).await;
    let status = cluster.raft(1).status();
    let backup = Backup::open(&file).unwrap();
    let about = backup.about();
    assert_eq!((about.index, about.cluster.as_str()), (status.applied, "test"));
    assert_eq!(Some(about.cluster_id), status.cluster_id);
    assert_eq!(about.members.len(), 1);
    let machine = Registers::default();
    let sha = backup.restore(&machine).unwrap();
    assert_eq!(machine.map(), cluster.machine(1).map());
    let again = save(&cluster).await;
    assert_eq!(Backup::open(&again).unwrap().restore(&machine).unwrap(), sha, "equal states have equal hashes");

    let whole = fs::read(&file).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        fs::write(&file, &damaged).unwrap();
        let read = Backup::open(&file).and_then(|backup| backup.restore(&Registers::default()));
        assert!(read.is_err(), "a flipped bit in byte {at} is noticed");
        fs::write(&file, &whole[..at]).unwrap();
        let read = Backup::open(&file).and_then(|backup| backup.restore(&Registers::default()));
        let text = read.unwrap_err().to_string();
        assert!(text.contains("ends early"), "cut at {at}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_becomes_a_cluster_of_its_own_above_every_index_of_the_old_one() {
    let mut cluster = seeded().await;
    cluster.start(1).await;
    cluster.leader().await;
    let status = cluster.raft(1).status();
    assert_eq!(status.cluster_id, Some(NEW_ID));
    assert_eq!(cluster.machine(1).len(), 20);
    let first = cluster.set("more", "x").await.index;
    assert!((BASE + 1..BASE + 10).contains(&first), "{first}");
    assert_eq!(status.members.iter().map(|member| member.id).collect::<Vec<_>>(), [1]);
    assert!(!cluster.data_dir(1).join("seed").exists());
    for round in 0..3 {
        cluster.raft(1).trigger_snapshot().await.unwrap();
        cluster.stop(1).await;
        cluster.start(1).await;
        cluster.set(&format!("round-{round}"), "x").await;
        assert_eq!(cluster.machine(1).len(), 22 + round);
        assert_eq!(cluster.raft(1).status().cluster_id, Some(NEW_ID));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_seed_that_was_interrupted_anywhere_begins_again() {
    let mut grown = seeded().await;
    let (untouched, dir) = (grown.dir.path().join("untouched"), grown.data_dir(1));
    copy_all(&dir, &untouched);
    grown.start(1).await;
    grown.set("grown", "x").await;
    grown.stop(1).await;
    // Another node that never did anything: what it has is what an interrupted start leaves of a log.
    let mut idle = Cluster::new([1]);
    let mut joins = idle.settings(1);
    (joins.join, joins.founders) = (true, Default::default());
    idle.start_with(joins).await.unwrap();
    idle.stop(1).await;

    let snapshots = |to: &Path| copy_all(&dir.join("snapshots"), &to.join("snapshots"));
    let log = |to: &Path| copy_all(&idle.data_dir(1).join("log"), &to.join("log"));
    let half = |file: PathBuf| {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "half").unwrap();
    };
    let leave = |step: &str, to: &Path| match step {
        "nothing was done" => {}
        "its snapshot was being written" => half(to.join("snapshots/0.tmp")),
        "its snapshot was there" => snapshots(to),
        "its log was there" => {
            snapshots(to);
            log(to);
        }
        _ => {
            snapshots(to);
            log(to);
            half(to.join("identity.tmp"));
        }
    };
    for step in [
        "nothing was done",
        "its snapshot was being written",
        "its snapshot was there",
        "its log was there",
        "its identity was being written",
    ] {
        let mut cluster = Cluster::new([1]);
        copy_all(&untouched, &cluster.data_dir(1));
        leave(step, &cluster.data_dir(1));
        cluster.start(1).await;
        assert!(cluster.set("first", "x").await.index > BASE, "{step}");
        assert_eq!(cluster.machine(1).len(), 21, "{step}");
        cluster.stop(1).await;
        cluster.start(1).await;
        cluster.leader().await;
        assert_eq!(cluster.machine(1).len(), 21, "{step}, and started once more");
    }

    // All was done but the removal of the seed: what was written since stays.
    copy_all(&untouched.join("seed"), &dir.join("seed"));
    grown.start(1).await;
    grown.leader().await;
    assert_eq!(grown.machine(1).get("grown").unwrap(), b"x");
    assert!(!dir.join("seed").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_grows_only_where_it_was_meant_to() {
    let mut cluster = seeded().await;
    let refused = async |cluster: &mut Cluster, change: &dyn Fn(&mut Settings), why: &str| {
        let mut settings = cluster.settings(1);
        change(&mut settings);
        let error = cluster.start_with(settings).await.expect_err("it must not start");
        assert!(matches!(&error, StartError::Seed(what) if what.contains(why)), "{error}");
    };
    let joins = |settings: &mut Settings| (settings.join, settings.founders) = (true, Default::default());
    refused(&mut cluster, &joins, "--peers").await;
    refused(&mut cluster, &|settings| settings.cluster = "other".to_owned(), "\"test\"").await;
    let third = |settings: &mut Settings| {
        settings.id = 3;
        settings.founders = [2, 3].map(|id| (id, Addresses::default())).into();
    };
    refused(&mut cluster, &third, "of node 2").await;

    let seed = cluster.data_dir(1).join("seed");
    let whole = fs::read(&seed).unwrap();
    fs::write(&seed, &whole[..whole.len() - 1]).unwrap();
    let cut = cluster.start_with(cluster.settings(1)).await.expect_err("it is not whole");
    assert!(cut.to_string().contains("ends early"), "{cut}");
    fs::write(&seed, &whole).unwrap();
    cluster.start(1).await;
    cluster.set("here", "x").await;

    // Into the directory of another cluster it is no seed but a mistake.
    let mut other = one_with_data().await;
    other.stop(1).await;
    fs::write(other.data_dir(1).join("seed"), &whole).unwrap();
    refused(&mut other, &|_| {}, "not of the cluster").await;
    fs::remove_file(other.data_dir(1).join("seed")).unwrap();
    other.start(1).await;
    other.leader().await;
    let again = write_seed(&other.data_dir(1), "test", NEW_ID, BASE, &*Registers::default().freeze());
    assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::DirectoryNotEmpty);
}
