//! What has happened, line by line, and what must follow from it: the state that the log says, beside which everything that
//! is seen or told anywhere is held.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha2::{Digest, Sha256};
use switchboard::directory::{ConnectionId, Directory, Entry, Epoch, Event, Per, Reason, Revision};

use super::network::Host;

/// States that are kept to compare with. The older ones nobody shows any more.
const STATES_MAX: usize = 4000;

/// The book. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Book(Arc<Mutex<Pages>>);

/// A session whose end is in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) epoch: Epoch,
    pub(super) reason: Reason,
}

/// What the book knows.
#[derive(Debug, Default)]
pub(super) struct Pages {
    now: Duration,
    lines: Vec<String>,
    violation: Option<String>,
    /// By name of the machine, for messages.
    pub(super) names: Vec<String>,
    /// What each revision's entry was.
    entries: BTreeMap<Revision, [u8; 32]>,
    states: BTreeMap<Revision, Directory>,
    /// The largest grant of each user.
    granted: BTreeMap<Arc<str>, Revision>,
    /// Who led in which term.
    leaders: BTreeMap<u64, Host>,
    /// Up to here everybody may rely on what was told.
    pub(super) acknowledged: Revision,
    /// Since it was last asked for.
    pub(super) ended: Vec<Ended>,
    pub(super) counts: BTreeMap<&'static str, u64>,
}

impl Book {
    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn set_now(&self, now: Duration) {
        self.pages().now = now;
    }

    pub(super) fn note(&self, line: impl AsRef<str>) {
        self.pages().note(line.as_ref());
    }

    pub(super) fn count(&self, what: &'static str) {
        *self.pages().counts.entry(what).or_default() += 1;
    }

    /// Something is not as it must be. The first time counts.
    pub(super) fn violate(&self, invariant: &str, what: impl AsRef<str>) {
        self.pages().violate(invariant, what.as_ref());
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.pages().violation.clone()
    }

    /// Hash of all lines so far.
    pub(super) fn hash(&self) -> String {
        let pages = self.pages();
        let mut hash = Sha256::new();
        for line in &pages.lines {
            hash.update(line.as_bytes());
            hash.update(b"\n");
        }
        let mut text = String::new();
        for byte in &hash.finalize()[..16] {
            write!(text, "{byte:02x}").expect("writing to a string can't fail");
        }
        text
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.pages().lines.clone()
    }

    /// A node has applied an entry.
    pub(super) fn applied(&self, host: Host, revision: Revision, entry: &Entry) {
        self.pages().applied(host, revision, entry);
    }

    /// A node leads in a term.
    pub(super) fn leads(&self, host: Host, term: u64) {
        let mut pages = self.pages();
        let name = pages.names[host].clone();
        match pages.leaders.insert(term, host) {
            None => {
                pages.note(&format!("{name} leads in term {term}"));
                *pages.counts.entry("leaderships").or_default() += 1;
            }
            Some(other) if other != host => {
                let what = format!("{} and {name} both led in term {term}", pages.names[other]);
                pages.violate("one leader per term", &what);
            }
            Some(_) => {}
        }
    }
}

impl Pages {
    fn note(&mut self, line: &str) {
        let line = format!("{:>10.3} {line}", self.now.as_secs_f64());
        self.lines.push(line);
    }

    fn violate(&mut self, invariant: &str, what: &str) {
        if self.violation.is_none() {
            self.violation = Some(format!("{invariant}: {what}"));
            self.note(&format!("VIOLATION of {invariant}: {what}"));
        }
    }

    /// The state of a revision: that of the last entry up to it. `None` where it is not kept any more, or not there yet.
    pub(super) fn state_at(&self, revision: Revision) -> Option<&Directory> {
        self.states.range(..=revision).next_back().map(|(_, state)| state)
    }

    /// The state of the last entry that anybody has applied.
    pub(super) fn newest(&self) -> Option<&Directory> {
        self.states.last_key_value().map(|(_, state)| state)
    }

    /// Whether it is too old to be compared with.
    pub(super) fn is_forgotten(&self, revision: Revision) -> bool {
        self.states.first_key_value().is_none_or(|(first, _)| *first > revision)
    }

    fn applied(&mut self, host: Host, revision: Revision, entry: &Entry) {
        let hash: [u8; 32] = Sha256::digest(format!("{entry:?}")).into();
        let name = self.names[host].clone();
        match self.entries.get(&revision) {
            Some(known) if *known == hash => return,
            Some(_) => {
                let what = format!("{name} applied at revision {revision} {entry:?}, others another entry");
                return self.violate("committed entries never change", &what);
            }
            None => {}
        }
        if let Some((last, _)) = self.entries.last_key_value().filter(|(last, _)| **last > revision) {
            let what = format!("{name} applied {entry:?} at {revision}; others have none there and are at {last}");
            return self.violate("committed entries never change", &what);
        }
        self.entries.insert(revision, hash);
        let short = format!("{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
        self.note(&format!("{name} applied {revision} {short}"));
        *self.counts.entry("entries").or_default() += 1;
        let mut state = self.newest().cloned().unwrap_or_default();
        let applied = state.apply(revision, entry);
        if let Err(what) = state.check_invariants() {
            self.violate("the directory's own invariants", &format!("at revision {revision}: {what}"));
        }
        for event in &applied.events {
            self.happened(revision, event);
        }
        self.states.insert(revision, state);
        if self.states.len() > STATES_MAX {
            self.states.pop_first();
        }
    }

    fn happened(&mut self, revision: Revision, event: &Event) {
        match event {
            Event::Opened { id, connection, .. } => {
                let granted = self.granted.entry(Arc::clone(&connection.user)).or_default();
                let before = std::mem::replace(granted, (*granted).max(connection.granted));
                if connection.granted < before || connection.granted != revision || id.epoch >= revision {
                    let what = format!("{id} of {} was granted {} after {before}", connection.user, connection.granted);
                    self.violate("granted only grows", &what);
                }
            }
            Event::SessionOpened { epoch, session } => {
                if *epoch != revision {
                    self.violate("an epoch is the revision of its session", &format!("s-{epoch} at {revision}"));
                }
                self.note(&format!("session s-{epoch} of {}", session.gateway));
            }
            Event::SessionEnded { epoch, gateway, reason } => {
                self.note(&format!("session s-{epoch} of {gateway} ended as {reason:?}"));
                *self.counts.entry("sessions ended").or_default() += 1;
                self.ended.push(Ended { epoch: *epoch, reason: *reason });
            }
            _ => {}
        }
    }

    /// A client was told that its connection is there.
    pub(super) fn welcomed(&mut self, client: &str, id: ConnectionId, granted: Revision, revision: Revision) {
        self.note(&format!("{client} has {id} granted {granted} at {revision}"));
        self.acknowledged = self.acknowledged.max(revision);
        let newest = self.entries.last_key_value().map_or(0, |(last, _)| *last);
        if granted > newest {
            let what = format!("{client} was told of {id}, granted {granted}; the log ends at {newest}");
            return self.violate("acknowledged is committed", &what);
        }
        if self.is_forgotten(granted) {
            return;
        }
        let there = self.state_at(granted).and_then(|state| state.connection(id));
        if there.is_none_or(|there| there.connection.granted != granted) {
            let what = format!("{client} was told of {id}, granted {granted}; the log does not say so");
            self.violate("no acknowledged registration is lost", &what);
        }
    }

    /// A linearizable read that began when `floor` was acknowledged has shown the connections of a user.
    pub(super) fn read(&mut self, at: &str, floor: Revision, user: &str, revision: Revision, found: &[ConnectionId]) {
        self.note(&format!("a read at {at} of {user} shows {} connections at {revision}", found.len()));
        self.acknowledged = self.acknowledged.max(revision);
        if revision < floor {
            let what = format!("a read at {at} shows revision {revision}; {floor} was acknowledged before it began");
            return self.violate("reads are linearizable", &what);
        }
        let Some(state) = self.state_at(revision).filter(|_| !self.is_forgotten(revision)) else { return };
        let truth: Vec<ConnectionId> = state.connections_of(user).iter().map(|live| live.id).collect();
        if truth != found {
            let what = format!("a read at {at} of {user} shows {found:?} at {revision}, the log {truth:?}");
            self.violate("reads are linearizable", &what);
        }
    }

    /// Whether two exclusive connections claim the same, if they are of one user.
    pub(super) fn overlap(one: (Per, &str), other: (Per, &str)) -> bool {
        match (one, other) {
            ((Per::Device, one), (Per::Device, other)) => one == other,
            _ => true,
        }
    }
}
