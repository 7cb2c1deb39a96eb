//! A replicated state machine: bytes go in on the leader, and every member applies them in one order.
//!
//! openraft decides, `raft-log` or `sled` keeps the log, and all are known to this crate alone: nothing of theirs is in its
//! interface. It knows nothing of what it replicates, it opens no socket, and it reads no clock but tokio's; streams, a
//! connector and the application are handed in.
//!
//! Reading order: [`Raft`] is the handle; `settings` holds every limit; `machine` and `stream` are what the owner brings;
//! `propose`, `reads` and `status` are what it gets. Below are `start` (from disk to running), `founding` (how a cluster
//! begins), `seed` (how one begins with an old state), `members`, `change` and `handover` (how it changes), `leaving` (how a
//! member's part ends), `identity`, `roster`, `apply`, `log`, `snapshot`, `compaction`, `backup`, `offline` and `net`; `space`,
//! `short` and `failure` are about disks that fill up or fail; `blocking` and `simulation` about where work is done.
//!
//! Invariants:
//! - Votes, entries, marks and snapshots are durable before anyone is told of them; one ordered stream per member.
//! - After a failed write or flush the replica ends; it never tries again on the same files. Before the space runs out it
//!   refuses what can be refused, and goes on by itself when there is some again.
//! - A member whose storage lost something refuses to start, or is shut out by its nonce. It never votes again.
//! - Heartbeats and votes never wait behind entries or snapshots, and nothing waits for the disk but what must.
//! - Every queue and every wait has a limit.

mod apply;
mod backup;
mod blocking;
mod change;
mod compaction;
mod counters;
mod entry;
mod failure;
mod founding;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod golden;
mod handover;
mod identity;
mod leaving;
mod log;
mod machine;
mod members;
mod net;
mod observer;
mod offline;
mod propose;
mod raft;
mod reads;
mod roster;
mod seed;
mod settings;
mod short;
#[cfg(feature = "simulation")]
pub mod simulation;
mod snapshot;
mod space;
mod start;
mod status;
mod stream;
#[cfg(test)]
mod tests;

pub use backup::{About, Backup};
pub use change::ChangeError;
pub use counters::{Counters, DURATION_BOUNDS, Durations};
pub use founding::Standing;
pub use machine::{Frozen, StateMachine};
pub use net::frame::PREAMBLE;
pub use offline::{Survey, UpTo, survey};
pub use propose::{Applied, ProposeError, Proposed};
pub use raft::{FatalReason, Raft, SnapshotError};
pub use reads::ReadError;
pub use seed::write_seed;
pub use settings::{Addresses, Formats, Limits, LogEngine, NodeId, Settings};
pub use space::Space;
pub use start::StartError;
pub use status::{Leadership, Member, MemberRole, MemberState, Role, Status};
pub use stream::{Connect, Stream};
