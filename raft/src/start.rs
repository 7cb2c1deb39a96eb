//! From a data directory to a running replica.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use tokio::sync::watch;
use tracing::warn;

use crate::apply::{Applier, Progress};
use crate::backup::sync_dir;
use crate::blocking;
use crate::compaction::Behind;
use crate::counters::{Counting, LogCounters};
use crate::entry::Group;
use crate::identity::{Identity, IdentityError};
use crate::leaving;
use crate::log::{self, LogCloser, LogReader, LogStore, Owner, RecoveryError};
use crate::machine::StateMachine;
use crate::net::link::{Lines, Local};
use crate::net::peer::Peers;
use crate::seed::Seed;
use crate::settings::{LogEngine, NodeId, Settings};
use crate::short::Shortage;
use crate::snapshot::{self, Snapshots};
use crate::space::Headroom;
use crate::stream::Connect;

/// Why a replica does not start. Nothing was changed in the data directory, except that a torn write may have been cut
/// off and leftovers removed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings contradict each other.
    #[error("the settings can't work: {0}")]
    Settings(String),
    /// The data directory belongs to another node or cluster, or was written by another version.
    #[error("{0}. Point the node at its own data directory, or start with an empty one, --join and a new id")]
    Foreign(String),
    /// The data directory was written with another log engine.
    #[error(
        "{dir} was written with the log engine {found}, not with {asked}. Start with --log-engine {found}; to change the \
         engine of a node, remove it from its cluster and start it with an empty directory, --join and a new id"
    )]
    Engine {
        /// The data directory.
        dir: PathBuf,
        /// What it was written with.
        found: LogEngine,
        /// What the settings ask for.
        asked: LogEngine,
    },
    /// What is stored was damaged. The group may count on what can't be read any more, so this node must not go on.
    #[error(
        "{0}. Part of what this node has acknowledged is lost. Keep the directory for inspection; remove the node from \
         its cluster and start it with an empty directory, --join and a new id"
    )]
    Damaged(String),
    /// The data directory is of a member that was removed.
    #[error(
        "{dir} is the data directory of node {id}, which was removed from the cluster; neither is ever used again. Start with \
         an empty directory, --join and a new id",
        dir = .0.display(), id = .1
    )]
    Removed(PathBuf, NodeId),
    /// Another process uses the data directory.
    #[error("{0}. Another process uses this data directory; stop it first")]
    InUse(String),
    /// Another process runs with the same identity: one of the two data directories is a copy.
    #[error(
        "another process answers at {address} as node {id} with the same data directory as {dir}: one of them is a copy. \
         Two processes with one identity could vote twice; stop one of them and remove its directory",
        dir = .dir.display()
    )]
    Twin {
        /// The node's id.
        id: NodeId,
        /// Where the group knows the node, and where the other process answers.
        address: String,
        /// This process's directory.
        dir: PathBuf,
    },
    /// The disk refused.
    #[error(
        "{path}: {source}. Look at the disk, the space on it and the rights of this path, then start this node again"
    )]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory holds a restored state with which this node must not begin. Nothing was changed.
    #[error("{0}")]
    Seed(String),
    /// The consensus library refused what it found.
    #[error("the stored state can't be restored: {0}")]
    Restore(String),
}

impl From<IdentityError> for StartError {
    fn from(e: IdentityError) -> StartError {
        match e {
            IdentityError::Io { path, source } => StartError::Io { path, source },
            IdentityError::Damaged { .. } => StartError::Damaged(e.to_string()),
            IdentityError::Engine { dir, found, asked } => StartError::Engine { dir, found, asked },
            IdentityError::Format { .. } | IdentityError::Foreign { .. } => StartError::Foreign(e.to_string()),
        }
    }
}

impl From<RecoveryError> for StartError {
    fn from(e: RecoveryError) -> StartError {
        match e {
            RecoveryError::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock => {
                StartError::InUse(source.to_string())
            }
            RecoveryError::Io { path, source } => StartError::Io { path, source },
            RecoveryError::Damaged { .. } => StartError::Damaged(e.to_string()),
        }
    }
}

/// What is on disk, open.
struct Disk {
    lock: File,
    identity: Identity,
    pristine: bool,
    store: LogStore,
    closer: LogCloser,
    snapshots: Snapshots,
    space: Arc<Headroom>,
}

/// Opens or creates the data directory. Blocks.
///
/// The identity is written last: while it is missing, nothing was promised to anyone, and an interrupted creation is
/// simply repeated. Once it is there, the log must be too. A directory with a restored state begins with that (see `seed`).
fn open_disk(settings: &Settings, counters: Arc<LogCounters>) -> Result<Disk, StartError> {
    let (log_dir, snapshot_dir) =
        (log::dir_in(&settings.data_dir, settings.engine), snapshot::dir_in(&settings.data_dir));
    make_dirs(&[&settings.data_dir])?;
    let lock = lock(&settings.data_dir)?;
    let known = Identity::load(&settings.data_dir)?;
    let create = known.is_none();
    let identity = match known {
        Some(identity) => {
            identity.check(&settings.data_dir, settings)?;
            if leaving::is_marked(&settings.data_dir) {
                return Err(StartError::Removed(settings.data_dir.clone(), identity.id));
            }
            identity
        }
        None => {
            no_other_log(settings)?;
            Identity::draw(settings)
        }
    };
    let space = Arc::new(Headroom::new(&settings.data_dir, settings.limits.disk_reserve_bytes));
    make_dirs(&[&log_dir, &snapshot_dir])?;
    let seed = Seed::find(&settings.data_dir)?;
    if create && let Some(seed) = &seed {
        seed.plant(&snapshot_dir, &identity, settings, &space)?;
    }
    let owner = Owner { id: identity.id, nonce: identity.nonce };
    let snapshots = Snapshots::open(&snapshot_dir, space.clone()).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => StartError::Damaged(source.to_string()),
        _ => StartError::Io { path: snapshot_dir.clone(), source },
    })?;
    let opened =
        log::open(&settings.data_dir, settings.engine, owner, create, &settings.limits, (counters, space.clone()))?;
    let pristine = opened.pristine && snapshots.current().is_none();
    let settled = match create {
        true => settle(settings, &identity, opened.pristine && (pristine || seed.is_some())),
        false => Ok(()),
    };
    if let Err(e) = settled.and_then(|()| seed.map_or(Ok(()), |seed| seed.spend(snapshots.current().as_ref()))) {
        // So that the directory is free again when this returns.
        opened.closer.close_blocking();
        return Err(e);
    }
    Ok(Disk { lock, identity, pristine, store: opened.store, closer: opened.closer, snapshots, space })
}

fn make_dirs(dirs: &[&PathBuf]) -> Result<(), StartError> {
    for dir in dirs {
        std::fs::create_dir_all(dir).map_err(|source| StartError::Io { path: (*dir).clone(), source })?;
    }
    Ok(())
}

/// A directory without an identity was never used, or its creation was interrupted, and is then repeated with the engine that
/// it was begun with. A log of another engine is not passed over.
fn no_other_log(settings: &Settings) -> Result<(), StartError> {
    for found in LogEngine::ALL.into_iter().filter(|engine| *engine != settings.engine) {
        if log::dir_in(&settings.data_dir, found).exists() {
            return Err(StartError::Engine { dir: settings.data_dir.clone(), found, asked: settings.engine });
        }
    }
    Ok(())
}

/// Makes a new data directory count: writes its identity.
fn settle(settings: &Settings, identity: &Identity, pristine: bool) -> Result<(), StartError> {
    if !pristine {
        let found = format!("{} holds a log or a snapshot but no identity", settings.data_dir.display());
        return Err(StartError::Damaged(found));
    }
    identity.store(&settings.data_dir)?;
    // The directory itself must be found after a power cut, too.
    sync_dir(&settings.data_dir).map_err(|source| StartError::Io { path: settings.data_dir.clone(), source })
}

/// Takes the directory for this process, before anything in it is read: recovery cuts off what another process may be
/// just writing.
fn lock(data_dir: &Path) -> Result<File, StartError> {
    let opened = File::options().create(true).truncate(false).write(true).open(data_dir.join("lock"));
    take(data_dir, opened)
}

/// As [`lock`], and nothing is created: a directory without the file was never used.
pub(crate) fn lock_existing(data_dir: &Path) -> Result<File, StartError> {
    take(data_dir, File::open(data_dir.join("lock")))
}

fn take(data_dir: &Path, opened: io::Result<File>) -> Result<File, StartError> {
    let fail = |source| StartError::Io { path: data_dir.join("lock"), source };
    let file = opened.map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse(format!("{} is locked", data_dir.display()))),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How openraft is set up. What is not its default, and why:
fn config(settings: &Settings) -> Result<Config, StartError> {
    let limits = &settings.limits;
    let heartbeat = millis(settings.heartbeat);
    let silence = millis(settings.election.1);
    // openraft waits for the leader's lease, which is its longest timeout, and then for a random timeout. So the silence
    // that is meant is shared out: half of the longest for the lease, the rest up to it by chance.
    let longest = silence / 2;
    let shortest = ((millis(settings.election.0) + silence) / 2).saturating_sub(longest).max(heartbeat * 5 / 4);
    // A heartbeat right after an acknowledged append tells nothing new; but a gap must never reach an election timeout.
    let spared = heartbeat / 2;
    let spare_heartbeats = heartbeat * 13 / 64 + heartbeat + spared < shortest;
    let config = Config {
        cluster_name: settings.cluster.clone(),
        heartbeat_interval: heartbeat,
        heartbeat_min_interval: Some(if spare_heartbeats { spared } else { 0 }),
        election_timeout_min: shortest,
        election_timeout_max: longest,
        max_payload_entries: limits.append_entries_max,
        max_append_entries: Some(4096),
        // It is decided in `compaction`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: limits.entries_kept_after_snapshot,
        purge_batch_size: (limits.entries_kept_after_snapshot / 8).clamp(1, 4096),
        // The default of 200 ms never gets a real snapshot across.
        install_snapshot_timeout: millis(limits.snapshot_install_within).max(60_000),
        // A returning or cut-off member must not depose a leader that works.
        enable_pre_vote: Some(true),
        // A leader that can't reach a majority must let the others elect one (openraft #2080).
        quorum_loss_probe_interval: Some((2 * silence).max(1600)),
        // A restarted leader stands for election like everyone: what it kept in memory as a leader is gone.
        enable_leader_restore: Some(false),
        // A member whose log went backwards has lost what it acknowledged.
        allow_log_reversion: None,
        ..Config::default()
    };
    config.validate().map_err(|e| StartError::Settings(e.to_string()))
}

/// A replica whose tasks do not run yet.
pub(crate) struct Built {
    pub(crate) raft: openraft::Raft<Group, Applier>,
    pub(crate) local: Arc<Local>,
    pub(crate) lines: Arc<Lines>,
    pub(crate) log: LogReader,
    pub(crate) progress: Arc<Progress>,
    pub(crate) counting: Arc<Counting>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) pristine: bool,
    pub(crate) closer: LogCloser,
    /// Held for as long as the replica uses its directory.
    pub(crate) lock: File,
}

/// Restores the state from disk: the snapshot, then the entries that are known to be committed.
pub(crate) async fn build(
    settings: &Settings,
    machine: Arc<dyn StateMachine>,
    connect: Arc<dyn Connect>,
) -> Result<Built, StartError> {
    settings.validate().map_err(StartError::Settings)?;
    let config = config(settings)?;
    let counting = Arc::new(Counting::default());
    let (of_disk, counters) = (settings.clone(), counting.log.clone());
    let opened = blocking::run(move || open_disk(&of_disk, counters));
    let disk = opened.await.map_err(|e| StartError::Restore(e.to_string()))??;
    let local = Arc::new(Local {
        cluster: settings.cluster.clone(),
        id: settings.id,
        nonce: disk.identity.nonce,
        process: settings.nonce,
        advertise: settings.advertise.clone(),
        heartbeat: settings.heartbeat,
        formats: settings.formats,
        limits: settings.limits.clone(),
        connect,
        shortage: Arc::new(Shortage::new(settings.id, disk.space)),
        behind: Behind::default(),
        removed: watch::Sender::new(false),
    });
    let (progress, lines) = (Arc::new(Progress::new()), Arc::new(Lines::default()));
    let snapshots = Arc::new(disk.snapshots);
    let applier =
        Applier::new(settings.cluster.clone(), machine, snapshots.clone(), progress.clone(), counting.clone());
    let log = disk.store.reader();
    let peers = Peers::new(local.clone(), lines.clone());
    let built = openraft::Raft::build(settings.id, Arc::new(config), peers, disk.store, applier).await;
    let raft = match built {
        Ok(raft) => raft,
        Err(e) => {
            disk.closer.close().await;
            return Err(StartError::Restore(e.to_string()));
        }
    };
    if let Some(address) = leaving::find_twin(&progress, &local, &lines).await {
        if let Err(e) = raft.shutdown().await {
            warn!(error = %e, "the replica did not stop cleanly");
        }
        disk.closer.close().await;
        return Err(StartError::Twin { id: settings.id, address, dir: settings.data_dir.clone() });
    }
    Ok(Built {
        raft,
        local,
        lines,
        log,
        progress,
        counting,
        snapshots,
        pristine: disk.pristine,
        closer: disk.closer,
        lock: disk.lock,
    })
}
