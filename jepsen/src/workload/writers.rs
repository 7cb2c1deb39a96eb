//! Writers: sessions of the test's own that register, unregister, change metadata and topics, and end, one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Context;
use crate::client::{Batched, Failure, Reply, Service, Session, pause};
use crate::history::{Client, Outcome};

/// Lease of most sessions. A process may stand still for as long as a fault lasts without ending one that nobody lets go.
const LEASE: Duration = Duration::from_secs(8);

/// Lease of sessions that are let go of, so that they expire soon.
const SHORT_LEASE: Duration = Duration::from_secs(3);

/// Longest wait for a batch, asking again.
const BATCH_WITHIN: Duration = Duration::from_secs(8);

/// Connections of a session that ends with all of them at once.
const CROWD: u64 = 300;

/// Most connections that a writer holds at a time.
const HELD_MAX: usize = 60;

/// What writers do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// Users are `user-0` to below this.
    pub(super) users: u64,
    /// Topics are `topic-0` to below this; with 0 nobody joins any.
    pub(super) topics: u64,
    /// Mean wait between two batches.
    pub(super) every: Duration,
}

/// A writer.
pub(super) struct Writer {
    context: Context,
    name: String,
    style: Style,
    client: Client,
    rng: Rng,
    service: Service,
    keepers: JoinSet<()>,
}

impl Writer {
    /// One with a name of its own.
    pub(super) fn new(context: &Context, name: &str, style: Style) -> Self {
        let seed = name.bytes().fold(context.seed, |seed, byte| seed.wrapping_mul(37).wrapping_add(byte.into()));
        Self {
            context: context.clone(),
            name: name.to_owned(),
            style,
            client: context.recorder.client(),
            rng: Rng::with_seed(seed),
            service: Service::new(context),
            keepers: JoinSet::new(),
        }
    }

    fn stopped(&self) -> bool {
        *self.context.stop.borrow()
    }

    /// Session after session, with one batch after the other, until told to stop.
    pub(super) async fn write(mut self) {
        let mut round = 0;
        while !self.stopped() {
            round += 1;
            let Some(session) = self.open(round, LEASE).await else { continue };
            let mut held = Vec::new();
            for _ in 0..self.rng.u32(40..200) {
                let every = self.style.every.mul_f64(self.rng.f64() * 2.0);
                if session.is_over() || !pause(every, &self.context.stop).await {
                    break;
                }
                self.change(&session, &mut held).await;
            }
            self.end(&session).await;
        }
    }

    /// Session after session, each with hundreds of connections that go with it: ended, or let go of.
    pub(super) async fn crowd(mut self) {
        let mut round = 0;
        while !self.stopped() {
            round += 1;
            let expires = self.rng.u8(..3) == 0;
            let lease = if expires { SHORT_LEASE } else { LEASE };
            let Some(session) = self.open(round, lease).await else { continue };
            let first = session.serials(CROWD);
            let register = |serial| json!({ "op": "register", "serial": serial, "user": format!("{}-{round}-{serial}", self.name) });
            let mut ops: Vec<Value> = (first..first + CROWD).map(register).collect();
            if self.style.topics > 0 {
                ops.push(json!({ "op": "join", "topics": [self.topic(), self.topic()] }));
            }
            self.batch(&session, ops).await;
            pause(Duration::from_millis(self.rng.u64(200..2_000)), &self.context.stop).await;
            if expires && !self.stopped() {
                self.keepers.abort_all();
            } else {
                self.end(&session).await;
            }
            pause(Duration::from_millis(self.rng.u64(500..3_000)), &self.context.stop).await;
        }
    }

    async fn open(&mut self, round: u64, lease: Duration) -> Option<Arc<Session>> {
        let (stop, name) = (self.context.stop.clone(), format!("{}-{round}", self.name));
        let named = (name.as_str(), lease);
        let session = Session::open(&self.service, &mut self.client, &mut self.rng, named, &stop).await?;
        let seed = self.rng.u64(..);
        self.keepers.spawn(Arc::clone(&session).keep(self.context.recorder.clone(), seed, stop));
        Some(session)
    }

    /// Asks until it is known to be over: by the answer, or because it is gone.
    async fn end(&mut self, session: &Session) {
        for _ in 0..5 {
            if !matches!(session.end(&mut self.client, &mut self.rng).await, Outcome::Info(_)) {
                break;
            }
        }
        self.keepers.abort_all();
    }

    fn topic(&mut self) -> String {
        format!("topic-{}", self.rng.u64(..self.style.topics))
    }

    /// One batch of a few operations.
    async fn change(&mut self, session: &Session, held: &mut Vec<u64>) {
        let mut ops = Vec::new();
        let mut leaving = BTreeSet::new();
        for _ in 0..self.rng.usize(1..=5) {
            let free: Vec<u64> = held.iter().copied().filter(|serial| !leaving.contains(serial)).collect();
            let one_of = |rng: &mut Rng| free[rng.usize(..free.len())];
            let dice = self.rng.u8(..10);
            if self.style.topics > 0 && dice < 5 {
                let topics: Vec<String> = (0..self.rng.u8(1..=3)).map(|_| self.topic()).collect();
                ops.push(json!({ "op": if self.rng.bool() { "join" } else { "leave" }, "topics": topics }));
            } else if free.is_empty() || (dice < 8 && held.len() < HELD_MAX && self.rng.u8(..10) < 6) {
                let user = format!("user-{}", self.rng.u64(..self.style.users));
                let mut op = json!({ "op": "register", "serial": session.serials(1), "user": user });
                if self.rng.bool() {
                    op["device"] = json!(format!("d{}", self.rng.u8(..3)));
                }
                ops.push(op);
            } else if dice < 9 {
                let serial = one_of(&mut self.rng);
                leaving.insert(serial);
                ops.push(json!({ "op": "unregister", "serial": serial }));
            } else {
                let serial = one_of(&mut self.rng);
                ops.push(json!({ "op": "meta", "serial": serial, "meta": { "v": self.rng.u16(..) } }));
            }
        }
        let results = self.batch(session, ops.clone()).await;
        // Whatever may be there can be unregistered: what is not is answered as such.
        held.retain(|serial| !leaving.contains(serial));
        for (nth, op) in ops.iter().enumerate().filter(|(_, op)| op["op"] == "register") {
            if results.as_ref().is_none_or(|results| results[nth]["ok"] == true) {
                held.extend(op["serial"].as_u64());
            }
        }
    }

    /// Its results, if they are known.
    async fn batch(&mut self, session: &Session, ops: Vec<Value>) -> Option<Value> {
        let asked = json!({ "epoch": session.epoch, "ops": ops });
        let (name, rng) = (session.name(), &mut self.rng);
        let batching = async {
            match session.batch(rng, Batched::Numbered, Value::Array(ops)).await {
                Ok(Reply { body, .. }) => Outcome::Ok(body),
                Err(failure @ (Failure::Refused { .. } | Failure::Unknown(_))) => failure.of_write(),
            }
        };
        match self.client.perform(("batch", &name), asked, BATCH_WITHIN, batching).await {
            Outcome::Ok(body) => Some(body["results"].clone()),
            Outcome::Fail(_) => Some(Value::Null),
            Outcome::Info(_) => None,
        }
    }
}
