//! Disks that are full, slow, broken, or stand still.

use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Fault, Need, NotNow, choice};
use crate::cluster::{Cluster, HarnessError};

/// Too little space.
pub(super) const FULL: Fault = Fault {
    name: "disk-full",
    about: "fills the disk of a node, below the space that it keeps free or to the last byte",
    colour: "#C9B79C",
    family: "disk-full",
    needs: &[Need::Images],
    start: |cluster, rng| Box::pin(full(cluster, rng)),
    stop: |cluster| Box::pin(give_space(cluster)),
};

/// Syncs that take their time.
pub(super) const SLOW: Fault = Fault {
    name: "disk-slow",
    about: "makes the disks of some nodes, or of all, slow to sync",
    colour: "#D9C7AC",
    family: "disk-slow",
    needs: &[Need::Shim],
    start: |cluster, rng| Box::pin(slow(cluster, rng)),
    stop: |cluster| Box::pin(quicken(cluster)),
};

/// Syncs and writes that fail.
pub(super) const ERROR: Fault = Fault {
    name: "disk-error",
    about: "lets a sync or write of a node fail: it must end by itself, and is started again",
    colour: "#B9A78C",
    family: ERROR_FAMILY,
    needs: &[Need::Shim],
    start: |cluster, rng| Box::pin(error(cluster, rng)),
    stop: |cluster| Box::pin(repair(cluster)),
};

/// A disk that does not answer.
pub(super) const FREEZE: Fault = Fault {
    name: "disk-freeze",
    about: "lets the disk of a node stand still",
    colour: "#E9D7BC",
    family: FREEZE_FAMILY,
    needs: &[Need::Images],
    start: |cluster, rng| Box::pin(freeze(cluster, rng)),
    stop: |cluster| Box::pin(thaw(cluster)),
};

const FULL_FAMILY: &str = "disk-full";
const SLOW_FAMILY: &str = "disk-slow";
const ERROR_FAMILY: &str = "disk-error";
const FREEZE_FAMILY: &str = "disk-freeze";

/// What is left of a full disk, bytes: enough for what is essential, hardly any, nothing.
const LEFT_BYTES: [u64; 3] = [24 << 20, 64 << 10, 0];

/// Longest time until a node whose disk fails writes something, and ends.
pub(super) const END_WITHIN: Duration = Duration::from_secs(15);

async fn full(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let name = choice::node(cluster, rng).await?;
    let left = LEFT_BYTES[rng.usize(..LEFT_BYTES.len())];
    cluster.claims.take(FULL_FAMILY, [name.clone()]);
    cluster.process(&name).excuse("No space left");
    cluster.disk(&name)?.fill(left)?;
    Ok(json!({ "of": name, "left_bytes": left }))
}

async fn give_space(cluster: &mut Cluster) -> Result<(), HarnessError> {
    for name in cluster.claims.of(FULL_FAMILY) {
        cluster.disk(&name)?.empty()?;
    }
    cluster.revive(FULL_FAMILY).await
}

async fn slow(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let names = choice::any(cluster.members(), rng)?;
    let (milliseconds, part) = (rng.u64(20..800), [1.0, 0.3, 0.05][rng.usize(..3)]);
    for name in &names {
        cluster.shim(name)?.obey(SLOW_FAMILY, &format!("fsync delay {milliseconds} {part}"))?;
    }
    Ok(json!({ "of": names, "milliseconds": milliseconds, "part": part }))
}

async fn quicken(cluster: &mut Cluster) -> Result<(), HarnessError> {
    let names: Vec<String> = cluster.addresses().all().map(|place| place.name.clone()).collect();
    names.iter().try_for_each(|name| cluster.shim(name)?.obey(SLOW_FAMILY, ""))
}

async fn error(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let name = choice::node(cluster, rng).await?;
    let rule = ["fsync eio", "write eio"][rng.usize(..2)];
    cluster.claims.take(ERROR_FAMILY, [name.clone()]);
    cluster.shim(&name)?.obey(ERROR_FAMILY, rule)?;
    let process = cluster.process(&name);
    let Some(status) = process.ended(END_WITHIN).await else {
        repair(cluster).await?;
        return Err(NotNow::Skipped(format!("{name} wrote nothing within {END_WITHIN:?}, so nothing failed")));
    };
    let said = process.last_words();
    if status.code() != Some(1) || !said.contains("Input/output error") {
        cluster.violation(format!("{name}: its disk failed, and it ended with {status} without saying so: {said}"));
    }
    Ok(json!({ "of": name, "rule": rule, "said": said }))
}

fn repair(cluster: &mut Cluster) -> BoxFuture<'_, Result<(), HarnessError>> {
    Box::pin(async {
        for name in cluster.claims.of(ERROR_FAMILY) {
            cluster.shim(&name)?.obey(ERROR_FAMILY, "")?;
        }
        cluster.revive(ERROR_FAMILY).await
    })
}

async fn freeze(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let name = choice::node(cluster, rng).await?;
    cluster.claims.take(FREEZE_FAMILY, [name.clone()]);
    cluster.disk(&name)?.freeze()?;
    Ok(json!(name))
}

async fn thaw(cluster: &mut Cluster) -> Result<(), HarnessError> {
    for name in cluster.claims.of(FREEZE_FAMILY) {
        cluster.disk(&name)?.thaw()?;
    }
    cluster.revive(FREEZE_FAMILY).await
}
