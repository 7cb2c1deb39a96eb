//! Packets that get lost, come late, overtake each other or come twice.

use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Fault, Need, NotNow, Start, choice};
use crate::cluster::{Cluster, Delay, HarnessError, Packets};

const fn fault(name: &'static str, about: &'static str, start: Start) -> Fault {
    Fault { name, about, colour: "#D1E8A0", family: "packets", needs: &[Need::Namespaces], start, stop }
}

/// Any of the others.
pub(super) const PACKETS: Fault =
    fault("packets", "any one of the four below, by chance", |cluster, rng| Box::pin(packets(cluster, rng)));

/// Some are lost.
pub(super) const LOSS: Fault =
    fault("loss", "loses some of the packets between processes", |cluster, rng| Box::pin(loss(cluster, rng)));

/// All come late.
pub(super) const DELAY: Fault =
    fault("delay", "delivers the packets between processes late", |cluster, rng| Box::pin(delay(cluster, rng)));

/// Each is late by another time.
pub(super) const REORDER: Fault =
    fault("reorder", "delivers the packets between processes in another order", |cluster, rng| {
        Box::pin(reorder(cluster, rng))
    });

/// Some come twice.
pub(super) const DUPLICATE: Fault =
    fault("duplicate", "delivers some of the packets between processes twice", |cluster, rng| {
        Box::pin(duplicate(cluster, rng))
    });

fn stop(cluster: &mut Cluster) -> BoxFuture<'_, Result<(), HarnessError>> {
    Box::pin(async { cluster.network()?.calm() })
}

async fn packets(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let kinds = [LOSS, DELAY, REORDER, DUPLICATE];
    let kind = kinds[rng.usize(..kinds.len())];
    let what = (kind.start)(cluster, rng).await?;
    Ok(json!({ "kind": kind.name, "what": what }))
}

fn some(cluster: &Cluster, rng: &mut Rng) -> Result<Vec<String>, NotNow> {
    let places = cluster.addresses().nodes.iter().chain(&cluster.addresses().gateways);
    choice::any(places.map(|place| place.name.clone()).collect(), rng)
}

async fn loss(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let (names, percent) = (some(cluster, rng)?, rng.u32(2..35));
    cluster.network()?.packets(&names, Packets::Loss(f64::from(percent) / 100.0))?;
    Ok(json!({ "of": names, "percent": percent }))
}

async fn delay(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let (names, least_ms) = (some(cluster, rng)?, rng.u64(5..150));
    late(cluster, &names, least_ms, least_ms / 10)
}

async fn reorder(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let (names, jitter_ms) = (some(cluster, rng)?, rng.u64(5..80));
    late(cluster, &names, 0, jitter_ms)
}

fn late(cluster: &mut Cluster, names: &[String], least_ms: u64, jitter_ms: u64) -> Result<Value, NotNow> {
    let delay = Delay { least: Duration::from_millis(least_ms), jitter: Duration::from_millis(jitter_ms) };
    cluster.network()?.packets(names, Packets::Late(delay))?;
    Ok(json!({ "of": names, "least_ms": least_ms, "jitter_ms": jitter_ms }))
}

async fn duplicate(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let (names, percent) = (some(cluster, rng)?, rng.u32(10..60));
    cluster.network()?.packets(&names, Packets::Twice(f64::from(percent) / 100.0))?;
    Ok(json!({ "of": names, "percent": percent }))
}
