//! The state, and what an entry does to it: sessions here, batches in [`super::batch`].

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;

use super::bans::Bans;
use super::command::{Command, Entry, GatewayAddresses, OpenSession, Reason};
use super::contest::{Contest, Involved, ids_of};
use super::held::Held;
use super::ids::{ConnectionId, Epoch, Revision};
use super::limits::{TEXT_BYTES_MAX, is_name};
use super::outcome::{Applied, Connection, Event, Invalid, OpenRefused, Outcome, Session, SessionEnd};
use super::pages::Pages;
use super::sessions::{Alive, Change, Counts, Ended, Incumbent};
use super::topics::Topics;
use super::users::{Users, hash_of};

/// Which user is connected where.
///
/// Cloning takes microseconds at any size and shares everything; afterwards each copy pays for the parts that it changes.
/// So a clone is a frozen copy, to be serialised or read elsewhere while this one goes on. Drop it there too: it frees
/// what was changed since, which takes milliseconds on a large state.
#[derive(Clone, Default)]
pub struct Directory {
    pub(super) revision: Revision,
    pub(super) sessions: OrdMap<Epoch, Arc<Alive>>,
    pub(super) ended: OrdMap<Epoch, Ended>,
    pub(super) gateways: OrdMap<Arc<str>, Incumbent>,
    pub(super) pages: Pages,
    pub(super) users: Users,
    pub(super) contests: OrdMap<Arc<str>, Arc<Contest>>,
    /// Connections that take part in a contest or are to be closed.
    pub(super) involved: OrdMap<ConnectionId, Involved>,
    pub(super) topics: Topics,
    pub(super) bans: Bans,
    /// Connections of live sessions.
    pub(super) live: u64,
}

impl Directory {
    /// An empty directory at revision 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the entry at `revision`. Equal states and equal entries give equal states, outcomes and events.
    ///
    /// # Panics
    /// If `revision` is not above the present one: entries are applied once and in order.
    pub fn apply(&mut self, revision: Revision, entry: &Entry) -> Applied {
        assert!(revision > self.revision, "entry {revision} was applied at {}", self.revision);
        self.revision = revision;
        let mut applied = Applied::default();
        let mut opens = 0;
        for command in &entry.commands {
            let outcome = match command {
                Command::OpenSession(open) => {
                    opens += 1;
                    let alone = opens == 1;
                    Outcome::Opened(if alone { self.open(open, &mut applied) } else { Err(OpenRefused::NotAlone) })
                }
                Command::EndSession { epoch, reason, fenced } => {
                    Outcome::Ended(self.end(*epoch, *reason, *fenced, &mut applied))
                }
                Command::ReleaseClaims { epoch } => Outcome::ClaimsReleased(self.release_claims(*epoch)),
                Command::Batch(batch) => Outcome::Batch(self.batch(batch, &mut applied.events)),
                Command::Reclaim { epoch, limit } => {
                    Outcome::Reclaimed { left: self.reclaim(*epoch, *limit, &mut applied.events) }
                }
                Command::Disconnect(disconnect) => Outcome::Asked(self.disconnect(disconnect, &mut applied.events)),
                Command::Ban { user, ban } => Outcome::Banned(self.ban(user, ban, &mut applied.events)),
                Command::Unban { user, made } => Outcome::Unbanned(self.unban(user, *made)),
            };
            applied.outcomes.push(outcome);
        }
        applied
    }

    /// Moves to a revision whose entry carries no command for the directory.
    ///
    /// # Panics
    /// If `revision` is below the present one.
    pub fn advance(&mut self, revision: Revision) {
        assert!(revision >= self.revision, "the revision {revision} is before {}", self.revision);
        self.revision = revision;
    }

    fn open(&mut self, open: &OpenSession, applied: &mut Applied) -> Result<Epoch, OpenRefused> {
        check_open(open).map_err(OpenRefused::Invalid)?;
        if let Some(incumbent) = self.gateways.get(&open.gateway).cloned() {
            let alive = self.sessions.get(&incumbent.epoch);
            if incumbent.nonce == open.nonce {
                if open.attempt <= incumbent.attempt {
                    return alive.map(|_| incumbent.epoch).ok_or(OpenRefused::Stale);
                }
                // Where its sockets are, only the process knows: it registers them again, or their claims run out.
                self.end(incumbent.epoch, Reason::Replaced, false, applied);
            } else if let Some(alive) = alive {
                let (nonce, addresses) = (incumbent.nonce, alive.session.addresses.clone());
                return Err(OpenRefused::Conflict { epoch: incumbent.epoch, nonce, addresses });
            }
        }
        let epoch = self.revision;
        let session = Arc::new(Session {
            gateway: Arc::clone(&open.gateway),
            nonce: Arc::clone(&open.nonce),
            attempt: open.attempt,
            lease_ms: open.lease_ms,
            addresses: open.addresses.clone(),
        });
        let incumbent = Incumbent { nonce: Arc::clone(&open.nonce), attempt: open.attempt, epoch };
        self.gateways.insert(Arc::clone(&open.gateway), incumbent);
        self.sessions.insert(epoch, Arc::new(Alive::new(Arc::clone(&session))));
        applied.events.push(Event::SessionOpened { epoch, session });
        Ok(epoch)
    }

    /// Ends a session in O(1): its connections are no longer live because it is not; the rest waits for `reclaim`. A session
    /// that has ended already and is now known to have been fenced releases its claims.
    pub(super) fn end(&mut self, epoch: Epoch, reason: Reason, fenced: bool, applied: &mut Applied) -> bool {
        let Some(alive) = self.sessions.remove(&epoch) else {
            if fenced {
                self.release_claims(epoch);
            }
            return false;
        };
        let session = Arc::clone(&alive.session);
        let gateway = Arc::clone(&session.gateway);
        self.live -= alive.connections;
        let involved = self.involved.range(ids_of(epoch)).next().is_some();
        if alive.connections > 0 || alive.topics > 0 || involved {
            let claims = !fenced && (alive.exclusive > 0 || involved);
            self.ended.insert(epoch, Ended { session, reason, held: alive.connections, claims });
        }
        let n = applied.events.len();
        applied.events.push(Event::SessionEnded { epoch, gateway, reason });
        applied.ends.push(SessionEnd { n, epoch, frozen: self.clone() });
        true
    }

    /// Nothing of an ended session is served any more. What waited for that is granted by `reclaim`.
    pub(super) fn release_claims(&mut self, epoch: Epoch) -> bool {
        let Some(ended) = self.ended.get_mut(&epoch) else { return false };
        std::mem::take(&mut ended.claims)
    }

    /// Grants what waited for an ended session, then frees its connections, lowest serials first, and its topics: `limit` of
    /// all of them at most. Says how many connections are left.
    pub(super) fn reclaim(&mut self, epoch: Epoch, limit: u32, events: &mut Vec<Event>) -> u64 {
        let Some(ended) = self.ended.get(&epoch) else { return 0 };
        let (held, mut limit) = (ended.held, limit as usize);
        if ended.claims {
            return held;
        }
        let involved: Vec<_> = self.involved.range(ids_of(epoch)).take(limit).map(|(id, _)| *id).collect();
        limit -= involved.len();
        let mut counts = Counts::default();
        for id in involved {
            let Some(user) = self.withdraw(id) else { continue };
            let online = self.is_online(&user);
            let granted = self.settle(&user, &mut counts);
            self.tell_granted(granted, !online, events);
        }
        self.recount(counts);
        let slice: Vec<ConnectionId> = self.pages.scan(epoch, None).take(limit).map(|(id, _)| id).collect();
        limit -= slice.len();
        let left = held - slice.len() as u64;
        for id in slice {
            self.take(id);
        }
        let topics: Vec<_> = self.topics.of_session(epoch, None).take(limit).cloned().collect();
        for topic in &topics {
            self.topics.remove(topic, epoch);
        }
        if topics.len() < limit {
            self.ended.remove(&epoch);
        } else if let Some(ended) = self.ended.get_mut(&epoch) {
            ended.held = left;
        }
        left
    }

    /// Notes by how much the connections of sessions changed.
    pub(super) fn recount(&mut self, counts: Counts) {
        for (epoch, Change { connections, exclusive }) in counts.changes() {
            if let Some(alive) = self.sessions.get_mut(&epoch) {
                let alive = Arc::make_mut(alive);
                alive.connections = alive.connections.strict_add_signed(connections);
                alive.exclusive = alive.exclusive.strict_add_signed(exclusive);
                self.live = self.live.strict_add_signed(connections);
            }
        }
    }

    /// Adds a connection to the pages and the index. The counts of its session are the caller's.
    pub(super) fn add(&mut self, id: ConnectionId, connection: &Connection, hash: u64) {
        let place = self.pages.put(id, connection);
        self.users.insert(hash, place, &self.pages);
    }

    /// Removes a connection from the pages and the index. The counts of its session are the caller's.
    pub(super) fn take(&mut self, id: ConnectionId) -> Option<Connection> {
        let place = self.pages.place(id)?;
        let connection = self.pages.at(place).to_connection();
        self.users.remove(hash_of(&connection.user), place, &self.pages);
        self.pages.remove(place);
        Some(connection)
    }

    /// How many of a user's connections are live.
    pub(super) fn live_of(&self, held: &Held<'_>) -> usize {
        held.runs().filter(|(epoch, _)| self.sessions.contains_key(epoch)).map(|(_, count)| count).sum()
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("revision", &self.revision)
            .field("sessions", &self.sessions.len())
            .field("connections", &self.live)
            .finish_non_exhaustive()
    }
}

/// Whether a text that may be missing is within the limit.
pub(super) fn check_text(text: Option<&Arc<str>>) -> Result<(), Invalid> {
    if text.is_some_and(|text| text.len() > TEXT_BYTES_MAX) { Err(Invalid::TooLong) } else { Ok(()) }
}

fn check_open(open: &OpenSession) -> Result<(), Invalid> {
    if !is_name(&open.gateway) || !is_name(&open.nonce) {
        return Err(Invalid::Gateway);
    }
    let GatewayAddresses { url, api, peer, deliver_url } = &open.addresses;
    [url, api, peer, deliver_url].into_iter().try_for_each(|text| check_text(text.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, BatchDone, Op, OpOutcome, OpRefused, Policy, Register, Stats};
    use super::*;

    fn open(gateway: &str) -> Command {
        Command::OpenSession(OpenSession {
            gateway: gateway.into(),
            nonce: "n".into(),
            attempt: 1,
            lease_ms: 3000,
            addresses: GatewayAddresses::default(),
        })
    }

    fn register(serial: u64, user: &str) -> Op {
        Op::Register(Register {
            serial,
            user: user.into(),
            device: "web".into(),
            policy: Policy::multi(2),
            since: None,
            connected_at_ms: 5,
            remote: None,
            meta: None,
        })
    }

    fn apply(directory: &mut Directory, commands: Vec<Command>) -> Applied {
        let applied = directory.apply(directory.revision() + 1, &Entry { at_ms: 0, commands });
        directory.check_invariants().unwrap();
        applied
    }

    fn batch(directory: &mut Directory, epoch: Epoch, ops: Vec<Op>) -> Vec<OpOutcome> {
        let applied = apply(directory, vec![Command::Batch(Batch { epoch, seq: None, ops })]);
        match &applied.outcomes[0] {
            Outcome::Batch(Ok(BatchDone { ops, .. })) => ops.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_ended_session_counts_for_nothing_before_it_is_reclaimed() {
        let mut directory = Directory::new();
        apply(&mut directory, vec![open("gw-1")]);
        apply(&mut directory, vec![open("gw-2")]);
        batch(&mut directory, 1, (1..=100).map(|n| register(n, &format!("u{}", n / 2))).collect());
        let ended = apply(&mut directory, vec![Command::EndSession { epoch: 1, reason: Reason::Died, fenced: true }]);
        assert!(matches!(ended.events[..], [Event::SessionEnded { epoch: 1, reason: Reason::Died, .. }]));
        assert_eq!(directory.connections_of("u7").len(), 0);
        assert_eq!(directory.scan(None).count(), 0);
        assert_eq!(directory.stats(), Stats { connections: 0, users: 51, sessions: 1 });

        // The dead ones neither use up the user's limit, nor keep the next one from being the first.
        let again = apply(
            &mut directory,
            vec![Command::Batch(Batch { epoch: 2, seq: None, ops: vec![register(1, "u7"), register(2, "u7")] })],
        );
        let firsts: Vec<_> = again.events.iter().map(|e| matches!(e, Event::Opened { first: true, .. })).collect();
        assert_eq!(firsts, [true, false]);
        assert_eq!(
            batch(&mut directory, 2, vec![register(3, "u7")]),
            [OpOutcome::Refused(OpRefused::ConnectionLimit { max: 2 })]
        );

        for left in [60, 20, 0, 0] {
            let applied = apply(&mut directory, vec![Command::Reclaim { epoch: 1, limit: 40 }]);
            assert_eq!(applied.outcomes, [Outcome::Reclaimed { left }]);
            assert!(applied.events.is_empty());
        }
        assert_eq!(directory.stats(), Stats { connections: 2, users: 1, sessions: 1 });
        assert_eq!(directory.ended_sessions().count(), 0);
        assert_eq!(
            apply(&mut directory, vec![Command::Reclaim { epoch: 2, limit: 40 }]).outcomes,
            [Outcome::Reclaimed { left: 0 }]
        );
        assert_eq!(directory.stats().connections, 2);
    }

    #[test]
    fn the_end_of_a_session_is_told_one_by_one_from_the_copy_that_froze_it() {
        let mut directory = Directory::new();
        apply(&mut directory, vec![open("gw-1")]);
        apply(&mut directory, vec![open("gw-2")]);
        batch(&mut directory, 1, vec![register(1, "a"), register(2, "a"), register(3, "b"), register(4, "c")]);
        batch(&mut directory, 2, vec![register(1, "b")]);
        // Later commands of the same entry must not show: `c` comes back, `b` goes as well.
        let applied = apply(
            &mut directory,
            vec![
                Command::EndSession { epoch: 1, reason: Reason::Expired, fenced: true },
                Command::Batch(Batch { epoch: 2, seq: None, ops: vec![register(2, "c")] }),
                Command::EndSession { epoch: 2, reason: Reason::Expired, fenced: true },
            ],
        );
        let told: Vec<Vec<(u64, bool)>> = applied
            .ends
            .iter()
            .map(|end| {
                assert!(matches!(applied.events[end.n], Event::SessionEnded { epoch, .. } if epoch == end.epoch));
                end.frozen
                    .closed_by(end.epoch, None)
                    .map(|event| match event {
                        Event::Closed { id, last, reason: Reason::Expired, .. } => (id.serial, last),
                        other => panic!("{other:?}"),
                    })
                    .collect()
            })
            .collect();
        assert_eq!(told, [vec![(1, false), (2, true), (3, false), (4, true)], vec![(1, true), (2, true)]]);
    }

    #[test]
    fn a_snapshot_gives_the_same_state_and_the_same_bytes() {
        let mut directory = Directory::new();
        apply(&mut directory, vec![open("gw-1")]);
        apply(&mut directory, vec![open("gw-2")]);
        batch(&mut directory, 1, (1..=5000).map(|n| register(n, &format!("user-{n}"))).collect());
        batch(&mut directory, 2, (1..=9).map(|n| register(n * 1000, &format!("user-{n}"))).collect());
        apply(&mut directory, vec![Command::EndSession { epoch: 1, reason: Reason::Closed, fenced: true }]);
        let mut bytes = Vec::new();
        directory.write_to(&mut bytes).unwrap();
        let mut read = Directory::read_from(&mut bytes.as_slice()).unwrap();
        read.check_invariants().unwrap();
        assert_eq!(read.digest(), directory.digest());
        assert_eq!((read.stats(), read.revision()), (directory.stats(), directory.revision()));
        let reclaim = || vec![Command::Reclaim { epoch: 1, limit: 4000 }];
        assert_eq!(apply(&mut read, reclaim()).outcomes, apply(&mut directory, reclaim()).outcomes);
        assert_eq!(read.digest(), directory.digest());
    }
}
