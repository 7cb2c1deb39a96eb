//! The thread that owns the log engine. Callers hand over what is to be written and go on; nothing else ever waits for
//! the disk, so heartbeats don't either.
//!
//! What arrives during one fsync goes into the next: group commit without an artificial wait. The order of one queue is
//! the order on disk, so a durable entry implies that every vote, truncation and entry before it is durable too. After
//! the first error nothing is tried again on these files: every later caller gets an error, and the process must end.

use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Instant;

use openraft::storage::IOFlushed;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tracing::error;

use super::Shared;
use super::end::EndMark;
use super::engine::{Engine, Flushing, Record};
use super::record::{DiskLogId, DiskPayload, DiskVote};
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
    Stall(std::sync::mpsc::Receiver<()>),
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
pub(super) fn spawn(
    shared: Arc<Shared>,
    durable: EndMark,
    closed: oneshot::Sender<()>,
) -> io::Result<UnboundedSender<Operation>> {
    let (operations, queue) = unbounded_channel();
    let writer = Writer { shared: shared.clone(), durable, queue, written: 0 };
    #[cfg(feature = "simulation")]
    if crate::simulation::is_on() {
        tokio::spawn(async move {
            writer.run_simulated().await;
            close(&shared, closed);
        });
        return Ok(operations);
    }
    std::thread::Builder::new().name("raft-log".to_owned()).spawn(move || {
        writer.run();
        close(&shared, closed);
    })?;
    Ok(operations)
}

fn close(shared: &Shared, closed: oneshot::Sender<()>) {
    let engine = shared.engine.lock().expect("the engine's lock is never poisoned").take();
    if shared.counters.failure().is_some() {
        // Closing would try to sync once more what could not be synced; the process ends without it.
        let _left = ManuallyDrop::new(engine);
    } else {
        // Closing syncs what is left and gives up the lock of the directory.
        drop(engine);
    }
    let _ = closed.send(());
}

struct Writer {
    shared: Arc<Shared>,
    durable: EndMark,
    queue: UnboundedReceiver<Operation>,
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

/// A batch that was written, and is now being flushed.
struct Begun {
    flushing: Flushing,
    end: u64,
    on_disk: u64,
    at: Instant,
}

impl Writer {
    fn run(mut self) {
        loop {
            let first = match self.next() {
                Ok(Some(first)) => first,
                Ok(None) => return,
                Err(e) => return self.end(&e),
            };
            let mut batch = Batch::default();
            let begun = self.begin(first, &mut batch);
            let outcome = begun.and_then(|begun| self.finish(begun, &batch));
            match self.settle(&outcome, batch) {
                Ok(true) => {}
                Ok(false) => return,
                Err(e) => return self.end(&e),
            }
        }
    }

    /// As `run`, as a task, on a disk that takes simulated time.
    #[cfg(feature = "simulation")]
    async fn run_simulated(mut self) {
        let disk = crate::simulation::Disk::below(&self.shared.dir);
        while let Some(first) = self.queue.recv().await {
            let mut batch = Batch::default();
            let begun = self.begin(first, &mut batch);
            disk.work().await;
            let outcome = begun.and_then(|begun| self.finish(begun, &batch));
            match self.settle(&outcome, batch) {
                Ok(true) => {}
                Ok(false) => return,
                Err(e) => {
                    self.fail(&e);
                    while let Some(operation) = self.queue.recv().await {
                        if !refuse(operation, &e) {
                            return;
                        }
                    }
                    return;
                }
            }
        }
    }

    /// Tells everyone who waits for a batch what became of it. Returns whether to go on; an error ends this log.
    fn settle(&self, outcome: &io::Result<()>, batch: Batch) -> io::Result<bool> {
        if let Err(e) = outcome {
            error!(dir = %self.shared.dir.display(), error = %e, "the log can't be written; this node must end");
            self.shared.counters.fail(&of_disk(&self.shared.dir, e));
        }
        for waiting in batch.waiting {
            waiting.tell(outcome);
        }
        if batch.close {
            return Ok(false);
        }
        match outcome {
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
            // Also under load, so that what is left to tidy does not grow.
            Ok(()) => self.tidy().map(|_| true),
        }
    }

    /// The next operation; `None` when there will be none. While it is awaited, the engine tidies up in small steps.
    fn next(&mut self) -> io::Result<Option<Operation>> {
        loop {
            match self.queue.try_recv() {
                Ok(operation) => return Ok(Some(operation)),
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) if self.tidy()? => {}
                Err(TryRecvError::Empty) => return Ok(self.queue.blocking_recv()),
            }
        }
    }

    /// Takes one step; returns whether there is more to do.
    fn tidy(&self) -> io::Result<bool> {
        let mut engine = self.shared.engine.lock().expect("the engine's lock is never poisoned");
        engine.as_mut().map_or(Ok(false), |log| log.tidy())
    }

    /// Ends this log after an error: answers everything with it.
    fn end(mut self, error: &io::Error) {
        self.fail(error);
        while self.queue.blocking_recv().is_some_and(|operation| refuse(operation, error)) {}
    }

    fn fail(&self, error: &io::Error) {
        error!(%error, "the log can't be written; this node must end");
        self.shared.counters.fail(error);
    }

    /// Writes what has arrived, and begins to flush it.
    fn begin(&mut self, first: Operation, batch: &mut Batch) -> io::Result<Begun> {
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
            let written = self.write_one(log.as_mut(), operation, batch);
            failed = failed.and(written);
            let bytes_max = (BATCH_BYTES_MAX as u64).min(room);
            let full = batch.operations >= BATCH_OPERATIONS_MAX || batch.bytes as u64 >= bytes_max || batch.close;
            next = if full { None } else { self.queue.try_recv().ok() };
        }
        failed?;
        let at = Instant::now();
        let flushing = log.flush(batch.must_sync)?;
        Ok(Begun { flushing, end: log.end(), on_disk: log.on_disk_bytes(), at })
    }

    /// Waits until a batch is flushed. Readers of old entries may come in while the disk works.
    fn finish(&mut self, begun: Begun, batch: &Batch) -> io::Result<()> {
        (begun.flushing)()?;
        if batch.must_sync {
            self.durable.reached(begun.end)?;
            self.shared.counters.synced(begun.at.elapsed(), batch.entries, begun.on_disk);
        }
        self.shared.window().written_below(self.written);
        Ok(())
    }

    fn write_one(&mut self, log: &mut dyn Engine, operation: Operation, batch: &mut Batch) -> io::Result<()> {
        batch.operations += 1;
        match operation {
            Operation::Vote(vote, to) => {
                batch.waiting.push(Waiting::Caller(to));
                batch.must_sync = true;
                log.write(Record::Vote(vote))?;
            }
            Operation::Append(entries, bytes, callback) => {
                batch.waiting.push(Waiting::Append(callback));
                batch.must_sync = true;
                batch.bytes += bytes;
                batch.entries += entries.len() as u64;
                let next = entries.last().map(|(id, _)| id.index + 1);
                log.write(Record::Append(entries))?;
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
                let marks = log.marks();
                if Some(id) <= marks.last && Some(id) > marks.committed {
                    log.write(Record::Committed(id))?;
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

/// Answers an operation with the error that ended the log; returns whether there may be more.
fn refuse(operation: Operation, error: &io::Error) -> bool {
    let failed = Err(io::Error::new(error.kind(), error.to_string()));
    match operation {
        Operation::Vote(_, to) | Operation::TruncateAfter(_, to) => Waiting::Caller(to).tell(&failed),
        Operation::Append(_, _, callback) => Waiting::Append(callback).tell(&failed),
        Operation::Close => return false,
        #[cfg(test)]
        Operation::Stall(_) => {}
        Operation::Purge(_) | Operation::Committed(_) => {}
    }
    true
}

fn next_index(id: Option<DiskLogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

fn truncate_after(log: &mut dyn Engine, keep: Option<DiskLogId>) -> io::Result<()> {
    let marks = log.marks();
    let next = next_index(keep).max(next_index(marks.purged));
    if next < next_index(marks.last) {
        log.write(Record::TruncateFrom(next))?;
    }
    Ok(())
}

/// Purges up to and including `upto`. After an installed snapshot that may lie beyond the last entry; entries of a later
/// term than the snapshot's last are then left-overs of a leader that never got a majority, and go too.
fn purge(log: &mut dyn Engine, upto: DiskLogId) -> io::Result<()> {
    let marks = log.marks();
    let leftover = marks.last.is_some_and(|last| last.index <= upto.index && last > upto);
    if leftover {
        truncate_after(log, marks.committed.max(marks.purged))?;
    }
    if Some(upto.index) > marks.purged.map(|purged| purged.index) {
        log.write(Record::PurgeUpto(upto))?;
    }
    Ok(())
}
