//! The meaning of the directory once more, as naively as it can be said: plain ordered maps, every question answered by
//! looking at everything, whatever ends is deleted at once, no outcome is ever forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use switchboard::directory::limits::{BATCHES_IN_FLIGHT_MAX, TEXT_BYTES_MAX, is_name, is_optional_name};
use switchboard::directory::{
    Batch, BatchDone, BatchRefused, Command, Connection, ConnectionId, Entry, Epoch, Event, Invalid, Op, OpOutcome,
    OpRefused, OpenRefused, OpenSession, Outcome, Policy, Reason, Register, Revision, Session,
};

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) revision: Revision,
    pub(crate) sessions: BTreeMap<Epoch, ModelSession>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    /// Of every gateway's name: the nonce, attempt and epoch of the latest session.
    pub(crate) gateways: BTreeMap<Arc<str>, (Arc<str>, u64, Epoch)>,
    /// Of every ended session: how many connections a reclaim would still find.
    pub(crate) unreclaimed: BTreeMap<Epoch, u64>,
}

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
            let outcome = match command {
                Command::OpenSession(_) if was_open => Outcome::Opened(Err(OpenRefused::NotAlone)),
                Command::OpenSession(open) => {
                    was_open = true;
                    Outcome::Opened(self.open(open, &mut expected))
                }
                Command::EndSession { epoch, reason } => Outcome::Ended(self.end(*epoch, *reason, &mut expected)),
                Command::Batch(batch) => Outcome::Batch(self.batch(batch, &mut expected.events)),
                Command::Reclaim { epoch, limit } => {
                    let left = self.unreclaimed.remove(epoch).unwrap_or(0).saturating_sub(u64::from(*limit));
                    if left > 0 {
                        self.unreclaimed.insert(*epoch, left);
                    }
                    Outcome::Reclaimed { left }
                }
            };
            expected.outcomes.push(outcome);
        }
        expected
    }

    pub(crate) fn of(&self, user: &str) -> Vec<(ConnectionId, &Connection)> {
        let all = self.connections.iter().filter(|(_, connection)| &*connection.user == user);
        let mut found: Vec<_> = all.map(|(id, connection)| (*id, connection)).collect();
        found.sort_by_key(|(id, connection)| (connection.granted, *id));
        found
    }

    pub(crate) fn in_session(&self, epoch: Epoch) -> Vec<ConnectionId> {
        self.connections.keys().filter(|id| id.epoch == epoch).copied().collect()
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
                    self.end(epoch, Reason::Replaced, expected);
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

    fn end(&mut self, epoch: Epoch, reason: Reason, expected: &mut Expected) -> bool {
        let Some(gateway) = self.sessions.get(&epoch).map(|alive| alive.session.gateway.clone()) else { return false };
        let mut closed = Vec::new();
        for id in self.in_session(epoch) {
            closed.push(self.close(id, &gateway, reason));
        }
        if !closed.is_empty() {
            self.unreclaimed.insert(epoch, closed.len() as u64);
        }
        self.sessions.remove(&epoch);
        expected.ends.push((expected.events.len(), closed));
        expected.events.push(Event::SessionEnded { epoch, gateway, reason });
        true
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
                let id = ConnectionId { epoch, serial: register.serial };
                self.register(id, register, gateway, events).map(|granted| OpOutcome::Registered { granted })
            }
            Op::Unregister { serial, reason } => {
                let id = ConnectionId { epoch, serial: *serial };
                let existed = self.connections.contains_key(&id);
                if existed {
                    events.push(self.close(id, &gateway, *reason));
                }
                Ok(OpOutcome::Unregistered { existed })
            }
            Op::Meta { serial, meta, if_version } => {
                if meta.len() > TEXT_BYTES_MAX {
                    return Err(OpRefused::Invalid(Invalid::TooLong));
                }
                let id = ConnectionId { epoch, serial: *serial };
                let connection = self.connections.get_mut(&id).ok_or(OpRefused::NotFound)?;
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
        }
    }

    fn register(
        &mut self,
        id: ConnectionId,
        register: &Register,
        gateway: Arc<str>,
        events: &mut Vec<Event>,
    ) -> Result<Revision, OpRefused> {
        let Register { user, device, policy, connected_at_ms, remote, meta, serial } = register.clone();
        let too_long = |text: &Option<Arc<str>>| text.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX);
        if !is_name(&user) {
            return Err(OpRefused::Invalid(Invalid::User));
        }
        if !is_optional_name(&device) {
            return Err(OpRefused::Invalid(Invalid::Device));
        }
        if too_long(&remote) || too_long(&meta) {
            return Err(OpRefused::Invalid(Invalid::TooLong));
        }
        let session = self.sessions.get_mut(&id.epoch).unwrap();
        if session.last_serial >= Some(serial) {
            let there = self.connections.get(&id).ok_or(OpRefused::SerialReused)?;
            let meta = if there.meta_version > 1 { there.meta.clone() } else { meta };
            // When and from where a client came may be told anew for each copy.
            let asked = Connection { user, device, meta, ..there.clone() };
            let granted = there.granted;
            return if asked == *there { Ok(granted) } else { Err(OpRefused::SerialReused) };
        }
        session.last_serial = Some(serial);
        let live = self.of(&user).len();
        let Policy::Multi { max } = policy;
        if live >= max as usize {
            return Err(OpRefused::ConnectionLimit { max });
        }
        let granted = self.revision;
        let connection = Connection { user, device, granted, connected_at_ms, remote, meta, meta_version: 1 };
        self.connections.insert(id, connection.clone());
        events.push(Event::Opened { id, connection: Arc::new(connection), gateway, first: live == 0 });
        Ok(granted)
    }

    fn close(&mut self, id: ConnectionId, gateway: &Arc<str>, reason: Reason) -> Event {
        let Connection { user, granted, .. } = self.connections.remove(&id).unwrap();
        let last = self.of(&user).is_empty();
        Event::Closed { id, user, gateway: gateway.clone(), granted, reason, last }
    }
}
