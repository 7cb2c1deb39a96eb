//! Sessions that join and leave topics, and lookups and lists of them on every process.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use tokio::task::JoinSet;

use super::watch::spawn_watchers;
use super::writers::{Style, Writer};
use super::{Context, Workload, last_look};
use crate::check;
use crate::client::{Service, pause};
use crate::history::Outcome;

/// Who has subscribers, told once and shown exactly.
pub(super) const TOPICS: Workload = Workload {
    name: "topics",
    about: "joins and leaves topics, ends sessions that have some, and looks topics up and lists them",
    proves: &["I6", "I12"],
    plan: |_| {},
    act: |context| Box::pin(act(context)),
    settle: |context| Box::pin(last_look::everywhere(context)),
    checkers: &[check::topics::check, check::watch::check],
};

const WRITERS: usize = 5;
const READERS: u64 = 4;

/// Few topics, so that several sessions have the same.
const STYLE: Style = Style { users: 50, topics: 12, every: Duration::from_millis(80) };

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

async fn act(context: Context) {
    let mut clients = JoinSet::new();
    for nth in 1..=WRITERS {
        clients.spawn(Writer::new(&context, &format!("writer-{nth}"), STYLE).write());
    }
    clients.spawn(Writer::new(&context, "crowd", STYLE).crowd());
    spawn_watchers(&mut clients, &context, 2, 2);
    for nth in 0..READERS {
        clients.spawn(read(context.clone(), nth));
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client panics");
    }
}

/// Looks up one topic, or lists the most subscribed ones.
async fn read(context: Context, nth: u64) {
    let (service, mut client) = (Service::new(&context), context.recorder.client());
    let mut rng = Rng::with_seed(context.seed ^ nth);
    while pause(Duration::from_millis(rng.u64(20..120)), &context.stop).await {
        let topic = format!("topic-{}", rng.u64(..STYLE.topics));
        let api = service.any(&mut rng);
        let (f, key, asked, url) = if rng.bool() {
            ("topic", topic.as_str(), json!({ "api": api }), format!("{api}/v1/topics/{topic}"))
        } else {
            let (prefix, limit) = (if rng.bool() { "topic-1" } else { "" }, rng.u64(1..20));
            let asked = json!({ "api": api, "prefix": prefix, "limit": limit });
            ("top", "", asked, format!("{api}/v1/topics?prefix={prefix}&limit={limit}"))
        };
        let reading = async {
            match service.get(&url, ANSWER_WITHIN).await {
                Ok(reply) => Outcome::Ok(reply.body),
                Err(failure) => failure.of_read(),
            }
        };
        client.perform((f, key), asked, ANSWER_WITHIN * 2, reading).await;
    }
}
