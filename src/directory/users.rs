//! The connections by user: an index of ids, without the names. It is derived from the connections, so a snapshot does not
//! carry it, and its order never shows.

use std::hash::Hasher;
use std::sync::Arc;

use super::ids::{ConnectionId, Epoch, Serial};
use super::pages::Pages;

/// The index has `ROWS` rows of `ROWS` shards. A freeze shares all rows; the first change afterwards copies one row
/// (256 pointers) and one shard (at ten million users about 150 slots of 32 bytes, and no string).
const ROWS: usize = 256;

/// Hash of a user: fixed keys, so that a run can be repeated, and a function for which collisions are not easily made up.
pub(super) fn hash_of(user: &str) -> u64 {
    // `new` has fixed keys, unlike the `RandomState` of the standard maps.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(user.as_bytes());
    hasher.finish()
}

/// What one user holds.
#[derive(Clone)]
pub(super) enum Held {
    /// One connection, the usual case.
    One(ConnectionId),
    /// Several, as runs in order of the epochs.
    Many(Arc<Vec<Run>>),
}

/// The connections of one user in one session, in order.
#[derive(Clone)]
pub(super) struct Run {
    epoch: Epoch,
    serials: Vec<Serial>,
}

impl Held {
    /// How many connections are in each session, in order of the epochs.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Epoch, usize)> {
        let (one, many): (_, &[Run]) = match self {
            Self::One(id) => (Some((id.epoch, 1)), &[]),
            Self::Many(runs) => (None, runs),
        };
        one.into_iter().chain(many.iter().map(|run| (run.epoch, run.serials.len())))
    }

    /// The connections of one session, in order.
    pub(super) fn serials(&self, epoch: Epoch) -> &[Serial] {
        match self {
            Self::One(id) if id.epoch == epoch => std::slice::from_ref(&id.serial),
            Self::One(_) => &[],
            Self::Many(runs) => find(runs, epoch).map_or(&[], |at| &runs[at].serials),
        }
    }

    /// Any of the connections.
    pub(super) fn any(&self) -> ConnectionId {
        match self {
            Self::One(id) => *id,
            Self::Many(runs) => ConnectionId { epoch: runs[0].epoch, serial: runs[0].serials[0] },
        }
    }

    pub(super) fn contains(&self, id: ConnectionId) -> bool {
        self.serials(id.epoch).binary_search(&id.serial).is_ok()
    }

    fn insert(&mut self, id: ConnectionId) {
        if let Self::One(one) = *self {
            *self = Self::Many(Arc::new(vec![Run { epoch: one.epoch, serials: vec![one.serial] }]));
        }
        let Self::Many(runs) = self else { return };
        let runs = Arc::make_mut(runs);
        match runs.binary_search_by_key(&id.epoch, |run| run.epoch) {
            Ok(at) => {
                let serials = &mut runs[at].serials;
                // Serials only grow within a session, so this is the end of the list.
                if let Err(at) = serials.binary_search(&id.serial) {
                    serials.insert(at, id.serial);
                }
            }
            Err(at) => runs.insert(at, Run { epoch: id.epoch, serials: vec![id.serial] }),
        }
    }

    /// Removes one of several.
    fn remove(&mut self, id: ConnectionId) {
        let Self::Many(runs) = self else { return };
        let runs = Arc::make_mut(runs);
        let Some(at) = find(runs, id.epoch) else { return };
        if let Ok(at_serial) = runs[at].serials.binary_search(&id.serial) {
            runs[at].serials.remove(at_serial);
        }
        if runs[at].serials.is_empty() {
            runs.remove(at);
        }
        if let [Run { epoch, serials }] = runs.as_slice()
            && let [serial] = serials.as_slice()
        {
            *self = Self::One(ConnectionId { epoch: *epoch, serial: *serial });
        }
    }
}

fn find(runs: &[Run], epoch: Epoch) -> Option<usize> {
    runs.binary_search_by_key(&epoch, |run| run.epoch).ok()
}

#[derive(Clone)]
struct Slot {
    hash: u64,
    held: Held,
}

/// Sorted by hash. Users with equal hashes have a slot each and are told apart by the connections themselves.
type Shard = Vec<Slot>;

/// What is not there holds nothing.
type Row = Vec<Option<Arc<Shard>>>;

/// The index. Cloning copies 256 pointers.
#[derive(Clone)]
pub(super) struct Users {
    rows: Vec<Option<Arc<Row>>>,
    count: usize,
}

impl Default for Users {
    fn default() -> Self {
        Self { rows: vec![None; ROWS], count: 0 }
    }
}

impl Users {
    /// Users that hold at least one connection, reclaimed or not.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// What a user holds; `hash` is [`hash_of`] the user.
    pub(super) fn get(&self, hash: u64, user: &str, pages: &Pages) -> Option<&Held> {
        let shard = self.shard(hash);
        position(shard, hash, |held| is_of(held, user, pages)).map(|at| &shard[at].held)
    }

    /// Adds a connection of a user; `pages` need not have it yet.
    pub(super) fn insert(&mut self, hash: u64, user: &str, id: ConnectionId, pages: &Pages) {
        let shard = self.shard_mut(hash);
        if let Some(at) = position(shard, hash, |held| is_of(held, user, pages)) {
            shard[at].held.insert(id);
        } else {
            let at = shard.partition_point(|slot| slot.hash < hash);
            make_room(shard);
            shard.insert(at, Slot { hash, held: Held::One(id) });
            self.count += 1;
        }
    }

    /// Adds the only connection of a user whose hash is above all that are there.
    pub(super) fn append(&mut self, hash: u64, id: ConnectionId) {
        let shard = self.shard_mut(hash);
        debug_assert!(shard.last().is_none_or(|slot| slot.hash < hash), "users are appended in order");
        make_room(shard);
        shard.push(Slot { hash, held: Held::One(id) });
        self.count += 1;
    }

    /// Removes a connection; ids are unique, so the user's name is not needed.
    pub(super) fn remove(&mut self, hash: u64, id: ConnectionId) {
        let shard = self.shard_mut(hash);
        let Some(at) = position(shard, hash, |held| held.contains(id)) else { return };
        if let Held::One(_) = shard[at].held {
            shard.remove(at);
            give_back(shard);
            self.count -= 1;
        } else {
            shard[at].held.remove(id);
        }
    }

    /// Everything that is held, in order of the hashes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Held)> {
        let shards = self.rows.iter().flatten().flat_map(|row| row.iter().flatten());
        shards.flat_map(|shard| shard.iter()).map(|slot| (slot.hash, &slot.held))
    }

    fn shard(&self, hash: u64) -> &[Slot] {
        let (row, column) = place(hash);
        let shard = self.rows[row].as_ref().and_then(|row| row[column].as_ref());
        shard.map_or(&[], |shard| shard)
    }

    fn shard_mut(&mut self, hash: u64) -> &mut Shard {
        let (row, column) = place(hash);
        let row = self.rows[row].get_or_insert_with(|| Arc::new(vec![None; ROWS]));
        Arc::make_mut(Arc::make_mut(row)[column].get_or_insert_default())
    }
}

/// The top bits choose the shard; the order within a shard is by all of them.
fn place(hash: u64) -> (usize, usize) {
    ((hash >> 56) as usize, (hash >> 48) as usize % ROWS)
}

fn is_of(held: &Held, user: &str, pages: &Pages) -> bool {
    pages.get(held.any()).is_some_and(|connection| &*connection.user == user)
}

fn position(shard: &[Slot], hash: u64, is_it: impl Fn(&Held) -> bool) -> Option<usize> {
    let start = shard.partition_point(|slot| slot.hash < hash);
    let run = shard[start..].iter().take_while(|slot| slot.hash == hash);
    run.enumerate().find(|(_, slot)| is_it(&slot.held)).map(|(at, _)| start + at)
}

/// Grows a shard by a quarter and not by doubling: with 65,536 of them the slack is what the index costs.
fn make_room(shard: &mut Shard) {
    if shard.len() == shard.capacity() {
        shard.reserve_exact((shard.len() / 4).max(4));
    }
}

/// Shrinks a shard of which more than half is slack.
fn give_back(shard: &mut Shard) {
    if shard.capacity() > 2 * shard.len() + 4 {
        shard.shrink_to(shard.len() + shard.len() / 4);
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::Connection;
    use super::*;

    fn add(users: &mut Users, pages: &mut Pages, hash: u64, user: &str, id: ConnectionId) {
        users.insert(hash, user, id, pages);
        let connection = Connection {
            user: user.into(),
            device: "".into(),
            granted: 1,
            connected_at_ms: 0,
            remote: None,
            meta: None,
            meta_version: 1,
            claim: None,
        };
        pages.put(id, Arc::new(connection));
    }

    fn ids(users: &Users, pages: &Pages, hash: u64, user: &str) -> Vec<(Epoch, Vec<Serial>)> {
        let held = users.get(hash, user, pages);
        held.into_iter().flat_map(|held| held.runs().map(|(epoch, _)| (epoch, held.serials(epoch).to_vec()))).collect()
    }

    #[test]
    fn users_with_equal_hashes_are_kept_apart() {
        let (mut users, mut pages) = (Users::default(), Pages::default());
        for serial in 1..=9 {
            let user = ["a", "b", "c"][serial as usize % 3];
            add(&mut users, &mut pages, 77, user, ConnectionId { epoch: serial % 2, serial });
        }
        assert_eq!(users.len(), 3);
        assert_eq!(ids(&users, &pages, 77, "b"), [(0, vec![4]), (1, vec![1, 7])]);
        for serial in [1, 4, 7] {
            let id = ConnectionId { epoch: serial % 2, serial };
            users.remove(77, id);
            users.remove(77, id);
            pages.remove(id);
        }
        assert_eq!(ids(&users, &pages, 77, "b"), []);
        assert_eq!(ids(&users, &pages, 77, "c"), [(0, vec![2, 8]), (1, vec![5])]);
        assert_eq!(users.len(), 2);
    }

    #[test]
    fn a_frozen_index_does_not_change_and_an_empty_one_holds_no_memory() {
        let (mut users, mut pages) = (Users::default(), Pages::default());
        for serial in 0..1000 {
            add(&mut users, &mut pages, serial << 40, &format!("{serial}"), ConnectionId { epoch: 1, serial });
        }
        let frozen = users.clone();
        for serial in 0..1000 {
            users.remove(serial << 40, ConnectionId { epoch: 1, serial });
        }
        assert_eq!((users.len(), users.iter().count()), (0, 0));
        assert!(users.rows.iter().flatten().flat_map(|row| row.iter().flatten()).all(|shard| shard.capacity() <= 4));
        assert_eq!((frozen.len(), frozen.iter().count()), (1000, 1000));
        assert_eq!(ids(&frozen, &pages, 999 << 40, "999"), [(1, vec![999])]);
    }
}
