//! Switchboard: a Raft-consistent connection directory for WebSocket clusters.

#[cfg(test)]
mod agreement;
pub mod api;
pub mod chance;
pub mod cli;
pub mod client;
pub mod clock;
pub mod command_line;
pub mod config;
pub mod directory;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod gateway;
pub mod lease;
pub mod memory;
pub mod net;
pub mod node;
pub mod pattern;
pub mod peer;
pub mod push;
pub mod roles;
pub mod shutdown;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod telemetry;
pub mod threads;
pub mod tokens;
pub mod view;
pub mod wire;
