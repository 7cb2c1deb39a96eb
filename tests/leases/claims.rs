//! Claims of a session that is over: when may another gateway be granted the user?
//!
//! A session ends by expiry, by its gateway's own word, or because of a hint that its process is gone, which may be false.
//! There is one clock, and the gateway's is as slow as clocks may be: it serves the whole lease (`deadlines` is about the
//! rest).

use stateright::{Model, Property};

use crate::{ONE_SERVES, breaks, holds};

/// Ticks of a lease.
const LEASE: u8 = 4;

/// Renewals that are under way at a time; a newer one takes the place of another, which is lost.
const RENEWALS: usize = 2;

/// What may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Claims stay when a session ends because of a hint, until they are released.
    HintsKeepClaims,
    /// The release comes one lease after the leader has applied the ending.
    ReleasesAfterLease,
    /// The ending is applied at that moment, and not only proposed.
    CountsFromApplying,
    /// A new leader counts that lease anew.
    NewLeaderCountsAnew,
    /// A gateway says that its session is over after it has stopped to serve.
    FencesBeforeItsWord,
    /// No rule, but a rumour: the release is proposed by a leader that still leads, and is not forwarded.
    ReleasesOnlyAsLeader,
}

struct Claims {
    without: Option<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// What is left until the gateway's deadline.
    serve: u8,
    /// The gateway ends its session: it opens no socket any more.
    leaving: Leaving,
    renewals: [Option<Renewal>; RENEWALS],
    /// What is left until the leader's deadline, or until it releases the claims.
    lease: u8,
    /// The same of a leader that was replaced and does not know it: it can only release.
    former: Option<u8>,
    /// Since an ending because of a hint was proposed. Renewals need not wait for the outcome.
    hinted: Option<u8>,
    session: Session,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Renewal {
    age: u8,
    acknowledged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Leaving {
    No,
    /// It has sent its word and serves on. Only where a rule is left out.
    Said,
    Stopped,
    /// It has stopped, and sent its word.
    StoppedAndSaid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Session {
    Alive,
    /// Over, and its claims stay.
    Claiming,
    /// Over, and another gateway serves the user.
    Free,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Send { over: usize },
    Acknowledge { renewal: usize },
    ReachGateway { renewal: usize },
    Stop,
    SayOver,
    EndByOwnWord,
    ProposeEndByHint,
    EndByHint,
    EndByExpiry,
    ReleaseClaims,
    ReleaseClaimsAsFormerLeader,
    ChangeLeader,
    Tick,
}

impl Claims {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}

impl Model for Claims {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            serve: LEASE,
            leaving: Leaving::No,
            renewals: [None; RENEWALS],
            lease: LEASE,
            former: None,
            hinted: None,
            session: Session::Alive,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Tick, Action::ChangeLeader]);
        if state.leaving == Leaving::No {
            actions.extend((0..RENEWALS).map(|over| Action::Send { over }));
        }
        for (renewal, sent) in state.renewals.iter().enumerate() {
            if sent.is_some_and(|sent| sent.acknowledged) && state.leaving == Leaving::No {
                actions.push(Action::ReachGateway { renewal });
            }
            if sent.is_some() && state.session == Session::Alive {
                actions.push(Action::Acknowledge { renewal });
            }
        }
        match state.leaving {
            Leaving::No if !self.keeps(Rule::FencesBeforeItsWord) => actions.push(Action::SayOver),
            Leaving::No | Leaving::Said => actions.push(Action::Stop),
            Leaving::Stopped => actions.push(Action::SayOver),
            Leaving::StoppedAndSaid => {}
        }
        if state.session != Session::Free && matches!(state.leaving, Leaving::Said | Leaving::StoppedAndSaid) {
            actions.push(Action::EndByOwnWord);
        }
        match state.session {
            Session::Alive => {
                actions.push(if state.hinted.is_none() { Action::ProposeEndByHint } else { Action::EndByHint });
                if state.lease == 0 {
                    actions.push(Action::EndByExpiry);
                }
            }
            Session::Claiming => {
                if state.lease == 0 {
                    actions.push(Action::ReleaseClaims);
                }
                if state.former == Some(0) {
                    actions.push(Action::ReleaseClaimsAsFormerLeader);
                }
            }
            Session::Free => {}
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send { over } => state.renewals[over] = Some(Renewal { age: 0, acknowledged: false }),
            Action::Acknowledge { renewal } => {
                state.renewals[renewal].as_mut()?.acknowledged = true;
                state.lease = LEASE;
            }
            Action::ReachGateway { renewal } => state.serve = state.serve.max(LEASE - state.renewals[renewal]?.age),
            Action::Stop => {
                state.leaving = if state.leaving == Leaving::Said { Leaving::StoppedAndSaid } else { Leaving::Stopped };
                state.serve = 0;
            }
            Action::SayOver => {
                state.leaving = if state.leaving == Leaving::No { Leaving::Said } else { Leaving::StoppedAndSaid };
            }
            Action::ProposeEndByHint => state.hinted = Some(0),
            Action::EndByHint => {
                state.session = if self.keeps(Rule::HintsKeepClaims) { Session::Claiming } else { Session::Free };
                let counted = if self.keeps(Rule::CountsFromApplying) { 0 } else { state.hinted? };
                state.lease = if self.keeps(Rule::ReleasesAfterLease) { LEASE - counted } else { 0 };
            }
            Action::EndByOwnWord
            | Action::EndByExpiry
            | Action::ReleaseClaims
            | Action::ReleaseClaimsAsFormerLeader => {
                state.session = Session::Free;
            }
            Action::ChangeLeader => {
                state.former = (state.session == Session::Claiming).then_some(state.lease);
                let anew = state.session == Session::Alive || self.keeps(Rule::NewLeaderCountsAnew);
                state.lease = if anew { LEASE } else { 0 };
            }
            Action::Tick => {
                state.serve = state.serve.saturating_sub(1);
                state.lease = state.lease.saturating_sub(1);
                state.hinted = state.hinted.map(|since| (since + 1).min(LEASE));
                state.former = state.former.map(|lease| lease.saturating_sub(1));
                for renewal in state.renewals.iter_mut().flatten() {
                    renewal.age = (renewal.age + 1).min(LEASE);
                }
            }
        }
        if self.keeps(Rule::ReleasesOnlyAsLeader) {
            state.former = None;
        }
        if state.session != Session::Alive {
            state.hinted = None;
        }
        state.renewals.sort_unstable();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_SERVES, |_, state: &State| state.session != Session::Free || state.serve == 0),
            Property::sometimes("a session ends while its gateway serves", |_, state: &State| {
                state.session == Session::Claiming && state.serve > 0
            }),
            Property::sometimes("the claims of a session that is over are released", |_, state: &State| {
                state.session == Session::Free && state.leaving == Leaving::No
            }),
        ]
    }
}

#[test]
fn a_claim_outlives_the_gateway_that_may_still_serve_it() {
    holds("claims", Claims { without: None });
}

#[test]
fn two_gateways_would_serve_without_any_rule_about_claims() {
    for rule in [
        Rule::HintsKeepClaims,
        Rule::ReleasesAfterLease,
        Rule::CountsFromApplying,
        Rule::NewLeaderCountsAnew,
        Rule::FencesBeforeItsWord,
    ] {
        breaks(&format!("claims without {rule:?}"), || Claims { without: Some(rule) }, ONE_SERVES);
    }
}

#[test]
fn a_release_by_a_leader_of_former_days_is_safe_all_the_same() {
    holds("claims without ReleasesOnlyAsLeader", Claims { without: Some(Rule::ReleasesOnlyAsLeader) });
}
