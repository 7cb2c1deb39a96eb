//! One connection for a user or a device in the whole cluster: who has it, who waits, who has to go, and who finds out late.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Cluster, Http, Socket, eventually, in_time, pause};

/// Two gateways with these flags, and so many nodes.
async fn exclusive(nodes: u64, flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::found(nodes);
    for id in 1..=nodes {
        cluster.start_node(id).await;
    }
    for gateway in ["gw-1", "gw-2"] {
        cluster.start_gateway_with(gateway, flags).await;
    }
    cluster.wait_ready().await;
    cluster
}

async fn arrive(cluster: &Cluster, gateway: &str, user: &str) -> Socket {
    Socket::open(cluster.gateway(gateway), &format!("/ws?user={user}&device=web")).await
}

/// The one connection that everybody sees, once all processes do.
async fn owner(cluster: &Cluster, user: &str) -> String {
    eventually("everybody sees one owner", async || {
        let mut seen = Vec::new();
        for api in cluster.apis() {
            let found = cluster.user(&api, user).await;
            let connections = found["connections"].as_array().unwrap().clone();
            assert!(connections.len() <= 1, "{user} has more than one owner at {api}: {found}");
            seen.push(connections.first()?["id"].as_str().unwrap().to_owned());
        }
        seen.dedup();
        (seen.len() == 1).then(|| seen.remove(0))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_moves_from_gateway_to_gateway_and_never_has_two() {
    let cluster = exclusive(3, &["--policy", "newest_wins"]).await;
    let node = cluster.node(1).api();
    let mut here = cluster.connect("gw-1", "alice").await;
    let from = here.greeting["revision"].clone();
    let done = AtomicBool::new(false);
    let moves = async {
        for n in 0..12 {
            let mut there = arrive(&cluster, if n % 2 == 0 { "gw-2" } else { "gw-1" }, "alice").await;
            let goodbye = here.expect_close(4004).await;
            assert_eq!((&goodbye["reason"], &goodbye["reconnect"]), (&json!("superseded"), &json!(false)));
            let welcome = there.welcome().await;
            assert!(welcome["granted"].as_u64() > here.greeting["granted"].as_u64(), "{welcome}");
            here = there;
        }
        done.store(true, Ordering::Relaxed);
        here
    };
    let looks = async {
        let mut granted = 0;
        while !done.load(Ordering::Relaxed) {
            for api in cluster.apis() {
                let found = cluster.user(&api, "alice").await;
                let connections = found["connections"].as_array().unwrap();
                assert_eq!((connections.len(), &found["online"]), (1, &json!(true)), "{found}");
                let seen = connections[0]["granted"].as_u64().unwrap();
                assert!(seen >= granted, "a later answer shows an earlier owner: {found}");
                granted = seen;
            }
            pause().await;
        }
    };
    let (mut last, ()) = tokio::join!(moves, looks);
    assert_eq!(owner(&cluster, "alice").await, last.id);
    cluster.http.post(&node, "/v1/users/alice/push", json!({ "data": "to the last" })).await;
    assert_eq!(last.expect_push().await, "to the last");

    // In the log each move is one moment: the old one closes, the new one opens, nobody is offline in between.
    let mut lines = cluster.http.lines(&node, &format!("/v1/watch?from_revision={from}&user=alice")).await;
    for _ in 0..12 {
        let mut event = async || loop {
            let line = in_time("an event", lines.line()).await.unwrap().unwrap();
            let event: Value = serde_json::from_slice(&line).unwrap();
            if event["type"] != "progress" {
                return event;
            }
        };
        let (closed, opened) = (event().await, event().await);
        assert_eq!((&closed["type"], &closed["reason"]), (&json!("connection.closed"), &json!("superseded")));
        assert_eq!((&opened["type"], &opened["revision"]), (&json!("connection.opened"), &closed["revision"]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_immediate_handover_nobody_waits_for_a_gateway_that_stands_still() {
    let cluster = exclusive(1, &["--policy", "newest_wins", "--handover", "immediate"]).await;
    let mut old = cluster.connect("gw-1", "alice").await;
    let mut new = cluster.connect("gw-2", "alice").await;
    old.expect_close(4004).await;
    cluster.gateway("gw-2").freeze();
    let newest = cluster.connect("gw-1", "alice").await;
    assert_eq!(cluster.user(&cluster.node(1).api(), "alice").await["connections"][0]["id"], newest.id);
    cluster.gateway("gw-2").thaw();
    new.expect_close(4004).await;
    assert_eq!(owner(&cluster, "alice").await, newest.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_oldest_wins_a_newcomer_is_refused_until_it_has_left() {
    let cluster = exclusive(1, &["--policy", "oldest_wins"]).await;
    let mut first = cluster.connect("gw-1", "alice").await;
    for gateway in ["gw-1", "gw-2"] {
        let goodbye = arrive(&cluster, gateway, "alice").await.expect_close(4004).await;
        assert_eq!(goodbye["reconnect"], false);
        let text = goodbye.to_string();
        assert!(!text.contains(&first.id) && !text.contains("alice") && !text.contains("gw-"), "{text}");
    }
    cluster.http.post(&cluster.node(1).api(), "/v1/users/alice/push", json!({ "data": 1 })).await;
    assert_eq!(first.expect_push().await, 1);
    first.close().await;
    eventually("there is room", async || {
        arrive(&cluster, "gw-2", "alice").await.next().await.is_ok_and(|frame| frame["type"] == "welcome").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_device_of_a_user_has_a_place_of_its_own() {
    let cluster = exclusive(1, &["--policy", "newest_wins", "--per", "device"]).await;
    let mut web = cluster.connect("gw-1", "alice").await;
    let mut tv = Socket::open(cluster.gateway("gw-2"), "/ws?user=alice&device=tv").await;
    tv.welcome().await;
    let mut newer = cluster.connect("gw-2", "alice").await;
    web.expect_close(4004).await;
    let path = format!("/v1/users/alice/push?min_revision={}", newer.greeting["revision"]);
    let pushed = cluster.http.post(&cluster.gateway("gw-1").api(), &path, json!({ "data": 1 })).await.body;
    assert_eq!(pushed["delivered"], 2, "{pushed}");
    assert_eq!((tv.expect_push().await, newer.expect_push().await), (json!(1), json!(1)));
}

/// Two gateways are asked for each name at the same moment. The sockets by name, each with whether it was welcomed, and the code that
/// it was closed with.
async fn claim(cluster: &Cluster, names: usize) -> Vec<[(Socket, bool, Option<u16>); 2]> {
    let mut claims = JoinSet::new();
    let places = ["gw-1", "gw-2"].map(|gateway| cluster.gateway(gateway).address("clients").to_owned());
    for name in 0..names {
        let places = places.clone();
        claims.spawn(async move {
            let path = format!("/ws?user=name-{name}");
            let one = async |place: &String| {
                let mut socket = Socket::try_open_at(place, &path).await.unwrap();
                let first = socket.next().await.unwrap();
                let welcomed = first["type"] == "welcome";
                if welcomed {
                    socket.id = first["connection"].as_str().unwrap().to_owned();
                }
                let closed = if welcomed { None } else { Some(socket.expect_close_frame().await) };
                (socket, welcomed, closed)
            };
            let (a, b) = tokio::join!(one(&places[0]), one(&places[1]));
            (name, [a, b])
        });
    }
    let mut all = claims.join_all().await;
    all.sort_by_key(|(name, _)| *name);
    all.into_iter().map(|(_, pair)| pair).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_names_that_two_gateways_claim_at_once_have_one_owner_each() {
    let cluster = exclusive(3, &["--policy", "oldest_wins"]).await;
    let claims = claim(&cluster, 1000).await;
    let mut both = 0;
    for (name, pair) in claims.iter().enumerate() {
        let [a, b] = pair.each_ref().map(|(_, welcomed, closed)| (*welcomed, *closed));
        assert!(a.0 != b.0, "name-{name}: {a:?} and {b:?}");
        let (winner, loser) = if a.0 { (&pair[0], b) } else { (&pair[1], a) };
        assert_eq!(loser.1, Some(4004), "the other is told");
        both += usize::from(!a.0);
        if name % 50 == 0 {
            assert_eq!(owner(&cluster, &format!("name-{name}")).await, winner.0.id);
        }
    }
    assert!(both > 0 && both < 1000, "both gateways won some: {both}");
    let stats = cluster.http.get(&cluster.node(1).api(), "/v1/stats").await.body;
    assert_eq!(stats["connections"], 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_claimed_at_once_go_to_the_newest_and_the_other_is_told() {
    let cluster = exclusive(3, &["--policy", "newest_wins"]).await;
    for (name, mut pair) in claim(&cluster, 200).await.into_iter().enumerate() {
        let owner = owner(&cluster, &format!("name-{name}")).await;
        let position = pair.iter().position(|(socket, ..)| socket.id == owner).expect("one of the two is the owner");
        let (other, welcomed, closed) = &mut pair[1 - position];
        if *welcomed {
            other.expect_close(4004).await;
        } else {
            assert_eq!(*closed, Some(4004), "outbid while it waited");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_was_frozen_while_others_took_over_serves_them_no_more() {
    let cluster = exclusive(3, &["--policy", "newest_wins"]).await;
    let api = cluster.gateway("gw-2").api();
    let mut stays = cluster.connect("gw-1", "stays").await;
    let mut old = Vec::new();
    let mut waiting_for_acks = JoinSet::new();
    for n in 0..10 {
        let mut socket = cluster.connect("gw-1", &format!("u-{n}")).await;
        let path = format!("/v1/users/u-{n}/push?min_revision={}", socket.greeting["revision"]);
        let body = json!({ "data": "before", "ack": "client", "timeout_ms": 9000 });
        let api = api.clone();
        waiting_for_acks.spawn(async move { Http::default().post(&api, &path, body).await.body });
        assert_eq!(socket.expect_push().await, "before");
        old.push(socket);
    }
    cluster.gateway("gw-1").freeze();
    // What its clients send now, and what is pushed to them, waits in the kernel.
    let mut queued = JoinSet::new();
    for (n, socket) in old.iter_mut().enumerate() {
        socket.ack(1).await;
        socket.send(json!({ "type": "dance", "id": 1 })).await;
        for path in [format!("/v1/connections/{}/push", socket.id), format!("/v1/users/u-{n}/push")] {
            let (api, body) = (api.clone(), json!({ "data": "queued", "timeout_ms": 400 }));
            queued.spawn(async move { Http::default().post(&api, &path, body).await.body });
        }
    }
    for answer in queued.join_all().await {
        assert_ne!(answer["outcome"], "delivered", "{answer}");
    }
    // Some take over while its lease runs, so that it is asked to release them, and wait; some when it is over.
    let mut new = Vec::new();
    for n in 0..5 {
        new.push(arrive(&cluster, "gw-2", &format!("u-{n}")).await);
    }
    for socket in &mut new {
        socket.welcome().await;
    }
    for n in 5..10 {
        new.push(cluster.connect("gw-2", &format!("u-{n}")).await);
    }
    cluster.gateway("gw-1").thaw();
    for (n, (old, new)) in old.iter_mut().zip(&mut new).enumerate() {
        // The first thing that it hears is the goodbye, and the last.
        let goodbye = old.expect_close(4004).await;
        assert_eq!(goodbye["reconnect"], false);
        assert_eq!(owner(&cluster, &format!("u-{n}")).await, new.id);
        cluster.http.post(&api, &format!("/v1/users/u-{n}/push"), json!({ "data": "after" })).await;
        assert_eq!(new.expect_push().await, "after");
    }
    for answer in waiting_for_acks.join_all().await {
        assert!(!answer.to_string().contains("acked"), "{answer}");
    }
    let fenced = cluster.metric(&cluster.gateway("gw-1").api(), "switchboard_gateway_self_fenced_total").await;
    assert!(fenced >= 1.0, "{fenced}");

    // Whose place nobody took has it again.
    let rebound = stays.frame("rebound").await;
    assert_eq!(owner(&cluster, "stays").await, rebound["connection"]);
    cluster.http.post(&api, "/v1/users/stays/push", json!({ "data": "warm" })).await;
    assert_eq!(stays.expect_push().await, "warm");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_outlives_the_leader_that_began_it() {
    let mut cluster = exclusive(3, &["--policy", "newest_wins"]).await;
    let mut old = Vec::new();
    for n in 0..20 {
        old.push(cluster.connect("gw-1", &format!("u-{n}")).await);
    }
    let leader = cluster.leader().await;
    // The old gateway can't answer yet, so that the take-overs are under way when the leader dies.
    cluster.gateway("gw-1").freeze();
    let mut new = Vec::new();
    for n in 0..20 {
        new.push(arrive(&cluster, "gw-2", &format!("u-{n}")).await);
    }
    waiting(&cluster, "gw-2", 20.0).await;
    cluster.nodes.get_mut(&leader).unwrap().kill();
    cluster.gateway("gw-1").thaw();
    for (n, (old, new)) in old.iter_mut().zip(&mut new).enumerate() {
        new.welcome().await;
        old.expect_close(4004).await;
        if n % 5 == 0 {
            assert_eq!(owner(&cluster, &format!("u-{n}")).await, new.id);
        }
    }
}

/// Waits until so many clients of a gateway wait for their places.
async fn waiting(cluster: &Cluster, gateway: &str, count: f64) {
    let api = cluster.gateway(gateway).api();
    eventually("they wait", async || {
        (cluster.metric(&api, "switchboard_gateway_pending_connections").await == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_outbid_while_it_waits_is_told_and_the_newest_gets_the_place() {
    let cluster = exclusive(1, &["--policy", "newest_wins"]).await;
    let mut there = cluster.connect("gw-1", "alice").await;
    cluster.gateway("gw-1").freeze();
    let mut waits = arrive(&cluster, "gw-2", "alice").await;
    waiting(&cluster, "gw-2", 1.0).await;
    let mut newest = arrive(&cluster, "gw-2", "alice").await;
    waits.expect_close(4004).await;
    cluster.gateway("gw-1").thaw();
    there.expect_close(4004).await;
    newest.welcome().await;
    assert_eq!(owner(&cluster, "alice").await, newest.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_that_wait_for_each_other_both_get_what_they_wait_for() {
    let cluster = exclusive(1, &["--policy", "newest_wins"]).await;
    let mut alice = cluster.connect("gw-1", "alice").await;
    let mut bob = cluster.connect("gw-2", "bob").await;
    cluster.gateway("gw-1").freeze();
    let mut new_alice = arrive(&cluster, "gw-2", "alice").await;
    waiting(&cluster, "gw-2", 1.0).await;
    cluster.gateway("gw-2").freeze();
    cluster.gateway("gw-1").thaw();
    let mut new_bob = arrive(&cluster, "gw-1", "bob").await;
    alice.expect_close(4004).await;
    cluster.gateway("gw-2").thaw();
    bob.expect_close(4004).await;
    for (user, new) in [("alice", &mut new_alice), ("bob", &mut new_bob)] {
        new.welcome().await;
        assert_eq!(owner(&cluster, user).await, new.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_drained_is_welcomed_elsewhere_at_once() {
    let mut cluster = exclusive(1, &["--policy", "newest_wins"]).await;
    let mut old = cluster.connect("gw-1", "alice").await;
    cluster.gateways.get_mut("gw-1").unwrap().terminate();
    old.expect_close(4200).await;
    let mut new = arrive(&cluster, "gw-2", "alice").await;
    tokio::time::timeout(Duration::from_millis(2500), new.welcome()).await.expect("nothing is left to wait for");
    drop(old);
    assert_eq!(cluster.gateways.get_mut("gw-1").unwrap().ended().await, 0);
    assert_eq!(cluster.user(&cluster.node(1).api(), "alice").await["connections"][0]["id"], new.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_exclusive_connections_rest_and_shared_ones_go_on() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.start_gateway_with("gw-2", &["--policy", "newest_wins"]).await;
    cluster.wait_ready().await;
    let mut shared = cluster.connect("gw-1", "shared").await;
    let mut exclusive = cluster.connect("gw-2", "exclusive").await;
    let api = cluster.gateway("gw-1").api();
    let push = async |user: &str, data: &str| {
        let body = json!({ "data": data, "timeout_ms": 1000 });
        cluster.http.post(&api, &format!("/v1/users/{user}/push"), body).await
    };
    for user in ["shared", "exclusive"] {
        eventually("it is known", async || (push(user, "known").await.status == 200).then_some(())).await;
    }
    let frozen = [cluster.leader().await, cluster.follower().await];
    frozen.iter().for_each(|id| cluster.node(*id).freeze());

    let mut asked = 0;
    let (answer, rests) = eventually("the gateway is fenced", async || {
        asked += 1;
        let data = format!("push {asked}");
        let answer = push("exclusive", &data).await;
        (answer.body["results"][0]["status"] == "fenced").then_some((answer, data))
    })
    .await;
    assert_eq!((answer.status, &answer.body["outcome"]), (200, &json!("failed")), "{}", answer.body);
    let answer = push("shared", "goes on").await;
    assert_eq!(answer.body["outcome"], "delivered", "{}", answer.body);
    let cached = cluster.http.get(&api, "/v1/users/exclusive?consistency=cached").await;
    assert_eq!((cached.status, &cached.body["online"]), (200, &json!(true)));
    let age: u64 = cached.headers["x-staleness-ms"].to_str().unwrap().parse().unwrap();
    assert!(age > 500, "it says how stale it is: {age} ms");
    for gateway in ["gw-1", "gw-2"] {
        match Socket::try_open(cluster.gateway(gateway), "/ws?user=new").await {
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), 503);
                assert!(answer.headers().contains_key("retry-after"));
            }
            other => panic!("let in without a quorum: {:?}", other.map(|_| ())),
        }
    }

    frozen.iter().for_each(|id| cluster.node(*id).thaw());
    cluster.wait_ready().await;
    // Both sockets are as they were.
    for (user, socket) in [("shared", &mut shared), ("exclusive", &mut exclusive)] {
        eventually("it is reached", async || (push(user, "back").await.body["outcome"] == "delivered").then_some(()))
            .await;
        loop {
            let frame = socket.next().await.expect("no socket closes");
            match (frame["type"].as_str().unwrap(), frame["data"].as_str().unwrap_or_default()) {
                ("push", "back") => break,
                ("push", data) => assert_ne!(data, rests, "it was answered as fenced"),
                (other, _) => assert_eq!(other, "rebound"),
            }
        }
    }
}
