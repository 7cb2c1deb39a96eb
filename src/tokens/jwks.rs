//! Keys that change: read from a file or a URL, kept, and read again now and then or when a token names one that is not there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use metrics::counter;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::keys::KeySet;
use crate::chance;
use crate::net::http::Client;

/// Bytes of a set at most. A key takes less than 2 KiB, its certificates some more.
const SET_BYTES_MAX: usize = 256 << 10;

/// Longest wait for a set.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);

/// Keys are not read again sooner, whatever tokens name: strangers must not make this process hammer another one.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// Longest time between two attempts while they fail. A token that names an unknown key is a reason for one sooner.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Where keys come from that change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksSource {
    /// File or URL.
    pub at: JwksPlace,
    /// How often they are read again, if nothing else is a reason to.
    pub refresh: Duration,
}

/// Where a JSON Web Key Set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksPlace {
    /// A file. It may hold secrets, too.
    File(PathBuf),
    /// A URL, plain HTTP.
    Url(String),
}

/// Keys that change.
#[derive(Debug)]
pub(super) struct Jwks {
    source: JwksSource,
    http: Client,
    process: Arc<str>,
    keys: ArcSwapOption<KeySet>,
    wanted: Notify,
    /// When the last attempt to read them ended; nothing before the first.
    read: watch::Sender<Option<Instant>>,
    pause_min: Duration,
}

impl Jwks {
    pub(super) fn new(source: JwksSource, process: &Arc<str>) -> Self {
        Self {
            source,
            http: Client::new().answer_bytes_max(SET_BYTES_MAX),
            process: Arc::clone(process),
            keys: ArcSwapOption::empty(),
            wanted: Notify::new(),
            read: watch::Sender::new(None),
            pause_min: PAUSE_MIN,
        }
    }

    #[cfg(test)]
    pub(super) fn pausing(self, pause_min: Duration) -> Self {
        Self { pause_min, ..self }
    }

    /// The keys that were read last; nothing before they were read once.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Reads the keys again and again.
    pub(super) async fn keep(&self) {
        let mut retry = self.pause_min;
        loop {
            let is_read = self.read().await;
            self.read.send_replace(Some(Instant::now()));
            sleep(self.pause_min).await;
            let rest = if is_read { self.source.refresh } else { retry };
            retry = if is_read { self.pause_min } else { (retry * 2).min(RETRY_MAX) };
            // Either way they are read again.
            let _ = timeout(chance::jittered(rest, 0.1), self.wanted.notified()).await;
        }
    }

    /// Asks for the keys to be read again, and waits for that. `false` where they were read a moment ago, or can't be now.
    pub(super) async fn renewed(&self) -> bool {
        let mut read = self.read.subscribe();
        if read.borrow_and_update().is_some_and(|last| last.elapsed() < self.pause_min) {
            return false;
        }
        self.wanted.notify_one();
        matches!(timeout(FETCH_TIMEOUT, read.changed()).await, Ok(Ok(())))
    }

    /// Reads the keys. Those that are there stay where that fails.
    async fn read(&self) -> bool {
        let read = self.fetch().await;
        let result = if read.is_ok() { "ok" } else { "failed" };
        counter!("switchboard_client_jwks_reads_total", "process" => Arc::clone(&self.process), "result" => result)
            .increment(1);
        match read {
            Ok(keys) => {
                tracing::debug!(jwks = %self.source.at, keys = keys.len(), "the keys of clients' tokens were read");
                self.keys.store(Some(Arc::new(keys)));
                true
            }
            Err(why) => {
                let kept = self.keys().map_or(0, |keys| keys.len());
                tracing::warn!(jwks = %self.source.at, kept, %why, "the keys of clients' tokens can't be read; trying again, with those that are known");
                false
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        self.source.at.read(&self.http).await
    }
}

impl std::fmt::Display for JwksPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(url),
        }
    }
}

impl JwksPlace {
    /// Reads the keys that are there now.
    ///
    /// # Errors
    /// In words, if there are none.
    pub async fn load(&self) -> Result<KeySet, String> {
        self.read(&Client::new().answer_bytes_max(SET_BYTES_MAX)).await
    }

    async fn read(&self, http: &Client) -> Result<KeySet, String> {
        match self {
            Self::File(path) => {
                let text = tokio::fs::read(path).await.map_err(|error| error.to_string())?;
                KeySet::jwks(&text, true).map_err(|error| error.to_string())
            }
            Self::Url(url) => {
                let accept = [(header::ACCEPT, HeaderValue::from_static("application/json"))];
                let asked = http.request(Method::GET, url, HeaderMap::from_iter(accept), Bytes::new(), FETCH_TIMEOUT);
                let answer = asked.await.map_err(|error| error.to_string())?;
                if answer.status != StatusCode::OK {
                    return Err(format!("the answer was {}", answer.status));
                }
                KeySet::jwks(&answer.body, false).map_err(|error| error.to_string())
            }
        }
    }
}
