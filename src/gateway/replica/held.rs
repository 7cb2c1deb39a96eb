//! Who is held by a replica that does not hold everybody, and who of them was asked for last.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use papaya::HashMap;

use crate::chance::Hashing;
use crate::directory::Revision;

/// Changes that are remembered, so that an answer can be taken over that is older than what is shown: a second of the
/// busiest cluster, in 2 MB.
const CHANGES_MAX: usize = 65_536;

/// The readers' side: who is held. Readers note every use.
#[derive(Debug, Default)]
pub(super) struct Held {
    used: HashMap<Arc<str>, AtomicU64, Hashing>,
    uses: AtomicU64,
}

impl Held {
    /// Whether a user is held; that is a use.
    pub(super) fn uses(&self, user: &str) -> bool {
        match self.used.pin().get(user) {
            Some(used) => {
                used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
                true
            }
            None => false,
        }
    }

    /// Whether a user is held; that is no use.
    pub(super) fn contains(&self, user: &str) -> bool {
        self.used.pin().contains_key(user)
    }

    pub(super) fn len(&self) -> usize {
        self.used.len()
    }
}

/// The writer's side: who goes next.
#[derive(Debug)]
pub(super) struct Ages {
    users_max: usize,
    /// When each user was last used, as far as that was looked at: the first one was not used since, or is moved back.
    order: BTreeSet<(u64, Arc<str>)>,
}

impl Ages {
    pub(super) fn new(users_max: usize) -> Self {
        Self { users_max, order: BTreeSet::new() }
    }

    /// One more user is held. Those who have to go are those who were not asked for the longest.
    pub(super) fn add(&mut self, held: &Held, user: &Arc<str>) -> Vec<Arc<str>> {
        let used = held.uses.fetch_add(1, Ordering::Relaxed);
        held.used.pin().insert(Arc::clone(user), AtomicU64::new(used));
        self.order.insert((used, Arc::clone(user)));
        let mut gone = Vec::new();
        while self.order.len() > self.users_max {
            let Some((seen, user)) = self.order.pop_first() else { break };
            let used = held.used.pin().get(&user).map_or(seen, |used| used.load(Ordering::Relaxed));
            if used > seen {
                self.order.insert((used, user));
            } else {
                held.used.pin().remove(&user);
                gone.push(user);
            }
        }
        gone
    }
}

/// Whom the latest changes were about. An answer that was read before them is of no use for these users.
#[derive(Debug, Default)]
pub(super) struct Recent {
    changes: VecDeque<(Revision, Arc<str>)>,
    /// All changes after this revision are here.
    floor: Revision,
}

impl Recent {
    /// What comes next comes after this revision.
    pub(super) fn begin(&mut self, revision: Revision) {
        self.changes.clear();
        self.floor = revision;
    }

    pub(super) fn note(&mut self, revision: Revision, user: &Arc<str>) {
        if self.changes.len() == CHANGES_MAX
            && let Some((dropped, _)) = self.changes.pop_front()
        {
            self.floor = dropped;
        }
        self.changes.push_back((revision, Arc::clone(user)));
    }

    /// The users whom changes after `revision` were about; `None`: not all of these changes are here any more.
    pub(super) fn changed_after(&self, revision: Revision) -> Option<HashSet<&str>> {
        let after = self.changes.partition_point(|(at, _)| *at <= revision);
        (revision >= self.floor).then(|| self.changes.range(after..).map(|(_, user)| &**user).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_asked_for_the_longest_goes() {
        let (held, mut ages) = (Held::default(), Ages::new(3));
        let mut add =
            |user: &str| ages.add(&held, &user.into()).iter().map(|gone| gone.to_string()).collect::<String>();
        assert_eq!([add("a"), add("b"), add("c")].concat(), "");
        assert!(held.uses("b") && held.uses("a") && held.uses("c") && held.uses("a") && !held.uses("d"));
        assert_eq!(add("d"), "b");
        assert!(held.contains("c"), "a look of the writer's is no use");
        assert_eq!(add("e"), "c");
        assert!(held.uses("d"));
        assert_eq!(add("f"), "a");
        assert_eq!(add("g"), "e");
        assert_eq!(held.len(), 3);
    }

    #[test]
    fn what_changed_lately_is_known_as_far_back_as_it_is_remembered() {
        let mut recent = Recent::default();
        recent.begin(10);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        recent.note(12, &a);
        recent.note(15, &b);
        assert_eq!(recent.changed_after(15), Some(HashSet::new()));
        assert_eq!(recent.changed_after(12), Some(HashSet::from(["b"])));
        assert_eq!(recent.changed_after(10), Some(HashSet::from(["a", "b"])));
        assert_eq!(recent.changed_after(9), None);
        for revision in 20..20 + CHANGES_MAX as u64 {
            recent.note(revision, &a);
        }
        assert_eq!(recent.changed_after(15), Some(HashSet::from(["a"])));
        assert_eq!(recent.changed_after(14), None);
    }
}
