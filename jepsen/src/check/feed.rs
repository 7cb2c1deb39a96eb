//! What watchers saw, put together into one order of changes, and what that makes of the directory.
//!
//! A `watch` is one stream: invoked with where it asks, from which mark and with which filter; ended `ok` with all lines that
//! came, or with the refusal. Watchers of one run can contradict each other: [`Log::of`] keeps what was seen first, and the
//! checker of watches tells who saw something else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::history::{History, Operation};

/// A place in the order of changes: revision, and number within it; [`ALL`] of them for the end of a revision.
pub type Position = (u64, u32);

/// As the number within a revision: after everything of it.
pub const ALL: u32 = u32::MAX;

/// Reads a mark, `R` or `R.n`.
pub fn position(mark: &str) -> Option<Position> {
    match mark.split_once('.') {
        Some((revision, n)) => Some((revision.parse().ok()?, n.parse().ok()?)),
        None => Some((mark.parse().ok()?, ALL)),
    }
}

/// Writes a mark.
pub fn mark((revision, n): Position) -> String {
    if n == ALL { revision.to_string() } else { format!("{revision}.{n}") }
}

/// The place right before another.
fn before((revision, n): Position) -> Position {
    match n {
        ALL => (revision, ALL),
        0 => (revision.saturating_sub(1), ALL),
        n => (revision, n - 1),
    }
}

/// Where a line of a stream stands; `None` if it does not say.
pub fn place(line: &Value) -> Option<Position> {
    let revision = line["revision"].as_u64()?;
    match line["type"].as_str()? {
        "progress" => Some((revision, ALL)),
        _ => Some((revision, u32::try_from(line["n"].as_u64()?).ok()?)),
    }
}

/// What a watch asks for.
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a>(&'a Value);

impl Filter<'_> {
    /// Whether it asks for everything.
    pub fn is_everything(self) -> bool {
        ["types", "user", "prefix"].iter().all(|name| self.0[name].is_null())
    }

    /// Whether it asks for this change.
    pub fn wants(self, change: &Value) -> bool {
        let types = self.0["types"].as_array();
        let user = change["user"].as_str();
        types.is_none_or(|types| types.contains(&change["type"]))
            && self.0["user"].as_str().is_none_or(|wanted| user == Some(wanted))
            && self.0["prefix"].as_str().is_none_or(|prefix| user.is_some_and(|user| user.starts_with(prefix)))
    }
}

/// One stream.
#[derive(Debug, Clone)]
pub struct Segment<'a> {
    /// Index of the event at which it ended.
    pub event: usize,
    /// What it asked for.
    pub filter: Filter<'a>,
    /// The mark that it gave; none: from now on.
    pub from: Option<Position>,
    /// What came, as it came, progress marks too.
    pub lines: &'a [Value],
}

impl<'a> Segment<'a> {
    fn of(operation: &Operation<'a>) -> Option<Self> {
        let (asked, ended) = (&operation.invoked.value, operation.ended?);
        let lines = operation.result()?["lines"].as_array()?;
        let from = asked["from"].as_str().and_then(position);
        Some(Self { event: ended.index, filter: Filter(asked), from, lines })
    }

    /// What it claims to show everything of: after the first place, up to and with the second.
    pub fn range(&self) -> Option<(Position, Position)> {
        let first = self.lines.iter().find_map(place);
        let last = self.lines.iter().filter_map(place).max();
        let from = self.from.or_else(|| first.map(before))?;
        Some((from, last.unwrap_or(from).max(from)))
    }
}

/// All streams that were opened.
pub fn segments<'a>(operations: &[Operation<'a>]) -> Vec<Segment<'a>> {
    operations.iter().filter(|operation| operation.f() == "watch").filter_map(Segment::of).collect()
}

/// Everything that any watcher saw.
#[derive(Debug, Default)]
pub struct Log<'a> {
    /// The changes in their order, each with the index of an event that shows it.
    pub changes: BTreeMap<Position, (&'a Value, usize)>,
    /// The parts of the order of which someone saw everything, as [`Segment::range`] gives them, in order and apart.
    pub covered: Vec<(Position, Position)>,
}

impl<'a> Log<'a> {
    /// Puts together what streams showed.
    pub fn of(segments: &[Segment<'a>]) -> Self {
        let mut log = Self::default();
        let mut ranges = Vec::new();
        for segment in segments {
            for line in segment.lines.iter().filter(|line| line["type"] != "progress") {
                if let Some(place) = place(line) {
                    log.changes.entry(place).or_insert((line, segment.event));
                }
            }
            if segment.filter.is_everything() {
                ranges.extend(segment.range());
            }
        }
        ranges.sort_unstable();
        for (from, to) in ranges {
            match log.covered.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => log.covered.push((from, to)),
            }
        }
        log
    }

    /// As [`Self::of`], of a whole history.
    pub fn of_history(history: &'a History) -> Self {
        Self::of(&segments(&history.operations()))
    }

    /// The last revision up to which, from the very first one, nothing is missing.
    pub fn complete_to(&self) -> u64 {
        match self.covered.first() {
            Some(((0, _), (revision, ALL))) => *revision,
            Some(((0, _), (revision, _))) => revision.saturating_sub(1),
            _ => 0,
        }
    }
}

/// A connection, as far as changes tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection<'a> {
    /// Whose.
    pub user: &'a str,
    /// The revision of its grant.
    pub granted: u64,
    /// At which gateway.
    pub gateway: &'a str,
    /// On which device; empty for none.
    pub device: &'a str,
    /// The latest metadata that a change told, and their version.
    pub meta: Option<(&'a Value, u64)>,
}

/// The directory at one revision, made of changes alone.
#[derive(Debug, Default)]
pub struct State<'a> {
    /// By id.
    pub connections: BTreeMap<&'a str, Connection<'a>>,
    /// How many of each user.
    pub users: BTreeMap<&'a str, usize>,
    /// Names of the gateways that have subscribers, by topic.
    pub topics: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// Live sessions: gateway by epoch.
    pub sessions: BTreeMap<u64, &'a str>,
}

impl<'a> State<'a> {
    /// Follows one change.
    ///
    /// # Errors
    /// When the change does not fit: what opens is there, what closes is not. The sentence says what.
    pub fn follow(&mut self, change: &'a Value) -> Result<(), String> {
        let text = |name: &str| change[name].as_str().unwrap_or_default();
        let (id, user, gateway, topic) = (text("connection"), text("user"), text("gateway"), text("topic"));
        let epoch = change["epoch"].as_u64().unwrap_or_default();
        let fits = match text("type") {
            "connection.opened" => {
                let granted = change["granted"].as_u64().unwrap_or_default();
                let connection = Connection { user, granted, gateway, device: text("device"), meta: None };
                *self.users.entry(user).or_default() += 1;
                self.connections.insert(id, connection).is_none()
            }
            "connection.closed" => {
                if let Some(count) = self.users.get_mut(user) {
                    *count = count.saturating_sub(1);
                }
                self.connections.remove(id).is_some_and(|connection| connection.user == user)
            }
            "meta.changed" => match self.connections.get_mut(id) {
                Some(connection) => {
                    connection.meta = Some((&change["meta"], change["meta_version"].as_u64().unwrap_or_default()));
                    true
                }
                None => false,
            },
            "user.online" => self.users.get(user) == Some(&1),
            "user.offline" => self.users.get(user) == Some(&0),
            "gateway.up" => self.sessions.insert(epoch, gateway).is_none(),
            "gateway.down" => self.sessions.remove(&epoch).is_some(),
            "topic.joined" => self.topics.entry(topic).or_default().insert(gateway),
            "topic.left" => self.topics.get_mut(topic).is_some_and(|gateways| gateways.remove(gateway)),
            _ => true,
        };
        if fits { Ok(()) } else { Err(format!("{change} does not follow from what came before")) }
    }
}

/// Goes through a log, from its beginning on.
#[derive(Debug)]
pub struct Replay<'a, 'l> {
    /// What it has come to.
    pub state: State<'a>,
    /// Changes that did not fit, each with the index of an event that shows it.
    pub misfits: Vec<(String, usize)>,
    rest: std::iter::Peekable<std::collections::btree_map::Iter<'l, Position, (&'a Value, usize)>>,
}

impl<'a, 'l> Replay<'a, 'l> {
    /// Before the first change.
    pub fn new(log: &'l Log<'a>) -> Self {
        Self { state: State::default(), misfits: Vec::new(), rest: log.changes.iter().peekable() }
    }

    /// Follows everything up to and with a revision; it never goes back.
    pub fn to(&mut self, revision: u64) -> &State<'a> {
        while let Some((_, (change, event))) = self.rest.next_if(|((at, _), _)| *at <= revision) {
            if let Err(misfit) = self.state.follow(change) {
                self.misfits.push((misfit, *event));
            }
        }
        &self.state
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn marks_are_read_as_they_are_written_and_in_order() {
        for text in ["7", "7.0", "7.12"] {
            assert_eq!(mark(position(text).unwrap()), text);
        }
        assert!(
            position("7.0") < position("7.12") && position("7.12") < position("7") && position("7") < position("8.0")
        );
        assert_eq!((before((7, 0)), before((7, 2)), before((7, ALL))), ((6, ALL), (7, 1), (7, ALL)));
        assert_eq!((position("x"), position("7.x")), (None, None));
    }

    #[test]
    fn filters_want_what_they_say() {
        let change = json!({ "type": "connection.opened", "user": "ab" });
        for (filter, wants) in [
            (json!({}), true),
            (json!({ "types": ["connection.opened"] }), true),
            (json!({ "types": ["connection.closed"] }), false),
            (json!({ "user": "ab" }), true),
            (json!({ "user": "a" }), false),
            (json!({ "prefix": "a" }), true),
            (json!({ "prefix": "b" }), false),
        ] {
            assert_eq!(Filter(&filter).wants(&change), wants, "{filter}");
        }
        assert!(!Filter(&json!({ "prefix": "" })).wants(&json!({ "type": "gateway.up" })), "it is about no user");
    }

    #[test]
    fn changes_make_a_state_and_misfits_are_told() {
        let (gateway, user) = ("gw", "a");
        let opened = json!({ "type": "connection.opened", "connection": "c-1-1", "user": user, "gateway": gateway, "granted": 2 });
        let online = json!({ "type": "user.online", "user": user });
        let joined = json!({ "type": "topic.joined", "topic": "t", "gateway": gateway, "epoch": 1 });
        let mut state = State::default();
        for change in [&opened, &online, &joined] {
            state.follow(change).unwrap();
        }
        assert_eq!((state.connections["c-1-1"].granted, state.topics["t"].contains("gw")), (2, true));
        assert!(state.follow(&opened).is_err() && state.follow(&online).is_err() && state.follow(&joined).is_err());
        let closed = json!({ "type": "connection.closed", "connection": "c-1-2", "user": user });
        assert!(state.follow(&closed).is_err());
    }

    #[test]
    fn what_streams_cover_is_joined_where_it_meets() {
        let one = [json!({ "revision": 3, "n": 0, "type": "a" }), json!({ "revision": 5, "type": "progress" })];
        let two = [json!({ "revision": 8, "n": 1, "type": "b" })];
        let everything = json!({});
        let filter = Filter(&everything);
        let first = Segment { event: 0, filter, from: position("0"), lines: &one };
        let second = |from| Segment { event: 0, filter, from: position(from), lines: &two };
        let log = Log::of(&[first.clone(), second("4")]);
        assert_eq!((log.covered.len(), log.complete_to(), log.changes.len()), (1, 7, 2));
        let log = Log::of(&[first, second("6")]);
        assert_eq!((log.covered.len(), log.complete_to()), (2, 5));
    }
}
