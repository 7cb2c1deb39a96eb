//! A user with a WebSocket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Longest wait for the other side to end a socket that is being closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
}

/// What comes from the other side.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// A frame; pings are answered and not told.
    Frame(Value),
    /// The end, and the code that was given; none where the connection broke.
    Closed(Option<u16>),
}

impl Socket {
    /// Opens a socket at `address` (`host:port`), with everything that the gateway is to know in the path: `/ws?user=…`.
    ///
    /// # Errors
    /// When there is no upgrade in time; the text says why.
    pub async fn open(address: &str, path: &str, within: Duration) -> Result<Self, String> {
        let opening = async {
            let tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            tcp.set_nodelay(true).map_err(|error| error.to_string())?;
            let upgraded = tokio_tungstenite::client_async(format!("ws://{address}{path}"), tcp).await;
            upgraded.map_err(|error| error.to_string())
        };
        let opened = tokio::time::timeout(within, opening).await;
        let (stream, _) = opened.map_err(|_| format!("no upgrade by {address} within {within:?}"))??;
        Ok(Self { stream })
    }

    /// The next frame, however long that takes. What is cancelled loses nothing.
    pub async fn hear(&mut self) -> Heard {
        loop {
            let text = match self.stream.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(close))) => return Heard::Closed(close.map(|close| close.code.into())),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return Heard::Closed(None),
            };
            let frame: Value = serde_json::from_str(text.as_str()).unwrap_or(Value::String(text.to_string()));
            if frame["type"] != "ping" {
                return Heard::Frame(frame);
            }
            if self.say(&serde_json::json!({ "type": "pong" })).await.is_err() {
                return Heard::Closed(None);
            }
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn say(&mut self, frame: &Value) -> Result<(), String> {
        self.stream.send(Message::text(frame.to_string())).await.map_err(|error| error.to_string())
    }

    /// Closes politely, and gives up on who does not answer that.
    pub async fn close(mut self) {
        let closing = async {
            if self.stream.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        };
        // Whoever does not answer finds the connection closed.
        let _ = tokio::time::timeout(CLOSE_WITHIN, closing).await;
    }
}
