//! What one user holds.

use std::slice;

use imbl::OrdSet;

use super::ids::{ConnectionId, Epoch, Serial};
use super::pages::{Pages, Place};

/// The connections of one user, in order.
pub(super) enum Held<'a> {
    /// One, the usual case.
    One((ConnectionId, Place)),
    /// A few.
    Few(Vec<(ConnectionId, Place)>),
    /// Many.
    Many(&'a Many),
}

impl Held<'_> {
    /// How many connections are in each session, in order of the epochs.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Epoch, usize)> {
        let (few, many) = self.parts();
        let few = few.chunk_by(|(a, _), (b, _)| a.epoch == b.epoch).map(|run| (run[0].0.epoch, run.len()));
        few.chain(many.into_iter().flat_map(|many| many.counts.iter().copied()))
    }

    /// The connections of one session, in order; both ways.
    pub(super) fn serials(&self, epoch: Epoch) -> impl DoubleEndedIterator<Item = Serial> {
        let (few, many) = self.parts();
        let few = few.iter().map(|(id, _)| id).filter(move |id| id.epoch == epoch);
        let many = many.into_iter().flat_map(move |many| many.ids.range(first_of(epoch)..=last_of(epoch)));
        few.chain(many).map(|id| id.serial)
    }

    /// Every connection with its place, in order of the ids.
    pub(super) fn places(&self, pages: &Pages) -> impl Iterator<Item = (ConnectionId, Place)> {
        let (few, many) = self.parts();
        let many = many.into_iter().flat_map(Many::ids).filter_map(|id| Some((id, pages.place(id)?)));
        few.iter().copied().chain(many)
    }

    pub(super) fn contains(&self, id: ConnectionId) -> bool {
        let (few, many) = self.parts();
        few.iter().any(|(few, _)| *few == id) || many.is_some_and(|many| many.ids.contains(&id))
    }

    fn parts(&self) -> (&[(ConnectionId, Place)], Option<&Many>) {
        match self {
            Self::One(one) => (slice::from_ref(one), None),
            Self::Few(few) => (few, None),
            Self::Many(many) => (&[], Some(many)),
        }
    }
}

fn first_of(epoch: Epoch) -> ConnectionId {
    ConnectionId { epoch, serial: 0 }
}

fn last_of(epoch: Epoch) -> ConnectionId {
    ConnectionId { epoch, serial: Serial::MAX }
}

/// The connections of a user who has so many that to look at each of them would take too long.
#[derive(Debug, Clone, Default)]
pub(super) struct Many {
    ids: OrdSet<ConnectionId>,
    /// How many are in each session, in order of the epochs.
    counts: Vec<(Epoch, usize)>,
}

impl Many {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        self.ids.iter().copied()
    }

    /// Adds one that is not there.
    pub(super) fn insert(&mut self, id: ConnectionId) {
        self.ids.insert(id);
        match self.counts.binary_search_by_key(&id.epoch, |(epoch, _)| *epoch) {
            Ok(at) => self.counts[at].1 += 1,
            Err(at) => self.counts.insert(at, (id.epoch, 1)),
        }
    }

    /// Removes one, if it is there.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        if self.ids.remove(&id).is_none() {
            return;
        }
        if let Ok(at) = self.counts.binary_search_by_key(&id.epoch, |(epoch, _)| *epoch) {
            self.counts[at].1 -= 1;
            if self.counts[at].1 == 0 {
                self.counts.remove(at);
            }
        }
    }

    /// The counts say what is there.
    pub(super) fn check(&self) -> Result<(), String> {
        let ids: Vec<ConnectionId> = self.ids().collect();
        let counts: Vec<_> = ids.chunk_by(|a, b| a.epoch == b.epoch).map(|run| (run[0].epoch, run.len())).collect();
        if counts == self.counts { Ok(()) } else { Err(format!("{counts:?} are counted as {:?}", self.counts)) }
    }
}
