//! Which of this gateway's connections are subscribed to which topics. Kept by serial, which stays when the session changes.
//!
//! One lock, held for a few steps of a map and never while anything is written: a fan-out takes a copy of a topic's subscribers,
//! which costs the same for one and for a million. A connection without topics has no entry here.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use imbl::OrdSet;
use tokio::sync::Notify;

use crate::chance::Hashing;
use crate::directory::Serial;

/// Up to so many subscribers are a plain list: most topics have few, and a node of the set has room for 64.
const FEW_MAX: usize = 16;

/// Who is subscribed to what.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    state: Mutex<State>,
    /// Topics may have lost their last subscribers, see [`Subscriptions::emptied`].
    pub(super) left: Notify,
    /// Some topic has another version.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    by_topic: HashMap<Arc<str>, Topic, Hashing>,
    by_connection: HashMap<Serial, Vec<Arc<str>>, Hashing>,
    /// Subscriptions of all connections.
    count: usize,
    /// The last version that a topic was given. Those of all topics are given by one count, so none comes back.
    version: u64,
    /// Topics that lost their last subscriber since that was asked for.
    emptied: HashSet<Arc<str>, Hashing>,
}

/// A topic that has subscribers.
#[derive(Debug, Default)]
struct Topic {
    subscribers: Subscribers,
    /// Another one after every change of who they are, or of how one of them is called.
    version: u64,
}

/// The subscribers of one topic, ascending. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Subscribers {
    Few(Vec<Serial>),
    Many(OrdSet<Serial>),
}

/// A connection would have more subscriptions than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

impl Subscriptions {
    /// Subscribes a connection; those of the topics that are new to it come back. With more than `max` in all nothing changes.
    pub(super) fn subscribe(&self, serial: Serial, topics: &[Arc<str>], max: usize) -> Result<Vec<Arc<str>>, TooMany> {
        let mut state = self.state();
        let held = state.by_connection.get(&serial).map_or(&[][..], Vec::as_slice);
        let mut added: Vec<Arc<str>> = Vec::new();
        for topic in topics.iter().filter(|topic| !held.contains(topic)) {
            if !added.contains(topic) {
                // One copy of the name for all who are subscribed.
                let known = state.by_topic.get_key_value(topic).map(|(known, _)| known);
                added.push(Arc::clone(known.unwrap_or(topic)));
            }
        }
        if held.len() + added.len() > max {
            return Err(TooMany);
        }
        for topic in &added {
            state.version += 1;
            let version = state.version;
            let topic = state.by_topic.entry(Arc::clone(topic)).or_default();
            topic.subscribers.insert(serial);
            topic.version = version;
        }
        state.count += added.len();
        if !added.is_empty() {
            let of_connection = state.by_connection.entry(serial).or_default();
            of_connection.reserve_exact(added.len());
            of_connection.extend(added.iter().cloned());
            drop(state);
            self.changed.notify_waiters();
        }
        Ok(added)
    }

    /// Ends subscriptions of a connection; what it was not subscribed to is passed over.
    pub(super) fn unsubscribe(&self, serial: Serial, topics: &[Arc<str>]) {
        let mut state = self.state();
        let Some(held) = state.by_connection.get_mut(&serial) else { return };
        let mut gone = Vec::new();
        held.retain(|topic| {
            let ends = topics.contains(topic);
            gone.extend(ends.then(|| Arc::clone(topic)));
            !ends
        });
        if held.is_empty() {
            state.by_connection.remove(&serial);
        }
        let emptied = state.remove(serial, gone);
        drop(state);
        self.tell(emptied);
    }

    /// Ends all subscriptions of a connection.
    pub(super) fn leave(&self, serial: Serial) {
        let mut state = self.state();
        let Some(held) = state.by_connection.remove(&serial) else { return };
        let emptied = state.remove(serial, held);
        drop(state);
        self.tell(emptied);
    }

    /// The subscribers of a topic now.
    pub(super) fn of(&self, topic: &str) -> Subscribers {
        self.state().by_topic.get(topic).map(|topic| topic.subscribers.clone()).unwrap_or_default()
    }

    /// How many subscribers a topic has.
    pub(super) fn count(&self, topic: &str) -> usize {
        self.state().by_topic.get(topic).map_or(0, |topic| topic.subscribers.len())
    }

    /// The topics that begin so, and how many subscribers each has, in no order.
    pub(super) fn counts(&self, prefix: &str) -> Vec<(Arc<str>, u64)> {
        let state = self.state();
        let topics = state.by_topic.iter().filter(|(name, _)| name.starts_with(prefix));
        topics.map(|(name, topic)| (Arc::clone(name), topic.subscribers.len() as u64)).collect()
    }

    /// Whether a connection is subscribed to a topic.
    pub(super) fn has(&self, serial: Serial, topic: &Arc<str>) -> bool {
        self.state().by_connection.get(&serial).is_some_and(|held| held.contains(topic))
    }

    /// The version of a topic's subscribers.
    pub(super) fn version(&self, topic: &str) -> u64 {
        self.state().by_topic.get(topic).map_or(0, |topic| topic.version)
    }

    /// A connection has another id, or its first one, for everybody who sees it.
    pub(super) fn renamed(&self, serial: Serial) {
        let mut state = self.state();
        let State { by_topic, by_connection, version, .. } = &mut *state;
        let Some(held) = by_connection.get(&serial) else { return };
        for name in held {
            if let Some(topic) = by_topic.get_mut(name) {
                *version += 1;
                topic.version = *version;
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether a topic has subscribers.
    pub(super) fn is_wanted(&self, topic: &str) -> bool {
        self.state().by_topic.contains_key(topic)
    }

    /// Every topic that has subscribers, in no order.
    pub(super) fn topics(&self) -> Vec<Arc<str>> {
        self.state().by_topic.keys().cloned().collect()
    }

    /// Topics, and subscriptions to them.
    pub(super) fn figures(&self) -> (usize, usize) {
        let state = self.state();
        (state.by_topic.len(), state.count)
    }

    /// The topics that lost their last subscriber since the last call. They may have one again.
    pub(super) fn emptied(&self) -> Vec<Arc<str>> {
        self.state().emptied.drain().collect()
    }

    fn tell(&self, emptied: bool) {
        self.changed.notify_waiters();
        if emptied {
            self.left.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while holding this lock")
    }
}

impl State {
    /// Whether a topic lost its last subscriber.
    fn remove(&mut self, serial: Serial, topics: Vec<Arc<str>>) -> bool {
        let mut emptied = false;
        for topic in topics {
            let Some(held) = self.by_topic.get_mut(&topic) else { continue };
            held.subscribers.remove(serial);
            self.version += 1;
            held.version = self.version;
            self.count -= 1;
            if held.subscribers.len() == 0 {
                self.by_topic.remove(&topic);
                self.emptied.insert(topic);
                emptied = true;
            }
        }
        emptied
    }
}

impl From<Vec<Serial>> for Subscribers {
    /// Of serials that ascend.
    fn from(serials: Vec<Serial>) -> Self {
        Self::Few(serials)
    }
}

impl Default for Subscribers {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Subscribers {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    /// Those from `from` on, ascending.
    pub(super) fn from(&self, from: Serial) -> Box<dyn Iterator<Item = Serial> + Send + '_> {
        match self {
            Self::Few(few) => Box::new(few[few.partition_point(|serial| *serial < from)..].iter().copied()),
            Self::Many(many) => Box::new(many.range(from..).copied()),
        }
    }

    fn insert(&mut self, serial: Serial) {
        match self {
            Self::Few(few) => {
                if let Err(place) = few.binary_search(&serial) {
                    few.insert(place, serial);
                }
                if few.len() > FEW_MAX {
                    *self = Self::Many(few.iter().copied().collect());
                }
            }
            Self::Many(many) => drop(many.insert(serial)),
        }
    }

    fn remove(&mut self, serial: Serial) {
        match self {
            Self::Few(few) => few.retain(|other| *other != serial),
            Self::Many(many) => {
                many.remove(&serial);
                // Not at the border itself, where one who comes and goes would have it rebuilt every time.
                if many.len() <= FEW_MAX / 2 {
                    *self = Self::Few(many.iter().copied().collect());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn topics(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_connection_has_each_topic_once_and_no_more_than_it_may() {
        let all = Subscriptions::default();
        assert_eq!(all.subscribe(7, &topics(&["a", "b", "a"]), 3), Ok(topics(&["a", "b"])));
        assert_eq!(all.subscribe(7, &topics(&["b", "c"]), 3), Ok(topics(&["c"])));
        assert_eq!(all.subscribe(7, &topics(&["a", "d"]), 3), Err(TooMany));
        assert!(!all.is_wanted("d"), "nothing of what is refused is done");
        assert_eq!(all.subscribe(7, &topics(&["c"]), 3), Ok(Vec::new()));
        assert!(all.emptied().is_empty());
        all.unsubscribe(7, &topics(&["a", "x"]));
        assert_eq!((all.emptied(), all.figures()), (topics(&["a"]), (2, 2)));
        all.leave(7);
        assert_eq!((all.emptied().len(), all.figures()), (2, (0, 0)));
        assert!(all.state().by_connection.is_empty(), "who has no topics has no entry");
    }

    #[test]
    fn whoever_comes_and_goes_both_sides_agree() {
        let (all, mut rng) = (Subscriptions::default(), fastrand::Rng::with_seed(7));
        let mut model: BTreeMap<String, BTreeSet<Serial>> = BTreeMap::new();
        for _ in 0..5000 {
            let (serial, topic) = (rng.u64(0..60), rng.u8(0..3).to_string());
            match rng.u8(0..8) {
                0 => {
                    all.leave(serial);
                    for of in model.values_mut() {
                        of.remove(&serial);
                    }
                }
                1..3 => {
                    all.unsubscribe(serial, &topics(&[&topic]));
                    model.entry(topic.clone()).or_default().remove(&serial);
                }
                _ => {
                    all.subscribe(serial, &topics(&[&topic]), 9).unwrap();
                    model.entry(topic.clone()).or_default().insert(serial);
                }
            }
            let expected = model.get(&topic).cloned().unwrap_or_default();
            let subscribers = all.of(&topic);
            assert_eq!(subscribers.from(0).collect::<Vec<_>>(), expected.iter().copied().collect::<Vec<_>>());
            assert_eq!(subscribers.from(30).next(), expected.range(30..).next().copied());
            assert_eq!((all.count(&topic), all.is_wanted(&topic)), (expected.len(), !expected.is_empty()));
        }
    }
}
