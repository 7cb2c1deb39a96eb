//! Streams between members. This crate opens no socket: streams are handed in, so that all of it can run in a simulator.

use std::io;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A reliable, ordered, two-way stream of bytes. Nagle's algorithm should be off.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Opens streams to other members.
pub trait Connect: Send + Sync + 'static {
    /// Connects to the peer address of a member. The caller bounds the time and may drop the future.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>>;
}
