//! Failure tests of Switchboard: real processes, real faults, and histories that are judged afterwards.
//!
//! A run ([`run`]) starts a [`cluster`], lets the clients of one [`workload`] act on it through its public interfaces, lets a
//! [`nemesis`] break things meanwhile, and writes down everything that anyone did or saw as a [`history`]. When all is healed
//! and quiet, the checkers ([`check`]) judge the history, and [`report`] writes a folder that tells the [`verdict`] and shows
//! why.
//!
//! Invariants of the harness:
//! - Nothing is guessed: an answer that did not come is `info`, for ever, and a checker must accept both worlds.
//! - There is one clock, this process's monotonic one.
//! - A failure of the harness is not a verdict; it stops the run, is told apart, and keeps what was written until then.
//! - What a run makes (processes, namespaces, rules, mounts) it takes away, also when it is interrupted.

pub mod check;
pub mod client;
pub mod cluster;
pub mod command_line;
pub mod history;
pub mod mutants;
pub mod nemesis;
pub mod report;
pub mod run;
pub mod simulation;
pub mod verdict;
pub mod workload;
