//! What a batch does: connections begin, end, and change their metadata.

use std::sync::Arc;

use super::command::{Batch, Op, Policy, Reason, Register};
use super::ids::{ConnectionId, Epoch, Revision, Serial};
use super::limits::{is_name, is_optional_name};
use super::outcome::{BatchDone, BatchRefused, Connection, Event, Invalid, OpOutcome, OpRefused};
use super::packed::Packed;
use super::state::{Directory, check_text};
use super::users::hash_of;

/// A batch while it is applied: what it needs of its session, and what it changes there.
struct Work<'a> {
    epoch: Epoch,
    gateway: Arc<str>,
    connections: u64,
    last_serial: Option<Serial>,
    events: &'a mut Vec<Event>,
}

impl Work<'_> {
    fn id(&self, serial: Serial) -> ConnectionId {
        ConnectionId { epoch: self.epoch, serial }
    }
}

impl Directory {
    /// Applies a batch, unless its session is over or its number is not the next.
    pub(super) fn batch(&mut self, batch: &Batch, events: &mut Vec<Event>) -> Result<BatchDone, BatchRefused> {
        let epoch = batch.epoch;
        let alive = self.sessions.get(&epoch).ok_or(BatchRefused::Fenced)?;
        if let Some(answer) = batch.seq.and_then(|seq| alive.window.answer(seq)) {
            return answer;
        }
        let gateway = Arc::clone(&alive.session.gateway);
        let mut work = Work { epoch, gateway, connections: alive.connections, last_serial: alive.last_serial, events };
        let live_before = work.connections;
        let ops = batch.ops.iter().map(|op| self.op(&mut work, op).unwrap_or_else(OpOutcome::Refused)).collect();
        let done = BatchDone { revision: self.revision, ops };
        self.live = self.live - live_before + work.connections;
        let alive = Arc::make_mut(self.sessions.get_mut(&epoch).expect("no operation ends a session"));
        alive.connections = work.connections;
        alive.last_serial = work.last_serial;
        if batch.seq.is_some() {
            alive.window.push(done.clone());
        }
        Ok(done)
    }

    fn op(&mut self, work: &mut Work<'_>, op: &Op) -> Result<OpOutcome, OpRefused> {
        match op {
            Op::Register(register) => self.register(work, register).map(|granted| OpOutcome::Registered { granted }),
            Op::Unregister { serial, reason } => {
                Ok(OpOutcome::Unregistered { existed: self.unregister(work, work.id(*serial), *reason) })
            }
            Op::Meta { serial, meta, if_version } => {
                self.set_meta(work, work.id(*serial), meta, *if_version).map(|version| OpOutcome::MetaSet { version })
            }
        }
    }

    fn register(&mut self, work: &mut Work<'_>, register: &Register) -> Result<Revision, OpRefused> {
        check_register(register).map_err(OpRefused::Invalid)?;
        let id = work.id(register.serial);
        if work.last_serial.is_some_and(|last| register.serial <= last) {
            let before = self.pages.get(id).filter(|connection| is_repeated(connection, register));
            return before.map(|connection| connection.granted).ok_or(OpRefused::SerialReused);
        }
        work.last_serial = Some(register.serial);
        let hash = hash_of(&register.user);
        let held = self.users.get(hash, &register.user, &self.pages);
        let live = held.map_or(0, |held| self.live_of(&held));
        match register.policy {
            Policy::Multi { max } if live >= max as usize => return Err(OpRefused::ConnectionLimit { max }),
            Policy::Multi { .. } => {}
        }
        let connection = Arc::new(Connection {
            user: Arc::clone(&register.user),
            device: self.pages.share_device(&register.device),
            granted: self.revision,
            connected_at_ms: register.connected_at_ms,
            remote: register.remote.clone(),
            meta: register.meta.clone(),
            meta_version: 1,
        });
        self.add(id, &connection, hash);
        work.connections += 1;
        let gateway = Arc::clone(&work.gateway);
        work.events.push(Event::Opened { id, connection, gateway, first: live == 0 });
        Ok(self.revision)
    }

    fn unregister(&mut self, work: &mut Work<'_>, id: ConnectionId, reason: Reason) -> bool {
        let Some(connection) = self.take(id) else { return false };
        work.connections -= 1;
        let user = connection.user;
        let held = self.users.get(hash_of(&user), &user, &self.pages);
        let last = held.is_none_or(|held| self.live_of(&held) == 0);
        let gateway = Arc::clone(&work.gateway);
        work.events.push(Event::Closed { id, user, gateway, granted: connection.granted, reason, last });
        true
    }

    fn set_meta(
        &mut self,
        work: &mut Work<'_>,
        id: ConnectionId,
        meta: &Arc<str>,
        if_version: Option<u32>,
    ) -> Result<u32, OpRefused> {
        check_text(Some(meta)).map_err(OpRefused::Invalid)?;
        let before = self.pages.get(id).ok_or(OpRefused::NotFound)?;
        let current = before.meta_version;
        if if_version.is_some_and(|version| version != current) {
            return Err(OpRefused::VersionMismatch { current });
        }
        let version = current.saturating_add(1);
        let after = Connection { meta: Some(Arc::clone(meta)), meta_version: version, ..before.to_connection() };
        let (user, granted, gateway) = (Arc::clone(&after.user), after.granted, Arc::clone(&work.gateway));
        self.pages.put(id, &after);
        work.events.push(Event::MetaChanged { id, user, gateway, granted, meta: Arc::clone(meta), version });
        Ok(version)
    }
}

fn check_register(register: &Register) -> Result<(), Invalid> {
    if !is_name(&register.user) {
        return Err(Invalid::User);
    }
    if !is_optional_name(&register.device) {
        return Err(Invalid::Device);
    }
    check_text(register.remote.as_ref())?;
    check_text(register.meta.as_ref())
}

/// Whether a registration asks for what is there. When and from where the client came is data for people, and a server
/// in between may tell it anew for each copy; metadata that was replaced since says nothing either way.
fn is_repeated(connection: &Packed<'_>, register: &Register) -> bool {
    connection.user == &*register.user
        && connection.device() == &*register.device
        && (connection.meta_version > 1 || connection.meta == register.meta.as_deref())
}
