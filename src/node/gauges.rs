//! The figures of a directory node that are looked up now and then rather than counted as they happen.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use switchboard_raft::{Counters, DURATION_BOUNDS, Durations, Raft, Role};

use super::replicated::Replicated;
use super::watch_hub::WatchHub;

/// How often they are looked up.
const EVERY: Duration = Duration::from_secs(1);

/// Keeps the figures up to date.
pub(super) async fn keep(raft: Raft, state: Arc<Replicated>, hub: Arc<WatchHub>, process: Arc<str>) {
    let mut before = Counters::default();
    loop {
        let status = raft.status();
        let set = |name: &'static str, value: f64| gauge!(name, "process" => Arc::clone(&process)).set(value);
        set("switchboard_raft_is_leader", f64::from(u8::from(status.role == Role::Leader)));
        set("switchboard_raft_term", status.term as f64);
        set("switchboard_raft_commit_index", status.committed.unwrap_or(0) as f64);
        set("switchboard_raft_applied_index", status.applied as f64);
        {
            let directory = state.read();
            let stats = directory.stats();
            set("switchboard_entries", stats.connections as f64);
            set("switchboard_users_online", stats.users as f64);
            set("switchboard_sessions", stats.sessions as f64);
            set("switchboard_state_bytes", directory.state_bytes() as f64);
        }
        let space = raft.space();
        set("switchboard_disk_free_bytes", space.free as f64);
        set("switchboard_disk_refusing", f64::from(u8::from(space.short)));
        let now = raft.counters();
        set("switchboard_raft_log_bytes", now.log_bytes as f64);
        counter!("switchboard_raft_leader_changes_total", "process" => Arc::clone(&process))
            .absolute(now.leader_changes);
        counter!("switchboard_raft_snapshots_installed_total", "process" => Arc::clone(&process))
            .absolute(now.snapshots_installed.count);
        record("switchboard_raft_fsync_duration_seconds", &before.fsyncs, &now.fsyncs, &process);
        record("switchboard_raft_snapshot_duration_seconds", &before.snapshots_built, &now.snapshots_built, &process);
        before = now;
        let retained = hub.retained();
        set("switchboard_watch_retained_events", retained.events as f64);
        set("switchboard_watch_retained_bytes", retained.bytes as f64);
        set("switchboard_watch_oldest_revision", retained.floor as f64);
        tokio::time::sleep(EVERY).await;
    }
}

/// Adds what was counted since the last look, each duration as the upper bound of its bucket.
fn record(name: &'static str, before: &Durations, now: &Durations, process: &Arc<str>) {
    let histogram = histogram!(name, "process" => Arc::clone(process));
    for (bucket, (before, now)) in before.buckets.iter().zip(&now.buckets).enumerate() {
        let bound = DURATION_BOUNDS.get(bucket).or(DURATION_BOUNDS.last()).expect("there are bounds");
        histogram.record_many(*bound, usize::try_from(now - before).unwrap_or(usize::MAX));
    }
}
