//! Switchboard: a Raft-consistent connection directory for WebSocket clusters.

pub mod directory;
