//! The one file that knows both the directory and the log: entries in, replies and events out.

use std::io;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use switchboard_raft::{Frozen, StateMachine};

use super::meters::OpMeters;
use super::watch_hub::WatchHub;
use crate::directory::{Directory, Entry, Outcome, Revision};

/// First byte of every log entry; changes with the form of [`Entry`].
const ENTRY_FORMAT: u8 = 1;

/// The directory behind the log. Readers share a lock with the one writer, which holds it for one entry at a time.
#[derive(Debug)]
pub(super) struct Replicated {
    directory: RwLock<Directory>,
    hub: Arc<WatchHub>,
    meters: OpMeters,
}

/// The form of an entry in the log.
pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    postcard::to_extend(entry, vec![ENTRY_FORMAT]).expect("an entry has a binary form")
}

/// What the state machine replied to [`encode_entry`].
pub(super) fn decode_reply(reply: &[u8]) -> Vec<Outcome> {
    postcard::from_bytes(reply).expect("the reply was written by this process")
}

impl Replicated {
    pub(super) fn new(hub: Arc<WatchHub>, process: &Arc<str>) -> Self {
        Self { directory: RwLock::default(), hub, meters: OpMeters::new(process) }
    }

    /// The state as of now. Hold it for a short read only: applying waits.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().expect("no code panics while holding this lock")
    }

    /// A copy that no longer changes.
    pub(super) fn frozen(&self) -> Directory {
        self.read().clone()
    }
}

impl StateMachine for Replicated {
    /// # Panics
    /// For an entry that this version can't read. Every node that goes on past it would have another state, so this one
    /// stops; a newer version goes on from here.
    fn apply(&self, index: Revision, data: &[u8], reply: Option<&mut Vec<u8>>) {
        assert_eq!(
            data.first(),
            Some(&ENTRY_FORMAT),
            "log entry {index} has a format that this version does not read; run the version that wrote it, or a newer one"
        );
        let entry: Entry = postcard::from_bytes(&data[1..]).expect("the entry was written in this format");
        let applied = {
            let mut directory = self.directory.write().expect("no code panics while holding this lock");
            directory.apply(index, &entry)
        };
        if let Some(reply) = reply {
            self.meters.count(&entry, &applied.outcomes);
            *reply = postcard::to_allocvec(&applied.outcomes).expect("outcomes have a binary form");
        }
        self.hub.publish(index, entry.at_ms, applied.events, applied.ends);
    }

    fn applied(&self, index: Revision) {
        self.directory.write().expect("no code panics while holding this lock").advance(index);
        self.hub.advance(index);
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(FrozenDirectory(self.frozen()))
    }

    fn restore(&self, index: Revision, from: &mut dyn io::Read) -> io::Result<()> {
        let mut restored = Directory::read_from(from)?;
        if restored.revision() > index {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot is newer than the log says"));
        }
        restored.advance(index);
        *self.directory.write().expect("no code panics while holding this lock") = restored;
        self.hub.restart(index);
        Ok(())
    }
}

struct FrozenDirectory(Directory);

impl Frozen for FrozenDirectory {
    fn write_to(&self, to: &mut dyn io::Write) -> io::Result<()> {
        self.0.write_to(to)
    }
}
