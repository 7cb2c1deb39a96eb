//! The connections by user: an index of places, without the names. It is derived from the connections, so a snapshot does not
//! carry it, and its order never shows.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use imbl::OrdMap;

use super::held::{Held, Many};
use super::pages::{Pages, Place};

/// The index has `ROWS` rows of `ROWS` shards. A freeze shares all rows; the first change afterwards copies one row
/// (128 pointers) and one shard (at ten million users about 600 slots of 8 bytes, and no string).
const ROWS: usize = 1 << ROW_BITS;
const ROW_BITS: u32 = 7;

/// A user with more connections than this is kept in a set of his own; one with fewer than half of it is not.
const FEW: usize = 8;

/// Hash of a user: fixed keys, so that a run can be repeated, and a function for which collisions are not easily made up.
pub(super) fn hash_of(user: &str) -> u64 {
    // `new` has fixed keys, unlike the `RandomState` of the standard maps.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(user.as_bytes());
    hasher.finish()
}

/// One connection of a user, or the sign that the user has many: the bits of the hash that follow those which chose the
/// shard, then a bit for that sign, then the place. Whether it is the right user, the connection tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot(u64);

impl Slot {
    const MANY: u64 = 1 << Place::BITS;
    const TAG: u64 = !(Self::MANY | (Self::MANY - 1));

    fn at(hash: u64, place: Place) -> Self {
        Self(Self::tag(hash) | place.bits())
    }

    fn many(hash: u64) -> Self {
        Self(Self::tag(hash) | Self::MANY)
    }

    fn tag(hash: u64) -> u64 {
        (hash << (2 * ROW_BITS)) & Self::TAG
    }

    /// None if it is the sign.
    fn place(self) -> Option<Place> {
        (self.0 & Self::MANY == 0).then(|| Place::from_bits(self.0 & !Self::TAG))
    }
}

/// Sorted.
type Shard = Vec<Slot>;

/// What is not there holds nothing.
type Row = Vec<Option<Arc<Shard>>>;

/// The index. Cloning copies 128 pointers.
#[derive(Clone)]
pub(super) struct Users {
    rows: Vec<Option<Arc<Row>>>,
    many: OrdMap<Arc<str>, Many>,
    count: usize,
    slots: usize,
    /// Connections of users that have many.
    in_many: usize,
}

impl Default for Users {
    fn default() -> Self {
        Self { rows: vec![None; ROWS], many: OrdMap::new(), count: 0, slots: 0, in_many: 0 }
    }
}

impl Users {
    /// Users that hold at least one connection, reclaimed or not.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// What a user holds; `hash` is [`hash_of`] the user.
    pub(super) fn get(&self, hash: u64, user: &str, pages: &Pages) -> Option<Held<'_>> {
        let tagged = tagged(self.shard(hash), hash);
        if tagged.last() == Some(&Slot::many(hash))
            && let Some(many) = self.many.get(user)
        {
            return Some(Held::Many(many));
        }
        let mut found = places_of(tagged, user, pages).map(|place| (pages.id_at(place), place));
        let first = found.next()?;
        let Some(second) = found.next() else { return Some(Held::One(first)) };
        let mut few: Vec<_> = [first, second].into_iter().chain(found).collect();
        few.sort_unstable();
        Some(Held::Few(few))
    }

    /// Adds a connection that `pages` holds.
    pub(super) fn insert(&mut self, hash: u64, place: Place, pages: &Pages) {
        let shard = shard_mut(&mut self.rows, hash);
        let others = tagged(shard, hash);
        if !others.is_empty() {
            let user = pages.at(place).user;
            if others.last() == Some(&Slot::many(hash))
                && let Some(many) = self.many.get_mut(user)
            {
                many.insert(pages.id_at(place));
                self.in_many += 1;
                return;
            }
            let of_user: Vec<Place> = places_of(others, user, pages).collect();
            if of_user.len() == FEW {
                let mut many = Many::default();
                many.insert(pages.id_at(place));
                for place in of_user {
                    many.insert(pages.id_at(place));
                    remove_slot(shard, Slot::at(hash, place));
                }
                self.many.insert(user.into(), many);
                insert_slot(shard, Slot::many(hash));
                self.slots = self.slots + 1 - FEW;
                self.in_many += FEW + 1;
                return;
            }
            self.count += usize::from(of_user.is_empty());
        } else {
            self.count += 1;
        }
        insert_slot(shard, Slot::at(hash, place));
        self.slots += 1;
    }

    /// Removes a connection that `pages` still holds.
    pub(super) fn remove(&mut self, hash: u64, place: Place, pages: &Pages) {
        let shard = shard_mut(&mut self.rows, hash);
        if remove_slot(shard, Slot::at(hash, place)) {
            self.slots -= 1;
            let others = tagged(shard, hash);
            let is_last = others.is_empty() || places_of(others, pages.at(place).user, pages).next().is_none();
            self.count -= usize::from(is_last);
            if shard.is_empty() {
                // Small blocks that stay, all over the memory, would keep an allocator from returning what is between them.
                *shard_slot(&mut self.rows, hash) = None;
            }
            return;
        }
        let user = pages.at(place).user;
        let Some(many) = self.many.get_mut(user) else { return };
        many.remove(pages.id_at(place));
        self.in_many -= 1;
        if many.len() < FEW / 2 {
            let places: Vec<Place> = many.ids().filter_map(|id| pages.place(id)).collect();
            self.many.remove(user);
            remove_slot(shard, Slot::many(hash));
            self.slots = self.slots + places.len() - 1;
            self.in_many -= places.len();
            for place in places {
                insert_slot(shard, Slot::at(hash, place));
            }
        }
    }

    /// An estimate of the memory that is held, in bytes.
    pub(super) fn state_bytes(&self) -> u64 {
        // Measured by the benchmark `directory`. A shard and what an allocator adds to it; a slot and the slack of its shard; an id in a
        // set, and what is around it.
        const SHARD_BYTES: usize = 72;
        const SLOT_BYTES: usize = 9;
        const ID_BYTES: usize = 24;
        let shards = self.count.min(ROWS * ROWS);
        (shards * SHARD_BYTES + self.slots * SLOT_BYTES + self.in_many * ID_BYTES) as u64
    }

    /// Every slot is where it belongs and leads to a connection of its user, each once; the counts say what is there.
    pub(super) fn check(&self, pages: &Pages) -> Result<(), String> {
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut slots, mut in_many, mut signs) = (0, 0, 0);
        for shard in self.rows.iter().flatten().flat_map(|row| row.iter().flatten()) {
            slots += shard.len();
            if !shard.is_sorted() {
                return Err(format!("a shard of the index is not in order: {shard:?}"));
            }
            for slot in &**shard {
                let Some(place) = slot.place() else {
                    signs += 1;
                    continue;
                };
                let user = pages.at(place).user;
                let hash = hash_of(user);
                if self.shard(hash).iter().filter(|other| **other == Slot::at(hash, place)).count() != 1 {
                    return Err(format!("the index holds {slot:?}, which belongs to {user}"));
                }
                *users.entry(user).or_insert(0) += 1;
            }
        }
        for (user, many) in &self.many {
            many.check()?;
            in_many += many.len();
            let is_theirs = |id| pages.get(id).is_some_and(|connection| connection.user == &**user);
            let hash = hash_of(user);
            if many.len() < FEW / 2 || !many.ids().all(is_theirs) || !self.shard(hash).contains(&Slot::many(hash)) {
                return Err(format!("the index holds {many:?} for {user}"));
            }
            if users.insert(user, 0).is_some() {
                return Err(format!("{user} is in the index twice"));
            }
        }
        let counts = (users.len(), slots, in_many, signs);
        if counts != (self.count, self.slots, self.in_many, self.many.len()) || users.values().any(|few| *few > FEW) {
            return Err(format!("the index holds {counts:?}, counted as {:?}", (self.count, self.slots, self.in_many)));
        }
        Ok(())
    }

    fn shard(&self, hash: u64) -> &[Slot] {
        let (row, column) = place(hash);
        let shard = self.rows[row].as_ref().and_then(|row| row[column].as_ref());
        shard.map_or(&[], |shard| shard)
    }
}

/// The top bits choose the shard.
fn place(hash: u64) -> (usize, usize) {
    let shard = (hash >> (u64::BITS - 2 * ROW_BITS)) as usize;
    (shard / ROWS, shard % ROWS)
}

fn shard_mut(rows: &mut [Option<Arc<Row>>], hash: u64) -> &mut Shard {
    Arc::make_mut(shard_slot(rows, hash).get_or_insert_default())
}

fn shard_slot(rows: &mut [Option<Arc<Row>>], hash: u64) -> &mut Option<Arc<Shard>> {
    let (row, column) = place(hash);
    let row = rows[row].get_or_insert_with(|| Arc::new(vec![None; ROWS]));
    &mut Arc::make_mut(row)[column]
}

/// The slots with the tag of a hash: those of its users, and seldom one of somebody else. The signs of many come last.
fn tagged(shard: &[Slot], hash: u64) -> &[Slot] {
    let tag = Slot::tag(hash);
    let start = first_from(shard, Slot(tag));
    let count = shard[start..].iter().take_while(|slot| slot.0 & Slot::TAG == tag).count();
    &shard[start..start + count]
}

/// Where the first slot is that is not below `slot`. Hashes are evenly spread, so it is a few slots from where its share of
/// the range is, and seldom further than the next cache line.
fn first_from(shard: &[Slot], slot: Slot) -> usize {
    let mut at = (((slot.0 >> 32) * shard.len() as u64) >> 32) as usize;
    while at > 0 && shard[at - 1] >= slot {
        at -= 1;
    }
    while at < shard.len() && shard[at] < slot {
        at += 1;
    }
    at
}

/// The places among them that are the user's.
fn places_of(tagged: &[Slot], user: &str, pages: &Pages) -> impl Iterator<Item = Place> {
    tagged.iter().filter_map(|slot| slot.place()).filter(move |place| pages.user_is(*place, user))
}

/// Grows a shard by an eighth and not by doubling: with 16,384 of them the slack is what the index costs.
fn insert_slot(shard: &mut Shard, slot: Slot) {
    if shard.len() == shard.capacity() {
        shard.reserve_exact((shard.len() / 8).max(2));
    }
    let at = first_from(shard, slot);
    shard.insert(at, slot);
}

/// Removes a slot if it is there, and shrinks a shard of which more than a fifth is slack.
fn remove_slot(shard: &mut Shard, slot: Slot) -> bool {
    let at = first_from(shard, slot);
    if shard.get(at) != Some(&slot) {
        return false;
    }
    shard.remove(at);
    if shard.capacity() > shard.len() + shard.len() / 4 + 2 {
        shard.shrink_to(shard.len() + shard.len() / 8);
    }
    true
}

#[cfg(test)]
mod tests;
