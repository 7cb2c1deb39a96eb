//! When all is healed and quiet: every process lists what it has, nodes say their hashes, and what each still holds of the feed is read
//! once more.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Context;
use super::watchers::{Newest, Taste, Watcher};
use crate::client::{Batched, Reply, Service, Session, pause};
use crate::cluster::Place;
use crate::history::{Client, Outcome};

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Longest time for reading what a process holds.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(30);

/// Lease of the session that is there when everybody looks: longer than the look, so that nobody has to renew it.
const LEASE: Duration = Duration::from_secs(60);

/// How often a process is asked for its list.
const LIST_ATTEMPTS: usize = 5;

/// Connections that are there when everybody looks.
const PRESENT: u64 = 100;

/// Looks at every process that was there from the beginning.
pub(super) async fn everywhere(context: Context) {
    let places = context.addresses.nodes.iter().chain(&context.addresses.gateways).cloned().collect();
    at(context, places).await;
}

/// Looks at these processes.
pub(super) async fn at(context: Context, places: Vec<Place>) {
    let (service, mut client) = (Service::new(&context), context.recorder.client());
    // Not ended afterwards: nobody would see that.
    register(&context, &service, &mut client).await;
    let (mut newest, mut listed) = (0, Vec::new());
    for place in places {
        if let Some(revision) = list(&service, &mut client, &place).await {
            newest = newest.max(revision);
            listed.push(place);
        }
    }
    let mut readers = JoinSet::new();
    for place in listed.iter().cloned() {
        let watcher = Watcher::new(&context, &format!("last-{}", place.name), Taste::All, &Newest::default());
        readers.spawn(async move { watcher.catch_up(&place.api, newest, CATCH_UP_WITHIN).await });
    }
    while readers.join_next().await.is_some() {}
    for place in listed.iter().filter(|place| place.name.starts_with("node-")) {
        hash(&service, &mut client, place, None).await;
    }
}

/// Registers some who are there when everybody looks.
async fn register(context: &Context, service: &Service, client: &mut Client) {
    let mut rng = Rng::with_seed(context.seed);
    // Clients were told to stop; this one does not listen to that.
    let (_go_on, stop) = watch::channel(false);
    let name = ("last-look", LEASE);
    let Some(session) = Session::open(service, client, &mut rng, name, &stop).await else { return };
    let first = session.serials(PRESENT);
    let register = |serial| json!({ "op": "register", "serial": serial, "user": format!("last-{serial}"), "meta": {} });
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

/// Lists all connections of a process; the revision at which it did. One that is no member any more does not.
async fn list(service: &Service, client: &mut Client, place: &Place) -> Option<u64> {
    let url = format!("{}/v1/connections?limit=10000", place.api);
    for _ in 0..LIST_ATTEMPTS {
        let listing = async {
            match service.get(&url, ANSWER_WITHIN).await {
                // Pages are of different revisions, so that only a list of one page shows one state.
                Ok(reply) if reply.body["next_cursor"].is_null() => Outcome::Ok(reply.body),
                Ok(_) => Outcome::Fail("there are more connections than fit into a page".to_owned()),
                Err(failure) => failure.of_read(),
            }
        };
        let listed = client.perform(("list", &place.name), Value::Null, ANSWER_WITHIN * 2, listing).await;
        if let Outcome::Ok(listed) = listed {
            return listed["revision"].as_u64();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
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
    while pause(Duration::from_millis(1_500), &context.stop).await {
        let nodes = &context.addresses.nodes;
        let now = hash(&service, &mut client, &nodes[rng.usize(..nodes.len())], None).await;
        if now == 0 {
            continue;
        }
        let mut asking = JoinSet::new();
        for place in nodes.clone() {
            let (service, mut client) = (service.clone(), context.recorder.client());
            asking.spawn(async move { hash(&service, &mut client, &place, Some(now + AHEAD)).await });
        }
        while asking.join_next().await.is_some() {}
    }
}
