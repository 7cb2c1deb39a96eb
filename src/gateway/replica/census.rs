//! How many users have a live connection, kept so that the end of a session costs nothing per connection.

use std::collections::HashMap;

use crate::directory::Epoch;

/// Counts users by the set of live sessions that hold their connections. There are few such sets: one per session, and
/// one per pair or triple that some user's devices happen to share.
#[derive(Debug, Default)]
pub(super) struct Census {
    by_sessions: HashMap<Box<[Epoch]>, u64>,
    users: u64,
}

impl Census {
    /// Users with at least one live connection.
    pub(super) fn users(&self) -> u64 {
        self.users
    }

    /// A user's connections were in the sessions `before` and now are in those of `after`; both sorted, each once.
    pub(super) fn moved(&mut self, before: &[Epoch], after: &[Epoch]) {
        if before == after {
            return;
        }
        if !before.is_empty() {
            let left = self.by_sessions.get_mut(before).map(|count| {
                *count -= 1;
                *count
            });
            if left == Some(0) {
                self.by_sessions.remove(before);
            }
            self.users -= 1;
        }
        if !after.is_empty() {
            self.add(after.into(), 1);
            self.users += 1;
        }
    }

    /// A session and every connection of it are gone.
    pub(super) fn ended(&mut self, epoch: Epoch) {
        let touched: Vec<_> = self.by_sessions.extract_if(|sessions, _| sessions.contains(&epoch)).collect();
        for (sessions, users) in touched {
            let rest: Box<[Epoch]> = sessions.iter().copied().filter(|held| *held != epoch).collect();
            if rest.is_empty() {
                self.users -= users;
            } else {
                self.add(rest, users);
            }
        }
    }

    fn add(&mut self, sessions: Box<[Epoch]>, users: u64) {
        *self.by_sessions.entry(sessions).or_default() += users;
    }
}
