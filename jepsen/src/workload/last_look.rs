//! When all is healed and quiet: every process lists what it has, nodes say their hashes, and what each still holds of the feed is read
//! once more.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Context;
use super::watchers::{Newest, Taste, Watcher};
use crate::client::{Batched, Reply, Service, Session};
use crate::cluster::Place;
use crate::history::{Client, Outcome};

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Longest time for reading what a process holds.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(30);

/// Connections that are there when everybody looks.
const PRESENT: u64 = 100;

/// Looks everywhere.
pub(super) async fn everywhere(context: Context) {
    let (service, mut client) = (Service::new(&context), context.recorder.client());
    let mut rng = Rng::with_seed(context.seed);
    // Clients were told to stop; this one does not listen to that.
    let (_go_on, stop) = watch::channel(false);
    let lease = Duration::from_secs(60);
    let session = Session::open(&service, &mut client, &mut rng, ("last-look", lease), &stop).await;
    if let Some(session) = &session {
        let first = session.serials(PRESENT);
        let register =
            |serial| json!({ "op": "register", "serial": serial, "user": format!("last-{serial}"), "meta": {} });
        let ops: Vec<Value> = (first..first + PRESENT).map(register).collect();
        let asked = json!({ "epoch": session.epoch, "ops": ops });
        let batching = async {
            match session.batch(&mut rng, Batched::Numbered, Value::Array(ops)).await {
                Ok(Reply { body, .. }) => Outcome::Ok(body),
                Err(failure) => failure.of_write(),
            }
        };
        client.perform(("batch", &session.name()), asked, ANSWER_WITHIN * 2, batching).await;
    }
    let mut newest = 0;
    let places = context.addresses.nodes.iter().chain(&context.addresses.gateways);
    for place in places {
        newest = newest.max(list(&service, &mut client, place).await);
    }
    let mut readers = JoinSet::new();
    for place in context.addresses.nodes.iter().chain(&context.addresses.gateways).cloned() {
        let watcher = Watcher::new(&context, &format!("last-{}", place.name), Taste::All, &Newest::default());
        readers.spawn(async move { watcher.catch_up(&place.api, newest, CATCH_UP_WITHIN).await });
    }
    while readers.join_next().await.is_some() {}
    for place in &context.addresses.nodes {
        hash(&service, &mut client, place, None).await;
    }
    if let Some(session) = session {
        session.end(&mut client, &mut rng).await;
    }
}

/// Lists all connections of a process; the revision at which it did, 0 where it did not.
async fn list(service: &Service, client: &mut Client, place: &Place) -> u64 {
    let listing = async {
        let url = format!("{}/v1/connections?limit=10000", place.api);
        match service.get(&url, ANSWER_WITHIN).await {
            // Pages are of different revisions, so that only a list of one page shows one state.
            Ok(reply) if reply.body["next_cursor"].is_null() => Outcome::Ok(reply.body),
            Ok(_) => Outcome::Fail("there are more connections than fit into a page".to_owned()),
            Err(failure) => failure.of_read(),
        }
    };
    match client.perform(("list", &place.name), Value::Null, ANSWER_WITHIN * 2, listing).await {
        Outcome::Ok(listed) => listed["revision"].as_u64().unwrap_or(0),
        Outcome::Fail(_) | Outcome::Info(_) => 0,
    }
}

/// Asks a node for the hash of its state, as it is or at a revision.
async fn hash(service: &Service, client: &mut Client, place: &Place, revision: Option<u64>) -> u64 {
    let asking = async {
        let at = revision.map_or(String::new(), |revision| format!("&revision={revision}"));
        let url = format!("{}/v1/cluster/hash?timeout_ms=3000{at}", place.api);
        match service.get(&url, ANSWER_WITHIN).await {
            Ok(reply) => Outcome::Ok(reply.body),
            Err(failure) => failure.of_read(),
        }
    };
    match client.perform(("hash", &place.name), json!({ "revision": revision }), ANSWER_WITHIN * 2, asking).await {
        Outcome::Ok(hash) => hash["revision"].as_u64().unwrap_or(0),
        Outcome::Fail(_) | Outcome::Info(_) => 0,
    }
}

/// Asks all nodes at once for the hash of a state that is about to come, again and again until told to stop.
pub(super) async fn compare_hashes(context: Context) {
    /// So far ahead of now that nobody has passed it when asked, and soon reached under load.
    const AHEAD: u64 = 25;
    let (service, mut client) = (Service::new(&context), context.recorder.client());
    let mut rng = Rng::with_seed(context.seed);
    while crate::client::pause(Duration::from_millis(1_500), &context.stop).await {
        let nodes = &context.addresses.nodes;
        let now = hash(&service, &mut client, &nodes[rng.usize(..nodes.len())], None).await;
        if now == 0 {
            continue;
        }
        let mut asking = JoinSet::new();
        for place in nodes.iter().cloned() {
            let (service, mut client) = (service.clone(), context.recorder.client());
            asking.spawn(async move { hash(&service, &mut client, &place, Some(now + AHEAD)).await });
        }
        while asking.join_next().await.is_some() {}
    }
}
