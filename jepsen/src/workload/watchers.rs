//! Watchers of the feed: they ask any process, read as fast or as slowly as they like, leave, and come back elsewhere with the mark
//! that they had.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use fastrand::Rng;
use serde_json::{Value, json};
use switchboard::net::http::Streaming;
use tokio::time::Instant;

use super::Context;
use crate::check::feed::{ALL, Position, mark, place};
use crate::client::pause;
use crate::history::{Client, Outcome};

/// Longest wait for the head of an answer.
const HEAD_WITHIN: Duration = Duration::from_secs(2);

/// Longest stream, beyond the time for which it is read.
const MARGIN: Duration = Duration::from_secs(10);

/// Why most streams end.
const LONG_ENOUGH: &str = "read for long enough";

/// Revisions around now at which a watcher begins.
const AROUND: std::ops::RangeInclusive<i64> = -100..=100;

/// What a watcher is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taste {
    /// Everything from the very first change on: what others are measured by.
    All,
    /// Sometimes this and sometimes that, from wherever.
    Anything,
}

/// The newest revision that any watcher has seen.
pub(super) type Newest = Arc<AtomicU64>;

/// A watcher.
pub(super) struct Watcher {
    context: Context,
    name: String,
    taste: Taste,
    newest: Newest,
    client: Client,
    rng: Rng,
    /// After what to go on.
    at: Position,
}

/// What to ask for, and for how long to read.
struct Plan {
    api: String,
    from: Option<Position>,
    filter: Value,
    events: bool,
    until: Instant,
    /// Wait after each line, and once in the middle.
    slow: Option<Duration>,
}

impl Watcher {
    /// One that begins at the very beginning, or comes back to it.
    pub(super) fn new(context: &Context, name: &str, taste: Taste, newest: &Newest) -> Self {
        let seed = name.bytes().fold(context.seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        Self {
            context: context.clone(),
            name: name.to_owned(),
            taste,
            newest: Arc::clone(newest),
            client: context.recorder.client(),
            rng: Rng::with_seed(seed),
            at: (0, ALL),
        }
    }

    /// Watches until told to stop.
    pub(super) async fn watch(mut self) {
        while !*self.context.stop.borrow() {
            let plan = self.plan();
            if !self.stream(plan).await {
                pause(Duration::from_millis(self.rng.u64(20..150)), &self.context.stop).await;
            }
        }
    }

    /// Reads everything that a process still holds up to and with a revision.
    pub(super) async fn catch_up(mut self, api: &str, revision: u64, within: Duration) {
        let until = Instant::now() + within;
        while self.at < (revision, ALL) && Instant::now() < until {
            let end = until.min(Instant::now() + Duration::from_secs(6));
            let (api, from) = (api.to_owned(), Some(self.at));
            let plan = Plan { api, from, filter: json!({}), events: false, until: end, slow: None };
            if !self.stream(plan).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn plan(&mut self) -> Plan {
        let rng = &mut self.rng;
        let apis = self.context.addresses.apis();
        let api = apis[rng.usize(..apis.len())].clone();
        let until = Instant::now() + Duration::from_millis(rng.u64(800..8_000));
        let events = rng.bool();
        if self.taste == Taste::All {
            return Plan { api, from: Some(self.at), filter: json!({}), events, until, slow: None };
        }
        let from = match rng.u8(..10) {
            0 => None,
            1..=3 => {
                let revision = self.newest.load(Ordering::Relaxed).saturating_add_signed(rng.i64(AROUND));
                Some((revision, if rng.bool() { ALL } else { rng.u32(..4) }))
            }
            _ => Some(self.at),
        };
        let filter = match rng.u8(..10) {
            0 => json!({ "types": ["connection.opened", "connection.closed"] }),
            1 => json!({ "types": ["user.online", "user.offline", "gateway.down"] }),
            2 => json!({ "prefix": "user-1" }),
            3 => json!({ "user": format!("user-{}", rng.u8(..30)) }),
            _ => json!({}),
        };
        let slow = (rng.u8(..6) == 0).then(|| Duration::from_millis(rng.u64(2..40)));
        Plan { api, from, filter, events, until, slow }
    }

    /// One stream; whether it was opened.
    async fn stream(&mut self, plan: Plan) -> bool {
        let mut asked = plan.filter.clone();
        asked["api"] = json!(plan.api);
        asked["from"] = plan.from.map_or(Value::Null, |from| json!(mark(from)));
        asked["form"] = json!(if plan.events { "events" } else { "lines" });
        let within = plan.until.duration_since(Instant::now()) + MARGIN;
        let (context, newest) = (self.context.clone(), Arc::clone(&self.newest));
        let watching = watching(&context, &plan, &newest);
        let outcome = self.client.perform(("watch", &self.name), asked, within, watching).await;
        let Outcome::Ok(result) = outcome else { return false };
        if let Some(oldest) = result["compacted"]["oldest_revision"].as_u64() {
            // Another process may hold more; who was turned away everywhere would ask for ever.
            let turned_away = self.taste == Taste::Anything || self.rng.u8(..8) == 0;
            let is_old = plan.from.is_some_and(|from| from.0 <= oldest);
            if turned_away && is_old {
                self.at = (oldest, ALL);
            }
            return false;
        }
        let last = result["lines"].as_array().and_then(|lines| lines.iter().filter_map(place).max());
        // What a filter left out up to here was not seen, and is not asked for again.
        self.at = last.or(plan.from).unwrap_or(self.at);
        true
    }
}

async fn watching(context: &Context, plan: &Plan, newest: &Newest) -> Outcome {
    let url = url(plan);
    let form = if plan.events { "text/event-stream" } else { "application/x-ndjson" };
    let mut headers = HeaderMap::from_iter([(HeaderName::from_static("accept"), HeaderValue::from_static(form))]);
    if let Some(from) = plan.from.filter(|_| plan.events) {
        let last = HeaderValue::from_str(&mark(from)).expect("a mark is digits and a dot");
        headers.insert(HeaderName::from_static("last-event-id"), last);
    }
    let stream = match context.http.stream(&url, headers, HEAD_WITHIN, MARGIN * 2).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::Fail(error.to_string()),
    };
    if stream.status == StatusCode::OK {
        return Outcome::Ok(read(context, stream, plan, newest).await);
    }
    let refused = match stream.refusal().await {
        Ok(refused) => refused,
        Err(error) => return Outcome::Fail(error.to_string()),
    };
    let body: Value = serde_json::from_slice(&refused.body).unwrap_or_default();
    if refused.status == StatusCode::GONE && body["error"]["code"] == "compacted" {
        return Outcome::Ok(json!({ "compacted": body }));
    }
    Outcome::Fail(format!("{}: {body}", refused.status))
}

/// Server-sent events get their mark in a header, as a browser sends it that comes back.
fn url(plan: &Plan) -> String {
    let mut query = Vec::new();
    if let Some(from) = plan.from.filter(|_| !plan.events) {
        query.push(format!("from_revision={}", mark(from)));
    }
    for name in ["user", "prefix"] {
        query.extend(plan.filter[name].as_str().map(|value| format!("{name}={value}")));
    }
    if let Some(types) = plan.filter["types"].as_array() {
        let types: Vec<&str> = types.iter().filter_map(Value::as_str).collect();
        query.push(format!("types={}", types.join(",")));
    }
    format!("{}/v1/watch?{}", plan.api, query.join("&"))
}

/// Takes what comes until it is time to leave, the stream ends, or clients are to stop.
async fn read(context: &Context, mut stream: Streaming, plan: &Plan, newest: &Newest) -> Value {
    let mut lines = Lines::default();
    let mut stop = context.stop.clone();
    let stopping = *stop.borrow();
    let ended = loop {
        let line = tokio::select! {
            line = tokio::time::timeout_at(plan.until, stream.line()) => line,
            _ = stop.wait_for(|stop| *stop), if !stopping => break "told to stop".to_owned(),
        };
        match line {
            Ok(Ok(Some(line))) => lines.take(&line),
            Ok(Ok(None)) => break "the other side ended it".to_owned(),
            Ok(Err(error)) => break error.to_string(),
            Err(_) => break LONG_ENOUGH.to_owned(),
        }
        // Whoever reads slowly always finds a line, which comes before the time that is over.
        if Instant::now() >= plan.until {
            break LONG_ENOUGH.to_owned();
        }
        if let Some((revision, _)) = lines.whole.last().and_then(place) {
            newest.fetch_max(revision, Ordering::Relaxed);
        }
        if let Some(slow) = plan.slow {
            let stall = if lines.whole.len() == 20 { slow * 50 } else { slow };
            tokio::time::sleep(stall).await;
        }
    };
    json!({ "lines": lines.whole, "ended": ended })
}

/// Lines of either form, as the objects that they are.
#[derive(Debug, Default)]
struct Lines {
    whole: Vec<Value>,
    /// Of a server-sent event: what came of it so far.
    id: Option<String>,
    data: Option<String>,
    /// What is not JSON, and was the last to come: a stream may have been cut within a line.
    torn: Option<String>,
}

impl Lines {
    fn take(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if let Some(id) = text.strip_prefix("id: ") {
            self.id = Some(id.to_owned());
        } else if let Some(data) = text.strip_prefix("data: ") {
            self.data = Some(data.to_owned());
        } else if text.is_empty() {
            // The end of an event, or a sign of life.
            let (id, data) = (self.id.take(), self.data.take());
            if let Some(data) = data {
                self.add(&data, id);
            }
        } else if !text.starts_with(':') {
            self.add(&text, None);
        }
    }

    fn add(&mut self, text: &str, id: Option<String>) {
        if let Some(torn) = self.torn.take() {
            self.whole.push(json!({ "not_json": torn }));
        }
        match serde_json::from_str::<Value>(text) {
            Ok(mut line) if line.is_object() => {
                if let Some(id) = id {
                    line["id"] = json!(id);
                }
                self.whole.push(line);
            }
            _ => self.torn = Some(text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_give_the_same_lines_and_a_torn_one_is_none() {
        let mut events = Lines::default();
        for line in [":", "", "id: 7.0", "data: {\"revision\":7,\"n\":0}", "", "id: 7.1", "data: {\"revision\":7"] {
            events.take(line.as_bytes());
        }
        assert_eq!(events.whole, [json!({ "revision": 7, "n": 0, "id": "7.0" })]);
        let mut lines = Lines::default();
        for line in ["{\"revision\":7,\"n\":0}", "", "{\"revision\":7,\"n\":"] {
            lines.take(line.as_bytes());
        }
        assert_eq!(lines.whole, [json!({ "revision": 7, "n": 0 })]);
        lines.take(b"{}");
        assert_eq!(lines.whole[1]["not_json"], "{\"revision\":7,\"n\":", "more came after it, so it was not the end");
    }
}
