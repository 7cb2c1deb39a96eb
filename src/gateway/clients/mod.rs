//! The sockets of clients: from the upgrade to the close frame.
//!
//! One task per socket reads and writes; nothing else touches the socket. Whatever the rest of the gateway wants of a client
//! goes through its [`Handle`]: bounded, never waiting. One wheel looks after the timers of all sockets.

mod credentials;
mod farewell;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod handle;
mod hello;
mod hub;
mod outbox;
mod rate;
mod seats;
mod socket;
mod subscribe;
#[cfg(test)]
mod tests;
mod upgrade;
mod wheel;
mod wire;

pub(super) use farewell::Farewell;
pub(super) use frames::text as frame_text;
pub(super) use handle::Handle;
#[cfg(test)]
pub(super) use handle::{Common, Who};
pub(super) use hub::Hub;
pub(super) use outbox::Bound;
pub(super) use subscribe::{Refused, Subscribe, on_behalf as subscribe_for};
pub(super) use upgrade::router;
