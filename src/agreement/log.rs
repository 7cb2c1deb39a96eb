//! The log: random entries, the states that they lead to, and what there is to tell of each.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::Value;

use super::Seen;
use crate::directory::{
    Ban, Batch, Command, Connection, ConnectionId, Directory, Entry, Event, GatewayAddresses, Handover, Op,
    OpenSession, Per, Policy, Reason, Register, Revision,
};
use crate::node::LoneNode;

pub(super) const USERS: [&str; 9] = ["ada", "adam", "bob", "cy", "dee", "eve", "fay", "gus", "hal"];

/// One line that a feed of everything shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) mark: (Revision, u32),
    pub(super) kind: &'static str,
    pub(super) user: Option<String>,
    pub(super) connection: Option<String>,
}

/// An entry of the log; without commands, one that is none of the directory's.
type Logged = (Revision, Option<Entry>);

pub(super) struct Log {
    pub(super) rng: Rng,
    entries: Vec<Logged>,
    states: BTreeMap<Revision, Directory>,
    told: Vec<Told>,
    serial: u64,
    attempts: u64,
}

impl Log {
    pub(super) fn new(seed: u64) -> Self {
        let states = BTreeMap::from([(0, Directory::new())]);
        Self { rng: Rng::with_seed(seed), entries: Vec::new(), states, told: Vec::new(), serial: 0, attempts: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The latest state.
    pub(super) fn state(&self) -> &Directory {
        self.states.last_key_value().unwrap().1
    }

    /// One more entry.
    pub(super) fn entry(&mut self) {
        let mut state = self.state().clone();
        let revision = state.revision() + 1 + u64::from(self.rng.u8(0..8) == 0);
        if self.rng.u8(0..12) == 0 {
            state.advance(revision);
            self.entries.push((revision, None));
        } else {
            let mut opened = false;
            let commands = (0..self.rng.usize(1..4)).map(|_| self.command(&state, &mut opened)).collect();
            let entry = Entry { at_ms: revision * 1000, commands };
            let applied = state.apply(revision, &entry);
            let mut n = 0;
            for (index, event) in applied.events.iter().enumerate() {
                self.tell(revision, &mut n, event);
                for end in applied.ends.iter().filter(|end| end.n == index) {
                    let left = end.frozen.left_by(end.epoch, None);
                    end.frozen.closed_by(end.epoch, None).chain(left).for_each(|so| self.tell(revision, &mut n, &so));
                }
            }
            self.entries.push((revision, Some(entry)));
        }
        self.states.insert(revision, state);
    }

    /// Notes what a feed has to show of an event.
    fn tell(&mut self, revision: Revision, n: &mut u32, event: &Event) {
        let user = event.user().map(|user| user.to_string());
        let (kind, id, also) = match event {
            Event::SessionOpened { .. } => ("gateway.up", None, None),
            Event::SessionEnded { .. } => ("gateway.down", None, None),
            Event::Opened { id, first, .. } => ("connection.opened", Some(id), first.then_some("user.online")),
            Event::Closed { id, last, .. } => ("connection.closed", Some(id), last.then_some("user.offline")),
            Event::MetaChanged { id, .. } => ("meta.changed", Some(id), None),
            Event::TopicJoined { .. } => ("topic.joined", None, None),
            Event::TopicLeft { .. } => ("topic.left", None, None),
            // A request, and no change.
            Event::ReleaseAsked { .. } => return,
        };
        let connection = id.map(ConnectionId::to_string);
        for (kind, connection) in [Some((kind, connection)), also.map(|kind| (kind, None))].into_iter().flatten() {
            self.told.push(Told { mark: (revision, *n), kind, user: user.clone(), connection });
            *n += 1;
        }
    }

    pub(super) fn apply_to(&self, node: &mut LoneNode, index: usize) {
        match &self.entries[index] {
            (revision, Some(entry)) => drop(node.apply(*revision, entry)),
            (revision, None) => node.advance(*revision),
        }
    }

    /// What there is to tell after a mark; without a number, after the whole revision.
    pub(super) fn told_after(&self, (revision, n): (Revision, Option<u32>)) -> &[Told] {
        let mark = (revision, n.unwrap_or(u32::MAX));
        &self.told[self.told.partition_point(|told| told.mark <= mark)..]
    }

    /// The connections of a user at a revision, ordered by grant.
    pub(super) fn connections(&self, user: &str, revision: Revision) -> Vec<(ConnectionId, Connection)> {
        let (_, state) = self.states.range(..=revision).next_back().unwrap();
        let live = state.connections_of(user).into_iter();
        live.map(|live| (live.id, Connection::clone(&live.connection))).collect()
    }

    /// The sessions that have subscribers of a topic at a revision.
    pub(super) fn subscribed(&self, topic: &str, revision: Revision) -> Vec<u64> {
        let (_, state) = self.states.range(..=revision).next_back().unwrap();
        state.sessions_of(topic)
    }

    pub(super) fn user(&mut self) -> &'static str {
        USERS[self.rng.usize(0..USERS.len())]
    }

    /// The history of somebody, at a node, is what there is to tell of them since the oldest revision that it names.
    pub(super) async fn check_history(&mut self, node: &LoneNode, seen: &mut Seen) {
        let user = self.user();
        let history = node.history(user).await;
        let now = node.directory.revision();
        let expected = self.told_after((history.oldest_revision, None)).iter();
        let expected: Vec<&Told> =
            expected.filter(|told| told.user.as_deref() == Some(user) && told.mark.0 <= now).collect();
        let lines: Vec<Told> =
            history.lines.iter().map(|line| told_of(&serde_json::from_slice(line).unwrap())).collect();
        assert_eq!(lines.iter().collect::<Vec<_>>(), expected, "{user} at {now} since {}", history.oldest_revision);
        let last = lines.iter().rfind(|told| told.kind == "connection.closed").map(|told| told.mark.0 * 1000);
        if lines.last().is_some_and(|told| told.kind == "user.offline") {
            assert_eq!(node.last_seen(user), last, "{user} at {now}");
        }
        seen.histories += usize::from(!lines.is_empty());
    }

    fn command(&mut self, state: &Directory, opened: &mut bool) -> Command {
        let epochs: Vec<u64> = state.sessions().map(|live| live.epoch).collect();
        if epochs.is_empty() || (!*opened && self.rng.u8(..) < 16) {
            *opened = true;
            self.attempts += 1;
            let gateway = format!("gw-{}", self.rng.u8(0..3));
            return Command::OpenSession(OpenSession {
                nonce: format!("n-{gateway}").into(),
                gateway: gateway.into(),
                attempt: self.attempts,
                lease_ms: 3000,
                addresses: GatewayAddresses::default(),
            });
        }
        let epoch = epochs[self.rng.usize(0..epochs.len())];
        match self.rng.u8(0..32) {
            0 => Command::EndSession { epoch, reason: Reason::Expired, fenced: self.rng.bool() },
            30 => Command::ReleaseClaims { epoch: self.rng.u64(0..=state.revision()) },
            31 => Command::Ban { user: self.user().into(), ban: Ban { until_ms: None, reason: None } },
            29 => Command::Unban { user: self.user().into(), made: None },
            1..3 => Command::Reclaim { epoch: self.rng.u64(0..=state.revision()), limit: 3 },
            _ => {
                let ops = (0..self.rng.usize(1..4)).map(|_| self.op(state, epoch)).collect();
                Command::Batch(Batch { epoch, seq: None, ops })
            }
        }
    }

    fn policy(&mut self) -> Policy {
        let (per, immediate) = (Per::User, Handover::Immediate);
        match self.rng.u8(0..6) {
            0 => Policy::OldestWins { per },
            1 => Policy::NewestWins { per, handover: Handover::Wait },
            2 => Policy::NewestWins { per, handover: immediate },
            _ => Policy::multi(4),
        }
    }

    fn op(&mut self, state: &Directory, epoch: u64) -> Op {
        let held: Vec<u64> = state.scan_session(epoch, None).map(|live| live.id.serial).collect();
        let one_of_them = if held.is_empty() { 0 } else { held[self.rng.usize(0..held.len())] };
        match self.rng.u8(0..11) {
            10 if self.rng.bool() => Op::Join { topics: vec![self.user().into()] },
            10 => Op::Leave { topics: vec![self.user().into()] },
            0..4 => Op::Unregister { serial: one_of_them, reason: Reason::Closed },
            4 => Op::Meta { serial: one_of_them, meta: format!("{{\"x\":{}}}", self.serial).into(), if_version: None },
            _ => {
                self.serial += 1;
                Op::Register(Register {
                    serial: self.serial,
                    user: self.user().into(),
                    device: "web".into(),
                    policy: self.policy(),
                    since: None,
                    connected_at_ms: 0,
                    remote: None,
                    meta: None,
                })
            }
        }
    }
}

/// What a line says.
pub(super) fn told_of(line: &Value) -> Told {
    const KINDS: [&str; 9] = [
        "gateway.up",
        "gateway.down",
        "connection.opened",
        "connection.closed",
        "meta.changed",
        "user.online",
        "user.offline",
        "topic.joined",
        "topic.left",
    ];
    let text = |name: &str| line[name].as_str().map(str::to_owned);
    let n = u32::try_from(line["n"].as_u64().unwrap()).unwrap();
    Told {
        mark: (line["revision"].as_u64().unwrap(), n),
        kind: KINDS.into_iter().find(|kind| line["type"] == *kind).unwrap(),
        user: text("user"),
        connection: text("connection"),
    }
}
