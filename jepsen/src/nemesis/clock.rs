//! Clocks that are wrong: wall clocks that jump, and clocks of nodes that go too fast or too slow.

use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Fault, Need, NotNow, Start, choice};
use crate::cluster::{Cluster, HarnessError};

const FAMILY: &str = "clock";

const fn fault(name: &'static str, about: &'static str, start: Start) -> Fault {
    Fault { name, about, colour: "#A0E9E3", family: FAMILY, needs: &[Need::Shim], start, stop }
}

/// One jump.
pub(super) const JUMP: Fault = fault(
    "clock-jump",
    "lets the wall clocks of some processes jump, by seconds or a day, either way",
    |cluster, rng| Box::pin(jump(cluster, rng)),
);

/// Many jumps.
pub(super) const STROBE: Fault =
    fault("clock-strobe", "lets the wall clocks of some processes jump back and forth all the time", |cluster, rng| {
        Box::pin(strobe(cluster, rng))
    });

/// Another speed.
pub(super) const DRIFT: Fault = Fault {
    family: DRIFT_FAMILY,
    stop: right,
    ..fault(
        "clock-drift",
        "lets the monotonic clocks of some nodes go up to a tenth too fast or too slow",
        |cluster, rng| Box::pin(drift(cluster, rng)),
    )
};

const DRIFT_FAMILY: &str = "clock-drift";

/// How many percent of real time pass on a clock that drifts. Gateways give up after four fifths of their lease, so leases are
/// safe with nodes up to a quarter too fast; a tenth leaves renewals their time.
const DRIFT_PERCENT: std::ops::RangeInclusive<u32> = 90..=110;

/// How far clocks jump, seconds.
const JUMPS_S: [i64; 10] = [-86_400, -3_600, -60, -5, -1, 1, 5, 60, 3_600, 86_400];

/// Between two jumps of a strobe, milliseconds.
const STROBE_MS: std::ops::Range<u64> = 10..200;

fn everybody(cluster: &Cluster) -> Vec<String> {
    cluster.addresses().all().map(|place| place.name.clone()).collect()
}

fn stop(cluster: &mut Cluster) -> BoxFuture<'_, Result<(), HarnessError>> {
    Box::pin(async {
        cluster.tasks().shutdown().await;
        everybody(cluster).iter().try_for_each(|name| cluster.shim(name)?.obey(FAMILY, ""))
    })
}

async fn jump(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let names = choice::any(everybody(cluster), rng)?;
    let mut jumps = Vec::new();
    for name in names {
        let seconds = JUMPS_S[rng.usize(..JUMPS_S.len())];
        cluster.shim(&name)?.obey(FAMILY, &format!("clock {seconds}"))?;
        jumps.push(json!([name, seconds]));
    }
    Ok(json!(jumps))
}

async fn strobe(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let names = choice::any(everybody(cluster), rng)?;
    let seconds = JUMPS_S[rng.usize(..JUMPS_S.len())];
    let every_ms = rng.u64(STROBE_MS);
    for name in &names {
        let shim = cluster.shim(name)?;
        cluster.tasks().spawn(async move {
            for rules in [format!("clock {seconds}"), String::new()].iter().cycle() {
                // What can't be written now is written the next time; the end of the fault insists on it.
                let _ = shim.obey(FAMILY, rules);
                tokio::time::sleep(Duration::from_millis(every_ms)).await;
            }
        });
    }
    Ok(json!({ "of": names, "seconds": seconds, "every_ms": every_ms }))
}

async fn drift(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let mut speeds = Vec::new();
    for name in choice::any(cluster.members(), rng)? {
        let percent = rng.u32(DRIFT_PERCENT);
        cluster.shim(&name)?.obey(DRIFT_FAMILY, &format!("drift {:.2}", f64::from(percent) / 100.0))?;
        speeds.push(json!([name, percent]));
    }
    Ok(json!({ "percent": speeds }))
}

fn right(cluster: &mut Cluster) -> BoxFuture<'_, Result<(), HarnessError>> {
    Box::pin(async { everybody(cluster).iter().try_for_each(|name| cluster.shim(name)?.obey(DRIFT_FAMILY, "")) })
}
