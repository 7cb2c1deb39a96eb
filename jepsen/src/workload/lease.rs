//! Sessions and gateways that only hold, some that fall silent, and lookups that watch all of them.
//!
//! Sessions of the test's own hold connections: some renew for ever, some for a while and then never again. Clients hold sockets at the
//! gateways. Somebody asks for all users at once, all the time, and follows who leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Context, Workload};
use crate::check::{enough, lease};
use crate::client::{Batched, Heard, Service, Session, Socket, pause};
use crate::history::{Client, Outcome};

/// No false expiry, bounded clean-up.
pub(super) const LEASE: Workload = Workload {
    name: "lease",
    about: "sessions and gateways that only hold, some that fall silent, and lookups that watch them",
    proves: &["I3", "I4"],
    plan: |_| {},
    act: |context| Box::pin(act(context)),
    settle: |_| Box::pin(async {}),
    checkers: &[lease::check, |history| enough::check(history, &[("look", 200), ("renew", 200), ("register", 20)])],
};

const LEASE_TIME: Duration = Duration::from_secs(3);

/// Sessions that renew for ever, and others, one after the other, that do not.
const HOLDING: usize = 5;
const SILENT: usize = 4;

/// Connections of each session, and sockets at each gateway.
const CONNECTIONS: usize = 3;

/// How long a session renews before it falls silent, milliseconds.
const RENEWS_MS: std::ops::Range<u64> = 500..4_000;

/// How long a silent session is watched before the next one takes its place: longer than it may be shown without a failure.
const WATCHED: Duration = Duration::from_secs(5);

/// Time between two lookups, and between two questions who leads.
const LOOK_EVERY: Duration = Duration::from_millis(40);
const LEADER_EVERY: Duration = Duration::from_millis(100);

const WITHIN: Duration = Duration::from_secs(10);
const LOOK_WITHIN: Duration = Duration::from_secs(2);
const WELCOME_WITHIN: Duration = Duration::from_secs(8);

async fn act(context: Context) {
    let mut rng = Rng::with_seed(context.seed);
    let mut work = JoinSet::new();
    let mut users = Vec::new();
    for number in 0..HOLDING + SILENT {
        let names: Vec<String> = (0..CONNECTIONS).map(|n| format!("own-{number}-{n}")).collect();
        users.extend(names.iter().cloned());
        let (context, rng) = (context.clone(), rng.fork());
        work.spawn(async move { hold(&context, number, &names, rng).await });
    }
    for (number, gateway) in context.addresses.gateways.iter().enumerate() {
        for n in 0..CONNECTIONS {
            let (user, clients, context, rng) =
                (format!("client-{number}-{n}"), gateway.clients.clone(), context.clone(), rng.fork());
            users.push(user.clone());
            let gateway = gateway.name.clone();
            work.spawn(async move { stay(&context, (&gateway, &clients), &user, rng).await });
        }
    }
    for _ in 0..2 {
        let (context, users, rng) = (context.clone(), users.clone(), rng.fork());
        work.spawn(async move { look(&context, &users, rng).await });
    }
    for node in context.addresses.nodes.clone() {
        let context = context.clone();
        work.spawn(async move { follow_leader(&context, &node.name, &node.api).await });
    }
    while let Some(ended) = work.join_next().await {
        ended.expect("a client does not panic");
    }
}

/// One session after the other.
async fn hold(context: &Context, number: usize, users: &[String], mut rng: Rng) {
    let service = Service::new(context);
    let mut client = context.recorder.client();
    let mut round = 0;
    while !*context.stop.borrow() {
        // A silent one keeps its name until it is over, so the next has another.
        round += 1;
        let name = format!("own-{number}-{round}");
        let Some(session) = Session::open(&service, &mut client, &mut rng, (&name, LEASE_TIME), &context.stop).await
        else {
            return;
        };
        let renews = Duration::from_millis(rng.u64(RENEWS_MS));
        let (silence, silent) = watch::channel(false);
        let until = if number < HOLDING { context.stop.clone() } else { silent };
        let keeping = Arc::clone(&session).keep(context.recorder.clone(), rng.u64(..), until);
        let registering = async {
            for user in users {
                register(&session, &mut client, user, &mut rng).await;
            }
            if number >= HOLDING {
                pause(renews, &context.stop).await;
                silence.send_replace(true);
            }
        };
        tokio::join!(keeping, registering);
        if number >= HOLDING && !session.is_over() {
            client.observe("silent", &session.name(), Value::Null);
            pause(WATCHED, &context.stop).await;
        }
    }
}

async fn register(session: &Session, client: &mut Client, user: &str, rng: &mut Rng) {
    let serial = session.serials(1);
    let op = json!([{ "op": "register", "serial": serial, "user": user, "device": "d" }]);
    let asked = json!({ "connection": session.connection(serial) });
    let doing = async {
        match session.batch(rng, Batched::Numbered, op).await {
            Ok(reply) if reply.body["results"][0]["ok"] == true => Outcome::Ok(reply.body["results"][0].clone()),
            Ok(reply) => Outcome::Fail(reply.body["results"][0]["error"].to_string()),
            Err(failure) => failure.of_write(),
        }
    };
    client.perform(("register", user), asked, WITHIN, doing).await;
}

/// A client that stays, and comes back when it is sent away.
async fn stay(context: &Context, (gateway, clients): (&str, &str), user: &str, mut rng: Rng) {
    let mut client = context.recorder.client();
    let mut stop = context.stop.clone();
    while pause(Duration::from_millis(rng.u64(50..300)), &context.stop).await {
        let mut opened = None;
        let doing = async {
            let mut socket = match Socket::open(clients, &format!("/ws?user={user}&device=d"), WELCOME_WITHIN).await {
                Ok(socket) => socket,
                Err(why) => return Outcome::Fail(why),
            };
            match socket.hear().await {
                Heard::Frame(frame) if frame["type"] == "welcome" => {
                    opened = Some(socket);
                    Outcome::Ok(json!({ "connection": frame["connection"], "gateway": gateway }))
                }
                other => Outcome::Fail(format!("{other:?}")),
            }
        };
        client.perform(("connect", user), json!({ "gateway": gateway }), WELCOME_WITHIN, doing).await;
        let Some(mut socket) = opened else { continue };
        loop {
            let heard = tokio::select! {
                heard = socket.hear() => heard,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match heard {
                Heard::Frame(frame) if frame["type"] == "rebound" => {
                    let value = json!({ "connection": frame["connection"], "gateway": gateway });
                    client.observe("rebound", user, value);
                }
                Heard::Frame(_) => {}
                Heard::Closed(code) => {
                    client.observe("closed", user, json!({ "code": code }));
                    break;
                }
            }
        }
    }
}

/// Asks for all users at once, anybody, linearizably.
async fn look(context: &Context, users: &[String], mut rng: Rng) {
    let service = Service::new(context);
    let mut client = context.recorder.client();
    let body = json!({ "users": users });
    while pause(LOOK_EVERY, &context.stop).await {
        let api = service.any(&mut rng);
        let url = format!("{api}/v1/users:lookup");
        let doing = async {
            match service.post(&url, &body, LOOK_WITHIN).await {
                Ok(reply) => {
                    let users = reply.body["users"].as_object().into_iter().flat_map(|users| users.values());
                    let connections = users.filter_map(|user| user["connections"].as_array()).flatten();
                    let ids: Vec<&Value> = connections.map(|connection| &connection["id"]).collect();
                    Outcome::Ok(json!({ "connections": ids, "revision": reply.body["revision"] }))
                }
                Err(failure) => failure.of_read(),
            }
        };
        client.perform(("look", "all"), json!({ "api": api }), LOOK_WITHIN * 2, doing).await;
    }
}

/// Notes who leads by which term, as a node sees it, whenever that changes.
async fn follow_leader(context: &Context, node: &str, api: &str) {
    let service = Service::of(context, []);
    let client = context.recorder.client();
    let mut last: BTreeMap<&str, Value> = BTreeMap::new();
    let url = format!("{api}/v1/cluster");
    while pause(LEADER_EVERY, &context.stop).await {
        let Ok(reply) = service.get(&url, LOOK_WITHIN).await else { continue };
        let now = BTreeMap::from(["term", "leader"].map(|name| (name, reply.body[name].clone())));
        if now != last {
            client.observe("term", node, json!(now));
            last = now;
        }
    }
}
