//! A gateway that renews its lease and ignores the request to release a connection.
//!
//! Requests ride on the answers to renewals, so a gateway that renews has them; a renewal echoes how far the gateway has
//! come. A tick is the time between two renewals. There is one clock, and the gateway's is as slow as clocks may be: it serves
//! the whole lease (`deadlines` is about the rest). What a new leader has to wait for, it counts from its taking office.

use stateright::{Model, Property};

use crate::{NOT_BLOCKED, NOT_ENDED, ONE_SERVES, breaks, holds};

/// Ticks of a lease.
const LEASE: u8 = 5;

/// How long a handover takes at most, since the request or the last change of leader: until the echo lags by more than a lease, and then until the lease is over.
const HANDOVER_MAX: u8 = 2 * LEASE;

/// What may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A lease is not extended while the echo lags by more than a lease.
    LaggingEchoEndsLease,
    /// It lags since the oldest request that is open, and not since the latest.
    LagsSinceOldest,
    /// A renewal that does not extend the lease is not acknowledged.
    AcknowledgesWhatItExtends,
}

struct Requests {
    without: Option<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// What is left of the lease.
    lease: u8,
    /// What is left until the gateway's deadline.
    serve: u8,
    /// For how long somebody has been waiting for the oldest connection that is to be released.
    blocked: Option<u8>,
    /// Since the request that the leader takes for the one that the echo lags behind.
    lag: Option<u8>,
    /// The gateway has left a request open for more than a lease.
    idle: bool,
    ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// A newcomer wants another connection of this gateway.
    Ask,
    /// The gateway releases whatever was asked for: its unregistrations are committed, and the next renewal echoes it.
    Handle,
    ChangeLeader,
    EndByExpiry,
    TickAndRenew,
}

impl Requests {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}

impl Model for Requests {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { lease: LEASE, serve: LEASE, blocked: None, lag: None, idle: false, ended: false }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.ended {
            return;
        }
        if state.lease == 0 {
            actions.push(Action::EndByExpiry);
            return;
        }
        actions.extend([Action::Ask, Action::ChangeLeader, Action::TickAndRenew]);
        if state.blocked.is_some() {
            actions.push(Action::Handle);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Ask => {
                state.blocked = state.blocked.or(Some(0));
                state.lag = if self.keeps(Rule::LagsSinceOldest) { state.lag.or(Some(0)) } else { Some(0) };
            }
            Action::Handle => {
                state.blocked = None;
                state.lag = None;
            }
            Action::ChangeLeader => {
                state.lease = LEASE;
                state.blocked = state.blocked.and(Some(0));
                state.lag = state.lag.and(Some(0));
            }
            Action::EndByExpiry => state.ended = true,
            Action::TickAndRenew => {
                let older = |age: Option<u8>| age.map(|age| (age + 1).min(HANDOVER_MAX + 1));
                state.lease -= 1;
                state.serve = state.serve.saturating_sub(1);
                state.blocked = older(state.blocked);
                state.lag = older(state.lag);
                state.idle |= state.blocked.is_some_and(|blocked| blocked > LEASE);
                let extends = state.lag.is_none_or(|lag| lag <= LEASE) || !self.keeps(Rule::LaggingEchoEndsLease);
                if extends {
                    state.lease = LEASE;
                }
                if extends || !self.keeps(Rule::AcknowledgesWhatItExtends) {
                    state.serve = LEASE;
                }
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NOT_BLOCKED, |_, state: &State| {
                state.ended || state.blocked.is_none_or(|blocked| blocked <= HANDOVER_MAX)
            }),
            Property::always(ONE_SERVES, |_, state: &State| !state.ended || state.serve == 0),
            Property::always(NOT_ENDED, |_, state: &State| !state.ended || state.idle),
            Property::sometimes("a gateway that ignores a request is ended", |_, state: &State| state.ended),
        ]
    }
}

#[test]
fn a_gateway_that_ignores_a_request_is_ended_and_one_that_handles_it_is_not() {
    holds("requests", Requests { without: None });
}

#[test]
fn a_handover_would_be_blocked_or_unsafe_without_any_rule_about_echoes() {
    for (rule, property) in [
        (Rule::LaggingEchoEndsLease, NOT_BLOCKED),
        (Rule::LagsSinceOldest, NOT_BLOCKED),
        (Rule::AcknowledgesWhatItExtends, ONE_SERVES),
    ] {
        breaks(&format!("requests without {rule:?}"), || Requests { without: Some(rule) }, property);
    }
}
