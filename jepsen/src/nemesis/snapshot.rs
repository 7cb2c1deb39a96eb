//! Snapshots and compactions at any moment.

use std::time::Duration;

use axum::http::Method;
use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Fault, Need, NotNow, choice};
use crate::cluster::{Cluster, HarnessError};

/// One snapshot.
pub(super) const SNAPSHOT: Fault = Fault {
    name: "snapshot",
    about: "lets some nodes take a snapshot",
    colour: "#B0C4DE",
    family: "snapshot",
    needs: &[],
    start: |cluster, rng| Box::pin(snapshot(cluster, rng)),
    stop,
};

/// Snapshots all the time.
pub(super) const COMPACT: Fault = Fault {
    name: "compact",
    about: "like snapshot, of nodes that keep hardly any log and few events, so that others need snapshots to catch up",
    colour: "#C0D4EE",
    family: "snapshot",
    needs: &[Need::ShortLog],
    start: |cluster, rng| Box::pin(snapshot(cluster, rng)),
    stop,
};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

fn stop(_: &mut Cluster) -> BoxFuture<'_, Result<(), HarnessError>> {
    Box::pin(async { Ok(()) })
}

async fn snapshot(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let mut taken = Vec::new();
    for name in choice::any(cluster.free_members(), rng)? {
        let answer = cluster.ask(Method::POST, &name, "/v1/cluster/snapshot", &Value::Null, ANSWER_WITHIN).await;
        taken.extend(answer.filter(|(status, _)| *status == 200).map(|(_, body)| json!([name, body["revision"]])));
    }
    if taken.is_empty() {
        return Err(NotNow::Skipped("no node took one in time".to_owned()));
    }
    Ok(json!(taken))
}
