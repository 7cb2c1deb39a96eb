//! Another version of the program, one process after the other.

use fastrand::Rng;
use serde_json::{Value, json};

use super::process::restart_in_order;
use super::{Fault, Need, NotNow, choice};
use crate::cluster::Cluster;

/// Up and down.
pub(super) const UPGRADE: Fault = Fault {
    name: "upgrade",
    about: "restarts some or all processes, one after the other, with the other of two versions of the program",
    colour: "#F0B27A",
    family: "rolling",
    needs: &[Need::ShortDrain, Need::Previous],
    start: |cluster, rng| Box::pin(upgrade(cluster, rng)),
    stop: |_| Box::pin(async { Ok(()) }),
};

async fn upgrade(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    if cluster.spare() == 0 {
        return Err(choice::enough());
    }
    let mut names = cluster.free_members();
    names.extend(cluster.free_gateways());
    // Only some, every other time, so that both versions work together for a while.
    let names = if rng.bool() { choice::any(names, rng)? } else { names };
    let (now, previous) = (cluster.plan().binary.clone(), cluster.plan().previous.clone());
    let previous = previous.ok_or_else(|| NotNow::Skipped("there is no other version".to_owned()))?;
    let mut changed = Vec::new();
    for name in &names {
        let launch = cluster.process(name).launch();
        launch.binary = if launch.binary == now { previous.clone() } else { now.clone() };
        changed.push(json!([name, launch.binary.display().to_string()]));
        restart_in_order(cluster, name, "rolling").await?;
    }
    Ok(json!(changed))
}
