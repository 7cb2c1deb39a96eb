//! Leaders that come, go and do not know it: who may acknowledge a renewal, and who may end a session.
//!
//! There is one clock, the leader's, and the gateway's is as slow as clocks may be: it serves the whole lease (`deadlines`
//! is about the rest). The log is what was decided; how a majority decides it is left to Raft.

use stateright::{Model, Property};

use crate::{ONE_SERVES, breaks, holds};

/// Ticks of a lease.
const LEASE: u8 = 3;

/// Renewals that are under way at a time; a newer one takes the place of another, which is lost.
const RENEWALS: usize = 2;

/// Places among the nodes. Who is elected moves to the first.
const LEADER: usize = 0;
const OTHER: usize = 1;

/// What may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A renewal is acknowledged after a ReadIndex round that began after it had arrived.
    RoundAfterArrival,
    /// The state machine is applied at least to the read index, which lies after the leader's own first entry.
    AppliedToReadIndex,
    /// A new leader gives every session a whole lease.
    WholeLeaseFromNewLeader,
    /// So does one that led before.
    WholeLeaseFromLeaderAgain,
    /// An ending is appended by the leader of that very term, and not forwarded.
    EndsOnlyAsLeader,
    /// Renewals of a session that is being ended wait for the outcome.
    HoldsWhileEnding,
    /// The leader confirms that it leads before it proposes an ending.
    ConfirmsBeforeEnding,
}

struct Leaders {
    without: Option<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// What is left until the gateway's deadline.
    serve: u8,
    renewals: [Option<Renewal>; RENEWALS],
    /// The one that leads, and another, which may believe that it does.
    nodes: [Node; 2],
    undecided: Undecided,
    /// The log has the end of the session, and another gateway serves.
    ended: bool,
}

/// Whether some node's log has an ending that may be committed yet, by a leader that finds it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Undecided {
    Nothing,
    OfThisTerm,
    /// Until the leader has committed an entry of its own.
    OfEarlierTerms,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Renewal {
    age: u8,
    acknowledged: bool,
    waits: Option<Waiting>,
}

/// A renewal that has arrived at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Waiting {
    node: usize,
    since: u8,
    confirmed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    believes: bool,
    /// A later leader has committed an entry: nothing is ever decided that this node proposes before it is elected again.
    outlived: bool,
    /// What is left until its deadline for the session.
    lease: u8,
    ending: Ending,
    /// Its state machine has applied the end of the session.
    applied: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ending {
    No,
    Marked,
    Confirmed,
    Proposed,
}

/// Elected is the other node, or the leader itself after a restart; whether its log has the ending is decided by that. A node
/// refrains from an ending if it could not confirm that it leads, or found a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Send { over: usize },
    Arrive { renewal: usize, node: usize },
    Confirm { renewal: usize },
    Acknowledge { renewal: usize },
    ReachGateway { renewal: usize },
    Elect { node: usize },
    ElectWithEnding { node: usize },
    LearnOfSuccessor,
    MarkOverdue { node: usize },
    ConfirmEnding { node: usize },
    ProposeEnding { node: usize },
    RefrainFromEnding { node: usize },
    CommitEnding { node: usize },
    ApplyEnding { node: usize },
    Tick,
}

impl Leaders {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// Whether a round that begins now can succeed: the node leads, and it has applied what the log then holds.
    fn can_confirm(&self, state: &State, node: usize) -> bool {
        let overlooks = state.ended && (state.nodes[node].applied || self.keeps(Rule::AppliedToReadIndex));
        node == LEADER && !overlooks
    }

    fn can_acknowledge(&self, state: &State, waiting: Waiting) -> bool {
        let node = &state.nodes[waiting.node];
        // Without the rule by a round that began before: then a leader of former days did lead.
        let before = waiting.node == OTHER || self.can_confirm(state, waiting.node);
        let confirmed = waiting.confirmed || before && !self.keeps(Rule::RoundAfterArrival);
        let held = node.ending != Ending::No && self.keeps(Rule::HoldsWhileEnding);
        node.believes && confirmed && !held && !node.applied
    }

    fn can_commit(&self, state: &State, node: usize) -> bool {
        let leads = node == LEADER || !self.keeps(Rule::EndsOnlyAsLeader);
        leads && state.nodes[node].ending == Ending::Proposed
    }

    /// A majority has confirmed the leader, and thereby committed its own first entry, so that nothing before it is open.
    fn confirm_leader(state: &mut State) {
        state.nodes[OTHER].outlived = true;
        if state.undecided == Undecided::OfEarlierTerms {
            state.undecided = Undecided::Nothing;
        }
    }

    fn propose_ending(state: &mut State, node: usize) {
        state.nodes[node].ending = Ending::Proposed;
        if node == LEADER {
            state.undecided = Undecided::OfThisTerm;
        } else if !state.nodes[node].outlived && state.undecided == Undecided::Nothing {
            state.undecided = Undecided::OfEarlierTerms;
        }
    }

    fn elect(&self, state: &mut State, node: usize) {
        let again = state.nodes[node].believes;
        let rule = if again { Rule::WholeLeaseFromLeaderAgain } else { Rule::WholeLeaseFromNewLeader };
        let kept = if again { state.nodes[node].lease } else { 0 };
        let lease = if self.keeps(rule) { LEASE } else { kept };
        let applied = state.nodes[node].applied;
        state.nodes[node] = Node { believes: true, outlived: false, lease, ending: Ending::No, applied };
        if state.undecided == Undecided::OfThisTerm {
            state.undecided = Undecided::OfEarlierTerms;
        }
        for waiting in state.renewals.iter_mut().flatten().filter_map(|renewal| renewal.waits.as_mut()) {
            // A round of an earlier term confirms nothing.
            waiting.confirmed &= waiting.node != node;
            if node == OTHER {
                waiting.node = 1 - waiting.node;
            }
        }
        if node == OTHER {
            state.nodes.swap(LEADER, OTHER);
        }
    }

    /// What no longer matters is forgotten, so that equal worlds are equal states.
    fn tidy(state: &mut State) {
        for (number, node) in state.nodes.iter_mut().enumerate() {
            if !node.believes {
                let applied = node.applied;
                *node = Node { believes: false, outlived: false, lease: 0, ending: Ending::No, applied };
                for renewal in state.renewals.iter_mut().flatten() {
                    renewal.waits = renewal.waits.filter(|waiting| waiting.node != number);
                }
            }
            if state.ended {
                node.lease = 0;
                state.undecided = Undecided::Nothing;
            }
            if node.applied {
                node.ending = Ending::No;
            }
        }
        state.renewals.sort_unstable();
    }
}

impl Model for Leaders {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let leader = Node { believes: true, outlived: false, lease: LEASE, ending: Ending::No, applied: false };
        let follower = Node { believes: false, lease: 0, ..leader.clone() };
        vec![State {
            serve: LEASE,
            renewals: [None; RENEWALS],
            nodes: [leader, follower],
            undecided: Undecided::Nothing,
            ended: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        actions.extend((0..RENEWALS).map(|over| Action::Send { over }));
        for (renewal, sent) in state.renewals.iter().enumerate().filter_map(|(at, sent)| Some((at, (*sent)?))) {
            if sent.acknowledged {
                actions.push(Action::ReachGateway { renewal });
            }
            let arrives = (0..2).filter(|node| state.nodes[*node].believes);
            actions.extend(arrives.map(|node| Action::Arrive { renewal, node }));
            let Some(waiting) = sent.waits else { continue };
            if !waiting.confirmed && self.can_confirm(state, waiting.node) {
                actions.push(Action::Confirm { renewal });
            }
            if self.can_acknowledge(state, waiting) {
                actions.push(Action::Acknowledge { renewal });
            }
        }
        for (node, this) in state.nodes.iter().enumerate() {
            actions.push(Action::Elect { node });
            if state.undecided != Undecided::Nothing {
                actions.push(Action::ElectWithEnding { node });
            }
            if this.believes && node == OTHER {
                actions.push(Action::LearnOfSuccessor);
            }
            if state.ended && !this.applied {
                actions.push(Action::ApplyEnding { node });
            }
            if matches!(this.ending, Ending::Marked | Ending::Confirmed) {
                actions.push(Action::RefrainFromEnding { node });
            }
            match this.ending {
                Ending::No if this.believes && this.lease == 0 && !state.ended => {
                    actions.push(Action::MarkOverdue { node });
                }
                Ending::Marked if node == LEADER || !self.keeps(Rule::ConfirmsBeforeEnding) => {
                    actions.push(Action::ConfirmEnding { node });
                }
                Ending::Confirmed => actions.push(Action::ProposeEnding { node }),
                _ if self.can_commit(state, node) => actions.push(Action::CommitEnding { node }),
                _ => {}
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send { over } => state.renewals[over] = Some(Renewal { age: 0, acknowledged: false, waits: None }),
            Action::Arrive { renewal, node } => {
                state.renewals[renewal].as_mut()?.waits = Some(Waiting { node, since: 0, confirmed: false });
            }
            Action::Confirm { renewal } => {
                state.renewals[renewal].as_mut()?.waits.as_mut()?.confirmed = true;
                Self::confirm_leader(&mut state);
            }
            Action::Acknowledge { renewal } => {
                let renewal = state.renewals[renewal].as_mut()?;
                renewal.acknowledged = true;
                let waiting = renewal.waits.take()?;
                let lease = &mut state.nodes[waiting.node].lease;
                *lease = (*lease).max(LEASE - waiting.since);
            }
            Action::ReachGateway { renewal } => state.serve = state.serve.max(LEASE - state.renewals[renewal]?.age),
            Action::Elect { node } => self.elect(&mut state, node),
            Action::ElectWithEnding { node } => {
                state.ended = true;
                self.elect(&mut state, node);
            }
            Action::LearnOfSuccessor => state.nodes[OTHER].believes = false,
            Action::MarkOverdue { node } => state.nodes[node].ending = Ending::Marked,
            Action::ConfirmEnding { node } => {
                state.nodes[node].ending = Ending::Confirmed;
                if self.keeps(Rule::ConfirmsBeforeEnding) {
                    Self::confirm_leader(&mut state);
                }
            }
            Action::ProposeEnding { node } => Self::propose_ending(&mut state, node),
            Action::RefrainFromEnding { node } => state.nodes[node].ending = Ending::No,
            Action::CommitEnding { node } => {
                state.ended = true;
                state.nodes[node].applied = true;
            }
            Action::ApplyEnding { node } => state.nodes[node].applied = true,
            Action::Tick => {
                state.serve = state.serve.saturating_sub(1);
                for node in &mut state.nodes {
                    node.lease = node.lease.saturating_sub(1);
                }
                for renewal in state.renewals.iter_mut().flatten() {
                    renewal.age = (renewal.age + 1).min(LEASE);
                    if let Some(waiting) = &mut renewal.waits {
                        waiting.since = (waiting.since + 1).min(LEASE);
                    }
                }
            }
        }
        Self::tidy(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_SERVES, |_, state: &State| !state.ended || state.serve == 0),
            Property::sometimes("a session ends", |_, state: &State| state.ended),
            Property::sometimes("a leader that was replaced proposes an ending", |_, state: &State| {
                state.nodes[OTHER].ending == Ending::Proposed
            }),
        ]
    }
}

#[test]
fn no_change_of_leaders_lets_two_gateways_serve() {
    holds("leaders", Leaders { without: None });
}

#[test]
fn two_gateways_would_serve_without_any_rule_about_leaders() {
    for rule in [
        Rule::RoundAfterArrival,
        Rule::AppliedToReadIndex,
        Rule::WholeLeaseFromNewLeader,
        Rule::WholeLeaseFromLeaderAgain,
        Rule::EndsOnlyAsLeader,
        Rule::HoldsWhileEnding,
    ] {
        breaks(&format!("leaders without {rule:?}"), || Leaders { without: Some(rule) }, ONE_SERVES);
    }
}

#[test]
fn an_ending_that_is_not_confirmed_first_is_safe_all_the_same() {
    holds("leaders without ConfirmsBeforeEnding", Leaders { without: Some(Rule::ConfirmsBeforeEnding) });
}
