//! Topics: which sessions have subscribers of them. Who that is, and how many, is their gateways' business.

use std::sync::Arc;

use imbl::OrdSet;

use super::batch::Work;
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
    /// The session of a batch has subscribers of these topics; says of how many it had none before.
    pub(super) fn join(&mut self, work: &mut Work<'_>, topics: &[Arc<str>]) -> Result<u32, OpRefused> {
        check(topics).map_err(OpRefused::Invalid)?;
        if work.topics + topics.len() as u64 > SESSION_TOPICS_MAX {
            return Err(OpRefused::TopicLimit);
        }
        let epoch = work.epoch;
        let joined = topics.iter().filter(|topic| self.topics.insert(topic, epoch));
        let changed = work.tell_topics(joined, |topic, epoch, gateway| Event::TopicJoined { topic, epoch, gateway });
        work.topics += u64::from(changed);
        Ok(changed)
    }

    /// It has no subscribers of these topics; says of how many it had some before.
    pub(super) fn leave(&mut self, work: &mut Work<'_>, topics: &[Arc<str>]) -> Result<u32, OpRefused> {
        check(topics).map_err(OpRefused::Invalid)?;
        let epoch = work.epoch;
        let left = topics.iter().filter(|topic| self.topics.remove(topic, epoch));
        let changed = work.tell_topics(left, |topic, epoch, gateway| Event::TopicLeft { topic, epoch, gateway });
        work.topics -= u64::from(changed);
        Ok(changed)
    }
}

impl Work<'_> {
    /// Tells of topics that changed, and says how many there were.
    fn tell_topics<'a>(
        &mut self,
        changed: impl Iterator<Item = &'a Arc<str>>,
        event: fn(Arc<str>, Epoch, Arc<str>) -> Event,
    ) -> u32 {
        let mut count = 0;
        for topic in changed {
            count += 1;
            self.events.push(event(Arc::clone(topic), self.epoch, Arc::clone(&self.gateway)));
        }
        count
    }
}

fn check(topics: &[Arc<str>]) -> Result<(), Invalid> {
    if topics.len() > OP_TOPICS_MAX {
        return Err(Invalid::TooManyTopics);
    }
    if topics.iter().all(|topic| is_name(topic)) { Ok(()) } else { Err(Invalid::Topic) }
}
