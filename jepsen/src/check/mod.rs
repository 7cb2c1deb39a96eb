//! Checkers: pure functions from a history to what it shows. Each has tests that feed it the fault that it exists for.

pub mod agreement;
pub mod cache;
pub mod coverage;
#[cfg(test)]
mod differential;
pub mod durable;
pub mod edn;
pub mod enough;
pub mod feed;
mod known;
pub mod lease;
#[cfg(test)]
mod made_up;
pub mod ownership;
pub mod processes;
pub mod push;
#[cfg(test)]
mod told;
pub mod topics;
mod user;
pub mod versioned;
pub mod watch;
pub mod wgl;

use crate::history::History;
use crate::verdict::Checked;

/// One checker.
pub type Checker = fn(&History) -> Checked;
