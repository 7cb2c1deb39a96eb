//! What a replica counts, for metrics. Reading them never waits for anything.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Upper bounds of the buckets of a duration histogram; the last bucket has none.
pub const DURATION_BOUNDS: [Duration; 12] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// How long something took, each time since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many times.
    pub count: u64,
    /// All of them together.
    pub sum: Duration,
    /// Times within each bound of [`DURATION_BOUNDS`] and above the one before; the last is above all bounds.
    pub buckets: [u64; DURATION_BOUNDS.len() + 1],
}

/// Counts since the process started, except where noted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times that another member, or none, became known as the leader.
    pub leader_changes: u64,
    /// Times that the log was made durable: write and fsync together.
    pub fsyncs: Durations,
    /// Entries made durable. Divided by `fsyncs.count` it tells how well flushes are shared.
    pub entries_written: u64,
    /// Bytes of log files on disk now.
    pub log_bytes: u64,
    /// Bytes of torn writes that were cut off the log at the start of this process.
    pub log_bytes_cut: u64,
    /// Snapshots written, and how long each took.
    pub snapshots_built: Durations,
    /// Snapshots received from a leader and installed, and how long each took to receive and install.
    pub snapshots_installed: Durations,
    /// Bytes of the current snapshot file; 0 if there is none.
    pub snapshot_bytes: u64,
    /// Proposals refused because too much was in flight.
    pub proposals_refused: u64,
    /// Rounds that confirmed a read index, each shared by all readers that waited for it.
    pub read_rounds: u64,
    /// Accepted streams refused at the greeting.
    pub peers_refused: u64,
}

#[derive(Default)]
pub(crate) struct DurationCounter {
    count: AtomicU64,
    sum_us: AtomicU64,
    buckets: [AtomicU64; DURATION_BOUNDS.len() + 1],
}

impl DurationCounter {
    pub(crate) fn add(&self, took: Duration) {
        let bucket = DURATION_BOUNDS.partition_point(|bound| *bound < took);
        self.count.fetch_add(1, Relaxed);
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.buckets[bucket].fetch_add(1, Relaxed);
    }

    fn read(&self) -> Durations {
        Durations {
            count: self.count.load(Relaxed),
            sum: Duration::from_micros(self.sum_us.load(Relaxed)),
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed)),
        }
    }
}

/// Counted by the log's thread.
#[derive(Default)]
pub(crate) struct LogCounters {
    fsyncs: DurationCounter,
    entries: AtomicU64,
    bytes: AtomicU64,
    cut: AtomicU64,
    failure: OnceLock<String>,
    failed: CancellationToken,
}

impl LogCounters {
    pub(crate) fn synced(&self, took: Duration, entries: u64, on_disk: u64) {
        self.fsyncs.add(took);
        self.entries.fetch_add(entries, Relaxed);
        self.on_disk(on_disk);
    }

    pub(crate) fn on_disk(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn cut(&self, bytes: u64) {
        self.cut.fetch_add(bytes, Relaxed);
    }

    /// Bytes of torn writes that were cut off.
    pub(crate) fn bytes_cut(&self) -> u64 {
        self.cut.load(Relaxed)
    }

    /// The replica must end. Keeps the first error, which is the one that matters.
    pub(crate) fn fail(&self, error: &io::Error) {
        let _ = self.failure.set(error.to_string());
        self.failed.cancel();
    }

    /// Resolves when the replica must end, because its disk or its state can't be trusted any more.
    pub(crate) async fn failed(&self) {
        self.failed.cancelled().await;
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

/// Everything that a replica counts.
#[derive(Default)]
pub(crate) struct Counting {
    pub(crate) log: std::sync::Arc<LogCounters>,
    pub(crate) leader_changes: AtomicU64,
    pub(crate) snapshots_built: DurationCounter,
    pub(crate) snapshots_installed: DurationCounter,
    pub(crate) snapshot_bytes: AtomicU64,
    pub(crate) proposals_refused: AtomicU64,
    pub(crate) read_rounds: AtomicU64,
    pub(crate) peers_refused: AtomicU64,
}

impl Counting {
    pub(crate) fn read(&self) -> Counters {
        Counters {
            leader_changes: self.leader_changes.load(Relaxed),
            fsyncs: self.log.fsyncs.read(),
            entries_written: self.log.entries.load(Relaxed),
            log_bytes: self.log.bytes(),
            log_bytes_cut: self.log.cut.load(Relaxed),
            snapshots_built: self.snapshots_built.read(),
            snapshots_installed: self.snapshots_installed.read(),
            snapshot_bytes: self.snapshot_bytes.load(Relaxed),
            proposals_refused: self.proposals_refused.load(Relaxed),
            read_rounds: self.read_rounds.load(Relaxed),
            peers_refused: self.peers_refused.load(Relaxed),
        }
    }
}

/// Adds one; for counters that are only ever read for display.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
