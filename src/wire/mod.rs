//! The only place for wire types: what crosses a socket between two processes or between a process and its users.
//!
//! - [`peer`]: the internal binary protocol (sessions, watch, delivery); `raft/` has frames of its own
//! - [`client`]: the JSON frames of client WebSockets
//! - [`close`]: close codes
//! - [`http`]: bodies of the HTTP API
//!
//! Binary forms are positional (postcard) and can't skip unknown fields, so a stream begins with a version byte and a
//! process refuses a version that it does not speak.

mod ask;
pub mod client;
pub mod close;
mod deliver;
pub mod http;
pub mod peer;
