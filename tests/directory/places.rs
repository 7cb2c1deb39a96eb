//! Who gets which place, in the model: every rule told by looking at everything that there is.

use std::sync::Arc;

use switchboard::directory::limits::{TEXT_BYTES_MAX, is_name, is_optional_name};
use switchboard::directory::{
    Connection, ConnectionId, Event, Handover, Invalid, OpOutcome, OpRefused, Owner, Per, Policy, Reason, Register,
    Release, Revision,
};

use super::model::Model;

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) connection: Connection,
    pub(crate) state: State,
    /// Orders those that were taken away, and those that wait.
    pub(crate) at: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    There,
    /// Another one took its place, and its gateway has not said yet that it noticed.
    Taken,
    /// For these.
    Waits(Vec<ConnectionId>),
}

impl Model {
    pub(crate) fn is_live(&self, id: ConnectionId) -> bool {
        self.sessions.contains_key(&id.epoch)
    }

    fn keeps_claims(&self, id: ConnectionId) -> bool {
        self.ended.get(&id.epoch).is_some_and(|(_, claims)| *claims)
    }

    /// Whether it may still be served.
    fn stands(&self, id: ConnectionId) -> bool {
        let served = self.items.get(&id).is_some_and(|item| matches!(item.state, State::There | State::Taken));
        served && (self.is_live(id) || self.keeps_claims(id))
    }

    /// Those of a user that wait, in the order of arrival.
    pub(crate) fn waiting(&self, user: &str) -> Vec<(ConnectionId, Item)> {
        let of_user = self.items.iter().filter(|(_, item)| &*item.connection.user == user);
        let waiting = of_user.filter(|(_, item)| matches!(item.state, State::Waits(_)));
        let mut waiting: Vec<_> = waiting.map(|(id, item)| (*id, item.clone())).collect();
        waiting.sort_by_key(|(_, item)| item.at);
        waiting
    }

    /// Those that have or want what is claimed: those that are there by id, those taken away and those that wait in order.
    fn rivals(&self, user: &str, per: Per, device: &str) -> Vec<(ConnectionId, Item)> {
        let mut rivals = Vec::new();
        for (id, item) in &self.items {
            let connection = &item.connection;
            let exclusive = connection.claim.is_some();
            let counts = match &item.state {
                State::There => self.is_live(*id) || (exclusive && self.keeps_claims(*id)),
                State::Taken => exclusive && (self.is_live(*id) || self.keeps_claims(*id)),
                State::Waits(_) => self.is_live(*id),
            };
            let same = per == Per::User || connection.claim == Some(Per::User) || &*connection.device == device;
            if &*connection.user == user && counts && same {
                rivals.push((*id, item.clone()));
            }
        }
        rivals.sort_by_key(|(id, item)| match item.state {
            State::There => (0, id.epoch, id.serial),
            State::Taken => (1, item.at, 0),
            State::Waits(_) => (2, item.at, 0),
        });
        rivals
    }

    pub(crate) fn register(
        &mut self,
        id: ConnectionId,
        register: &Register,
        gateway: Arc<str>,
        events: &mut Vec<Event>,
    ) -> Result<OpOutcome, OpRefused> {
        check(register).map_err(OpRefused::Invalid)?;
        let Register { user, device, policy, connected_at_ms, remote, meta, serial, since } = register.clone();
        let session = self.sessions.get_mut(&id.epoch).unwrap();
        if session.last_serial >= Some(serial) {
            return self.repeated(id, register);
        }
        session.last_serial = Some(serial);
        if let Some((_, ban)) = self.bans.get(&user) {
            return Err(OpRefused::Banned(Box::new(ban.clone())));
        }
        let (granted, claim) = (self.revision, policy.claim());
        let connection = Connection {
            user: user.clone(),
            device: device.clone(),
            granted,
            connected_at_ms,
            remote,
            meta,
            meta_version: 1,
            claim,
        };
        let was_online = !self.of(&user).is_empty();
        let superseded = match policy {
            Policy::Multi { max, per } => {
                self.stand_beside(&connection, max, per, since)?;
                Vec::new()
            }
            _ => match self.claim(id, &connection, policy, since, events)? {
                Some(superseded) => superseded,
                None => return Ok(OpOutcome::Pending),
            },
        };
        let superseded = superseded.into_iter().map(|id| self.supersede(id, events)).collect();
        self.items.insert(id, Item { connection: connection.clone(), state: State::There, at: 0 });
        events.push(Event::Opened { id, connection: Arc::new(connection), gateway, first: !was_online });
        Ok(OpOutcome::Registered { granted, superseded })
    }

    fn stand_beside(
        &self,
        newcomer: &Connection,
        max: u32,
        per: Per,
        since: Option<Revision>,
    ) -> Result<(), OpRefused> {
        let later = self.rivals(&newcomer.user, Per::Device, &newcomer.device).into_iter().find(|(_, rival)| {
            since.is_some_and(|since| rival.connection.claim.is_some() && rival.connection.granted > since)
        });
        if let Some((by, _)) = later {
            return Err(OpRefused::Superseded { by });
        }
        let beside = self.of(&newcomer.user).into_iter();
        let beside = beside.filter(|(_, other)| per == Per::User || other.device == newcomer.device).count();
        if beside >= max as usize { Err(OpRefused::ConnectionLimit { max }) } else { Ok(()) }
    }

    /// Those whose place it takes at once; none if it has to wait.
    fn claim(
        &mut self,
        id: ConnectionId,
        newcomer: &Connection,
        policy: Policy,
        since: Option<Revision>,
        events: &mut Vec<Event>,
    ) -> Result<Option<Vec<ConnectionId>>, OpRefused> {
        let own = since.and_then(|since| self.take_again(id, newcomer, since));
        let mut rivals = self.rivals(&newcomer.user, newcomer.claim.unwrap(), &newcomer.device);
        rivals.retain(|(id, _)| Some(*id) != own);
        let immediate = matches!(policy, Policy::NewestWins { handover: Handover::Immediate, .. });
        if let Some(since) = since {
            let by = rivals.iter().find(|(other, rival)| {
                let hidden = rival.state == State::Taken || !self.is_live(*other);
                let behind = immediate && hidden && rival.connection.granted <= since;
                rival.connection.claim.is_some() && !behind
            });
            return by.map_or(Ok(Some(Vec::new())), |(by, _)| Err(OpRefused::Superseded { by: *by }));
        }
        if let (Policy::OldestWins { .. }, Some((owner, rival))) = (policy, rivals.first()) {
            return Err(self.conflict(*owner, rival));
        }
        let (waiting, there): (Vec<_>, Vec<_>) =
            rivals.into_iter().partition(|(_, rival)| matches!(rival.state, State::Waits(_)));
        for (outbid, _) in waiting {
            self.items.remove(&outbid);
            self.ask(outbid, &newcomer.user, &Release::superseded(), events);
        }
        if !there.is_empty() && !immediate {
            self.wait(id, newcomer.clone(), there.into_iter().map(|(id, _)| id).collect(), events);
            return Ok(None);
        }
        let taken = there.into_iter().filter(|(id, rival)| self.is_live(*id) && rival.state == State::There);
        Ok(Some(taken.map(|(id, _)| id).collect()))
    }

    fn repeated(&self, id: ConnectionId, register: &Register) -> Result<OpOutcome, OpRefused> {
        let item = self.items.get(&id).filter(|item| item.state != State::Taken).ok_or(OpRefused::SerialReused)?;
        let there = &item.connection;
        let meta = if there.meta_version > 1 { there.meta.clone() } else { register.meta.clone() };
        // When and from where a client came may be told anew for each copy.
        let asked = Connection { user: register.user.clone(), device: register.device.clone(), meta, ..there.clone() };
        match item.state {
            _ if asked != *there => Err(OpRefused::SerialReused),
            State::Waits(_) => Ok(OpOutcome::Pending),
            _ => Ok(OpOutcome::Registered { granted: there.granted, superseded: Box::default() }),
        }
    }

    /// The same socket in an ended session of the same process, if it still holds its claim. It is given back if it is
    /// involved in nothing.
    fn take_again(&mut self, id: ConnectionId, connection: &Connection, since: Revision) -> Option<ConnectionId> {
        let process = self.sessions[&id.epoch].session.clone();
        let own = self.items.iter().find(|(other, item)| {
            let of_process = self.ended.get(&other.epoch).is_some_and(|(ended, claims)| {
                *claims && ended.session.gateway == process.gateway && ended.session.nonce == process.nonce
            });
            let there = &item.connection;
            of_process
                && item.state == State::There
                && (&there.user, &there.device, there.claim) == (&connection.user, &connection.device, connection.claim)
                && there.granted == since
        });
        let own = own.map(|(own, _)| *own)?;
        if !self.involved.contains_key(&own) {
            self.items.remove(&own);
        }
        Some(own)
    }

    fn conflict(&self, id: ConnectionId, rival: &Item) -> OpRefused {
        let live = self.sessions.get(&id.epoch);
        let session = live.or_else(|| self.ended.get(&id.epoch).map(|(ended, _)| ended)).unwrap();
        OpRefused::Conflict {
            owner: Box::new(Owner {
                id,
                gateway: session.session.gateway.clone(),
                device: rival.connection.device.clone(),
                granted: rival.connection.granted,
                live: live.is_some() && rival.state == State::There,
            }),
        }
    }

    pub(crate) fn ask(&mut self, id: ConnectionId, user: &Arc<str>, release: &Release, events: &mut Vec<Event>) {
        let revision = self.revision;
        let (_, asked) = self.involved.entry(id).or_insert_with(|| (user.clone(), None));
        if asked.is_none() {
            *asked = Some((revision, release.clone()));
            if let Some(alive) = self.sessions.get(&id.epoch) {
                let (user, gateway) = (user.clone(), alive.session.gateway.clone());
                events.push(Event::ReleaseAsked { id, user, gateway, release: release.clone() });
            }
        }
    }

    fn next(&self) -> u64 {
        1 + self.items.values().map(|item| item.at).max().unwrap_or(0)
    }

    fn wait(&mut self, id: ConnectionId, connection: Connection, awaited: Vec<ConnectionId>, events: &mut Vec<Event>) {
        let user = connection.user.clone();
        self.involved.insert(id, (user.clone(), None));
        for other in &awaited {
            if self.is_live(*other) {
                self.ask(*other, &user, &Release::superseded(), events);
            } else {
                self.involved.entry(*other).or_insert_with(|| (user.clone(), None));
            }
        }
        self.items.insert(id, Item { connection, state: State::Waits(awaited), at: self.next() });
    }

    fn supersede(&mut self, id: ConnectionId, events: &mut Vec<Event>) -> ConnectionId {
        let at = self.next();
        let gateway = self.sessions[&id.epoch].session.gateway.clone();
        let item = self.items.get_mut(&id).unwrap();
        (item.state, item.at) = (State::Taken, at);
        let Connection { user, granted, .. } = item.connection.clone();
        let closed = (id, user.clone());
        events.push(Event::Closed { id, user, gateway, granted, reason: Reason::Superseded, last: false });
        self.ask(closed.0, &closed.1, &Release::superseded(), events);
        id
    }

    pub(crate) fn unregister(
        &mut self,
        id: ConnectionId,
        reason: Reason,
        gateway: Arc<str>,
        events: &mut Vec<Event>,
    ) -> bool {
        let involved = self.involved.remove(&id);
        let item = self.items.remove(&id);
        let was_there = item.as_ref().filter(|item| item.state == State::There);
        let user = item.as_ref().map(|item| item.connection.user.clone());
        let contested = involved.is_some();
        let Some(user) = user.or_else(|| involved.map(|(user, _)| user)) else { return false };
        let was_online = was_there.is_some() || !self.of(&user).is_empty();
        let mut opened = Vec::new();
        if contested {
            // Whatever else stopped to stand in the way is seen when its session is reclaimed.
            self.settle(&user, was_online, &mut opened);
        }
        if let Some(Item { connection, .. }) = was_there {
            let (granted, last) = (connection.granted, self.of(&user).is_empty());
            events.push(Event::Closed { id, user, gateway, granted, reason, last });
        }
        events.extend(opened);
        true
    }

    /// Grants what waits for nothing any more.
    pub(crate) fn settle(&mut self, user: &Arc<str>, mut online: bool, events: &mut Vec<Event>) {
        let mut granted = Vec::new();
        for (id, item) in self.waiting(user) {
            let State::Waits(mut awaited) = item.state else { unreachable!() };
            awaited.retain(|other| self.stands(*other));
            if awaited.is_empty() && self.is_live(id) {
                granted.push(id);
            } else {
                self.items.get_mut(&id).unwrap().state = State::Waits(awaited);
            }
        }
        for id in granted {
            self.involved.remove(&id);
            let item = self.items.get_mut(&id).unwrap();
            (item.state, item.connection.granted) = (State::There, self.revision);
            let connection = Arc::new(item.connection.clone());
            let gateway = self.sessions[&id.epoch].session.gateway.clone();
            events.push(Event::Opened { id, connection, gateway, first: !online });
            online = true;
        }
    }
}

fn check(register: &Register) -> Result<(), Invalid> {
    let too_long = |text: &Option<Arc<str>>| text.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX);
    if !is_name(&register.user) {
        return Err(Invalid::User);
    }
    if !is_optional_name(&register.device) {
        return Err(Invalid::Device);
    }
    if too_long(&register.remote) || too_long(&register.meta) { Err(Invalid::TooLong) } else { Ok(()) }
}
