//! The directory against a model too simple to be wrong, against stories, and against damaged snapshots.

#![expect(clippy::unwrap_used, reason = "a test ends where what it believes is wrong")]

mod damage;
mod generate;
mod model;
mod places;
mod random;
mod replica;
mod stories;
