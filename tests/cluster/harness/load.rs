//! Services that register users without a pause, and remember what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Http, PATIENCE, eventually, pause};

/// Writers that register one user after the other through sessions of their own.
pub struct Load {
    writers: JoinSet<Vec<String>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Load {
    pub fn start(apis: &[String], writers: usize) -> Self {
        Self::start_named(apis, writers, 0)
    }

    /// As often as one likes in one cluster, under other names each time.
    pub fn start_named(apis: &[String], writers: usize, round: usize) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut load = Self { writers: JoinSet::new(), stop, acknowledged };
        for writer in round * writers..(round + 1) * writers {
            let apis = apis.to_vec();
            let (stop, acknowledged) = (Arc::clone(&load.stop), Arc::clone(&load.acknowledged));
            load.writers.spawn(write(writer, apis, stop, acknowledged));
        }
        load
    }

    /// Waits until so many more registrations were acknowledged.
    pub async fn more(&self, count: u64) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        eventually("registrations go on", async || {
            (self.acknowledged.load(Ordering::Relaxed) >= before + count).then_some(())
        })
        .await;
    }

    /// The users whose registration was acknowledged.
    pub async fn finish(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut users = Vec::new();
        while let Some(of_one) = self.writers.join_next().await {
            users.extend(of_one.unwrap());
        }
        users
    }
}

/// Registers users in numbered batches, each repeated until it is answered, through whichever API answers. Its lease is
/// long, so that it outlives the failures of the test.
async fn write(writer: usize, apis: Vec<String>, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> Vec<String> {
    let http = Http::default();
    let open = json!({ "gateway": format!("writer-{writer}"), "nonce": "n", "lease_ms": 60_000 });
    let session = answered(&http, &apis, "/v1/sessions", &open, 201).await["session"].as_str().unwrap().to_owned();
    let path = format!("/v1/sessions/{session}/batch");
    let mut users = Vec::new();
    for seq in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let of_batch: Vec<String> = (0..4).map(|n| format!("w{writer}-{seq}-{n}")).collect();
        let ops: Vec<Value> = of_batch
            .iter()
            .zip(seq * 4..)
            .map(|(user, serial)| json!({ "op": "register", "serial": serial, "user": user }))
            .collect();
        answered(&http, &apis, &path, &json!({ "seq": seq, "ops": ops }), 200).await;
        acknowledged.fetch_add(4, Ordering::Relaxed);
        users.extend(of_batch);
    }
    users
}

/// Repeats a request, at one API after the other, until it is answered with success.
async fn answered(http: &Http, apis: &[String], path: &str, body: &Value, status: u16) -> Value {
    let give_up = Instant::now() + PATIENCE;
    for api in apis.iter().cycle() {
        assert!(Instant::now() < give_up, "in vain waited {PATIENCE:?} for an answer to {path}");
        match http.try_post(api, path, body).await {
            Some(answer) if answer.status == status => return answer.body,
            Some(answer) => {
                assert_eq!(answer.body["error"]["temporary"], true, "{path} {body}: {} {}", answer.status, answer.body);
            }
            None => {}
        }
        pause().await;
    }
    unreachable!("there is at least one API")
}
