//! What the directory promises about one user: the operations of a history that are about it, and what each does to the set of its
//! live connections. Both checkers of registrations stand on it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use switchboard::directory::{ConnectionId, Epoch};

use crate::history::{Event, History, Kind, Operation};

/// What was asked, and what was answered where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A connection arrives. An exclusive one takes the place of all others, another needs room for one more.
    Register { id: ConnectionId, exclusive: bool, max: usize, answer: Option<Registered> },
    /// A connection leaves; whether it had been there.
    Unregister { id: ConnectionId, exclusive: bool, existed: Option<bool> },
    /// The connections that were shown, with their grants, ordered.
    Lookup { shown: Vec<(ConnectionId, u64)> },
    /// A session ends, with all its connections.
    End { epoch: Epoch },
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Registered {
    /// It was granted.
    Granted { granted: u64, superseded: Vec<ConnectionId> },
    /// There were too many.
    Limit,
}

/// One operation. Positions in the history tell what was before what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) what: What,
    /// It did not take effect before this event.
    pub(super) began: usize,
    /// Nor after this one; `None` if nobody knows when it does, if ever.
    pub(super) ended: Option<usize>,
    /// The revision of the answer, where it has one.
    pub(super) revision: Option<u64>,
}

/// All that is known about one user.
#[derive(Debug, Clone, Default)]
pub(super) struct User {
    /// In the order in which they began.
    pub(super) steps: Vec<Step>,
    /// Registrations that certainly did not happen.
    pub(super) refused: BTreeSet<ConnectionId>,
}

/// The live connections of a user, and the sessions that are known to be over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct State {
    pub(super) live: BTreeSet<ConnectionId>,
    over: BTreeSet<Epoch>,
}

impl State {
    /// The state after this step; `None` if its answer can't have been given here. A step without an answer is always possible,
    /// because it may have been refused.
    pub(super) fn after(&self, what: &What) -> Option<Self> {
        let mut next = self.clone();
        match what {
            What::Register { id, exclusive, max, answer } => {
                let fits = !self.over.contains(&id.epoch) && (*exclusive || self.live.len() < *max);
                match answer {
                    Some(Registered::Limit) => return (!exclusive && self.live.len() >= *max).then_some(next),
                    Some(Registered::Granted { superseded, .. }) => {
                        let takes = if *exclusive { self.live.clone() } else { BTreeSet::new() };
                        if !fits || takes != superseded.iter().copied().collect() {
                            return None;
                        }
                    }
                    None if !fits => return Some(next),
                    None => {}
                }
                if *exclusive {
                    next.live.clear();
                }
                next.live.insert(*id);
            }
            What::Unregister { id, exclusive, existed } => {
                let was = next.live.remove(id);
                // One that lost its place is still known until it is unregistered.
                let may_be_known = *exclusive && !was;
                if existed.is_some_and(|existed| existed != was && !(existed && may_be_known)) {
                    return None;
                }
            }
            What::Lookup { shown } => return self.live.iter().eq(shown.iter().map(|(id, _)| id)).then_some(next),
            What::End { epoch } => {
                next.live.retain(|id| id.epoch != *epoch);
                next.over.insert(*epoch);
            }
        }
        Some(next)
    }
}

/// What is known of a session.
#[derive(Debug, Default)]
struct Life {
    /// It was alive after this event.
    alive: usize,
    /// It was over before this one.
    over: Option<usize>,
}

/// The users of a history, by name.
pub(super) fn users(history: &History) -> BTreeMap<String, User> {
    let operations = history.operations();
    let lives = lives(&operations);
    let mut users: BTreeMap<String, User> = BTreeMap::new();
    for operation in &operations {
        let user = || operation.key().to_owned();
        if let Some(step) = step(operation) {
            users.entry(user()).or_default().steps.push(step);
        } else if let ("register", Kind::Fail, Some(id)) =
            (operation.f(), operation.kind(), id(&operation.invoked.value["connection"]))
        {
            users.entry(user()).or_default().refused.insert(id);
        }
    }
    for user in users.values_mut() {
        add_ends(user, &lives);
    }
    users
}

/// The end of a session is noted nowhere; all that is known is that it lies between the last sign of life and the first answer
/// that says so. It concerns every user with a connection of the session.
fn add_ends(user: &mut User, lives: &BTreeMap<Epoch, Life>) {
    let last = user.steps.iter().filter_map(|step| step.ended).max().unwrap_or_default();
    let epochs: BTreeSet<Epoch> = user.steps.iter().filter_map(|step| Some(step.what.registers()?.epoch)).collect();
    for (epoch, life) in epochs.iter().filter_map(|epoch| Some((*epoch, lives.get(epoch)?))) {
        if life.alive < last {
            let what = What::End { epoch };
            // Where it wrote after it was over there is no order, whatever else is true.
            let began = life.over.map_or(life.alive, |over| over.min(life.alive));
            user.steps.push(Step { what, began, ended: life.over, revision: None });
        }
    }
    user.steps.sort_by_key(|step| step.began);
}

impl What {
    /// Whether it changes nothing wherever its answer is right.
    pub(super) fn observes(&self) -> bool {
        match self {
            Self::Lookup { .. } => true,
            Self::Register { answer, .. } => *answer == Some(Registered::Limit),
            Self::Unregister { existed, .. } => *existed == Some(false),
            Self::End { .. } => false,
        }
    }

    /// The connection that this registers.
    pub(super) fn registers(&self) -> Option<ConnectionId> {
        if let Self::Register { id, .. } = self { Some(*id) } else { None }
    }
}

/// Where each process first asked for its session, by its nonce. Later copies of the request are answered as the first was, so an
/// answer shows that the session was there after the first, and no more.
pub(super) fn first_asked<'a>(operations: &[Operation<'a>]) -> BTreeMap<&'a str, &'a Event> {
    let mut first = BTreeMap::new();
    for open in operations.iter().filter(|operation| operation.f() == "open") {
        first.entry(open.invoked.value["nonce"].as_str().unwrap_or_default()).or_insert(open.invoked);
    }
    first
}

fn lives(operations: &[Operation<'_>]) -> BTreeMap<Epoch, Life> {
    let mut lives: BTreeMap<Epoch, Life> = BTreeMap::new();
    let first_asked = first_asked(operations);
    for operation in operations {
        let value = &operation.invoked.value;
        let epoch = match operation.f() {
            "open" => operation.result().and_then(|session| session["epoch"].as_u64()),
            "renew" | "end" => operation.key().strip_prefix("s-").and_then(|epoch| epoch.parse().ok()),
            "register" | "unregister" => id(&value["connection"]).map(|id| id.epoch),
            _ => None,
        };
        let Some(life) = epoch.map(|epoch| lives.entry(epoch).or_default()) else { continue };
        let Some(ended) = operation.ended else { continue };
        let refused = ended.error.as_deref().unwrap_or_default();
        let says_over = refused.starts_with("gone") || refused.starts_with("fenced");
        match (operation.f(), ended.kind) {
            ("end", Kind::Ok) => life.is_over(ended.index),
            (_, Kind::Fail) if says_over => life.is_over(ended.index),
            ("end", _) => {}
            ("open", Kind::Ok) => {
                let first = first_asked.get(value["nonce"].as_str().unwrap_or_default());
                life.alive = life.alive.max(first.map_or(0, |first| first.index));
            }
            (_, Kind::Ok) => life.alive = life.alive.max(operation.invoked.index),
            _ => {}
        }
    }
    lives
}

impl Life {
    fn is_over(&mut self, at: usize) {
        self.over = Some(self.over.map_or(at, |over| over.min(at)));
    }
}

/// The connection id that a value holds.
pub(super) fn id(value: &Value) -> Option<ConnectionId> {
    value.as_str()?.parse().ok()
}

fn step(operation: &Operation<'_>) -> Option<Step> {
    let (asked, result) = (&operation.invoked.value, operation.result());
    if operation.kind() == Kind::Fail {
        return None;
    }
    let exclusive = asked["policy"] == "newest_wins";
    let what = match operation.f() {
        "register" => {
            let max = usize::try_from(asked["max"].as_u64().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
            What::Register { id: id(&asked["connection"])?, exclusive, max, answer: result.and_then(registered) }
        }
        "unregister" => {
            let existed = result.and_then(|result| result["existed"].as_bool());
            What::Unregister { id: id(&asked["connection"])?, exclusive, existed }
        }
        "lookup" => What::Lookup { shown: shown(result?)? },
        _ => return None,
    };
    let revision = result.and_then(|result| result["revision"].as_u64());
    let ended = operation.known().and(operation.ended).map(|ended| ended.index);
    Some(Step { what, began: operation.invoked.index, ended, revision })
}

fn registered(result: &Value) -> Option<Registered> {
    if result["limit"] == true {
        return Some(Registered::Limit);
    }
    let superseded = result["superseded"].as_array().into_iter().flatten().filter_map(id).collect();
    Some(Registered::Granted { granted: result["granted"].as_u64()?, superseded })
}

/// `{"connections":[["c-1-2",17],…]}`
fn shown(result: &Value) -> Option<Vec<(ConnectionId, u64)>> {
    let all = result["connections"].as_array()?.iter().map(|pair| Some((id(&pair[0])?, pair[1].as_u64()?)));
    let mut shown: Vec<_> = all.collect::<Option<_>>()?;
    shown.sort_unstable();
    Some(shown)
}
