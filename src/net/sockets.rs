//! TCP, as the system has it.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

/// A connection.
pub type Stream = TcpStream;
/// What a connection receives.
pub type ReadHalf = tokio::net::tcp::OwnedReadHalf;
/// What a connection sends.
pub type WriteHalf = tokio::net::tcp::OwnedWriteHalf;

pub(super) type Bound = TcpListener;

pub(super) async fn bind(address: &str) -> io::Result<(Bound, SocketAddr)> {
    let bound = TcpListener::bind(address).await?;
    let address = bound.local_addr()?;
    Ok((bound, address))
}

pub(super) async fn accept(bound: &Bound) -> io::Result<(Stream, SocketAddr)> {
    let (stream, from) = bound.accept().await?;
    // A frame is written whole; waiting for more to send with it only adds delay.
    let _ = stream.set_nodelay(true);
    Ok((stream, from))
}

pub(super) async fn connect(address: &str) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that was accepted by another runtime, from now on in the hands of the current one.
pub fn moved_here(stream: Stream) -> io::Result<Stream> {
    Stream::from_std(stream.into_std()?)
}
