//! Every setting and every limit of a replica, with defaults and their reasons.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Names a member for ever. An id is never used again for another data directory.
pub type NodeId = u64;

/// Where a member is reached. Both are `host:port`; this crate uses `peer` and carries `api` for its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Where other members connect.
    pub peer: String,
    /// Where clients connect.
    pub api: String,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {} api {}", self.peer, self.api)
    }
}

/// What keeps the log on disk. Both pass the same tests; a data directory stays with the one that it was written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogEngine {
    /// The `raft-log` crate: chunked, append-only files.
    #[default]
    RaftLog,
    /// The `sled` crate: a log-structured tree.
    Sled,
    /// Memory, on a simulated disk.
    #[cfg(feature = "simulation")]
    Memory,
}

impl LogEngine {
    /// Every engine that keeps anything.
    pub const ALL: [LogEngine; 2] = [LogEngine::RaftLog, LogEngine::Sled];
}

/// Its name in settings and messages.
impl fmt::Display for LogEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogEngine::RaftLog => "raft-log",
            LogEngine::Sled => "sled",
            #[cfg(feature = "simulation")]
            LogEngine::Memory => "memory",
        })
    }
}

impl FromStr for LogEngine {
    type Err = String;

    fn from_str(name: &str) -> Result<LogEngine, String> {
        let known = || LogEngine::ALL.map(|engine| engine.to_string()).join(", ");
        let found = LogEngine::ALL.into_iter().find(|engine| engine.to_string() == name);
        found.ok_or_else(|| format!("{name} is no log engine; there are {}", known()))
    }
}

/// Forms of the application's entries and states, by number: which this member reads, and which one it writes.
///
/// A member is never led by one whose form it can't read: their connections are refused on both sides' logs, and the ones
/// that understand each other go on. So a release that knows a new form writes the old one; the release after it writes
/// the new one, and members are replaced one by one, a release at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formats {
    /// The oldest form that it reads.
    pub oldest: u8,
    /// The newest form that it reads.
    pub newest: u8,
    /// The form that it writes.
    pub writes: u8,
}

impl Formats {
    pub(crate) fn read(&self, written: u8) -> bool {
        (self.oldest..=self.newest).contains(&written)
    }
}

/// How one replica runs. Validated by [`Raft::start`](crate::Raft::start).
#[derive(Clone, Debug)]
pub struct Settings {
    /// This member's id.
    pub id: NodeId,
    /// The cluster's name. Members of another cluster are refused by it.
    pub cluster: String,
    /// A random number: the name of the data directory, should it be new. No two directories may ever share one, so it is
    /// drawn anew for every start; an existing directory keeps its own.
    pub nonce: u64,
    /// Where log, snapshots and identity live; created if missing. One directory belongs to one id for ever.
    pub data_dir: PathBuf,
    /// The members that found the cluster, this one included. Empty with `join`. Without meaning once founded.
    pub founders: BTreeMap<NodeId, Addresses>,
    /// Start as a newcomer that waits until the members of an existing cluster add it.
    pub join: bool,
    /// How others reach this member; recorded when it joins. For a founder its entry among the founders counts.
    pub advertise: Addresses,
    /// How often a leader shows that it lives. Default 100 ms.
    pub heartbeat: Duration,
    /// Shortest and longest silence of a leader after which a member asks for votes; a leader that has not heard from a
    /// majority for half of the longest refuses proposals. Default 300-600 ms.
    pub election: (Duration, Duration),
    /// What keeps the log.
    pub engine: LogEngine,
    /// What the application reads and writes. Default: form 1 alone.
    pub formats: Formats,
    /// Named limits.
    pub limits: Limits,
}

impl Settings {
    /// Settings with every default; the caller fills in who and where.
    pub fn new(id: NodeId, cluster: impl Into<String>, data_dir: impl Into<PathBuf>, nonce: u64) -> Settings {
        Settings {
            id,
            nonce,
            cluster: cluster.into(),
            data_dir: data_dir.into(),
            founders: BTreeMap::new(),
            join: false,
            advertise: Addresses::default(),
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(300), Duration::from_millis(600)),
            engine: LogEngine::default(),
            formats: Formats { oldest: 1, newest: 1, writes: 1 },
            limits: Limits::default(),
        }
    }

    /// Checks the relations between settings, and says in words what is wrong.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let (shortest, longest) = self.election;
        if self.cluster.is_empty() || self.cluster.len() > Limits::CLUSTER_NAME_BYTES_MAX {
            return Err(format!("the cluster name must have 1 to {} bytes", Limits::CLUSTER_NAME_BYTES_MAX));
        }
        if self.join != self.founders.is_empty() {
            return Err("give either the founders of a new cluster, or join".to_owned());
        }
        if !self.join && !self.founders.contains_key(&self.id) {
            return Err(format!("node {} is not among the founders it was given", self.id));
        }
        if self.heartbeat < Duration::from_millis(5) || shortest < self.heartbeat * 2 || longest < self.heartbeat * 4 {
            return Err(
                "heartbeats must be at least 5 ms apart, and it must hold that heartbeat * 2 <= shortest election \
                        timeout, heartbeat * 4 <= longest"
                    .to_owned(),
            );
        }
        if longest <= shortest {
            return Err("the shortest election timeout must be shorter than the longest".to_owned());
        }
        if !self.formats.read(self.formats.writes) {
            return Err("a member must read the form that it writes".to_owned());
        }
        self.limits.validate()
    }
}

/// Everything that is bounded, and why at that size.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest proposal. One entry must not hold up the ones behind it: 1 MiB is about 10 ms of a gigabit link.
    pub entry_bytes_max: usize,
    /// Largest frame between members; a longer one ends the connection before anything is reserved for it. It holds one
    /// append of `append_bytes_max`, or one entry of the largest size with its envelope. Default 8 MiB.
    pub frame_bytes_max: usize,
    /// Bytes of entries in one append. Larger ones delay the answers of the ones behind. Default 1 MiB.
    pub append_bytes_max: usize,
    /// Entries in one append. Default 1024.
    pub append_entries_max: u64,
    /// A snapshot travels in chunks of this size; memory for a transfer is one chunk. Default 1 MiB.
    pub snapshot_chunk_bytes: usize,
    /// Entries after which a snapshot is taken: bounds replay at a restart to a few seconds. Default 200 000.
    pub snapshot_every_entries: u64,
    /// Bytes of log after which a snapshot is taken, whatever the number of entries: bounds the disk. Default 256 MiB.
    pub snapshot_every_log_bytes: u64,
    /// Bytes of log up to which members that are behind are considered: a slow one that answers is sent entries, however
    /// many, and while one receives a snapshot no newer one is taken. Above it they get a snapshot. Default 1 GiB.
    pub log_bytes_held_max: u64,
    /// Entries kept behind a snapshot, so that a member that was away for a moment catches up by log. Default 50 000.
    pub entries_kept_after_snapshot: u64,
    /// Size of one log file, and of sled's segments up to 4 MiB. Space returns file by file, and the newest file's entries stay in memory. Default 32 MiB.
    pub log_chunk_bytes: usize,
    /// Space below the data directory that is kept free, so that no write ever finds the disk full; see `space`. 0 turns
    /// it off. Default 64 MiB: all proposals that may be in flight.
    pub disk_reserve_bytes: u64,
    /// Recent entries kept in memory, for replication and apply. Default 64 MiB.
    pub log_cache_bytes: usize,
    /// How long the log engine gathers before it writes. Never 0: that turns its group commit off. Default 20 us.
    pub flush_gather: Duration,
    /// Proposals handed to openraft and not yet answered. More are refused as overloaded. Default 8192.
    pub proposals_in_flight: usize,
    /// Bytes of proposals in flight; the queue in front of the log must not grow without bound. Default 64 MiB.
    pub proposal_bytes_in_flight: usize,
    /// How long a proposal is waited for; its outcome is unknown afterwards. Default 10 s.
    pub proposal_within: Duration,
    /// How long a linearizable read waits for its index to be confirmed and applied. Default 5 s.
    pub read_within: Duration,
    /// Readers that may wait for a read index. Default 65 536: each is a few dozen bytes.
    pub reads_waiting: usize,
    /// How long a connection may take to be made, greeting included. Default 1 s.
    pub connect_within: Duration,
    /// How long a greeting may be awaited on an accepted stream. Default 2 s.
    pub hello_within: Duration,
    /// Silence after which an answer is given up and the connection replaced: votes, reads, appends. Default 1.5 s,
    /// longer than a slow disk stalls.
    pub answer_within: Duration,
    /// Silence after which the accepting side closes a connection; connecting sides that mean to keep one say
    /// something every third of it. Default 15 s.
    pub idle_max: Duration,
    /// Streams accepted at once; the ones above are closed unread. Members need about six each. Default 256.
    pub accepted_streams_max: usize,
    /// How long sending and installing a snapshot may take after the last chunk. Default 120 s.
    pub snapshot_install_within: Duration,
    /// How long one change of the members is waited for; its outcome is unknown afterwards. Default 5 s: two entries, and
    /// slow disks.
    pub change_within: Duration,
    /// Entries that a learner may lack when it becomes a voter: the group may wait for it right after. Default 1000.
    pub promote_lag_max: u64,
    /// How long a promotion, or a transfer of leadership, waits for the member to have caught up. Default 3 s.
    pub catch_up_within: Duration,
    /// How long a transfer of leadership is waited for. Default 2 s: where it fails, an election follows.
    pub transfer_within: Duration,
}

impl Limits {
    /// Longest cluster name; it is in every greeting.
    pub const CLUSTER_NAME_BYTES_MAX: usize = 128;
    /// Largest greeting, both ways. Read before anything is known about the other side.
    pub(crate) const HELLO_BYTES_MAX: usize = 4096;

    fn validate(&self) -> Result<(), String> {
        let envelope = 64 * 1024;
        if self.flush_gather.is_zero() {
            return Err("flush_gather must not be 0: the log engine would stop sharing flushes".to_owned());
        }
        if self.frame_bytes_max < self.append_bytes_max + self.entry_bytes_max + envelope {
            return Err("frame_bytes_max must hold append_bytes_max + entry_bytes_max + 64 KiB".to_owned());
        }
        if self.frame_bytes_max < self.snapshot_chunk_bytes + envelope || self.frame_bytes_max > u32::MAX as usize {
            return Err("frame_bytes_max must hold snapshot_chunk_bytes + 64 KiB and fit 32 bits".to_owned());
        }
        if self.proposals_in_flight == 0 || self.proposal_bytes_in_flight < self.entry_bytes_max {
            return Err("proposals in flight must allow one entry of the largest size".to_owned());
        }
        if u32::try_from(self.proposal_bytes_in_flight).is_err() {
            return Err("proposal_bytes_in_flight must fit 32 bits".to_owned());
        }
        if self.snapshot_every_log_bytes < 2 * self.log_chunk_bytes as u64 {
            return Err(
                "snapshot_every_log_bytes must be at least two log files: space returns by whole ones".to_owned()
            );
        }
        if self.log_bytes_held_max < self.snapshot_every_log_bytes {
            return Err("log_bytes_held_max must be at least snapshot_every_log_bytes".to_owned());
        }
        if self.log_chunk_bytes == 0 || self.snapshot_chunk_bytes == 0 || self.append_entries_max == 0 {
            return Err("sizes must not be 0".to_owned());
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Limits {
        let mib = 1024 * 1024;
        Limits {
            entry_bytes_max: mib,
            frame_bytes_max: 8 * mib,
            append_bytes_max: mib,
            append_entries_max: 1024,
            snapshot_chunk_bytes: mib,
            snapshot_every_entries: 200_000,
            snapshot_every_log_bytes: 256 * mib as u64,
            log_bytes_held_max: 1024 * mib as u64,
            entries_kept_after_snapshot: 50_000,
            log_chunk_bytes: 32 * mib,
            disk_reserve_bytes: 64 * mib as u64,
            log_cache_bytes: 64 * mib,
            flush_gather: Duration::from_micros(20),
            proposals_in_flight: 8192,
            proposal_bytes_in_flight: 64 * mib,
            proposal_within: Duration::from_secs(10),
            read_within: Duration::from_secs(5),
            reads_waiting: 65_536,
            connect_within: Duration::from_secs(1),
            hello_within: Duration::from_secs(2),
            answer_within: Duration::from_millis(1500),
            idle_max: Duration::from_secs(15),
            accepted_streams_max: 256,
            snapshot_install_within: Duration::from_secs(120),
            change_within: Duration::from_secs(5),
            promote_lag_max: 1000,
            catch_up_within: Duration::from_secs(3),
            transfer_within: Duration::from_secs(2),
        }
    }
}
