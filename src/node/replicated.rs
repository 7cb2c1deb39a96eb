//! The one file that knows both the directory and the log: entries in, replies and events out.

use std::io;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use switchboard_raft::{Formats, Frozen, StateMachine};

use super::meters::OpMeters;
use super::watch_hub::WatchHub;
use crate::directory::{Directory, Entry, Outcome, Revision};

/// The forms of log entries and states. An entry begins with the number of its form; `writes` goes up one release after
/// `newest` does, so that nodes can be replaced one by one.
pub(super) const FORMATS: Formats = Formats { oldest: 1, newest: 1, writes: 1 };

/// The directory behind the log. Readers share a lock with the one writer, which holds it for one entry at a time.
#[derive(Debug)]
pub(super) struct Replicated {
    directory: RwLock<Directory>,
    hub: Arc<WatchHub>,
    meters: OpMeters,
}

/// The form of an entry in the log.
pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    postcard::to_extend(entry, vec![FORMATS.writes]).expect("an entry has a binary form")
}

/// Reads what [`encode_entry`] of this or another release wrote.
pub(super) fn decode_entry(data: &[u8]) -> Result<Entry, String> {
    match data {
        [1, entry @ ..] => postcard::from_bytes(entry).map_err(|e| format!("can't be read ({e})")),
        [form, ..] => {
            let Formats { oldest, newest, .. } = FORMATS;
            Err(format!("has form {form}, this release reads forms {oldest} to {newest}"))
        }
        [] => Err("is empty".to_owned()),
    }
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
    fn apply(&self, index: Revision, data: &[u8], reply: Option<&mut Vec<u8>>) -> io::Result<()> {
        let entry = decode_entry(data).map_err(|why| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!("log entry {index} {why}; run the release that wrote it"),
            )
        })?;
        let applied = {
            let mut directory = self.directory.write().expect("no code panics while holding this lock");
            directory.apply(index, &entry)
        };
        if let Some(reply) = reply {
            self.meters.count(&entry, &applied.outcomes);
            *reply = postcard::to_allocvec(&applied.outcomes).expect("outcomes have a binary form");
        }
        self.hub.publish(index, entry.at_ms, applied.events, applied.ends);
        Ok(())
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
