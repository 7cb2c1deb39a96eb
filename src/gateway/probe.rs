//! A look into a gateway that runs, for simulations: whom it serves by its own clock, and what its replica shows.

use std::sync::Arc;

use super::clients::Hub;
use super::replica::Replica;
use crate::directory::{ConnectionId, Epoch, Revision};

/// A look into a gateway.
#[derive(Debug, Clone)]
pub struct Probe(Arc<Hub>);

/// A connection that a gateway would write to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Its id.
    pub id: ConnectionId,
    /// Its user.
    pub user: Arc<str>,
    /// Its device.
    pub device: Arc<str>,
    /// When it was granted.
    pub granted: Revision,
}

impl Probe {
    pub(super) fn new(hub: &Arc<Hub>) -> Self {
        Self(Arc::clone(hub))
    }

    /// The session that it believes to have.
    pub fn epoch(&self) -> Option<Epoch> {
        self.0.lease.epoch()
    }

    /// Whether it may serve exclusive connections now, by its own clock.
    pub fn is_held(&self) -> bool {
        self.0.lease.is_held()
    }

    /// The connections that it would write a push to now, ordered by id.
    pub fn served(&self) -> Vec<Served> {
        let mut served: Vec<Served> = self
            .0
            .table
            .all()
            .into_iter()
            .filter(|handle| !handle.is_finished() && !handle.is_ending() && handle.is_served())
            .filter_map(|handle| {
                let bound = handle.bound()?;
                let id = ConnectionId { epoch: bound.epoch, serial: handle.serial() };
                let (user, device) = (Arc::clone(&handle.who.user), Arc::clone(&handle.who.device));
                Some(Served { id, user, device, granted: bound.granted })
            })
            .collect();
        served.sort_unstable_by_key(|served| served.id);
        served
    }

    /// What it knows of the directory.
    pub fn replica(&self) -> &Replica {
        &self.0.replica
    }
}
