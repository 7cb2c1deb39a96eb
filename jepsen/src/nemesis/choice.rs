//! Who is hit: what faults may choose from, given who is under one already.

use fastrand::Rng;

use super::NotNow;
use crate::cluster::Cluster;

/// A minority of the nodes and any gateways, at least one of all.
pub(super) fn some(cluster: &Cluster, rng: &mut Rng) -> Result<Vec<String>, NotNow> {
    let mut names = cluster.free_members();
    rng.shuffle(&mut names);
    names.truncate(rng.usize(0..=cluster.spare()));
    let mut gateways = cluster.free_gateways();
    rng.shuffle(&mut gateways);
    let least = usize::from(names.is_empty()).min(gateways.len());
    gateways.truncate(rng.usize(least..=gateways.len()));
    names.extend(gateways);
    if names.is_empty() { Err(enough()) } else { Ok(names) }
}

/// One node that may get out of order: the leader every other time.
pub(super) async fn node(cluster: &Cluster, rng: &mut Rng) -> Result<String, NotNow> {
    if cluster.spare() == 0 {
        return Err(enough());
    }
    let free = cluster.free_members();
    let leader = if rng.bool() { cluster.leader().await } else { None };
    let leader = leader.filter(|name| free.contains(name));
    leader.or_else(|| rng.choice(free)).ok_or_else(enough)
}

/// All members, if none of them is out of order.
pub(super) fn all_members(cluster: &Cluster) -> Result<Vec<String>, NotNow> {
    let free = cluster.free_members();
    if free.len() == cluster.members().len() { Ok(free) } else { Err(enough()) }
}

/// Some processes, at least one, of those that are given.
pub(super) fn any(mut names: Vec<String>, rng: &mut Rng) -> Result<Vec<String>, NotNow> {
    if names.is_empty() {
        return Err(enough());
    }
    rng.shuffle(&mut names);
    names.truncate(rng.usize(1..=names.len()));
    Ok(names)
}

pub(super) fn enough() -> NotNow {
    NotNow::Skipped("those that it could hit are out of order already".to_owned())
}
