//! The views for readers. Only what is live is seen, whether or not the memory of ended sessions is reclaimed.

use std::ops::Bound;
use std::sync::Arc;

use super::command::{Ban, Reason, Release};
use super::contest::ids_of;
use super::ids::{ConnectionId, Epoch, Revision, Serial};
use super::outcome::{Connection, Event, OpOutcome, Session};
use super::packed::Packed;
use super::sessions::Alive;
use super::state::Directory;
use super::users::hash_of;

/// A connection whose session is alive.
#[derive(Debug, Clone)]
pub struct LiveConnection<'a> {
    /// Which.
    pub id: ConnectionId,
    /// What is kept of it.
    pub connection: Arc<Connection>,
    /// Its session, and so its gateway.
    pub session: &'a Arc<Session>,
}

/// A session that is alive.
#[derive(Debug, Clone, Copy)]
pub struct LiveSession<'a> {
    /// Which.
    pub epoch: Epoch,
    /// What is kept of it.
    pub session: &'a Arc<Session>,
    /// Connections that it holds.
    pub connections: u64,
    /// Number of its latest numbered batch; 0 before the first.
    pub last_batch: u64,
}

/// A session that is over and whose connections are still to be reclaimed.
#[derive(Debug, Clone, Copy)]
pub struct EndedSession<'a> {
    /// Which.
    pub epoch: Epoch,
    /// What is kept of it.
    pub session: &'a Arc<Session>,
    /// Why it ended.
    pub reason: Reason,
    /// Connections whose memory is still held.
    pub held: u64,
    /// Whether its exclusive connections keep their claims; nothing of it is reclaimed before these are released.
    pub claims: bool,
}

/// A connection that its gateway is asked to release.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Which.
    pub id: ConnectionId,
    /// Since which revision.
    pub since: Revision,
    /// What its client is told.
    pub release: &'a Release,
}

/// A user that is refused.
#[derive(Debug, Clone, Copy)]
pub struct BannedUser<'a> {
    /// Whom.
    pub user: &'a Arc<str>,
    /// When the ban was made.
    pub made: Revision,
    /// What is kept of it.
    pub ban: &'a Ban,
}

/// A topic and the live sessions that have subscribers of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub topic: Arc<str>,
    /// The sessions, in order.
    pub sessions: Vec<Epoch>,
}

/// The process that opened the latest session under a gateway's name, whether that session is alive or not.
#[derive(Debug, Clone, Copy)]
pub struct Gateway<'a> {
    /// The process.
    pub nonce: &'a Arc<str>,
    /// Which session of that process.
    pub attempt: u64,
    /// The session.
    pub epoch: Epoch,
}

/// How much is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Live connections, exactly.
    pub connections: u64,
    /// Users with a connection. While [`Directory::ended_sessions`] is not empty this also counts users that have
    /// only connections of ended sessions which are not reclaimed yet; otherwise it is exact.
    pub users: u64,
    /// Live sessions, exactly.
    pub sessions: u64,
}

impl Directory {
    /// The revision of this state.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The live connections of a user, ordered by when they were granted, then by id.
    pub fn connections_of(&self, user: &str) -> Vec<LiveConnection<'_>> {
        let Some(held) = self.users.get(hash_of(user), user, &self.pages) else { return Vec::new() };
        let mut found: Vec<_> = held
            .places(&self.pages)
            .filter_map(|(id, place)| Some((id, place, &self.sessions.get(&id.epoch)?.session)))
            .map(|(id, place, session)| live_connection(id, self.pages.at(place), session))
            .collect();
        found.sort_unstable_by_key(|live| (live.connection.granted, live.id));
        found
    }

    /// Whether a user has a live connection; cheaper than [`Self::connections_of`].
    pub fn is_online(&self, user: &str) -> bool {
        self.users.get(hash_of(user), user, &self.pages).is_some_and(|held| self.live_of(&held) > 0)
    }

    /// One live connection.
    pub fn connection(&self, id: ConnectionId) -> Option<LiveConnection<'_>> {
        let session = &self.sessions.get(&id.epoch)?.session;
        Some(live_connection(id, self.pages.get(id)?, session))
    }

    /// One live session.
    pub fn session(&self, epoch: Epoch) -> Option<LiveSession<'_>> {
        self.sessions.get(&epoch).map(|alive| live_session(epoch, alive))
    }

    /// The live session of a gateway.
    pub fn session_of(&self, gateway: &str) -> Option<LiveSession<'_>> {
        self.session(self.gateways.get(gateway)?.epoch)
    }

    /// Who last opened a session under a gateway's name.
    pub fn gateway(&self, name: &str) -> Option<Gateway<'_>> {
        let incumbent = self.gateways.get(name)?;
        Some(Gateway { nonce: &incumbent.nonce, attempt: incumbent.attempt, epoch: incumbent.epoch })
    }

    /// How many names of gateways are known.
    pub fn gateways(&self) -> u64 {
        self.gateways.len() as u64
    }

    /// The live sessions in order of their epochs.
    pub fn sessions(&self) -> impl Iterator<Item = LiveSession<'_>> {
        self.sessions.iter().map(|(epoch, alive)| live_session(*epoch, alive))
    }

    /// The sessions that are over and still hold memory, in order of their epochs: what is left to reclaim.
    pub fn ended_sessions(&self) -> impl Iterator<Item = EndedSession<'_>> {
        self.ended.iter().map(|(epoch, ended)| EndedSession {
            epoch: *epoch,
            session: &ended.session,
            reason: ended.reason,
            held: ended.held,
            claims: ended.claims,
        })
    }

    /// The connections that a live session's gateway is asked to release, in order of their ids: those whose place another
    /// one takes, those that waited and were outbid, and those that somebody wants to be closed. Each stays here until it
    /// is unregistered.
    pub fn asked(&self, epoch: Epoch) -> impl Iterator<Item = Asked<'_>> {
        let alive = self.sessions.contains_key(&epoch);
        let involved = alive.then(|| self.involved.range(ids_of(epoch))).into_iter().flatten();
        involved.filter_map(|(id, involved)| {
            involved.asked.as_ref().map(|(since, release)| Asked { id: *id, since: *since, release })
        })
    }

    /// Whether a connection of a live session waits for its place.
    pub fn is_pending(&self, id: ConnectionId) -> bool {
        let contest = self.involved.get(&id).and_then(|involved| self.contests.get(&involved.user));
        let waits = contest.is_some_and(|contest| contest.pending.iter().any(|pending| pending.id == id));
        waits && self.sessions.contains_key(&id.epoch)
    }

    /// The ban of a user.
    pub fn banned(&self, user: &str) -> Option<BannedUser<'_>> {
        let (user, banned) = self.bans.get_key_value(user)?;
        Some(BannedUser { user, made: banned.made, ban: &banned.ban })
    }

    /// All bans, by user.
    pub fn bans(&self) -> impl Iterator<Item = BannedUser<'_>> {
        self.bans_after(None)
    }

    /// The bans by user, from the first one after the user `after`.
    pub fn bans_after(&self, after: Option<&str>) -> impl Iterator<Item = BannedUser<'_>> {
        self.bans.after(after).map(|(user, banned)| BannedUser { user, made: banned.made, ban: &banned.ban })
    }

    /// The bans that have an end, the earliest end first.
    pub fn bans_by_end(&self) -> impl Iterator<Item = BannedUser<'_>> {
        self.bans.by_end().filter_map(|(_, user)| self.banned(user))
    }

    /// The topics that begin with `prefix` and of which a live session has subscribers, by name.
    pub fn topics(&self, prefix: &str) -> impl Iterator<Item = Topic> {
        let prefix: Arc<str> = prefix.into();
        let mut pairs = self.topics.from(Arc::clone(&prefix)).peekable();
        std::iter::from_fn(move || {
            loop {
                let (topic, _) = pairs.peek().filter(|(topic, _)| topic.starts_with(&*prefix))?;
                let topic = Arc::clone(topic);
                let mut sessions = Vec::new();
                while let Some((_, epoch)) = pairs.next_if(|(of, _)| *of == topic) {
                    sessions.extend(self.sessions.contains_key(epoch).then_some(*epoch));
                }
                if !sessions.is_empty() {
                    return Some(Topic { topic, sessions });
                }
            }
        })
    }

    /// How many topics there are. While [`Self::ended_sessions`] is not empty this also counts topics that only ended sessions
    /// had which are not reclaimed yet; otherwise it is exact.
    pub fn topic_count(&self) -> u64 {
        self.topics.count()
    }

    /// The live sessions that have subscribers of a topic, in order.
    pub fn sessions_of(&self, topic: &str) -> Vec<Epoch> {
        self.topics.sessions(&topic.into()).filter(|epoch| self.sessions.contains_key(epoch)).collect()
    }

    /// The topics of a live session, by name, from the first one after `after`.
    pub fn topics_of(&self, epoch: Epoch, after: Option<&Arc<str>>) -> impl Iterator<Item = &Arc<str>> {
        let alive = self.sessions.contains_key(&epoch);
        alive.then(|| self.topics.of_session(epoch, after)).into_iter().flatten()
    }

    /// The topics that the end of a session left, each as an [`Event::TopicLeft`]; the counterpart of [`Self::closed_by`].
    pub fn left_by(&self, epoch: Epoch, after: Option<&Arc<str>>) -> impl Iterator<Item = Event> {
        self.ended.get(&epoch).into_iter().flat_map(move |ended| {
            let gateway = &ended.session.gateway;
            self.topics.of_session(epoch, after).map(move |topic| Event::TopicLeft {
                topic: Arc::clone(topic),
                epoch,
                gateway: Arc::clone(gateway),
            })
        })
    }

    /// The live connections in order of their ids, from the first one after `after`. A page of a listing is a `take` of
    /// it; the last id seen leads to the next page, also in a later state.
    pub fn scan(&self, after: Option<ConnectionId>) -> impl Iterator<Item = LiveConnection<'_>> {
        let start = after.map_or(Bound::Unbounded, |id| Bound::Included(id.epoch));
        self.sessions.range((start, Bound::Unbounded)).flat_map(move |(epoch, _)| {
            let after = after.filter(|id| id.epoch == *epoch);
            self.scan_session(*epoch, after)
        })
    }

    /// The connections of one live session in order of their ids, from the first one after `after`.
    pub fn scan_session(&self, epoch: Epoch, after: Option<ConnectionId>) -> impl Iterator<Item = LiveConnection<'_>> {
        let after = after.map(|id| id.serial);
        self.sessions.get(&epoch).into_iter().flat_map(move |alive| {
            let session = &alive.session;
            self.pages.scan(epoch, after).map(move |(id, connection)| live_connection(id, connection, session))
        })
    }

    /// The connections that the end of a session closed, one by one in order of their ids, each as an
    /// [`Event::Closed`]. This is how feeds show single connections where the replicated event is
    /// [`Event::SessionEnded`] alone.
    ///
    /// Ask the copy that was frozen at that event ([`super::SessionEnd::frozen`]): an older one does not know of the
    /// end, a newer one may have reclaimed some, and knows of later connections of the same users. There, `last` is true
    /// exactly once for each user that has no live connection elsewhere, on the last of its connections.
    ///
    /// Begins after `after`, so that a long list can be made in slices.
    pub fn closed_by(&self, epoch: Epoch, after: Option<Serial>) -> impl Iterator<Item = Event> {
        self.ended.get(&epoch).into_iter().flat_map(move |ended| {
            self.pages.scan(epoch, after).map(move |(id, connection)| Event::Closed {
                id,
                user: connection.user.into(),
                gateway: Arc::clone(&ended.session.gateway),
                granted: connection.granted,
                reason: ended.reason,
                last: self.is_last_of_ended(id, connection.user),
            })
        })
    }

    /// Whether a user had a connection in a session that has ended. As [`Self::closed_by`], ask the copy that was frozen then.
    pub fn has_ended(&self, epoch: Epoch, user: &str) -> bool {
        let held = self.users.get(hash_of(user), user, &self.pages);
        self.ended.contains_key(&epoch) && held.is_some_and(|held| held.serials(epoch).next().is_some())
    }

    /// Whether a connection of an ended session is the user's last there, and no live one is elsewhere.
    fn is_last_of_ended(&self, id: ConnectionId, user: &str) -> bool {
        let held = self.users.get(hash_of(user), user, &self.pages);
        held.is_some_and(|held| held.serials(id.epoch).next_back() == Some(id.serial) && self.live_of(&held) == 0)
    }

    /// How much is there.
    pub fn stats(&self) -> Stats {
        let (users, sessions) = (self.users.len() as u64, self.sessions.len() as u64);
        Stats { connections: self.live, users, sessions }
    }

    /// An estimate of the memory of this state in bytes, without what frozen copies hold on to.
    pub fn state_bytes(&self) -> u64 {
        // A session and a gateway's record.
        const SESSION_BYTES: u64 = 512;
        // By the sizes of the structures: both sides of a topic's pair; a contest with its two connections, or a ban.
        const TOPIC_BYTES: u64 = 128;
        const INVOLVED_BYTES: u64 = 256;
        let sessions = (self.sessions.len() + self.gateways.len()) as u64;
        let outcomes = self.sessions.values().flat_map(|alive| alive.window.done()).map(|done| done.ops.len());
        self.pages.state_bytes()
            + self.users.state_bytes()
            + sessions * SESSION_BYTES
            + (self.topics.len() as u64) * TOPIC_BYTES
            + (self.involved.len() + self.bans.len()) as u64 * INVOLVED_BYTES
            + (outcomes.sum::<usize>() * size_of::<OpOutcome>()) as u64
    }
}

fn live_connection<'a>(id: ConnectionId, connection: Packed<'a>, session: &'a Arc<Session>) -> LiveConnection<'a> {
    LiveConnection { id, connection: Arc::new(connection.to_connection()), session }
}

fn live_session(epoch: Epoch, alive: &Alive) -> LiveSession<'_> {
    LiveSession { epoch, session: &alive.session, connections: alive.connections, last_batch: alive.window.last() }
}
