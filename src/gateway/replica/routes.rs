//! Which sessions have subscribers of a topic: where a message for it goes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::chance::Hashing;
use crate::directory::Epoch;

/// The readers' side. It may name sessions that have ended.
#[derive(Debug, Default)]
pub(super) struct ByTopic(papaya::HashMap<Arc<str>, Arc<[Epoch]>, Hashing>);

impl ByTopic {
    /// In order of the epochs.
    pub(super) fn sessions(&self, topic: &str) -> Arc<[Epoch]> {
        self.0.pin().get(topic).cloned().unwrap_or_default()
    }

    fn change(&self, topic: &Arc<str>, change: impl FnOnce(&mut Vec<Epoch>)) {
        let topics = self.0.pin();
        let mut epochs = topics.get(topic).map_or_else(Vec::new, |epochs| epochs.to_vec());
        change(&mut epochs);
        if epochs.is_empty() {
            topics.remove(topic);
        } else {
            topics.insert(Arc::clone(topic), epochs.into());
        }
    }
}

/// The writer's side: the same by session, so that what an ended one had can be found.
#[derive(Debug, Default)]
pub(super) struct Routes(HashMap<Epoch, HashSet<Arc<str>, Hashing>, Hashing>);

impl Routes {
    pub(super) fn join(&mut self, by_topic: &ByTopic, topic: &Arc<str>, epoch: Epoch) {
        if self.0.entry(epoch).or_default().insert(Arc::clone(topic)) {
            by_topic.change(topic, |epochs| {
                if let Err(place) = epochs.binary_search(&epoch) {
                    epochs.insert(place, epoch);
                }
            });
        }
    }

    pub(super) fn leave(&mut self, by_topic: &ByTopic, topic: &Arc<str>, epoch: Epoch) {
        if self.0.get_mut(&epoch).is_some_and(|topics| topics.remove(topic)) {
            by_topic.change(topic, |epochs| epochs.retain(|other| *other != epoch));
        }
    }

    /// Frees at most `limit` topics of a session that has ended; whether there are more.
    pub(super) fn reclaim(&mut self, by_topic: &ByTopic, epoch: Epoch, limit: usize) -> bool {
        let Some(topics) = self.0.get(&epoch) else { return false };
        let slice: Vec<_> = topics.iter().take(limit).cloned().collect();
        for topic in &slice {
            self.leave(by_topic, topic, epoch);
        }
        let left = self.0.get(&epoch).is_some_and(|topics| !topics.is_empty());
        if !left {
            self.0.remove(&epoch);
        }
        left
    }
}
