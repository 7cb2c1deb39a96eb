//! Services that push: each one thing after the other, through any process, to users, to connections, in batches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use fastrand::Rng;
use serde_json::{Value, json};

use super::Context;
use crate::client::{Service, pause};
use crate::history::{Client, Outcome};

/// How long a push may wait for its acknowledgement, milliseconds.
const TIMEOUT_MS: u64 = 1_000;

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Connections that are remembered, some of which have gone.
const RECENT_MAX: usize = 20;

/// Connections that were there a moment ago.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent(Arc<Mutex<VecDeque<String>>>);

impl Recent {
    /// Remembers one, and forgets the oldest.
    pub(super) fn add(&self, connection: &str) {
        let mut recent = self.0.lock().expect("nobody panics while holding it");
        recent.push_back(connection.to_owned());
        if recent.len() > RECENT_MAX {
            recent.pop_front();
        }
    }

    fn any(&self, rng: &mut Rng) -> Option<String> {
        let recent = self.0.lock().expect("nobody panics while holding it");
        (!recent.is_empty()).then(|| recent[rng.usize(..recent.len())].clone())
    }
}

/// A caller.
pub(super) struct Pusher {
    context: Context,
    caller: u64,
    users: Vec<String>,
    every: Duration,
    recent: Recent,
    service: Service,
    client: Client,
    rng: Rng,
    /// How many pushes it has made.
    made: u64,
}

impl Pusher {
    /// A caller with a number of its own.
    pub(super) fn new(context: &Context, caller: u64, users: Vec<String>, every: Duration, recent: &Recent) -> Self {
        Self {
            context: context.clone(),
            caller,
            users,
            every,
            recent: recent.clone(),
            service: Service::new(context),
            client: context.recorder.client(),
            rng: Rng::with_seed(context.seed ^ (caller << 32)),
            made: 0,
        }
    }

    /// Until told to stop.
    pub(super) async fn push(mut self) {
        loop {
            let every = self.every.mul_f64(self.rng.f64() * 2.0);
            if !pause(every, &self.context.stop).await {
                return;
            }
            self.once().await;
        }
    }

    /// A target, and an id for what is pushed there.
    fn item(&mut self, ack: &str) -> Value {
        self.made += 1;
        let id = format!("p-{}-{}", self.caller, self.made);
        let connection = self.recent.any(&mut self.rng).filter(|_| self.rng.u8(..4) == 0);
        let mut item = json!({ "data": { "id": id }, "ack": ack, "timeout_ms": TIMEOUT_MS });
        match connection {
            Some(connection) => item["connection"] = json!(connection),
            None => item["user"] = json!(self.users[self.rng.usize(..self.users.len())]),
        }
        item
    }

    async fn once(&mut self) {
        let ack = ["written", "written", "client", "none"][self.rng.usize(..4)];
        let is_batch = self.rng.u8(..6) == 0;
        let mut items = vec![self.item(ack)];
        if is_batch {
            for _ in 0..self.rng.u8(1..6) {
                let mut item = self.item(ack);
                // Several to the same, so that there is an order.
                if self.rng.bool() {
                    item["connection"] = items[0]["connection"].clone();
                    item["user"] = items[0]["user"].clone();
                }
                items.push(item);
            }
        }
        let told: Vec<Value> = items
            .iter()
            .map(|item| json!({ "id": item["data"]["id"], "user": item["user"], "connection": item["connection"] }))
            .collect();
        let key = format!("key-{}-{}", self.caller, self.made);
        let asked = json!({ "caller": self.caller, "ack": ack, "items": told });
        let (path, body) = request(items, is_batch);
        let (first, second) = (self.service.any(&mut self.rng), self.service.any(&mut self.rng));
        let again = self.rng.bool();
        let context = &self.context;
        let pushing = async {
            let once = send(context, &format!("{first}{path}"), &body, &key).await;
            match once {
                // With the same key it is the same push, which nobody writes twice.
                Outcome::Info(_) if again => match send(context, &format!("{second}{path}"), &body, &key).await {
                    // That this one was not done says nothing of the first.
                    Outcome::Fail(why) => Outcome::Info(why),
                    other => other,
                },
                once => once,
            }
        };
        self.client.perform(("push", &path), asked, ANSWER_WITHIN * 3, pushing).await;
    }
}

/// Path and body for these items.
fn request(mut items: Vec<Value>, is_batch: bool) -> (String, Value) {
    if is_batch {
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.retain(|_, value| !value.is_null());
        }
        return ("/v1/push:batch".to_owned(), json!({ "items": items }));
    }
    let mut item = items.remove(0);
    let body = item.as_object_mut().expect("an item is an object");
    let path = match (body.remove("user"), body.remove("connection")) {
        (Some(Value::String(user)), _) => format!("/v1/users/{user}/push"),
        (_, connection) => {
            format!("/v1/connections/{}/push", connection.as_ref().and_then(Value::as_str).unwrap_or_default())
        }
    };
    (path, item)
}

async fn send(context: &Context, url: &str, body: &Value, key: &str) -> Outcome {
    let header = |value: &str| HeaderValue::from_str(value).expect("a harness names its headers in ASCII");
    let headers = HeaderMap::from_iter([
        (HeaderName::from_static("content-type"), header("application/json")),
        (HeaderName::from_static("idempotency-key"), header(key)),
    ]);
    match context.http.request(Method::POST, url, headers, body.to_string().into(), ANSWER_WITHIN).await {
        Ok(answer) => outcome(answer.status.as_u16(), &serde_json::from_slice(&answer.body).unwrap_or_default()),
        Err(error) if error.not_sent() => Outcome::Fail(error.to_string()),
        Err(error) => Outcome::Info(error.to_string()),
    }
}

/// What an answer says. Only 404 says offline; whatever says that nothing is known is unknown.
fn outcome(status: u16, body: &Value) -> Outcome {
    let one = |answer: &Value| {
        let code = answer["error"]["code"].as_str();
        match code {
            None => json!({ "results": answer["results"] }),
            Some("offline") => json!({ "offline": answer["as_of_revision"] }),
            Some(code) => json!({ "error": code }),
        }
    };
    match (status, body["error"]["code"].as_str()) {
        (200, _) if body["outcome"].is_null() => {
            let results: Vec<Value> = body["results"].as_array().into_iter().flatten().map(one).collect();
            Outcome::Ok(json!({ "results": results }))
        }
        (200, _) | (404, Some("offline")) => Outcome::Ok(json!({ "results": [one(body)] })),
        (400..=499, Some(code)) => Outcome::Fail(format!("{status} {code}")),
        (_, code) => Outcome::Info(format!("{status} {}", code.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_offline_is_offline() {
        let error = |code: &str| json!({ "error": { "code": code }, "as_of_revision": 7 });
        assert_eq!(outcome(404, &error("offline")), Outcome::Ok(json!({ "results": [{ "offline": 7 }] })));
        assert!(matches!(outcome(404, &Value::Null), Outcome::Info(_)));
        assert!(matches!(outcome(503, &error("unavailable")), Outcome::Info(_)));
        assert!(matches!(outcome(504, &error("timeout")), Outcome::Info(_)));
        assert!(matches!(outcome(429, &error("rate_limited")), Outcome::Fail(_)));
        let batch =
            json!({ "results": [{ "outcome": "delivered", "results": [1] }, error("offline"), error("timeout")] });
        let results = json!([{ "results": [1] }, { "offline": 7 }, { "error": "timeout" }]);
        assert_eq!(outcome(200, &batch), Outcome::Ok(json!({ "results": results })));
    }

    #[test]
    fn requests_name_their_target_where_it_belongs() {
        let item = json!({ "data": 1, "user": "a" });
        let (path, body) = request(vec![item.clone()], false);
        assert_eq!((path.as_str(), body), ("/v1/users/a/push", json!({ "data": 1 })));
        let (path, _) = request(vec![json!({ "data": 1, "user": null, "connection": "c-1-2" })], false);
        assert_eq!(path, "/v1/connections/c-1-2/push");
        let (_, body) = request(vec![item, json!({ "user": null, "connection": "c-1-2" })], true);
        assert_eq!(body["items"][1], json!({ "connection": "c-1-2" }));
    }
}
