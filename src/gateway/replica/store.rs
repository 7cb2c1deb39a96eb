//! The state of the directory as a gateway knows it: read without locks by everybody, written by one task.
//!
//! *Exactness.* The writer makes `version` odd while it changes anything and even again afterwards; a reader that saw the
//! same even version before and after its read saw exactly one revision. A reader that meets a writer too often waits for
//! it, at most for one revision: the writer holds `order` for as long as the version is odd.
//!
//! *Ended sessions.* Taking a session out of `sessions` hides its connections from every read at once. Their memory is
//! reclaimed later, in slices, which no reader can tell.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, RwLock};

use papaya::HashMap;

use super::census::Census;
use super::held::{Ages, Held as Users};
use super::routes::{ByTopic, Routes};
use crate::chance::Hashing;
use crate::directory::{Connection, ConnectionId, Epoch, Event, Revision, Session};
use crate::view::{At, Counts, Found};

/// How often a reader tries to find the writer idle before it waits for it.
const TRIES: usize = 64;

/// Connections of one user, in no order, possibly with some of ended sessions.
type OfUser = Arc<[(ConnectionId, Arc<Connection>)]>;

/// The readers' side.
#[derive(Debug, Default)]
pub(super) struct Store {
    sessions: HashMap<Epoch, Arc<Held>, Hashing>,
    connections: HashMap<ConnectionId, Arc<Connection>, Hashing>,
    users: HashMap<Arc<str>, OfUser, Hashing>,
    order: RwLock<BTreeSet<ConnectionId>>,
    topics: ByTopic,
    revision: AtomicU64,
    version: AtomicU64,
    live: AtomicU64,
    users_live: AtomicU64,
    /// Of a replica that does not hold everybody: whom it holds.
    held: Option<Users>,
}

/// A live session.
#[derive(Debug)]
struct Held {
    session: Arc<Session>,
    connections: AtomicU64,
}

impl Store {
    pub(super) fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// The connections of a user, unless the user is not held.
    pub(super) fn user(&self, user: &str) -> Option<At<Vec<Found>>> {
        let at = self.exact(|store| {
            if store.held.as_ref().is_some_and(|held| !held.uses(user)) {
                return None;
            }
            let users = store.users.pin();
            let mut found: Vec<Found> = users.get(user).map_or_else(Vec::new, |held| {
                held.iter().filter_map(|(id, connection)| store.found(*id, connection)).collect()
            });
            found.sort_unstable_by_key(|found| (found.connection.granted, found.id));
            Some(found)
        });
        at.value.map(|value| At { value, revision: at.revision })
    }

    /// A connection, unless it is not there although it may exist.
    pub(super) fn connection(&self, id: ConnectionId) -> Option<At<Option<Found>>> {
        let at = self.exact(|store| {
            let connections = store.connections.pin();
            let connection = connections.get(&id);
            if let (Some(held), Some(connection)) = (&store.held, connection) {
                held.uses(&connection.user);
            }
            (connection.is_some() || store.held.is_none())
                .then(|| connection.and_then(|connection| store.found(id, connection)))
        });
        at.value.map(|value| At { value, revision: at.revision })
    }

    /// How many users are held, online or not where that is known of them.
    pub(super) fn users_held(&self) -> u64 {
        self.held.as_ref().map_or_else(|| self.users_live.load(Ordering::Relaxed), |held| held.len() as u64)
    }

    pub(super) fn scan(&self, after: Option<ConnectionId>, limit: usize) -> At<Vec<Found>> {
        let order = self.order.read().expect("no code panics while holding this lock");
        let connections = self.connections.pin();
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let live = order
            .range((from, std::ops::Bound::Unbounded))
            .filter_map(|id| connections.get(id).and_then(|connection| self.found(*id, connection)));
        At { value: live.take(limit).collect(), revision: self.revision() }
    }

    pub(super) fn sessions(&self) -> At<Vec<(Epoch, Arc<Session>, u64)>> {
        self.exact(|store| {
            let sessions = store.sessions.pin();
            let mut all: Vec<_> = sessions
                .iter()
                .map(|(epoch, held)| (*epoch, Arc::clone(&held.session), held.connections.load(Ordering::Relaxed)))
                .collect();
            all.sort_unstable_by_key(|(epoch, ..)| *epoch);
            all
        })
    }

    /// The live sessions that have subscribers of a topic.
    pub(super) fn subscribed(&self, topic: &str) -> At<Vec<(Epoch, Arc<Session>)>> {
        self.exact(|store| {
            let sessions = store.sessions.pin();
            let of_topic = store.topics.sessions(topic);
            of_topic.iter().filter_map(|epoch| Some((*epoch, Arc::clone(&sessions.get(epoch)?.session)))).collect()
        })
    }

    pub(super) fn counts(&self) -> At<Counts> {
        self.exact(|store| Counts {
            connections: store.live.load(Ordering::Relaxed),
            users: store.users_live.load(Ordering::Relaxed),
        })
    }

    fn found(&self, id: ConnectionId, connection: &Arc<Connection>) -> Option<Found> {
        let sessions = self.sessions.pin();
        let held = sessions.get(&id.epoch)?;
        Some(Found { id, connection: Arc::clone(connection), session: Arc::clone(&held.session) })
    }

    fn exact<T>(&self, read: impl Fn(&Self) -> T) -> At<T> {
        for _ in 0..TRIES {
            let before = self.version.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let at = At { value: read(self), revision: self.revision.load(Ordering::Relaxed) };
                fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == before {
                    return at;
                }
            }
            std::hint::spin_loop();
        }
        let _no_writer = self.order.read().expect("no code panics while holding this lock");
        At { value: read(self), revision: self.revision() }
    }

    fn is_live(&self, epoch: Epoch) -> bool {
        self.sessions.pin().contains_key(&epoch)
    }
}

/// The writer's side.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    /// Of a replica that does not hold everybody.
    ages: Option<Ages>,
    census: Census,
    routes: Routes,
    /// Ended sessions whose connections or topics are still held.
    dead: VecDeque<Epoch>,
}

impl Writer {
    /// Nothing yet; to hold everybody, or at most so many users.
    pub(super) fn new(users_max: Option<usize>) -> Self {
        let store = Store { held: users_max.map(|_| Users::default()), ..Store::default() };
        let ages = users_max.map(Ages::new);
        Self {
            store: Arc::new(store),
            ages,
            census: Census::default(),
            routes: Routes::default(),
            dead: VecDeque::new(),
        }
    }

    /// Holds a user from now on, who has these connections at the present revision.
    pub(super) fn hold(&mut self, user: &Arc<str>, connections: &[(ConnectionId, Arc<Connection>)]) {
        self.change(|writer, order| {
            let store = Arc::clone(&writer.store);
            let (Some(held), Some(ages)) = (&store.held, &mut writer.ages) else { return };
            if held.contains(user) {
                return;
            }
            let gone = ages.add(held, user);
            for (id, connection) in connections.iter().filter(|(id, _)| store.is_live(id.epoch)) {
                writer.put(order, *id, Arc::clone(connection));
            }
            for user in gone {
                writer.forget(order, &user);
            }
        });
    }

    /// Adds a part of a snapshot, which nobody reads yet.
    pub(super) fn load(
        &mut self,
        sessions: Vec<(Epoch, Arc<Session>)>,
        connections: Vec<(ConnectionId, Arc<Connection>)>,
    ) {
        self.change(|writer, order| {
            for (epoch, session) in sessions {
                writer.open(epoch, session);
            }
            for (id, connection) in connections {
                if writer.wants(&connection.user) {
                    writer.put(order, id, connection);
                }
            }
        });
    }

    /// Adds topics of a snapshot, which nobody reads yet.
    pub(super) fn load_topics(&mut self, topics: Vec<(Arc<str>, Vec<Epoch>)>) {
        for (topic, epochs) in topics {
            for epoch in epochs {
                self.routes.join(&self.store.topics, &topic, epoch);
            }
        }
    }

    fn wants(&self, user: &str) -> bool {
        self.store.held.as_ref().is_none_or(|held| held.contains(user))
    }

    /// Holds nothing of a user any more.
    fn forget(&mut self, order: &mut BTreeSet<ConnectionId>, user: &Arc<str>) {
        let of_user = self.store.users.pin().get(user).cloned();
        for (id, _) in of_user.iter().flat_map(|of_user| of_user.iter()) {
            self.remove(order, *id, user);
        }
    }

    /// Applies all changes of one revision.
    pub(super) fn apply(&mut self, revision: Revision, events: Vec<Event>) {
        self.change(|writer, order| {
            for event in events {
                writer.apply_one(order, event);
            }
            writer.store.revision.store(revision, Ordering::Release);
        });
    }

    /// Everything up to `revision` was applied.
    pub(super) fn advance(&self, revision: Revision) {
        // A larger number for the same state is exact too, so that readers need not be kept out.
        self.store.revision.fetch_max(revision, Ordering::AcqRel);
    }

    /// Whether there is memory to reclaim.
    pub(super) fn holds_dead(&self) -> bool {
        !self.dead.is_empty()
    }

    /// Frees at most `limit` connections of ended sessions, and as many of their topics.
    pub(super) fn reclaim(&mut self, limit: usize) {
        let Some(&epoch) = self.dead.front() else { return };
        let range = ConnectionId { epoch, serial: 0 }..=ConnectionId { epoch, serial: u64::MAX };
        let slice: Vec<ConnectionId> = {
            let mut order = self.store.order.write().expect("no code panics while holding this lock");
            let slice: Vec<_> = order.range(range).take(limit).copied().collect();
            for id in &slice {
                order.remove(id);
            }
            slice
        };
        let connections = self.store.connections.pin();
        for id in &slice {
            if let Some(connection) = connections.remove(id) {
                self.set_user(&connection.user, |held| held.retain(|(other, _)| other != id));
            }
        }
        let topics_left = self.routes.reclaim(&self.store.topics, epoch, limit);
        if slice.len() < limit && !topics_left {
            self.dead.pop_front();
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Self, &mut BTreeSet<ConnectionId>)) {
        let store = Arc::clone(&self.store);
        let mut order = store.order.write().expect("no code panics while holding this lock");
        let version = store.version.load(Ordering::Relaxed);
        store.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        change(self, &mut order);
        store.users_live.store(self.census.users(), Ordering::Relaxed);
        store.version.store(version + 2, Ordering::Release);
    }

    fn apply_one(&mut self, order: &mut BTreeSet<ConnectionId>, event: Event) {
        if event.user().is_some_and(|user| !self.wants(user)) {
            return;
        }
        match event {
            Event::SessionOpened { epoch, session } => self.open(epoch, session),
            Event::SessionEnded { epoch, .. } => self.end(epoch),
            Event::Opened { id, connection, .. } => self.put(order, id, connection),
            Event::Closed { id, user, .. } => self.remove(order, id, &user),
            Event::MetaChanged { id, meta, version, .. } => self.set_meta(id, &meta, version),
            Event::TopicJoined { topic, epoch, .. } => self.routes.join(&self.store.topics, &topic, epoch),
            Event::TopicLeft { topic, epoch, .. } => self.routes.leave(&self.store.topics, &topic, epoch),
            Event::ReleaseAsked { .. } => {}
        }
    }

    fn open(&mut self, epoch: Epoch, session: Arc<Session>) {
        self.store.sessions.pin().insert(epoch, Arc::new(Held { session, connections: AtomicU64::new(0) }));
    }

    fn end(&mut self, epoch: Epoch) {
        if let Some(held) = self.store.sessions.pin().remove(&epoch) {
            self.store.live.fetch_sub(held.connections.load(Ordering::Relaxed), Ordering::Relaxed);
            self.census.ended(epoch);
            self.dead.push_back(epoch);
        }
    }

    fn put(&mut self, order: &mut BTreeSet<ConnectionId>, id: ConnectionId, connection: Arc<Connection>) {
        let before = self.sessions_of(&connection.user);
        let user = Arc::clone(&connection.user);
        self.set_user(&user, |held| {
            held.retain(|(other, _)| *other != id);
            held.push((id, Arc::clone(&connection)));
        });
        self.store.connections.pin().insert(id, connection);
        if order.insert(id)
            && let Some(held) = self.store.sessions.pin().get(&id.epoch)
        {
            held.connections.fetch_add(1, Ordering::Relaxed);
            self.store.live.fetch_add(1, Ordering::Relaxed);
        }
        self.census.moved(&before, &self.sessions_of(&user));
    }

    fn remove(&mut self, order: &mut BTreeSet<ConnectionId>, id: ConnectionId, user: &Arc<str>) {
        let before = self.sessions_of(user);
        self.set_user(user, |held| held.retain(|(other, _)| *other != id));
        self.store.connections.pin().remove(&id);
        if order.remove(&id)
            && let Some(held) = self.store.sessions.pin().get(&id.epoch)
        {
            held.connections.fetch_sub(1, Ordering::Relaxed);
            self.store.live.fetch_sub(1, Ordering::Relaxed);
        }
        self.census.moved(&before, &self.sessions_of(user));
    }

    fn set_meta(&mut self, id: ConnectionId, meta: &Arc<str>, version: u32) {
        let connections = self.store.connections.pin();
        let Some(old) = connections.get(&id) else { return };
        let new = Arc::new(Connection { meta: Some(Arc::clone(meta)), meta_version: version, ..(**old).clone() });
        self.set_user(&new.user, |held| {
            if let Some(entry) = held.iter_mut().find(|(other, _)| *other == id) {
                entry.1 = Arc::clone(&new);
            }
        });
        connections.insert(id, new);
    }

    fn set_user(&self, user: &Arc<str>, change: impl FnOnce(&mut Vec<(ConnectionId, Arc<Connection>)>)) {
        let users = self.store.users.pin();
        let mut held = users.get(user).map_or_else(Vec::new, |held| held.to_vec());
        change(&mut held);
        if held.is_empty() {
            users.remove(user);
        } else {
            users.insert(Arc::clone(user), held.into());
        }
    }

    /// The live sessions that hold connections of a user: sorted, each once.
    fn sessions_of(&self, user: &str) -> Vec<Epoch> {
        let users = self.store.users.pin();
        let Some(held) = users.get(user) else { return Vec::new() };
        let mut epochs: Vec<Epoch> = held.iter().map(|(id, _)| id.epoch).filter(|e| self.store.is_live(*e)).collect();
        epochs.sort_unstable();
        epochs.dedup();
        epochs
    }
}
