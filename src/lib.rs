//! Switchboard: a Raft-consistent connection directory for WebSocket clusters.

pub mod api;
pub mod chance;
pub mod clock;
pub mod directory;
pub mod net;
pub mod push;
pub mod telemetry;
pub mod view;
pub mod wire;
