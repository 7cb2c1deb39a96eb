//! Data directories that earlier builds wrote are read by this one, whatever became of the engines' own files meanwhile.
//!
//! `UPDATE_GOLDEN=1 cargo test golden` writes them anew. See `tests/golden/fixture.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use switchboard_raft::LogEngine;

use crate::harness::{Cluster, copy_all};

fn kept(engine: LogEngine) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("data-{engine}-1"))
}

async fn start(engine: LogEngine, cluster: &mut Cluster) {
    let mut settings = cluster.settings(1);
    settings.engine = engine;
    cluster.start_with(settings).await.unwrap();
}

/// A snapshot, entries behind it, and a vote.
async fn write(engine: LogEngine) {
    let mut cluster = Cluster::new([1]);
    start(engine, &mut cluster).await;
    cluster.set("before the snapshot", "1").await;
    cluster.raft(1).trigger_snapshot().await.unwrap();
    cluster.set("after the snapshot", "2").await;
    cluster.stop(1).await;
    if kept(engine).exists() {
        fs::remove_dir_all(kept(engine)).unwrap();
    }
    copy_all(&cluster.data_dir(1), &kept(engine));
}

async fn read(engine: LogEngine) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        write(engine).await;
    }
    let mut cluster = Cluster::new([1]);
    copy_all(&kept(engine), &cluster.data_dir(1));
    start(engine, &mut cluster).await;
    cluster.set("now", "3").await;
    for (name, value) in [("before the snapshot", b"1"), ("after the snapshot", b"2"), ("now", b"3")] {
        assert_eq!(cluster.machine(1).get(name).as_deref(), Some(&value[..]), "{name}");
    }
    assert_eq!(cluster.machine(1).restored(), 1, "the snapshot was read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_data_directory_of_raft_log_is_read() {
    read(LogEngine::RaftLog).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_data_directory_of_sled_is_read() {
    read(LogEngine::Sled).await;
}
