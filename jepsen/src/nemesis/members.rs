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

/// Whose node is to be replaced stays out of order until it is.
pub(super) const REPLACED: &str = "to be replaced";

fn stop(_: &mut Cluster) -> BoxFuture<'_, Result<(), HarnessError>> {
    Box::pin(async { Ok(()) })
}

/// Makes the members those that are wanted, if that can be done now. What is in the way may be another fault.
pub(super) async fn regroup(cluster: &mut Cluster) -> Result<(), String> {
    cluster.regroup(CHANGE_WITHIN).await?;
    cluster.claims.release(REPLACED);
    Ok(())
}

/// Makes the members those that are wanted. With nothing broken that must work.
pub(super) async fn regroup_at_last(cluster: &mut Cluster) {
    if let Err(why) = cluster.regroup(CALM_WITHIN).await {
        cluster
            .violation(format!("the members could not be changed within {CALM_WITHIN:?}, with nothing broken: {why}"));
    }
    cluster.claims.release(REPLACED);
}

async fn change(cluster: &mut Cluster, what: Value) -> Result<Value, NotNow> {
    let done = regroup(cluster).await;
    done.map(|()| what.clone()).map_err(|why| NotNow::Skipped(format!("{what} is left for later: {why}")))
}

/// What was left for later comes first.
async fn settled(cluster: &mut Cluster) -> Result<(), NotNow> {
    let done = if cluster.is_regrouped() { Ok(()) } else { regroup(cluster).await };
    done.map_err(|why| NotNow::Skipped(format!("an earlier change of the members is not done yet: {why}")))
}

async fn grow(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    settled(cluster).await?;
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
    settled(cluster).await?;
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
    settled(cluster).await?;
    let name = choice::node(cluster, rng).await?;
    cluster.claims.take(REPLACED, [name.clone()]);
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
