//! The thread that owns the log engine. Callers hand over what is to be written and go on; nothing else ever waits for
//! the disk, so heartbeats don't either.
//!
//! What arrives during one fsync goes into the next: group commit without an artificial wait. The order of one queue is
//! the order on disk, so a durable entry implies that every vote, truncation and entry before it is durable too. After
//! the first error nothing is tried again on these files: every later caller gets an error, and the process must end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::Instant;

use openraft::storage::IOFlushed;
use raft_log::RaftLog;
use raft_log::api::raft_log_writer::RaftLogWriter;
use tokio::sync::oneshot;
use tracing::error;

use super::Shared;
use super::record::{DiskLogId, DiskPayload, DiskVote, Flushed, Records};
use crate::entry::Group;
use crate::failure::of_disk;

/// Operations written together, so that no flush grows without bound.
const BATCH_OPERATIONS_MAX: usize = 4096;
/// Bytes written together, for the same reason.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Who is told the outcome of one operation.
type Told = oneshot::Sender<io::Result<()>>;

pub(super) enum Operation {
    Vote(DiskVote, Told),
    Append(Vec<(DiskLogId, DiskPayload)>, usize, IOFlushed<Group>),
    TruncateAfter(Option<DiskLogId>, Told),
    Purge(DiskLogId),
    Committed(DiskLogId),
    /// Closes the engine. Dropping every sender does the same.
    Close,
    /// The disk stands still until the other end is dropped.
    #[cfg(test)]
    Stall(Receiver<()>),
}

/// Who is told when a batch is on disk.
enum Waiting {
    Caller(Told),
    Append(IOFlushed<Group>),
}

impl Waiting {
    fn tell(self, outcome: &io::Result<()>) {
        let outcome = outcome.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string())).copied();
        match self {
            // A caller that is gone belonged to a replica that is shutting down.
            Waiting::Caller(to) => {
                let _ = to.send(outcome);
            }
            Waiting::Append(callback) => callback.io_completed(outcome),
        }
    }
}

/// Starts the thread. It ends when told to close, or when the last sender is dropped; then the engine is closed and
/// `closed` is told.
pub(super) fn spawn(shared: Arc<Shared>, closed: oneshot::Sender<()>) -> io::Result<Sender<Operation>> {
    let (operations, queue) = channel();
    std::thread::Builder::new().name("raft-log".to_owned()).spawn(move || {
        Writer { shared: shared.clone(), queue, written: 0 }.run();
        // Closing syncs what is left and gives up the lock of the directory.
        let engine = shared.engine.lock().expect("the engine's lock is never poisoned").take();
        drop(engine);
        let _ = closed.send(());
    })?;
    Ok(operations)
}

struct Writer {
    shared: Arc<Shared>,
    queue: Receiver<Operation>,
    /// The engine has every entry below this index.
    written: u64,
}

#[derive(Default)]
struct Batch {
    waiting: Vec<Waiting>,
    operations: usize,
    bytes: usize,
    entries: u64,
    must_sync: bool,
    close: bool,
}

impl Writer {
    fn run(mut self) {
        while let Ok(first) = self.queue.recv() {
            let mut batch = Batch::default();
            let outcome = self.write(first, &mut batch);
            if let Err(e) = &outcome {
                error!(dir = %self.shared.dir.display(), error = %e, "the log can't be written; this node must end");
                self.shared.counters.fail(&of_disk(&self.shared.dir, e));
            }
            for waiting in batch.waiting {
                waiting.tell(&outcome);
            }
            if let Err(e) = outcome {
                return self.refuse(&e);
            }
            if batch.close {
                return;
            }
        }
    }

    /// Answers everything with the error that ended this log.
    fn refuse(&self, error: &io::Error) {
        while let Ok(operation) = self.queue.recv() {
            let failed = Err(io::Error::new(error.kind(), error.to_string()));
            match operation {
                Operation::Vote(_, to) | Operation::TruncateAfter(_, to) => Waiting::Caller(to).tell(&failed),
                Operation::Append(_, _, callback) => Waiting::Append(callback).tell(&failed),
                Operation::Close => return,
                #[cfg(test)]
                Operation::Stall(_) => {}
                Operation::Purge(_) | Operation::Committed(_) => {}
            }
        }
    }

    fn write(&mut self, first: Operation, batch: &mut Batch) -> io::Result<()> {
        let shared = self.shared.clone();
        // Entries wait here until there is space for them; nothing of ours is locked meanwhile.
        let room = match &first {
            Operation::Append(_, bytes, _) => shared.space.hold(*bytes as u64),
            _ => shared.space.room(),
        };
        let mut engine = shared.engine.lock().expect("the engine's lock is never poisoned");
        let Some(log) = engine.as_mut() else {
            return Err(io::Error::other("the log is closed"));
        };
        let mut next = Some(first);
        let mut failed = Ok(());
        while let Some(operation) = next {
            // After an error the rest of the batch is only collected, to be answered.
            let written = self.write_one(log, operation, batch);
            failed = failed.and(written);
            let bytes_max = (BATCH_BYTES_MAX as u64).min(room);
            let full = batch.operations >= BATCH_OPERATIONS_MAX || batch.bytes as u64 >= bytes_max || batch.close;
            next = if full { None } else { self.queue.try_recv().ok() };
        }
        failed?;
        let began = Instant::now();
        let (to, flushed) = sync_channel(1);
        log.flush(batch.must_sync, Some(Flushed(to)))?;
        let on_disk = log.on_disk_size();
        // Readers of old entries may come in while the disk works.
        drop(engine);
        flushed.recv().unwrap_or_else(|_| Err(io::Error::other("the log's flush thread ended")))?;
        if batch.must_sync {
            shared.counters.synced(began.elapsed(), batch.entries, on_disk);
        }
        shared.window().written_below(self.written);
        Ok(())
    }

    fn write_one(&mut self, log: &mut RaftLog<Records>, operation: Operation, batch: &mut Batch) -> io::Result<()> {
        batch.operations += 1;
        match operation {
            Operation::Vote(vote, to) => {
                batch.waiting.push(Waiting::Caller(to));
                batch.must_sync = true;
                log.save_vote(vote)?;
            }
            Operation::Append(entries, bytes, callback) => {
                batch.waiting.push(Waiting::Append(callback));
                batch.must_sync = true;
                batch.bytes += bytes;
                batch.entries += entries.len() as u64;
                let next = entries.last().map(|(id, _)| id.index + 1);
                log.append(entries)?;
                self.written = next.unwrap_or(self.written);
            }
            Operation::TruncateAfter(keep, to) => {
                batch.waiting.push(Waiting::Caller(to));
                batch.must_sync = true;
                truncate_after(log, keep)?;
                self.written = self.written.min(keep.map_or(0, |id| id.index + 1));
            }
            Operation::Purge(upto) => {
                // Files go only behind a sync, so that no restart finds a gap.
                batch.must_sync = true;
                purge(log, upto)?;
                self.written = self.written.max(upto.index + 1);
            }
            Operation::Committed(id) => {
                // The mark only shortens a restart. It must not run ahead of the entries.
                let state = log.log_state();
                if Some(&id) <= state.last() && Some(&id) > state.committed() {
                    log.commit(id)?;
                }
            }
            Operation::Close => {
                batch.must_sync = true;
                batch.close = true;
            }
            #[cfg(test)]
            Operation::Stall(until) => {
                let _ = until.recv();
            }
        }
        Ok(())
    }
}

fn next_index(id: Option<&DiskLogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

fn truncate_after(log: &mut RaftLog<Records>, keep: Option<DiskLogId>) -> io::Result<()> {
    let state = log.log_state();
    let next = next_index(keep.as_ref()).max(next_index(state.purged()));
    if next < next_index(state.last()) {
        log.truncate(next)?;
    }
    Ok(())
}

/// Purges up to and including `upto`. After an installed snapshot that may lie beyond the last entry; entries of a later
/// term than the snapshot's last are then left-overs of a leader that never got a majority, and go too.
fn purge(log: &mut RaftLog<Records>, upto: DiskLogId) -> io::Result<()> {
    let state = log.log_state();
    let leftover = state.last().is_some_and(|last| last.index <= upto.index && *last > upto);
    if leftover {
        let keep = state.committed().max(state.purged()).copied();
        truncate_after(log, keep)?;
    }
    log.purge(upto)?;
    Ok(())
}

/// Opens the engine on prepared files.
pub(super) fn open(dir: &Path, chunk_bytes: usize, gather: std::time::Duration) -> io::Result<RaftLog<Records>> {
    let dir = dir.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"))?;
    let mut config = raft_log::Config::new(dir);
    config.wal.chunk_max_size = Some(chunk_bytes);
    config.wal.flush_batch_wait = Some(gather);
    // The default reserves 64 MiB for every file that is replayed.
    config.wal.read_buffer_size = Some(1024 * 1024);
    // Torn writes were cut before (see `recovery`); whatever the engine can't read now is damage.
    config.wal.truncate_incomplete_record = Some(false);
    // The window is the cache. The engine keeps what its newest file holds in any case.
    config.log_cache_max_items = Some(0);
    config.log_cache_capacity = Some(0);
    RaftLog::open(Arc::new(config))
}
