//! A client that writes bytes: it can do everything that a proper one would not.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// A socket of a client.
pub(super) struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Asks for an upgrade; the socket, and the head of the answer.
    pub(super) async fn ask(address: SocketAddr, target: &str, headers: &str) -> (Self, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut raw = Self { stream };
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(raw.byte().await.expect("an answer"));
        }
        (raw, String::from_utf8(head).unwrap())
    }

    /// Opens a WebSocket.
    pub(super) async fn open(address: SocketAddr, target: &str) -> Self {
        let (raw, head) = Self::ask(address, target, "").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        raw
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        // The server may have closed already; what it said is what counts.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends a frame; the mask is all zeros, so that the payload stays readable.
    pub(super) async fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.write(&frame(0x80 | opcode, payload)).await;
    }

    pub(super) async fn say(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes()).await;
    }

    /// The next frame; `None` when the server closed the socket properly.
    pub(super) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let opcode = self.byte().await? & 0x0f;
        let length = match self.byte().await.unwrap() {
            126 => u64::from(u16::from_be_bytes([self.byte().await.unwrap(), self.byte().await.unwrap()])),
            127 => {
                let mut bytes = [0; 8];
                self.stream.read_exact(&mut bytes).await.unwrap();
                u64::from_be_bytes(bytes)
            }
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).await.unwrap();
        Some((opcode, payload))
    }

    /// The next frame, which has to be JSON.
    pub(super) async fn json(&mut self) -> Value {
        let (opcode, payload) = self.frame().await.expect("a frame");
        assert_eq!(opcode, TEXT, "{payload:?}");
        serde_json::from_slice(&payload).unwrap()
    }

    /// The next frame, which has to be of this type.
    pub(super) async fn expect(&mut self, kind: &str) -> Value {
        let frame = self.json().await;
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// A goodbye, a close frame with the same code, and the end of the stream.
    pub(super) async fn expect_end(&mut self, code: u16) -> Value {
        let goodbye = loop {
            let frame = self.json().await;
            if frame["type"] == "goodbye" {
                break frame;
            }
            assert!(frame["type"] == "error" || frame["type"] == "ping", "{frame}");
        };
        assert_eq!(goodbye["code"], code, "{goodbye}");
        let (opcode, payload) = self.frame().await.expect("a close frame");
        assert_eq!((opcode, &payload[..2]), (CLOSE, &code.to_be_bytes()[..]));
        assert_eq!(&payload[2..], goodbye["reason"].as_str().unwrap().as_bytes());
        assert_eq!(self.frame().await, None, "and then the end");
        goodbye
    }

    /// Nothing arrives for a moment.
    pub(super) async fn expect_silence(&mut self) {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(150), self.stream.peek(&mut byte)).await;
        assert!(read.is_err(), "something arrived: {read:?}");
    }

    /// The bytes that have arrived, until nothing more does for a moment, or the end of the stream: then it is true.
    pub(super) async fn drain(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        loop {
            let read = self.stream.read_buf(&mut bytes);
            match tokio::time::timeout(Duration::from_secs(1), read).await {
                Ok(Ok(0) | Err(_)) => return (bytes, true),
                Ok(Ok(_)) => {}
                Err(_) => return (bytes, false),
            }
        }
    }

    async fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut byte)).await.expect("something in time");
        (read.expect("no reset") > 0).then_some(byte[0])
    }
}

/// A masked frame with this first byte.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}
