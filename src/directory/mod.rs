//! The meaning: a pure, deterministic state machine that maps users to connections to gateways.
//!
//! Commands go in, outcomes and events come out. There is no I/O here, no clock, no async and no lock; equal commands in
//! equal order give equal states, byte for byte, on every node.
//!
//! Public: [`Directory`], the commands that it takes, the outcomes and events that it gives, and its views for readers.
//! What holds between any two entries, and [`Directory::check_invariants`] checks:
//! - a connection is held in the pages and, by its user, in the index, or in neither;
//! - it is live if and only if its session is; the connections of an ended session are held until they are reclaimed, and
//!   no reader, outcome or event can tell that they are;
//! - the counts say what is there.

mod bans;
mod batch;
mod command;
mod contest;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod held;
mod ids;
mod interner;
mod invariants;
pub mod limits;
mod outcome;
mod packed;
mod page;
mod pages;
mod read;
mod register;
mod remote;
mod restore;
mod sessions;
mod snapshot;
mod state;
mod subject;
mod topics;
mod users;

pub use command::{
    Ban, Batch, Command, Disconnect, Entry, GatewayAddresses, Handover, Op, OpenSession, Per, Policy, Reason, Register,
    Release, Whom,
};
pub use ids::{ConnectionId, Epoch, NotAConnectionId, Revision, Serial};
pub use outcome::{
    Applied, BatchDone, BatchRefused, Connection, Event, Invalid, OpOutcome, OpRefused, OpenRefused, Outcome, Owner,
    Session, SessionEnd,
};
pub use read::{Asked, BannedUser, EndedSession, Gateway, LiveConnection, LiveSession, Stats, Topic};
pub use restore::{NoRevisionsLeft, RESTORE_DISTANCE, REVISION_MAX};
pub use snapshot::SnapshotError;
pub use state::Directory;
