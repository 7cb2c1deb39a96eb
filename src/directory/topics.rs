//! Topics: which sessions have subscribers of them. Who that is, and how many, is their gateways' business.

use std::sync::Arc;

use imbl::OrdSet;

use super::ids::Epoch;
use super::limits::{OP_TOPICS_MAX, SESSION_TOPICS_MAX, is_name};
use super::outcome::{Event, Invalid, OpRefused};
use super::state::Directory;

/// The pairs of topics and sessions, found from both sides. Those of ended sessions are held until they are reclaimed.
#[derive(Debug, Clone, Default)]
pub(super) struct Topics {
    by_topic: OrdSet<(Arc<str>, Epoch)>,
    by_session: OrdSet<(Epoch, Arc<str>)>,
    /// Topics that a session has, each counted once.
    count: u64,
}

impl Topics {
    pub(super) fn insert(&mut self, topic: &Arc<str>, epoch: Epoch) -> bool {
        let added = self.by_session.insert((epoch, Arc::clone(topic))).is_none();
        if added {
            let is_new = self.sessions(topic).next().is_none();
            self.count += u64::from(is_new);
            self.by_topic.insert((Arc::clone(topic), epoch));
        }
        added
    }

    pub(super) fn remove(&mut self, topic: &Arc<str>, epoch: Epoch) -> bool {
        let removed = self.by_session.remove(&(epoch, Arc::clone(topic))).is_some();
        if removed {
            self.by_topic.remove(&(Arc::clone(topic), epoch));
            let was_last = self.sessions(topic).next().is_none();
            self.count -= u64::from(was_last);
        }
        removed
    }

    /// The sessions of a topic, in order of their epochs.
    pub(super) fn sessions(&self, topic: &Arc<str>) -> impl Iterator<Item = Epoch> {
        self.by_topic.range((Arc::clone(topic), 0)..=(Arc::clone(topic), Epoch::MAX)).map(|(_, epoch)| *epoch)
    }

    /// The topics of a session, in order, from the first one after `after`.
    pub(super) fn of_session(&self, epoch: Epoch, after: Option<&Arc<str>>) -> impl Iterator<Item = &Arc<str>> {
        let from = (epoch, after.cloned().unwrap_or_default());
        self.by_session
            .range(from..)
            .take_while(move |(of, _)| *of == epoch)
            .map(|(_, topic)| topic)
            .skip_while(move |topic| after == Some(topic))
    }

    /// All pairs, ordered by topic and then by session, from this topic on.
    pub(super) fn from(&self, topic: Arc<str>) -> impl Iterator<Item = &(Arc<str>, Epoch)> {
        self.by_topic.range((topic, 0)..)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Arc<str>, Epoch)> {
        self.by_topic.iter()
    }

    /// The last pair in that order.
    pub(super) fn last(&self) -> Option<&(Arc<str>, Epoch)> {
        self.by_topic.get_max()
    }

    /// Pairs.
    pub(super) fn len(&self) -> usize {
        self.by_topic.len()
    }

    /// Topics.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Both sides and the count agree.
    pub(super) fn check(&self) -> Result<(), String> {
        let mirrored =
            self.by_topic.iter().all(|(topic, epoch)| self.by_session.contains(&(*epoch, Arc::clone(topic))));
        let mut topics: Vec<_> = self.by_topic.iter().map(|(topic, _)| topic).collect();
        topics.dedup();
        if topics.len() as u64 != self.count {
            return Err(format!("there are {} topics, and {} are counted", topics.len(), self.count));
        }
        if mirrored && self.by_topic.len() == self.by_session.len() {
            return Ok(());
        }
        Err(format!("topics and sessions differ: {} and {} pairs", self.by_topic.len(), self.by_session.len()))
    }
}

impl Directory {
    /// A session has subscribers of these topics; says of how many it had none before.
    pub(super) fn join(
        &mut self,
        epoch: Epoch,
        gateway: &Arc<str>,
        topics: &[Arc<str>],
        count: &mut u64,
        events: &mut Vec<Event>,
    ) -> Result<u32, OpRefused> {
        check(topics).map_err(OpRefused::Invalid)?;
        if *count + topics.len() as u64 > SESSION_TOPICS_MAX {
            return Err(OpRefused::TopicLimit);
        }
        let mut changed = 0;
        for topic in topics {
            if self.topics.insert(topic, epoch) {
                changed += 1;
                let (topic, gateway) = (Arc::clone(topic), Arc::clone(gateway));
                events.push(Event::TopicJoined { topic, epoch, gateway });
            }
        }
        *count += u64::from(changed);
        Ok(changed)
    }

    /// A session has no subscribers of these topics; says of how many it had some before.
    pub(super) fn leave(
        &mut self,
        epoch: Epoch,
        gateway: &Arc<str>,
        topics: &[Arc<str>],
        count: &mut u64,
        events: &mut Vec<Event>,
    ) -> Result<u32, OpRefused> {
        check(topics).map_err(OpRefused::Invalid)?;
        let mut changed = 0;
        for topic in topics {
            if self.topics.remove(topic, epoch) {
                changed += 1;
                let (topic, gateway) = (Arc::clone(topic), Arc::clone(gateway));
                events.push(Event::TopicLeft { topic, epoch, gateway });
            }
        }
        *count -= u64::from(changed);
        Ok(changed)
    }
}

fn check(topics: &[Arc<str>]) -> Result<(), Invalid> {
    if topics.len() > OP_TOPICS_MAX {
        return Err(Invalid::TooManyTopics);
    }
    if topics.iter().all(|topic| is_name(topic)) { Ok(()) } else { Err(Invalid::Topic) }
}
