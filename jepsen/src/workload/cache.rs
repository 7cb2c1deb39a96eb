//! Cached lookups on every process beside writers: nobody is shown what is older than the answer says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::watch::spawn_watchers;
use super::writers::{Style, Writer};
use super::{Context, Workload, last_look};
use crate::check;
use crate::client::pause;
use crate::cluster::Place;
use crate::history::Outcome;

/// As old as it says, or refused.
pub(super) const CACHE: Workload = Workload {
    name: "cache",
    about: "reads from the memory of any process, with limits on the age, while others write",
    proves: &["I7", "I12"],
    plan: |_| {},
    act: |context| Box::pin(act(context)),
    settle: |context| Box::pin(last_look::everywhere(context)),
    checkers: &[check::cache::check, check::watch::check],
};

const WRITERS: usize = 3;
const READERS: usize = 6;

/// Few users, so that an old answer is a wrong one.
const STYLE: Style = Style { users: 20, topics: 0, every: Duration::from_millis(60) };

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Limits on the age that are asked for, milliseconds.
const MAX_STALE_MS: [u64; 5] = [0, 20, 200, 1_000, 5_000];

async fn act(context: Context) {
    let mut clients = JoinSet::new();
    for nth in 1..=WRITERS {
        clients.spawn(Writer::new(&context, &format!("writer-{nth}"), STYLE).write());
    }
    spawn_watchers(&mut clients, &context, 2, 0);
    let newest = Arc::new(AtomicU64::new(0));
    for nth in 0..READERS as u64 {
        clients.spawn(read(context.clone(), nth, Arc::clone(&newest)));
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client panics");
    }
}

/// Reads by chance. All readers share the newest revision that any has seen.
async fn read(context: Context, nth: u64, newest: Arc<AtomicU64>) {
    let (mut client, mut rng) = (context.recorder.client(), Rng::with_seed(context.seed ^ nth));
    let places: Vec<Place> = context.addresses.nodes.iter().chain(&context.addresses.gateways).cloned().collect();
    while pause(Duration::from_millis(rng.u64(10..60)), &context.stop).await {
        let place = &places[rng.usize(..places.len())];
        let mut asked = json!({ "process": place.name });
        let mut query = "consistency=cached&timeout_ms=500".to_owned();
        if rng.u8(..3) > 0 {
            let limit = MAX_STALE_MS[rng.usize(..MAX_STALE_MS.len())];
            asked["max_stale_ms"] = json!(limit);
            query += &format!("&max_stale_ms={limit}");
        }
        if rng.u8(..4) == 0 {
            let least = newest.load(Ordering::Relaxed);
            asked["min_revision"] = json!(least);
            query += &format!("&min_revision={least}");
        }
        let user = format!("user-{}", rng.u64(..STYLE.users));
        let url = format!("{}/v1/users/{user}?{query}", place.api);
        let reading = look(&context, &url);
        if let Outcome::Ok(answer) = client.perform(("read", &user), asked, ANSWER_WITHIN * 2, reading).await {
            newest.fetch_max(answer["revision"].as_u64().unwrap_or(0), Ordering::Relaxed);
        }
    }
}

async fn look(context: &Context, url: &str) -> Outcome {
    let answer = context.http.request(Method::GET, url, HeaderMap::new(), Bytes::new(), ANSWER_WITHIN).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Outcome::Fail(error.to_string()),
    };
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if !answer.status.is_success() {
        return Outcome::Fail(format!("{}: {}", answer.status, body["error"]["message"]));
    }
    let stale = answer.headers.get("x-staleness-ms").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let ids: Vec<&Value> = body["connections"].as_array().into_iter().flatten().map(|found| &found["id"]).collect();
    match stale {
        Some(stale) => Outcome::Ok(json!({ "revision": body["revision"], "staleness_ms": stale, "connections": ids })),
        // What does not say how old it is must be new.
        None => {
            Outcome::Ok(json!({ "revision": body["revision"], "staleness_ms": 0, "connections": ids, "unsaid": true }))
        }
    }
}
