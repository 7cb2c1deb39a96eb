//! From openraft's metrics to what the owner of a replica is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::apply::Progress;
use crate::compaction;
use crate::counters::Counting;
use crate::founding::Founders;
use crate::net::link::Local;
use crate::raft::OpenRaft;
use crate::settings::NodeId;
use crate::status::{self, Leadership, Status};

/// Turns openraft's metrics into signals.
#[derive(Clone)]
pub(crate) struct Observer {
    pub(crate) raft: OpenRaft,
    pub(crate) local: Arc<Local>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) counting: Arc<Counting>,
    pub(crate) founders: Arc<Founders>,
}

impl Observer {
    /// Starts what goes on for as long as the replica: signals of changes, snapshots.
    pub(crate) fn spawn(
        self,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> (watch::Receiver<Option<Leadership>>, watch::Receiver<Status>) {
        let (to_leadership, leadership) = watch::channel(None);
        let (to_changes, changes) = watch::channel(self.status());
        let (log, sized) = (self.clone(), stop.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(self.observe(to_leadership, to_changes)));
        tasks.spawn(async move {
            let Observer { raft, local, progress, counting, .. } = &log;
            sized.run_until_cancelled(compaction::keep(raft, progress, counting, local)).await;
        });
        (leadership, changes)
    }

    pub(crate) fn status(&self) -> Status {
        let standing = self.founders.standing();
        status::status(&self.raft, &self.progress, &self.local, standing)
    }

    async fn observe(self, leadership: watch::Sender<Option<Leadership>>, changes: watch::Sender<Status>) {
        let mut metrics = self.raft.server_metrics();
        let mut standing = self.founders.changes();
        let mut leader: Option<NodeId> = None;
        loop {
            let applied = self.progress.watch();
            let id = *applied.borrow();
            let led = status::leadership(&self.raft, self.local.id, id);
            let waits_for_own_entry = led.is_none() && self.leads();
            leadership.send_if_modified(|current| {
                let changed = *current != led;
                *current = led;
                changed
            });
            let current = metrics.borrow_watched().current_leader;
            if current != leader {
                leader = current;
                self.counting.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            changes.send_replace(self.status());
            let own_entry = own_entry(applied, waits_for_own_entry);
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { break },
                _ = standing.changed() => {}
                () = own_entry => {}
            }
        }
        // Whoever waits on these sees the replica as it ended: without a leader.
        leadership.send_replace(None);
    }

    fn leads(&self) -> bool {
        let metrics = self.raft.server_metrics();
        metrics.borrow_watched().state == openraft::ServerState::Leader
    }
}

/// Applying matters to the observer only until the first entry of its own term.
async fn own_entry(mut applied: watch::Receiver<Option<crate::entry::LogId>>, wanted: bool) {
    if !wanted || applied.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
