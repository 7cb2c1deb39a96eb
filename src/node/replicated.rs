//! The one file that knows both the directory and the log: entries in, replies and events out.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use parking_lot::{RwLock, RwLockReadGuard};
use switchboard_raft::{Formats, Frozen, StateMachine};
use tokio::sync::oneshot;

use super::meters::OpMeters;
use super::watch_hub::WatchHub;
use crate::directory::{Directory, Entry, Outcome, Revision};

/// The forms of log entries and states. An entry begins with the number of its form; `writes` goes up one release after
/// `newest` does, so that nodes can be replaced one by one.
pub(super) const FORMATS: Formats = Formats { oldest: 2, newest: 2, writes: 2 };

/// The directory behind the log. Readers share a lock with the one writer, which holds it for one entry at a time. The lock is
/// fair: while entry follows upon entry, readers get their turn in between.
#[derive(Debug)]
pub(super) struct Replicated {
    directory: RwLock<Directory>,
    awaited: Awaited,
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
        [2, entry @ ..] => postcard::from_bytes(entry).map_err(|e| format!("can't be read ({e})")),
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
        Self { directory: RwLock::default(), awaited: Awaited::default(), hub, meters: OpMeters::new(process) }
    }

    /// The state as of now. Hold it for a short read only: applying waits.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read()
    }

    /// A copy that no longer changes.
    pub(super) fn frozen(&self) -> Directory {
        self.read().clone()
    }

    /// A copy of exactly this revision, as soon as it is there.
    pub(super) fn frozen_at(&self, revision: Revision) -> At {
        let directory = self.read();
        match directory.revision() {
            now if now == revision => At::Now(Box::new(directory.clone())),
            now if now > revision => At::Passed(now),
            // Nothing is applied while the lock is held, so the revision can't be passed unseen.
            _ => At::Later(self.awaited.wait(revision)),
        }
    }
}

/// A copy of the state at one revision.
pub(super) enum At {
    /// Here it is.
    Now(Box<Directory>),
    /// It comes when that revision is applied; the sender goes if an installed snapshot passes over it.
    Later(oneshot::Receiver<Directory>),
    /// The state is at this later one.
    Passed(Revision),
}

/// Who waits for a copy of which revision.
#[derive(Debug)]
struct Awaited {
    /// The lowest awaited revision, so that applying looks at one number.
    next: AtomicU64,
    waiting: Mutex<BTreeMap<Revision, Vec<oneshot::Sender<Directory>>>>,
}

impl Default for Awaited {
    fn default() -> Self {
        Self { next: AtomicU64::new(Revision::MAX), waiting: Mutex::default() }
    }
}

impl Awaited {
    /// To be called while nothing can be applied.
    fn wait(&self, revision: Revision) -> oneshot::Receiver<Directory> {
        let (to, copy) = oneshot::channel();
        let mut waiting = self.waiting.lock().expect("no code panics while holding this lock");
        for of_one in waiting.values_mut() {
            of_one.retain(|to| !to.is_closed());
        }
        waiting.retain(|_, of_one| !of_one.is_empty());
        waiting.entry(revision).or_default().push(to);
        self.next.store(*waiting.keys().next().expect("one was just added"), Ordering::Release);
        copy
    }

    /// The state is at a new revision. To be called before the next one can be applied.
    fn reached(&self, directory: &Directory) {
        let revision = directory.revision();
        if revision < self.next.load(Ordering::Acquire) {
            return;
        }
        let mut waiting = self.waiting.lock().expect("no code panics while holding this lock");
        let later = waiting.split_off(&(revision + 1));
        let due = std::mem::replace(&mut *waiting, later);
        self.next.store(waiting.keys().next().copied().unwrap_or(Revision::MAX), Ordering::Release);
        for (_, of_one) in due.into_iter().filter(|(at, _)| *at == revision) {
            for to in of_one {
                // Whoever stopped waiting has no use for it.
                let _ = to.send(directory.clone());
            }
        }
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
            let mut directory = self.directory.write();
            let applied = directory.apply(index, &entry);
            self.awaited.reached(&directory);
            applied
        };
        #[cfg(feature = "simulation")]
        if let Some(world) = crate::simulation::world() {
            world.applied(index, &entry);
        }
        if let Some(reply) = reply {
            self.meters.count(&entry, &applied.outcomes);
            *reply = postcard::to_allocvec(&applied.outcomes).expect("outcomes have a binary form");
        }
        self.hub.publish(index, entry.at_ms, applied.events, applied.ends);
        Ok(())
    }

    fn applied(&self, index: Revision) {
        {
            let mut directory = self.directory.write();
            directory.advance(index);
            self.awaited.reached(&directory);
        }
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
        let former = {
            let mut directory = self.directory.write();
            let former = std::mem::replace(&mut *directory, restored);
            self.awaited.reached(&directory);
            former
        };
        // Freeing a large state takes long, and readers wait for the lock.
        drop(former);
        self.hub.restart(index);
        Ok(())
    }
}

/// A copy of the state, to be written out.
pub(super) struct FrozenDirectory(pub(super) Directory);

impl Frozen for FrozenDirectory {
    fn write_to(&self, to: &mut dyn io::Write) -> io::Result<()> {
        self.0.write_to(to)
    }
}
