//! Tokens of clients (JWT): who somebody is, and what they may, as said by whoever holds the key.
//!
//! - [`Verifier`] checks a token and reads its claims into a [`Grant`]; [`Refused`] says why not
//! - [`KeySet`] is what tokens are checked with; [`JwksSource`] is where a set comes from that changes
//! - [`Minter`] makes tokens
//!
//! Invariants: a key is used with the algorithms of its own kind only, so that a public key is never taken for a secret. No
//! token, and no part of one, is in an error, a log line or a metric. What can't be checked because there are no keys is
//! told apart from what is wrong.

mod claims;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod jwks;
mod keys;
mod mint;
#[cfg(test)]
pub(crate) mod tests;
mod verifier;

pub use claims::{Grant, Rights};
pub use jwks::{JwksPlace, JwksSource};
pub use keys::{KeyError, KeySet, Secret};
pub use mint::{MintError, Minter};
pub use verifier::{Refused, Settings, TOKEN_BYTES_MAX, Verifier};
