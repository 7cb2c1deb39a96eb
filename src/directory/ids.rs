//! The numbers that name and order things: revisions, epochs, serials, connection ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Index of a state of the directory in the replicated log; every change has one and whatever is newer has the larger one.
pub type Revision = u64;

/// Fencing token of a session: the revision at which it was granted.
pub type Epoch = u64;

/// Number of a connection within its session; it only grows.
pub type Serial = u64;

/// Identity of a connection, unique for ever. Ordered by epoch, then serial; this is *not* the order in which the
/// connections of a user were granted (see [`super::Connection::granted`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId {
    /// The session that holds the connection.
    pub epoch: Epoch,
    /// Its number there.
    pub serial: Serial,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c-{}-{}", self.epoch, self.serial)
    }
}

/// A text that is not of the form `c-<epoch>-<serial>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a connection id has the form c-<epoch>-<serial>")]
pub struct NotAConnectionId;

impl FromStr for ConnectionId {
    type Err = NotAConnectionId;

    fn from_str(text: &str) -> Result<Self, NotAConnectionId> {
        let (epoch, serial) = text.strip_prefix("c-").and_then(|t| t.split_once('-')).ok_or(NotAConnectionId)?;
        Ok(Self { epoch: number(epoch)?, serial: number(serial)? })
    }
}

/// Canonical decimal only: `+7`, `07` and ` 7` would give one connection several names.
fn number(digits: &str) -> Result<u64, NotAConnectionId> {
    let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    if canonical { digits.parse().map_err(|_| NotAConnectionId) } else { Err(NotAConnectionId) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_nothing_else_parses() {
        let id = ConnectionId { epoch: 812, serial: 7 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "c-", "c-1", "c-1-", "c--1", "c-01-2", "c-+1-2", "c-1-2-3", "s-1-2", "c-99999999999999999999-1"]
        {
            assert_eq!(bad.parse::<ConnectionId>(), Err(NotAConnectionId), "{bad}");
        }
    }
}
