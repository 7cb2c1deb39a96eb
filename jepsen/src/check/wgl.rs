//! Linearizability of registrations and lookups, by search: is there an order of all operations on a user, each somewhere
//! between its two events, in which every answer is right?
//!
//! It looks at no revision. The search goes along the history and keeps every *configuration* that explains what was answered so far: a
//! state, and which of the operations that are under way have already taken effect in it (Wing and Gong, Lowe). Three things keep these few: a
//! pending operation that only observes, and whose answer fits, takes effect at once; one without an answer takes effect only
//! where that changes something; and of two configurations with the same state the one that has used fewer of those stands for both.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use super::user::{State, Step, User, users};
use crate::history::History;
use crate::verdict::{Anomaly, Checked, Verdict};

/// Most configurations that are looked at for one user; beyond that nothing is said about it.
const CONFIGURATIONS_MAX: usize = 2_000_000;

/// Most operations under way at once, those without an answer included. Bits of a mask.
const PENDING_MAX: usize = 128;

/// Checks each user of the history.
pub fn check(history: &History) -> Checked {
    let users = users(history);
    let (mut anomalies, mut undecided, mut operations, mut looked_at) = (Vec::new(), Vec::new(), 0, 0);
    for (name, user) in &users {
        operations += user.steps.len();
        match search(user) {
            Found::Order { configurations } => looked_at += configurations,
            Found::TooMuch => undecided.push(name.clone()),
            Found::NoOrder { step, states } => anomalies.push(tell(name, &step, &states)),
        }
    }
    let summary = format!(
        "{operations} operations on {} users were ordered; {} have no order, {} were not decided.",
        users.len(),
        anomalies.len(),
        undecided.len()
    );
    let mut checked = Checked::new("linearizable", &["I1"], summary, anomalies)
        .figure("operations", operations)
        .figure("configurations", looked_at)
        .figure("undecided", undecided.len());
    if !undecided.is_empty() {
        checked.verdict = checked.verdict.max(Verdict::Unknown);
    }
    checked
}

fn tell(user: &str, step: &Step, states: &[State]) -> Anomaly {
    let mut what = format!("{user}: no order of the operations explains {:?}; before it there could be", step.what);
    for state in states.iter().take(4) {
        let live: Vec<String> = state.live.iter().map(ToString::to_string).collect();
        let _ = write!(what, " [{}]", live.join(" "));
    }
    let events = [Some(step.began), step.ended];
    Anomaly { name: "not linearizable".to_owned(), what, events: events.into_iter().flatten().collect() }
}

/// What became of a search.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// There is an order.
    Order { configurations: usize },
    /// There is none: at this step no state was left, of these.
    NoOrder { step: Box<Step>, states: Vec<State> },
    /// It takes too long to say.
    TooMuch,
}

type Mask = u128;

/// What is under way.
struct Pending<'a> {
    slots: [Option<&'a Step>; PENDING_MAX],
    /// Those without an answer.
    unknown: Mask,
}

impl<'a> Pending<'a> {
    /// Takes a free place; `None` if there is none.
    fn add(&mut self, step: &'a Step) -> Option<()> {
        let free = self.slots.iter().position(Option::is_none)?;
        self.slots[free] = Some(step);
        if step.ended.is_none() {
            self.unknown |= 1 << free;
        }
        Some(())
    }

    fn slot_of(&self, step: &Step) -> usize {
        let same = |slot: &Option<&Step>| slot.is_some_and(|there| std::ptr::eq(there, step));
        self.slots.iter().position(same).expect("what returns was under way")
    }

    /// Lets everything take effect at once that is right here and never changes anything. What merely changes nothing *here* has to
    /// wait: it may have been meant for later.
    fn absorb(&self, state: &State, mut done: Mask) -> Mask {
        for (slot, step) in self.open(done) {
            if step.what.observes() && state.after(&step.what).is_some() {
                done |= 1 << slot;
            }
        }
        done
    }

    fn open(&self, done: Mask) -> impl Iterator<Item = (usize, &'a Step)> {
        let all = self.slots.iter().enumerate().filter_map(|(slot, step)| Some((slot, (*step)?)));
        all.filter(move |(slot, _)| done & (1 << slot) == 0)
    }
}

/// Searches for an order of what was done to one user.
pub(super) fn search(user: &User) -> Found {
    // Where a step begins at the event with which another ends, either may have been first.
    let mut events: Vec<(usize, bool, &Step)> = Vec::new();
    for step in &user.steps {
        events.push((step.began, false, step));
        events.extend(step.ended.map(|ended| (ended, true, step)));
    }
    events.sort_by_key(|(at, ends, _)| (*at, *ends));
    let mut pending = Pending { slots: [None; PENDING_MAX], unknown: 0 };
    let mut configurations = vec![(State::default(), 0)];
    let mut looked_at = 0;
    for (_, ends, step) in events {
        if !ends {
            if pending.add(step).is_none() {
                return Found::TooMuch;
            }
            continue;
        }
        let slot = pending.slot_of(step);
        let next = match extend(&pending, &configurations, slot, &mut looked_at) {
            Some(next) => next,
            None => return Found::TooMuch,
        };
        if next.is_empty() {
            let states = configurations.into_iter().map(|(state, _)| state).collect();
            return Found::NoOrder { step: Box::new(step.clone()), states };
        }
        pending.slots[slot] = None;
        configurations = fewest(next, pending.unknown);
    }
    Found::Order { configurations: looked_at }
}

/// Every configuration in which the operation in `slot` has taken effect; `None` if there are too many.
fn extend(
    pending: &Pending<'_>,
    from: &[(State, Mask)],
    slot: usize,
    looked_at: &mut usize,
) -> Option<Vec<(State, Mask)>> {
    let bit: Mask = 1 << slot;
    let mut seen: HashSet<(State, Mask)> = HashSet::new();
    let mut stack = from.to_vec();
    let mut reached = Vec::new();
    while let Some((state, done)) = stack.pop() {
        let done = pending.absorb(&state, done);
        if !seen.insert((state.clone(), done)) {
            continue;
        }
        *looked_at += 1;
        if *looked_at > CONFIGURATIONS_MAX {
            return None;
        }
        if done & bit != 0 {
            reached.push((state, done & !bit));
            continue;
        }
        for (other, step) in pending.open(done) {
            let Some(next) = state.after(&step.what) else { continue };
            if step.ended.is_some() || next != state {
                stack.push((next, done | (1 << other)));
            }
        }
    }
    Some(reached)
}

/// Of those with the same state, and the same known operations that took effect, the ones that used fewest unknown ones.
fn fewest(configurations: Vec<(State, Mask)>, unknown: Mask) -> Vec<(State, Mask)> {
    let mut kept: BTreeMap<(State, Mask), Vec<Mask>> = BTreeMap::new();
    for (state, done) in configurations {
        let used = done & unknown;
        let masks = kept.entry((state, done & !unknown)).or_default();
        if masks.iter().all(|other| other & !used != 0) {
            masks.retain(|other| used & !other != 0);
            masks.push(used);
        }
    }
    let each = kept
        .into_iter()
        .flat_map(|((state, done), masks)| masks.into_iter().map(move |used| (state.clone(), done | used)));
    each.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::made_up::Story;

    fn register(story: &mut Story, id: &str, granted: u64) {
        story.ok(
            "register",
            "alice",
            json!({ "connection": id, "policy": "multi", "max": 3 }),
            json!({ "granted": granted, "superseded": [], "revision": granted }),
        );
    }

    fn lookup(story: &mut Story, shown: &[(&str, u64)], revision: u64) {
        story.ok("lookup", "alice", json!(null), json!({ "connections": shown, "revision": revision }));
    }

    fn refused(story: &Story) -> bool {
        check(&story.history()).verdict == Verdict::Invalid
    }

    #[test]
    fn a_stale_read_and_a_lost_registration_have_no_order() {
        let mut story = Story::default();
        register(&mut story, "c-5-1", 11);
        lookup(&mut story, &[("c-5-1", 11)], 11);
        assert!(!refused(&story));
        lookup(&mut story, &[], 12);
        assert!(!refused(&story), "its session may be over");
        story.lives();
        assert!(refused(&story), "it is gone without a reason");
    }

    #[test]
    fn what_nobody_registered_has_no_order() {
        let mut story = Story::default();
        lookup(&mut story, &[("c-5-1", 11)], 11);
        register(&mut story, "c-5-1", 11);
        assert!(refused(&story));
    }

    #[test]
    fn what_has_no_answer_may_have_happened_once_at_any_later_time() {
        let mut story = Story::default();
        register(&mut story, "c-5-1", 11);
        let lost = story.begin("unregister", "alice", json!({ "connection": "c-5-1", "policy": "multi" }));
        story.end(lost, crate::history::Kind::Info, json!(null), Some("no answer"));
        lookup(&mut story, &[("c-5-1", 11)], 11);
        lookup(&mut story, &[], 12);
        assert!(!refused(&story));
        lookup(&mut story, &[("c-5-1", 11)], 13);
        assert!(refused(&story), "it does not come back");
        let mut early = Story::default();
        register(&mut early, "c-5-1", 11);
        lookup(&mut early, &[], 12);
        let lost = early.begin("unregister", "alice", json!({ "connection": "c-5-1", "policy": "multi" }));
        early.end(lost, crate::history::Kind::Info, json!(null), Some("no answer"));
        early.lives();
        assert!(refused(&early), "it did not happen before it began");
    }

    #[test]
    fn the_end_of_a_session_takes_its_connections_at_once_and_for_ever() {
        let mut story = Story::default();
        story.ok("open", "own-1", json!({ "nonce": "n" }), json!({ "epoch": 5 }));
        register(&mut story, "c-5-1", 11);
        register(&mut story, "c-5-2", 12);
        lookup(&mut story, &[("c-5-1", 11), ("c-5-2", 12)], 13);
        story.ok("end", "s-5", json!(null), json!(null));
        lookup(&mut story, &[], 14);
        assert!(!refused(&story));
        register(&mut story, "c-5-3", 15);
        assert!(refused(&story), "an old epoch does not write");
        let mut half = Story::default();
        register(&mut half, "c-5-1", 11);
        register(&mut half, "c-5-2", 12);
        lookup(&mut half, &[("c-5-2", 12)], 13);
        assert!(refused(&half), "nobody sees half of an end");
    }

    #[test]
    fn what_takes_too_long_is_not_decided() {
        let mut story = Story::default();
        for serial in 0..200 {
            let asked = json!({ "connection": format!("c-5-{serial}"), "policy": "multi", "max": 3 });
            let lost = story.begin("register", "alice", asked);
            story.end(lost, crate::history::Kind::Info, json!(null), Some("no answer"));
        }
        lookup(&mut story, &[], 9);
        assert_eq!(check(&story.history()).verdict, Verdict::Unknown);
    }

    #[test]
    fn a_limit_is_exact() {
        let asked = |id: &str| json!({ "connection": id, "policy": "multi", "max": 2 });
        let mut story = Story::default();
        story.ok("register", "alice", asked("c-5-1"), json!({ "granted": 11, "superseded": [], "revision": 11 }));
        story.ok("register", "alice", asked("c-5-2"), json!({ "granted": 12, "superseded": [], "revision": 12 }));
        story.ok("register", "alice", asked("c-5-3"), json!({ "limit": true, "revision": 13 }));
        assert!(!refused(&story));
        story.ok("register", "alice", asked("c-5-4"), json!({ "granted": 14, "superseded": [], "revision": 14 }));
        assert!(refused(&story));
    }
}
