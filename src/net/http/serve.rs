//! Serving a router: our own accept loop, because limits belong to every connection from its first byte.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::socket::Socket;
use crate::net::{Listener, Stream};

/// What a connection may cost. The defaults suit services and browsers; a listener for a million WebSockets raises
/// `connections_max`.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Open connections, upgraded ones included; one more is answered 503 and closed.
    pub connections_max: usize,
    /// Time for the headers of a request, also how long an idle connection is kept: a slow or silent sender is closed.
    pub header_timeout: Duration,
    /// Bytes of the request line and headers together; more is answered 431.
    pub header_bytes_max: usize,
    /// Bytes of the request target; more is answered 414.
    pub uri_bytes_max: usize,
    /// How long a write may wait for the other side to read.
    pub write_stall: Duration,
    /// How long requests may go on after the end was asked for.
    pub drain: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            header_timeout: Duration::from_secs(10),
            header_bytes_max: 16 << 10,
            uri_bytes_max: 8 << 10,
            write_stall: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// In the extensions of every request: cancelled when the listener is asked to end, so that long answers end too.
#[derive(Debug, Clone)]
pub struct Stopping(pub CancellationToken);

/// Serves `router` until `stop`, then lets requests end within [`ServeLimits::drain`] and closes what is left. Every
/// request carries [`ConnectInfo<SocketAddr>`] and [`Stopping`]. Upgraded sockets leave HTTP behind: whoever upgraded
/// one ends it.
pub async fn serve(listener: Listener, router: Router, limits: ServeLimits, stop: CancellationToken) {
    let open = Arc::new(Semaphore::new(limits.connections_max));
    let limits = Arc::new(limits);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            (stream, from) = listener.accept() => {
                let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
                    refuse_connection(&stream, from, limits.connections_max);
                    continue;
                };
                let socket = Socket::new(stream, limits.write_stall, permit);
                connections.spawn(connection(socket, from, router.clone(), Arc::clone(&limits), stop.clone()));
            }
        }
    }
    drop(listener);
    let ended = timeout(limits.drain, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if ended.await.is_err() {
        tracing::warn!(open = connections.len(), "requests were still running at the deadline; closing them");
        connections.shutdown().await;
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a request made its handler panic; its connection is closed");
    }
}

/// Says so without waiting: a process at its limit spends nothing on one more.
fn refuse_connection(stream: &Stream, from: SocketAddr, limit: usize) {
    let body = refusal_body("unavailable", "too many connections are open; try again", true);
    let head =
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-type: application/json";
    let _ = stream.try_write(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    tracing::debug!(%from, limit, "a connection above the limit was refused");
}

async fn connection(
    socket: Socket,
    from: SocketAddr,
    router: Router,
    limits: Arc<ServeLimits>,
    stop: CancellationToken,
) {
    let stopping = stop.clone();
    let header_timeout = limits.header_timeout;
    // Room for the largest head and some of the body; grown only when a request needs it.
    let buffer_bytes_max = (2 * limits.header_bytes_max).max(16 << 10);
    let service = service_fn(move |request| {
        let (router, stopping, limits) = (router.clone(), stopping.clone(), Arc::clone(&limits));
        async move { Ok::<_, Infallible>(answer(request, router, from, stopping, &limits).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(buffer_bytes_max)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%from, %error, "an HTTP connection ended early");
    }
}

async fn answer(
    mut request: Request<Incoming>,
    mut router: Router,
    from: SocketAddr,
    stopping: CancellationToken,
    limits: &ServeLimits,
) -> Response<Body> {
    if let Some(refusal) = refuse(&request, limits) {
        return refusal;
    }
    request.extensions_mut().insert(ConnectInfo(from));
    request.extensions_mut().insert(Stopping(stopping));
    match router.call(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// What no handler should see. Several `Host` headers, or none, let two parties disagree about whom a request is for.
fn refuse(request: &Request<Incoming>, limits: &ServeLimits) -> Option<Response<Body>> {
    let uri = request.uri();
    let uri_bytes = uri.path_and_query().map_or(0, |target| target.as_str().len());
    if uri_bytes > limits.uri_bytes_max {
        let message = format!("the request target has {uri_bytes} bytes; the limit is {}", limits.uri_bytes_max);
        return Some(refusal(StatusCode::URI_TOO_LONG, "too_large", &message));
    }
    let header_bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if header_bytes + uri_bytes > limits.header_bytes_max {
        let message = format!("the headers have {header_bytes} bytes; the limit is {}", limits.header_bytes_max);
        return Some(refusal(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_large", &message));
    }
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        let message = format!("a request has exactly one Host header; this one has {hosts}");
        return Some(refusal(StatusCode::BAD_REQUEST, "bad_request", &message));
    }
    None
}

/// The one form of errors, spelled out here because this module knows nothing of ours. `message` needs no escapes.
fn refusal_body(code: &str, message: &str, temporary: bool) -> String {
    format!(r#"{{"error":{{"code":"{code}","message":"{message}","temporary":{temporary}}}}}"#)
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(refusal_body(code, message, false)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
