//! One user who may have one connection, and three of them: who owns the user, who waits, and who serves.
//!
//! No time passes here. The other worlds show that a gateway is fenced before its session expires and before the claims of
//! one that ended otherwise are released; so both are possible only then. Batches of one session are in order, and each
//! takes effect once; those of a session that is over may arrive at any time.

use stateright::{Model, Property};

use crate::{NEWEST_WINS, NO_GHOSTS, ONE_SERVES, STAYS, breaks, holds};

/// Two connections at the first gateway, one at the second.
const GATEWAY_OF: [usize; 3] = [0, 1, 0];

/// Sessions that a gateway may have, one after the other. Their numbers stand for epochs.
const SESSIONS: usize = 2;

/// What may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A newcomer waits until the owner is unregistered.
    NewcomerWaits,
    /// An unregistration frees the claim of the very connection that it names, and of the session that it comes from.
    OnlyOwnUnregistrationFrees,
    /// A gateway stops a socket before it unregisters the connection.
    StopsBeforeUnregistering,
    /// A kick is a request to the gateway, and no removal.
    KicksAreRequests,
    /// A batch of a session that is over changes nothing.
    DeadSessionsNeverWrite,
    /// A connection that is registered again with `since` never takes over.
    SinceNeverTakesOver,
}

struct Handover {
    without: Option<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    gateways: [Gateway; 2],
    connections: [Connection; 3],
    owner: Option<Owner>,
    pending: Option<(usize, usize)>,
    /// Connections by their latest grant, the newest last.
    granted: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Gateway {
    /// The session that it believes to have.
    session: usize,
    alive: bool,
    fenced: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Connection {
    socket: Socket,
    /// It has been told of a grant, so it is registered again with `since`.
    welcomed: bool,
    /// Registrations and unregistrations that are under way, by session.
    registers: [bool; SESSIONS],
    unregisters: [bool; SESSIONS],
    /// The session under which it was granted the user last.
    granted: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Socket {
    NotYet,
    Asking,
    Serving,
    /// It serves, and its unregistration is under way. Only where a rule is left out.
    Leaving,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Owner {
    connection: usize,
    session: usize,
    /// Its session is alive; a claim that outlives it is not seen by anybody.
    visible: bool,
}

/// A socket is closed because its client leaves, or because the gateway is asked to release or to kick it; what is removed is
/// removed by a kick that does not ask the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Open { connection: usize },
    Register { connection: usize, session: usize },
    Welcome { connection: usize },
    Close { connection: usize },
    StopSocket { connection: usize },
    Unregister { connection: usize, session: usize },
    Remove,
    Fence { gateway: usize },
    Renew { gateway: usize },
    Expire { gateway: usize },
    EndByHint { gateway: usize },
    ReleaseClaim,
    OpenNextSession { gateway: usize },
}

impl State {
    fn serves(&self, connection: usize) -> bool {
        let serving = matches!(self.connections[connection].socket, Socket::Serving | Socket::Leaving);
        serving && !self.gateways[GATEWAY_OF[connection]].fenced
    }

    fn is_alive(&self, gateway: usize, session: usize) -> bool {
        self.gateways[gateway].alive && self.gateways[gateway].session == session
    }

    fn grant(&mut self, connection: usize, session: usize) {
        self.owner = Some(Owner { connection, session, visible: true });
        self.granted.retain(|earlier| *earlier != connection);
        self.granted.push(connection);
        self.connections[connection].granted = Some(session);
    }

    fn free(&mut self) {
        self.owner = None;
        if let Some((connection, session)) = self.pending.take() {
            self.grant(connection, session);
        }
    }

    fn end_session(&mut self, gateway: usize, keep_claims: bool) {
        self.gateways[gateway].alive = false;
        self.pending = self.pending.filter(|(connection, _)| GATEWAY_OF[*connection] != gateway);
        match &mut self.owner {
            Some(owner) if GATEWAY_OF[owner.connection] != gateway => {}
            Some(owner) if keep_claims => owner.visible = false,
            Some(_) => self.free(),
            None => {}
        }
    }

    fn close(&mut self, connection: usize) {
        self.connections[connection].socket = Socket::Closed;
        self.connections[connection].unregisters[self.gateways[GATEWAY_OF[connection]].session] = true;
    }
}

impl Handover {
    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    fn register(&self, state: &mut State, connection: usize, session: usize) {
        if self.keeps(Rule::DeadSessionsNeverWrite) && !state.is_alive(GATEWAY_OF[connection], session) {
            return;
        }
        let Some(owner) = state.owner else { return state.grant(connection, session) };
        if owner.connection == connection || !self.keeps(Rule::NewcomerWaits) {
            state.grant(connection, session);
        } else if state.connections[connection].welcomed && self.keeps(Rule::SinceNeverTakesOver) {
            state.close(connection);
        } else if let Some((superseded, _)) = state.pending.replace((connection, session)) {
            state.close(superseded);
        }
    }

    fn unregister(&self, state: &mut State, connection: usize, session: usize) {
        if self.keeps(Rule::DeadSessionsNeverWrite) && !state.is_alive(GATEWAY_OF[connection], session) {
            return;
        }
        state.pending = state.pending.filter(|pending| *pending != (connection, session));
        let named = |owner: Owner| (owner.connection, owner.session) == (connection, session);
        if state.owner.is_some_and(named) || !self.keeps(Rule::OnlyOwnUnregistrationFrees) {
            state.free();
        }
    }

    /// What no longer matters is forgotten, so that equal worlds are equal states.
    fn tidy(&self, state: &mut State) {
        let State { gateways, connections, owner, pending, granted } = state;
        for (number, connection) in connections.iter_mut().enumerate() {
            let gateway = &gateways[GATEWAY_OF[number]];
            for session in (0..SESSIONS).filter(|session| !gateway.alive || *session < gateway.session) {
                if self.keeps(Rule::DeadSessionsNeverWrite) {
                    connection.registers[session] = false;
                    connection.unregisters[session] = false;
                }
            }
            let waits = pending.is_some_and(|(pending, _)| pending == number);
            let owns = owner.is_some_and(|owner| owner.connection == number);
            let asks = connection.registers.contains(&true);
            if connection.socket == Socket::Closed && !waits && !owns && !asks {
                connection.welcomed = false;
                connection.granted = None;
                granted.retain(|granted| *granted != number);
            }
        }
    }

    fn gateway_actions(state: &State, number: usize, actions: &mut Vec<Action>) {
        let gateway = &state.gateways[number];
        if !gateway.alive {
            if gateway.session + 1 < SESSIONS {
                actions.push(Action::OpenNextSession { gateway: number });
            }
            if !gateway.fenced {
                actions.push(Action::Fence { gateway: number });
            }
            return;
        }
        actions.push(Action::EndByHint { gateway: number });
        if gateway.fenced {
            actions.extend([Action::Renew { gateway: number }, Action::Expire { gateway: number }]);
        } else {
            actions.push(Action::Fence { gateway: number });
        }
    }

    fn connection_actions(state: &State, number: usize, actions: &mut Vec<Action>) {
        let connection = &state.connections[number];
        let gateway = &state.gateways[GATEWAY_OF[number]];
        for session in 0..SESSIONS {
            if connection.registers[session] {
                actions.push(Action::Register { connection: number, session });
            } else if connection.unregisters[session] {
                actions.push(Action::Unregister { connection: number, session });
            }
        }
        match connection.socket {
            Socket::NotYet => actions.push(Action::Open { connection: number }),
            Socket::Asking | Socket::Serving => actions.push(Action::Close { connection: number }),
            Socket::Leaving => actions.push(Action::StopSocket { connection: number }),
            Socket::Closed => {}
        }
        if connection.socket == Socket::Asking && connection.granted == Some(gateway.session) && !gateway.fenced {
            actions.push(Action::Welcome { connection: number });
        }
    }
}

impl Model for Handover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let gateway = Gateway { session: 0, alive: true, fenced: false };
        let connection = Connection {
            socket: Socket::NotYet,
            welcomed: false,
            registers: [false; SESSIONS],
            unregisters: [false; SESSIONS],
            granted: None,
        };
        vec![State {
            gateways: [gateway.clone(), gateway],
            connections: [connection.clone(), connection.clone(), connection],
            owner: None,
            pending: None,
            granted: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for number in 0..state.gateways.len() {
            Self::gateway_actions(state, number, actions);
        }
        for number in 0..state.connections.len() {
            Self::connection_actions(state, number, actions);
        }
        let Some(owner) = state.owner else { return };
        if !self.keeps(Rule::KicksAreRequests) {
            actions.push(Action::Remove);
        }
        let gateway = &state.gateways[GATEWAY_OF[owner.connection]];
        if !owner.visible && (gateway.fenced || gateway.session > owner.session) {
            actions.push(Action::ReleaseClaim);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Open { connection } => {
                let session = state.gateways[GATEWAY_OF[connection]].session;
                state.connections[connection].socket = Socket::Asking;
                state.connections[connection].registers[session] = true;
            }
            Action::Register { connection, session } => {
                state.connections[connection].registers[session] = false;
                self.register(&mut state, connection, session);
            }
            Action::Welcome { connection } => {
                state.connections[connection].socket = Socket::Serving;
                state.connections[connection].welcomed = true;
            }
            Action::Close { connection } => {
                let stops = self.keeps(Rule::StopsBeforeUnregistering);
                let serving = state.connections[connection].socket == Socket::Serving;
                state.close(connection);
                if serving && !stops {
                    state.connections[connection].socket = Socket::Leaving;
                }
            }
            Action::StopSocket { connection } => state.connections[connection].socket = Socket::Closed,
            Action::Unregister { connection, session } => {
                state.connections[connection].unregisters[session] = false;
                self.unregister(&mut state, connection, session);
            }
            Action::Remove | Action::ReleaseClaim => state.free(),
            Action::Fence { gateway } => state.gateways[gateway].fenced = true,
            Action::Renew { gateway } => state.gateways[gateway].fenced = false,
            Action::Expire { gateway } => state.end_session(gateway, false),
            Action::EndByHint { gateway } => state.end_session(gateway, true),
            Action::OpenNextSession { gateway } => {
                let session = state.gateways[gateway].session + 1;
                state.gateways[gateway] = Gateway { session, alive: true, fenced: false };
                let here = state.connections.iter_mut().zip(GATEWAY_OF).filter(|(_, at)| *at == gateway);
                for (connection, _) in here {
                    match connection.socket {
                        Socket::Asking | Socket::Serving => {
                            connection.socket = Socket::Asking;
                            connection.registers[session] = true;
                        }
                        Socket::Leaving => connection.socket = Socket::Closed,
                        Socket::NotYet | Socket::Closed => {}
                    }
                }
            }
        }
        self.tidy(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_SERVES, |_, state: &State| {
                (0..GATEWAY_OF.len()).filter(|connection| state.serves(*connection)).count() <= 1
            }),
            Property::always(STAYS, |_, state: &State| {
                let owns = |number| state.owner.is_some_and(|owner| owner.connection == number && owner.visible);
                state.connections.iter().enumerate().all(|(number, connection)| {
                    let gateway = &state.gateways[GATEWAY_OF[number]];
                    connection.socket != Socket::Serving || !gateway.alive || owns(number)
                })
            }),
            Property::always(NO_GHOSTS, |_, state: &State| {
                state
                    .owner
                    .is_none_or(|owner| !owner.visible || state.is_alive(GATEWAY_OF[owner.connection], owner.session))
            }),
            Property::always(NEWEST_WINS, |_, state: &State| {
                let granted = |number| state.granted.iter().position(|connection| *connection == number);
                let (Some(owner), Some((pending, _))) = (state.owner, state.pending) else { return true };
                !state.connections[pending].welcomed || granted(pending) > granted(owner.connection)
            }),
            Property::sometimes("all three wait, own and have owned", |_, state: &State| {
                state.granted.len() == 2 && state.pending.is_some()
            }),
            Property::sometimes("a connection is registered again and serves on", |_, state: &State| {
                state.gateways[0].session == 1 && state.connections[0].welcomed && state.serves(0)
            }),
        ]
    }
}

#[test]
fn a_user_goes_from_one_gateway_to_the_next_and_is_never_at_two() {
    holds("handover", Handover { without: None });
}

#[test]
fn a_user_would_be_at_two_gateways_or_at_none_without_any_rule_about_handover() {
    for (rule, property) in [
        (Rule::NewcomerWaits, ONE_SERVES),
        (Rule::OnlyOwnUnregistrationFrees, ONE_SERVES),
        (Rule::OnlyOwnUnregistrationFrees, STAYS),
        (Rule::StopsBeforeUnregistering, ONE_SERVES),
        (Rule::KicksAreRequests, ONE_SERVES),
        (Rule::DeadSessionsNeverWrite, NO_GHOSTS),
        (Rule::SinceNeverTakesOver, NEWEST_WINS),
    ] {
        breaks(&format!("handover without {rule:?}"), || Handover { without: Some(rule) }, property);
    }
}
