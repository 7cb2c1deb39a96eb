//! Which of the retained changes are about which user: an index, so that neither a history nor the time at which somebody
//! was last seen needs a look at all of them.
//!
//! Every step leads back to the user's step before it, and the user's name leads to the latest. So a change costs one
//! look-up when it comes and one when it is dropped, however many there are.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::directory::Revision;

/// Memory of one change in the index, by estimate: the step, and the user's place in the map.
pub(super) const STEP_BYTES: usize = size_of::<Step>() + size_of::<(Arc<str>, Tail)>() * 3 / 2;

/// Where a change is found. Ordered as the changes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) revision: Revision,
    /// Which of the events of the revision.
    pub(super) event: u32,
    /// Of the end of a session: which of the connections that it closed.
    pub(super) row: Option<u32>,
}

/// A user's last connection was closed: at which revision, and when by the clock of whoever proposed it.
pub(super) type Close = (Revision, u64);

/// The index.
#[derive(Debug, Default)]
pub(super) struct Trail {
    users: HashMap<Arc<str>, Tail>,
    steps: VecDeque<Step>,
    /// Number of the oldest step.
    first: u64,
}

#[derive(Debug)]
struct Tail {
    /// Number of the user's latest step.
    latest: u64,
    closed: Option<Close>,
}

#[derive(Debug)]
struct Step {
    user: Arc<str>,
    /// Number of the user's step before this one; it may be gone.
    before: Option<u64>,
    place: Place,
}

impl Trail {
    /// Notes a change. They come in order, but for the connections that the end of a session closed: these come when they
    /// are listed.
    pub(super) fn add(&mut self, user: &Arc<str>, place: Place, closed: Option<Close>) {
        let number = self.first + self.steps.len() as u64;
        let before = match self.users.get_mut(user) {
            Some(tail) => {
                tail.closed = tail.closed.max(closed);
                Some(std::mem::replace(&mut tail.latest, number))
            }
            None => {
                self.users.insert(Arc::clone(user), Tail { latest: number, closed });
                None
            }
        };
        self.steps.push_back(Step { user: Arc::clone(user), before, place });
    }

    /// Forgets at most `limit` changes up to `floor`, the oldest first, and says whether there may be more.
    pub(super) fn trim(&mut self, floor: Revision, limit: usize) -> bool {
        for _ in 0..limit {
            let Some(step) = self.steps.pop_front_if(|step| step.place.revision <= floor) else { return false };
            if self.users.get(&step.user).is_some_and(|tail| tail.latest == self.first) {
                self.users.remove(&step.user);
            }
            self.first += 1;
        }
        true
    }

    /// The latest close of a user that was noted.
    pub(super) fn closed(&self, user: &str) -> Option<Close> {
        self.users.get(user)?.closed
    }

    /// Where to begin to walk back.
    pub(super) fn latest(&self, user: &str) -> Option<u64> {
        self.users.get(user).map(|tail| tail.latest)
    }

    /// Walks back from a step, at most `limit` of them. The next one, if the walk is not over.
    pub(super) fn walk(&self, from: u64, limit: usize, places: &mut Vec<Place>) -> Option<u64> {
        let mut next = Some(from);
        for _ in 0..limit {
            let step = self.steps.get(usize::try_from(next?.checked_sub(self.first)?).ok()?)?;
            places.push(step.place);
            next = step.before;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(revision: Revision) -> Place {
        Place { revision, event: 0, row: None }
    }

    fn revisions(trail: &Trail, user: &str) -> Vec<Revision> {
        let mut places = Vec::new();
        let mut next = trail.latest(user);
        while let Some(from) = next {
            next = trail.walk(from, 2, &mut places);
        }
        places.iter().map(|place| place.revision).collect()
    }

    #[test]
    fn every_user_has_a_trail_of_what_is_retained() {
        let mut trail = Trail::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for revision in 1..=9 {
            let closed = (revision % 4 == 0).then_some((revision, revision * 10));
            trail.add(if revision % 3 == 0 { &b } else { &a }, place(revision), closed);
        }
        assert_eq!(revisions(&trail, "a"), [8, 7, 5, 4, 2, 1]);
        assert_eq!(revisions(&trail, "b"), [9, 6, 3]);
        assert_eq!((trail.closed("a"), trail.closed("b"), trail.closed("c")), (Some((8, 80)), None, None));
        // What was listed late is older than what came before it.
        trail.add(&b, place(5), Some((5, 50)));
        trail.add(&a, place(6), Some((6, 60)));
        assert_eq!((trail.closed("a"), trail.closed("b")), (Some((8, 80)), Some((5, 50))));

        assert!(trail.trim(6, 3));
        assert_eq!(revisions(&trail, "a"), [6, 8, 7, 5, 4]);
        assert!(!trail.trim(6, 100));
        assert_eq!((revisions(&trail, "a"), revisions(&trail, "b")), (vec![6, 8, 7], vec![5, 9]));
        assert!(!trail.trim(9, 100));
        assert!(trail.users.is_empty() && trail.steps.is_empty());
    }
}
