//! Files of directory nodes that do not run: backups, data directories, and the beginnings of new clusters.
//!
//! Everything here belongs to a verb that does nothing else, so it blocks.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use switchboard_raft::{self as raft, About, Backup, MemberRole, Survey, UpTo};

use super::replicated::{FrozenDirectory, Replicated};
use super::watch_hub::{Retention, WatchHub};
use crate::chance;
use crate::directory::{Directory, NoRevisionsLeft, Revision};
use crate::wire::http::{INVARIANTS_HOLD, cluster_id, hex};

/// Why files can't be used as they were meant to.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A backup can't be read, or is damaged.
    #[error("{0}")]
    Backup(String),
    /// A data directory can't be read, or is damaged.
    #[error("{0}")]
    Directory(#[from] raft::StartError),
    /// The state contradicts itself: a defect of the program that wrote it.
    #[error("the state is not sound: {0}. It was written by a defective program or machine; use an older backup")]
    Unsound(String),
    /// The new cluster can't be numbered.
    #[error("{0}")]
    Numbers(#[from] NoRevisionsLeft),
    /// The new directory can't be written.
    #[error("{}: {source}", dir.display())]
    Write {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How much a state holds, and whether it is sound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StateFacts {
    /// Its revision.
    pub revision: Revision,
    /// Live connections.
    pub connections: u64,
    /// Users with a connection, or one of an ended session that still holds memory.
    pub users: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Names of gateways that ever had a session.
    pub gateways: u64,
    /// Its hash, as `GET /v1/cluster/hash` tells it.
    pub sha256: String,
    /// `hold`, or the first invariant that does not.
    pub invariants: String,
}

impl StateFacts {
    fn of(directory: &Directory) -> Self {
        let stats = directory.stats();
        Self {
            revision: directory.revision(),
            connections: stats.connections,
            users: stats.users,
            sessions: stats.sessions,
            gateways: directory.gateways(),
            sha256: hex(&directory.digest()),
            invariants: directory.check_invariants().map_or_else(|broken| broken, |()| INVARIANTS_HOLD.to_owned()),
        }
    }

    /// Whether all invariants hold.
    pub fn is_sound(&self) -> bool {
        self.invariants == INVARIANTS_HOLD
    }
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupFacts {
    /// Number of the file's form.
    pub format: u8,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The state's revision.
    pub revision: Revision,
    /// The term of its last entry.
    pub term: u64,
    /// Length of the file.
    pub bytes: u64,
    /// The members at that revision.
    pub members: Vec<MemberFacts>,
    /// What is in it; null where it is damaged.
    pub state: Option<StateFacts>,
    /// Where it is damaged; null where every checksum fits.
    pub damage: Option<String>,
}

/// A member as a file remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberFacts {
    /// Its id.
    pub id: u64,
    /// `voter` or `learner`.
    pub role: &'static str,
    /// Its address for peers.
    pub peer: String,
    /// Its address for services.
    pub api: String,
}

impl BackupFacts {
    /// Whether it could be restored.
    pub fn is_sound(&self) -> bool {
        self.state.as_ref().is_some_and(StateFacts::is_sound)
    }
}

/// Reads all of a backup and checks it. Damage beyond the head is a finding, not an error.
///
/// # Errors
/// When there is no such file, it is no backup, or its head is damaged.
pub fn inspect(file: &Path) -> Result<BackupFacts, FilesError> {
    let opened = open(file)?;
    let bytes = opened.bytes().map_err(|error| unreadable(file, &error))?;
    let (state, damage) = match load(&opened) {
        Ok(directory) => (Some(StateFacts::of(&directory)), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let About { format, cluster, cluster_id: id, index, term, members } = opened.about();
    let role = |role| if role == MemberRole::Voter { "voter" } else { "learner" };
    let members =
        members.into_iter().map(|(id, at, as_)| MemberFacts { id, role: role(as_), peer: at.peer, api: at.api });
    let (revision, members) = (index, members.collect());
    Ok(BackupFacts { format, cluster, cluster_id: cluster_id(id), revision, term, bytes, members, state, damage })
}

fn open(file: &Path) -> Result<Backup, FilesError> {
    // The text of the error names the file.
    Backup::open(file).map_err(|error| FilesError::Backup(error.to_string()))
}

fn unreadable(file: &Path, error: &io::Error) -> FilesError {
    FilesError::Backup(format!("{}: {error}", file.display()))
}

/// Checks every block of a backup, which is quicker than looking at what is in it. Returns the revision and the cluster's id.
///
/// # Errors
/// When it can't be read, or where it is damaged.
pub fn verify(file: &Path) -> Result<(Revision, String), FilesError> {
    let opened = open(file)?;
    opened.verify().map_err(|error| unreadable(file, &error))?;
    let about = opened.about();
    Ok((about.index, cluster_id(about.cluster_id)))
}

fn load(backup: &Backup) -> io::Result<Directory> {
    let machine = rebuilt();
    backup.restore(&machine)?;
    Ok(machine.frozen())
}

/// A state machine that nobody watches.
fn rebuilt() -> Replicated {
    Replicated::new(Arc::new(WatchHub::new(Retention { events: 0, bytes: 0 })), &Arc::from("offline"))
}

/// The beginning of a new cluster, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Begun {
    /// Its name, that of the old one.
    pub cluster: String,
    /// Its id, that nobody had before.
    pub cluster_id: String,
    /// Its first revision.
    pub revision: Revision,
    /// The old cluster's id.
    pub old_cluster_id: String,
    /// The revision of the old state.
    pub old_revision: Revision,
    /// Sessions of the old cluster that are over.
    pub sessions_ended: u64,
    /// Connections that they held; the gateways register those that are still open again.
    pub connections_ended: u64,
    /// Where it lies.
    pub data_dir: PathBuf,
}

/// Makes a new cluster of a backup, in a data directory that is empty or missing.
///
/// # Errors
/// When the backup is damaged or not sound, or the directory is not empty or can't be written.
pub fn restore(file: &Path, data_dir: &Path) -> Result<Begun, FilesError> {
    let opened = open(file)?;
    let directory = load(&opened).map_err(|error| unreadable(file, &error))?;
    let about = opened.about();
    begin(&directory, &about.cluster, about.cluster_id, data_dir)
}

fn begin(old: &Directory, cluster: &str, old_cluster_id: u64, data_dir: &Path) -> Result<Begun, FilesError> {
    old.check_invariants().map_err(FilesError::Unsound)?;
    let new = old.clone().begin_anew()?;
    new.check_invariants().map_err(FilesError::Unsound)?;
    let (revision, id) = (new.revision(), chance::number().max(1));
    let written = raft::write_seed(data_dir, cluster, id, revision, &FrozenDirectory(new));
    written.map_err(|source| FilesError::Write { dir: data_dir.to_owned(), source })?;
    Ok(Begun {
        cluster: cluster.to_owned(),
        cluster_id: cluster_id(id),
        revision,
        old_cluster_id: cluster_id(old_cluster_id),
        old_revision: old.revision(),
        sessions_ended: old.stats().sessions,
        connections_ended: old.stats().connections,
        data_dir: data_dir.to_owned(),
    })
}

/// What a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectoryFacts {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The node that it belongs to.
    pub node: u64,
    /// Revision and length of the snapshot, if there is one.
    pub snapshot: Option<(Revision, u64)>,
    /// First and last entry of the log, if it has any.
    pub log: Option<(u64, u64)>,
    /// Entries up to this one are known to be committed.
    pub committed: u64,
    /// The last term that the node knew of.
    pub term: u64,
    /// Bytes of a torn write at the end of the log, which the next start cuts off.
    pub torn_bytes: u64,
    /// The state, rebuilt from the snapshot and the entries after it.
    pub state: StateFacts,
}

impl DirectoryFacts {
    fn new(survey: &Survey, directory: &Directory) -> Self {
        Self {
            cluster: survey.cluster.clone(),
            cluster_id: cluster_id(survey.cluster_id),
            node: survey.id,
            snapshot: survey.snapshot.as_ref().map(|(about, bytes)| (about.index, *bytes)),
            log: survey.entries,
            committed: survey.committed,
            term: survey.term,
            torn_bytes: survey.torn_bytes,
            state: StateFacts::of(directory),
        }
    }
}

/// Reads all of a data directory, checks it, and rebuilds its state as a start would. Changes nothing in it; the log is copied
/// to the system's directory for temporary files.
///
/// # Errors
/// When a process uses the directory, or something in it is damaged or missing.
pub async fn check(data_dir: &Path) -> Result<DirectoryFacts, FilesError> {
    let (survey, machine) = rebuild(data_dir, UpTo::Committed).await?;
    Ok(DirectoryFacts::new(&survey, &machine.frozen()))
}

/// Makes a new cluster of what the data directory of one member holds, also of entries that may never have been committed,
/// in another directory that is empty or missing. The old one is left as it is.
///
/// # Errors
/// As [`check`] and [`restore`].
pub async fn force_new(old_dir: &Path, data_dir: &Path) -> Result<(DirectoryFacts, Begun), FilesError> {
    let (survey, machine) = rebuild(old_dir, UpTo::Everything).await?;
    let directory = machine.frozen();
    let begun = begin(&directory, &survey.cluster, survey.cluster_id, data_dir)?;
    Ok((DirectoryFacts::new(&survey, &directory), begun))
}

async fn rebuild(data_dir: &Path, up_to: UpTo) -> Result<(Survey, Replicated), FilesError> {
    let scratch = tempfile::Builder::new().prefix("switchboard-log-").tempdir();
    let scratch = scratch.map_err(|source| FilesError::Write { dir: std::env::temp_dir(), source })?;
    let machine = rebuilt();
    let survey = raft::survey(data_dir, scratch.path(), up_to, &machine).await?;
    Ok((survey, machine))
}
