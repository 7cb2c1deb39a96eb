//! Notices at once that the process of a gateway is gone, instead of waiting for its lease to run out.
//!
//! When the kernel takes a process down, its streams close and its address refuses. That is a hint and not a proof, for
//! something in between may refuse as well. So the session ends as [`Reason::Died`]: its connections are gone for readers,
//! its claims stay for a lease. Should the process be alive, its next renewal tells it; then it is not ended that way again
//! for one lease, two, four. A reset or silence alone is no hint.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::expiry::Expiry;
use super::requests::is_gone;
use crate::directory::{Epoch, GatewayAddresses, Reason};
use crate::wire::peer::{Hello, RequestBody};

/// Streams that closed and wait to be looked at. One more is left to its lease.
const SUSPECTS_MAX: usize = 4096;

/// Sessions and gateways of one stream that are looked for when it closes.
const KEPT_MAX: usize = 256;

/// Processes that are looked for at the same time.
const LOOKS_MAX: usize = 64;

/// Pauses between looks: a process that is being taken down closes one socket after the other.
const PAUSES_MS: [u64; 5] = [0, 5, 20, 60, 150];

/// Processes that were taken for dead and whose next false alarm is not believed. Beyond that the oldest are forgotten.
const ALARMS_MAX: usize = 4096;

/// Sessions that are kept by one stream: those that were renewed on it, and those of gateways that asked for one on it.
/// A gateway keeps one session at a time; a node that passes on what others ask may keep many, and its own end says nothing
/// about them that a look at their addresses would not refute.
#[derive(Debug, Default)]
pub(super) struct Kept {
    sessions: BTreeSet<Epoch>,
    gateways: BTreeSet<Arc<str>>,
}

impl Kept {
    /// Notes what a request says about who is behind the stream.
    pub(super) fn note(&mut self, body: &RequestBody) {
        match body {
            RequestBody::Renew { epoch, .. } if self.sessions.len() < KEPT_MAX => {
                self.sessions.insert(*epoch);
            }
            RequestBody::OpenSession(open) if self.gateways.len() < KEPT_MAX => {
                self.gateways.insert(Arc::clone(&open.gateway));
            }
            RequestBody::EndSession { epoch, .. } => {
                self.sessions.remove(epoch);
            }
            _ => {}
        }
    }
}

/// A session on whose stream nobody answers any more.
#[derive(Debug)]
pub(super) struct Suspect {
    who: Who,
    since: Instant,
}

#[derive(Debug)]
enum Who {
    Session(Epoch),
    Gateway(Arc<str>),
}

/// Where streams that closed are told.
#[derive(Debug, Clone)]
pub(super) struct Suspects(mpsc::Sender<Suspect>);

impl Suspects {
    /// The place to tell, and the queue.
    pub(super) fn new() -> (Self, mpsc::Receiver<Suspect>) {
        let (tell, queue) = mpsc::channel(SUSPECTS_MAX);
        (Self(tell), queue)
    }

    /// The stream by which these were kept has closed.
    pub(super) fn tell(&self, kept: Kept) {
        let since = Instant::now();
        let sessions = kept.sessions.into_iter().map(Who::Session);
        for who in sessions.chain(kept.gateways.into_iter().map(Who::Gateway)) {
            // What does not fit is noticed when its lease runs out.
            let _ = self.0.try_send(Suspect { who, since });
        }
    }
}

/// Which processes were taken for dead: until when they are not again, and for how long the next time.
#[derive(Debug, Default)]
struct Alarms(HashMap<Arc<str>, (Instant, Duration)>);

impl Alarms {
    fn are_believed(&self, nonce: &Arc<str>, now: Instant) -> bool {
        self.0.get(nonce).is_none_or(|(until, _)| *until <= now)
    }

    /// A process was taken for dead. If it is, its nonce never comes again.
    fn note(&mut self, nonce: Arc<str>, lease: Duration, now: Instant) {
        let pause = self.0.get(&nonce).map_or(lease, |(_, last)| *last * 2);
        self.0.insert(nonce, (now + pause, pause));
        if self.0.len() > ALARMS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, (until, _))| *until).map(|(nonce, _)| Arc::clone(nonce));
            oldest.map(|nonce| self.0.remove(&nonce));
        }
    }
}

/// Looks for the processes of suspects.
#[derive(Debug, Clone)]
pub(super) struct Deaths {
    expiry: Expiry,
    hello: Arc<Hello>,
    alarms: Arc<Mutex<Alarms>>,
}

/// What is known of a process that is looked for.
struct Process {
    addresses: GatewayAddresses,
    nonce: Arc<str>,
    lease: Duration,
}

impl Deaths {
    pub(super) fn new(expiry: Expiry, hello: Arc<Hello>) -> Self {
        Self { expiry, hello, alarms: Arc::default() }
    }

    /// Looks at suspects until nobody can tell of one any more.
    pub(super) async fn run(self, mut suspects: mpsc::Receiver<Suspect>) {
        let mut looks = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = looks.join_next() => {}
                suspect = suspects.recv(), if looks.len() < LOOKS_MAX => {
                    let Some(suspect) = suspect else { return };
                    let this = self.clone();
                    looks.spawn(async move { this.look_for(suspect).await });
                }
            }
        }
    }

    /// Ends the session if its process is gone.
    async fn look_for(&self, suspect: Suspect) {
        let Suspect { who, since } = suspect;
        let epoch = match who {
            Who::Session(epoch) => epoch,
            Who::Gateway(name) => match self.expiry.state.read().session_of(&name) {
                Some(live) => live.epoch,
                None => return,
            },
        };
        for pause in PAUSES_MS {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let Some(process) = self.process_of(epoch) else { return };
            if self.was_heard(epoch, since) {
                return;
            }
            if is_gone(&process.addresses, &process.nonce, &self.hello).await {
                return self.end(epoch, since, process).await;
            }
        }
    }

    /// The process behind a session that can be ended: it lives, is reached by an address of ours, and was not taken for dead
    /// just now.
    fn process_of(&self, epoch: Epoch) -> Option<Process> {
        let directory = self.expiry.state.read();
        let session = directory.session(epoch)?.session;
        session.addresses.peer.as_ref()?;
        let (nonce, addresses) = (Arc::clone(&session.nonce), session.addresses.clone());
        let lease = Duration::from_millis(session.lease_ms.into());
        drop(directory);
        self.alarms().are_believed(&nonce, Instant::now()).then_some(Process { addresses, nonce, lease })
    }

    fn alarms(&self) -> MutexGuard<'_, Alarms> {
        self.alarms.lock().expect("no code panics while holding this lock")
    }

    fn was_heard(&self, epoch: Epoch, since: Instant) -> bool {
        let table = self.expiry.leases.table();
        table.leases.get(&epoch).is_none_or(|lease| lease.heard.is_some_and(|heard| heard > since))
    }

    /// Ends the session, unless a renewal came in between; those that come now wait for the outcome.
    async fn end(&self, epoch: Epoch, since: Instant, process: Process) {
        let leadership = {
            let mut table = self.expiry.leases.table();
            let Some(leadership) = table.leadership.clone() else { return };
            let heard = table.leases.get(&epoch).is_none_or(|lease| lease.heard.is_some_and(|heard| heard > since));
            // Somebody else is ending it already.
            if heard || !table.ending.insert(epoch) {
                return;
            }
            leadership
        };
        self.alarms().note(process.nonce, process.lease, Instant::now());
        self.expiry.end(&leadership, epoch, Reason::Died, since.elapsed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_false_alarm_is_believed_again_after_one_lease_then_two_then_four() {
        let (mut alarms, nonce): (_, Arc<str>) = (Alarms::default(), "n".into());
        let (lease, mut now) = (Duration::from_secs(3), Instant::now());
        assert!(alarms.are_believed(&nonce, now));
        for leases in [1, 2, 4] {
            alarms.note(Arc::clone(&nonce), lease, now);
            assert!(!alarms.are_believed(&nonce, now + lease * leases - Duration::from_millis(1)));
            now += lease * leases;
            assert!(alarms.are_believed(&nonce, now));
        }
        assert!(alarms.are_believed(&"another".into(), now));
        for n in 0..2 * ALARMS_MAX {
            alarms.note(format!("{n}").into(), lease, now);
        }
        assert!(alarms.0.len() <= ALARMS_MAX);
    }
}
