//! The same as `sockets`, where a simulation may stand in: each is a socket outside of one, and a pipe inside.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::sockets;
use crate::simulation::{Accept, Pipe, world};

/// A connection.
pub enum Stream {
    /// Of the system.
    Socket(sockets::Stream),
    /// Of a simulation.
    Pipe(Pipe),
}

/// What a connection receives.
pub enum ReadHalf {
    /// Of the system.
    Socket(sockets::ReadHalf),
    /// Of a simulation.
    Pipe(Box<dyn AsyncRead + Send + Sync + Unpin>),
}

/// What a connection sends.
pub enum WriteHalf {
    /// Of the system.
    Socket(sockets::WriteHalf),
    /// Of a simulation.
    Pipe(Box<dyn AsyncWrite + Send + Sync + Unpin>),
}

#[derive(Debug)]
pub(super) enum Bound {
    Socket(sockets::Bound),
    Simulated(Box<dyn Accept>),
}

pub(super) async fn bind(address: &str) -> io::Result<(Bound, SocketAddr)> {
    if let Some(world) = world() {
        let bound = world.bind(address)?;
        let address = bound.address();
        return Ok((Bound::Simulated(bound), address));
    }
    sockets::bind(address).await.map(|(bound, address)| (Bound::Socket(bound), address))
}

pub(super) async fn accept(bound: &Bound) -> io::Result<(Stream, SocketAddr)> {
    match bound {
        Bound::Socket(bound) => sockets::accept(bound).await.map(|(stream, from)| (Stream::Socket(stream), from)),
        Bound::Simulated(bound) => {
            let (pipe, from) = poll_fn(|cx| bound.poll_accept(cx)).await?;
            Ok((Stream::Pipe(pipe), from))
        }
    }
}

pub(super) async fn connect(address: &str) -> io::Result<Stream> {
    match world() {
        Some(world) => world.connect(address).await.map(Stream::Pipe),
        None => sockets::connect(address).await.map(Stream::Socket),
    }
}

/// A connection that was accepted by another runtime, from now on in the hands of the current one.
pub fn moved_here(stream: Stream) -> io::Result<Stream> {
    match stream {
        Stream::Socket(stream) => sockets::moved_here(stream).map(Stream::Socket),
        Stream::Pipe(pipe) => Ok(Stream::Pipe(pipe)),
    }
}

impl Stream {
    /// Both directions apart.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Stream::Socket(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Socket(read), WriteHalf::Socket(write))
            }
            Stream::Pipe(Pipe { read, write }) => (ReadHalf::Pipe(read), WriteHalf::Pipe(write)),
        }
    }

    /// Writes what can be written without waiting.
    ///
    /// # Errors
    /// Those of a write, and `WouldBlock`.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Socket(stream) => stream.try_write(bytes),
            Stream::Pipe(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl ReadHalf {
    /// Both directions together again.
    ///
    /// # Errors
    /// When the halves belong to different connections.
    pub fn reunite(self, write: WriteHalf) -> io::Result<Stream> {
        match (self, write) {
            (ReadHalf::Socket(read), WriteHalf::Socket(write)) => {
                read.reunite(write).map(Stream::Socket).map_err(io::Error::other)
            }
            (ReadHalf::Pipe(read), WriteHalf::Pipe(write)) => Ok(Stream::Pipe(Pipe { read, write })),
            _ => Err(io::Error::other("the halves of two connections")),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Socket(stream) => stream.connected(),
            Stream::Pipe(_) => Connected::new(),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadHalf")
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteHalf")
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Socket(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Pipe(pipe) => Pin::new(&mut pipe.read).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ReadHalf::Socket(read) => Pin::new(read).poll_read(cx, buf),
            ReadHalf::Pipe(read) => Pin::new(read).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Socket(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Pipe(pipe) => Pin::new(&mut pipe.write).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Socket(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Stream::Pipe(pipe) => Pin::new(&mut pipe.write).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Stream::Socket(stream) if stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Socket(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Pipe(pipe) => Pin::new(&mut pipe.write).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Socket(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Pipe(pipe) => Pin::new(&mut pipe.write).poll_shutdown(cx),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            WriteHalf::Socket(write) => Pin::new(write).poll_write(cx, bytes),
            WriteHalf::Pipe(write) => Pin::new(write).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            WriteHalf::Socket(write) => Pin::new(write).poll_flush(cx),
            WriteHalf::Pipe(write) => Pin::new(write).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            WriteHalf::Socket(write) => Pin::new(write).poll_shutdown(cx),
            WriteHalf::Pipe(write) => Pin::new(write).poll_shutdown(cx),
        }
    }
}
