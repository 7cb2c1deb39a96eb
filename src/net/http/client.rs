//! The HTTP client: pooled connections, a limit on every answer and a deadline on every wait.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{HeaderMap, Method, Request, StatusCode, Uri};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, timeout, timeout_at};

use crate::net;

/// Below the time for which our servers keep an idle connection, so that a pooled one is rarely found closed.
const POOL_IDLE: Duration = Duration::from_secs(5);

/// Connections kept per server.
const POOL_IDLE_PER_HOST_MAX: usize = 32;

/// Bytes of an answer that are taken at most, unless told otherwise.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Bytes of one line of a streamed answer at most.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A pooled HTTP client. Clones share the pool. Plain HTTP only.
#[derive(Clone)]
pub struct Client {
    pool: Pool<Connector, Full<Bytes>>,
    answer_bytes_max: usize,
}

/// An answer, read in full.
#[derive(Debug, Clone)]
pub struct Response {
    /// Its status; an error status is an answer too.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL can't be used. Nothing was sent.
    #[error("{url} can't be used: {why}")]
    Url {
        /// The URL.
        url: String,
        /// Why.
        why: &'static str,
    },
    /// No connection. Nothing was sent.
    #[error("can't connect to {address}: {why}")]
    Connect {
        /// `host:port`.
        address: String,
        /// Why.
        why: String,
    },
    /// No answer in time. The request may have been carried out.
    #[error("no answer from {address} within {within:?}")]
    Timeout {
        /// `host:port`.
        address: String,
        /// The limit.
        within: Duration,
    },
    /// The answer, or a line of it, is longer than the limit.
    #[error("the answer of {address} is longer than {limit} bytes")]
    TooLarge {
        /// `host:port`.
        address: String,
        /// The limit.
        limit: usize,
    },
    /// The connection broke. The request may have been carried out.
    #[error("the connection to {address} broke: {why}")]
    Broken {
        /// `host:port`.
        address: String,
        /// Why.
        why: String,
    },
}

impl ClientError {
    /// Whether the server can't have seen the request, so that it may be sent again, also elsewhere.
    pub fn not_sent(&self) -> bool {
        matches!(self, Self::Url { .. } | Self::Connect { .. })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("answer_bytes_max", &self.answer_bytes_max).finish_non_exhaustive()
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client with a pool of its own.
    pub fn new() -> Self {
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_IDLE_PER_HOST_MAX)
            .build(Connector);
        Self { pool, answer_bytes_max: ANSWER_BYTES_MAX }
    }

    /// Takes answers of at most so many bytes.
    #[must_use]
    pub fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.answer_bytes_max = bytes;
        self
    }

    /// Sends a request and reads the whole answer, both `within` that time.
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        within: Duration,
    ) -> Result<Response, ClientError> {
        let deadline = Instant::now() + within;
        let answer = self.send(method, url, headers, body, deadline, within).await?;
        let (head, body) = answer.into_parts();
        let address = address_of(&parse(url)?);
        let limit = self.answer_bytes_max;
        let collected = match timeout_at(deadline, Limited::new(body, limit).collect()).await {
            Ok(Ok(collected)) => collected,
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(ClientError::TooLarge { address, limit });
            }
            Ok(Err(error)) => return Err(ClientError::Broken { address, why: error.to_string() }),
            Err(_) => return Err(ClientError::Timeout { address, within }),
        };
        Ok(Response { status: head.status, headers: head.headers, body: collected.to_bytes() })
    }

    /// Sends a `GET` and hands over the answer as it comes. `within` is the time for its head; between two parts of the
    /// body there may be `idle`.
    pub async fn stream(
        &self,
        url: &str,
        headers: HeaderMap,
        within: Duration,
        idle: Duration,
    ) -> Result<Streaming, ClientError> {
        let deadline = Instant::now() + within;
        let answer = self.send(Method::GET, url, headers, Bytes::new(), deadline, within).await?;
        let (head, body) = answer.into_parts();
        let address = address_of(&parse(url)?);
        Ok(Streaming { status: head.status, headers: head.headers, address, body, idle, buffer: BytesMut::new() })
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
        within: Duration,
    ) -> Result<axum::http::Response<Incoming>, ClientError> {
        let uri = parse(url)?;
        let address = address_of(&uri);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        match timeout_at(deadline, self.pool.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(classify(&error, address)),
            Err(_) => Err(ClientError::Timeout { address, within }),
        }
    }
}

fn parse(url: &str) -> Result<Uri, ClientError> {
    let refused = |why| ClientError::Url { url: url.to_owned(), why };
    let uri: Uri = url.parse().map_err(|_| refused("it is not a URL"))?;
    match uri.scheme_str() {
        Some("http") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        Some("https") => Err(refused("https is not offered yet, only http")),
        _ => Err(refused("it must begin with http:// and name a host")),
    }
}

fn address_of(uri: &Uri) -> String {
    format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80))
}

fn classify(error: &PoolError, address: String) -> ClientError {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        why = inner.to_string();
        cause = inner.source();
    }
    if error.is_connect() { ClientError::Connect { address, why } } else { ClientError::Broken { address, why } }
}

/// An answer that is still coming.
#[derive(Debug)]
pub struct Streaming {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    address: String,
    body: Incoming,
    idle: Duration,
    buffer: BytesMut,
}

impl Streaming {
    /// The next part of the body; `None` after the last. Cancel-safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        if !self.buffer.is_empty() {
            return Ok(Some(self.buffer.split().freeze()));
        }
        self.next_data().await
    }

    /// The next line, without its end; `None` after the last. Cancel-safe.
    pub async fn line(&mut self) -> Result<Option<Bytes>, ClientError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(searched + at).freeze();
                self.buffer.advance(1);
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES_MAX {
                return Err(ClientError::TooLarge { address: self.address.clone(), limit: LINE_BYTES_MAX });
            }
            match self.next_data().await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(self.buffer.split().freeze())),
            }
        }
    }

    /// The whole answer, where it is a refusal: its body is short.
    pub async fn refusal(self) -> Result<Response, ClientError> {
        let (status, headers) = (self.status, self.headers.clone());
        Ok(Response { status, headers, body: self.rest(LINE_BYTES_MAX).await? })
    }

    /// The rest of the body, at most `limit` bytes of it: for the body of an error.
    pub async fn rest(mut self, limit: usize) -> Result<Bytes, ClientError> {
        let mut body = BytesMut::new();
        while body.len() < limit {
            let Some(part) = self.chunk().await? else { break };
            body.extend_from_slice(&part);
        }
        body.truncate(limit);
        Ok(body.freeze())
    }

    async fn next_data(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match timeout(self.idle, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(error))) => {
                    return Err(ClientError::Broken { address: self.address.clone(), why: error.to_string() });
                }
                Ok(None) => return Ok(None),
                Err(_) => return Err(ClientError::Timeout { address: self.address.clone(), within: self.idle }),
            }
        }
    }
}

/// Connects through [`net::connect`], where a simulator can stand in.
#[derive(Debug, Clone)]
struct Connector;

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<net::Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move { Ok(TokioIo::new(net::connect(&address_of(&uri)).await?)) })
    }
}
