//! Processes that die, and processes that stand still.

use fastrand::Rng;
use serde_json::{Value, json};

use super::{Fault, NotNow};
use crate::cluster::{Cluster, HarnessError};

/// SIGKILL, then started again.
pub(super) const KILL: Fault = Fault {
    name: "kill",
    about: "kills some nodes and gateways, never a majority of the nodes, and starts them again",
    colour: "#E9A4A0",
    start: |cluster, rng| Box::pin(kill(cluster, rng)),
    stop: |cluster| Box::pin(cluster.revive()),
};

/// SIGSTOP, then SIGCONT.
pub(super) const PAUSE: Fault = Fault {
    name: "pause",
    about: "freezes some nodes and gateways, never a majority of the nodes, and thaws them",
    colour: "#A0B1E9",
    start: |cluster, rng| Box::pin(pause(cluster, rng)),
    stop: |cluster| Box::pin(thaw(cluster)),
};

/// A minority of the nodes and any gateways, at least one of all.
fn some(cluster: &Cluster, rng: &mut Rng) -> Vec<String> {
    let places = cluster.addresses();
    let minority = places.nodes.len().saturating_sub(1) / 2;
    let mut nodes: Vec<&String> = places.nodes.iter().map(|place| &place.name).collect();
    rng.shuffle(&mut nodes);
    nodes.truncate(rng.usize(0..=minority));
    let mut names: Vec<String> = nodes.into_iter().cloned().collect();
    let least = usize::from(names.is_empty());
    let mut gateways: Vec<&String> = places.gateways.iter().map(|place| &place.name).collect();
    rng.shuffle(&mut gateways);
    gateways.truncate(rng.usize(least.min(gateways.len())..=gateways.len()));
    names.extend(gateways.into_iter().cloned());
    names
}

async fn kill(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let names = some(cluster, rng);
    for name in &names {
        cluster.process(name).kill().await?;
    }
    Ok(json!(names))
}

async fn pause(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let names = some(cluster, rng);
    for name in &names {
        cluster.process(name).freeze().await?;
    }
    Ok(json!(names))
}

async fn thaw(cluster: &mut Cluster) -> Result<(), HarnessError> {
    for name in cluster.names() {
        cluster.process(&name).thaw()?;
    }
    Ok(())
}
