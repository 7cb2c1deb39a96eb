//! How a connection gets its place: who else has it, and what the newcomer's policy says about them.

use std::sync::Arc;

use super::batch::Work;
use super::command::{Handover, Per, Policy, Reason, Register};
use super::contest::{Rival, Standing};
use super::ids::{ConnectionId, Revision};
use super::limits::{is_name, is_optional_name};
use super::outcome::{Connection, Event, Invalid, OpOutcome, OpRefused, Owner};
use super::state::{Directory, check_text};
use super::users::hash_of;

/// What a newcomer may do.
enum Place {
    /// It is free, also because those that wait for it lose it to the newcomer.
    Free,
    /// Those that have it keep it until they are released.
    Taken,
    /// Those that have it lose it now.
    Cleared,
}

impl Directory {
    pub(super) fn register(&mut self, work: &mut Work<'_>, register: &Register) -> Result<OpOutcome, OpRefused> {
        check_register(register).map_err(OpRefused::Invalid)?;
        let id = work.id(register.serial);
        if work.last_serial.is_some_and(|last| register.serial <= last) {
            return self.repeated(id, register).ok_or(OpRefused::SerialReused);
        }
        work.last_serial = Some(register.serial);
        if let Some(banned) = self.bans.get(&register.user) {
            return Err(OpRefused::Banned(Box::new(banned.ban.clone())));
        }
        let claim = register.policy.claim();
        let mut rivals = match claim {
            Some(per) => self.rivals(&register.user, (per, &register.device)),
            None => Vec::new(),
        };
        let place = self.place(work, register, &mut rivals)?;
        let hash = hash_of(&register.user);
        let connection = Arc::new(Connection {
            user: Arc::clone(&register.user),
            device: self.pages.share_device(&register.device),
            granted: self.revision,
            connected_at_ms: register.connected_at_ms,
            remote: register.remote.clone(),
            meta: register.meta.clone(),
            meta_version: 1,
            claim,
        });
        let (pending, others): (Vec<_>, Vec<_>) =
            rivals.into_iter().partition(|rival| rival.standing == Standing::Pending);
        for rival in pending {
            self.outbid(rival.id, &connection.user, work.events);
        }
        if let Place::Taken = place {
            self.wait(id, connection, &others, work.events);
            return Ok(OpOutcome::Pending);
        }
        let held = self.users.get(hash, &connection.user, &self.pages);
        let first = held.is_none_or(|held| self.live_of(&held) == 0);
        let superseded = if let Place::Cleared = place { self.clear(work, &others) } else { Box::default() };
        self.add(id, &connection, hash);
        work.counts.opened(id.epoch, &connection);
        let gateway = Arc::clone(&work.gateway);
        work.events.push(Event::Opened { id, connection, gateway, first });
        Ok(OpOutcome::Registered { granted: self.revision, superseded })
    }

    /// The outcome of a registration whose serial was used before, if it says the same.
    fn repeated(&self, id: ConnectionId, register: &Register) -> Option<OpOutcome> {
        if let Some(there) = self.pages.get(id) {
            let (granted, superseded) = (there.granted, Box::default());
            let same = is_repeated(there.user, there.device(), there.meta, there.meta_version, register);
            return same.then_some(OpOutcome::Registered { granted, superseded });
        }
        let contest = self.contests.get(&register.user)?;
        let waits = contest.pending.iter().find(|pending| pending.id == id)?;
        let Connection { user, device, meta, meta_version, .. } = &*waits.connection;
        is_repeated(user, device, meta.as_deref(), *meta_version, register).then_some(OpOutcome::Pending)
    }

    /// What the policy of a newcomer says about those that are there.
    fn place(&mut self, work: &Work<'_>, register: &Register, rivals: &mut Vec<Rival>) -> Result<Place, OpRefused> {
        if let Some(since) = register.since {
            self.recognise(work, register, since, rivals);
            self.check_since(register, since, rivals)?;
        }
        match register.policy {
            Policy::Multi { max, per } => {
                let live = self.count(register, per);
                if live >= max as usize { Err(OpRefused::ConnectionLimit { max }) } else { Ok(Place::Free) }
            }
            // It had the place and nobody took it. Whoever else is there was there beside it.
            _ if register.since.is_some() => Ok(Place::Free),
            Policy::OldestWins { .. } => match rivals.first() {
                Some(rival) => Err(OpRefused::Conflict { owner: Box::new(self.owner(rival)) }),
                None => Ok(Place::Free),
            },
            Policy::NewestWins { handover, .. } => {
                let taken = rivals.iter().any(|rival| rival.standing != Standing::Pending);
                Ok(match handover {
                    Handover::Wait if taken => Place::Taken,
                    Handover::Immediate if taken => Place::Cleared,
                    _ => Place::Free,
                })
            }
        }
    }

    /// A socket of a former session of the same process is the same socket: it does not stand in its own way. What is still
    /// held of it there is given back.
    fn recognise(&mut self, work: &Work<'_>, register: &Register, since: Revision, rivals: &mut Vec<Rival>) {
        let own = rivals.iter().position(|rival| {
            let of_process = self
                .ended
                .get(&rival.id.epoch)
                .is_some_and(|ended| ended.session.gateway == work.gateway && ended.session.nonce == work.nonce);
            let connection = &rival.connection;
            of_process
                && rival.standing == Standing::Hidden
                && connection.granted == since
                && connection.claim == register.policy.claim()
                && connection.device == register.device
                && self.pages.get(rival.id).is_some()
        });
        let Some(own) = own else { return };
        let id = rivals.remove(own).id;
        // Otherwise somebody waits for it: then that one has won, and finds what it waits for.
        if !self.involved.contains_key(&id) {
            self.take(id);
            if let Some(ended) = self.ended.get_mut(&id.epoch) {
                ended.held -= 1;
            }
        }
    }

    /// A socket of a former session has lost its place if somebody has it or waits for it. It never takes it over, whatever
    /// its gateway says of the time at which it was granted.
    fn check_since(&self, register: &Register, since: Revision, rivals: &[Rival]) -> Result<(), OpRefused> {
        let by = match register.policy {
            // Without a claim of its own it stands beside others, but not beside one that claimed its place meanwhile.
            Policy::Multi { .. } => {
                let all = self.rivals(&register.user, (Per::Device, &register.device));
                let claims = |rival: &&Rival| rival.connection.claim.is_some() && rival.connection.granted > since;
                all.iter().find(claims).map(|rival| rival.id)
            }
            Policy::NewestWins { .. } | Policy::OldestWins { .. } => {
                // One that was taken away at once stands behind the one that took its place.
                let immediate = matches!(register.policy, Policy::NewestWins { handover: Handover::Immediate, .. });
                let is_behind = |rival: &Rival| {
                    immediate && rival.standing == Standing::Hidden && rival.connection.granted <= since
                };
                let claims = |rival: &&Rival| rival.connection.claim.is_some() && !is_behind(rival);
                rivals.iter().find(claims).map(|rival| rival.id)
            }
        };
        by.map_or(Ok(()), |by| Err(OpRefused::Superseded { by }))
    }

    /// How many live connections a newcomer would stand beside.
    fn count(&self, register: &Register, per: Per) -> usize {
        let hash = hash_of(&register.user);
        let Some(held) = self.users.get(hash, &register.user, &self.pages) else { return 0 };
        match per {
            Per::User => self.live_of(&held),
            Per::Device => {
                let live = held.runs().filter(|(epoch, _)| self.sessions.contains_key(epoch));
                let ids =
                    live.flat_map(|(epoch, _)| held.serials(epoch).map(move |serial| ConnectionId { epoch, serial }));
                ids.filter(|id| self.pages.get(*id).is_some_and(|there| there.device() == &*register.device)).count()
            }
        }
    }

    fn owner(&self, rival: &Rival) -> Owner {
        let Rival { id, connection, standing } = rival;
        let alive = self.sessions.get(&id.epoch).map(|alive| &alive.session);
        let session = alive.or_else(|| self.ended.get(&id.epoch).map(|ended| &ended.session));
        Owner {
            id: *id,
            gateway: session.map(|session| Arc::clone(&session.gateway)).unwrap_or_default(),
            device: Arc::clone(&connection.device),
            granted: connection.granted,
            live: *standing == Standing::Live,
        }
    }

    /// Takes the place away from those that have it, at once. They may be served for a moment yet.
    fn clear(&mut self, work: &mut Work<'_>, rivals: &[Rival]) -> Box<[ConnectionId]> {
        let mut superseded = Vec::new();
        for rival in rivals.iter().filter(|rival| rival.standing == Standing::Live) {
            let id = rival.id;
            let (Some(connection), Some(alive)) = (self.take(id), self.sessions.get(&id.epoch)) else { continue };
            work.counts.closed(id.epoch, &connection);
            work.events.push(Event::Closed {
                id,
                user: Arc::clone(&connection.user),
                gateway: Arc::clone(&alive.session.gateway),
                granted: connection.granted,
                reason: Reason::Superseded,
                last: false,
            });
            self.shade(id, Arc::new(connection), work.events);
            superseded.push(id);
        }
        superseded.into()
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
fn is_repeated(user: &str, device: &str, meta: Option<&str>, meta_version: u32, register: &Register) -> bool {
    user == &*register.user && device == &*register.device && (meta_version > 1 || meta == register.meta.as_deref())
}
