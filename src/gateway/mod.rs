//! A gateway: terminates the WebSockets of clients, registers them with the directory under one lease, and delivers pushes.
//!
//! - [`Gateway`] starts one; [`Running`] is its life: serve, drain, end
//! - [`Settings`] is everything that can be set
//! - `session` keeps the lease, `registrar` registers and unregisters in batches, `table` knows the open connections, `ours`
//!   passes on what the directory says of them
//! - `subscriptions` are the topics of its connections; the registrar tells the directory which of them have subscribers here
//! - `presence` shows clients who else is subscribed, in the whole cluster
//! - `clients` are the sockets, `peers` and `delivery` what other processes send to them
//! - [`Replica`] is what the gateway knows of the directory, `backend` what its HTTP surface needs
//!
//! Invariants: `welcome` is sent only after the registration is granted. Past its own deadline the gateway writes to no
//! exclusive connection and passes on nothing that its client sends. A connection is found by its serial and checked
//! by its epoch; nothing is written to a socket for another identity. Nobody waits for a client: what does not fit into its
//! outbox closes it. Every task belongs to a set of its parent, and every close by the server has a goodbye and a close frame.

mod answers;
mod asking;
mod backend;
mod clients;
mod delivery;
mod feed;
mod lease;
mod meters;
mod ours;
mod peers;
mod presence;
#[cfg(feature = "simulation")]
pub mod probe;
mod questions;
mod registrar;
mod replica;
mod running;
mod session;
mod settings;
mod spread;
mod subscriptions;
mod table;
#[cfg(test)]
mod testing;

pub use crate::directory::{Handover, Per, Policy};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use clients::fuzz;
#[cfg(test)]
pub(crate) use replica::LoneReplica;
pub use replica::Replica;
pub use running::{Gateway, Running};
pub use session::ExitReason;
pub use settings::{ClientLimits, PeerLimits, RegistrarLimits, ReplicaMode, Settings, StartError};
