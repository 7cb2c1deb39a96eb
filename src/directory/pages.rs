//! The connections by identity: pages of up to 64 consecutive serials, in order, shared with frozen copies until one changes.

use std::sync::Arc;

use imbl::OrdMap;

use super::ids::{ConnectionId, Epoch, Serial};
use super::outcome::Connection;

/// A page holds `2^PAGE_BITS` serials: as many as its bitmap has bits. Small, because the first change of a page after
/// a freeze copies it.
const PAGE_BITS: u32 = 6;

/// Which page of a session a serial is on.
fn page_of(serial: Serial) -> u64 {
    serial >> PAGE_BITS
}

/// The bit of a serial in its page.
fn bit_of(serial: Serial) -> u64 {
    1 << (serial & ((1 << PAGE_BITS) - 1))
}

/// Up to 64 connections: bit *i* of `present` says that the serial with low bits *i* is there; `connections` holds
/// those that are, in order.
#[derive(Clone, Default)]
struct Page {
    present: u64,
    connections: Vec<Arc<Connection>>,
}

impl Page {
    /// Where a serial is or would be in `connections`.
    fn rank(&self, bit: u64) -> usize {
        (self.present & (bit - 1)).count_ones() as usize
    }

    fn holds(&self, bit: u64) -> bool {
        self.present & bit != 0
    }

    fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Connection>)> {
        let mut left = self.present;
        self.connections.iter().map(move |connection| {
            let low = u64::from(left.trailing_zeros());
            left &= left.wrapping_sub(1);
            (low, connection)
        })
    }
}

/// All connections that are held, also those of ended sessions until they are reclaimed. Cloning is O(1).
#[derive(Clone, Default)]
pub(super) struct Pages {
    pages: OrdMap<(Epoch, u64), Arc<Page>>,
}

impl Pages {
    pub(super) fn get(&self, id: ConnectionId) -> Option<&Arc<Connection>> {
        let page = self.pages.get(&(id.epoch, page_of(id.serial)))?;
        let bit = bit_of(id.serial);
        if page.holds(bit) { page.connections.get(page.rank(bit)) } else { None }
    }

    /// Adds a connection, or replaces what is kept of it.
    pub(super) fn put(&mut self, id: ConnectionId, connection: Arc<Connection>) {
        let key = (id.epoch, page_of(id.serial));
        let bit = bit_of(id.serial);
        let Some(page) = self.pages.get_mut(&key) else {
            self.pages.insert(key, Arc::new(Page { present: bit, connections: vec![connection] }));
            return;
        };
        let page = Arc::make_mut(page);
        let rank = page.rank(bit);
        if page.holds(bit) {
            page.connections[rank] = connection;
        } else {
            page.present |= bit;
            page.connections.insert(rank, connection);
        }
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Arc<Connection>> {
        let key = (id.epoch, page_of(id.serial));
        let bit = bit_of(id.serial);
        let page = self.pages.get_mut(&key).filter(|page| page.holds(bit))?;
        if page.present == bit {
            // The last one: the page goes too, so that empty pages never accumulate.
            return self.pages.remove(&key)?.connections.first().cloned();
        }
        let page = Arc::make_mut(page);
        page.present &= !bit;
        let rank = page.rank(bit);
        let removed = page.connections.remove(rank);
        if page.connections.capacity() > 4 * page.connections.len() {
            page.connections.shrink_to(2 * page.connections.len());
        }
        Some(removed)
    }

    /// The connections of one session in order of their serials, from the first one after `after`.
    pub(super) fn scan(
        &self,
        epoch: Epoch,
        after: Option<Serial>,
    ) -> impl Iterator<Item = (ConnectionId, &Arc<Connection>)> {
        let from = after.map_or(Some(0), |serial| serial.checked_add(1));
        let start = from.unwrap_or(Serial::MAX);
        self.pages
            .range((epoch, page_of(start))..=(epoch, u64::MAX))
            .flat_map(|((epoch, page), held)| {
                held.iter().map(move |(low, connection)| {
                    (ConnectionId { epoch: *epoch, serial: (page << PAGE_BITS) | low }, connection)
                })
            })
            .skip_while(move |(id, _)| from.is_none_or(|from| id.serial < from))
    }

    /// Every connection that is held, in order of the ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Arc<Connection>)> {
        self.pages.iter().flat_map(|((epoch, page), held)| {
            held.iter().map(move |(low, connection)| {
                (ConnectionId { epoch: *epoch, serial: (page << PAGE_BITS) | low }, connection)
            })
        })
    }

    /// No page is empty, and every bitmap agrees with its list.
    pub(super) fn check(&self) -> Result<(), String> {
        for (key, page) in &self.pages {
            if page.connections.is_empty() || page.present.count_ones() as usize != page.connections.len() {
                return Err(format!("page {key:?} says {:b} and holds {}", page.present, page.connections.len()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(granted: u64) -> Arc<Connection> {
        Arc::new(Connection {
            user: "alice".into(),
            device: "".into(),
            granted,
            connected_at_ms: 0,
            remote: None,
            meta: None,
            meta_version: 1,
            claim: None,
        })
    }

    fn serials(pages: &Pages, epoch: Epoch, after: Option<Serial>) -> Vec<Serial> {
        pages.scan(epoch, after).map(|(id, _)| id.serial).collect()
    }

    #[test]
    fn serials_at_the_edges_of_pages_and_of_the_number_range_are_found_in_order() {
        let mut pages = Pages::default();
        let edges = [0, 1, 63, 64, 127, 128, u64::MAX - 1, u64::MAX];
        for serial in edges.into_iter().rev() {
            pages.put(ConnectionId { epoch: 7, serial }, connection(serial));
            pages.put(ConnectionId { epoch: 8, serial }, connection(serial));
        }
        assert_eq!(serials(&pages, 7, None), edges);
        assert_eq!(serials(&pages, 7, Some(63)), [64, 127, 128, u64::MAX - 1, u64::MAX]);
        assert_eq!(serials(&pages, 7, Some(u64::MAX - 1)), [u64::MAX]);
        assert!(serials(&pages, 7, Some(u64::MAX)).is_empty());
        for serial in edges {
            assert_eq!(pages.get(ConnectionId { epoch: 7, serial }).unwrap().granted, serial);
            assert_eq!(pages.remove(ConnectionId { epoch: 7, serial }).unwrap().granted, serial);
            assert!(pages.remove(ConnectionId { epoch: 7, serial }).is_none());
            pages.check().unwrap();
        }
        assert!(serials(&pages, 7, None).is_empty());
        assert_eq!(serials(&pages, 8, None), edges);
    }

    #[test]
    fn a_frozen_copy_does_not_change() {
        let mut pages = Pages::default();
        for serial in 1..=200 {
            pages.put(ConnectionId { epoch: 1, serial }, connection(serial));
        }
        let frozen = pages.clone();
        for serial in 1..=200 {
            pages.remove(ConnectionId { epoch: 1, serial });
        }
        assert!(pages.pages.is_empty());
        assert_eq!(serials(&frozen, 1, None), (1..=200).collect::<Vec<_>>());
    }
}
