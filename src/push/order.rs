//! What a caller wants pushed, and what became of it.

use std::sync::Arc;

use crate::directory::{ConnectionId, Epoch, Revision};
use crate::view::Found;
use crate::wire::peer::{Message, TargetStatus};

/// What a caller wants pushed.
#[derive(Debug, Clone)]
pub struct Order {
    /// To whom.
    pub target: Target,
    /// What.
    pub message: Arc<Message>,
    /// Only to these devices; empty: to all.
    pub devices: Vec<Arc<str>>,
    /// Not to these connections.
    pub except: Vec<ConnectionId>,
    /// Of a push to a topic or to everybody: written to so many connections a second; 0: without a pause.
    pub rate_per_s: u32,
    /// Of a push to a connection: refused unless this is the epoch of its session.
    pub if_match: Option<Epoch>,
}

impl Order {
    /// Those of the resolved connections that are meant.
    pub(super) fn select(&self, resolved: &[Found]) -> Vec<Found> {
        if self.other_epoch(resolved).is_some() {
            return Vec::new();
        }
        let meant = resolved.iter().filter(|found| self.means_device(found) && !self.except.contains(&found.id));
        meant.cloned().collect()
    }

    /// The epoch of the connection, if the order asks for another one.
    pub(super) fn other_epoch(&self, resolved: &[Found]) -> Option<Epoch> {
        let wanted = self.if_match?;
        resolved.iter().map(|found| found.id.epoch).find(|epoch| *epoch != wanted)
    }

    /// Whether none of the wanted devices is there. A connection that was excepted is there all the same.
    pub(super) fn is_offline(&self, resolved: &[Found]) -> bool {
        !resolved.iter().any(|found| self.means_device(found))
    }

    fn means_device(&self, found: &Found) -> bool {
        self.devices.is_empty() || self.devices.contains(&found.connection.device)
    }
}

/// To whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Every connection of a user.
    User(Arc<str>),
    /// One connection.
    Connection(ConnectionId),
    /// Every connection that is subscribed to a topic.
    Topic(Arc<str>),
    /// Every connection.
    All,
}

impl Target {
    /// Whether it is for those whom only their gateways know.
    pub fn is_many(&self) -> bool {
        matches!(self, Self::Topic(_) | Self::All)
    }
}

/// A push that was carried out, for better or worse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Revision at which the targets were resolved.
    pub revision: Revision,
    /// One per target; empty when `except` left no target of a user who is online. Of a push to many, some of them, those that were
    /// not reached first.
    pub results: Vec<TargetResult>,
    /// Of a push to many: how many.
    pub spread: Option<Spread>,
}

/// How many a push to many reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spread {
    /// Connections that it reached.
    pub delivered: u64,
    /// Connections that it did not reach. A gateway that gave no answer counts as one.
    pub failed: u64,
    /// Names of the gateways that gave no answer, in order.
    pub unanswered: Vec<Arc<str>>,
}

/// What became of a push for one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetResult {
    /// The connection.
    pub id: ConnectionId,
    /// Name of its gateway.
    pub gateway: Arc<str>,
    /// What became of it.
    pub status: TargetStatus,
}

/// Why nothing was pushed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushRefused {
    /// Exact: the latest linearizable read showed no connection, or not this one.
    #[error("not connected as of revision {as_of}")]
    Offline {
        /// The revision of that read.
        as_of: Revision,
    },
    /// The epoch that was asked for is not that of the connection.
    #[error("the connection is of epoch {epoch}")]
    Fenced {
        /// The epoch that it has.
        epoch: Epoch,
    },
    /// Not known: a linearizable read is needed and can't be had.
    #[error("{0}")]
    Unavailable(crate::view::Stale),
    /// Not known: nobody has it but gateways that can't be reached, although the directory has their leases.
    #[error("{} can't be reached, and nobody else is there", gateways.join(", "))]
    Unreached {
        /// Their names.
        gateways: Vec<Arc<str>>,
    },
    /// Nothing was pushed: a gateway writes as many messages at a rate as it may.
    #[error("gateway {gateway} writes as many messages at a rate as it takes at once; try again")]
    Busy {
        /// Its name.
        gateway: Arc<str>,
    },
    /// Nothing is known of any target.
    #[error("no answer about any target in time")]
    Timeout,
}
