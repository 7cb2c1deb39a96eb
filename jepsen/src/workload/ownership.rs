//! Clients with WebSockets want the same exclusive users on several gateways at once, while pushes go to those users all the time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Context, Workload};
use crate::check::{enough, ownership};
use crate::client::{Heard, Service, Socket, pause};
use crate::cluster::Plan;
use crate::history::{Client, History, Outcome};
use crate::verdict::Checked;

/// The newest wins.
pub(super) const NEWEST: Workload = Workload {
    name: "ownership",
    about: "clients want the same exclusive users on several gateways at once; the newest wins",
    proves: &["I2", "I5"],
    plan: |plan| exclusive(plan, "newest_wins"),
    act: |context| Box::pin(act(context, 6)),
    settle: |_| Box::pin(async {}),
    checkers: &[ownership::check, asked_enough],
};

/// The oldest wins.
pub(super) const OLDEST: Workload = Workload {
    name: "ownership-oldest",
    about: "as ownership, and the oldest wins",
    plan: |plan| exclusive(plan, "oldest_wins"),
    // Nobody gets in while one stays.
    act: |context| Box::pin(act(context, 40)),
    ..NEWEST
};

const USERS: usize = 6;
const CLIENTS_PER_USER: usize = 3;
const PUSHERS_PER_USER: usize = 2;

/// How long a client stays, unless it is sent away, and how long it waits before it comes back, milliseconds. Some stay for long,
/// so that it is still there when a frozen gateway has lost its lease and thaws.
const STAY_MS: std::ops::Range<u64> = 100..1_500;
const LONG_MS: std::ops::Range<u64> = 4_000..9_000;
const AWAY_MS: std::ops::Range<u64> = 20..400;

/// Time between two pushes of a service, and two lookups, milliseconds.
const PUSH_MS: std::ops::Range<u64> = 5..40;
const LOOKUP_MS: std::ops::Range<u64> = 50..150;

const UPGRADE_WITHIN: Duration = Duration::from_secs(2);
/// A take-over may have to wait for a lease.
const WELCOME_WITHIN: Duration = Duration::from_secs(12);
const PUSH_WITHIN: Duration = Duration::from_millis(1_500);

/// Latest connections of a user that services remember, so that they push to some that were just replaced.
const REMEMBERED: usize = 4;

fn exclusive(plan: &mut Plan, policy: &str) {
    plan.gateway_flags.extend(["--policy".to_owned(), policy.to_owned()]);
}

fn asked_enough(history: &History) -> Checked {
    enough::check(history, &[("push", 200), ("lookup", 200)])
}

/// What everybody shares.
#[derive(Clone)]
struct Common {
    context: Context,
    service: Service,
    sockets: Arc<AtomicU64>,
    payloads: Arc<AtomicU64>,
    /// The latest connections of each user.
    latest: Arc<[Mutex<Vec<String>>]>,
}

/// One stay in `long_in` is a long one.
async fn act(context: Context, long_in: u32) {
    let mut rng = Rng::with_seed(context.seed);
    let common = Common {
        service: Service::new(&context),
        sockets: Arc::default(),
        payloads: Arc::default(),
        latest: (0..USERS).map(|_| Mutex::default()).collect(),
        context,
    };
    let mut work = JoinSet::new();
    for user in 0..USERS {
        for _ in 0..CLIENTS_PER_USER {
            let (common, rng) = (common.clone(), rng.fork());
            work.spawn(async move { come_and_go(&common, user, rng, long_in).await });
        }
        for _ in 0..PUSHERS_PER_USER {
            let (common, rng) = (common.clone(), rng.fork());
            work.spawn(async move { push(&common, user, rng).await });
        }
        let (common, mut rng) = (common.clone(), rng.fork());
        work.spawn(async move {
            let mut client = common.context.recorder.client();
            while pause(Duration::from_millis(rng.u64(LOOKUP_MS)), &common.context.stop).await {
                common.service.look_up(&mut client, &name(user), &mut rng).await;
            }
        });
    }
    while let Some(ended) = work.join_next().await {
        ended.expect("a client does not panic");
    }
}

fn name(user: usize) -> String {
    format!("user-{user}")
}

async fn come_and_go(common: &Common, user: usize, mut rng: Rng, long_in: u32) {
    let mut client = common.context.recorder.client();
    let user_name = name(user);
    while pause(Duration::from_millis(rng.u64(AWAY_MS)), &common.context.stop).await {
        let number = common.sockets.fetch_add(1, Ordering::Relaxed);
        let gateways = &common.context.addresses.gateways;
        let gateway = &gateways[rng.usize(..gateways.len())];
        let mut opened = None;
        let asked = json!({ "socket": number, "gateway": gateway.name });
        let doing = connect(&gateway.clients, &user_name, number, &mut opened);
        let outcome = client.perform(("connect", &user_name), asked, WELCOME_WITHIN, doing).await;
        let (Outcome::Ok(welcome), Some(socket)) = (outcome, opened) else { continue };
        remember(&common.latest[user], &welcome);
        let range = if rng.u32(..long_in) == 0 { LONG_MS } else { STAY_MS };
        let stay = Duration::from_millis(rng.u64(range));
        listen(common, user, socket, number, &client, stay).await;
    }
}

async fn connect(address: &str, user: &str, number: u64, opened: &mut Option<Socket>) -> Outcome {
    let mut socket = match Socket::open(address, &format!("/ws?user={user}&device=d"), UPGRADE_WITHIN).await {
        Ok(socket) => socket,
        Err(why) => return Outcome::Fail(why),
    };
    match socket.hear().await {
        Heard::Frame(frame) if frame["type"] == "welcome" => {
            *opened = Some(socket);
            let (connection, granted) = (&frame["connection"], &frame["granted"]);
            Outcome::Ok(json!({ "socket": number, "connection": connection, "granted": granted }))
        }
        Heard::Frame(frame) => Outcome::Fail(format!("{} {}", frame["type"], frame["code"])),
        Heard::Closed(code) => Outcome::Fail(format!("closed: {code:?}")),
    }
}

fn remember(latest: &Mutex<Vec<String>>, welcome: &Value) {
    let mut latest = latest.lock().expect("nobody panics while noting");
    latest.extend(welcome["connection"].as_str().map(str::to_owned));
    if latest.len() > REMEMBERED {
        latest.remove(0);
    }
}

/// Notes everything that comes out of a socket until it is closed, or the client has stayed long enough. Then it goes on listening
/// while the close is under way.
async fn listen(common: &Common, user: usize, mut socket: Socket, number: u64, client: &Client, stay: Duration) {
    let user_name = name(user);
    let listening = async {
        loop {
            match socket.hear().await {
                Heard::Frame(frame) => note(client, &user_name, number, &frame, &common.latest[user]),
                Heard::Closed(code) => {
                    client.observe("closed", &user_name, json!({ "socket": number, "code": code }));
                    return;
                }
            }
        }
    };
    if tokio::time::timeout(stay, listening).await.is_err() {
        client.observe("leave", &user_name, json!({ "socket": number }));
        socket.close().await;
    }
}

fn note(client: &Client, user: &str, number: u64, frame: &Value, latest: &Mutex<Vec<String>>) {
    match frame["type"].as_str() {
        Some("push") => {
            let value = json!({ "socket": number, "payload": frame["data"], "granted": frame["granted"] });
            client.observe("frame", user, value);
        }
        Some("rebound") => {
            let value = json!({ "socket": number, "connection": frame["connection"], "granted": frame["granted"] });
            remember(latest, &value);
            client.observe("rebound", user, value);
        }
        Some("goodbye") => client.observe("goodbye", user, json!({ "socket": number, "code": frame["code"] })),
        _ => client.observe("other", user, json!({ "socket": number, "frame": frame })),
    }
}

/// Pushes to the user, and to connections that were or are the user's.
async fn push(common: &Common, user: usize, mut rng: Rng) {
    let mut client = common.context.recorder.client();
    while pause(Duration::from_millis(rng.u64(PUSH_MS)), &common.context.stop).await {
        let payload = common.payloads.fetch_add(1, Ordering::Relaxed);
        let connection = {
            let latest = common.latest[user].lock().expect("nobody panics while noting");
            if latest.is_empty() || rng.bool() { None } else { Some(latest[rng.usize(..latest.len())].clone()) }
        };
        let to = connection.map_or_else(|| format!("users/{}", name(user)), |id| format!("connections/{id}"));
        let url = format!("{}/v1/{to}/push", common.service.any(&mut rng));
        let body = json!({ "data": payload, "timeout_ms": 1_000 });
        let doing = async {
            match common.service.post(&url, &body, PUSH_WITHIN).await {
                Ok(reply) => Outcome::Ok(reply.body["results"].clone()),
                Err(failure) => failure.of_write(),
            }
        };
        let asked = json!({ "payload": payload, "to": to });
        client.perform(("push", &name(user)), asked, PUSH_WITHIN * 2, doing).await;
    }
}
