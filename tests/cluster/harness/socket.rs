//! A client with a WebSocket.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{PATIENCE, Process, in_time};

/// A client.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// Id of the connection, after its welcome.
    pub id: String,
    /// Its welcome.
    pub greeting: Value,
}

impl Socket {
    /// Opens a socket at a gateway.
    pub async fn open(gateway: &Process, path: &str) -> Self {
        Self::try_open(gateway, path).await.unwrap()
    }

    /// Opens a socket; the error tells the HTTP status of a refusal.
    pub async fn try_open(gateway: &Process, path: &str) -> Result<Self, Error> {
        Self::try_open_at(gateway.address("clients"), path).await
    }

    /// As [`Self::try_open`], at an address.
    pub async fn try_open_at(address: &str, path: &str) -> Result<Self, Error> {
        Self::try_open_asking(address, path, &[]).await
    }

    /// As [`Self::try_open`], with further headers.
    pub async fn try_open_with(gateway: &Process, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        Self::try_open_asking(gateway.address("clients"), path, headers).await
    }

    async fn try_open_asking(address: &str, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let tcp = TcpStream::connect(address).await.map_err(Error::Io)?;
        let mut request = format!("ws://{address}{path}").into_client_request()?;
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        let opened = tokio_tungstenite::client_async(request, tcp);
        let (stream, _) = in_time("an upgrade", opened).await?;
        Ok(Self { stream, id: String::new(), greeting: Value::Null })
    }

    /// Waits for the welcome.
    pub async fn welcome(&mut self) -> Value {
        let welcome = self.frame("welcome").await;
        self.id = welcome["connection"].as_str().unwrap().to_owned();
        self.greeting = welcome.clone();
        welcome
    }

    /// The next frame that is not a ping; it must be of this type.
    pub async fn frame(&mut self, kind: &str) -> Value {
        let frame = self.next().await.unwrap_or_else(|close| panic!("closed ({close:?}) instead of a {kind}"));
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// The next frame that is not a ping, or the close frame.
    pub async fn next(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            match tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("a frame arrives in time") {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(text.as_str()).unwrap();
                    if frame["type"] != "ping" {
                        return Ok(frame);
                    }
                }
                Some(Ok(Message::Close(close))) => return Err(close),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The next frame that is not a ping, however long that takes; none when the socket ends. Pings are answered.
    pub async fn next_or_end(&mut self) -> Option<Value> {
        loop {
            match self.stream.next().await? {
                Ok(Message::Text(text)) => {
                    let frame: Value = serde_json::from_str(text.as_str()).unwrap();
                    if frame["type"] != "ping" {
                        return Some(frame);
                    }
                    self.stream.send(Message::text(r#"{"type":"pong"}"#)).await.ok()?;
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// The next push; its payload.
    pub async fn expect_push(&mut self) -> Value {
        self.frame("push").await["data"].clone()
    }

    /// A goodbye and a close frame, both with this code; the goodbye.
    pub async fn expect_close(&mut self, code: u16) -> Value {
        let goodbye = self.frame("goodbye").await;
        assert_eq!(goodbye["code"], code, "{goodbye}");
        assert_eq!(self.expect_close_frame().await, code);
        goodbye
    }

    /// A close frame, whatever comes before it; its code.
    pub async fn expect_close_frame(&mut self) -> u16 {
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(close) => return close.expect("never without a close frame").code.into(),
            }
        }
    }

    pub async fn send(&mut self, frame: Value) {
        self.send_message(Message::text(frame.to_string())).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        self.stream.send(message).await.unwrap();
    }

    /// Acknowledges everything up to `seq`.
    pub async fn ack(&mut self, seq: u64) {
        self.send(json!({ "type": "ack", "seq": seq })).await;
    }

    /// The raw stream below.
    pub fn raw(&mut self) -> &mut TcpStream {
        self.stream.get_mut()
    }

    /// Closes politely and waits for the other side to do the same.
    pub async fn close(mut self) {
        self.stream.close(None).await.unwrap();
        while let Some(Ok(_)) = in_time("the close", self.stream.next()).await {}
    }
}
