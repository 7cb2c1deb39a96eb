//! Whole clusters of real processes, through public interfaces only.

#![expect(unreachable_pub, reason = "a test exports nothing; pub says what the harness offers")]
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the verdict")]

mod chaos;
mod churn;
mod clients;
mod clocks;
mod control;
mod disk;
mod everyday;
mod failures;
mod full;
mod harness;
mod history;
mod members;
mod overload;
mod ownership;
mod refusals;
mod replicas;
mod restore;
mod services;
mod soak;
mod state;
mod tokens;
mod topics;
mod twins;
