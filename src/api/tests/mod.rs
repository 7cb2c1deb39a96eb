//! The API over real sockets, in front of the real state machine.

mod control;
mod edges;
mod members;
mod ownership;
mod reads;
mod watches;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::alone as backend;
use super::{ApiLimits, router};
use crate::net::http::{Client, ServeLimits, serve};
use crate::net::{self, Listener};
use backend::{Alone, line};

/// Nothing here takes nearly as long.
const SOON: Duration = Duration::from_secs(10);

struct Api {
    backend: Arc<Alone>,
    address: String,
    client: Client,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

/// An answer.
struct Got {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Status and code of an error; checks its form.
    fn error(&self) -> (u16, String) {
        let body = self.json();
        assert!(body["error"]["message"].is_string() && body["error"]["temporary"].is_boolean(), "{body}");
        (self.status, body["error"]["code"].as_str().unwrap().to_owned())
    }
}

impl Api {
    async fn start() -> Self {
        Self::with(ApiLimits::default(), ServeLimits::default()).await
    }

    async fn with(limits: ApiLimits, serving: ServeLimits) -> Self {
        let backend = Alone::new();
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address().to_string();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, router(Arc::clone(&backend), limits), serving, stop.clone()));
        Self { backend, address, client: Client::new(), stop, served }
    }

    async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Got {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
            .collect();
        let url = format!("http://{}{path}", self.address);
        let answer = self.client.request(method, &url, headers, body.into(), SOON).await.unwrap();
        Got { status: answer.status.as_u16(), headers: answer.headers, body: answer.body }
    }

    async fn get(&self, path: &str) -> Got {
        self.call(Method::GET, path, &[], "").await
    }

    async fn put(&self, path: &str, body: Value) -> Got {
        self.call(Method::PUT, path, &[], body.to_string()).await
    }

    async fn post(&self, path: &str, body: Value) -> Got {
        self.call(Method::POST, path, &[], body.to_string()).await
    }

    /// Opens a session and returns its path and epoch.
    async fn session(&self, gateway: &str) -> (String, u64) {
        let got = self.post("/v1/sessions", json!({"gateway": gateway, "url": "ws://x/ws"})).await;
        assert_eq!(got.status, StatusCode::CREATED);
        let body = got.json();
        (format!("/v1/sessions/{}", body["session"].as_str().unwrap()), body["epoch"].as_u64().unwrap())
    }

    /// Registers users, serials from 1; returns their connection ids.
    async fn register(&self, session: &str, users: &[&str]) -> Vec<String> {
        let op = |(serial, user)| json!({"op": "register", "serial": serial + 1, "user": user, "device": "web"});
        let ops: Vec<_> = users.iter().enumerate().map(op).collect();
        let got = self.post(&format!("{session}/batch"), json!({"seq": 1, "ops": ops})).await;
        let results = got.json()["results"].as_array().unwrap().clone();
        results.iter().map(|result| result["connection"].as_str().unwrap().to_owned()).collect()
    }

    /// Sends one operation and returns its result.
    async fn op(&self, session: &str, op: Value) -> Value {
        let got = self.post(&format!("{session}/batch"), json!({"ops": [op]})).await;
        assert_eq!(got.status, StatusCode::OK, "{:?}", got.body);
        got.json()["results"][0].clone()
    }

    /// Sends bytes as they are and reads until the server closes the connection.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = net::connect(&self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the server closes the connection").unwrap();
        String::from_utf8(answer).unwrap()
    }
}
