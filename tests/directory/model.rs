//! The meaning of the directory once more, as naively as it can be said: plain ordered maps, every question answered by
//! looking at everything, no outcome is ever forgotten. Who gets which place is told in [`super::places`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use switchboard::directory::limits::{BATCHES_IN_FLIGHT_MAX, CODE_BANNED, TEXT_BYTES_MAX, is_name};
use switchboard::directory::{
    Ban, Batch, BatchDone, BatchRefused, Command, Connection, ConnectionId, Disconnect, Entry, Epoch, Event, Invalid,
    Op, OpOutcome, OpRefused, OpenRefused, OpenSession, Outcome, Reason, Release, Revision, Session, Whom,
};

use super::places::{Item, State};

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) revision: Revision,
    pub(crate) sessions: BTreeMap<Epoch, ModelSession>,
    /// Sessions that are over and not reclaimed, and whether their claims stay.
    pub(crate) ended: BTreeMap<Epoch, (ModelSession, bool)>,
    /// Everything that is there, was taken away, or waits, in live sessions and in ended ones until they are reclaimed.
    pub(crate) items: BTreeMap<ConnectionId, Item>,
    /// Whatever takes or took part in a contest, or is to be closed: whose it is, and since when and how it is asked to go.
    pub(crate) involved: BTreeMap<ConnectionId, (Arc<str>, Asked)>,
    /// Of every gateway's name: the nonce, attempt and epoch of the latest session.
    pub(crate) gateways: BTreeMap<Arc<str>, (Arc<str>, u64, Epoch)>,
    pub(crate) bans: BTreeMap<Arc<str>, (Revision, Ban)>,
    pub(crate) topics: BTreeSet<(Arc<str>, Epoch)>,
}

/// Since when a connection is asked to go, and how; not at all if it only takes part.
type Asked = Option<(Revision, Release)>;

pub(crate) struct ModelSession {
    pub(crate) session: Session,
    pub(crate) last_serial: Option<u64>,
    /// All numbered batches that it ever had; the first has number 1.
    pub(crate) done: Vec<BatchDone>,
}

/// What an entry gives: outcomes, events, and per ended session the position of its event and what it closed.
#[derive(Default)]
pub(crate) struct Expected {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) events: Vec<Event>,
    pub(crate) ends: Vec<(usize, Vec<Event>)>,
}

impl Model {
    pub(crate) fn apply(&mut self, revision: Revision, entry: &Entry) -> Expected {
        self.revision = revision;
        let mut expected = Expected::default();
        let mut was_open = false;
        for command in &entry.commands {
            let events = &mut expected.events;
            let outcome = match command {
                Command::OpenSession(_) if was_open => Outcome::Opened(Err(OpenRefused::NotAlone)),
                Command::OpenSession(open) => {
                    was_open = true;
                    Outcome::Opened(self.open(open, &mut expected))
                }
                Command::EndSession { epoch, reason, fenced } => {
                    Outcome::Ended(self.end(*epoch, *reason, *fenced, &mut expected))
                }
                Command::ReleaseClaims { epoch } => Outcome::ClaimsReleased(self.release(*epoch)),
                Command::Batch(batch) => Outcome::Batch(self.batch(batch, events)),
                Command::Reclaim { epoch, limit } => {
                    Outcome::Reclaimed { left: self.reclaim(*epoch, *limit as usize, events) }
                }
                Command::Disconnect(disconnect) => Outcome::Asked(self.disconnect(disconnect, events)),
                Command::Ban { user, ban } => Outcome::Banned(self.ban(user, ban, events)),
                Command::Unban { user, made } => {
                    let meant = self.bans.get(user).is_some_and(|(at, _)| made.is_none_or(|made| made == *at));
                    Outcome::Unbanned(meant && self.bans.remove(user).is_some())
                }
            };
            expected.outcomes.push(outcome);
        }
        expected
    }

    /// What readers see.
    pub(crate) fn connections(&self) -> BTreeMap<ConnectionId, Connection> {
        let live = self.items.iter().filter(|(id, item)| self.is_live(**id) && item.state == State::There);
        live.map(|(id, item)| (*id, item.connection.clone())).collect()
    }

    pub(crate) fn of(&self, user: &str) -> Vec<(ConnectionId, Connection)> {
        let all = self.connections().into_iter();
        let mut found: Vec<_> = all.filter(|(_, connection)| &*connection.user == user).collect();
        found.sort_by_key(|(id, connection)| (connection.granted, *id));
        found
    }

    pub(crate) fn in_session(&self, epoch: Epoch) -> Vec<ConnectionId> {
        self.connections().into_keys().filter(|id| id.epoch == epoch).collect()
    }

    pub(crate) fn topics_of(&self, epoch: Epoch) -> Vec<Arc<str>> {
        self.topics.iter().filter(|(_, of)| *of == epoch).map(|(topic, _)| topic.clone()).collect()
    }

    /// Of every ended session that is not reclaimed: how many connections it holds, and whether it keeps its claims.
    pub(crate) fn unreclaimed(&self) -> Vec<(Epoch, u64, bool)> {
        let held = |epoch: Epoch| self.held(epoch).len() as u64;
        self.ended.iter().map(|(epoch, (_, claims))| (*epoch, held(*epoch), *claims)).collect()
    }

    fn held(&self, epoch: Epoch) -> Vec<ConnectionId> {
        let there = self.items.iter().filter(|(id, item)| id.epoch == epoch && item.state == State::There);
        there.map(|(id, _)| *id).collect()
    }

    fn open(&mut self, open: &OpenSession, expected: &mut Expected) -> Result<Epoch, OpenRefused> {
        if !is_name(&open.gateway) || !is_name(&open.nonce) {
            return Err(OpenRefused::Invalid(Invalid::Gateway));
        }
        let addresses = open.addresses.clone();
        for text in [&addresses.url, &addresses.api, &addresses.peer, &addresses.deliver_url].into_iter().flatten() {
            if text.len() > TEXT_BYTES_MAX {
                return Err(OpenRefused::Invalid(Invalid::TooLong));
            }
        }
        if let Some((nonce, attempt, epoch)) = self.gateways.get(&open.gateway).cloned() {
            let alive = self.sessions.get(&epoch);
            match (nonce == open.nonce, alive) {
                (false, Some(alive)) => {
                    return Err(OpenRefused::Conflict { epoch, nonce, addresses: alive.session.addresses.clone() });
                }
                (false, None) => {}
                (true, Some(_)) if open.attempt <= attempt => return Ok(epoch),
                (true, None) if open.attempt <= attempt => return Err(OpenRefused::Stale),
                (true, _) => {
                    self.end(epoch, Reason::Replaced, false, expected);
                }
            }
        }
        let OpenSession { gateway, nonce, attempt, lease_ms, .. } = open.clone();
        let session = Session { gateway: gateway.clone(), nonce: nonce.clone(), attempt, lease_ms, addresses };
        self.gateways.insert(gateway, (nonce, attempt, self.revision));
        let alive = ModelSession { session: session.clone(), last_serial: None, done: Vec::new() };
        self.sessions.insert(self.revision, alive);
        expected.events.push(Event::SessionOpened { epoch: self.revision, session: Arc::new(session) });
        Ok(self.revision)
    }

    fn end(&mut self, epoch: Epoch, reason: Reason, fenced: bool, expected: &mut Expected) -> bool {
        let Some(alive) = self.sessions.remove(&epoch) else {
            if fenced {
                self.release(epoch);
            }
            return false;
        };
        let gateway = alive.session.gateway.clone();
        let (held, topics) = (self.held(epoch), self.topics_of(epoch));
        let takes_part = self.involved.keys().any(|id| id.epoch == epoch);
        let claims = held.iter().any(|id| self.items[id].connection.claim.is_some()) || takes_part;
        if !held.is_empty() || takes_part || !topics.is_empty() {
            self.ended.insert(epoch, (alive, claims && !fenced));
        }
        let mut closed = Vec::new();
        for id in &held {
            let Connection { user, granted, .. } = self.items[id].connection.clone();
            let later = held.iter().any(|other| other > id && self.items[other].connection.user == user);
            let last = !later && self.of(&user).is_empty();
            closed.push(Event::Closed { id: *id, user, gateway: gateway.clone(), granted, reason, last });
        }
        let left = topics.into_iter().map(|topic| Event::TopicLeft { topic, epoch, gateway: gateway.clone() });
        closed.extend(left);
        expected.ends.push((expected.events.len(), closed));
        expected.events.push(Event::SessionEnded { epoch, gateway, reason });
        true
    }

    fn release(&mut self, epoch: Epoch) -> bool {
        self.ended.get_mut(&epoch).is_some_and(|(_, claims)| std::mem::take(claims))
    }

    fn reclaim(&mut self, epoch: Epoch, limit: usize, events: &mut Vec<Event>) -> u64 {
        let Some((_, claims)) = self.ended.get(&epoch) else { return 0 };
        let held = self.held(epoch);
        if *claims {
            return held.len() as u64;
        }
        let mut budget = limit;
        let takes_part: Vec<_> = self.involved.keys().filter(|id| id.epoch == epoch).take(budget).copied().collect();
        for id in takes_part {
            budget -= 1;
            let (user, _) = self.involved.remove(&id).unwrap();
            if self.items.get(&id).is_some_and(|item| item.state != State::There) {
                self.items.remove(&id);
            }
            let online = !self.of(&user).is_empty();
            self.settle(&user, online, events);
        }
        let freed: Vec<_> = held.iter().take(budget).collect();
        for id in &freed {
            budget -= 1;
            self.items.remove(*id);
        }
        let topics: Vec<_> = self.topics_of(epoch).into_iter().take(budget).collect();
        for topic in topics {
            budget -= 1;
            self.topics.remove(&(topic, epoch));
        }
        if budget > 0 {
            self.ended.remove(&epoch);
        }
        (held.len() - freed.len()) as u64
    }

    fn batch(&mut self, batch: &Batch, events: &mut Vec<Event>) -> Result<BatchDone, BatchRefused> {
        let alive = self.sessions.get(&batch.epoch).ok_or(BatchRefused::Fenced)?;
        if let Some(seq) = batch.seq {
            let count = alive.done.len() as u64;
            let oldest = 1 + count.saturating_sub(BATCHES_IN_FLIGHT_MAX as u64);
            if seq > count + 1 {
                return Err(BatchRefused::Gap { expected: count + 1 });
            }
            if seq < oldest {
                return Err(BatchRefused::TooOld { oldest });
            }
            if let Some(done) = alive.done.get(seq as usize - 1) {
                return Ok(done.clone());
            }
        }
        let mut ops = Vec::new();
        for op in &batch.ops {
            ops.push(self.op(batch.epoch, op, events).unwrap_or_else(OpOutcome::Refused));
        }
        let done = BatchDone { revision: self.revision, ops: ops.into() };
        if batch.seq.is_some() {
            self.sessions.get_mut(&batch.epoch).unwrap().done.push(done.clone());
        }
        Ok(done)
    }

    fn op(&mut self, epoch: Epoch, op: &Op, events: &mut Vec<Event>) -> Result<OpOutcome, OpRefused> {
        let gateway = self.sessions[&epoch].session.gateway.clone();
        match op {
            Op::Register(register) => {
                self.register(ConnectionId { epoch, serial: register.serial }, register, gateway, events)
            }
            Op::Unregister { serial, reason } => {
                let existed = self.unregister(ConnectionId { epoch, serial: *serial }, *reason, gateway, events);
                Ok(OpOutcome::Unregistered { existed })
            }
            Op::Meta { serial, meta, if_version } => {
                if meta.len() > TEXT_BYTES_MAX {
                    return Err(OpRefused::Invalid(Invalid::TooLong));
                }
                let id = ConnectionId { epoch, serial: *serial };
                let item = self.items.get_mut(&id).filter(|item| item.state == State::There);
                let connection = &mut item.ok_or(OpRefused::NotFound)?.connection;
                let current = connection.meta_version;
                if if_version.is_some() && *if_version != Some(current) {
                    return Err(OpRefused::VersionMismatch { current });
                }
                connection.meta = Some(meta.clone());
                connection.meta_version += 1;
                let (user, granted, version) = (connection.user.clone(), connection.granted, current + 1);
                events.push(Event::MetaChanged { id, user, gateway, granted, meta: meta.clone(), version });
                Ok(OpOutcome::MetaSet { version })
            }
            Op::Join { topics } | Op::Leave { topics } => {
                if topics.iter().any(|topic| !is_name(topic)) {
                    return Err(OpRefused::Invalid(Invalid::Topic));
                }
                let joins = matches!(op, Op::Join { .. });
                let mut changed = 0;
                for topic in topics {
                    let (pair, topic, gateway) = ((topic.clone(), epoch), topic.clone(), gateway.clone());
                    if joins && self.topics.insert(pair.clone()) {
                        events.push(Event::TopicJoined { topic, epoch, gateway });
                        changed += 1;
                    } else if !joins && self.topics.remove(&pair) {
                        events.push(Event::TopicLeft { topic, epoch, gateway });
                        changed += 1;
                    }
                }
                Ok(OpOutcome::Topics { changed })
            }
        }
    }

    fn disconnect(&mut self, disconnect: &Disconnect, events: &mut Vec<Event>) -> Vec<ConnectionId> {
        let Disconnect { whom, release } = disconnect;
        let asked: Vec<(ConnectionId, Arc<str>)> = match whom {
            Whom::Connection(id) => {
                let item = self.items.get(id).filter(|item| matches!(item.state, State::There));
                let user = item.map(|item| item.connection.user.clone());
                let user = user.or_else(|| self.involved.get(id).map(|(user, _)| user.clone()));
                user.filter(|_| self.is_live(*id)).map(|user| (*id, user)).into_iter().collect()
            }
            Whom::User { user, devices, except } => {
                let live = self.of(user).into_iter();
                let waiting = self.waiting(user).into_iter().filter(|(id, _)| self.is_live(*id));
                live.chain(waiting.map(|(id, item)| (id, item.connection)))
                    .filter(|(id, there)| {
                        (devices.is_empty() || devices.contains(&there.device)) && !except.contains(id)
                    })
                    .map(|(id, there)| (id, there.user))
                    .collect()
            }
        };
        for (id, user) in &asked {
            self.ask(*id, user, release, events);
        }
        asked.into_iter().map(|(id, _)| id).collect()
    }

    fn ban(&mut self, user: &Arc<str>, ban: &Ban, events: &mut Vec<Event>) -> Result<Vec<ConnectionId>, Invalid> {
        if !is_name(user) {
            return Err(Invalid::User);
        }
        self.bans.insert(user.clone(), (self.revision, ban.clone()));
        let whom = Whom::User { user: user.clone(), devices: Vec::new(), except: Vec::new() };
        let release = Release { code: CODE_BANNED, reason: ban.reason.clone() };
        Ok(self.disconnect(&Disconnect { whom, release }, events))
    }
}
