//! Registers as much as the cluster takes and never takes anything back; at the end every node tells what it has.
//!
//! The sessions of the test's own have the longest lease that there is and are renewed all the time, so that they live through the loss of
//! all nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Context, Workload};
use crate::check::{durable, enough};
use crate::client::{Batched, Failure, Service, Session, pause};
use crate::history::{Client, Outcome};

/// Nothing acknowledged is lost.
pub(super) const APPEND: Workload = Workload {
    name: "append",
    about: "registers as much as the cluster takes, and lists it on every node at the end",
    proves: &["I10"],
    plan: |_| {},
    act: |context| Box::pin(act(context)),
    settle: |context| Box::pin(settle(context)),
    checkers: &[durable::check, |history| enough::check(history, &[("append", 200), ("list", 2)])],
};

const LEASE: Duration = Duration::from_secs(60);
const SESSIONS: u64 = 4;

/// Registrations of one batch, and the time between two batches of a session, milliseconds. More would fill the history, not the
/// gaps: what matters is that something is under way whenever the power fails.
const BATCH: std::ops::Range<u64> = 1..16;
const PACE_MS: std::ops::Range<u64> = 5..60;

const WITHIN: Duration = Duration::from_secs(10);

/// Connections of a page, and the longest wait for one.
const PAGE: usize = 1_000;
const PAGE_WITHIN: Duration = Duration::from_secs(10);
const LIST_WITHIN: Duration = Duration::from_secs(40);

async fn act(context: Context) {
    let mut rng = Rng::with_seed(context.seed);
    let users = Arc::new(AtomicU64::new(0));
    let mut work = JoinSet::new();
    for number in 0..SESSIONS {
        let (context, users, rng) = (context.clone(), Arc::clone(&users), rng.fork());
        work.spawn(async move { append(&context, &users, number, rng).await });
    }
    while let Some(ended) = work.join_next().await {
        ended.expect("a client does not panic");
    }
}

/// Registers through one session; should it end, through the next one.
async fn append(context: &Context, users: &AtomicU64, number: u64, mut rng: Rng) {
    let service = Service::new(context);
    let mut client = context.recorder.client();
    let gateway = format!("own-{number}");
    // Half of them never send anything twice.
    let how = if number.is_multiple_of(2) { Batched::Numbered } else { Batched::Once };
    while let Some(session) = Session::open(&service, &mut client, &mut rng, (&gateway, LEASE), &context.stop).await {
        let keeping = Arc::clone(&session).keep(context.recorder.clone(), rng.u64(..), context.stop.clone());
        let registering = async {
            while pause(Duration::from_millis(rng.u64(PACE_MS)), &context.stop).await && !session.is_over() {
                register(&session, &mut client, users, how, &mut rng).await;
            }
        };
        tokio::join!(keeping, registering);
    }
}

async fn register(session: &Session, client: &mut Client, users: &AtomicU64, how: Batched, rng: &mut Rng) {
    let count = rng.u64(BATCH);
    let (first, user) = (session.serials(count), users.fetch_add(count, Ordering::Relaxed));
    let op =
        |n: u64| json!({ "op": "register", "serial": first + n, "user": format!("user-{}", user + n), "device": "d" });
    let ops: Vec<Value> = (0..count).map(op).collect();
    let asked = json!({ "first": session.connection(first), "count": count });
    let doing = async {
        match session.batch(rng, how, json!(ops)).await {
            Ok(reply) => {
                let results = reply.body["results"].as_array().cloned().unwrap_or_default();
                // One session sends one batch after the other, each user is new: there is no reason to refuse one.
                match results.iter().find(|result| result["ok"] != true) {
                    None => Outcome::Ok(json!({ "revision": reply.body["revision"] })),
                    Some(refused) => Outcome::Info(format!("a part was refused: {refused}")),
                }
            }
            Err(failure) => failure.of_write(),
        }
    };
    client.perform(("append", &session.name()), asked, WITHIN, doing).await;
}

/// Lists everything on every process, linearizably, and then what each has in memory.
async fn settle(context: Context) {
    let service = Service::new(&context);
    let mut client = context.recorder.client();
    for api in context.addresses.apis() {
        let mut newest = 0;
        for consistency in ["linearizable", "cached"] {
            let asked = json!({ "api": api, "consistency": consistency });
            let query = format!("consistency={consistency}&min_revision={newest}");
            let listing = async {
                match list(&service, &api, &query).await {
                    Ok((connections, revision)) => {
                        newest = revision;
                        Outcome::Ok(json!({ "connections": connections, "revision": revision }))
                    }
                    Err(failure) => failure.of_read(),
                }
            };
            client.perform(("list", "all"), asked, LIST_WITHIN, listing).await;
        }
    }
}

/// Every connection with its grant, and the revision of the last page. Nothing changes meanwhile.
async fn list(service: &Service, api: &str, query: &str) -> Result<(Vec<Value>, u64), Failure> {
    let (mut connections, mut cursor) = (Vec::new(), String::new());
    loop {
        let url = format!("{api}/v1/connections?limit={PAGE}&{query}&cursor={cursor}");
        let page = service.get(&url, PAGE_WITHIN).await?.body;
        let all = page["connections"].as_array().into_iter().flatten();
        connections.extend(all.map(|there| json!([there["id"], there["granted"]])));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return Ok((connections, page["revision"].as_u64().unwrap_or_default())),
        }
    }
}
