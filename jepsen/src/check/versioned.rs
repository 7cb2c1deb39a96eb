//! Linearizability of registrations and lookups, by their revisions: every answer names the state that it was given at, so the order of
//! operations is known and only has to be compared with the clock and with what was shown.
//!
//! It shares nothing with the search in `wgl` but the reading of the history, takes time in proportion to the number of operations, and
//! names what is wrong. Where something without an answer may be the reason for what is seen, it accepts that.

use std::collections::{BTreeMap, BTreeSet};

use switchboard::directory::ConnectionId;

use super::user::{Registered, Step, User, What, users};
use crate::history::History;
use crate::verdict::{Anomaly, Checked};

/// Checks each user of the history.
pub fn check(history: &History) -> Checked {
    let users = users(history);
    let (mut anomalies, mut operations, mut equal) = (Vec::new(), 0, 0);
    for (name, user) in &users {
        operations += user.steps.len();
        equal += equal_grants(user);
        anomalies.extend(anomalies_of(name, user));
    }
    let summary = format!(
        "{operations} operations on {} users were compared with their revisions; {} contradict them.",
        users.len(),
        anomalies.len()
    );
    Checked::new("revisions", &["I1", "I2"], summary, anomalies)
        .figure("operations", operations)
        .figure("equal_grants", equal)
}

/// Connections of an exclusive user that were granted at the revision of another one: by one log entry, which `granted` does not order.
fn equal_grants(user: &User) -> usize {
    let grants = user.steps.iter().filter_map(|step| match step.what {
        What::Register { exclusive: true, answer: Some(Registered::Granted { granted, .. }), .. } => Some(granted),
        _ => None,
    });
    let (grants, mut different) = (grants.collect::<Vec<_>>(), BTreeSet::new());
    grants.into_iter().filter(|granted| !different.insert(*granted)).count()
}

/// What is wrong with what was shown of one user.
pub(super) fn anomalies_of(name: &str, user: &User) -> Vec<Anomaly> {
    let mut judge = Judge { name, lives: lives(user), anomalies: Vec::new() };
    judge.order(&user.steps);
    let mut answers = BTreeMap::new();
    for step in &user.steps {
        match &step.what {
            What::Lookup { shown } => judge.lookup(step, shown, user, &mut answers),
            What::Register { answer: Some(Registered::Limit), max, .. } => judge.limit(step, *max),
            What::Register { id, answer: Some(Registered::Granted { superseded, .. }), exclusive, max } => {
                judge.superseded(step, (*id, *exclusive), superseded, user);
                judge.room(step, if *exclusive { usize::MAX } else { *max });
            }
            What::Unregister { id, exclusive: false, existed: Some(existed) } => judge.unregister(step, *id, *existed),
            _ => {}
        }
    }
    judge.comings_back(&answers);
    judge.anomalies
}

/// What is known of one connection.
#[derive(Debug, Default)]
struct Life {
    /// Its registration began here.
    began: usize,
    /// Revision of its grant, from the answer or from whoever saw it.
    granted: Option<u64>,
    /// Whether the registration was answered.
    acknowledged: bool,
    /// First revision at which it certainly was gone.
    gone: Option<u64>,
    /// It certainly was gone after this event.
    over: Option<usize>,
    /// Where something began that may have removed it, at a revision that nobody knows.
    suspects: Vec<usize>,
}

impl Life {
    fn is_gone_at(&mut self, revision: u64) {
        self.gone = Some(self.gone.map_or(revision, |gone| gone.min(revision)));
    }

    /// Whether it certainly was there, in an answer of this revision that was complete before event `at`.
    fn is_there(&self, revision: u64, at: usize) -> bool {
        let granted = self.acknowledged && self.granted.is_some_and(|granted| granted <= revision);
        let removed = self.gone.is_some_and(|gone| gone <= revision) || self.suspects.iter().any(|began| *began < at);
        granted && !removed
    }

    /// Whether it may have been there.
    fn may_be_there(&self, revision: u64, at: usize) -> bool {
        self.began < at
            && self.granted.is_none_or(|granted| granted <= revision)
            && self.gone.is_none_or(|gone| gone >= revision)
    }
}

fn lives(user: &User) -> BTreeMap<ConnectionId, Life> {
    let mut lives: BTreeMap<ConnectionId, Life> = BTreeMap::new();
    for step in &user.steps {
        if let What::Register { id, answer, .. } = &step.what
            && *answer != Some(Registered::Limit)
        {
            let life = lives.entry(*id).or_default();
            life.began = step.began;
            if let Some(Registered::Granted { granted, .. }) = answer {
                (life.granted, life.acknowledged) = (Some(*granted), true);
            }
        }
    }
    for step in &user.steps {
        if let What::Lookup { shown } = &step.what {
            for (id, granted) in shown {
                if let Some(life) = lives.get_mut(id).filter(|life| life.granted.is_none()) {
                    life.granted = Some(*granted);
                }
            }
        }
    }
    for step in &user.steps {
        remove(&mut lives, step);
    }
    lives
}

/// Notes whom a step removes, or may remove.
fn remove(lives: &mut BTreeMap<ConnectionId, Life>, step: &Step) {
    match &step.what {
        What::Unregister { id, existed, .. } => {
            let Some(life) = lives.get_mut(id) else { return };
            match (existed, step.revision) {
                (Some(true), Some(revision)) => life.is_gone_at(revision),
                (Some(_), _) => {}
                (None, _) => life.suspects.push(step.began),
            }
        }
        What::Register { id, exclusive: true, answer, .. } if *answer != Some(Registered::Limit) => {
            let granted = lives.get(id).and_then(|life| life.granted);
            let superseded = match answer {
                Some(Registered::Granted { superseded, .. }) => superseded.as_slice(),
                _ => &[],
            };
            for (other, life) in lives.iter_mut().filter(|(other, _)| *other != id) {
                match (granted, life.granted) {
                    (Some(newer), Some(older)) if older < newer => life.is_gone_at(newer),
                    (Some(newer), Some(_)) if superseded.contains(other) => life.is_gone_at(newer),
                    (Some(newer), Some(older)) if newer < older => {}
                    _ => life.suspects.push(step.began),
                }
            }
        }
        What::End { epoch } => {
            for (_, life) in lives.iter_mut().filter(|(id, _)| id.epoch == *epoch) {
                life.suspects.push(step.began);
                life.over = step.ended;
            }
        }
        _ => {}
    }
}

struct Judge<'a> {
    name: &'a str,
    lives: BTreeMap<ConnectionId, Life>,
    anomalies: Vec<Anomaly>,
}

impl Judge<'_> {
    fn tell(&mut self, name: &str, step: &Step, what: &str) {
        let events = [Some(step.began), step.ended].into_iter().flatten().collect();
        let revision = step.revision.unwrap_or_default();
        let what = format!("{}, revision {revision}: {what}", self.name);
        self.anomalies.push(Anomaly { name: name.to_owned(), what, events });
    }

    /// What begins after something else was answered is answered at a revision that is no lower, a change at a higher one.
    fn order(&mut self, steps: &[Step]) {
        let mut events: Vec<(usize, bool, &Step)> = Vec::new();
        for step in steps.iter().filter(|step| step.revision.is_some()) {
            events.push((step.began, false, step));
            events.extend(step.ended.map(|ended| (ended, true, step)));
        }
        events.sort_by_key(|(at, ends, _)| (*at, *ends));
        let mut highest = 0;
        for (_, ends, step) in events {
            let revision = step.revision.unwrap_or_default();
            let reads = matches!(step.what, What::Lookup { .. });
            if ends {
                highest = highest.max(revision);
            } else if revision < highest {
                let what = format!("it began after an answer of revision {highest}");
                self.tell(if reads { "stale read" } else { "revision going back" }, step, &what);
            } else if revision == highest && !reads {
                self.tell("revision going back", step, "it changed a state that had been answered before it began");
            }
        }
    }

    fn lookup(
        &mut self,
        step: &Step,
        shown: &[(ConnectionId, u64)],
        user: &User,
        answers: &mut BTreeMap<u64, BTreeSet<ConnectionId>>,
    ) {
        let (Some(revision), Some(ended)) = (step.revision, step.ended) else { return };
        let ids: BTreeSet<ConnectionId> = shown.iter().map(|(id, _)| *id).collect();
        let exclusive = |step: &&Step| matches!(step.what, What::Register { exclusive: true, .. });
        if ids.len() > 1 && user.steps.iter().any(|step| exclusive(&step)) {
            self.tell("two owners", step, &format!("{} connections of an exclusive user", ids.len()));
        }
        if ids.len() < shown.len() {
            self.tell("shown twice", step, "a connection is shown more than once");
        }
        for (id, granted) in shown {
            self.shown(step, (*id, *granted), (revision, ended), user);
        }
        let lost = |(id, life): (&ConnectionId, &Life)| {
            (!ids.contains(id) && life.is_there(revision, ended)).then_some((*id, life.granted))
        };
        let lost: Vec<_> = self.lives.iter().filter_map(lost).collect();
        for (id, granted) in lost {
            let what = format!("{id}, granted at {}, is not shown", granted.unwrap_or_default());
            self.tell("lost registration", step, &what);
        }
        if answers.get(&revision).is_some_and(|other| *other != ids) {
            self.tell("two answers", step, "another lookup showed something else at the same revision");
        }
        answers.insert(revision, ids);
    }

    fn shown(&mut self, step: &Step, (id, granted): (ConnectionId, u64), (revision, ended): (u64, usize), user: &User) {
        let Some(life) = self.lives.get(&id).filter(|life| life.began < ended) else {
            let name = if user.refused.contains(&id) { "refused registration" } else { "read from the future" };
            return self.tell(name, step, &format!("{id} is shown, which nobody had registered"));
        };
        let (known, gone, over) = (life.granted, life.gone, life.over);
        if granted > revision {
            self.tell("read from the future", step, &format!("{id} is shown as granted at {granted}"));
        }
        if known.is_some_and(|known| known != granted) {
            let what = format!("{id} is shown as granted at {granted}, and was at {}", known.unwrap_or_default());
            self.tell("grant changed", step, &what);
        }
        if gone.is_some_and(|gone| gone <= revision) {
            let what = format!("{id} is shown, which was gone at {}", gone.unwrap_or_default());
            self.tell("stale read", step, &what);
        }
        if over.is_some_and(|over| over < step.began) {
            self.tell("stale read", step, &format!("{id} is shown, whose session was known to be over"));
        }
    }

    fn limit(&mut self, step: &Step, max: usize) {
        let (Some(revision), Some(ended)) = (step.revision, step.ended) else { return };
        let most = self.lives.values().filter(|life| life.may_be_there(revision, ended)).count();
        if most < max {
            let what = format!("refused although there were {most} connections at most, and {max} are allowed");
            self.tell("refused without reason", step, &what);
        }
    }

    fn room(&mut self, step: &Step, max: usize) {
        let (Some(revision), Some(ended)) = (step.revision, step.ended) else { return };
        // Those that come or go with the same entry may have done so before it or after it.
        let stays =
            |life: &&Life| life.granted.is_some_and(|granted| granted < revision) && life.is_there(revision, ended);
        let least = self.lives.values().filter(stays).count();
        if least >= max {
            self.tell("beyond the limit", step, &format!("granted beside {least}, and {max} are allowed"));
        }
    }

    /// A newcomer takes the place of those that were there right before it, and of nobody else.
    fn superseded(
        &mut self,
        step: &Step,
        (id, exclusive): (ConnectionId, bool),
        superseded: &[ConnectionId],
        user: &User,
    ) {
        let (Some(revision), Some(ended)) = (step.revision, step.ended) else { return };
        for other in superseded {
            let may = exclusive && self.lives.get(other).is_some_and(|life| life.may_be_there(revision, ended));
            if !may {
                self.tell("superseded in vain", step, &format!("{id} took the place of {other}, which was not there"));
            }
        }
        // Another operation of the same log entry may have taken the place in between.
        let alone = exclusive
            && user
                .steps
                .iter()
                .filter(|step| step.revision == Some(revision))
                .all(|other| other == step || matches!(other.what, What::Lookup { .. }));
        let before = revision.saturating_sub(1);
        let there = self.lives.iter().filter(|(other, life)| **other != id && life.is_there(before, ended));
        let missed = there.map(|(other, _)| *other).find(|other| alone && !superseded.contains(other));
        if let Some(other) = missed {
            self.tell("lost registration", step, &format!("{id} did not find {other}, whose place it takes"));
        }
    }

    fn unregister(&mut self, step: &Step, id: ConnectionId, existed: bool) {
        let (Some(revision), Some(ended)) = (step.revision, step.ended) else { return };
        let (is, may_be) = match self.lives.get(&id) {
            // What is removed here is gone at this revision, and was there right before. What the same log entry grants may have
            // come after this.
            Some(life) => {
                let before = life.granted.is_some_and(|granted| granted < revision);
                (before && life.is_there(revision, ended), life.may_be_there(revision, ended))
            }
            None => (false, false),
        };
        if !existed && is {
            self.tell("lost registration", step, &format!("{id} was not there any more"));
        } else if existed && !may_be {
            self.tell("came back", step, &format!("{id} was there, which had gone or never come"));
        }
    }

    /// What was shown, then not, and then shown again.
    fn comings_back(&mut self, answers: &BTreeMap<u64, BTreeSet<ConnectionId>>) {
        let mut last: BTreeMap<ConnectionId, u64> = BTreeMap::new();
        let mut missing: BTreeMap<ConnectionId, u64> = BTreeMap::new();
        for (revision, ids) in answers {
            for (id, seen) in &last {
                if !ids.contains(id) {
                    missing.entry(*id).or_insert(*seen);
                }
            }
            for id in ids {
                if missing.remove(id).is_some() {
                    let what = format!("{}, revision {revision}: {id} is shown again after it was gone", self.name);
                    self.anomalies.push(Anomaly { name: "came back".to_owned(), what, events: Vec::new() });
                }
                last.insert(*id, *revision);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::made_up::Story;
    use crate::history::Kind;

    #[test]
    fn what_one_log_entry_did_has_no_order_by_revisions() {
        let id = json!({ "connection": "c-5-1", "policy": "multi", "max": 3 });
        for at in [11, 12] {
            let mut story = Story::default();
            let (registers, unregisters) =
                (story.begin("register", "alice", id.clone()), story.begin("unregister", "alice", id.clone()));
            story.end(registers, Kind::Ok, json!({ "granted": 11, "superseded": [], "revision": 11 }), None);
            story.end(unregisters, Kind::Ok, json!({ "existed": false, "revision": at }), None);
            story.lives();
            let names: Vec<String> =
                check(&story.history()).anomalies.into_iter().map(|anomaly| anomaly.name).collect();
            assert_eq!(names.is_empty(), at == 11, "{names:?}: by a later entry it would have been found");
        }
    }
}
