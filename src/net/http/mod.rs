//! HTTP/1.1 over our own sockets: serving with limits, and the client.
//!
//! - [`serve`] takes any router and gives every connection the same limits and the same end
//! - [`Client`] speaks to other processes; plain HTTP only

mod client;
mod serve;
mod socket;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientError, Response, Streaming};
pub use serve::{ServeLimits, Stopping, serve};
pub use socket::Socket;
