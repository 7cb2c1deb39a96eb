//! The ends of simulated streams, as the processes hold them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use switchboard::simulation::{Accept, Pipe};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::network::{End, Network, Part, WINDOW_BYTES};

/// A listener.
pub(super) struct Acceptor {
    pub(super) network: Network,
    pub(super) address: SocketAddr,
    pub(super) life: u64,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acceptor({})", self.address)
    }
}

impl Accept for Acceptor {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Pipe, SocketAddr)>> {
        let accepted = self.network.state().accepted(self.address, cx.waker());
        match accepted {
            Some((end, from)) => Poll::Ready(Ok((self.network.pipe(end), from))),
            None => Poll::Pending,
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.network.state().unbind(self.address, self.life);
    }
}

/// The end of a stream that receives.
pub(super) struct Reader {
    pub(super) network: Network,
    pub(super) end: End,
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.network.state();
        let Some(direction) = state.incoming(self.end) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if !direction.arrived.is_empty() {
            let bytes = direction.arrived.len().min(to.remaining());
            let (front, back) = direction.arrived.as_slices();
            let of_front = bytes.min(front.len());
            to.put_slice(&front[..of_front]);
            to.put_slice(&back[..bytes - of_front]);
            direction.arrived.drain(..bytes);
            let waker = if direction.is_full() { None } else { direction.writer.take() };
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if direction.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if direction.finished {
            return Poll::Ready(Ok(()));
        }
        let former = direction.reader.replace(cx.waker().clone());
        drop(state);
        drop(former);
        Poll::Pending
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.network.state();
        if state.is_alive(self.end) {
            state.stop_reading(self.end);
        } else if let Some(direction) = state.incoming(self.end) {
            direction.unread = true;
        }
    }
}

/// The end of a stream that sends.
pub(super) struct Writer {
    pub(super) network: Network,
    pub(super) end: End,
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.network.state();
        let Some(direction) = state.outgoing(self.end) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if direction.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if direction.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if direction.is_full() {
            let former = direction.writer.replace(cx.waker().clone());
            drop(state);
            drop(former);
            return Poll::Pending;
        }
        let taken = bytes.len().min(WINDOW_BYTES);
        state.send(self.end, Part::Bytes(bytes[..taken].to_vec()));
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.network.state().stop_writing(self.end);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.network.state();
        if state.is_alive(self.end) {
            state.stop_writing(self.end);
        } else if let Some(direction) = state.outgoing(self.end) {
            direction.closed = true;
        }
    }
}
