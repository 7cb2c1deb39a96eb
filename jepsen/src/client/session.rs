//! A gateway of one's own: a session that is kept alive through any process, and its batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::http::Method;
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use super::{Failure, Reply, Service, pause};
use crate::history::{Client, Outcome, Recorder};

/// Longest wait for one answer: a process may stand still, and another one is asked then.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Renewals are sent on so many ways at once, each through a process of its own choice, so that one that stands still costs
/// nothing.
const LANES: u32 = 3;

/// Each way renews so many times a lease.
const RENEWALS_PER_LEASE: u32 = 4;

/// How a batch is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batched {
    /// Once; without an answer its outcome stays unknown.
    Once,
    /// With a number, again and again until its outcome is known. One after the other.
    Numbered,
}

/// A session.
#[derive(Debug)]
pub struct Session {
    /// The fencing token.
    pub epoch: u64,
    /// The lease that was granted.
    pub lease: Duration,
    service: Service,
    serial: AtomicU64,
    /// Locked while a numbered batch is under way, so that they arrive in order.
    numbered: Mutex<Numbered>,
    handled: AtomicU64,
    over: AtomicBool,
}

#[derive(Debug)]
struct Numbered {
    /// The number of the next one.
    next: u64,
    /// One that was sent, and whose outcome nobody waited for.
    unresolved: Option<Value>,
}

impl Session {
    /// Opens a session for the gateway `name`, which nobody else uses; noted as `open`. Asks until it is granted, or clients are to
    /// stop.
    pub async fn open(
        service: &Service,
        client: &mut Client,
        rng: &mut Rng,
        (name, lease): (&str, Duration),
        stop: &watch::Receiver<bool>,
    ) -> Option<Arc<Self>> {
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let body = json!({ "gateway": name, "nonce": format!("{name}-{}", rng.u64(..)), "lease_ms": lease_ms });
        while !*stop.borrow() {
            let url = format!("{}/v1/sessions", service.any(rng));
            let opening = async {
                match service.post(&url, &body, ANSWER_WITHIN).await {
                    Ok(reply) => Outcome::Ok(reply.body),
                    Err(failure) => failure.of_write(),
                }
            };
            // The same process asks for the same session, so that asking again after an unknown answer is safe.
            let opened = client.perform(("open", name), body.clone(), ANSWER_WITHIN * 2, opening).await;
            if let Outcome::Ok(body) = opened
                && let Some(epoch) = body["epoch"].as_u64()
            {
                return Some(Arc::new(Self::granted(service, epoch, lease)));
            }
            pause(Duration::from_millis(100), stop).await;
        }
        None
    }

    fn granted(service: &Service, epoch: u64, lease: Duration) -> Self {
        Self {
            epoch,
            lease,
            service: service.clone(),
            serial: AtomicU64::new(1),
            numbered: Mutex::new(Numbered { next: 1, unresolved: None }),
            handled: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// As paths name it.
    pub fn name(&self) -> String {
        format!("s-{}", self.epoch)
    }

    /// The first of `count` serials that were never used.
    pub fn serials(&self, count: u64) -> u64 {
        self.serial.fetch_add(count, Ordering::Relaxed)
    }

    /// The id of the connection with this serial.
    pub fn connection(&self, serial: u64) -> String {
        format!("c-{}-{serial}", self.epoch)
    }

    /// Whether the directory said that it is.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Renews until it is over, or `stop` says so. Each attempt is noted as `renew` of its name; what the directory asks to
    /// release is unregistered.
    pub async fn keep(self: Arc<Self>, recorder: Recorder, seed: u64, stop: watch::Receiver<bool>) {
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            let (session, stop) = (Arc::clone(&self), stop.clone());
            let (client, rng) = (recorder.client(), Rng::with_seed(seed ^ u64::from(lane)));
            lanes.spawn(async move { session.renew_for_ever(client, rng, lane, stop).await });
        }
        while lanes.join_next().await.is_some() {}
    }

    async fn renew_for_ever(&self, mut client: Client, mut rng: Rng, lane: u32, stop: watch::Receiver<bool>) {
        let every = self.lease / RENEWALS_PER_LEASE;
        let mut wait = every * lane / LANES;
        while pause(wait, &stop).await && !self.is_over() {
            self.renew(&mut client, &mut rng).await;
            wait = every.mul_f64(0.8 + 0.4 * rng.f64());
        }
    }

    async fn renew(&self, client: &mut Client, rng: &mut Rng) {
        let url = format!("{}/v1/sessions/{}/renew", self.service.any(rng), self.name());
        let body = json!({ "handled_revision": self.handled.load(Ordering::Relaxed) });
        let renewing = async {
            match self.service.send(Method::PUT, &url, &[], Some(&body), ANSWER_WITHIN).await {
                Ok(reply) => Outcome::Ok(reply.body),
                Err(failure) => failure.of_write(),
            }
        };
        match client.perform(("renew", &self.name()), Value::Null, ANSWER_WITHIN * 2, renewing).await {
            Outcome::Ok(answer) => self.release(rng, &answer).await,
            Outcome::Fail(why) if why.starts_with("gone") => self.over.store(true, Ordering::Relaxed),
            Outcome::Fail(_) | Outcome::Info(_) => {}
        }
    }

    /// Unregisters what is asked for, and remembers to say so. Nobody sees these any more, so it changes nothing for readers.
    async fn release(&self, rng: &mut Rng, answer: &Value) {
        let asked = answer["release"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let serials = asked.filter_map(|id| id.rsplit_once('-')?.1.parse::<u64>().ok());
        let ops: Vec<Value> = serials.map(|serial| json!({ "op": "unregister", "serial": serial })).collect();
        let done = ops.is_empty() || self.once(rng, &json!({ "ops": ops })).await.is_ok();
        if let Some(revision) = answer["revision"].as_u64().filter(|_| done) {
            self.handled.fetch_max(revision, Ordering::Relaxed);
        }
    }

    /// Sends operations as one batch, in the form of the API.
    ///
    /// # Errors
    /// When it was not applied, or nobody knows.
    pub async fn batch(&self, rng: &mut Rng, how: Batched, ops: Value) -> Result<Reply, Failure> {
        if how == Batched::Once {
            return self.once(rng, &json!({ "ops": ops })).await;
        }
        let mut numbered = self.numbered.lock().await;
        // Whoever sent it stopped waiting; nothing later is taken before it.
        if let Some(body) = numbered.unresolved.clone() {
            self.resolve(rng, &body).await.ok();
        }
        let body = json!({ "seq": numbered.next, "ops": ops });
        numbered.next += 1;
        numbered.unresolved = Some(body.clone());
        let answer = self.resolve(rng, &body).await;
        numbered.unresolved = None;
        answer
    }

    /// Sends the same batch until it is known what became of it.
    async fn resolve(&self, rng: &mut Rng, body: &Value) -> Result<Reply, Failure> {
        let mut unknown = None;
        loop {
            match self.once(rng, body).await {
                Ok(reply) => return Ok(reply),
                // Its session is over, say: an earlier copy may have been applied before that.
                Err(failure @ Failure::Refused { status: 400..=428, .. }) => return Err(unknown.unwrap_or(failure)),
                Err(failure @ Failure::Unknown(_)) => unknown = Some(failure),
                Err(Failure::Refused { .. }) => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn once(&self, rng: &mut Rng, body: &Value) -> Result<Reply, Failure> {
        let url = format!("{}/v1/sessions/{}/batch", self.service.any(rng), self.name());
        let answer = self.service.post(&url, body, ANSWER_WITHIN).await;
        if let Err(Failure::Refused { code, .. }) = &answer
            && code == "fenced"
        {
            self.over.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// Ends it; noted as `end` of its name. Asks again while the answer is unknown.
    pub async fn end(&self, client: &mut Client, rng: &mut Rng) -> Outcome {
        self.over.store(true, Ordering::Relaxed);
        let url = format!("{}/v1/sessions/{}", self.service.any(rng), self.name());
        let ending = async {
            match self.service.send(Method::DELETE, &url, &[], Some(&json!({ "fenced": true })), ANSWER_WITHIN).await {
                Ok(_) => Outcome::Ok(Value::Null),
                Err(failure) => failure.of_write(),
            }
        };
        client.perform(("end", &self.name()), Value::Null, ANSWER_WITHIN * 2, ending).await
    }
}
