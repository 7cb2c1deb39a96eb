//! Users that are refused, and connections that are asked to be closed: requests to gateways, which remove nothing by themselves.

use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::command::{Ban, Disconnect, Release, Whom};
use super::ids::{ConnectionId, Revision};
use super::limits::{BANS_MAX, CODE_BANNED, is_name};
use super::outcome::{Event, Invalid};
use super::state::{Directory, check_text};

/// A ban, and when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Banned {
    pub(super) made: Revision,
    pub(super) ban: Ban,
}

/// The bans by user, and those that have an end by that. A snapshot carries the first only; the second follows from it.
#[derive(Debug, Clone, Default)]
pub(super) struct Bans {
    by_user: OrdMap<Arc<str>, Banned>,
    by_end: OrdSet<(u64, Arc<str>)>,
}

impl Bans {
    pub(super) fn get(&self, user: &str) -> Option<&Banned> {
        self.by_user.get(user)
    }

    pub(super) fn get_key_value(&self, user: &str) -> Option<(&Arc<str>, &Banned)> {
        self.by_user.get_key_value(user)
    }

    pub(super) fn len(&self) -> usize {
        self.by_user.len()
    }

    pub(super) fn insert(&mut self, user: Arc<str>, banned: Banned) {
        self.remove(&user);
        if let Some(until) = banned.ban.until_ms {
            self.by_end.insert((until, Arc::clone(&user)));
        }
        self.by_user.insert(user, banned);
    }

    fn remove(&mut self, user: &Arc<str>) -> bool {
        let Some(banned) = self.by_user.remove(user) else { return false };
        if let Some(until) = banned.ban.until_ms {
            self.by_end.remove(&(until, Arc::clone(user)));
        }
        true
    }

    /// By user, from the first one after `after`.
    pub(super) fn after(&self, after: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &Banned)> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(Arc::from(after)));
        self.by_user.range((from, Bound::<Arc<str>>::Unbounded))
    }

    /// Users whose bans have an end, the earliest first.
    pub(super) fn by_end(&self) -> impl Iterator<Item = &(u64, Arc<str>)> {
        self.by_end.iter()
    }

    pub(super) fn last(&self) -> Option<&Arc<str>> {
        self.by_user.get_max().map(|(user, _)| user)
    }

    /// Both sides agree.
    pub(super) fn check(&self) -> Result<(), String> {
        let ends = self.by_user.values().filter(|banned| banned.ban.until_ms.is_some()).count();
        let agree = |(until, user): &(u64, Arc<str>)| {
            self.by_user.get(user).is_some_and(|banned| banned.ban.until_ms == Some(*until))
        };
        if ends == self.by_end.len() && self.by_end.iter().all(agree) {
            return Ok(());
        }
        Err(format!("{ends} bans have an end, and {} are found by theirs", self.by_end.len()))
    }
}

impl Directory {
    /// Asks for connections to be closed, those that wait for their place among them, and says which.
    pub(super) fn disconnect(&mut self, disconnect: &Disconnect, events: &mut Vec<Event>) -> Vec<ConnectionId> {
        let Disconnect { whom, release } = disconnect;
        let asked: Vec<(ConnectionId, Arc<str>)> = match whom {
            Whom::Connection(id) => self.user_of(*id).map(|user| (*id, user)).into_iter().collect(),
            Whom::User { user, devices, except } => {
                let all = self.present(user).into_iter();
                all.filter(|(id, device)| (devices.is_empty() || devices.contains(device)) && !except.contains(id))
                    .map(|(id, _)| (id, Arc::clone(user)))
                    .collect()
            }
        };
        for (id, user) in &asked {
            self.ask(*id, user, release, events);
        }
        asked.into_iter().map(|(id, _)| id).collect()
    }

    /// Refuses a user from now on, and asks for its connections to be closed.
    pub(super) fn ban(
        &mut self,
        user: &Arc<str>,
        ban: &Ban,
        events: &mut Vec<Event>,
    ) -> Result<Vec<ConnectionId>, Invalid> {
        if !is_name(user) {
            return Err(Invalid::User);
        }
        check_text(ban.reason.as_ref())?;
        if self.bans.len() >= BANS_MAX && self.bans.get(user).is_none() {
            return Err(Invalid::TooManyBans);
        }
        self.bans.insert(Arc::clone(user), Banned { made: self.revision, ban: ban.clone() });
        let whom = Whom::User { user: Arc::clone(user), devices: Vec::new(), except: Vec::new() };
        let release = Release { code: CODE_BANNED, reason: ban.reason.clone() };
        Ok(self.disconnect(&Disconnect { whom, release }, events))
    }

    /// Lifts a ban, if it is the one that is meant.
    pub(super) fn unban(&mut self, user: &Arc<str>, made: Option<Revision>) -> bool {
        let meant = self.bans.get(user).is_some_and(|banned| made.is_none_or(|made| made == banned.made));
        meant && self.bans.remove(user)
    }

    /// Whose connection that is, whether it is live or waits.
    fn user_of(&self, id: ConnectionId) -> Option<Arc<str>> {
        self.sessions.get(&id.epoch)?;
        let waits = || self.involved.get(&id).map(|involved| Arc::clone(&involved.user));
        self.pages.get(id).map(|connection| connection.user.into()).or_else(waits)
    }

    /// A user's connections, live ones and then those that wait, with their devices.
    fn present(&self, user: &Arc<str>) -> Vec<(ConnectionId, Arc<str>)> {
        let live = self.connections_of(user);
        let live = live.iter().map(|live| (live.id, Arc::clone(&live.connection.device)));
        let pending = self.contests.get(user).into_iter().flat_map(|contest| &contest.pending);
        let pending = pending.filter(|pending| self.sessions.contains_key(&pending.id.epoch));
        live.chain(pending.map(|pending| (pending.id, Arc::clone(&pending.connection.device)))).collect()
    }
}
