//! Looking into the data directory of a replica that does not run, without changing anything in it.
//!
//! The log is read from a copy, because whoever opens a log repairs its end. So what is told here is what a start would find
//! and do, and the directory is as it was.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage};

use crate::backup::{About, Backup};
use crate::counters::LogCounters;
use crate::entry::{Entry, LogId};
use crate::identity::Identity;
use crate::log::{self, LogReader, LogStore, Owner};
use crate::machine::StateMachine;
use crate::roster::Roster;
use crate::settings::{Limits, NodeId};
use crate::snapshot::{self, SnapshotFile};
use crate::space::Headroom;
use crate::start::{self, StartError};

/// How far the state is rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpTo {
    /// As a start does: the snapshot, and the entries that are known to be committed.
    Committed,
    /// All entries of the log. Those that are not known to be committed may have been, and acknowledged, or never.
    Everything,
}

/// What a data directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id; 0 if the directory never learned it.
    pub cluster_id: u64,
    /// The node that it belongs to.
    pub id: NodeId,
    /// The snapshot, if there is one, with its length.
    pub snapshot: Option<(About, u64)>,
    /// First and last entry of the log, if it has any.
    pub entries: Option<(u64, u64)>,
    /// Entries up to this one are known to be committed, by the log's own mark or because a snapshot covers them.
    pub committed: u64,
    /// The last term that the node knew of.
    pub term: u64,
    /// Bytes of a torn write at the end of the log, which a start will cut off.
    pub torn_bytes: u64,
    /// The machine has the state as of this entry.
    pub rebuilt: u64,
}

/// Reads a data directory and rebuilds its state in `machine`, which must be new. `scratch` takes the copy of the log and must
/// be empty; it is the caller's to remove. Blocks now and then; it is meant for a process that does nothing else.
///
/// # Errors
/// As a start: another process uses the directory, or something in it is damaged, missing, or of another version.
pub async fn survey(
    data_dir: &Path,
    scratch: &Path,
    up_to: UpTo,
    machine: &dyn StateMachine,
) -> Result<Survey, StartError> {
    let _lock = start::lock_existing(data_dir)?;
    let identity = Identity::load(data_dir)?
        .ok_or_else(|| StartError::Foreign(format!("{} belongs to no node: it has no identity", data_dir.display())))?;
    let snapshot = newest_snapshot(&snapshot::dir_in(data_dir))?;
    let io = |source| StartError::Io { path: scratch.to_owned(), source };
    let engine = identity.engine;
    let (here, copy) = (log::dir_in(data_dir, engine), log::dir_in(scratch, engine));
    std::fs::create_dir(&copy).and_then(|()| copy_files(&here, &copy)).map_err(io)?;
    let owner = Owner { id: identity.id, nonce: identity.nonce };
    let counters = Arc::new(LogCounters::default());
    let space = Arc::new(Headroom::new(scratch, 0));
    let mut opened = log::open(scratch, engine, owner, false, &Limits::default(), (counters.clone(), space))?;
    let rebuilding = Rebuilding { machine, at: None, roster: Roster::default() };
    let surveyed = rebuilding.survey(snapshot.as_ref(), &mut opened.store, up_to).await;
    opened.closer.close().await;
    let found = surveyed?;
    let about = snapshot.map(|file| file.len().map(|bytes| (Backup::new(file).about(), bytes))).transpose();
    Ok(Survey {
        cluster: identity.cluster,
        cluster_id: found.cluster_id,
        id: identity.id,
        snapshot: about.map_err(io)?,
        entries: found.entries,
        committed: found.committed,
        term: found.term,
        torn_bytes: counters.bytes_cut(),
        rebuilt: found.rebuilt,
    })
}

/// The snapshot that a start would use. Unlike a start, this removes nothing.
fn newest_snapshot(dir: &Path) -> Result<Option<SnapshotFile>, StartError> {
    let listed = || -> io::Result<Option<PathBuf>> {
        let paths = std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
        let paths: Vec<PathBuf> = paths.collect::<io::Result<_>>()?;
        Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|found| found == "snapshot")).max())
    };
    let newest = listed().map_err(|source| StartError::Io { path: dir.to_owned(), source })?;
    newest.map(|path| snapshot::open_file(&path)).transpose().map_err(|e| damaged(&e))
}

fn damaged(what: &impl ToString) -> StartError {
    StartError::Damaged(what.to_string())
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&target)?;
            copy_files(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// What the log and the snapshot say together.
struct Found {
    cluster_id: u64,
    entries: Option<(u64, u64)>,
    committed: u64,
    term: u64,
    rebuilt: u64,
}

/// A state on its way from the snapshot to the end that is wanted.
struct Rebuilding<'a> {
    machine: &'a dyn StateMachine,
    at: Option<LogId>,
    roster: Roster,
}

impl Rebuilding<'_> {
    async fn survey(
        mut self,
        snapshot: Option<&SnapshotFile>,
        store: &mut LogStore,
        up_to: UpTo,
    ) -> Result<Found, StartError> {
        let reading = |e: io::Error| damaged(&format!("the log: {e}"));
        let state = store.get_log_state().await.map_err(reading)?;
        let mut reader = store.get_log_reader().await;
        let vote = reader.read_vote().await.map_err(reading)?;
        let known = store.read_committed().await.map_err(reading)?;
        if let Some(file) = snapshot {
            file.restore(self.machine).map_err(|e| damaged(&format!("{}: {e}", file.path().display())))?;
            self.at = file.head.meta.last_log_id;
            self.roster = file.head.roster.clone();
        }
        let (purged, covered) = (state.last_purged_log_id, self.at);
        if purged.map(|id| id.index) > covered.map(|id| id.index) {
            let missing = format!("the log is purged up to {purged:?}, but the snapshot covers only {covered:?}");
            return Err(damaged(&missing));
        }
        let committed = known.max(covered);
        let target = match up_to {
            UpTo::Committed => committed,
            UpTo::Everything => state.last_log_id.max(covered),
        };
        self.replay(&mut reader, target).await?;
        let first = purged.map_or(0, |id| id.index + 1);
        let last = state.last_log_id.filter(|last| last.index >= first).map(|last| (first, last.index));
        let terms = [vote.map(|vote| vote.leader_id.term), self.at.map(|id| id.leader_id.term)];
        Ok(Found {
            cluster_id: self.roster.cluster_id,
            entries: last,
            committed: committed.map_or(0, |id| id.index),
            term: terms.into_iter().flatten().max().unwrap_or(0),
            rebuilt: self.at.map_or(0, |id| id.index),
        })
    }

    /// Applies what follows the snapshot, up to `target`.
    async fn replay(&mut self, reader: &mut LogReader, target: Option<LogId>) -> Result<(), StartError> {
        let end = target.map_or(0, |id| id.index + 1);
        let mut next = self.at.map_or(0, |id| id.index + 1);
        while next < end {
            let read = reader.limited_get_log_entries(next, end).await;
            let entries = read.map_err(|e| damaged(&format!("entry {next} of the log: {e}")))?;
            if entries.first().is_none_or(|entry| entry.log_id.index != next) {
                return Err(damaged(&format!("entry {next} of the log is missing")));
            }
            for entry in entries {
                next = entry.log_id.index + 1;
                self.apply(&entry)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), StartError> {
        let id = entry.log_id;
        if self.at.is_some_and(|before| before.leader_id > id.leader_id) {
            return Err(damaged(&format!("entry {id} is of an older term than the one before it")));
        }
        let machine = self.machine;
        match &entry.payload {
            EntryPayload::Normal(data) => {
                machine.apply(id.index, &data.0, None).map_err(|e| StartError::Restore(e.to_string()))?;
            }
            EntryPayload::Blank | EntryPayload::Membership(_) => machine.applied(id.index),
        }
        if let EntryPayload::Membership(members) = &entry.payload {
            self.roster.note(members.nodes());
        }
        self.at = Some(id);
        Ok(())
    }
}
