//! The power fails: whatever was not synced is lost, not only what the process held.

use std::time::Duration;

use axum::http::Method;
use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Fault, Need, NotNow, Start, choice};
use crate::cluster::{Cluster, HarnessError};

const FAMILY: &str = "power";

const fn fault(name: &'static str, about: &'static str, start: Start) -> Fault {
    Fault { name, about, colour: "#C8A2C8", family: FAMILY, needs: &[Need::Images], start, stop }
}

fn stop(cluster: &mut Cluster) -> BoxFuture<'_, Result<(), HarnessError>> {
    Box::pin(cluster.revive(FAMILY))
}

/// One node.
pub(super) const ONE: Fault = fault("power", "cuts the power of a node", |cluster, rng| Box::pin(one(cluster, rng)));

/// All nodes.
pub(super) const ALL: Fault =
    fault("power-all", "cuts the power of all nodes at the same moment", |cluster, _| Box::pin(all(cluster)));

/// All nodes, and again while they start.
pub(super) const TWICE: Fault =
    fault("power-twice", "cuts the power of all nodes, and again when they have just started", |cluster, rng| {
        Box::pin(twice(cluster, rng))
    });

/// While a snapshot is written.
pub(super) const SNAPSHOT: Fault =
    fault("power-snapshot", "cuts the power of all nodes while they take a snapshot", |cluster, rng| {
        Box::pin(during_a_snapshot(cluster, rng))
    });

/// Longest time from a start, or from the beginning of a snapshot, to the cut, milliseconds.
const SOON_MS: u64 = 400;

/// Cuts the power of these at once. They don't run then, and their disks hold what had reached them.
async fn cut(cluster: &mut Cluster, names: &[String]) -> Result<(), HarnessError> {
    cluster.claims.take(FAMILY, names.iter().cloned());
    // Nobody may acknowledge anything between the cut and its end.
    for name in names {
        if cluster.process(name).runs() {
            cluster.process(name).freeze().await?;
        }
    }
    for name in names {
        cluster.disk(name)?.cut()?;
    }
    for name in names {
        cluster.process(name).kill().await?;
        cluster.disk(name)?.restore()?;
    }
    Ok(())
}

async fn one(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let name = choice::node(cluster, rng).await?;
    cut(cluster, std::slice::from_ref(&name)).await?;
    Ok(json!([name]))
}

async fn all(cluster: &mut Cluster) -> Result<Value, NotNow> {
    let names = choice::all_members(cluster)?;
    cut(cluster, &names).await?;
    Ok(json!(names))
}

async fn twice(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let names = choice::all_members(cluster)?;
    cut(cluster, &names).await?;
    for name in &names {
        cluster.bring_back(name).await?;
    }
    let after_ms = rng.u64(..SOON_MS);
    tokio::time::sleep(Duration::from_millis(after_ms)).await;
    cut(cluster, &names).await?;
    Ok(json!({ "of": names, "again_after_ms": after_ms }))
}

async fn during_a_snapshot(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let names = choice::all_members(cluster)?;
    let after_ms = rng.u64(..SOON_MS / 4);
    let within = Duration::from_millis(after_ms.max(1));
    let asked = &*cluster;
    let snapshots =
        names.iter().map(|name| asked.ask(Method::POST, name, "/v1/cluster/snapshot", &Value::Null, within));
    // Whether they were done by then is what chance decides.
    let done = futures_util::future::join_all(snapshots).await;
    let done = done.iter().filter(|answer| answer.is_some()).count();
    cut(cluster, &names).await?;
    Ok(json!({ "of": names, "after_ms": after_ms, "snapshots_done": done }))
}
