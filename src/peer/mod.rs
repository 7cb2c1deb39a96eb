//! Streams of the internal protocol: how they start, and requests that are multiplexed over one of them.

mod calls;
mod start;

pub use calls::{Answered, Broken, Calls, Sent};
pub use start::{Dialed, Greeted, Identity, RAFT_PREAMBLE, dial, greet};
