//! Leases end when they should: no session that renews is lost, and what fell silent is forgotten in time.
//!
//! A renewal that was acknowledged keeps its session for a lease from when it was *sent*; what ends before 0.8 of that is a *false
//! expiry*. What is shown longer than a lease and half a second after the later of the silence and the last promotion is a
//! *ghost*. Promotions are noted by polling, and the machine is noisy, so that bound has a slack of its own.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use switchboard::directory::{ConnectionId, Epoch};

use super::user::{first_asked, id};
use crate::history::{Event, History, Kind, Operation};
use crate::verdict::{Anomaly, Checked};

/// Nanoseconds.
pub(super) type Time = u64;

const MS: Time = 1_000_000;

/// What an entry may be shown after the lease is over.
const CLEAN_UP: Time = 500 * MS;

/// For promotions that are noted late, and for a machine that does not come to it.
const SLACK: Time = 1_500 * MS;

/// The lease of gateways, which is the default.
const GATEWAY_LEASE: Time = 3_000 * MS;

/// A fault may be felt by a gateway for so long after it was healed.
const AFTERMATH: Time = 10_000 * MS;

/// A gateway notes the end of a socket, or a rebound, at most so long after it.
const NOTED_LATE: Time = 2_000 * MS;

/// Checks the whole history.
pub fn check(history: &History) -> Checked {
    let operations = history.operations();
    let faults = history.faults();
    let held = held(&operations);
    let mut judge = Judge {
        sessions: sessions(&operations),
        watched: held.keys().copied().collect(),
        held,
        promotions: promotions(&operations),
        troubles: troubles(&faults),
        gone: BTreeMap::new(),
        anomalies: Vec::new(),
        judged: 0,
    };
    judge.renewals_refused();
    for look in operations.iter().filter(|operation| operation.f() == "look") {
        judge.look(look);
    }
    judge.checked()
}

#[derive(Debug, Default)]
pub(super) struct Session {
    lease: Time,
    /// When each renewal that was acknowledged was sent, in order.
    renewed: Vec<Time>,
    /// When and where the directory said that it was over.
    refused: Option<(Time, usize)>,
    silent: Option<Time>,
    /// When renewals were sent whose outcome is not known; they may have arrived later.
    unknown: Vec<Time>,
}

impl Session {
    /// How long it certainly lived, as far as was known before `now`.
    pub(super) fn lives_until(&self, now: Time) -> Option<Time> {
        let last = self.renewed.iter().rev().find(|sent| **sent <= now)?;
        Some(last + self.lease * 8 / 10)
    }

    /// When it fell silent, if that is certain.
    fn fell_silent(&self) -> Option<Time> {
        self.silent.filter(|silent| self.unknown.iter().all(|sent| sent + AFTERMATH < *silent))
    }
}

/// A connection that stays.
#[derive(Debug)]
struct Held {
    /// It was acknowledged here.
    since: Time,
    /// It is not held any more from here, for its own reasons.
    until: Time,
    /// Whose it is; none for a session of the test's own.
    gateway: Option<String>,
}

/// What is known of each session of the test's own.
pub(super) fn sessions(operations: &[Operation<'_>]) -> BTreeMap<Epoch, Session> {
    let mut sessions: BTreeMap<Epoch, Session> = BTreeMap::new();
    let first_asked = first_asked(operations);
    for operation in operations {
        let named = || operation.key().strip_prefix("s-").and_then(|epoch| epoch.parse().ok());
        let epoch = match operation.f() {
            "open" => operation.result().and_then(|session| session["epoch"].as_u64()),
            "renew" | "silent" => named(),
            _ => None,
        };
        let Some(session) = epoch.map(|epoch| sessions.entry(epoch).or_default()) else { continue };
        match (operation.f(), operation.kind()) {
            ("open", Kind::Ok) => {
                session.lease = operation.result().and_then(|body| body["lease_ms"].as_u64()).unwrap_or_default() * MS;
                let nonce = operation.invoked.value["nonce"].as_str().unwrap_or_default();
                session.renewed.extend(first_asked.get(nonce).map(|first| first.time));
            }
            ("renew", Kind::Ok) => session.renewed.push(operation.began()),
            ("renew", Kind::Info) => session.unknown.push(operation.began()),
            ("renew", Kind::Fail) => session.refuse(operation.ended),
            ("silent", _) => session.silent = Some(operation.began()),
            _ => {}
        }
    }
    sessions.values_mut().for_each(|session| session.renewed.sort_unstable());
    sessions
}

impl Session {
    fn refuse(&mut self, ended: Option<&Event>) {
        let gone = ended.filter(|ended| ended.error.as_deref().is_some_and(|why| why.starts_with("gone")));
        if let (None, Some(gone)) = (self.refused, gone) {
            self.refused = Some((gone.time, gone.index));
        }
    }
}

fn held(operations: &[Operation<'_>]) -> BTreeMap<ConnectionId, Held> {
    let mut held: BTreeMap<ConnectionId, Held> = BTreeMap::new();
    // What each client at a gateway holds now.
    let mut now: BTreeMap<&str, ConnectionId> = BTreeMap::new();
    for operation in operations {
        let (Some(result), Some(known)) = (operation.result(), operation.known()) else { continue };
        let mut hold = |id, gateway| drop(held.insert(id, Held { since: known, until: Time::MAX, gateway }));
        match operation.f() {
            "register" => id(&operation.invoked.value["connection"]).into_iter().for_each(|id| hold(id, None)),
            "connect" | "rebound" => {
                let gateway = result["gateway"].as_str().map(str::to_owned);
                let former = id(&result["connection"]).and_then(|id| {
                    hold(id, gateway);
                    now.insert(operation.key(), id)
                });
                former.into_iter().for_each(|former| end(&mut held, former, known));
            }
            "closed" => now.remove(operation.key()).into_iter().for_each(|id| end(&mut held, id, known)),
            _ => {}
        }
    }
    held
}

fn end(held: &mut BTreeMap<ConnectionId, Held>, id: ConnectionId, at: Time) {
    if let Some(held) = held.get_mut(&id) {
        held.until = held.until.min(at);
    }
}

/// When each term was first seen to have a leader.
fn promotions(operations: &[Operation<'_>]) -> Vec<Time> {
    let mut terms = BTreeMap::new();
    for seen in operations.iter().filter(|operation| operation.f() == "term") {
        let Some(result) = seen.result().filter(|result| !result["leader"].is_null()) else { continue };
        terms.entry(result["term"].as_u64()).or_insert(seen.began());
    }
    let mut promotions: Vec<Time> = terms.into_values().collect();
    promotions.sort_unstable();
    promotions
}

/// A time in which something was broken.
#[derive(Debug)]
struct Trouble {
    from: Time,
    /// What was broken was healed here.
    until: Time,
    /// Killed here.
    killed: Option<Time>,
    /// Names of what was broken; none where that is not told, and may be everything.
    whom: Option<BTreeSet<String>>,
}

impl Trouble {
    fn touches(&self, gateway: &str) -> bool {
        self.whom.as_ref().is_none_or(|whom| whom.contains(gateway))
    }

    /// Whether the directory may have been unable to decide anything, also without a promotion: one node that dies or stands
    /// still leaves a majority, of everything else that is not known.
    fn may_stop_decisions(&self) -> bool {
        let is_node = |name: &&String| name.starts_with("node-");
        self.whom.as_ref().is_none_or(|whom| whom.iter().filter(is_node).count() > 1)
    }

    /// Whether it touched gateways and nothing else.
    fn is_of_gateways(&self) -> bool {
        self.whom.as_ref().is_some_and(|whom| whom.iter().all(|name| !name.starts_with("node-")))
    }
}

fn troubles(faults: &[Operation<'_>]) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    for (nth, fault) in faults.iter().enumerate().filter(|(_, fault)| !fault.f().ends_with("-end")) {
        if fault.kind() == Kind::Fail {
            continue;
        }
        let end = format!("{}-end", fault.f());
        let healed = faults[nth..].iter().find(|other| other.f() == end).and_then(Operation::known);
        let listed = matches!(fault.f(), "kill" | "kill-all" | "pause" | "pause-lease")
            .then(|| fault.result().and_then(Value::as_array))
            .flatten();
        let whom = listed.map(|names| names.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect());
        let killed = fault.known().filter(|_| fault.f().starts_with("kill"));
        troubles.push(Trouble { from: fault.began(), until: healed.unwrap_or(Time::MAX), killed, whom });
    }
    troubles
}

struct Judge {
    sessions: BTreeMap<Epoch, Session>,
    held: BTreeMap<ConnectionId, Held>,
    promotions: Vec<Time>,
    troubles: Vec<Trouble>,
    /// What is looked for.
    watched: BTreeSet<ConnectionId>,
    /// What was not shown any more: when that was known, and how long after the silence or the kill.
    gone: BTreeMap<ConnectionId, (Time, Time)>,
    anomalies: Vec<Anomaly>,
    /// Looks at held connections that said something.
    judged: usize,
}

impl Judge {
    fn tell(&mut self, name: &str, what: String, events: Vec<usize>) {
        self.anomalies.push(Anomaly { name: name.to_owned(), what, events });
    }

    fn renewals_refused(&mut self) {
        let early = self.sessions.iter().filter_map(|(epoch, session)| {
            let (at, event) = session.refused?;
            let until = session.lives_until(at).filter(|until| at < *until)?;
            Some((*epoch, event, (until - at) / MS))
        });
        for (epoch, event, ms) in early.collect::<Vec<_>>() {
            let what = format!("session {epoch} was said to be over {ms} ms before it could be");
            self.tell("false expiry", what, vec![event]);
        }
    }

    fn look(&mut self, look: &Operation<'_>) {
        let (Some(result), Some(ended)) = (look.result(), look.ended) else { return };
        let shown: BTreeSet<ConnectionId> =
            result["connections"].as_array().into_iter().flatten().filter_map(id).collect();
        let (from, to) = (look.began(), ended.time);
        let mut found = Vec::new();
        let back = shown.iter().filter(|id| self.gone.get(id).is_some_and(|(at, _)| *at < from));
        found.extend(back.map(|id| ("came back", format!("{id} is shown again after it was gone"))));
        for id in std::mem::take(&mut self.watched) {
            let held = &self.held[&id];
            let is_shown = shown.contains(&id);
            let lost = !is_shown && held.since <= from && self.must_be_shown(id, held, from, to);
            if lost {
                found.push(("false expiry", format!("{id} is not shown, and its session was alive")));
            }
            self.judged += usize::from(lost || is_shown);
            let silent = self.silence(id, held).filter(|silent| *silent < from);
            match silent {
                Some(silent) if !is_shown => drop(self.gone.insert(id, (to, to - silent))),
                Some(silent) => {
                    found.extend(self.ghost(id, held, silent, from).map(|what| ("ghost", what)));
                    self.watched.insert(id);
                }
                // It left by itself.
                None if held.until.saturating_add(NOTED_LATE) < from => {}
                None => drop(self.watched.insert(id)),
            }
        }
        for (name, what) in found {
            self.tell(name, what, vec![look.invoked.index, ended.index]);
        }
    }

    /// What is wrong with showing something that is silent since then.
    fn ghost(&self, id: ConnectionId, held: &Held, silent: Time, now: Time) -> Option<String> {
        let own = || self.sessions.get(&id.epoch).map(|session| session.lease);
        let lease = held.gateway.as_ref().map_or_else(own, |_| None).unwrap_or(GATEWAY_LEASE);
        let bound = silent.max(self.able_since(now)?) + lease + CLEAN_UP;
        let late = now.checked_sub(bound + SLACK)? / MS;
        Some(format!("{id} is shown, and had to be forgotten {late} ms ago, with all slack"))
    }

    /// Since when one leader can have decided without interruption, as far as is known at that time; `None` if that is not certain.
    fn able_since(&self, now: Time) -> Option<Time> {
        let promoted = self.promotions.iter().rev().find(|at| **at <= now).copied().unwrap_or_default();
        let stops = || self.troubles.iter().filter(|trouble| trouble.may_stop_decisions() && trouble.from <= now);
        if stops().any(|trouble| trouble.until > now) {
            return None;
        }
        Some(stops().map(|trouble| trouble.until).fold(promoted, Time::max))
    }

    /// Whether a look between these times has to show it.
    fn must_be_shown(&self, id: ConnectionId, held: &Held, from: Time, to: Time) -> bool {
        let Some(gateway) = &held.gateway else {
            return self
                .sessions
                .get(&id.epoch)
                .and_then(|session| session.lives_until(to))
                .is_some_and(|until| to < until);
        };
        let touched = self.troubles.iter().any(|trouble| {
            trouble.touches(gateway) && trouble.from <= to && from < trouble.until.saturating_add(AFTERMATH)
        });
        !touched && held.until > to.saturating_add(NOTED_LATE)
    }

    /// When nobody held it any more, if that is certain.
    fn silence(&self, id: ConnectionId, held: &Held) -> Option<Time> {
        let Some(gateway) = &held.gateway else {
            return self.sessions.get(&id.epoch)?.fell_silent();
        };
        let kills =
            self.troubles.iter().filter(|trouble| trouble.touches(gateway)).filter_map(|trouble| trouble.killed);
        kills.filter(|killed| *killed > held.since).min()
    }

    /// After how many milliseconds entries were gone, in order: of sessions that fell silent, or of gateways that were killed while nothing
    /// else was broken and nobody was promoted. A new leader knows of no stream that was closed before, so there the lease decides,
    /// and the time is bounded only.
    fn gone_ms(&self, killed: bool) -> Vec<Time> {
        let of = |(id, (_, gone)): (&ConnectionId, &(Time, Time))| {
            let held = self.held.get(id)?;
            let since = self.silence(*id, held)?;
            let disturbs = |trouble: &Trouble| {
                !trouble.is_of_gateways()
                    && trouble.from <= since + gone
                    && since <= trouble.until.saturating_add(NOTED_LATE)
            };
            let promoted = |at: &Time| *at <= since + gone && since <= at.saturating_add(NOTED_LATE);
            let disturbed = self.troubles.iter().any(disturbs) || self.promotions.iter().any(promoted);
            let counts = held.gateway.is_some() == killed && !(killed && disturbed);
            counts.then_some(gone / MS)
        };
        let mut times: Vec<Time> = self.gone.iter().filter_map(of).collect();
        times.sort_unstable();
        times
    }

    fn checked(self) -> Checked {
        let at = |times: &[Time], share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a share of a length"
            )]
            let nth = (times.len().saturating_sub(1) as f64 * share) as usize;
            times.get(nth).copied()
        };
        let (silent, killed) = (self.gone_ms(false), self.gone_ms(true));
        let summary = format!(
            "{} connections were held; {} fell silent with their session and {} were killed with their gateway alone, and were watched until they were gone.",
            self.held.len(),
            silent.len(),
            killed.len()
        );
        Checked::new("leases", &["I3", "I4"], summary, self.anomalies)
            .at_least("shown", 500, self.judged)
            .at_least("silent", 10, silent.len())
            .figure("silent_gone_ms_median", at(&silent, 0.5))
            .figure("silent_gone_ms_p99", at(&silent, 0.99))
            .figure("killed", killed.len())
            .figure("killed_gone_ms_median", at(&killed, 0.5))
            .figure("killed_gone_ms_p99", at(&killed, 0.99))
            .figure("promotions", self.promotions.len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::made_up::Story;

    /// A session with a lease of 3 s holds `c-5-1`.
    fn holding() -> Story {
        let mut story = Story::default();
        story.ok("term", "node-1", json!(null), json!({ "term": 1, "leader": 1 }));
        story.ok("open", "own-1", json!({ "nonce": "n" }), json!({ "epoch": 5, "lease_ms": 3_000 }));
        story.ok("register", "alice", json!({ "connection": "c-5-1" }), json!({ "ok": true }));
        story
    }

    fn look(story: &mut Story, shown: &[&str]) {
        story.ok("look", "all", json!(null), json!({ "connections": shown }));
    }

    fn names(story: &Story) -> Vec<String> {
        check(&story.history()).anomalies.into_iter().map(|anomaly| anomaly.name).collect()
    }

    #[test]
    fn what_is_renewed_is_shown() {
        let mut story = holding();
        story.pass(2_000);
        story.lives();
        story.pass(2_000);
        look(&mut story, &["c-5-1"]);
        assert!(names(&story).is_empty());
        look(&mut story, &[]);
        assert_eq!(names(&story), ["false expiry"]);
        let mut silent = holding();
        silent.pass(2_500);
        look(&mut silent, &[]);
        assert!(names(&silent).is_empty(), "its gateway serves it no longer");
    }

    #[test]
    fn a_renewal_is_not_refused_while_the_one_before_counts() {
        let mut story = holding();
        story.pass(1_000);
        let process = story.begin("renew", "s-5", json!(null));
        story.end(process, Kind::Fail, json!(null), Some("gone: over"));
        assert_eq!(names(&story), ["false expiry"]);
        let mut late = holding();
        late.pass(3_500);
        let process = late.begin("renew", "s-5", json!(null));
        late.end(process, Kind::Fail, json!(null), Some("gone: over"));
        assert!(names(&late).is_empty());
    }

    #[test]
    fn what_fell_silent_is_forgotten_in_time_after_the_last_promotion() {
        let mut story = holding();
        story.ok("silent", "s-5", json!(null), json!(null));
        story.pass(4_900);
        look(&mut story, &["c-5-1"]);
        assert!(names(&story).is_empty());
        let mut promoted = story.clone();
        promoted.ok("term", "node-1", json!(null), json!({ "term": 2, "leader": 2 }));
        let mut gone = story.clone();
        look(&mut gone, &[]);
        assert!(names(&gone).is_empty());
        look(&mut gone, &["c-5-1"]);
        assert_eq!(names(&gone), ["came back"]);
        for story in [&mut promoted, &mut story] {
            story.pass(1_000);
            look(story, &["c-5-1"]);
        }
        assert!(names(&promoted).is_empty(), "the new leader gave it another lease");
        assert_eq!(names(&story), ["ghost"]);
    }

    #[test]
    fn a_silence_that_may_have_been_broken_is_not_judged() {
        let mut story = holding();
        let process = story.begin("renew", "s-5", json!(null));
        story.end(process, Kind::Info, json!(null), Some("no answer"));
        story.ok("silent", "s-5", json!(null), json!(null));
        story.pass(9_000);
        look(&mut story, &["c-5-1"]);
        assert!(names(&story).is_empty());
    }

    #[test]
    fn clients_of_a_gateway_that_nothing_happened_to_are_shown_and_those_of_a_killed_one_are_not() {
        let mut story = Story::default();
        for (user, connection, gateway) in [("alice", "c-7-1", "gw-1"), ("bob", "c-8-1", "gw-2")] {
            story.ok("connect", user, json!(null), json!({ "connection": connection, "gateway": gateway }));
        }
        story.fault("kill", json!(["gw-1"]));
        look(&mut story, &["c-7-1", "c-8-1"]);
        assert!(names(&story).is_empty());
        look(&mut story, &["c-7-1"]);
        assert_eq!(names(&story), ["false expiry"], "gw-2 was not touched");
        story.pass(6_000);
        look(&mut story, &["c-7-1", "c-8-1"]);
        assert_eq!(names(&story), ["false expiry", "ghost"]);
    }
}
