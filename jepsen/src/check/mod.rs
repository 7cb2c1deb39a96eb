//! Checkers: pure functions from a history to what it shows. Each has tests that feed it the fault that it exists for.

#[cfg(test)]
mod differential;
pub mod durable;
pub mod edn;
pub mod enough;
pub mod lease;
#[cfg(test)]
mod made_up;
pub mod ownership;
mod user;
pub mod versioned;
pub mod wgl;

use crate::history::History;
use crate::verdict::Checked;

/// One checker.
pub type Checker = fn(&History) -> Checked;
