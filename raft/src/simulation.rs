//! What stands in for disks and threads when a whole cluster runs on one thread, in simulated time.
//!
//! A thread that has [entered](enter) a simulation starts no other one: the log's writer is a task, and work that may
//! block is done at once. The log is kept in memory, on a [`Disk`] that outlives the replica, takes time, and forgets at
//! a crash what was not synced. Identities, marks and snapshots are small files all the same; they lose nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::log;
use crate::log::memory::State;
use crate::settings::LogEngine;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static DISKS: RefCell<HashMap<PathBuf, Disk>> = RefCell::default();
}

/// From now on this thread simulates.
pub fn enter() {
    ON.set(true);
}

/// Whether this thread simulates.
pub(crate) fn is_on() -> bool {
    ON.get()
}

/// What a disk does that no disk may do, to see that it is found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    #[default]
    None,
    /// It says that all is synced when it has only begun.
    AcknowledgesUnsynced,
    /// It never keeps a vote.
    ForgetsVotes,
}

/// The disk below one log. Clones are the same disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// The disk of the log of a data directory, on this thread.
    pub fn of(data_dir: &Path) -> Disk {
        Disk::below(&log::dir_in(data_dir, LogEngine::Memory))
    }

    pub(crate) fn below(log_dir: &Path) -> Disk {
        DISKS.with_borrow_mut(|disks| {
            disks.entry(log_dir.to_owned()).or_insert_with(|| Disk(Arc::new(Mutex::new(State::default())))).clone()
        })
    }

    /// Decides how long each flush takes from now on.
    pub fn set_pace(&self, pace: impl FnMut() -> Duration + Send + 'static) {
        self.state().pace = Box::new(pace);
    }

    /// What is wrong with it.
    pub fn set_flaw(&self, flaw: Flaw) {
        self.state().flaw = flaw;
    }

    /// Every flush from now on fails, or none.
    pub fn set_failing(&self, failing: bool) {
        self.state().failing = failing;
    }

    /// How many writes a crash would leave to chance. An append counts once for each entry, so that one can be torn.
    pub fn unsynced(&self) -> usize {
        self.state().unsynced()
    }

    /// The machine crashes: of what was not synced the first `kept` writes survive. To be called after the replica has
    /// gone.
    pub fn crash(&self, kept: usize) {
        self.state().crash(kept);
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds a disk")
    }

    /// Waits for as long as one flush takes.
    pub(crate) async fn work(&self) {
        let pause = (self.state().pace)();
        tokio::time::sleep(pause).await;
    }
}
