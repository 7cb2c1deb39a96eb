//! Every listener and connector. Nothing else in the service opens a socket, so that a simulator can stand in here.
//!
//! - [`framed`]: length-prefixed binary frames
//! - [`http`]: serving HTTP with limits, and the client

pub mod framed;
pub mod http;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, lookup_host};

/// A connection.
pub type Stream = tokio::net::TcpStream;

/// Longest wait for a connection to be accepted by the other side.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address` (`host:port`, port 0 for any free one).
    pub async fn bind(address: &str) -> io::Result<Self> {
        let inner = TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("can't listen on {address}: {error}")))?;
        let address = inner.local_addr()?;
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
            match self.inner.accept().await {
                Ok((stream, from)) => {
                    // A frame is written whole; waiting for more to send with it only adds delay.
                    let _ = stream.set_nodelay(true);
                    return (stream, from);
                }
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
    let attempt = async {
        let stream = Stream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A connection that was accepted by another runtime, from now on in the hands of the current one.
pub fn moved_here(stream: Stream) -> io::Result<Stream> {
    Stream::from_std(stream.into_std()?)
}

/// Whether everything that listens on `address` can be reached from this machine only.
pub async fn is_loopback(address: &str) -> io::Result<bool> {
    Ok(lookup_host(address).await?.all(|a| a.ip().is_loopback()))
}
