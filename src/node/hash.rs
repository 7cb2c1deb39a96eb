//! The hash of the state: equal on all nodes at equal revisions, so a difference is a bug or broken hardware.

use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::replicated::{At, Replicated};
use crate::api::{HashAsk, StateRefused};
use crate::directory::{Directory, Revision};
use crate::threads;
use crate::wire::http::{INVARIANTS_HOLD, StateHash, hex};

/// Requests at once, each with a frozen copy. One is worked on, the rest wait.
const WAITING_MAX: usize = 8;

/// Every node hashes the revisions that this divides, for its metric: at full load twice a minute, each time a fraction of a
/// second of one core for a million connections.
const EVERY: Revision = 1 << 19;

/// Hashes the state of this node, off the path of apply.
#[derive(Debug)]
pub(super) struct Hashes {
    state: Arc<Replicated>,
    waiting: Semaphore,
    at_work: tokio::sync::Mutex<()>,
    /// The newest one: an idle cluster is asked for the same again and again.
    newest: Mutex<Option<StateHash>>,
}

impl Hashes {
    pub(super) fn new(state: Arc<Replicated>) -> Self {
        Self {
            state,
            waiting: Semaphore::new(WAITING_MAX),
            at_work: tokio::sync::Mutex::default(),
            newest: Mutex::default(),
        }
    }

    /// The hash of the state as it is now, or of exactly the revision that is named, for which it waits at most `within`.
    pub(super) async fn hash(&self, ask: HashAsk) -> Result<StateHash, StateRefused> {
        let _one_of_few = self.waiting.try_acquire().map_err(|_| StateRefused::Busy)?;
        let frozen = match ask.revision {
            None => self.state.frozen(),
            Some(revision) => match self.state.frozen_at(revision) {
                At::Now(frozen) => *frozen,
                At::Passed(now) => return Err(StateRefused::Passed { now }),
                At::Later(copy) => match timeout(ask.within, copy).await {
                    Ok(Ok(frozen)) => frozen,
                    Ok(Err(_)) => return Err(StateRefused::Passed { now: self.state.read().revision() }),
                    Err(_) => return Err(StateRefused::Later { now: self.state.read().revision() }),
                },
            },
        };
        self.of(frozen, ask.check).await
    }

    async fn of(&self, frozen: Directory, check: bool) -> Result<StateHash, StateRefused> {
        let _alone = self.at_work.lock().await;
        let revision = frozen.revision();
        let known = self.newest().clone();
        let known = known.filter(|newest| newest.revision == revision && (newest.invariants.is_some() || !check));
        if let Some(known) = known {
            return Ok(known);
        }
        // The copy is dropped there, too, which takes milliseconds.
        let hash = threads::apart(move || hash_of(&frozen, check)).await;
        let hash =
            hash.map_err(|error| StateRefused::Unavailable(format!("the state could not be hashed: {error}")))?;
        self.newest().replace(hash.clone());
        Ok(hash)
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, Option<StateHash>> {
        self.newest.lock().expect("no code panics while holding this lock")
    }

    /// Shows the hash of one revision in so many as a metric, the same revisions on every node.
    pub(super) async fn keep(self: Arc<Self>, process: Arc<str>) {
        let show =
            |name: &'static str, value: u64| metrics::gauge!(name, "process" => Arc::clone(&process)).set(value as f64);
        loop {
            let next = (self.state.read().revision() / EVERY + 1) * EVERY;
            let At::Later(copy) = self.state.frozen_at(next) else { continue };
            // An installed snapshot may pass over it.
            let Ok(frozen) = copy.await else { continue };
            if let Ok(hash) = self.of(frozen, false).await {
                show("switchboard_state_hash_revision", hash.revision);
                show("switchboard_state_hash", hash.metric());
            }
        }
    }
}

/// Takes as long as writing a snapshot; with `check`, seconds on a large state.
fn hash_of(frozen: &Directory, check: bool) -> StateHash {
    let stats = frozen.stats();
    let invariants =
        check.then(|| frozen.check_invariants().map_or_else(|broken| broken, |()| INVARIANTS_HOLD.to_owned()));
    StateHash {
        revision: frozen.revision(),
        sha256: hex(&frozen.digest()),
        connections: stats.connections,
        sessions: stats.sessions,
        invariants,
    }
}
