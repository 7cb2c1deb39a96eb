//! The connections by identity: pages of consecutive serials, in order, shared with frozen copies until one changes.
//!
//! A page has a number for as long as it is there, and so a connection has a [`Place`]: that is what the index of users holds. Places
//! depend on what came and went before, so they stay in memory, and nothing is ordered by them that is seen.

use std::sync::Arc;

use imbl::{OrdMap, Vector};

use super::ids::{ConnectionId, Epoch, Serial};
use super::interner::Interner;
use super::outcome::Connection;
use super::packed::Packed;
use super::page::{PAGE_BITS, Page, PageKey, low_of};

/// Where a connection is kept: the number of its page, and which of the page it is. Stays the same for as long as the
/// connection is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

impl Place {
    /// Bits that a place takes at most: 2^33 pages are more than memory holds.
    pub(super) const BITS: u32 = 39;

    fn new(page: usize, low: u8) -> Self {
        Self(((page as u64) << PAGE_BITS) | u64::from(low))
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    fn page(self) -> usize {
        (self.0 >> PAGE_BITS) as usize
    }

    fn low(self) -> u8 {
        low_of(self.0)
    }
}

/// All connections that are held, also those of ended sessions until they are reclaimed. Cloning is O(1).
#[derive(Clone, Default)]
pub(super) struct Pages {
    /// By number; the numbers that are free have none.
    table: Vector<Option<Arc<Page>>>,
    /// The numbers of the pages that are there.
    numbers: OrdMap<PageKey, usize>,
    free: Vector<usize>,
    devices: Interner,
    /// Bytes of all pages' contents.
    bytes: u64,
}

impl Pages {
    /// Reads a connection where it lies.
    pub(super) fn get(&self, id: ConnectionId) -> Option<Packed<'_>> {
        let place = self.place(id)?;
        Some(self.page(place).get(place.low(), &self.devices))
    }

    /// Where a connection is.
    pub(super) fn place(&self, id: ConnectionId) -> Option<Place> {
        let number = *self.numbers.get(&PageKey::of(id))?;
        let place = Place::new(number, low_of(id.serial));
        self.page(place).holds(place.low()).then_some(place)
    }

    /// The connection at a place where there is one.
    pub(super) fn at(&self, place: Place) -> Packed<'_> {
        self.page(place).get(place.low(), &self.devices)
    }

    /// Its identity.
    pub(super) fn id_at(&self, place: Place) -> ConnectionId {
        self.page(place).key.id(place.low())
    }

    /// Whether the connection at a place is a user's.
    pub(super) fn user_is(&self, place: Place, user: &str) -> bool {
        self.page(place).user_is(place.low(), user)
    }

    /// A device's name, shared with others if it is a common one.
    pub(super) fn share_device(&mut self, device: &Arc<str>) -> Arc<str> {
        self.devices.share(device)
    }

    /// Adds a connection, or replaces what is kept of it.
    pub(super) fn put(&mut self, id: ConnectionId, connection: &Connection) -> Place {
        let key = PageKey::of(id);
        let number = self.numbers.get(&key).copied().unwrap_or_else(|| self.add_page(key, connection));
        let page = page_mut(&mut self.table, number);
        let before = page.bytes();
        page.put(low_of(id.serial), connection, &mut self.devices);
        self.bytes = self.bytes - before as u64 + page.bytes() as u64;
        Place::new(number, low_of(id.serial))
    }

    /// Removes the connection at a place where there is one.
    pub(super) fn remove(&mut self, place: Place) {
        let number = place.page();
        let page = page_mut(&mut self.table, number);
        let before = page.bytes();
        page.remove(place.low());
        self.bytes = self.bytes - before as u64 + page.bytes() as u64;
        if page.len() == 0 {
            // The last one: the page goes too, so that empty pages never accumulate.
            self.numbers.remove(&page.key);
            self.table[number] = None;
            self.free.push_back(number);
        }
        if self.numbers.is_empty() {
            (self.table, self.free) = (Vector::new(), Vector::new());
        }
    }

    /// The connections of one session in order of their serials, from the first one after `after`.
    pub(super) fn scan(&self, epoch: Epoch, after: Option<Serial>) -> impl Iterator<Item = (ConnectionId, Packed<'_>)> {
        let from = after.map_or(Some(0), |serial| serial.checked_add(1));
        let start = PageKey::of(ConnectionId { epoch, serial: from.unwrap_or(Serial::MAX) });
        self.numbers
            .range(start..=PageKey { epoch, number: u64::MAX })
            .flat_map(|(_, number)| self.numbered(*number).iter(&self.devices))
            .skip_while(move |(id, _)| from.is_none_or(|from| id.serial < from))
    }

    /// Every connection that is held, in order of the ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, Packed<'_>)> {
        self.numbers.iter().flat_map(|(_, number)| self.numbered(*number).iter(&self.devices))
    }

    /// An estimate of the memory that is held, in bytes.
    pub(super) fn state_bytes(&self) -> u64 {
        // Measured by the benchmark `directory`. A page's own fields, its places in the table and in the order, and what an allocator
        // adds; what is not used at the end of its block, and between the blocks, is an eighth of what is.
        const PAGE_BYTES: u64 = 176;
        self.bytes + self.bytes / 8 + self.numbers.len() as u64 * PAGE_BYTES
    }

    /// The numbers, the table and the pages agree.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut bytes = 0;
        for (key, number) in &self.numbers {
            let page = self.table.get(*number).and_then(Option::as_ref);
            let page = page.filter(|page| page.key == *key).ok_or_else(|| format!("page {number} is not {key:?}"))?;
            page.check()?;
            bytes += page.bytes() as u64;
        }
        let pages = self.table.iter().flatten().count();
        let is_free = |number: &usize| self.table.get(*number).is_some_and(Option::is_none);
        if pages != self.numbers.len() || pages + self.free.len() != self.table.len() || !self.free.iter().all(is_free)
        {
            let (known, free, all) = (self.numbers.len(), self.free.len(), self.table.len());
            return Err(format!("{pages} pages are counted as {known}; {free} of {all} are free"));
        }
        if bytes != self.bytes {
            return Err(format!("{bytes} bytes of pages are counted as {}", self.bytes));
        }
        Ok(())
    }

    fn add_page(&mut self, key: PageKey, first: &Connection) -> usize {
        let page = Some(Arc::new(Page::new(key, first)));
        let number = if let Some(number) = self.free.pop_back() {
            self.table[number] = page;
            number
        } else {
            self.table.push_back(page);
            self.table.len() - 1
        };
        self.numbers.insert(key, number);
        number
    }

    fn page(&self, place: Place) -> &Page {
        self.numbered(place.page())
    }

    fn numbered(&self, number: usize) -> &Page {
        self.table.get(number).and_then(Option::as_deref).expect("a number is held for as long as its page is there")
    }
}

fn page_mut(table: &mut Vector<Option<Arc<Page>>>, number: usize) -> &mut Page {
    let page = table.get_mut(number).and_then(Option::as_mut);
    Arc::make_mut(page.expect("a number is held for as long as its page is there"))
}

#[cfg(test)]
mod tests;
