//! What a gateway knows of the directory: a copy in memory that follows a watch, and how old it is.
//!
//! *Freshness.* A stamp is a number that only grows, taken from this process's clock and sent along the watch. A node
//! echoes it after everything that a linearizable read saw which began after the stamp arrived. So once the echo of a
//! stamp taken after some moment is here, reads show everything that was acknowledged anywhere before that moment.

mod census;
mod follow;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

pub(super) use follow::follow;
use store::Store;

use super::meters::Meters;
use crate::clock;
use crate::directory::{ConnectionId, Epoch, Revision, Session};
use crate::view::{At, Counts, Found, Stale, View};

/// Longest wait for a linearizable read. A healthy group answers within milliseconds, and an election takes less than a second.
const LINEARIZE_MAX: Duration = Duration::from_secs(2);

/// A copy of the directory's state that follows a watch.
#[derive(Debug)]
pub struct Replica {
    store: ArcSwap<Store>,
    /// Whether a first snapshot is complete; before that there is nothing to read.
    loaded: AtomicBool,
    revisions: watch::Sender<Revision>,
    /// On tokio's clock, and on the one that counts sleep.
    started: (Instant, Duration),
    /// The last stamp that was taken.
    stamped: AtomicU64,
    /// The newest stamp that came back.
    echoed: watch::Sender<u64>,
    /// Somebody waits for a stamp that is not taken yet.
    wanted: Notify,
    meters: Meters,
}

impl Replica {
    pub(super) fn new(meters: Meters) -> Self {
        Self {
            store: ArcSwap::default(),
            loaded: AtomicBool::new(false),
            revisions: watch::Sender::new(0),
            started: (Instant::now(), clock::boottime()),
            stamped: AtomicU64::new(0),
            echoed: watch::Sender::new(0),
            wanted: Notify::new(),
            meters,
        }
    }

    /// Whether there is a state to read, of whatever age.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Nanoseconds since this replica was made. A machine that was suspended has aged meanwhile, which only one of the
    /// clocks shows; a test that moves time moves only the other.
    fn now(&self) -> u64 {
        let (running, booted) = self.started;
        let age = running.elapsed().max(clock::boottime().saturating_sub(booted));
        u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A stamp above every one that was taken before.
    fn take_stamp(&self) -> u64 {
        let now = self.now();
        let before = self.stamped.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(now.max(last + 1)));
        now.max(before.expect("the update always succeeds") + 1)
    }

    fn echo(&self, stamp: u64) {
        self.echoed.send_if_modified(|echoed| std::mem::replace(echoed, stamp.max(*echoed)) < stamp);
    }

    /// Shows an empty directory.
    #[cfg(test)]
    pub(super) fn load_nothing(&self) {
        self.show(&Arc::default());
    }

    fn show(&self, store: &Arc<Store>) {
        self.store.store(Arc::clone(store));
        self.loaded.store(true, Ordering::Release);
    }

    fn tell_revision(&self, revision: Revision) {
        self.revisions.send_if_modified(|shown| std::mem::replace(shown, revision) != revision);
    }
}

impl View for Replica {
    fn user(&self, user: &str) -> At<Vec<Found>> {
        let at = self.store.load().user(user);
        self.meters.looked_up(!at.value.is_empty());
        at
    }

    fn connection(&self, id: ConnectionId) -> At<Option<Found>> {
        let at = self.store.load().connection(id);
        self.meters.looked_up(at.value.is_some());
        at
    }

    fn scan(&self, after: Option<ConnectionId>, limit: usize) -> At<Vec<Found>> {
        self.store.load().scan(after, limit)
    }

    fn sessions(&self) -> At<Vec<(Epoch, Arc<Session>, u64)>> {
        self.store.load().sessions()
    }

    fn counts(&self) -> At<Counts> {
        self.store.load().counts()
    }

    fn revision(&self) -> Revision {
        self.store.load().revision()
    }

    fn staleness(&self) -> Option<Duration> {
        let echoed = *self.echoed.borrow();
        (self.is_loaded() && echoed > 0).then(|| Duration::from_nanos(self.now().saturating_sub(echoed)))
    }

    async fn linearize(&self) -> Result<(), Stale> {
        // Any stamp above this one is taken, and so sent, after this call.
        let before = self.stamped.load(Ordering::SeqCst);
        let mut echoed = self.echoed.subscribe();
        self.wanted.notify_one();
        match timeout(LINEARIZE_MAX, echoed.wait_for(|echoed| *echoed > before)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stale::NoQuorum),
        }
    }

    async fn reach(&self, revision: Revision, within: Duration) -> Result<(), Stale> {
        if self.revision() >= revision {
            return Ok(());
        }
        let mut shown = self.revisions.subscribe();
        match timeout(within, shown.wait_for(|shown| *shown >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stale::Timeout),
        }
    }
}
