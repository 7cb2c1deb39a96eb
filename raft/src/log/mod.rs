//! The log of one member: votes, entries, and the marks of what is committed and purged, in one ordered, durable stream.
//!
//! The seam to openraft is its own `RaftLogStorage`, implemented once: the newest entries are in memory (`window`), and a
//! thread of its own writes (`writer`). Underneath is one of two engines (`engine`): `chunks`, with the `raft-log` crate, which
//! decides itself what a torn write is (`recovery`), or `tree`, with the `sled` crate. A third one, `memory`, serves the
//! simulation.

mod chunks;
mod end;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
#[cfg(feature = "simulation")]
pub(crate) mod memory;
mod record;
mod recovery;
#[cfg(test)]
mod tests;
mod tree;
mod window;
mod writer;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, alias};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use self::end::EndMark;
pub(crate) use self::engine::RecoveryError;
use self::engine::{Engine, Record};
pub(crate) use self::record::DiskPayload;
pub(crate) use self::record::Owner;
#[cfg(test)]
pub(crate) use self::record::{DiskLogId, DiskVote};
use self::window::{Window, cost};
use self::writer::Operation;
use crate::blocking;
use crate::counters::LogCounters;
use crate::entry::{Entry, Group, LogId, Vote};
use crate::settings::{Limits, LogEngine};
use crate::space::Headroom;

/// A log that was never written is far smaller, with either engine.
const CREATION_BYTES_MAX: u64 = 64 * 1024;

/// What the log's users share with its thread.
struct Shared {
    dir: PathBuf,
    window: Mutex<Window>,
    /// `None` once closed. Locked by the thread while it writes, and by readers of entries that left the window.
    engine: Mutex<Option<Box<dyn Engine>>>,
    counters: Arc<LogCounters>,
    space: Arc<Headroom>,
    read_bytes_max: usize,
}

impl Shared {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().expect("nothing panics while it holds the window")
    }

    /// Reads entries that left the window.
    fn read_engine(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let engine = self.engine.lock().expect("the engine's lock is never poisoned");
        let log = engine.as_ref().ok_or_else(|| io::Error::other("the log is closed"))?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for item in log.read(range) {
            let (id, payload) = item?;
            let entry = payload.entry(LogId::from(&id))?;
            bytes += cost(&entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// The store that openraft drives.
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    operations: UnboundedSender<Operation>,
}

/// Reads the log; any number of readers, beside the store.
#[derive(Clone)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

/// Closes the log.
pub(crate) struct LogCloser {
    operations: UnboundedSender<Operation>,
    closed: oneshot::Receiver<()>,
}

impl LogCloser {
    /// Syncs and closes the log, and gives up its directory. To be called after openraft has stopped.
    pub(crate) async fn close(self) {
        // If the thread is gone already, the other end of `closed` is too.
        let _ = self.operations.send(Operation::Close);
        let _ = self.closed.await;
    }

    /// As `close`, off the async workers.
    pub(crate) fn close_blocking(self) {
        let _ = self.operations.send(Operation::Close);
        let _ = self.closed.blocking_recv();
    }

    /// Lets the disk stand still until what is returned is dropped.
    #[cfg(test)]
    pub(crate) fn stall(&self) -> std::sync::mpsc::Sender<()> {
        let (to, until) = std::sync::mpsc::channel();
        self.operations.send(Operation::Stall(until)).unwrap();
        to
    }
}

/// What was found on disk.
pub(crate) struct OpenedLog {
    pub(crate) store: LogStore,
    pub(crate) closer: LogCloser,
    /// Neither a vote nor an entry was ever stored.
    pub(crate) pristine: bool,
}

/// Opens the log of a data directory. With `create` there must be no log yet, or one in which nothing was stored, left behind
/// by a crash; without it a log must be there.
pub(crate) fn open(
    data_dir: &Path,
    kind: LogEngine,
    owner: Owner,
    create: bool,
    limits: &Limits,
    (counters, space): (Arc<LogCounters>, Arc<Headroom>),
) -> Result<OpenedLog, RecoveryError> {
    let dir = &dir_in(data_dir, kind);
    let fail = |source| RecoveryError::Io { path: dir.clone(), source };
    let damaged = |what: String| RecoveryError::Damaged { file: dir.clone(), offset: None, what };
    // The mark of the end is made last. Where it is missing while a log is created, nothing was promised yet.
    let anew = create && !end::path_in(dir).try_exists().map_err(fail)?;
    let (mark, durable) = if anew {
        clear(dir)?;
        (None, None)
    } else {
        EndMark::open(dir).map(|(mark, end)| (Some(mark), Some(end)))?
    };
    let mut log = engine::open(kind, dir, durable, limits, &counters)?;
    let mark = match mark {
        Some(mark) => mark,
        None => create_in(data_dir, dir, log.as_mut(), owner).map_err(fail)?,
    };
    let found = log.marks();
    match found.owner {
        Some(found) if found == owner => {}
        // Its creation was complete, but that of the directory was not: the identity, which is written last, is another one now.
        Some(_) if create && found.is_pristine() => {
            drop((log, mark));
            clear(dir)?;
            return open(data_dir, kind, owner, create, limits, (counters, space));
        }
        Some(found) => return Err(damaged(format!("the log belongs to node {} with another identity", found.id))),
        None => return Err(damaged("the log does not say whom it belongs to".to_owned())),
    }
    let window = load(log.as_ref(), limits.log_cache_bytes).map_err(damaged)?;
    counters.on_disk(log.on_disk_bytes());
    let shared = Arc::new(Shared {
        dir: dir.to_owned(),
        window: Mutex::new(window),
        engine: Mutex::new(Some(log)),
        counters,
        space,
        read_bytes_max: limits.append_bytes_max,
    });
    let (to, closed) = oneshot::channel();
    let operations = writer::spawn(shared.clone(), mark, to).map_err(fail)?;
    let closer = LogCloser { operations: operations.clone(), closed };
    Ok(OpenedLog { store: LogStore { shared, operations }, closer, pristine: found.is_pristine() })
}

/// Removes what an interrupted creation left behind.
fn clear(dir: &Path) -> Result<(), RecoveryError> {
    let fail = |source| RecoveryError::Io { path: dir.to_owned(), source };
    let bytes = bytes_below(dir).map_err(fail)?;
    if bytes > CREATION_BYTES_MAX {
        let what = format!("it holds {bytes} bytes of a log, but neither an identity nor the mark of its end");
        return Err(RecoveryError::Damaged { file: dir.to_owned(), offset: None, what });
    }
    std::fs::remove_dir_all(dir).and_then(|()| std::fs::create_dir(dir)).map_err(fail)
}

fn bytes_below(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for found in std::fs::read_dir(dir)? {
        let (path, found) = found.and_then(|found| Ok((found.path(), found.metadata()?)))?;
        bytes += if found.is_dir() { bytes_below(&path)? } else { found.len() };
    }
    Ok(bytes)
}

/// Makes a new log count: first it knows its owner, then it has a mark of its end, each durable before the next.
fn create_in(data_dir: &Path, dir: &Path, log: &mut dyn Engine, owner: Owner) -> io::Result<EndMark> {
    log.write(Record::Owner(owner))?;
    log.flush(true)?()?;
    let mark = EndMark::create(dir, log.end())?;
    File::open(data_dir)?.sync_all()?;
    Ok(mark)
}

/// Reads every entry once: that all are there and none is damaged is found out now, not when one is needed.
fn load(log: &dyn Engine, cache_bytes: usize) -> Result<Window, String> {
    let marks = log.marks();
    let mut window = Window::new(cache_bytes);
    window.vote = marks.vote.as_ref().map(Vote::from);
    window.committed = marks.committed.as_ref().map(LogId::from);
    let purged = marks.purged.as_ref().map(LogId::from);
    if let Some(purged) = purged {
        window.purge(purged);
    }
    let mut next = purged.map_or(0, |id| id.index + 1);
    for item in log.read(0..u64::MAX) {
        let (id, payload) = item.map_err(|e| e.to_string())?;
        if id.index != next {
            return Err(format!("entry {next} is missing; the one after the gap is {}", id.index));
        }
        let entry = payload.entry(LogId::from(&id)).map_err(|e| e.to_string())?;
        window.push(entry);
        next = id.index + 1;
        window.written_below(next);
    }
    let last = marks.last.as_ref().map(LogId::from);
    if window.last != last {
        return Err(format!("the entries end at {:?}, but the log's own mark is {last:?}", window.last));
    }
    if window.committed > last {
        return Err(format!("entries up to {last:?} are there, but {:?} was committed", window.committed));
    }
    Ok(window)
}

fn bounds(range: impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl LogReader {
    /// The vote as it was last handed over to be saved, whether it is on disk yet or not.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.window().vote
    }

    /// The entries of a range that the log holds: all of them, or a first part of at least one and about `bytes_max`.
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let part = self.shared.window().part(range, bytes_max);
        if part.on_disk.is_empty() {
            return Ok(part.entries);
        }
        let (shared, on_disk) = (self.shared.clone(), part.on_disk.clone());
        let read = blocking::run(move || shared.read_engine(on_disk, bytes_max));
        let mut entries = read.await.map_err(io::Error::other)??;
        // What is missing may have been purged meanwhile, so it is missing at the start; a hole is never passed on.
        let joins = entries.last().is_none_or(|last| last.log_id.index + 1 == part.on_disk.end);
        if joins && (bytes_max == usize::MAX || entries.is_empty()) {
            entries.extend(part.entries);
        }
        Ok(entries)
    }
}

impl RaftLogReader<Group> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.read(bounds(range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.window().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, self.shared.read_bytes_max).await
    }

    /// Reads in steps, so that a long tail is never in memory as a whole.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let reader = self.clone();
        let start = (bounds(range), Vec::new().into_iter());
        stream::unfold(start, move |(mut range, mut step)| {
            let reader = reader.clone();
            async move {
                if step.len() == 0 && !range.is_empty() {
                    match reader.read(range.clone(), reader.shared.read_bytes_max).await {
                        Ok(entries) => step = entries.into_iter(),
                        Err(e) => return Some((Err(e), (0..0, Vec::new().into_iter()))),
                    }
                }
                let entry: Entry = step.next()?;
                range.start = entry.log_id.index + 1;
                Some((Ok(entry), (range, step)))
            }
        })
    }
}

impl LogStore {
    pub(crate) fn reader(&self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    fn hand_over(&self, operation: Operation) -> io::Result<()> {
        self.operations.send(operation).map_err(|_| io::Error::other("the log is closed"))
    }

    /// Hands over an operation and waits until it is durable.
    async fn complete(&self, operation: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Operation) -> io::Result<()> {
        let (to, done) = oneshot::channel();
        self.hand_over(operation(to))?;
        done.await.map_err(|_| io::Error::other("the log's thread ended"))?
    }
}

impl RaftLogStorage<Group> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<Group>> {
        let window = self.shared.window();
        Ok(LogState { last_purged_log_id: window.purged, last_log_id: window.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.shared.window().vote = Some(*vote);
        self.complete(|to| Operation::Vote(vote.into(), to)).await
    }

    async fn save_committed(&mut self, committed: Option<alias::LogIdOf<Group>>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        self.shared.window().committed = Some(committed);
        self.hand_over(Operation::Committed((&committed).into()))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.window().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Group>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let bytes = entries.iter().map(cost).sum();
        let records = entries.iter().map(|entry| ((&entry.log_id).into(), DiskPayload::of(entry))).collect();
        {
            let mut window = self.shared.window();
            for entry in entries {
                window.push(entry);
            }
        }
        self.hand_over(Operation::Append(records, bytes, callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.shared.window().truncate_after(last);
        // Rare. Durable at once, because an installed snapshot may follow, which is another file: if that survived a
        // power cut and the truncation did not, they would contradict each other.
        self.complete(|to| Operation::TruncateAfter(last.as_ref().map(Into::into), to)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.shared.window().purge(upto);
        self.hand_over(Operation::Purge((&upto).into()))
    }
}

/// Where the log of a data directory lives: a directory of its own for each engine, so that none ever opens another's.
pub(crate) fn dir_in(data_dir: &Path, kind: LogEngine) -> PathBuf {
    data_dir.join(match kind {
        LogEngine::RaftLog => "log",
        LogEngine::Sled => "log-sled",
        #[cfg(feature = "simulation")]
        LogEngine::Memory => "log-memory",
    })
}
