//! Clients of the public interfaces: services that speak HTTP, gateways of one's own, users with a WebSocket.
//!
//! Each answer says one of three things: it was done, it certainly was not, or nobody knows. What can't be told apart counts as
//! unknown.

mod session;
mod socket;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;
use fastrand::Rng;
use serde_json::{Value, json};
use switchboard::net::http::{Client as HttpClient, ClientError};
use tokio::sync::watch;

use crate::history::{Client, Outcome};
use crate::workload::Context;

pub use session::{Batched, Session};
pub use socket::{Heard, Socket};

/// Longest wait for the answer to a lookup.
const LOOKUP_WITHIN: Duration = Duration::from_secs(2);

/// A service: it asks any process.
#[derive(Debug, Clone)]
pub struct Service {
    http: Arc<HttpClient>,
    apis: Arc<[String]>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The status, a success.
    pub status: u16,
    /// The revision that the answer names in its header.
    pub revision: Option<u64>,
    /// The body; null where it is not JSON.
    pub body: Value,
}

/// Why something was not done, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It was not done, and never will be.
    Refused {
        /// The status, 0 where nothing was sent.
        status: u16,
        /// The word for programs.
        code: String,
        /// The sentence for people.
        why: String,
    },
    /// It may have been done, or may be yet.
    Unknown(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, why, .. } => write!(f, "{code}: {why}"),
            Self::Unknown(why) => f.write_str(why),
        }
    }
}

impl Failure {
    /// As the end of a write.
    pub fn of_write(self) -> Outcome {
        match self {
            Self::Refused { .. } => Outcome::Fail(self.to_string()),
            Self::Unknown(why) => Outcome::Info(why),
        }
    }

    /// As the end of a read: without an answer nothing was read, whatever happened.
    pub fn of_read(self) -> Outcome {
        Outcome::Fail(self.to_string())
    }

    fn of_client(error: &ClientError) -> Self {
        let why = error.to_string();
        if error.not_sent() {
            Self::Refused { status: 0, code: "not_sent".to_owned(), why }
        } else {
            Self::Unknown(why)
        }
    }

    /// An error of the server says whether a write took effect. Where it does not, it is a refusal of the request as such, unless
    /// the server itself failed.
    fn of_answer(status: u16, body: &Value) -> Self {
        let text = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
        let (code, why) = (text("code"), text("message"));
        let not_applied = match body["error"]["applied"].as_str() {
            Some(applied) => applied == "no",
            None => (400..500).contains(&status) && !code.is_empty(),
        };
        if not_applied { Self::Refused { status, code, why } } else { Self::Unknown(format!("{status} {code}: {why}")) }
    }
}

impl Service {
    /// One that knows every process.
    pub fn new(context: &Context) -> Self {
        Self { http: Arc::clone(&context.http), apis: context.addresses.apis().into() }
    }

    /// One that asks these processes only, by the base addresses of their APIs.
    pub fn of(context: &Context, apis: impl IntoIterator<Item = String>) -> Self {
        Self { http: Arc::clone(&context.http), apis: apis.into_iter().collect() }
    }

    /// The base address of any process.
    pub fn any(&self, rng: &mut Rng) -> String {
        self.apis[rng.usize(..self.apis.len())].clone()
    }

    /// Base addresses of all that it knows.
    pub fn all(&self) -> &[String] {
        &self.apis
    }

    /// Sends a request to `url` and takes the answer, both `within` that time.
    ///
    /// # Errors
    /// When there is no answer, or one that is not a success.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&'static str, &str)],
        body: Option<&Value>,
        within: Duration,
    ) -> Result<Reply, Failure> {
        let json = HeaderName::from_static("content-type");
        let mut all = HeaderMap::from_iter([(json, HeaderValue::from_static("application/json"))]);
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a harness names its headers in ASCII");
            all.insert(HeaderName::from_static(name), value);
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let answer = self.http.request(method, url, all, body, within).await.map_err(|e| Failure::of_client(&e))?;
        let status = answer.status.as_u16();
        let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        if !answer.status.is_success() {
            return Err(Failure::of_answer(status, &body));
        }
        let revision = answer.headers.get("x-revision").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Reply { status, revision, body })
    }

    /// Reads.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get(&self, url: &str, within: Duration) -> Result<Reply, Failure> {
        self.send(Method::GET, url, &[], None, within).await
    }

    /// Asks any process who is there, linearizably; noted as `lookup` of the user, with pairs of id and grant.
    pub async fn look_up(&self, client: &mut Client, user: &str, rng: &mut Rng) {
        let api = self.any(rng);
        let url = format!("{api}/v1/users/{user}");
        let doing = async {
            match self.get(&url, LOOKUP_WITHIN).await {
                Ok(Reply { body, .. }) => {
                    let all = body["connections"].as_array().into_iter().flatten();
                    let pairs: Vec<Value> = all.map(|there| json!([there["id"], there["granted"]])).collect();
                    Outcome::Ok(json!({ "connections": pairs, "revision": body["revision"] }))
                }
                Err(failure) => failure.of_read(),
            }
        };
        client.perform(("lookup", user), json!({ "api": api }), LOOKUP_WITHIN * 2, doing).await;
    }

    /// Posts.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn post(&self, url: &str, body: &Value, within: Duration) -> Result<Reply, Failure> {
        self.send(Method::POST, url, &[], Some(body), within).await
    }
}

/// Waits so long, or until clients are to stop; whether they may go on.
pub async fn pause(wait: Duration, stop: &watch::Receiver<bool>) -> bool {
    let mut stop = stop.clone();
    // A run whose other end is gone is over, too: then the wait for it ends at once.
    tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await.is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, code: &str, applied: Option<&str>) -> Outcome {
        let mut body = json!({ "error": { "code": code, "message": "why", "temporary": false } });
        if let Some(applied) = applied {
            body["error"]["applied"] = json!(applied);
        }
        Failure::of_answer(status, &body).of_write()
    }

    #[test]
    fn what_is_not_known_to_have_failed_is_unknown() {
        assert_eq!(error(503, "unavailable", Some("no")), Outcome::Fail("unavailable: why".into()));
        assert_eq!(error(410, "gone", None), Outcome::Fail("gone: why".into()));
        assert!(matches!(error(503, "unavailable", Some("unknown")), Outcome::Info(_)));
        assert!(matches!(error(500, "oops", None), Outcome::Info(_)), "a server that failed may have done it before");
        assert!(matches!(Failure::of_answer(404, &Value::Null).of_write(), Outcome::Info(_)), "who answers so?");
        let (address, within) = ("a:1".to_owned(), Duration::from_secs(1));
        let late = ClientError::Timeout { address: address.clone(), within };
        assert!(matches!(Failure::of_client(&late).of_write(), Outcome::Info(_)));
        assert!(matches!(Failure::of_client(&late).of_read(), Outcome::Fail(_)));
        let refused = ClientError::Connect { address, why: "refused".into() };
        assert!(matches!(Failure::of_client(&refused).of_write(), Outcome::Fail(_)));
    }
}
