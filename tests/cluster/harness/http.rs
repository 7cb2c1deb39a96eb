//! Services that speak HTTP.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use serde_json::Value;
use switchboard::net::http::{Client, Streaming};

/// Longest wait for one answer.
const WITHIN: Duration = Duration::from_secs(10);

/// A service.
#[derive(Default)]
pub struct Http {
    client: Client,
}

/// What it was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Http {
    pub async fn get(&self, api: &str, path: &str) -> Answer {
        self.try_get(api, path).await.unwrap_or_else(|| panic!("no answer to GET {api}{path}"))
    }

    pub async fn try_get(&self, api: &str, path: &str) -> Option<Answer> {
        self.send(Method::GET, api, path, &[], None).await.ok()
    }

    pub async fn post(&self, api: &str, path: &str, body: Value) -> Answer {
        self.try_post(api, path, &body).await.unwrap_or_else(|| panic!("no answer to POST {api}{path} {body}"))
    }

    pub async fn try_post(&self, api: &str, path: &str, body: &Value) -> Option<Answer> {
        self.send(Method::POST, api, path, &[], Some(body)).await.ok()
    }

    /// Any request, with headers.
    pub async fn send(
        &self,
        method: Method,
        api: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            all.insert(name, HeaderValue::from_str(value).unwrap());
        }
        all.insert("content-type", HeaderValue::from_static("application/json"));
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let answer = self.client.request(method, &format!("{api}{path}"), all, body, WITHIN).await;
        let answer = answer.map_err(|error| error.to_string())?;
        Ok(Answer {
            status: answer.status.as_u16(),
            headers: answer.headers,
            body: serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
        })
    }

    /// An answer that is not JSON.
    pub async fn text(&self, api: &str, path: &str) -> String {
        let url = format!("{api}{path}");
        let answer = self.client.request(Method::GET, &url, HeaderMap::new(), Bytes::new(), WITHIN);
        String::from_utf8(answer.await.unwrap().body.to_vec()).unwrap()
    }

    /// Lines of a stream, as they come.
    pub async fn lines(&self, api: &str, path: &str) -> Streaming {
        self.try_lines(api, path).await.unwrap()
    }

    /// Lines of a stream, if there is an answer.
    pub async fn try_lines(&self, api: &str, path: &str) -> Result<Streaming, String> {
        let accept = HeaderMap::from_iter([(
            HeaderName::from_static("accept"),
            HeaderValue::from_static("application/x-ndjson"),
        )]);
        let answer = self.client.stream(&format!("{api}{path}"), accept, WITHIN, WITHIN).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.status.to_string()) }
    }
}
