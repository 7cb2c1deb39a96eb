//! One call to the first API that can be reached.

use std::time::Duration;

use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{ApiOptions, Exit, Failed};
use crate::net::http::{Client, ClientError, Response, Streaming};

/// Everything but what RFC 3986 calls unreserved, so that any name is one segment of a path or one value of a query.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Time for an answer that waits for nothing in particular.
pub(super) const WITHIN: Duration = Duration::from_secs(15);

/// A watch hears something at least so often, or its connection is dead.
const IDLE: Duration = Duration::from_secs(20);

/// `text` as one segment of a path or one value of a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A query of the values that are there, with its question mark.
pub(super) fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let pairs: Vec<_> =
        pairs.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={}", encoded(value)))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// An address as a URL.
fn with_scheme(api: &str) -> String {
    let scheme = if api.contains("://") { "" } else { "http://" };
    format!("{scheme}{}", api.trim_end_matches('/'))
}

/// Calls the API.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
    apis: Vec<String>,
    headers: HeaderMap,
}

impl Caller {
    pub(super) fn new(options: &ApiOptions) -> Result<Self, Failed> {
        let apis = options.api.iter().map(|api| api.trim()).filter(|api| !api.is_empty()).map(with_scheme);
        let mut headers = HeaderMap::new();
        if let Some(key) = &options.key {
            let value = HeaderValue::try_from(format!("Bearer {key}"));
            let mut value = value.map_err(|_| Failed::new(Exit::Usage, "--key: a key is one line of text"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self { client: Client::new(), apis: apis.collect(), headers })
    }

    /// Reads; asks the next API when one does not answer.
    pub(super) async fn get(&self, path: &str) -> Result<Response, Failed> {
        let mut last = None;
        for api in &self.apis {
            let url = format!("{api}{path}");
            match self.client.request(Method::GET, &url, self.headers.clone(), Bytes::new(), WITHIN).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        Err(self.nobody(last))
    }

    /// Changes something, see [`Self::send`].
    pub(super) async fn post(
        &self,
        path: &str,
        body: Bytes,
        extra: Option<(HeaderName, HeaderValue)>,
        within: Duration,
    ) -> Result<Response, Failed> {
        self.send(Method::POST, path, body, extra, within).await
    }

    /// Changes something; asks the next API only when one can't have seen the request.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        extra: Option<(HeaderName, HeaderValue)>,
        within: Duration,
    ) -> Result<Response, Failed> {
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(extra);
        let mut last = None;
        for api in &self.apis {
            let url = format!("{api}{path}");
            match self.client.request(method.clone(), &url, headers.clone(), body.clone(), within).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.not_sent() => last = Some(error),
                Err(error) => {
                    let message = format!("{error}; it is not known whether the request took effect");
                    return Err(Failed::new(Exit::Failed, message));
                }
            }
        }
        Err(self.nobody(last))
    }

    /// Opens a stream of lines at the first API that answers.
    pub(super) async fn lines(&self, path: &str) -> Result<Streaming, Failed> {
        let mut headers = self.headers.clone();
        headers.insert(ACCEPT, HeaderValue::from_static("application/x-ndjson"));
        let mut last = None;
        for api in &self.apis {
            match self.client.stream(&format!("{api}{path}"), headers.clone(), WITHIN, IDLE).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(self.nobody(last))
    }

    /// The APIs that were given, in order.
    pub(super) fn apis(&self) -> &[String] {
        &self.apis
    }

    /// Reads from one API.
    pub(super) async fn get_at(&self, api: &str, path: &str, within: Duration) -> Result<Response, ClientError> {
        let url = format!("{}{path}", with_scheme(api));
        self.client.request(Method::GET, &url, self.headers.clone(), Bytes::new(), within).await
    }

    /// Opens a stream at one API; its head may take `within`.
    pub(super) async fn stream(&self, api: &str, path: &str, within: Duration) -> Result<Streaming, ClientError> {
        self.client.stream(&format!("{}{path}", with_scheme(api)), self.headers.clone(), within, IDLE).await
    }

    fn nobody(&self, last: Option<ClientError>) -> Failed {
        match last {
            Some(error @ ClientError::Url { .. }) => Failed::new(Exit::Usage, format!("--api: {error}")),
            Some(error) => {
                let message = format!(
                    "none of {} answers ({error}); name a running cluster with --api, or start one with `switchboard dev`",
                    self.apis.join(", ")
                );
                Failed::new(Exit::Failed, message)
            }
            None => Failed::new(Exit::Usage, "--api: name at least one URL"),
        }
    }
}
