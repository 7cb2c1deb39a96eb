//! A leader that stands still, or whose majority answers slowly: nobody is ended who renews in time, and who is silent is
//! gone in time.
//!
//! Renewals come to the leader's door first, also while its process stands still. They are in time if less than a lease lies
//! between two of them, or between the first and the leader's taking office. So is what is said of silence: since the later
//! of the two.

use stateright::{Model, Property};

use crate::{GONE_IN_TIME, NOT_ENDED, breaks, holds};

/// Ticks of a lease.
const LEASE: i8 = 4;

/// What may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A new leader gives every session a whole lease.
    NewLeaderGivesLease,
    /// After a stall deadlines move by as much.
    ExcusesStalls,
    /// Renewals that have been read and wait for their confirmation count before an ending is proposed.
    LooksAtWaiting,
    /// They count as read later by as much, too.
    ExcusesWaiting,
    /// Stalls move a deadline by at most a lease.
    ExcusesAtMostALease,
    /// That is counted from the latest renewal that was read, and not from the latest that was acknowledged.
    CountsStallsSinceHeard,
    /// No rule of ours: a leader that stands still for more than a lease has been replaced.
    StallsAreShort,
}

struct Stalls {
    without: Option<Rule>,
    stalls: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// What is left until the deadline.
    lease: i8,
    /// By how much stalls have moved it since the latest renewal was read.
    moved: i8,
    /// A renewal is at the door.
    unread: bool,
    /// Since the latest renewal was read that is not acknowledged.
    waiting: Option<i8>,
    /// What is left of a lease since the latest renewal was read, acknowledged or not.
    heard: i8,
    /// For how long the leader has stood still by now.
    stall: Option<i8>,
    /// Since the latest renewal came to the door.
    silence: i8,
    /// That was a whole lease once.
    late: bool,
    ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Arrive,
    Read,
    Acknowledge,
    ChangeLeader,
    Stall,
    Wake,
    EndSession,
    Tick,
}

impl Stalls {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// What a leader begins with.
    fn state(lease: i8) -> State {
        State {
            lease,
            moved: 0,
            unread: false,
            waiting: None,
            heard: 0,
            stall: None,
            silence: 0,
            late: false,
            ended: false,
        }
    }

    fn stall_max(&self) -> i8 {
        if self.keeps(Rule::StallsAreShort) { LEASE } else { 2 * LEASE }
    }

    fn is_overdue(&self, state: &State) -> bool {
        let heard_in_time = state.heard > 0 && self.keeps(Rule::LooksAtWaiting);
        state.lease <= 0 && !heard_in_time
    }

    /// How long a gateway can be silent at most before it is gone: a lease; and with a leader that stands still one for which the
    /// last renewal was not read, one by which stalls move the deadline, and one of a stall that moves it no more.
    fn silence_max(&self) -> i8 {
        if self.stalls { 4 * LEASE } else { LEASE }
    }

    fn excuse(&self, state: &mut State, stall: i8) {
        if !self.keeps(Rule::ExcusesStalls) {
            return;
        }
        let cap = if self.keeps(Rule::ExcusesAtMostALease) { LEASE - state.moved } else { LEASE };
        let gap = stall.min(cap);
        state.moved = (state.moved + gap).min(LEASE);
        state.lease += gap;
        if self.keeps(Rule::ExcusesWaiting) {
            state.heard += gap;
        }
    }
}

impl Model for Stalls {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![Self::state(LEASE)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.ended {
            return;
        }
        actions.extend([Action::Arrive, Action::ChangeLeader]);
        if let Some(stall) = state.stall {
            actions.push(Action::Wake);
            if stall < self.stall_max() {
                actions.push(Action::Tick);
            }
            return;
        }
        if state.unread {
            actions.push(Action::Read);
        }
        if state.waiting.is_some() {
            actions.push(Action::Acknowledge);
        }
        // A process that runs reads what is there and ends what is overdue before it does anything else, in this order or the
        // other.
        let overdue = self.is_overdue(state);
        if overdue {
            actions.push(Action::EndSession);
        }
        if !state.unread && !overdue {
            actions.push(Action::Tick);
            if self.stalls {
                actions.push(Action::Stall);
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Arrive => {
                state.unread = true;
                state.silence = 0;
            }
            Action::Read => {
                state.unread = false;
                state.waiting = Some(0);
                state.heard = LEASE;
                if self.keeps(Rule::CountsStallsSinceHeard) {
                    state.moved = 0;
                }
            }
            Action::Acknowledge => {
                state.lease = state.lease.max(LEASE - state.waiting.take()?);
                if !self.keeps(Rule::CountsStallsSinceHeard) {
                    state.moved = 0;
                }
            }
            Action::ChangeLeader => {
                state = Self::state(if self.keeps(Rule::NewLeaderGivesLease) { LEASE } else { 0 });
            }
            Action::Stall => state.stall = Some(0),
            Action::Wake => {
                let stall = state.stall.take()?;
                self.excuse(&mut state, stall);
            }
            Action::EndSession => state.ended = true,
            Action::Tick => {
                state.lease = (state.lease - 1).max(-2 * LEASE);
                state.waiting = state.waiting.map(|age| (age + 1).min(LEASE));
                state.heard = (state.heard - 1).max(-2 * LEASE);
                state.stall = state.stall.map(|stall| stall + 1);
                state.silence = (state.silence + 1).min(self.silence_max() + 1);
                state.late |= state.silence >= LEASE;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NOT_ENDED, |_, state: &State| !state.ended || state.late),
            Property::always(GONE_IN_TIME, |model, state: &State| state.ended || state.silence <= model.silence_max()),
            Property::sometimes("a session ends", |_, state: &State| state.ended),
        ]
    }
}

#[test]
fn a_leader_that_stands_still_ends_nobody_who_renews_in_time() {
    holds("stalls", Stalls { without: None, stalls: true });
}

#[test]
fn whoever_is_silent_is_gone_after_a_lease() {
    holds("stalls of nobody", Stalls { without: None, stalls: false });
}

#[test]
fn a_stall_would_end_gateways_that_renew_or_none_at_all_without_any_rule_about_stalls() {
    for (rule, property) in [
        (Rule::NewLeaderGivesLease, NOT_ENDED),
        (Rule::ExcusesStalls, NOT_ENDED),
        (Rule::LooksAtWaiting, NOT_ENDED),
        (Rule::ExcusesWaiting, NOT_ENDED),
        (Rule::CountsStallsSinceHeard, NOT_ENDED),
        (Rule::ExcusesAtMostALease, GONE_IN_TIME),
    ] {
        breaks(&format!("stalls without {rule:?}"), || Stalls { without: Some(rule), stalls: true }, property);
    }
}

#[test]
fn a_stall_of_more_than_a_lease_is_excused_in_part_only() {
    let long = || Stalls { without: Some(Rule::StallsAreShort), stalls: true };
    breaks("long stalls", long, NOT_ENDED);
}
