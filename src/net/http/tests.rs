//! Serving and the client, against each other.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Client, ClientError, ServeLimits, serve};
use crate::net::{self, Listener};

const SOON: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::from_millis(50);

struct Server {
    address: String,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Server {
    async fn start(router: Router, limits: ServeLimits) -> Self {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address().to_string();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, router, limits, stop.clone()));
        Self { address, stop, served }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn get_from(client: &Client, url: &str, within: Duration) -> Result<super::Response, ClientError> {
    client.request(Method::GET, url, HeaderMap::new(), Bytes::new(), within).await
}

#[tokio::test]
async fn every_wait_and_every_answer_of_the_client_has_a_limit() {
    let chunks = || stream::iter(vec![Ok::<_, Infallible>(Bytes::from_static(b"one\ntw"))]);
    let routes = Router::new()
        .route("/echo", any(|request: Request| async move { request.into_body() }))
        .route("/never", get(std::future::pending::<()>))
        .route("/large", get(|| async { vec![b'x'; 4096] }))
        .route(
            "/lines",
            get(move || async move { Body::from_stream(chunks().chain(stream::iter([Ok("o\n\nlast".into())]))) }),
        )
        .route("/silent", get(move || async move { Body::from_stream(chunks().chain(stream::pending())) }));
    let server = Server::start(routes, ServeLimits::default()).await;
    let client = Client::new().answer_bytes_max(1024);

    let echo = client.request(Method::PUT, &server.url("/echo"), HeaderMap::new(), "hello".into(), SOON).await.unwrap();
    assert_eq!(echo.body, "hello");
    let late = get_from(&client, &server.url("/never"), NOW).await.unwrap_err();
    assert!(matches!(late, ClientError::Timeout { .. }) && !late.not_sent(), "{late}");
    let large = get_from(&client, &server.url("/large"), SOON).await.unwrap_err();
    assert!(matches!(large, ClientError::TooLarge { limit: 1024, .. }), "{large}");

    let mut lines = client.stream(&server.url("/lines"), HeaderMap::new(), SOON, SOON).await.unwrap();
    for expected in [Some("one"), Some("two"), Some(""), Some("last"), None] {
        assert_eq!(lines.line().await.unwrap(), expected.map(Bytes::from));
    }
    let mut silent = client.stream(&server.url("/silent"), HeaderMap::new(), SOON, NOW).await.unwrap();
    assert_eq!(silent.line().await.unwrap().unwrap(), "one");
    assert!(matches!(silent.line().await, Err(ClientError::Timeout { .. })));

    for url in ["https://127.0.0.1:1/", "ftp://a/", "what", "http://"] {
        let refused = get_from(&client, url, SOON).await.unwrap_err();
        assert!(matches!(refused, ClientError::Url { .. }) && refused.not_sent(), "{url}: {refused}");
    }
    let closed = Listener::bind("127.0.0.1:0").await.unwrap().address();
    let refused = get_from(&client, &format!("http://{closed}/"), SOON).await.unwrap_err();
    assert!(matches!(refused, ClientError::Connect { .. }) && refused.not_sent(), "{refused}");
}

#[tokio::test]
async fn requests_are_finished_before_the_end_up_to_the_deadline() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let routes = {
        let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
        Router::new()
            .route(
                "/wait",
                get(async move || {
                    begun.notify_one();
                    go.notified().await;
                    "done"
                }),
            )
            .route("/never", get(std::future::pending::<()>))
    };
    let limits = ServeLimits { drain: SOON, ..ServeLimits::default() };
    let server = Server::start(routes.clone(), limits).await;
    let url = server.url("/wait");
    let asking = tokio::spawn(async move { get_from(&Client::new(), &url, SOON).await.unwrap().body });
    begun.notified().await;
    server.stop.cancel();
    go.notify_one();
    assert_eq!(asking.await.unwrap(), "done");
    timeout(SOON, server.served).await.unwrap().unwrap();

    let server = Server::start(routes, ServeLimits { drain: NOW, ..ServeLimits::default() }).await;
    let mut stuck = net::connect(&server.address).await.unwrap();
    stuck.write_all(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    server.stop.cancel();
    timeout(SOON, server.served).await.expect("the deadline holds").unwrap();
    assert_eq!(stuck.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_reader_who_takes_nothing_is_given_up() {
    let endless = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1 << 16])));
    let routes = Router::new().route("/endless", get(async move || Body::from_stream(endless.clone())));
    let limits = ServeLimits { write_stall: NOW, connections_max: 1, ..ServeLimits::default() };
    let server = Server::start(routes, limits).await;
    let mut deaf = net::connect(&server.address).await.unwrap();
    deaf.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // Its place is given back although it has not gone.
    let free = async {
        loop {
            match get_from(&Client::new(), &server.url("/else"), SOON).await {
                Ok(answer) if answer.status == 404 => break,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    timeout(SOON, free).await.expect("the deaf reader is closed");
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn an_upgraded_socket_outlives_http_and_still_counts_as_open() {
    async fn ws(ConnectInfo(from): ConnectInfo<std::net::SocketAddr>, upgrade: WebSocketUpgrade) -> Response {
        assert!(from.ip().is_loopback());
        upgrade.on_upgrade(echo).into_response()
    }
    let routes = Router::new().route("/ws", any(ws));
    let limits = ServeLimits { connections_max: 1, header_timeout: NOW, ..ServeLimits::default() };
    let server = Server::start(routes, limits).await;
    let stream = net::connect(&server.address).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(format!("ws://{}/ws", server.address), stream).await.unwrap();
    let (mut write, mut read) = socket.split();
    let mut say = async |text: &'static str| {
        use futures_util::SinkExt;
        write.send(tokio_tungstenite::tungstenite::Message::text(text)).await.unwrap();
        let heard = timeout(SOON, read.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(heard.into_text().unwrap().as_str(), text);
    };
    say("one").await;
    let refused = get_from(&Client::new(), &server.url("/ws"), SOON).await;
    assert!(!matches!(&refused, Ok(answer) if answer.status != 503), "{refused:?}");
    server.stop.cancel();
    timeout(SOON, server.served).await.unwrap().unwrap();
    say("two").await;
}
