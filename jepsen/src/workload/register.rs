//! Registers, unregisters and looks up the same few users at once, through any process.
//!
//! Some sessions of the test's own, each used by two clients. Half of the sessions number their batches and send each until its outcome
//! is known, the others send once and never again. A user with an even number may have a few connections, one with an odd
//! number has one, and the newest wins at once. Sessions end now and then, by themselves under faults or because a client says so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use tokio::task::JoinSet;

use super::{Context, Workload};
use crate::check::{enough, versioned, wgl};
use crate::client::{Batched, Failure, Reply, Service, Session, pause};
use crate::history::{Client, Outcome};

/// Linearizable per user.
pub(super) const REGISTER: Workload = Workload {
    name: "register",
    about: "registers, unregisters and looks up the same few users at once, through any process",
    proves: &["I1"],
    plan: |_| {},
    act: |context| Box::pin(act(context)),
    settle: |context| Box::pin(settle(context)),
    checkers: &[wgl::check, versioned::check, |history| {
        enough::check(history, &[("register", 200), ("unregister", 200), ("lookup", 200)])
    }],
};

const SESSIONS: u64 = 4;
const CLIENTS_PER_SESSION: u64 = 2;
const LEASE: Duration = Duration::from_secs(5);

/// Users that are worked on at the same time.
const USERS: usize = 4;

/// Operations on one user, after which another one takes its place.
const OPERATIONS_PER_USER: usize = 200;

/// Connections of a user who may have several.
const CONNECTIONS_MAX: usize = 3;

/// Time between two operations of a client, milliseconds.
const PACE_MS: std::ops::Range<u64> = 5..40;

/// Longest wait for an operation, with everything that is tried again meanwhile.
const WITHIN: Duration = Duration::from_secs(8);

/// The users that are worked on now.
struct Users {
    now: Mutex<Vec<(usize, usize)>>,
    next: AtomicUsize,
}

impl Users {
    fn new() -> Self {
        let now = (0..USERS).map(|number| (number, 0)).collect();
        Self { now: Mutex::new(now), next: AtomicUsize::new(USERS) }
    }

    fn any(&self, rng: &mut Rng) -> usize {
        let mut now = self.now.lock().expect("nobody panics while choosing");
        let chosen = rng.usize(..now.len());
        let (number, operations) = now[chosen];
        now[chosen] = if operations + 1 < OPERATIONS_PER_USER {
            (number, operations + 1)
        } else {
            (self.next.fetch_add(1, Ordering::Relaxed), 0)
        };
        number
    }
}

fn name(user: usize) -> String {
    format!("user-{user}")
}

async fn act(context: Context) {
    let users = Arc::new(Users::new());
    let mut sessions = JoinSet::new();
    for number in 0..SESSIONS {
        let (context, users) = (context.clone(), Arc::clone(&users));
        sessions.spawn(async move { keep_a_session(&context, &users, number).await });
    }
    while let Some(ended) = sessions.join_next().await {
        ended.expect("a client does not panic");
    }
}

/// One session after the other, each with its clients.
async fn keep_a_session(context: &Context, users: &Arc<Users>, number: u64) {
    let service = Service::new(context);
    let mut rng = Rng::with_seed(context.seed ^ (number << 32));
    let mut client = context.recorder.client();
    let how = if number.is_multiple_of(2) { Batched::Numbered } else { Batched::Once };
    let gateway = format!("own-{number}");
    while let Some(session) = Session::open(&service, &mut client, &mut rng, (&gateway, LEASE), &context.stop).await {
        let mut work = JoinSet::new();
        work.spawn(Arc::clone(&session).keep(context.recorder.clone(), rng.u64(..), context.stop.clone()));
        let open = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..CLIENTS_PER_SESSION {
            let mut worker = Worker {
                client: context.recorder.client(),
                service: service.clone(),
                session: Arc::clone(&session),
                how,
                users: Arc::clone(users),
                open: Arc::clone(&open),
                rng: rng.fork(),
            };
            let stop = context.stop.clone();
            work.spawn(async move {
                while pause(Duration::from_millis(worker.rng.u64(PACE_MS)), &stop).await && !worker.session.is_over() {
                    worker.act().await;
                }
            });
        }
        while let Some(ended) = work.join_next().await {
            ended.expect("a client does not panic");
        }
    }
}

/// A client of a session.
struct Worker {
    client: Client,
    service: Service,
    session: Arc<Session>,
    how: Batched,
    users: Arc<Users>,
    /// Serial and user of what this session has registered, as far as anybody knows.
    open: Arc<Mutex<Vec<(u64, usize)>>>,
    rng: Rng,
}

impl Worker {
    async fn act(&mut self) {
        let user = self.users.any(&mut self.rng);
        match self.rng.u32(..1000) {
            0..350 => self.register(user).await,
            350..650 => self.unregister().await,
            650..998 => self.service.look_up(&mut self.client, &name(user), &mut self.rng).await,
            _ => drop(self.session.end(&mut self.client, &mut self.rng).await),
        }
    }

    fn policy(user: usize) -> &'static str {
        if user.is_multiple_of(2) { "multi" } else { "newest_wins" }
    }

    async fn register(&mut self, user: usize) {
        let serial = self.session.serials(1);
        let (name, policy, max) = (name(user), Self::policy(user), CONNECTIONS_MAX);
        let op = json!([{ "op": "register", "serial": serial, "user": name, "device": "d", "policy": policy,
            "handover": "immediate", "max": max }]);
        let asked = json!({ "connection": self.session.connection(serial), "policy": policy, "max": max });
        self.open.lock().expect("nobody panics while noting").push((serial, user));
        let (session, rng, how) = (Arc::clone(&self.session), &mut self.rng, self.how);
        let doing = async { registered(session.batch(rng, how, op).await) };
        self.client.perform(("register", &name), asked, WITHIN, doing).await;
    }

    /// Unregisters something of this session; one in eight is tried again although it was unregistered.
    async fn unregister(&mut self) {
        let (serial, user) = {
            let mut open = self.open.lock().expect("nobody panics while noting");
            if open.is_empty() {
                return;
            }
            let chosen = self.rng.usize(..open.len());
            if self.rng.u32(..8) == 0 { open[chosen] } else { open.swap_remove(chosen) }
        };
        let op = json!([{ "op": "unregister", "serial": serial }]);
        let asked = json!({ "connection": self.session.connection(serial), "policy": Self::policy(user) });
        let (session, rng, how) = (Arc::clone(&self.session), &mut self.rng, self.how);
        let doing = async { unregistered(session.batch(rng, how, op).await) };
        self.client.perform(("unregister", &name(user)), asked, WITHIN, doing).await;
    }
}

fn registered(answer: Result<Reply, Failure>) -> Outcome {
    let reply = match answer {
        Ok(reply) => reply,
        Err(failure) => return failure.of_write(),
    };
    let (revision, result) = (&reply.body["revision"], &reply.body["results"][0]);
    match result["error"]["code"].as_str() {
        None => Outcome::Ok(json!({
            "granted": result["granted"], "superseded": result["superseded"], "revision": revision,
        })),
        Some("connection_limit") => Outcome::Ok(json!({ "limit": true, "revision": revision })),
        Some(code) => Outcome::Fail(format!("{code}: {}", result["error"]["message"])),
    }
}

fn unregistered(answer: Result<Reply, Failure>) -> Outcome {
    match answer {
        Ok(Reply { body, .. }) => {
            Outcome::Ok(json!({ "existed": body["results"][0]["existed"], "revision": body["revision"] }))
        }
        Err(failure) => failure.of_write(),
    }
}

/// Users that are looked up at the end.
const LAST_USERS: usize = 50;

/// The latest users are looked up once more, everywhere.
async fn settle(context: Context) {
    let mut client = context.recorder.client();
    let mut rng = Rng::with_seed(context.seed);
    let history = context.recorder.history();
    let mut users: Vec<&str> = Vec::new();
    for register in history.of("register").iter().rev() {
        if users.len() < LAST_USERS && !users.contains(&register.invoked.key.as_deref().unwrap_or_default()) {
            users.extend(register.invoked.key.as_deref());
        }
    }
    for api in context.addresses.apis() {
        let service = Service::of(&context, [api]);
        for user in &users {
            service.look_up(&mut client, user, &mut rng).await;
        }
    }
}
