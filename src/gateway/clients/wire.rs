//! One WebSocket: tungstenite reads and answers control frames, bursts are written past it in one piece.
//!
//! Frames of a server are a short header and the payload, so that a burst of them is built in one buffer, written with one
//! call, and freed. That is only sound between whole frames: what tungstenite has to write (a pong, the answer to a close) is
//! flushed first, and nothing is read until the burst is written.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use crate::gateway::settings::ClientLimits;

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// After its close frame a client that goes on sending is read, and ignored, so far; then it is cut off.
const IGNORED_BYTES_MAX: usize = 32 << 20;

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Received {
    Text(Utf8Bytes),
    /// A control frame; a sign of life.
    Life,
    /// Something for which the connection is closed.
    Wrong(Wrong),
    /// It closed the connection, with this code if it said one.
    Closed(Option<u16>),
}

/// Something for which a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Not the WebSocket protocol.
    Protocol,
    /// Text that is no UTF-8.
    Utf8,
    /// Larger than the limit.
    TooLarge,
    /// A binary message.
    Binary,
}

/// Frames to be written in one piece.
#[derive(Debug, Default)]
pub(super) struct Frames(Vec<u8>);

impl Frames {
    pub(super) fn text(&mut self, text: &str) {
        self.frame(TEXT, text.as_bytes());
    }

    pub(super) fn close(&mut self, code: u16, reason: &str) {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason.as_bytes());
        self.frame(CLOSE, &payload);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) {
        const FINAL: u8 = 0x80;
        self.0.reserve(payload.len() + 10);
        self.0.push(FINAL | opcode);
        match payload.len() {
            short @ 0..=125 => self.0.push(short as u8),
            medium @ 126..=0xffff => {
                self.0.push(126);
                self.0.extend_from_slice(&(medium as u16).to_be_bytes());
            }
            long => {
                self.0.push(127);
                self.0.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        self.0.extend_from_slice(payload);
    }
}

/// One WebSocket, after the upgrade.
#[derive(Debug)]
pub(super) struct Wire<S> {
    inner: WebSocketStream<S>,
    /// Frames were written in part.
    torn: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) async fn new(stream: S, limits: &ClientLimits) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(limits.read_buffer_bytes)
            .write_buffer_size(0)
            .max_write_buffer_size(64 << 10)
            .max_message_size(Some(limits.frame_bytes_max))
            .max_frame_size(Some(limits.frame_bytes_max));
        Self { inner: WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await, torn: false }
    }

    /// Whether frames were written in part, so that nothing else can be.
    pub(super) fn is_torn(&self) -> bool {
        self.torn
    }

    /// What comes next. Cancel-safe.
    pub(super) async fn receive(&mut self) -> Received {
        use tokio_tungstenite::tungstenite::Message;
        use tokio_tungstenite::tungstenite::error::ProtocolError;
        match self.inner.next().await {
            Some(Ok(Message::Text(text))) => Received::Text(text),
            Some(Ok(Message::Binary(_))) => Received::Wrong(Wrong::Binary),
            Some(Ok(Message::Close(frame))) => Received::Closed(frame.map(|frame| frame.code.into())),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Received::Life,
            Some(Err(Error::Capacity(_))) => Received::Wrong(Wrong::TooLarge),
            Some(Err(Error::Utf8(_))) => Received::Wrong(Wrong::Utf8),
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) | None => Received::Closed(None),
            Some(Err(Error::Protocol(_))) => Received::Wrong(Wrong::Protocol),
            Some(Err(_)) => Received::Closed(None),
        }
    }

    /// Writes frames in one piece, within `stall`.
    pub(super) async fn write(&mut self, frames: Frames, stall: Duration) -> io::Result<()> {
        if frames.is_empty() {
            return Ok(());
        }
        let write = async {
            // After a protocol error there is nothing of tungstenite's own to write.
            if let Err(Error::Io(error)) = self.inner.flush().await {
                return Err(error);
            }
            let stream = self.inner.get_mut();
            let mut rest = &frames.0[..];
            while !rest.is_empty() {
                let written = stream.write(rest).await?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                rest = &rest[written..];
                self.torn = !rest.is_empty();
            }
            stream.flush().await
        };
        timeout(stall, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Answers a close frame of the client, if that is still to be done.
    pub(super) async fn answer_close(&mut self, within: Duration) {
        // The client may be gone already.
        let _ = timeout(within, async {
            let _ = self.inner.flush().await;
            self.inner.get_mut().shutdown().await
        })
        .await;
    }

    /// After the close frame was written: waits for the client to close, too. Closing a socket with unread bytes resets it,
    /// and the client might never see the close frame.
    pub(super) async fn linger(&mut self, within: Duration) {
        let stream = self.inner.get_mut();
        let ignore = async {
            stream.shutdown().await?;
            let mut ignored = vec![0; 4 << 10];
            let mut bytes = 0;
            while bytes < IGNORED_BYTES_MAX {
                match stream.read(&mut ignored).await? {
                    0 => break,
                    read => bytes += read,
                }
            }
            io::Result::Ok(())
        };
        // Whatever happens, the socket is dropped next.
        let _ = timeout(within, ignore).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_shortest_length_that_fits() {
        for (length, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 255, 255]),
        ] {
            let mut frames = Frames::default();
            frames.text(&"x".repeat(length));
            assert_eq!((&frames.0[..header.len()], frames.0.len()), (&header[..], header.len() + length));
        }
        let mut frames = Frames::default();
        frames.text(&"x".repeat(65_536));
        assert_eq!(frames.0[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_close_frame_carries_code_and_word() {
        let mut frames = Frames::default();
        frames.close(4200, "drain");
        assert_eq!(frames.0, b"\x88\x07\x10\x68drain");
    }
}
