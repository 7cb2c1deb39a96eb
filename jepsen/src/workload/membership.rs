//! Writers and watchers while members come and go; in the end all that are left agree on who they are.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::watch::spawn_watchers;
use super::writers::{Style, Writer};
use super::{Context, Workload, last_look};
use crate::check;
use crate::client::pause;
use crate::cluster::Place;
use crate::history::{Client, Outcome};

/// Whatever holds goes on to hold while the group changes.
pub(super) const MEMBERSHIP: Workload = Workload {
    name: "membership",
    about: "writes and watches while members come and go, and asks everybody who the members are",
    proves: &["I11", "I6", "I12"],
    plan: |_| {},
    act: |context| Box::pin(act(context)),
    settle: |context| Box::pin(settle(context)),
    checkers: &[check::agreement::members, check::watch::check, check::agreement::hashes],
};

const WRITERS: usize = 3;

const STYLE: Style = Style { users: 60, topics: 6, every: Duration::from_millis(80) };

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Longest wait until all members show one configuration.
const AGREE_WITHIN: Duration = Duration::from_secs(15);

async fn act(context: Context) {
    let mut clients = JoinSet::new();
    for nth in 1..=WRITERS {
        clients.spawn(Writer::new(&context, &format!("writer-{nth}"), STYLE).write());
    }
    spawn_watchers(&mut clients, &context, 2, 2);
    clients.spawn(last_look::compare_hashes(context.clone()));
    clients.spawn(ask_around(context));
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client panics");
    }
}

/// Asks everybody again and again.
async fn ask_around(context: Context) {
    let mut client = context.recorder.client();
    let mut known = known_processes(&context);
    while pause(Duration::from_millis(500), &context.stop).await {
        ask_all(&context, &mut client, &mut known, false).await;
    }
}

/// The last word of everybody, when it is the same, or when it has had long enough to become so.
async fn settle(context: Context) {
    let mut client = context.recorder.client();
    let mut known = known_processes(&context);
    let give_up = tokio::time::Instant::now() + AGREE_WITHIN;
    loop {
        let said = ask_all(&context, &mut client, &mut known, false).await;
        let one = said.windows(2).all(|two| two[0]["members"] == two[1]["members"]);
        let settled = said.iter().all(|said| said["changing"] == false && said["leader"].is_u64());
        if (one && settled && !said.is_empty()) || tokio::time::Instant::now() > give_up {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ask_all(&context, &mut client, &mut known, true).await;
    let place = |(api, name)| Place { name, api, peer: String::new(), clients: String::new() };
    last_look::at(context, known.into_iter().map(place).collect()).await;
}

/// Names of processes by the base address of their API.
fn known_processes(context: &Context) -> BTreeMap<String, String> {
    let places = context.addresses.nodes.iter().chain(&context.addresses.gateways);
    places.map(|place| (place.api.clone(), place.name.clone())).collect()
}

/// Asks everybody that it has heard of, those too that joined later; who the members are by those who say so, without what differs
/// from node to node and from moment to moment.
async fn ask_all(
    context: &Context,
    client: &mut Client,
    known: &mut BTreeMap<String, String>,
    is_final: bool,
) -> Vec<Value> {
    let mut said = Vec::new();
    for (api, name) in known.clone() {
        let asking = ask(context, &api);
        let Outcome::Ok(mut body) =
            client.perform(("cluster", &name), json!({ "final": is_final }), ANSWER_WITHIN * 2, asking).await
        else {
            continue;
        };
        for member in body["members"].as_array_mut().into_iter().flatten() {
            if let Some((api, id)) = member["api"].as_str().zip(member["id"].as_u64()) {
                known.entry(api.to_owned()).or_insert_with(|| format!("node-{id}"));
            }
            *member = json!([member["id"], member["role"], member["peer"]]);
        }
        if body["members"].is_array() {
            said.push(body);
        }
    }
    said
}

/// What a process says of the group; one that does not speak for it says so.
async fn ask(context: &Context, api: &str) -> Outcome {
    let url = format!("{api}/v1/cluster");
    match context.http.request(Method::GET, &url, HeaderMap::new(), Bytes::new(), ANSWER_WITHIN).await {
        Ok(answer) => {
            let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            match answer.status.as_u16() {
                200 => Outcome::Ok(body),
                status => Outcome::Ok(json!({ "status": status, "temporary": body["error"]["temporary"] })),
            }
        }
        Err(error) => Outcome::Fail(error.to_string()),
    }
}
