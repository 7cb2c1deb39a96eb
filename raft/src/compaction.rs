//! When snapshots are taken, and how much of the log is kept for members that are behind.
//!
//! openraft purges what a snapshot covers, except for `entries_kept_after_snapshot`, and what it is just streaming to a member:
//! a member that answers gets the log, however slow it is. That leaves two things to be done here:
//!
//! - While a snapshot is on its way to a member, no newer one is taken. Behind a newer one the entries would be purged
//!   that this member needs next, and it would be sent one snapshot after another without end.
//! - Both kinds of consideration end at `log_bytes_held_max`. Above it a snapshot is taken all the same, and the streams to members that
//!   are behind it are ended: then the log is purged, and they get the snapshot.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use openraft::LogIdOptionExt;
use openraft::async_runtime::watch::WatchReceiver;
use tracing::info;

use crate::apply::Progress;
use crate::counters::Counting;
use crate::net::link::Local;
use crate::raft::OpenRaft;

/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Members that are behind.
#[derive(Default)]
pub(crate) struct Behind {
    /// Snapshots that are on their way.
    sending: AtomicUsize,
    /// Entries below this one are not streamed any more.
    floor: AtomicU64,
}

/// A snapshot is on its way while this lives.
pub(crate) struct Sending<'a>(&'a Behind);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Behind {
    pub(crate) fn sending(&self) -> Sending<'_> {
        self.sending.fetch_add(1, Ordering::Relaxed);
        Sending(self)
    }

    /// Whether the entry after `prev` may still be streamed to a member.
    pub(crate) fn may_stream(&self, prev: Option<u64>) -> bool {
        prev.map_or(0, |prev| prev + 1) >= self.floor.load(Ordering::Relaxed)
    }
}

/// Takes snapshots and bounds the log, until the replica stops.
pub(crate) async fn keep(raft: &OpenRaft, progress: &Progress, counting: &Counting, local: &Local) {
    let Local { limits, behind, .. } = local;
    let mut purged_at = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (snapshot, purged) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.snapshot.index().unwrap_or(0), metrics.purged.index().unwrap_or(0))
        };
        let bytes = counting.log.bytes();
        let held = bytes > limits.log_bytes_held_max;
        if behind.sending.load(Ordering::Relaxed) > 0 && !held {
            continue;
        }
        let (large, since) = (bytes > limits.snapshot_every_log_bytes, progress.index().saturating_sub(snapshot));
        let outcome = if large && snapshot > purged_at {
            // Few large entries weigh as much as many small ones, so none of them are kept behind the snapshot.
            purged_at = snapshot;
            raft.trigger().purge_log(snapshot).await
        } else if since >= limits.snapshot_every_entries || (large && since > 0) {
            raft.trigger().snapshot().await
        } else {
            Ok(())
        };
        if held && purged < purged_at && behind.floor.fetch_max(purged_at + 1, Ordering::Relaxed) <= purged_at {
            info!(
                bytes,
                purged,
                snapshot,
                "members that are behind get a snapshot: the log that they need is too large to be kept"
            );
        }
        if outcome.is_err() {
            return;
        }
    }
}
