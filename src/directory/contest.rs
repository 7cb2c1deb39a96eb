//! Places that are contested: connections that wait for one, those that they wait for, and those that were taken away before
//! their gateway stopped serving them.
//!
//! A connection *stands in the way* of another as long as it may still be served: until its gateway has unregistered it,
//! or its session ended and no claim of it is left. All that this file does is done when one of them stops to.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::{Per, Release};
use super::ids::{ConnectionId, Epoch, Revision, Serial};
use super::outcome::{Connection, Event};
use super::sessions::Counts;
use super::state::Directory;
use super::users::hash_of;

/// What is contested of one user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contest {
    /// Those that wait for a place, in the order of their arrival.
    pub(super) pending: Vec<Pending>,
    /// Those that were taken away at once and may still be served.
    pub(super) shadows: Vec<Shadow>,
}

/// A connection that waits for its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) id: ConnectionId,
    /// As it will be, but for `granted`, which is when it arrived.
    pub(super) connection: Arc<Connection>,
    /// Those whose place it is to take.
    pub(super) waits_for: Vec<ConnectionId>,
}

/// A connection that was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shadow {
    pub(super) id: ConnectionId,
    /// As it was.
    pub(super) connection: Arc<Connection>,
}

/// A connection that waits, is waited for, was taken away, or is to be closed: what is found by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Involved {
    pub(super) user: Arc<str>,
    /// Since which revision its gateway is asked to release it, and how.
    pub(super) asked: Option<(Revision, Release)>,
}

/// One that has or wants the place that a newcomer wants.
#[derive(Debug, Clone)]
pub(super) struct Rival {
    pub(super) id: ConnectionId,
    pub(super) connection: Arc<Connection>,
    pub(super) standing: Standing,
}

/// What a rival is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// There.
    Live,
    /// Not there for readers, but possibly still served: its session ended, or it was taken away.
    Hidden,
    /// Waiting for the place itself.
    Pending,
}

/// Whether two claims of a user exclude each other.
pub(super) fn overlap(a: (Per, &str), b: (Per, &str)) -> bool {
    a.0 == Per::User || b.0 == Per::User || a.1 == b.1
}

/// Whether a connection is, or claims, what another claims.
fn is_claimed(own: Option<Per>, device: &str, claim: (Per, &str)) -> bool {
    overlap((own.unwrap_or(Per::Device), device), claim)
}

pub(super) fn ids_of(epoch: Epoch) -> RangeInclusive<ConnectionId> {
    ConnectionId { epoch, serial: 0 }..=ConnectionId { epoch, serial: Serial::MAX }
}

impl Directory {
    /// Everything that has or wants a part of what is claimed: those that are there whether they claim anything or not,
    /// hidden and pending ones if they do.
    pub(super) fn rivals(&self, user: &str, claim: (Per, &str)) -> Vec<Rival> {
        let mut rivals = Vec::new();
        if let Some(held) = self.users.get(hash_of(user), user, &self.pages) {
            for (epoch, _) in held.runs() {
                let live = self.sessions.contains_key(&epoch);
                if !live && !self.keeps_claims(epoch) {
                    continue;
                }
                let standing = if live { Standing::Live } else { Standing::Hidden };
                let ids = held.serials(epoch).map(|serial| ConnectionId { epoch, serial });
                let all = ids.filter_map(|id| Some((id, self.pages.get(id)?)));
                let those = all.filter(|(_, there)| {
                    (live || there.claim.is_some()) && is_claimed(there.claim, there.device(), claim)
                });
                rivals.extend(those.map(|(id, there)| {
                    let connection = Arc::new(there.to_connection());
                    Rival { id, connection, standing }
                }));
            }
        }
        if let Some(contest) = self.contests.get(user) {
            let shadows = contest.shadows.iter().filter(|shadow| {
                shadow.connection.claim.is_some()
                    && (self.sessions.contains_key(&shadow.id.epoch) || self.keeps_claims(shadow.id.epoch))
            });
            let shadows = shadows.map(|shadow| (shadow.id, &shadow.connection, Standing::Hidden));
            let pending = contest.pending.iter().filter(|pending| self.sessions.contains_key(&pending.id.epoch));
            let pending = pending.map(|pending| (pending.id, &pending.connection, Standing::Pending));
            rivals.extend(
                shadows
                    .chain(pending)
                    .filter(|(_, connection, _)| is_claimed(connection.claim, &connection.device, claim))
                    .map(|(id, connection, standing)| Rival { id, connection: Arc::clone(connection), standing }),
            );
        }
        rivals
    }

    /// Whether a session ended and its claims are not released yet.
    pub(super) fn keeps_claims(&self, epoch: Epoch) -> bool {
        self.ended.get(&epoch).is_some_and(|ended| ended.claims)
    }

    /// Whether a connection may still be served.
    fn stands(&self, id: ConnectionId, shadows: &[Shadow]) -> bool {
        (self.sessions.contains_key(&id.epoch) || self.keeps_claims(id.epoch))
            && (self.pages.get(id).is_some() || shadows.iter().any(|shadow| shadow.id == id))
    }

    /// Asks for a connection to be released. Who was asked before is not asked again.
    pub(super) fn ask(
        &mut self,
        id: ConnectionId,
        user: &Arc<str>,
        release: &Release,
        events: &mut Vec<Event>,
    ) -> bool {
        let revision = self.revision;
        let involved = self.involved.entry(id).or_insert_with(|| Involved { user: Arc::clone(user), asked: None });
        if involved.asked.is_some() {
            return false;
        }
        involved.asked = Some((revision, release.clone()));
        if let Some(alive) = self.sessions.get(&id.epoch) {
            let (user, gateway) = (Arc::clone(user), Arc::clone(&alive.session.gateway));
            events.push(Event::ReleaseAsked { id, user, gateway, release: release.clone() });
        }
        true
    }

    /// A newcomer waits for its place. Those that have it are asked to go.
    pub(super) fn wait(
        &mut self,
        id: ConnectionId,
        newcomer: Arc<Connection>,
        rivals: &[Rival],
        events: &mut Vec<Event>,
    ) {
        let user = Arc::clone(&newcomer.user);
        self.involved.insert(id, Involved { user: Arc::clone(&user), asked: None });
        for rival in rivals {
            if self.sessions.contains_key(&rival.id.epoch) {
                self.ask(rival.id, &user, &Release::superseded(), events);
            } else {
                self.involved.entry(rival.id).or_insert_with(|| Involved { user: Arc::clone(&user), asked: None });
            }
        }
        let waits_for = rivals.iter().map(|rival| rival.id).collect();
        let contest = self.contests.entry(user).or_default();
        Arc::make_mut(contest).pending.push(Pending { id, connection: newcomer, waits_for });
    }

    /// A connection was taken away at once; its gateway is asked to notice.
    pub(super) fn shade(&mut self, id: ConnectionId, connection: Arc<Connection>, events: &mut Vec<Event>) {
        let user = Arc::clone(&connection.user);
        self.ask(id, &user, &Release::superseded(), events);
        Arc::make_mut(self.contests.entry(user).or_default()).shadows.push(Shadow { id, connection });
    }

    /// Waits no longer; its gateway is asked to give it up.
    pub(super) fn outbid(&mut self, id: ConnectionId, user: &Arc<str>, events: &mut Vec<Event>) {
        self.change_contest(user, |contest| contest.pending.retain(|pending| pending.id != id));
        self.ask(id, user, &Release::superseded(), events);
    }

    /// Forgets what a connection was involved in, and says whose it was: it is neither served nor waits any more.
    pub(super) fn withdraw(&mut self, id: ConnectionId) -> Option<Arc<str>> {
        let Involved { user, .. } = self.involved.remove(&id)?;
        self.change_contest(&user, |contest| {
            contest.pending.retain(|pending| pending.id != id);
            contest.shadows.retain(|shadow| shadow.id != id);
        });
        Some(user)
    }

    /// Grants what nobody stands in the way of any more, in the order of arrival.
    pub(super) fn settle(&mut self, user: &Arc<str>, counts: &mut Counts) -> Vec<(ConnectionId, Arc<Connection>)> {
        let Some(mut contest) = self.contests.get(user).map(|contest| Contest::clone(contest)) else {
            return Vec::new();
        };
        let mut granted = Vec::new();
        let Contest { pending, shadows } = &mut contest;
        pending.retain_mut(|pending| {
            pending.waits_for.retain(|id| self.stands(*id, shadows));
            let goes = pending.waits_for.is_empty() && self.sessions.contains_key(&pending.id.epoch);
            if goes {
                granted.push((pending.id, Arc::clone(&pending.connection)));
            }
            !goes
        });
        self.change_contest(user, |before| *before = contest);
        let revision = self.revision;
        granted
            .into_iter()
            .map(|(id, connection)| {
                self.involved.remove(&id);
                let connection = Arc::new(Connection { granted: revision, ..Arc::unwrap_or_clone(connection) });
                self.add(id, &connection, hash_of(user));
                counts.opened(id.epoch, &connection);
                (id, connection)
            })
            .collect()
    }

    /// The granted ones as events; `first` says whether the user had no connection before them.
    pub(super) fn tell_granted(
        &self,
        granted: Vec<(ConnectionId, Arc<Connection>)>,
        mut first: bool,
        events: &mut Vec<Event>,
    ) {
        for (id, connection) in granted {
            let alive = self.sessions.get(&id.epoch).expect("only connections of live sessions are granted");
            let gateway = Arc::clone(&alive.session.gateway);
            events.push(Event::Opened { id, connection, gateway, first });
            first = false;
        }
    }

    /// A contest in which nobody takes part any more is forgotten.
    fn change_contest(&mut self, user: &Arc<str>, change: impl FnOnce(&mut Contest)) {
        let Some(contest) = self.contests.get_mut(user) else { return };
        let contest = Arc::make_mut(contest);
        change(contest);
        if contest.pending.is_empty() && contest.shadows.is_empty() {
            self.contests.remove(user);
        }
    }
}
