//! How members talk: framed, long-lived connections, one for each purpose, so that none waits behind another.
//!
//! - `frame`: what is on the wire; `link`: the connecting side of one connection; `peer`: what openraft sends through
//!   links; `transfer`: snapshots, from file to file; `serve`: the accepting side,
//!   with `heartbeat` for what never waits for a disk.
//! - A connection begins with a greeting that names the cluster, both ends with their nonces, and the purpose. Nothing of
//!   a stream is believed before, and every refusal is answered in words before the stream is closed.
//! - Every wait has a limit: a cut connection never says so by itself.

pub(crate) mod frame;
mod heartbeat;
pub(crate) mod link;
pub(crate) mod peer;
pub(crate) mod serve;
mod transfer;
