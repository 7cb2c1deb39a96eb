//! The SDK to directory nodes, used by gateways, nodes that do not lead, and tests.
//!
//! - [`Directory`] finds and follows the leader, and asks it
//! - [`WatchStream`] shows every change, from any node

mod clusters;
mod directory;
mod watch;

pub use directory::{Directory, Settings};
pub use watch::{Stamper, WatchStream};
