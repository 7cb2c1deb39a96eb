//! The space that is left for the data directory, and what is not done any more when it runs out.
//!
//! A log that meets a full disk has to end its process, so it must not come to that. A part of the space is a reserve:
//!
//! | free space below | what stops |
//! |---|---|
//! | the reserve | ordinary proposals; a leader hands over to a member that has space, and one that has none does not stand |
//! | a quarter of it | proposals that end or free something; entries of a leader; snapshots, whether begun or not |
//! | a sixteenth of it | the log's thread, before entries that were accepted already: it waits until there is space |
//!
//! Reads, heartbeats and votes go on, and with them the leases. Everything goes on by itself once there is space again.
//! Whoever uses the rest of the disk may still be faster: then a write fails, and the process ends as with any broken disk.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{error, info, warn};

/// How often the free space is looked at. A disk takes a good part of a second to write the default reserve.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Space above the reserve, as a part of it, that must be free before proposals are taken again: no flapping.
const RELIEF_PARTS: u64 = 4;

/// What ends or frees something, snapshots and a leader's entries leave this part of the reserve.
const ESSENTIAL_PART: u64 = 4;

/// What the log has accepted leaves this part of the reserve. It holds one append of the largest size, at the default.
const LOG_PART: u64 = 16;

/// A look at the space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// The data directory.
    pub dir: PathBuf,
    /// Bytes that are free there.
    pub free: u64,
    /// Bytes that are kept free.
    pub reserve: u64,
    /// Whether proposals are refused for that.
    pub short: bool,
}

/// The space that is left, watched by everybody who writes.
pub(crate) struct Headroom {
    dir: PathBuf,
    reserve: u64,
    free: watch::Sender<u64>,
    short: AtomicBool,
    /// Whether nobody may wait for space any more.
    closed: Mutex<bool>,
    changed: Condvar,
}

impl Headroom {
    pub(crate) fn new(dir: &Path, reserve: u64) -> Headroom {
        let headroom = Headroom {
            dir: dir.to_owned(),
            reserve,
            free: watch::Sender::new(u64::MAX),
            short: AtomicBool::new(false),
            closed: Mutex::new(false),
            changed: Condvar::new(),
        };
        headroom.look();
        headroom
    }

    /// Asks the file system. What can't be asked is taken for enough: a write will tell.
    pub(crate) fn look(&self) -> u64 {
        let free = match fs2::available_space(&self.dir) {
            Ok(free) => free,
            Err(e) => {
                if *self.free.borrow() != u64::MAX {
                    error!(dir = %self.dir.display(), error = %e, "the free space can't be told; look at the disk");
                }
                u64::MAX
            }
        };
        let enough = self.reserve.saturating_add(self.reserve / RELIEF_PARTS);
        let short = free < self.reserve || (free < enough && self.short.load(Relaxed));
        if self.short.swap(short, Relaxed) != short {
            let (dir, reserve) = (self.dir.display(), self.reserve);
            if short {
                warn!(%dir, free, reserve, "the disk is nearly full: new writes are refused; free some space there");
            } else {
                info!(%dir, free, reserve, "there is space again: new writes are taken");
            }
        }
        self.free.send_if_modified(|known| std::mem::replace(known, free) != free);
        free
    }

    /// What was seen last.
    pub(crate) fn seen(&self) -> Space {
        let free = *self.free.borrow();
        Space { dir: self.dir.clone(), free, reserve: self.reserve, short: self.is_short() }
    }

    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Relaxed)
    }

    /// Whether nothing but what was accepted already may be written.
    pub(crate) fn is_exhausted(&self) -> bool {
        *self.free.borrow() < self.reserve / ESSENTIAL_PART
    }

    /// Whether `bytes` that are small, or that help, may still be written.
    pub(crate) fn spares(&self, bytes: u64) -> bool {
        self.look() >= bytes.saturating_add(self.reserve / ESSENTIAL_PART)
    }

    /// Waits until so much may be written; false if the replica stops before.
    pub(crate) async fn until_spares(&self, bytes: u64) -> bool {
        let mut free = self.free.subscribe();
        let enough = bytes.saturating_add(self.reserve / ESSENTIAL_PART);
        free.wait_for(|free| *free >= enough || self.is_closed()).await.is_ok() && !self.is_closed()
    }

    /// How many bytes of entries the log may write now.
    pub(crate) fn room(&self) -> u64 {
        self.look().saturating_sub(self.reserve / LOG_PART)
    }

    /// Blocks the thread of the log until `bytes` of entries fit, or the replica stops. Returns the room that there is.
    pub(crate) fn hold(&self, bytes: u64) -> u64 {
        let mut room = self.room();
        if room >= bytes {
            return room;
        }
        warn!(dir = %self.dir.display(), bytes, "the log waits for space; free some there");
        let mut closed = self.closed.lock().expect("nothing panics while it holds this");
        while !*closed && room < bytes {
            closed = self.changed.wait_timeout(closed, LOOK_EVERY).expect("nothing panics while it holds this").0;
            room = self.room();
        }
        room
    }

    fn is_closed(&self) -> bool {
        *self.closed.lock().expect("nothing panics while it holds this")
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        *self.closed.lock().expect("nothing panics while it holds this") = true;
        self.changed.notify_all();
        self.free.send_modify(|_| ());
    }

    /// Writes as long as there is space, and fails before there is none.
    pub(crate) fn careful<W: Write>(&self, to: W) -> Careful<'_, W> {
        Careful { to, headroom: self }
    }
}

/// See [`Headroom::careful`].
pub(crate) struct Careful<'a, W> {
    to: W,
    headroom: &'a Headroom,
}

impl<W> Careful<'_, W> {
    pub(crate) fn into_inner(self) -> W {
        self.to
    }
}

impl<W: Write> Write for Careful<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.headroom.spares(bytes.len() as u64) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "it would use up the space that is kept free"));
        }
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
