//! Snapshots on request, and backups: a snapshot's file as it is sent to whoever keeps it.

use std::sync::Arc;

use futures_util::StreamExt;
use switchboard_raft::{Raft, SnapshotError};
use tokio::sync::Semaphore;

use crate::api::{Backup, StateRefused};
use crate::wire::http::SnapshotTaken;

/// Backups that are sent at once. Each holds on to the disk space of its snapshot until its reader is done.
const AT_ONCE: usize = 2;

/// Takes snapshots and sends backups.
#[derive(Debug)]
pub(super) struct Backups {
    raft: Raft,
    permits: Arc<Semaphore>,
}

impl Backups {
    pub(super) fn new(raft: Raft) -> Self {
        Self { raft, permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Takes a snapshot of what is applied now.
    pub(super) async fn snapshot(&self) -> Result<SnapshotTaken, StateRefused> {
        let revision = self.raft.trigger_snapshot().await?;
        Ok(SnapshotTaken { revision })
    }

    /// Takes a snapshot of what is applied now and opens it.
    pub(super) async fn backup(&self) -> Result<Backup, StateRefused> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| StateRefused::Busy)?;
        let backup = self.raft.backup().await?;
        let revision = backup.about().index;
        let bytes = backup.bytes().map_err(|error| StateRefused::Unavailable(format!("the snapshot: {error}")))?;
        tracing::info!(revision, bytes, "a backup is being sent");
        // A reader that goes away drops the parts, and the permit with them.
        let parts = backup.parts().map(move |part| {
            let _held = &permit;
            part
        });
        Ok(Backup { revision, bytes, parts: Box::pin(parts) })
    }
}

impl From<SnapshotError> for StateRefused {
    fn from(error: SnapshotError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
