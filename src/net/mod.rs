//! Every listener and connector. Nothing else in the service opens a socket, so that a simulator can stand in here.
//!
//! - `sockets`, or `simulated`: the streams themselves
//! - [`framed`]: length-prefixed binary frames
//! - [`http`]: serving HTTP with limits, and the client

pub mod framed;
pub mod http;
#[cfg(feature = "simulation")]
mod simulated;
pub mod sockets;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

#[cfg(feature = "simulation")]
use simulated as streams;
#[cfg(not(feature = "simulation"))]
use sockets as streams;
pub use streams::{ReadHalf, Stream, WriteHalf, moved_here};
use tokio::net::lookup_host;

/// Longest wait for a connection to be accepted by the other side.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    inner: streams::Bound,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address` (`host:port`, port 0 for any free one).
    pub async fn bind(address: &str) -> io::Result<Self> {
        let (inner, address) = streams::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("can't listen on {address}: {error}")))?;
        Ok(Self { inner, address })
    }

    /// Where it listens, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a connection. Transient failures (no file left, connection gone before it was taken) are waited out and
    /// logged, because a listener that dies of one takes the process with it.
    pub async fn accept(&self) -> (Stream, SocketAddr) {
        loop {
            match streams::accept(&self.inner).await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(listener = %self.address, %error, "a connection could not be accepted; trying again");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Connects to `address` (`host:port`), within [`CONNECT_TIMEOUT`].
pub async fn connect(address: &str) -> io::Result<Stream> {
    let attempt = tokio::time::timeout(CONNECT_TIMEOUT, streams::connect(address));
    attempt.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether everything that listens on `address` can be reached from this machine only.
pub async fn is_loopback(address: &str) -> io::Result<bool> {
    Ok(lookup_host(address).await?.all(|a| a.ip().is_loopback()))
}
