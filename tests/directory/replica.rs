//! What a gateway holds: a copy that is fed by events alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use switchboard::directory::{Connection, ConnectionId, Directory, Epoch, Event, Session};

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Replica {
    sessions: BTreeMap<Epoch, Session>,
    connections: BTreeMap<ConnectionId, Connection>,
    topics: BTreeSet<(Arc<str>, Epoch)>,
    /// Whose place is handed over: between the events of that the user has no connection and is not offline.
    handed: Option<Arc<str>>,
}

impl Replica {
    /// Begins with what is there, like a watcher that starts with a snapshot.
    pub(crate) fn of(directory: &Directory) -> Self {
        let connections = directory.scan(None).map(|live| (live.id, Connection::clone(&live.connection)));
        let sessions = directory.sessions().map(|live| (live.epoch, Session::clone(live.session)));
        let topics =
            directory.topics("").flat_map(|of| of.sessions.into_iter().map(move |epoch| (of.topic.clone(), epoch)));
        Self {
            sessions: sessions.collect(),
            connections: connections.collect(),
            topics: topics.collect(),
            handed: None,
        }
    }

    /// Applies one event, and holds it against what it knows: the flags, the gateway, and that nothing comes twice.
    pub(crate) fn apply(&mut self, event: &Event) {
        match event.clone() {
            Event::SessionOpened { epoch, session } => {
                assert_eq!(self.sessions.insert(epoch, Session::clone(&session)), None);
            }
            Event::SessionEnded { epoch, gateway, .. } => {
                assert_eq!(self.sessions.remove(&epoch).unwrap().gateway, gateway);
                self.connections.retain(|id, _| id.epoch != epoch);
                self.topics.retain(|(_, of)| *of != epoch);
            }
            Event::Opened { id, connection, gateway, first } => {
                assert_eq!(self.sessions[&id.epoch].gateway, gateway);
                let handed = self.handed.take();
                assert_eq!(first, !self.is_online(&connection.user) && handed.is_none(), "{event:?}");
                assert!(handed.is_none_or(|user| user == connection.user), "{event:?}");
                assert_eq!(self.connections.insert(id, Connection::clone(&connection)), None);
            }
            Event::Closed { id, user, gateway, granted, last, .. } => {
                assert_eq!(self.sessions[&id.epoch].gateway, gateway);
                let closed = self.connections.remove(&id).unwrap();
                assert_eq!((closed.user, closed.granted), (user.clone(), granted));
                assert!(!last || !self.is_online(&user), "{event:?}");
                self.handed = Some(user).filter(|user| !last && !self.is_online(user));
            }
            Event::MetaChanged { id, user, gateway, granted, meta, version } => {
                assert_eq!(self.sessions[&id.epoch].gateway, gateway);
                let connection = self.connections.get_mut(&id).unwrap();
                assert_eq!((&connection.user, connection.granted), (&user, granted));
                connection.meta = Some(Arc::clone(&meta));
                connection.meta_version = version;
            }
            Event::ReleaseAsked { id, gateway, .. } => assert_eq!(self.sessions[&id.epoch].gateway, gateway),
            Event::TopicJoined { topic, epoch, gateway } => {
                assert_eq!(self.sessions[&epoch].gateway, gateway);
                assert!(self.topics.insert((topic, epoch)));
            }
            Event::TopicLeft { topic, epoch, gateway } => {
                assert_eq!(self.sessions[&epoch].gateway, gateway);
                assert!(self.topics.remove(&(topic, epoch)));
            }
        }
    }

    fn is_online(&self, user: &str) -> bool {
        self.connections.values().any(|connection| &*connection.user == user)
    }
}
