//! Thousands of random entries, each compared with the model in everything that can be seen.
//!
//! `SWITCHBOARD_SEED=n` repeats one run; without it there are some fixed ones and a new one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use switchboard::directory::{Applied, Command, Connection, ConnectionId, Directory, Entry, Epoch, Event, Op, Stats};

use super::generate::{Generator, USERS};
use super::model::{Expected, Model};
use super::places::State;
use super::replica::Replica;

const ENTRIES: u64 = 2500;

/// What has to come up in every run, or the test says less than it seems to.
const KINDS: [&str; 40] = [
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
    "Conflict { owner: Owner",
    "live: false",
    "Pending",
    "Superseded { by",
    "superseded: [Connection",
    "reason: Superseded",
    "ClaimsReleased(true)",
    "ClaimsReleased(false)",
    "Asked([Connection",
    "Banned(Ok([Connection",
    "Banned(Err",
    "Refused(Banned",
    "Unbanned(true)",
    "Unbanned(false)",
    "ReleaseAsked",
    "TopicJoined",
    "TopicLeft",
    "Invalid(Topic)",
];

/// What the end of a session closed and left, one by one.
fn closed_by(frozen: &Directory, epoch: Epoch) -> Vec<Event> {
    frozen.closed_by(epoch, None).chain(frozen.left_by(epoch, None)).collect()
}

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
        let ends: Vec<_> = applied.ends.iter().map(|end| (end.n, closed_by(&end.frozen, end.epoch))).collect();
        assert_eq!(ends, expected.ends, "{entry:#?}");
        self.directory.check_invariants().unwrap_or_else(|broken| panic!("{broken}\n{entry:#?}"));
        for command in &entry.commands {
            let Command::Batch(batch) = command else { continue };
            for op in &batch.ops {
                let serial = match op {
                    Op::Register(register) => register.serial,
                    Op::Unregister { serial, .. } | Op::Meta { serial, .. } => *serial,
                    Op::Join { .. } | Op::Leave { .. } => continue,
                };
                self.compare_connection(ConnectionId { epoch: batch.epoch, serial });
                if let Op::Register(register) = op {
                    self.compare_user(&register.user);
                }
            }
        }
        for event in &applied.events {
            match event {
                Event::Closed { user, .. } => self.compare_user(user),
                Event::Opened { connection, .. } => self.compare_user(&connection.user),
                _ => {}
            }
        }
    }

    fn compare_connection(&self, id: ConnectionId) {
        let found = self.directory.connection(id);
        let there = self.model.connections().get(&id).cloned();
        assert_eq!(found.as_ref().map(|live| Connection::clone(&live.connection)), there, "{id}");
        if let Some(live) = found {
            assert_eq!(**live.session, self.model.sessions[&id.epoch].session);
        }
    }

    fn compare_user(&self, user: &str) {
        let found = self.directory.connections_of(user);
        let found: Vec<(ConnectionId, Connection)> =
            found.iter().map(|live| (live.id, Connection::clone(&live.connection))).collect();
        assert_eq!(found, self.model.of(user), "{user}");
        assert_eq!(self.directory.is_online(user), !found.is_empty());
    }

    /// Compares everything that can be read.
    fn compare_all(&mut self) {
        let (directory, model) = (&self.directory, &self.model);
        USERS.iter().for_each(|user| self.compare_user(user));
        let all: Vec<ConnectionId> = model.connections().into_keys().collect();
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
        let ended: Vec<_> = directory.ended_sessions().map(|ended| (ended.epoch, ended.held, ended.claims)).collect();
        assert_eq!(ended, model.unreclaimed());
        self.compare_requests();
        self.compare_stats();
        assert_eq!(self.replica, Replica::of(&self.directory));
        if self.generator.one_in(8) {
            self.replica = Replica::of(&self.directory);
        }
    }

    /// Compares what gateways are asked for, topics and bans.
    fn compare_requests(&self) {
        let (directory, model) = (&self.directory, &self.model);
        for epoch in model.sessions.keys() {
            let asked: Vec<_> =
                directory.asked(*epoch).map(|asked| (asked.id, asked.since, asked.release.clone())).collect();
            let expected = model.involved.iter().filter(|(id, _)| id.epoch == *epoch);
            let expected = expected.filter_map(|(id, (_, asked))| asked.clone().map(|(since, how)| (*id, since, how)));
            assert_eq!(asked, expected.collect::<Vec<_>>());
            assert_eq!(directory.topics_of(*epoch, None).cloned().collect::<Vec<_>>(), model.topics_of(*epoch));
        }
        for id in model.items.keys() {
            let waits = model.is_live(*id) && matches!(model.items[id].state, State::Waits(_));
            assert_eq!(directory.is_pending(*id), waits, "{id}");
        }
        let live = |epoch: &Epoch| model.sessions.contains_key(epoch);
        for topic in directory.topics("t") {
            let sessions: Vec<_> = model
                .topics
                .iter()
                .filter(|(of, epoch)| *of == topic.topic && live(epoch))
                .map(|(_, epoch)| *epoch)
                .collect();
            assert_eq!((&directory.sessions_of(&topic.topic), &topic.sessions), (&sessions, &sessions));
        }
        let bans: Vec<_> =
            directory.bans().map(|banned| (banned.user.clone(), (banned.made, banned.ban.clone()))).collect();
        assert_eq!(bans, model.bans.clone().into_iter().collect::<Vec<_>>());
        let mut by_end: Vec<_> =
            model.bans.iter().filter_map(|(user, (_, ban))| ban.until_ms.map(|until| (until, user.clone()))).collect();
        by_end.sort();
        let ends: Vec<_> =
            directory.bans_by_end().map(|banned| (banned.ban.until_ms.unwrap(), banned.user.clone())).collect();
        assert_eq!(ends, by_end);
        if let Some((user, _)) = bans.first() {
            assert_eq!(directory.bans_after(Some(user)).count(), bans.len() - 1);
        }
    }

    fn compare_stats(&self) {
        let stats = self.directory.stats();
        let connections = self.model.connections();
        let users: BTreeSet<&Arc<str>> = connections.values().map(|c| &c.user).collect();
        let exact = Stats {
            connections: connections.len() as u64,
            users: users.len() as u64,
            sessions: self.model.sessions.len() as u64,
        };
        if self.model.ended.is_empty() {
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
