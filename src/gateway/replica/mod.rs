//! What a gateway knows of the directory: a copy in memory that follows a watch, and how old it is.
//!
//! *Modes.* A full replica holds everybody. One of `lru:N` holds the users that were asked for, at most N, and no
//! connections of others: who is missing is asked for by a linearizable read, and kept true by the same watch from then on.
//! That somebody is not held says nothing; that a user is held who has no connection says that there is none. Both hold all
//! topics with the sessions that have subscribers of them: there are few of those beside the connections.
//!
//! *Freshness.* A stamp is a number that only grows, taken from this process's clock and sent along the watch. A node
//! echoes it after everything that a linearizable read saw which began after the stamp arrived. So once the echo of a
//! stamp taken after some moment is here, reads show everything that was acknowledged anywhere before that moment.

mod asked;
mod census;
mod follow;
mod held;
mod routes;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use asked::Asked;
pub(super) use follow::follow;
use store::{Store, Writer};
#[cfg(test)]
pub(crate) use testing::LoneReplica;

use super::meters::Meters;
use super::settings::ReplicaMode;
use crate::client::Directory;
use crate::clock;
use crate::directory::{ConnectionId, Epoch, Revision, Session};
use crate::view::{At, Counts, Found, Stale, View};
use crate::wire::peer::Who;

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
    /// Of a replica that does not hold everybody: who is asked for the others.
    asked: Option<Asked>,
    meters: Meters,
}

impl Replica {
    pub(super) fn new(meters: Meters, mode: ReplicaMode, directory: Directory) -> Self {
        let asked = match mode {
            ReplicaMode::Full => None,
            ReplicaMode::Lru(users) => Some(Asked::new(directory, users)),
        };
        Self {
            store: ArcSwap::default(),
            loaded: AtomicBool::new(false),
            revisions: watch::Sender::new(0),
            started: (Instant::now(), clock::boottime()),
            stamped: AtomicU64::new(0),
            echoed: watch::Sender::new(0),
            wanted: Notify::new(),
            asked,
            meters,
        }
    }

    /// Nothing yet, to be filled aside or shown at once.
    fn empty(&self) -> Writer {
        Writer::new(self.asked.as_ref().map(Asked::users_max))
    }

    /// Shows the figures that change by themselves.
    pub(super) fn show_figures(&self) {
        if let Some(age) = self.staleness() {
            self.meters.cache_staleness(age);
        }
        self.meters.cache_users(self.store.load().users_held());
    }

    /// What is held, roughly, bytes.
    pub fn held_bytes(&self) -> u64 {
        // A connection with its user and its places in the maps.
        const USER_BYTES: u64 = 400;
        self.store.load().users_held() * USER_BYTES
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

    /// One that has nobody to ask.
    #[cfg(test)]
    pub(super) fn alone(mode: ReplicaMode) -> Self {
        let nobody = crate::client::Settings { cluster: "test".into(), name: "a test".into(), nodes: Vec::new() };
        Self::new(Meters::new("test"), mode, Directory::new(nobody))
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

impl Replica {
    fn look(&self, store: &Store, user: &str) -> At<Vec<Found>> {
        let at = store.user(user).expect("a full replica holds everybody");
        self.meters.looked_up(!at.value.is_empty());
        at
    }
}

impl View for Replica {
    async fn users(&self, users: &[&str]) -> Result<Vec<At<Vec<Found>>>, Stale> {
        let store = self.store.load_full();
        let Some(asked) = &self.asked else { return Ok(users.iter().map(|user| self.look(&store, user)).collect()) };
        let mut found: Vec<_> = users.iter().map(|user| store.user(user)).collect();
        let missing: Vec<usize> = (0..users.len()).filter(|at| found[*at].is_none()).collect();
        found.iter().for_each(|found| self.meters.looked_up(found.is_some()));
        let whom: Vec<Who> = missing.iter().map(|at| Who::User(users[*at].into())).collect();
        for (at, answer) in missing.into_iter().zip(asked.find(&whom).await?) {
            found[at] = Some(answer);
        }
        Ok(found.into_iter().map(|found| found.expect("all that were missing were asked for")).collect())
    }

    async fn connection(&self, id: ConnectionId) -> Result<At<Option<Found>>, Stale> {
        let found = self.store.load().connection(id);
        let held = found.as_ref().is_some_and(|at| self.asked.is_some() || at.value.is_some());
        self.meters.looked_up(held);
        match (found, &self.asked) {
            (Some(at), _) => Ok(at),
            (None, Some(asked)) => {
                let answers = asked.find(&[Who::Holder(id)]).await?;
                let At { value, revision } = answers.into_iter().next().ok_or(Stale::NoQuorum)?;
                Ok(At { value: value.into_iter().find(|found| found.id == id), revision })
            }
            (None, None) => Ok(At { value: None, revision: self.revision() }),
        }
    }

    fn holds_all(&self) -> bool {
        self.asked.is_none()
    }

    fn scan(&self, after: Option<ConnectionId>, limit: usize) -> At<Vec<Found>> {
        self.store.load().scan(after, limit)
    }

    fn sessions(&self) -> At<Vec<(Epoch, Arc<Session>, u64)>> {
        self.store.load().sessions()
    }

    fn subscribed(&self, topic: &str) -> At<Vec<(Epoch, Arc<Session>)>> {
        self.store.load().subscribed(topic)
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
