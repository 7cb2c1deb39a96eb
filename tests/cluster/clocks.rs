//! Wall clocks are data for people: a node on which one jumps goes on as before.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::time::Instant;

use crate::harness::{Cluster, eventually};
use crate::soak::upheavals;

/// Long enough for every lease to be renewed, or lost, twice over.
const TWO_LEASES: Duration = Duration::from_secs(6);

const HOUR: u64 = 3600;

/// The wall clock that the leader stamped the latest event of a user with, seconds since 1970.
async fn stamped(cluster: &Cluster, user: &str) -> u64 {
    let api = cluster.node(cluster.leader().await).api();
    let history = cluster.http.get(&api, &format!("/v1/users/{user}/history")).await.body;
    let at = history["events"].as_array().and_then(|events| events.last()).unwrap()["at"].as_str().unwrap().to_owned();
    u64::try_from(at.parse::<jiff::Timestamp>().unwrap().as_second()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_an_hour_ends_no_session_and_elects_nobody() {
    let mut cluster = Cluster::on_failing_disks(3);
    cluster.start_all(&[], 2).await;
    let mut clients = Vec::new();
    for gateway in ["gw-1", "gw-2"] {
        clients.push(cluster.connect(gateway, &format!("early-{gateway}")).await);
    }
    let before = eventually("the nodes tell of their leader", async || {
        let now = upheavals(&cluster).await;
        (now["leader changes"] == 3.0).then_some(now)
    })
    .await;
    let leader = cluster.leader().await;
    // The leader jumps one way and the others the other way; in the end all of them are right again.
    let jumps = [("clock 3600", "clock -3600"), ("clock -3600", "clock 3600"), ("", "")];
    for (nth, (of_leader, of_others)) in jumps.into_iter().enumerate() {
        for id in cluster.nodes.keys() {
            cluster.disk(*id).obey(if *id == leader { of_leader } else { of_others });
        }
        let began = Instant::now();
        eventually("two leases go by", async || (began.elapsed() > TWO_LEASES).then_some(())).await;
        let user = format!("late-{nth}");
        clients.push(cluster.connect("gw-1", &user).await);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (early, late) = (now - HOUR / 2, now + HOUR / 2);
        let at = stamped(&cluster, &user).await;
        match nth {
            0 => assert!(at > late, "the leader's clock is ahead: {at}, now {now}"),
            1 => assert!(at < early, "the leader's clock is behind: {at}, now {now}"),
            _ => assert!((early..late).contains(&at), "the leader's clock is right: {at}, now {now}"),
        }
    }
    assert_eq!(before, upheavals(&cluster).await, "an election, or a session that ended or was fenced");
    let api = cluster.gateway("gw-2").api();
    cluster.http.post(&api, "/v1/users/early-gw-1/push", json!({ "data": "still here" })).await;
    assert_eq!(clients[0].expect_push().await, json!("still here"));
}
