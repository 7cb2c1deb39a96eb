//! What must hold between any two entries, checked from scratch. For tests and for `check`; it takes seconds on a large state.

use std::collections::BTreeMap;

use super::command::Per;
use super::contest::overlap;
use super::ids::Epoch;
use super::packed::Packed;
use super::state::Directory;
use super::users::hash_of;

impl Directory {
    /// Checks the state against itself.
    ///
    /// # Errors
    /// What does not hold, for people.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.pages.check()?;
        let held = self.check_connections()?;
        self.check_sessions(&held)?;
        self.users.check(&self.pages)?;
        self.check_claims()?;
        self.check_contests()?;
        self.bans.check()?;
        self.topics.check()
    }

    /// No two live connections of a user claim the same.
    fn check_claims(&self) -> Result<(), String> {
        let mut of_users: BTreeMap<&str, Vec<Packed<'_>>> = BTreeMap::new();
        for (id, there) in self.pages.iter() {
            if there.claim.is_some() && self.sessions.contains_key(&id.epoch) {
                of_users.entry(there.user).or_default().push(there);
            }
        }
        for claims in of_users.values() {
            for (at, one) in claims.iter().enumerate() {
                let claim = |connection: &Packed<'_>| connection.claim.unwrap_or(Per::Device);
                let clash = claims[at + 1..]
                    .iter()
                    .find(|other| overlap((claim(one), one.device()), (claim(other), other.device())));
                if let Some(other) = clash {
                    return Err(format!("{one:?} and {other:?} claim the same"));
                }
            }
        }
        Ok(())
    }

    /// Those that take part in a contest are found by their ids, and nobody waits who could go.
    fn check_contests(&self) -> Result<(), String> {
        for (user, contest) in &self.contests {
            if contest.pending.is_empty() && contest.shadows.is_empty() {
                return Err(format!("nobody takes part in the contest for {user}"));
            }
            let waiting = contest.pending.iter().map(|pending| (pending.id, &pending.connection));
            let absent = waiting.chain(contest.shadows.iter().map(|shadow| (shadow.id, &shadow.connection)));
            for (id, connection) in absent {
                let known = self.sessions.contains_key(&id.epoch) || self.ended.contains_key(&id.epoch);
                let found = self.involved.get(&id).is_some_and(|involved| involved.user == *user);
                if self.pages.get(id).is_some() || connection.user != *user || !known || !found {
                    return Err(format!("{id} can't take part in the contest for {user}: {contest:?}"));
                }
            }
            for pending in contest.pending.iter().filter(|pending| self.sessions.contains_key(&pending.id.epoch)) {
                let stuck = pending.waits_for.iter().all(|id| {
                    let there = self.pages.get(*id).is_some() || contest.shadows.iter().any(|shadow| shadow.id == *id);
                    !there || !(self.sessions.contains_key(&id.epoch) || self.ended.contains_key(&id.epoch))
                });
                let lost = pending.waits_for.iter().find(|id| !self.involved.contains_key(*id));
                if stuck || lost.is_some() {
                    return Err(format!("{pending:?} of {user} waits for nobody, or {lost:?} is not found"));
                }
            }
        }
        match self
            .involved
            .iter()
            .find(|(id, _)| !self.sessions.contains_key(&id.epoch) && !self.ended.contains_key(&id.epoch))
        {
            Some((id, involved)) => Err(format!("{id} has no session: {involved:?}")),
            None => Ok(()),
        }
    }

    /// Every connection belongs to a session, is found by its user, and was granted within the session. Returns how
    /// many each session holds.
    fn check_connections(&self) -> Result<BTreeMap<Epoch, u64>, String> {
        let mut held = BTreeMap::new();
        for (id, connection) in self.pages.iter() {
            *held.entry(id.epoch).or_insert(0) += 1;
            if connection.granted < id.epoch || connection.granted > self.revision {
                return Err(format!("{id} was granted at {}, the state is {}", connection.granted, self.revision));
            }
            let found = self.users.get(hash_of(connection.user), connection.user, &self.pages);
            if !found.is_some_and(|held| held.contains(id)) {
                return Err(format!("{id} is not found by its user {}", connection.user));
            }
        }
        Ok(held)
    }

    /// Sessions hold what they say, and the gateways know of them.
    fn check_sessions(&self, held: &BTreeMap<Epoch, u64>) -> Result<(), String> {
        let mut said: BTreeMap<Epoch, u64> = BTreeMap::new();
        let mut live = 0;
        for (epoch, alive) in &self.sessions {
            said.insert(*epoch, alive.connections);
            let exclusive = self.pages.scan(*epoch, None).filter(|(_, connection)| connection.claim.is_some()).count();
            let topics = self.topics.of_session(*epoch, None).count();
            if (alive.exclusive, alive.topics) != (exclusive as u64, topics as u64) {
                return Err(format!("session {epoch} has {exclusive} exclusive ones, {topics} topics: {alive:?}"));
            }
            live += alive.connections;
            let last = self.pages.scan(*epoch, None).map(|(id, _)| id.serial).last();
            if last > alive.last_serial || !alive.window.is_plausible() || *epoch > self.revision {
                return Err(format!("session {epoch} holds serial {last:?}: {alive:?}"));
            }
            if self.gateways.get(&alive.session.gateway).is_none_or(|incumbent| incumbent.epoch != *epoch) {
                return Err(format!("session {epoch} is not the one of its gateway {}", alive.session.gateway));
            }
        }
        for (epoch, ended) in &self.ended {
            if said.insert(*epoch, ended.held).is_some() {
                return Err(format!("session {epoch} is both alive and ended"));
            }
        }
        said.retain(|_, count| *count > 0);
        if said != *held || live != self.live {
            return Err(format!("sessions hold {held:?} and say {said:?}; {live} are live, counted as {}", self.live));
        }
        match self.gateways.iter().find(|(_, incumbent)| incumbent.epoch > self.revision) {
            Some((name, incumbent)) => Err(format!("gateway {name} is of a later revision: {incumbent:?}")),
            None => Ok(()),
        }
    }
}
