//! Checkers: pure functions from a history to what it shows. Each has tests that feed it the fault that it exists for.

pub mod coverage;
pub mod processes;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod made_up;
mod user;
pub mod versioned;
pub mod wgl;
pub mod agreement;
pub mod cache;
pub mod feed;
mod known;
pub mod push;
#[cfg(test)]
mod told;
pub mod topics;
pub mod watch;

use crate::history::History;
use crate::verdict::Checked;

/// One checker.
pub type Checker = fn(&History) -> Checked;
