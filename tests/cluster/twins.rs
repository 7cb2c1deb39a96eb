//! Two processes under one gateway id: one of them wins, the other ends and says why, and they do not take turns.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Cluster, Socket, eventually, within};

/// Longest time for a process to give up a name that another one holds: it asks for a lease and 9 s, and as much again.
const GIVES_UP: Duration = Duration::from_secs(24);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_start_at_once_under_one_id_one_ends_and_says_why() {
    let mut cluster = Cluster::start(3, 0).await;
    let places = ["gw-1", "gw-2"];
    cluster.start_twins(places, "same").await;
    let winner = eventually("one of them is ready", async || {
        for place in places {
            let answer = cluster.http.try_get(&cluster.gateway(place).api(), "/readyz").await;
            if answer.is_some_and(|answer| answer.status == 200) {
                return Some(place);
            }
        }
        None
    })
    .await;
    let mut client = cluster.connect(winner, "calm").await;
    let loser = places.into_iter().find(|place| *place != winner).unwrap();
    let process = cluster.gateways.get_mut(loser).unwrap();
    within(GIVES_UP, "the other one ends", async || (!process.still_runs()).then_some(())).await;
    assert_eq!(process.ended().await, 1);
    let log = process.log();
    assert!(log.contains("\"same\"") && log.contains("already runs") && log.contains("--id"), "{log}");
    unmoved(&mut cluster, winner, &mut client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_one_that_lost_its_id_gives_way_and_does_not_come_back() {
    let mut cluster = Cluster::start(3, 0).await;
    cluster.start_twin("gw-1", "same").await;
    cluster.wait_ready().await;
    let mut first = cluster.connect("gw-1", "first").await;
    cluster.gateway("gw-1").freeze();
    cluster.start_twin("gw-2", "same").await;
    let api = cluster.gateway("gw-2").api();
    eventually("the other one has the name", async || {
        (cluster.http.try_get(&api, "/readyz").await?.status == 200).then_some(())
    })
    .await;
    let mut client = cluster.connect("gw-2", "calm").await;

    let frozen = cluster.gateways.get_mut("gw-1").unwrap();
    frozen.thaw();
    first.expect_close(4203).await;
    assert_eq!(frozen.ended().await, 1);
    assert!(frozen.log().contains("this one gives way to it"), "{}", frozen.log());
    frozen.restart().await;
    within(GIVES_UP, "it ends again", async || (!frozen.still_runs()).then_some(())).await;
    assert_eq!(frozen.ended().await, 1);
    assert!(frozen.log().contains("already runs under the gateway id"), "{}", frozen.log());
    unmoved(&mut cluster, "gw-2", &mut client).await;
}

/// The one that won has the session that it had, and its client has noticed nothing.
async fn unmoved(cluster: &mut Cluster, winner: &str, client: &mut Socket) {
    let node = cluster.node(1).api();
    assert!(cluster.gateways.get_mut(winner).unwrap().still_runs());
    let gateways = cluster.http.get(&node, "/v1/gateways").await.body;
    let epochs: Vec<_> = gateways["gateways"].as_array().unwrap().iter().map(|gateway| &gateway["epoch"]).collect();
    assert_eq!(epochs, [&client.greeting["epoch"]], "{gateways}");
    cluster.http.post(&node, "/v1/users/calm/push", json!({ "data": "still here" })).await;
    assert_eq!(client.expect_push().await, "still here");
}
