//! Two clocks and a gateway that may freeze: when it stops to serve, and when the leader ends its session.
//!
//! One leader stays in office and decides at once (`leaders` is about all else). A tick is a second of the leader's clock.

use std::time::Duration;

use stateright::{Model, Property};
use switchboard::lease;

use crate::{ONE_SERVES, breaks, holds};

/// Ticks of a lease: the fewest of which [`lease::serve`] is a whole number.
const LEASE: u8 = 5;

/// Renewals that are under way at a time; a newer one takes the place of another, which is lost.
const RENEWALS: usize = 3;

/// What may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The gateway counts from the moment at which it sent the renewal.
    CountsFromSending,
    /// It serves for less than the lease.
    Margin,
    /// It looks at its deadline right before each write, and not only when a timer fires.
    LooksBeforeWriting,
    /// No rule of ours: clocks differ by no more than the margin allows.
    ClocksAgree,
}

struct Deadlines {
    without: Option<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// What is left until the gateway's deadline, on its own clock.
    serve: u8,
    frozen: bool,
    /// The gateway's timer has fired since the last answer: on time while it runs, some time later after a freeze.
    fenced: bool,
    /// Ticks since the gateway's clock last missed one.
    steady: u8,
    renewals: [Option<Renewal>; RENEWALS],
    /// What is left until the leader's deadline.
    lease: u8,
    /// The log has the end of the session, and another gateway serves.
    ended: bool,
    /// The gateway wrote to its client after that.
    trespassed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Renewal {
    /// Since it was sent, on the gateway's clock.
    age: u8,
    acknowledged: bool,
}

/// Of a tick of the leader alone the gateway's clock knows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Send { over: usize },
    ReachLeader(usize),
    ReachGateway(usize),
    Freeze,
    Thaw,
    Write,
    EndSession,
    Tick,
    TickOfTheLeaderAlone,
}

impl Deadlines {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn serve(&self) -> u8 {
        if self.keeps(Rule::Margin) { serve_ticks() } else { LEASE }
    }

    /// How many ticks the gateway's clock takes part in between two that it misses. One in a lease is a fifth.
    fn steady_min(&self) -> u8 {
        if self.keeps(Rule::ClocksAgree) { serve_ticks() } else { serve_ticks() - 1 }
    }

    fn may_write(&self, state: &State) -> bool {
        !state.frozen && if self.keeps(Rule::LooksBeforeWriting) { state.serve > 0 } else { !state.fenced }
    }
}

/// The gateway's share of the lease, by the service's own arithmetic.
fn serve_ticks() -> u8 {
    let serve = lease::serve(Duration::from_secs(LEASE.into()));
    assert_eq!(serve.subsec_nanos(), 0, "a share of the lease is whole ticks");
    u8::try_from(serve.as_secs()).expect("less than a lease")
}

impl Model for Deadlines {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            serve: self.serve(),
            frozen: false,
            fenced: false,
            steady: self.steady_min(),
            renewals: [None; RENEWALS],
            lease: LEASE,
            ended: false,
            trespassed: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let renewals = state.renewals.iter().enumerate().filter_map(|(at, renewal)| Some((at, (*renewal)?)));
        if !state.frozen {
            actions.extend((0..RENEWALS).map(|over| Action::Send { over }));
            actions.extend(renewals.clone().filter(|(_, r)| r.acknowledged).map(|(at, _)| Action::ReachGateway(at)));
            actions.push(Action::Freeze);
        } else {
            actions.push(Action::Thaw);
        }
        if !state.ended {
            actions.extend(renewals.map(|(at, _)| Action::ReachLeader(at)));
            if state.lease == 0 {
                actions.push(Action::EndSession);
            }
        }
        if self.may_write(state) {
            actions.push(Action::Write);
        }
        actions.push(Action::Tick);
        if state.steady == self.steady_min() {
            actions.push(Action::TickOfTheLeaderAlone);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send { over } => state.renewals[over] = Some(Renewal { age: 0, acknowledged: false }),
            Action::ReachLeader(at) => {
                state.lease = LEASE;
                state.renewals[at].as_mut()?.acknowledged = true;
            }
            Action::ReachGateway(at) => {
                let age = if self.keeps(Rule::CountsFromSending) { state.renewals[at]?.age } else { 0 };
                state.serve = state.serve.max(self.serve().saturating_sub(age));
                state.fenced = state.fenced && state.serve == 0;
            }
            Action::Freeze => state.frozen = true,
            Action::Thaw => state.frozen = false,
            Action::Write => state.trespassed = state.ended,
            Action::EndSession => state.ended = true,
            Action::Tick => {
                state.steady = (state.steady + 1).min(self.steady_min());
                state.serve = state.serve.saturating_sub(1);
                state.fenced |= state.serve == 0 && !state.frozen;
                state.lease = state.lease.saturating_sub(1);
                for renewal in state.renewals.iter_mut().flatten() {
                    renewal.age = (renewal.age + 1).min(self.serve());
                }
            }
            Action::TickOfTheLeaderAlone => {
                state.steady = 0;
                state.lease = state.lease.saturating_sub(1);
            }
        }
        state.renewals.sort_unstable();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_SERVES, |_, state: &State| !state.trespassed),
            Property::sometimes("a session ends", |_, state: &State| state.ended),
            Property::sometimes("a gateway serves until the last tick", |_, state: &State| {
                state.lease == 1 && state.serve == 1
            }),
        ]
    }
}

#[test]
fn the_gateway_gives_up_first_whatever_clocks_and_network_do() {
    holds("deadlines", Deadlines { without: None });
}

#[test]
fn the_gateway_would_serve_too_long_without_any_rule_about_its_deadline() {
    for rule in [Rule::CountsFromSending, Rule::Margin, Rule::LooksBeforeWriting] {
        breaks(&format!("deadlines without {rule:?}"), || Deadlines { without: Some(rule) }, ONE_SERVES);
    }
}

#[test]
fn clocks_that_differ_by_more_than_the_margin_are_not_safe() {
    breaks("deadlines with worse clocks", || Deadlines { without: Some(Rule::ClocksAgree) }, ONE_SERVES);
}
