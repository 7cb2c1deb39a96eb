//! Thousands of random entries, each compared with the model in everything that can be seen.
//!
//! `SWITCHBOARD_SEED=n` repeats one run; without it there are some fixed ones and a new one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use switchboard::directory::{Applied, Command, Connection, ConnectionId, Directory, Entry, Event, Op, Stats};

use super::generate::{Generator, USERS};
use super::model::{Expected, Model};
use super::replica::Replica;

const ENTRIES: u64 = 2500;

/// What has to come up in every run, or the test says less than it seems to.
const KINDS: [&str; 22] = [
    "Opened(Ok",
    "Conflict",
    "Stale",
    "NotAlone",
    "Invalid(Gateway)",
    "Ended(true)",
    "Ended(false)",
    "Fenced",
    "Gap",
    "TooOld",
    "ConnectionLimit",
    "SerialReused",
    "NotFound",
    "VersionMismatch",
    "Invalid(User)",
    "Invalid(TooLong)",
    "Unregistered { existed: true }",
    "Unregistered { existed: false }",
    "MetaSet",
    "reason: Replaced",
    "first: false",
    "last: false",
];

#[test]
fn the_directory_does_what_the_model_does() {
    if let Ok(seed) = std::env::var("SWITCHBOARD_SEED") {
        return Run::new(seed.parse().unwrap()).run();
    }
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    for seed in [1, 2, 3, u64::from(fresh)] {
        println!("SWITCHBOARD_SEED={seed}");
        Run::new(seed).run();
    }
}

struct Run {
    generator: Generator,
    model: Model,
    directory: Directory,
    /// Applies the same entries and is never restarted.
    other: Directory,
    replica: Replica,
    /// A copy, and what it was when it was made.
    frozen: (Directory, [u8; 32]),
    /// The kinds of outcomes and events that have not come up yet.
    unseen: Vec<&'static str>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let directory = Directory::new();
        Self {
            generator: Generator::new(seed),
            model: Model::default(),
            frozen: (directory.clone(), directory.digest()),
            other: directory.clone(),
            replica: Replica::of(&directory),
            directory,
            unseen: KINDS.to_vec(),
        }
    }

    fn run(mut self) {
        for step in 0..ENTRIES {
            let revision = self.directory.revision() + 1 + u64::from(self.generator.one_in(5));
            let entry = self.generator.entry(&self.model);
            let expected = self.model.apply(revision, &entry);
            let applied = self.directory.apply(revision, &entry);
            self.compare(&entry, &expected, &applied);
            self.note(&applied);
            self.other.apply(revision, &entry);
            for event in &applied.events {
                self.replica.apply(event);
            }
            if step % 10 == 0 {
                self.compare_all();
            }
            if step % 50 == 0 {
                self.freeze();
            }
            if step % 100 == 0 {
                self.restart();
            }
        }
        assert_eq!(self.directory.digest(), self.other.digest());
        assert_eq!(self.unseen, [""; 0], "never came up");
    }

    fn note(&mut self, applied: &Applied) {
        if !self.unseen.is_empty() {
            let text = format!("{:?} {:?}", applied.outcomes, applied.events);
            self.unseen.retain(|kind| !text.contains(kind));
        }
    }

    /// Compares what one entry gave, and the users that it touched.
    fn compare(&self, entry: &Entry, expected: &Expected, applied: &Applied) {
        assert_eq!(applied.outcomes, expected.outcomes, "{entry:#?}");
        assert_eq!(applied.events, expected.events, "{entry:#?}");
        let ends: Vec<_> =
            applied.ends.iter().map(|end| (end.n, end.frozen.closed_by(end.epoch, None).collect::<Vec<_>>())).collect();
        assert_eq!(ends, expected.ends, "{entry:#?}");
        self.directory.check_invariants().unwrap_or_else(|broken| panic!("{broken}\n{entry:#?}"));
        for command in &entry.commands {
            let Command::Batch(batch) = command else { continue };
            for op in &batch.ops {
                let serial = match op {
                    Op::Register(register) => register.serial,
                    Op::Unregister { serial, .. } | Op::Meta { serial, .. } => *serial,
                };
                self.compare_connection(ConnectionId { epoch: batch.epoch, serial });
                if let Op::Register(register) = op {
                    self.compare_user(&register.user);
                }
            }
        }
        for event in &applied.events {
            if let Event::Closed { user, .. } = event {
                self.compare_user(user);
            }
        }
    }

    fn compare_connection(&self, id: ConnectionId) {
        let found = self.directory.connection(id);
        assert_eq!(found.as_ref().map(|live| &*live.connection), self.model.connections.get(&id), "{id}");
        if let Some(live) = found {
            assert_eq!(**live.session, self.model.sessions[&id.epoch].session);
        }
    }

    fn compare_user(&self, user: &str) {
        let found = self.directory.connections_of(user);
        let found: Vec<(ConnectionId, &Connection)> = found.iter().map(|live| (live.id, &*live.connection)).collect();
        assert_eq!(found, self.model.of(user), "{user}");
        assert_eq!(self.directory.is_online(user), !found.is_empty());
    }

    /// Compares everything that can be read.
    fn compare_all(&mut self) {
        let (directory, model) = (&self.directory, &self.model);
        USERS.iter().for_each(|user| self.compare_user(user));
        let all: Vec<ConnectionId> = model.connections.keys().copied().collect();
        assert_eq!(directory.scan(None).map(|live| live.id).collect::<Vec<_>>(), all);
        let mut paged = Vec::new();
        while let Some(live) = directory.scan(paged.last().copied()).next() {
            paged.push(live.id);
            assert!(paged.len() <= all.len(), "{paged:?}");
        }
        assert_eq!(paged, all);
        let sessions: Vec<_> =
            directory.sessions().map(|live| (live.epoch, live.connections, live.last_batch)).collect();
        let expected = model
            .sessions
            .iter()
            .map(|(epoch, session)| (*epoch, model.in_session(*epoch).len() as u64, session.done.len() as u64));
        assert_eq!(sessions, expected.collect::<Vec<_>>());
        for (epoch, ..) in sessions {
            let ids: Vec<_> = directory.scan_session(epoch, None).map(|live| live.id).collect();
            assert_eq!(ids, model.in_session(epoch));
        }
        for (name, (nonce, attempt, epoch)) in &model.gateways {
            let gateway = directory.gateway(name).unwrap();
            assert_eq!((gateway.nonce, gateway.attempt, gateway.epoch), (nonce, *attempt, *epoch));
            let alive = model.sessions.contains_key(epoch).then_some(*epoch);
            assert_eq!(directory.session_of(name).map(|live| live.epoch), alive);
        }
        let ended: Vec<_> = directory.ended_sessions().map(|ended| (ended.epoch, ended.held)).collect();
        assert_eq!(ended, model.unreclaimed.clone().into_iter().collect::<Vec<_>>());
        self.compare_stats();
        assert_eq!(self.replica, Replica::of(&self.directory));
        if self.generator.one_in(8) {
            self.replica = Replica::of(&self.directory);
        }
    }

    fn compare_stats(&self) {
        let stats = self.directory.stats();
        let users: BTreeSet<&Arc<str>> = self.model.connections.values().map(|c| &c.user).collect();
        let exact = Stats {
            connections: self.model.connections.len() as u64,
            users: users.len() as u64,
            sessions: self.model.sessions.len() as u64,
        };
        if self.model.unreclaimed.is_empty() {
            assert_eq!(stats, exact);
        } else {
            assert!(stats.users >= exact.users);
            assert_eq!(stats, Stats { users: stats.users, ..exact });
        }
    }

    /// The former copy is what it was; a new one is made.
    fn freeze(&mut self) {
        assert_eq!(self.frozen.0.digest(), self.frozen.1);
        self.frozen.0.check_invariants().unwrap();
        self.frozen = (self.directory.clone(), self.directory.digest());
    }

    /// Goes on from its own snapshot, like a node that was restarted.
    fn restart(&mut self) {
        let (mut bytes, mut others, mut again) = (Vec::new(), Vec::new(), Vec::new());
        self.directory.write_to(&mut bytes).unwrap();
        self.other.write_to(&mut others).unwrap();
        assert_eq!(bytes, others);
        self.directory = Directory::read_from(&mut bytes.as_slice()).unwrap();
        self.directory.check_invariants().unwrap();
        self.directory.write_to(&mut again).unwrap();
        assert_eq!(bytes, again);
        assert_eq!(self.directory.stats(), self.other.stats());
        // How connections are packed depends on what came before them, so this is not exact.
        let (bytes, others) = (self.directory.state_bytes(), self.other.state_bytes());
        assert!(bytes.abs_diff(others) <= others / 4, "{bytes} and {others} bytes");
    }
}
