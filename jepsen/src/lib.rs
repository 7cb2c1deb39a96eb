//! Failure tests of Switchboard.

pub mod simulation;
