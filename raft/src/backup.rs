//! A snapshot that leaves its replica: as a stream of bytes, and as a file that says what it is.

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};

use crate::blocking;
use crate::machine::StateMachine;
use crate::settings::{Addresses, NodeId};
use crate::snapshot::{self, FORMAT, SnapshotFile};
use crate::status::MemberRole;

/// Bytes of one part of a stream: the memory that a backup costs while it is sent.
const PART_BYTES: usize = 256 * 1024;

/// A state at one index, in a file. It can be read for as long as this lives, also when its replica has a newer one.
#[derive(Clone, Debug)]
pub struct Backup {
    file: SnapshotFile,
}

/// What a backup says of itself. Its head has a checksum, so this holds even if the rest is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Number of the file's form.
    pub format: u8,
    /// The cluster's name, as people chose it.
    pub cluster: String,
    /// The cluster's id; 0 in a backup from before its first membership, which has no state either.
    pub cluster_id: u64,
    /// The entries up to this one are in it.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The members as of that entry.
    pub members: Vec<(NodeId, Addresses, MemberRole)>,
}

impl Backup {
    pub(crate) fn new(file: SnapshotFile) -> Backup {
        Backup { file }
    }

    /// Opens a file and reads its head; the state is checked when it is read. Blocks.
    ///
    /// # Errors
    /// When the file can't be read, is none of these, or its head is damaged; the text names the file.
    pub fn open(path: &Path) -> io::Result<Backup> {
        snapshot::open_file(path).map(Backup::new)
    }

    /// What it says of itself.
    pub fn about(&self) -> About {
        let (head, members) = (&self.file.head, self.file.head.meta.last_membership.membership());
        let voters: Vec<NodeId> = members.voter_ids().collect();
        let role = |id| if voters.contains(id) { MemberRole::Voter } else { MemberRole::Learner };
        About {
            format: FORMAT,
            cluster: head.cluster.clone(),
            cluster_id: head.roster.cluster_id,
            index: self.file.index(),
            term: head.meta.last_log_id.map_or(0, |id| id.leader_id.term),
            members: members.nodes().map(|(id, seat)| (*id, seat.addresses.clone(), role(id))).collect(),
        }
    }

    /// Its length.
    ///
    /// # Errors
    /// When the disk can't tell.
    pub fn bytes(&self) -> io::Result<u64> {
        self.file.len()
    }

    /// Checks every block and the whole. Blocks.
    ///
    /// # Errors
    /// Where it is damaged or ends early.
    pub fn verify(&self) -> io::Result<()> {
        self.file.verify()
    }

    /// Feeds the state to a machine, and checks every block and the whole. Returns the SHA-256 of the state. Blocks.
    ///
    /// # Errors
    /// Where it is damaged or ends early, or what the machine says.
    pub fn restore(&self, machine: &dyn StateMachine) -> io::Result<[u8; 32]> {
        self.file.restore(machine)
    }

    /// Its bytes in order, in parts, each read when it is asked for. Must be polled within a tokio runtime.
    pub fn parts(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::try_unfold((self.file, 0), |(file, at)| async move {
            let read = blocking::run(move || {
                let mut part = BytesMut::zeroed(PART_BYTES);
                let read = file.read_at(&mut part, at)?;
                part.truncate(read);
                Ok::<_, io::Error>((part.freeze(), file))
            });
            let (part, file) = read.await.map_err(io::Error::other)??;
            let next = at + part.len() as u64;
            Ok((!part.is_empty()).then_some((part, (file, next))))
        })
    }
}

/// Makes the names in a directory durable, and its own in the directory above. Blocks.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()?;
    match dir.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
