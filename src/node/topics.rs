//! The topics that most gateways have subscribers of: looked up in a frozen copy, so that nobody waits for it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::replicated::Replicated;
use crate::api::{StateRefused, TopicsAsk};
use crate::directory::{Directory, Topic};
use crate::threads;
use crate::view::At;

/// Lists at once, each with a frozen copy. One is worked on, the rest wait.
const WAITING_MAX: usize = 8;

/// Lists topics, off the path of apply and off the threads that serve others.
#[derive(Debug)]
pub(super) struct Topics {
    pub(super) state: Arc<Replicated>,
    waiting: Semaphore,
    at_work: tokio::sync::Mutex<()>,
}

impl Topics {
    pub(super) fn new(state: Arc<Replicated>) -> Self {
        Self { state, waiting: Semaphore::new(WAITING_MAX), at_work: tokio::sync::Mutex::default() }
    }

    /// The topics that most gateways have subscribers of, as of a moment after the call.
    pub(super) async fn most(&self, ask: TopicsAsk) -> Result<At<Vec<Topic>>, StateRefused> {
        let _one_of_few = self.waiting.try_acquire().map_err(|_| StateRefused::Busy)?;
        let _alone = self.at_work.lock().await;
        let frozen = self.state.frozen();
        // The copy is dropped there, too, which takes milliseconds.
        let listed = threads::apart(move || most(&frozen, &ask)).await;
        listed.map_err(|error| StateRefused::Unavailable(format!("the topics could not be listed: {error}")))
    }
}

/// Most gateways first, then by name, and then those that are wanted besides. Beside the copy it holds as many topics as are wanted.
fn most(frozen: &Directory, ask: &TopicsAsk) -> At<Vec<Topic>> {
    let mut most = BinaryHeap::with_capacity(ask.limit + 1);
    for Topic { topic, sessions } in frozen.topics(&ask.prefix) {
        // The least of them is on top: the fewest, and of these the last by name.
        most.push((Reverse(sessions.len()), topic, sessions));
        if most.len() > ask.limit {
            most.pop();
        }
    }
    let sorted = most.into_sorted_vec().into_iter();
    let mut value: Vec<Topic> = sorted.map(|(_, topic, sessions)| Topic { topic, sessions }).collect();
    let listed: HashSet<Arc<str>> = value.iter().map(|topic| Arc::clone(&topic.topic)).collect();
    for topic in ask.also.iter().filter(|topic| !listed.contains(*topic)) {
        let sessions = frozen.sessions_of(topic);
        if !sessions.is_empty() {
            value.push(Topic { topic: Arc::clone(topic), sessions });
        }
    }
    At { value, revision: frozen.revision() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{Batch, Command, Entry, GatewayAddresses, Op, OpenSession};

    fn apply(directory: &mut Directory, command: Command) {
        directory.apply(directory.revision() + 1, &Entry { at_ms: 0, commands: vec![command] });
    }

    #[test]
    fn most_come_first_and_ties_go_by_name() {
        let mut directory = Directory::new();
        for (gateway, topics) in [("a", vec!["x", "room:2", "room:1"]), ("b", vec!["room:2", "room:3"])] {
            let open = OpenSession {
                gateway: gateway.into(),
                nonce: "n".into(),
                attempt: 1,
                lease_ms: 3000,
                addresses: GatewayAddresses::default(),
            };
            apply(&mut directory, Command::OpenSession(open));
            let epoch = directory.revision();
            let ops = vec![Op::Join { topics: topics.into_iter().map(Arc::from).collect() }];
            apply(&mut directory, Command::Batch(Batch { epoch, seq: None, ops }));
        }
        let names = |prefix: &str, limit| {
            let At { value, revision } = most(
                &directory,
                &TopicsAsk { prefix: prefix.to_owned(), limit, also: vec!["x".into(), "none".into()] },
            );
            assert_eq!(revision, 4);
            value.into_iter().map(|topic| (topic.topic.to_string(), topic.sessions.len())).collect::<Vec<_>>()
        };
        let named = |expected: &[(&str, usize)]| {
            expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<Vec<_>>()
        };
        assert_eq!(names("", 9), named(&[("room:2", 2), ("room:1", 1), ("room:3", 1), ("x", 1)]));
        assert_eq!(names("room", 2), named(&[("room:2", 2), ("room:1", 1), ("x", 1)]));
        assert_eq!(names("y", 2), named(&[("x", 1)]));
    }
}
