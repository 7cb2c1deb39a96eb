//! The index against a plain map, with users that have few connections and many, and with equal hashes.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::directory::ids::ConnectionId;
use crate::directory::outcome::Connection;

/// An index with its pages, beside the same without any cleverness.
#[derive(Default, Clone)]
struct Both {
    users: Users,
    pages: Pages,
    model: BTreeMap<String, BTreeSet<ConnectionId>>,
}

impl Both {
    fn add(&mut self, hash: u64, user: &str, id: ConnectionId) {
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
        let place = self.pages.put(id, &connection);
        self.users.insert(hash, place, &self.pages);
        assert!(self.model.entry(user.to_owned()).or_default().insert(id));
    }

    fn take(&mut self, hash: u64, user: &str, id: ConnectionId) {
        let place = self.pages.place(id).unwrap();
        self.users.remove(hash, place, &self.pages);
        self.pages.remove(place);
        let held = self.model.get_mut(user).unwrap();
        assert!(held.remove(&id));
        if held.is_empty() {
            self.model.remove(user);
        }
    }

    fn compare(&self, hash: impl Fn(&str) -> u64, users: &[&str]) {
        assert_eq!(self.users.len(), self.model.len());
        for user in users {
            let held = self.users.get(hash(user), user, &self.pages);
            let Some(ids) = self.model.get(*user) else {
                assert!(held.is_none(), "{user}");
                continue;
            };
            let held = held.unwrap();
            let mut runs = BTreeMap::new();
            ids.iter().for_each(|id| *runs.entry(id.epoch).or_insert(0) += 1);
            assert!(held.runs().eq(runs.clone()), "{user}");
            for epoch in runs.into_keys() {
                let serials: Vec<_> = ids.iter().filter(|id| id.epoch == epoch).map(|id| id.serial).collect();
                assert!(held.serials(epoch).eq(serials.clone()), "{user}");
                assert!(held.serials(epoch).rev().eq(serials.into_iter().rev()), "{user}");
            }
            assert!(held.places(&self.pages).map(|(id, _)| id).eq(ids.iter().copied()), "{user}");
            for (id, place) in held.places(&self.pages) {
                assert_eq!(self.pages.place(id), Some(place));
                assert!(held.contains(id));
                assert!(!held.contains(ConnectionId { serial: id.serial + 1_000_000, ..id }));
            }
        }
    }

    /// Connections come and go until each user had few and many of them more than once.
    fn run(&mut self, seed: u64, hash: impl Fn(&str) -> u64, check: bool) {
        let users = ["a", "b", "c", "d"];
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut serial, mut most) = (0, 0);
        for step in 0..4000 {
            let grows = step / 200 % 2 == 0;
            let user = users[rng.usize(..users.len())];
            let held: Vec<_> = self.model.get(user).into_iter().flatten().copied().collect();
            most = most.max(held.len());
            if rng.u32(..10) < if grows { 7 } else { 2 } {
                serial += 1;
                self.add(hash(user), user, ConnectionId { epoch: rng.u64(1..4), serial });
            } else if !held.is_empty() {
                self.take(hash(user), user, held[rng.usize(..held.len())]);
            }
            self.compare(&hash, &users);
            if check {
                self.users.check(&self.pages).unwrap();
            }
        }
        assert!(most > 2 * FEW, "{most}");
    }
}

#[test]
fn users_with_few_and_many_connections_are_found() {
    Both::default().run(1, hash_of, true);
}

#[test]
fn users_with_equal_hashes_are_kept_apart() {
    Both::default().run(2, |_| 77, false);
    Both::default().run(3, |_| u64::MAX, false);
    Both::default().run(4, |_| 0, false);
}

#[test]
fn a_frozen_index_does_not_change_and_an_empty_one_holds_little() {
    let names: Vec<String> = (0..5000).map(|n| format!("user-{}", n / 2)).collect();
    let ids: Vec<ConnectionId> = (0..5000).map(|serial| ConnectionId { epoch: 1, serial }).collect();
    let mut both = Both::default();
    for (user, id) in names.iter().zip(&ids) {
        both.add(hash_of(user), user, *id);
    }
    let frozen = both.clone();
    for (user, id) in names.iter().zip(&ids) {
        both.take(hash_of(user), user, *id);
    }
    both.users.check(&both.pages).unwrap();
    assert_eq!((both.users.len(), both.users.state_bytes()), (0, 0));
    assert_eq!(both.users.rows.iter().flatten().flat_map(|row| row.iter().flatten()).count(), 0);
    frozen.users.check(&frozen.pages).unwrap();
    let users: Vec<&str> = names.iter().map(String::as_str).collect();
    frozen.compare(hash_of, &users);
}

#[test]
fn slots_are_in_order_of_the_hashes_and_found_wherever_they_are() {
    let mut rng = fastrand::Rng::with_seed(5);
    for count in [0, 1, 2, 7, 60, 900] {
        // Evenly spread, all at one end, all at the other, and all equal.
        for spread in [u64::MAX, 1 << 30, 1] {
            for from in [0, u64::MAX - spread + 1] {
                let mut shard = Shard::new();
                let mut slots: Vec<Slot> = (0..count).map(|_| Slot(from.saturating_add(rng.u64(..spread)))).collect();
                slots.iter().for_each(|slot| insert_slot(&mut shard, *slot));
                slots.sort_unstable();
                assert_eq!(shard, slots);
                for slot in [Slot(0), Slot(u64::MAX), Slot(1 << 63)].into_iter().chain(slots) {
                    assert_eq!(first_from(&shard, slot), shard.partition_point(|other| *other < slot));
                }
            }
        }
    }
}
