//! Members that come and go, and leaders that hand over, as operators let them.

use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Fault, Need, NotNow, Start, choice};
use crate::cluster::{Cluster, HarnessError};

const FAMILY: &str = "members";

const fn fault(name: &'static str, about: &'static str, needs: &'static [Need], start: Start) -> Fault {
    Fault { name, about, colour: "#E9A0E6", family: FAMILY, needs, start, stop }
}

/// One more.
pub(super) const GROW: Fault =
    fault("grow", "adds a node, up to two more than founded the group", &[Need::Spares], |cluster, rng| {
        Box::pin(grow(cluster, rng))
    });

/// One less.
pub(super) const SHRINK: Fault = fault(
    "shrink",
    "removes a node that was added; adds one first where there is none",
    &[Need::Spares],
    |cluster, rng| Box::pin(shrink(cluster, rng)),
);

/// A dead one.
pub(super) const REPLACE: Fault =
    fault("replace", "kills a node for good, removes it and adds a new one in its place", &[], |cluster, rng| {
        Box::pin(replace(cluster, rng))
    });

/// Another leader.
pub(super) const TRANSFER: Fault =
    fault("transfer-leader", "lets another node lead", &[], |cluster, rng| Box::pin(transfer(cluster, rng)));

/// Longest wait for a change, while other things may be broken, and when nothing is.
const CHANGE_WITHIN: Duration = Duration::from_secs(15);
const CALM_WITHIN: Duration = Duration::from_secs(60);

/// What could not be done while something was broken is done when nothing is.
fn stop(cluster: &mut Cluster) -> BoxFuture<'_, Result<(), HarnessError>> {
    Box::pin(async {
        cluster.claims.release(FAMILY);
        if cluster.claims.is_empty() && !cluster.is_regrouped() {
            regroup(cluster, CALM_WITHIN).await;
        }
        Ok(())
    })
}

/// Makes the members those that are wanted. With nothing broken that must work.
pub(super) async fn regroup(cluster: &mut Cluster, within: Duration) {
    if let Err(why) = cluster.regroup(within).await {
        cluster.violation(format!("the members could not be changed within {within:?}: {why}"));
    }
}

/// Tries now; what is not done in time is left to [`stop`].
async fn change(cluster: &mut Cluster, what: Value) -> Result<Value, NotNow> {
    match cluster.regroup(CHANGE_WITHIN).await {
        Ok(()) => Ok(what),
        Err(why) => Err(NotNow::Skipped(format!("{what} is left for later: {why}"))),
    }
}

fn settled(cluster: &Cluster) -> Result<(), NotNow> {
    if cluster.is_regrouped() {
        return Ok(());
    }
    Err(NotNow::Skipped("an earlier change of the members is not done yet".to_owned()))
}

async fn grow(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    settled(cluster)?;
    let members = cluster.members();
    let mut spares: Vec<String> = cluster.addresses().spares.iter().map(|place| place.name.clone()).collect();
    spares.retain(|name| !members.contains(name));
    let Some(name) = rng.choice(spares) else {
        return Err(NotNow::Skipped("the group is as large as it may be".to_owned()));
    };
    let id = cluster.want_new(&name);
    change(cluster, json!({ "added": name, "id": id })).await
}

async fn shrink(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    settled(cluster)?;
    let spares: Vec<String> = cluster.addresses().spares.iter().map(|place| place.name.clone()).collect();
    let added = cluster.free_members().into_iter().filter(|name| spares.contains(name)).collect();
    let name = match rng.choice::<Vec<String>>(added) {
        Some(name) => name,
        None => {
            grow(cluster, rng).await?;
            let grown = cluster.free_members().into_iter().find(|name| spares.contains(name));
            grown.ok_or_else(choice::enough)?
        }
    };
    cluster.want_nobody(&name);
    change(cluster, json!({ "removed": name })).await
}

async fn replace(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    settled(cluster)?;
    let name = choice::node(cluster, rng).await?;
    cluster.claims.take(FAMILY, [name.clone()]);
    cluster.process(&name).kill().await?;
    let id = cluster.want_new(&name);
    change(cluster, json!({ "replaced": name, "id": id })).await
}

async fn transfer(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let leader = cluster.leader().await;
    let mut others = cluster.free_members();
    others.retain(|name| Some(name) != leader.as_ref());
    let to = rng.choice(others).ok_or_else(choice::enough)?;
    match cluster.transfer_leader(&to, CHANGE_WITHIN).await {
        Ok(()) => Ok(json!({ "from": leader, "to": to })),
        Err(why) => Err(NotNow::Skipped(why)),
    }
}
