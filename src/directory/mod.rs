//! The meaning: a pure, deterministic state machine that maps users to connections to gateways.
//!
//! Commands go in, outcomes and events come out. There is no I/O here, no clock, no async and no lock; equal commands in
//! equal order give equal states, byte for byte, on every node.

mod command;
mod ids;
pub mod limits;
mod outcome;

pub use command::{Batch, Command, Entry, GatewayAddresses, Op, OpenSession, Policy, Reason, Register};
pub use ids::{ConnectionId, Epoch, NotAConnectionId, Revision, Serial};
pub use outcome::{
    Applied, BatchDone, BatchRefused, Connection, Event, Invalid, OpOutcome, OpRefused, OpenRefused, Outcome, Session,
};
