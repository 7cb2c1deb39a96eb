//! Networks that fall apart. Clients reach every process all the time, unless a plug is pulled.

use std::collections::BTreeSet;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Fault, Need, NotNow, Start, choice};
use crate::cluster::{Cluster, Deaf, HarnessError};

const FAMILY: &str = "partition";

const fn fault(name: &'static str, about: &'static str, start: Start) -> Fault {
    Fault { name, about, colour: "#E9DCA0", family: FAMILY, needs: &[Need::Namespaces], start, stop }
}

/// Any of the others.
pub(super) const PARTITION: Fault =
    fault("partition", "any one of the partitions below, by chance", |cluster, rng| Box::pin(partition(cluster, rng)));

/// Two halves.
pub(super) const HALF: Fault = fault(
    "partition-half",
    "cuts a minority of the nodes off from the others; each gateway reaches one side",
    |cluster, rng| Box::pin(half(cluster, rng)),
);

/// Every node sees a majority, each another one.
pub(super) const RING: Fault = fault(
    "partition-ring",
    "every node reaches a majority, but no two the same; of three nodes two don't reach each other",
    |cluster, rng| Box::pin(ring(cluster, rng)),
);

/// One direction only.
pub(super) const ONE_WAY: Fault =
    fault("partition-one-way", "a node does not hear all others any more, or is not heard by them", |cluster, rng| {
        Box::pin(one_way(cluster, rng))
    });

/// Two halves and one who reaches both.
pub(super) const BRIDGE: Fault =
    fault("partition-bridge", "two halves that reach each other through one node only", |cluster, rng| {
        Box::pin(bridge(cluster, rng))
    });

/// The leader alone.
pub(super) const LEADER: Fault =
    fault("partition-leader", "cuts the leader off from all nodes and gateways", |cluster, rng| {
        Box::pin(leader(cluster, rng))
    });

/// Gateways without a directory.
pub(super) const GATEWAY_DIRECTORY: Fault =
    fault("partition-gateway", "cuts some gateways off from all directory nodes", |cluster, rng| {
        Box::pin(gateway_from_directory(cluster, rng))
    });

/// Gateways without each other.
pub(super) const GATEWAYS: Fault =
    fault("partition-gateways", "cuts all gateways off from each other", |cluster, _| Box::pin(gateways(cluster)));

/// A plug that is pulled.
pub(super) const LINK: Fault =
    fault("link-down", "takes the link of a node or gateway down; clients don't reach it either", |cluster, rng| {
        Box::pin(link(cluster, rng))
    });

fn stop(cluster: &mut Cluster) -> BoxFuture<'_, Result<(), HarnessError>> {
    Box::pin(async {
        cluster.network()?.cut(&Deaf::new())?;
        for name in cluster.claims.release(FAMILY) {
            cluster.network()?.plug(&name, true)?;
        }
        Ok(())
    })
}

async fn partition(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let kinds = [HALF, RING, ONE_WAY, BRIDGE, LEADER, GATEWAY_DIRECTORY, GATEWAYS, LINK];
    let kind = kinds[rng.usize(..kinds.len())];
    let what = (kind.start)(cluster, rng).await?;
    Ok(json!({ "kind": kind.name, "what": what }))
}

/// Nobody of these hears anybody of those.
fn deaf(these: &[String], those: &[String]) -> Deaf {
    let pairs = these.iter().flat_map(|a| those.iter().map(move |b| (a.clone(), b.clone())));
    pairs.filter(|(a, b)| a != b).collect()
}

/// Neither side hears the other.
fn apart(these: &[String], those: &[String]) -> Deaf {
    deaf(these, those).into_iter().chain(deaf(those, these)).collect()
}

fn names(places: &[crate::cluster::Place]) -> Vec<String> {
    places.iter().map(|place| place.name.clone()).collect()
}

/// Cuts, and tells of it; these are out of order then.
fn cut(cluster: &mut Cluster, deaf: &Deaf, out: &[String]) -> Result<(), HarnessError> {
    cluster.claims.take(FAMILY, out.iter().cloned());
    cluster.network()?.cut(deaf)
}

async fn half(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    if cluster.spare() == 0 {
        return Err(choice::enough());
    }
    let first = choice::node(cluster, rng).await?;
    let mut more = cluster.free_members();
    more.retain(|name| *name != first);
    rng.shuffle(&mut more);
    more.truncate(rng.usize(..cluster.spare()));
    let minority: Vec<String> = std::iter::once(first).chain(more).collect();
    let mut those = cluster.members();
    those.retain(|name| !minority.contains(name));
    let mut these = minority.clone();
    for gateway in names(&cluster.addresses().gateways) {
        if rng.bool() { these.push(gateway) } else { those.push(gateway) }
    }
    cut(cluster, &apart(&these, &those), &minority)?;
    Ok(json!([these, those]))
}

/// Who does not hear whom, of nodes that stand in a circle: each hears the neighbours that make up a majority with it.
fn circle(nodes: &[String]) -> Deaf {
    let count = nodes.len();
    let reach = (count / 2).div_ceil(2);
    let far = |a: usize, b: usize| {
        let apart = a.abs_diff(b);
        apart.min(count - apart) > reach
    };
    // Three are all neighbours.
    let first_two = |a: usize, b: usize| count == 3 && a + b == 1;
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
    let deaf = pairs.filter(|(a, b)| a != b && (far(*a, *b) || first_two(*a, *b)));
    deaf.map(|(a, b)| (nodes[a].clone(), nodes[b].clone())).collect()
}

async fn ring(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let mut nodes = choice::all_members(cluster)?;
    rng.shuffle(&mut nodes);
    // With another one out of order there may be no majority anywhere: all are taken.
    cut(cluster, &circle(&nodes), &nodes)?;
    Ok(json!({ "ring": nodes }))
}

async fn one_way(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let node = choice::node(cluster, rng).await?;
    let mut others = cluster.members();
    others.extend(names(&cluster.addresses().gateways));
    let one = [node.clone()];
    let (what, pairs) =
        if rng.bool() { ("does not hear", deaf(&one, &others)) } else { ("is not heard by", deaf(&others, &one)) };
    cut(cluster, &pairs, &one)?;
    others.retain(|name| *name != node);
    Ok(json!([node, what, others]))
}

async fn bridge(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let mut nodes = choice::all_members(cluster)?;
    rng.shuffle(&mut nodes);
    let all = nodes.clone();
    let Some(middle) = nodes.pop() else { return Err(choice::enough()) };
    let (these, those) = nodes.split_at(nodes.len() / 2);
    cut(cluster, &apart(these, those), &all)?;
    Ok(json!({ "bridge": middle, "sides": [these, those] }))
}

async fn leader(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let leader = cluster.leader().await.filter(|name| !cluster.claims.holds(name) && cluster.spare() > 0);
    let leader = leader.ok_or_else(|| NotNow::Skipped("there is no leader that could be cut off".to_owned()))?;
    let mut others = cluster.members();
    // Sometimes the gateways still reach it, and don't learn from their own network that it leads no more.
    let gateways = rng.bool();
    if gateways {
        others.extend(names(&cluster.addresses().gateways));
    }
    let one = [leader.clone()];
    cut(cluster, &apart(&one, &others), &one)?;
    Ok(json!({ "leader": leader, "from_gateways": gateways }))
}

async fn gateway_from_directory(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let gateways = choice::any(cluster.free_gateways(), rng)?;
    let nodes: Vec<String> = cluster.members();
    cut(cluster, &apart(&gateways, &nodes), &gateways)?;
    Ok(json!(gateways))
}

async fn gateways(cluster: &mut Cluster) -> Result<Value, NotNow> {
    let gateways = names(&cluster.addresses().gateways);
    if gateways.len() < 2 {
        return Err(NotNow::Skipped("there are fewer than two gateways".to_owned()));
    }
    cut(cluster, &deaf(&gateways, &gateways), &[])?;
    Ok(json!(gateways))
}

async fn link(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let node = if rng.bool() { choice::node(cluster, rng).await.ok() } else { None };
    let name = node.or_else(|| rng.choice(cluster.free_gateways())).ok_or_else(choice::enough)?;
    cluster.claims.take(FAMILY, BTreeSet::from([name.clone()]));
    cluster.network()?.plug(&name, false)?;
    Ok(json!(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_ring_every_node_hears_a_majority_and_no_two_the_same() {
        for count in [3_usize, 5, 7, 9] {
            let nodes: Vec<String> = (1..=count).map(|id| format!("node-{id}")).collect();
            let deaf = circle(&nodes);
            let heard: Vec<BTreeSet<&String>> = nodes
                .iter()
                .map(|node| nodes.iter().filter(|other| !deaf.contains(&(node.clone(), (*other).clone()))).collect())
                .collect();
            assert!(heard.iter().all(|heard| heard.len() > count / 2), "{count}: {heard:?}");
            assert!(deaf.iter().all(|(a, b)| deaf.contains(&(b.clone(), a.clone()))), "both ways");
            assert!(!deaf.is_empty(), "{count}");
            if count > 3 {
                assert_eq!(heard.iter().collect::<BTreeSet<_>>().len(), count, "{count}: {heard:?}");
            }
        }
    }

    #[test]
    fn sides_that_are_apart_hear_themselves() {
        let (these, those) = (["a".to_owned(), "b".to_owned()], ["c".to_owned()]);
        assert_eq!(apart(&these, &those).len(), 4);
        assert_eq!(deaf(&these, &these).len(), 2, "everybody hears itself");
    }
}
