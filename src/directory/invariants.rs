//! What must hold between any two entries, checked from scratch. For tests and for `check`; it takes seconds on a large state.

use std::collections::BTreeMap;

use super::ids::Epoch;
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
        self.users.check(&self.pages)
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
        said.retain(|epoch, count| *count > 0 || self.ended.contains_key(epoch));
        if said != *held || live != self.live {
            return Err(format!("sessions hold {held:?} and say {said:?}; {live} are live, counted as {}", self.live));
        }
        match self.gateways.iter().find(|(_, incumbent)| incumbent.epoch > self.revision) {
            Some((name, incumbent)) => Err(format!("gateway {name} is of a later revision: {incumbent:?}")),
            None => Ok(()),
        }
    }
}
