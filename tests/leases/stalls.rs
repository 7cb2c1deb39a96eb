//! A leader that stands still, or whose majority answers slowly: nobody is ended who renews in time, and who is silent is
//! gone in time.
//!
//! Renewals come to the leader's door first, also while its process stands still. They are in time if less than a lease lies
//! between two of them, or between the first and the leader's taking office. So is what is said of silence: since the later
//! of the two.
//!
//! A stall may be longer than a lease: the leader is replaced by then, unless its majority stood still with it or it is alone.
//! Nobody can be ended meanwhile. So what is said of silence is said of the time in which the leader runs.

use stateright::{Model, Property};

use crate::{GONE_IN_TIME, NOT_ENDED, breaks, holds};

/// Ticks of a lease.
const LEASE: i8 = 4;

/// Ticks of the calm after a stall.
const CALM: i8 = 2;

/// Ticks of the longest stall.
const STALL_MAX: i8 = 3 * LEASE;

/// What was over this long ago is just over.
const LONG_OVER: i8 = -2 * STALL_MAX;

/// What only the excuse of stalls gives: the calm alone would leave less.
const EXCUSED: &str = "a stall of up to a lease takes nothing from anybody";

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
    /// After a stall the calm is left to whoever had as much left before it.
    CalmAfterStalls,
    /// And less to whoever had less: no stall begins the calm anew.
    CalmIsNotRenewed,
    /// A renewal that waits for its confirmation counts for what was left, too.
    CalmCountsWaiting,
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
    /// For how long the leader has run since the latest renewal came to the door.
    patience: i8,
    /// Since the latest renewal was read.
    unheard: i8,
    /// For how long of that the leader stood still.
    stood_still: i8,
    /// A whole lease of the leader's running time has gone by between two renewals once, or it stood still for longer than
    /// is excused.
    due: bool,
    /// For how long the leader has run since that became more than a lease and all that stalls move it by.
    calm: i8,
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

impl State {
    fn tick(&mut self) {
        let runs = i8::from(self.stall.is_none());
        self.lease = (self.lease - 1).max(LONG_OVER);
        self.waiting = self.waiting.map(|age| (age + 1).min(LEASE));
        self.heard = (self.heard - 1).max(LONG_OVER);
        self.stall = self.stall.map(|stall| stall + 1);
        self.silence = (self.silence + 1).min(LEASE);
        self.late |= self.silence >= LEASE;
        self.patience = (self.patience + runs).min(LEASE + 1);
        self.unheard = (self.unheard + 1).min(2 * LEASE + 1);
        self.stood_still = (self.stood_still + 1 - runs).min(LEASE + 1);
        self.due |= self.patience >= LEASE || self.stood_still > LEASE;
        if self.unheard > 2 * LEASE {
            self.calm = (self.calm + runs).min(CALM + 1);
        }
    }
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
            patience: 0,
            unheard: 0,
            stood_still: 0,
            due: false,
            calm: 0,
            ended: false,
        }
    }

    fn is_overdue(&self, state: &State) -> bool {
        let heard_in_time = state.heard > 0 && self.keeps(Rule::LooksAtWaiting);
        state.lease <= 0 && !heard_in_time
    }

    fn excuse(&self, state: &mut State, stall: i8) {
        let waiting = if self.keeps(Rule::CalmCountsWaiting) { state.heard } else { state.lease };
        let left = state.lease.max(waiting) + stall;
        if self.keeps(Rule::ExcusesStalls) {
            let cap = if self.keeps(Rule::ExcusesAtMostALease) { LEASE - state.moved } else { STALL_MAX };
            let gap = stall.min(cap);
            state.moved = (state.moved + gap).min(LEASE);
            state.lease += gap;
            if self.keeps(Rule::ExcusesWaiting) {
                state.heard += gap;
            }
        }
        if self.keeps(Rule::CalmAfterStalls) {
            let calm = if self.keeps(Rule::CalmIsNotRenewed) { left.min(CALM) } else { CALM };
            state.lease = state.lease.max(calm);
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
            if stall < STALL_MAX {
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
                state.patience = 0;
            }
            Action::Read => {
                state.unread = false;
                state.waiting = Some(0);
                state.heard = LEASE;
                (state.unheard, state.stood_still, state.calm) = (0, 0, 0);
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
            Action::Tick => state.tick(),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NOT_ENDED, |_, state: &State| !state.ended || state.late),
            Property::always(EXCUSED, |_, state: &State| !state.ended || state.due),
            Property::always(GONE_IN_TIME, |_, state: &State| {
                state.ended || (state.patience <= LEASE && state.calm <= CALM)
            }),
            Property::sometimes("a session ends", |_, state: &State| state.ended),
        ]
    }
}

#[test]
fn a_leader_that_stands_still_for_however_long_ends_nobody_who_renews_in_time() {
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
        (Rule::ExcusesStalls, EXCUSED),
        (Rule::LooksAtWaiting, NOT_ENDED),
        (Rule::ExcusesWaiting, EXCUSED),
        (Rule::CountsStallsSinceHeard, EXCUSED),
        (Rule::ExcusesAtMostALease, GONE_IN_TIME),
        (Rule::CalmAfterStalls, NOT_ENDED),
        (Rule::CalmIsNotRenewed, GONE_IN_TIME),
        (Rule::CalmCountsWaiting, NOT_ENDED),
    ] {
        breaks(&format!("stalls without {rule:?}"), || Stalls { without: Some(rule), stalls: true }, property);
    }
}
