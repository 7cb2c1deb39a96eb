//! A seed: the state with which a new cluster begins, in a data directory that belongs to no node yet.
//!
//! A restore, and the way out of a lost majority, both make a *new* cluster of an old state: with an id of its own, and an index
//! above every one that the old cluster may have reached. The seed is a snapshot file without members. The node that is
//! started on it becomes the only member:
//!
//! 1. its first snapshot is written: the state of the seed, and itself as the only voter, under the nonce of the directory
//! 2. an empty log is created under that nonce
//! 3. the identity is written. Before this, nothing counts: an interrupted start begins again at 1
//! 4. the seed is removed. A start that finds it beside an identity removes it, if it is the one that grew here
//!
//! Then it is a node with a snapshot and an empty log, as after a purge, and openraft goes on from there: the last log id is
//! that of the snapshot, no vote was ever given, and the node elects itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::vote::RaftLeaderId;

use crate::backup::sync_dir;
use crate::entry::{LeaderId, LogId, Seat, SnapshotMeta, StoredMembership};
use crate::identity::Identity;
use crate::machine::Frozen;
use crate::roster::Roster;
use crate::settings::{Addresses, NodeId, Settings};
use crate::snapshot::{self, Head, SnapshotFile, Snapshots};
use crate::space::Headroom;
use crate::start::StartError;

const NAME: &str = "seed";

/// Writes a seed into a directory, which must be empty or missing. Blocks until it is durable.
///
/// `cluster_id` must be new, and `index` above every index of the cluster that the state comes from. The frozen state must be
/// one that [`StateMachine::restore`](crate::StateMachine::restore) takes at `index`.
///
/// # Errors
/// `DirectoryNotEmpty`, or what the disk says. Nothing is left behind but an empty directory.
pub fn write_seed(dir: &Path, cluster: &str, cluster_id: u64, index: u64, frozen: &dyn Frozen) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    if std::fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, format!("{} is not empty", dir.display())));
    }
    let meta = SnapshotMeta { last_log_id: Some(first(0, index)), last_membership: StoredMembership::default() };
    let roster = Roster { cluster_id, directories: BTreeMap::new() };
    let aside = dir.join("seed.tmp");
    let head = Head { cluster: cluster.to_owned(), meta, roster };
    // Nothing is kept free: whoever calls this wants the space to be used for it.
    let written = snapshot::write_file(&aside, &head, frozen, &Headroom::new(dir, 0))
        .and_then(|_| std::fs::rename(&aside, dir.join(NAME)))
        .and_then(|()| sync_dir(dir));
    if written.is_err() {
        // It may not have been created; what went wrong is told.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// The log id that the state of a seed stands for. Nobody was elected to write it, so its term is the one before the first, as
/// that of the entry with which a cluster is founded; openraft then finds what it finds after a founding.
fn first(id: NodeId, index: u64) -> LogId {
    LogId { leader_id: LeaderId::new(0, id), index }
}

/// A seed in a data directory.
pub(crate) struct Seed {
    path: PathBuf,
    file: SnapshotFile,
}

impl Seed {
    /// The seed of a data directory, if it has one; every block of it is checked. Blocks.
    pub(crate) fn find(data_dir: &Path) -> Result<Option<Seed>, StartError> {
        let path = data_dir.join(NAME);
        if !path.exists() {
            return Ok(None);
        }
        let opened = snapshot::open_file(&path).and_then(|file| file.verify().map(|()| file));
        match opened {
            Ok(file) => Ok(Some(Seed { path, file })),
            Err(source) if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                Err(StartError::Seed(format!(
                    "the seed {} can't be used: {source}. Restore it again into an empty directory",
                    path.display()
                )))
            }
            Err(source) => Err(StartError::Io { path, source }),
        }
    }

    /// Whether this node is the one to begin with it.
    fn check(&self, settings: &Settings) -> Result<(), StartError> {
        let refuse =
            |why: String| Err(StartError::Seed(format!("{} holds a restored state; {why}", self.path.display())));
        if self.file.head.cluster != settings.cluster {
            return refuse(format!(
                "it is of cluster {:?}, and this node was told to belong to {:?}",
                self.file.head.cluster, settings.cluster
            ));
        }
        let Some(lowest) = settings.founders.keys().next() else {
            return refuse("start this node with --peers, not with --join: it begins the new cluster".to_owned());
        };
        if *lowest != settings.id {
            return refuse(format!(
                "restore only into the data directory of node {lowest}, and start the others with empty ones"
            ));
        }
        Ok(())
    }

    /// Makes it the first snapshot of a directory that has no identity yet. What an interrupted start left there goes. Blocks
    /// until it is durable.
    pub(crate) fn plant(
        &self,
        snapshot_dir: &Path,
        identity: &Identity,
        settings: &Settings,
        space: &Arc<Headroom>,
    ) -> Result<(), StartError> {
        self.check(settings)?;
        let fail = |source| StartError::Io { path: snapshot_dir.to_owned(), source };
        clear(snapshot_dir).map_err(fail)?;
        let snapshots = Snapshots::open(snapshot_dir, space.clone()).map_err(fail)?;
        snapshots.write(self.head(identity, settings), &State(&self.file)).map(|_| ()).map_err(fail)
    }

    /// The head of the first snapshot: with this node as the only voter.
    fn head(&self, identity: &Identity, settings: &Settings) -> Head {
        let peer = settings.founders.get(&settings.id).map(|founder| founder.peer.clone()).unwrap_or_default();
        let seat = Seat { addresses: Addresses { peer, api: settings.advertise.api.clone() }, nonce: identity.nonce };
        let last = Some(first(identity.id, self.file.index()));
        let members = only_voter(identity.id, seat);
        let mut roster = self.file.head.roster.clone();
        roster.directories.insert(identity.id, identity.nonce);
        let meta = SnapshotMeta { last_log_id: last, last_membership: StoredMembership::new(last, members) };
        Head { cluster: identity.cluster.clone(), meta, roster }
    }

    /// Removes it from a directory that has an identity by now, if the node that lives there has grown from it.
    pub(crate) fn spend(self, current: Option<&SnapshotFile>) -> Result<(), StartError> {
        let grown = current.map(|snapshot| snapshot.head.roster.cluster_id);
        if grown != Some(self.file.head.roster.cluster_id) {
            return Err(StartError::Seed(format!(
                "{} is not of the cluster that this data directory belongs to. A state is restored into an empty directory; \
                 if this one is to go on as it is, move the file away",
                self.path.display()
            )));
        }
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let removed = std::fs::remove_file(&self.path).and_then(|()| sync_dir(dir));
        removed.map_err(|source| StartError::Io { path: self.path.clone(), source })
    }
}

fn only_voter(id: NodeId, seat: Seat) -> openraft::Membership<NodeId, Seat> {
    let members = openraft::Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, seat)]));
    members.expect("the one voter is among the nodes")
}

/// Removes every file of a directory.
fn clear(dir: &Path) -> io::Result<()> {
    std::fs::read_dir(dir)?.try_for_each(|entry| std::fs::remove_file(entry?.path()))
}

/// The state of a snapshot file, as it was written.
struct State<'a>(&'a SnapshotFile);

impl Frozen for State<'_> {
    fn write_to(&self, to: &mut dyn io::Write) -> io::Result<()> {
        self.0.copy_state(to)
    }
}
