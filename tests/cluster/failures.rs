//! Processes die, freeze and come back. Nothing that was acknowledged is lost, and nothing is left behind.

use std::time::Duration;

use axum::http::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::harness::{Cluster, Load, Socket, eventually, within};

/// Longest time after the silence of a gateway until its entries are gone: the lease, half a second, and as much again for
/// a slow machine.
const CLEAN_UP: Duration = Duration::from_millis(3000 + 500 + 3500);

/// A process that is gone is noticed long before its lease is over.
const NOTICED: Duration = Duration::from_millis(2000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_under_load_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(3, 1).await;
    let mut client = cluster.connect("gw-1", "stays").await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let load = Load::start(&nodes, 4);
    for _ in 0..2 {
        load.more(200).await;
        let leader = cluster.leader().await;
        cluster.nodes.get_mut(&leader).unwrap().kill();
        load.more(200).await;
        cluster.nodes.get_mut(&leader).unwrap().restart().await;
        cluster.wait_ready().await;
    }
    let users = load.finish().await;
    cluster.assert_all_online(&users).await;

    // The gateway was not fenced by either fail-over, and its client has noticed nothing.
    let user = cluster.user(&cluster.gateway("gw-1").api(), "stays").await;
    assert_eq!(user["connections"][0]["id"], client.id);
    cluster.http.post(&nodes[0], "/v1/users/stays/push", json!({ "data": "still here" })).await;
    assert_eq!(client.expect_push().await, "still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_killed_and_come_back_with_everything_acknowledged() {
    all_nodes_are_killed("raft-log").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_are_killed_and_come_back_with_everything_acknowledged_with_sled() {
    all_nodes_are_killed("sled").await;
}

async fn all_nodes_are_killed(engine: &str) {
    let mut cluster = Cluster::start_with(3, 1, &["--log-engine", engine]).await;
    let mut client = cluster.connect("gw-1", "stays").await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let load = Load::start(&nodes, 4);
    load.more(400).await;
    cluster.nodes.values_mut().for_each(|node| node.kill());
    for node in cluster.nodes.values_mut() {
        node.restart().await;
    }
    cluster.wait_ready().await;
    load.more(100).await;
    cluster.assert_all_online(&load.finish().await).await;

    // The client kept its socket, whether or not the gateway's lease survived, and is reached again.
    let api = cluster.gateway("gw-1").api();
    eventually("the client is registered", async || {
        let answer = cluster.http.post(&api, "/v1/users/stays/push", json!({ "data": "still here" })).await;
        (answer.status == 200 && answer.body["outcome"] == "delivered").then_some(())
    })
    .await;
    loop {
        match client.next().await.expect("the socket stays open")["type"].as_str() {
            Some("push") => break,
            other => assert_eq!(other, Some("rebound")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_takes_its_entries_with_it_and_no_others() {
    let mut cluster = Cluster::start(3, 2).await;
    let mut lost = Vec::new();
    for n in 0..20 {
        lost.push(cluster.connect("gw-1", &format!("lost-{n}")).await);
    }
    let mut kept = cluster.connect("gw-2", "kept").await;
    let api = cluster.gateway("gw-2").api();
    cluster.gateways.get_mut("gw-1").unwrap().kill();
    let killed = Instant::now();

    // Until its end is in the log the truth is not known; before that it is never called offline.
    let answer = cluster.http.post(&api, "/v1/users/lost-0/push", json!({ "data": 1 })).await;
    if answer.status == 200 {
        assert_eq!(answer.body["results"][0]["status"], "unreachable", "{}", answer.body);
    } else {
        assert_eq!((answer.status, &answer.body["error"]["code"]), (404, &json!("offline")), "{}", answer.body);
    }

    for api in cluster.apis() {
        within(NOTICED.saturating_sub(killed.elapsed()), "the entries are gone", async || {
            (cluster.user(&api, "lost-0").await["online"] == false).then_some(())
        })
        .await;
        let stats = cluster.http.get(&api, "/v1/stats").await.body;
        assert_eq!(stats["connections"], 1, "all of them went together: {stats}");
    }
    cluster.http.post(&api, "/v1/users/kept/push", json!({ "data": 1 })).await;
    assert_eq!(kept.expect_push().await, 1);

    // It comes back under its name, and with clients.
    cluster.gateways.get_mut("gw-1").unwrap().restart().await;
    cluster.wait_ready().await;
    cluster.connect("gw-1", "lost-0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_restarted_at_once_replaces_its_former_self() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.connect("gw-1", "before").await;
    let gateway = cluster.gateways.get_mut("gw-1").unwrap();
    gateway.kill();
    gateway.restart().await;
    let restarted = Instant::now();
    cluster.wait_ready().await;
    cluster.connect("gw-1", "after").await;
    let node = cluster.node(1).api();
    assert_eq!(cluster.user(&node, "before").await["online"], false, "{:?}", restarted.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_gateway_loses_its_entries_and_registers_its_clients_again_when_it_thaws() {
    let cluster = Cluster::start(3, 2).await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(cluster.connect("gw-1", &format!("cold-{n}")).await);
    }
    let before = cluster.gateway("gw-1").api();
    let node = cluster.node(1).api();
    cluster.gateway("gw-1").freeze();
    within(CLEAN_UP, "the entries are gone", async || {
        (cluster.user(&node, "cold-0").await["online"] == false).then_some(())
    })
    .await;
    cluster.gateway("gw-1").thaw();

    for client in &mut clients {
        let rebound = client.frame("rebound").await;
        let id = rebound["connection"].as_str().unwrap();
        assert_ne!(id, client.id);
        assert_eq!(id, format!("c-{}-{}", rebound["epoch"], id.rsplit('-').next().unwrap()));
        client.id = id.to_owned();
    }
    let user = cluster.user(&node, "cold-0").await;
    assert_eq!(user["connections"][0]["id"], clients[0].id, "it is registered under the new session");
    assert_eq!(cluster.http.get(&before, "/v1/stats").await.body["connections"], 20);
    let answer = cluster.http.post(&node, "/v1/users/cold-19/push", json!({ "data": "warm" })).await;
    assert_eq!(answer.body["outcome"], "delivered", "{}", answer.body);
    assert_eq!(clients[19].expect_push().await, "warm");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_what_is_known_is_told_and_what_is_not_is_never_called_offline() {
    let mut cluster = Cluster::start(3, 2).await;
    let mut client = cluster.connect("gw-1", "here").await;
    let api = cluster.gateway("gw-2").api();
    cluster.user(&api, "here").await;
    let lost: Vec<u64> = cluster.nodes.keys().copied().take(2).collect();
    for id in &lost {
        cluster.nodes.get_mut(id).unwrap().kill();
    }

    // Cached reads and pushes to known owners go on; they say how old they are.
    let cached = cluster.http.get(&api, "/v1/users/here?consistency=cached").await;
    assert_eq!((cached.status, &cached.body["online"]), (200, &json!(true)));
    let age: u64 = cached.headers["x-staleness-ms"].to_str().unwrap().parse().unwrap();
    assert!(age < 60_000);
    let answer = cluster.http.post(&api, "/v1/users/here/push", json!({ "data": "known" })).await;
    assert_eq!(answer.body["outcome"], "delivered", "{}", answer.body);
    assert_eq!(client.expect_push().await, "known");

    // What needs a quorum is refused, and says so.
    let read = cluster.http.get(&api, "/v1/users/here").await;
    assert_eq!((read.status, &read.body["error"]["code"]), (503, &json!("unavailable")));
    let push = cluster.http.post(&api, "/v1/users/nobody/push", json!({ "data": 1 })).await;
    assert_eq!((push.status, &push.body["error"]["code"]), (503, &json!("unavailable")), "{}", push.body);
    let stale = eventually("the bound is exceeded", async || {
        let answer = cluster.http.get(&api, "/v1/users/here?consistency=cached&max_stale_ms=1000").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(stale.body["error"]["code"], "unavailable");
    eventually("new clients are refused before the upgrade", async || {
        match Socket::try_open(cluster.gateway("gw-2"), "/ws?user=new").await {
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), 503);
                answer.headers().contains_key("retry-after").then_some(())
            }
            // It knew of no trouble yet; then it says goodbye when it does.
            Ok(mut early) => {
                early.expect_close(4100).await;
                None
            }
            Err(_) => None,
        }
    })
    .await;

    // It comes back; nobody's socket was closed, and all is as it was.
    for id in lost {
        cluster.nodes.get_mut(&id).unwrap().restart().await;
    }
    cluster.wait_ready().await;
    eventually("the client is reached again", async || {
        let answer = cluster.http.post(&api, "/v1/users/here/push", json!({ "data": "back" })).await;
        (answer.status == 200 && answer.body["outcome"] == "delivered").then_some(())
    })
    .await;
    loop {
        let frame = client.next().await.expect("the socket stays open");
        if frame["type"] == "push" {
            break assert_eq!(frame["data"], "back");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_catches_up_by_log_and_by_snapshot() {
    let mut cluster = Cluster::found(3);
    for id in 1..=3 {
        cluster.start_node_with(id, &["--snapshot-every", "100"]).await;
    }
    cluster.wait_ready().await;
    let away = cluster.follower().await;
    let others: Vec<String> = cluster.nodes.iter().filter(|(id, _)| **id != away).map(|(_, node)| node.api()).collect();
    let mut all = Vec::new();
    // A few entries: by log. Many more than are kept behind a snapshot: by snapshot.
    for (round, registrations) in [(0, 20), (1, 4000)] {
        cluster.nodes.get_mut(&away).unwrap().kill();
        let load = Load::start_named(&others, 2, round);
        load.more(registrations).await;
        all.extend(load.finish().await);
        cluster.nodes.get_mut(&away).unwrap().restart().await;
        cluster.wait_ready().await;
        cluster.assert_all_online(&all).await;
    }
    eventually("the second time it was a snapshot", async || {
        let metrics = cluster.http.text(&cluster.node(away).api(), "/metrics").await;
        metrics.contains("switchboard_raft_snapshots_installed_total 1").then_some(())
    })
    .await;
    // What it did not see it does not pretend to show.
    let gone = cluster.http.get(&cluster.node(away).api(), "/v1/watch?from_revision=1").await;
    assert_eq!((gone.status, &gone.body["error"]["code"]), (410, &json!("compacted")), "{}", gone.body);
    assert!(gone.body["oldest_revision"].as_u64() > Some(1), "{}", gone.body);
    // What it caught up with is on its own disk.
    cluster.nodes.values_mut().for_each(|node| node.kill());
    for node in cluster.nodes.values_mut() {
        node.restart().await;
    }
    cluster.wait_ready().await;
    cluster.assert_all_online(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_under_one_gateway_id_do_not_fight() {
    let cluster = Cluster::start(1, 1).await;
    let node = cluster.node(1).api();
    let mut client = cluster.connect("gw-1", "there").await;
    let answer = cluster.http.post(&node, "/v1/sessions", json!({ "gateway": "gw-1" })).await;
    assert_eq!((answer.status, &answer.body["error"]["code"]), (409, &json!("conflict")));

    // Its session is taken from it: it closes its clients and ends, and says why.
    let gateways = cluster.http.get(&node, "/v1/gateways").await.body;
    let epoch = gateways["gateways"][0]["epoch"].as_u64().unwrap();
    cluster.gateway("gw-1").freeze();
    let path = format!("/v1/sessions/s-{epoch}");
    let ended = cluster.http.send(Method::DELETE, &node, &path, &[], None).await.unwrap();
    assert_eq!(ended.status, 204);
    assert_eq!(cluster.http.post(&node, "/v1/sessions", json!({ "gateway": "gw-1" })).await.status, 201);
    cluster.gateway("gw-1").thaw();
    client.expect_close(4203).await;
    let mut cluster = cluster;
    let gateway = cluster.gateways.get_mut("gw-1").unwrap();
    assert_eq!(gateway.ended().await, 1);
    assert!(gateway.log().contains("gw-1"), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_is_replaced_and_its_gateways_notice_nothing() {
    let cluster = Cluster::start(3, 1).await;
    let mut client = cluster.connect("gw-1", "calm").await;
    let frozen = cluster.leader().await;
    let others: Vec<String> =
        cluster.nodes.iter().filter(|(id, _)| **id != frozen).map(|(_, node)| node.api()).collect();
    let load = Load::start(&others, 2);
    load.more(100).await;
    cluster.node(frozen).freeze();
    load.more(200).await;
    // Past every lease that the frozen leader had in mind.
    let froze = Instant::now();
    eventually("a lease and more goes by", async || (froze.elapsed() > Duration::from_secs(4)).then_some(())).await;
    cluster.node(frozen).thaw();
    load.more(100).await;
    cluster.wait_ready().await;
    cluster.assert_all_online(&load.finish().await).await;

    let user = cluster.user(&cluster.node(frozen).api(), "calm").await;
    assert_eq!(user["connections"][0]["id"], client.id, "its session lived through it");
    let pushed = cluster.http.post(&others[0], "/v1/users/calm/push", json!({ "data": 1 })).await;
    assert_eq!(pushed.body["outcome"], "delivered", "{}", pushed.body);
    assert_eq!(client.expect_push().await, 1);
}

/// As an upgrade does it: every node stops and comes back, one after the other, while services register and a client stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_restarted_one_after_the_other_and_nobody_notices() {
    let mut cluster = Cluster::start(3, 2).await;
    let mut client = cluster.connect("gw-1", "calm").await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let load = Load::start(&nodes, 2);
    for id in 1..=3 {
        load.more(50).await;
        let node = cluster.nodes.get_mut(&id).unwrap();
        node.terminate();
        assert_eq!(node.ended().await, 0, "{}", node.log());
        load.more(50).await;
        cluster.nodes.get_mut(&id).unwrap().restart().await;
        cluster.wait_ready().await;
    }
    cluster.assert_all_online(&load.finish().await).await;
    for gateway in ["gw-1", "gw-2"] {
        let api = cluster.gateway(gateway).api();
        let fenced = cluster.metric(&api, "switchboard_gateway_self_fenced_total").await;
        assert_eq!(fenced, 0.0, "{gateway} kept its lease");
    }
    for api in &nodes {
        let expired = cluster.metric(api, "switchboard_session_expirations_total").await;
        assert_eq!(expired, 0.0, "no session was ended at {api}");
    }
    let user = cluster.user(&nodes[0], "calm").await;
    assert_eq!(user["connections"][0]["id"], client.id, "its session lived through it");
    cluster.http.post(&nodes[2], "/v1/users/calm/push", json!({ "data": 1 })).await;
    assert_eq!(client.expect_push().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_stays_out_and_says_so() {
    let mut cluster = Cluster::start(3, 0).await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let load = Load::start(&nodes, 1);
    load.more(20).await;
    let users = load.finish().await;
    let lost = cluster.follower().await;
    let node = cluster.nodes.get_mut(&lost).unwrap();
    node.kill();
    std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    cluster.nodes.get_mut(&lost).unwrap().restart().await;
    let api = cluster.node(lost).api();
    let told = eventually("it finds out", async || {
        let answer = cluster.http.try_get(&api, "/readyz").await?;
        let why = answer.body["error"]["message"].as_str()?.to_owned();
        (answer.status == 503 && why.contains("--join")).then_some(why)
    })
    .await;
    assert!(told.contains("new id"), "{told}");
    let lookup = cluster.http.get(&api, &format!("/v1/users/{}", users[0])).await;
    assert_eq!(lookup.status, 503, "it does not answer from an empty directory: {}", lookup.body);
    let lookup = cluster.http.get(&api, &format!("/v1/users/{}?consistency=cached", users[0])).await;
    assert_eq!(lookup.status, 503, "nor from one that was never confirmed: {}", lookup.body);

    // The others go on without it.
    cluster.nodes.get_mut(&lost).unwrap().kill();
    cluster.assert_all_online(&users).await;
}

/// Freezes every node for three leases, and thaws them: the judges were stalled, not the gateway that is awake afterwards. Another
/// one is not, and what it had is gone in time.
async fn stall_all_nodes(nodes: u64) {
    let cluster = Cluster::start(nodes, 2).await;
    let mut client = cluster.connect("gw-1", "calm").await;
    let _lost = cluster.connect("gw-2", "silent").await;
    cluster.nodes.values().chain(cluster.gateways.values()).for_each(|process| process.freeze());
    let froze = Instant::now();
    eventually("three leases go by", async || (froze.elapsed() > Duration::from_secs(9)).then_some(())).await;
    cluster.gateway("gw-1").thaw();
    cluster.nodes.values().for_each(|node| node.thaw());
    let thawed = Instant::now();
    let api = cluster.node(1).api();
    eventually("the silent gateway's user is gone", async || {
        let answer = cluster.http.try_get(&api, "/v1/users/silent").await?;
        (answer.status == 200 && answer.body["online"] == false).then_some(())
    })
    .await;
    assert!(thawed.elapsed() < CLEAN_UP, "it took {:?}", thawed.elapsed());
    let user = cluster.user(&api, "calm").await;
    assert_eq!(user["connections"][0]["id"], client.id, "its session lived through it");
    let pushed = cluster.http.post(&api, "/v1/users/calm/push", json!({ "data": 1 })).await;
    assert_eq!(pushed.body["outcome"], "delivered", "{}", pushed.body);
    assert_eq!(client.expect_push().await, 1);
    let (mut expired, nodes) = (0.0, cluster.nodes.values());
    for node in nodes {
        expired += cluster.metric(&node.api(), "switchboard_session_expirations_total").await;
    }
    assert_eq!(expired, 1.0, "the silent gateway's session alone was ended");
    cluster.gateway("gw-2").thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_that_was_stalled_ends_no_session() {
    stall_all_nodes(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_was_stalled_ends_no_session() {
    stall_all_nodes(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_gateway_holds_up_no_push_to_the_others() {
    let cluster = Cluster::start(1, 3).await;
    let _frozen = cluster.connect("gw-1", "wide").await;
    let mut awake = cluster.connect("gw-2", "wide").await;
    let api = cluster.gateway("gw-3").api();
    let revision = awake.greeting["revision"].clone();
    let push = async |n: u32| {
        let path = format!("/v1/users/wide/push?min_revision={revision}");
        cluster.http.post(&api, &path, json!({ "data": n, "timeout_ms": 200 })).await.body
    };
    assert_eq!(push(0).await["delivered"], 2);
    assert_eq!(awake.expect_push().await, 0);
    cluster.gateway("gw-1").freeze();
    for n in 1..=3 {
        let answer = push(n).await;
        assert_eq!((&answer["outcome"], &answer["delivered"]), (&json!("partial"), &json!(1)), "{answer}");
        // Of the first nothing is known; after it the link is given up, and no new one can be made.
        let expected = if n == 1 { "timeout" } else { "unreachable" };
        let told = answer["results"].as_array().unwrap().iter().any(|result| result["status"] == expected);
        assert!(told, "{expected} was to be told: {answer}");
        assert_eq!(awake.expect_push().await, n);
    }
    cluster.gateway("gw-1").thaw();
}
