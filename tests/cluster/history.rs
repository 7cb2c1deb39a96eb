//! Where users were: histories, last_seen, and what is left of them after restarts.

use serde_json::{Value, json};

use crate::harness::{Cluster, eventually};

/// Revision, number, type, gateway and reason of every change.
fn told(history: &Value) -> Vec<(u64, u64, String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let events = history["events"].as_array().unwrap().iter();
    events
        .map(|e| {
            let mark = (e["revision"].as_u64().unwrap(), e["n"].as_u64().unwrap());
            (mark.0, mark.1, text(&e["type"]), text(&e["gateway"]), text(&e["reason"]))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_tells_where_a_user_was_and_when_it_was_last_seen() {
    let mut cluster = Cluster::start(3, 2).await;
    let ida = cluster.connect("gw-1", "ida").await;
    let other = cluster.connect("gw-2", "ida").await;
    ida.close().await;
    let api = cluster.gateway("gw-1").api();
    eventually("one of two is gone", async || {
        let user = cluster.user(&api, "ida").await;
        (user["connections"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    assert_eq!(cluster.user(&api, "ida").await["last_seen"], Value::Null, "she is here");
    cluster.gateways.get_mut("gw-2").unwrap().kill();
    let gone = eventually("the session of the killed gateway ends", async || {
        let user = cluster.user(&api, "ida").await;
        (user["online"] == false).then_some(user)
    })
    .await;
    assert!(gone["last_seen"].is_string(), "{gone}");

    let mut histories = Vec::new();
    for api in cluster.apis() {
        let user = cluster.user(&api, "ida").await;
        assert_eq!(user["last_seen"], gone["last_seen"], "{api}");
        let users = cluster.http.post(&api, "/v1/users:lookup", json!({ "users": ["ida", "nobody"] })).await.body;
        assert_eq!(users["users"]["ida"]["last_seen"], gone["last_seen"], "{api}");
        assert_eq!(users["users"]["nobody"]["last_seen"], Value::Null);
        let history = cluster.http.get(&api, "/v1/users/ida/history").await;
        assert_eq!((history.status, &history.body["oldest_revision"]), (200, &json!(0)), "{}", history.body);
        histories.push(history.body);
    }
    assert!(histories.windows(2).all(|pair| pair[0] == pair[1]), "{histories:?}");
    let told = told(&histories[0]);
    assert!(told.is_sorted());
    let what: Vec<_> = told.iter().map(|(_, _, kind, gateway, _)| format!("{kind} {gateway}")).collect();
    let expected = [
        "connection.opened gw-1",
        "user.online -",
        "connection.opened gw-2",
        "connection.closed gw-1",
        "connection.closed gw-2",
        "user.offline -",
    ];
    assert_eq!(what, expected);
    assert_eq!(told[3].4, "closed");
    assert!(["expired", "died"].contains(&told[4].4.as_str()), "{}", told[4].4);
    assert_eq!(histories[0]["events"][4]["connection"], other.id);
    assert_eq!(histories[0]["events"][5]["at"], gone["last_seen"]);

    let done = cluster.verb(&["history", "ida", "--api", &api]).await;
    assert!(done.code == 0 && done.out.contains(&other.id) && done.out.contains("user.offline"), "{done:?}");
    assert!(done.out.contains(&format!("{}.{}", told[4].0, told[4].1)), "{done:?}");
    let done = cluster.verb(&["history", "ida", "-o", "json", "--api", &api]).await;
    assert_eq!(done.json(), histories[0]);
    assert_eq!(cluster.verb(&["history", "nobody", "--api", &api]).await.code, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_all_nodes_a_history_begins_where_the_snapshot_ended() {
    let mut cluster = Cluster::start(3, 1).await;
    let api = cluster.gateway("gw-1").api();
    let comes_and_goes = async |cluster: &Cluster, user: &str| {
        cluster.connect("gw-1", user).await.close().await;
        eventually("the user is gone", async || cluster.user(&api, user).await["last_seen"].is_string().then_some(()))
            .await;
    };
    comes_and_goes(&cluster, "ida").await;
    let before = cluster.http.get(&api, "/v1/users/ida/history").await.body;
    let last = told(&before).last().unwrap().0;
    for node in cluster.nodes.values() {
        assert_eq!(cluster.http.post(&node.api(), "/v1/cluster/snapshot", json!({})).await.status, 200);
    }
    comes_and_goes(&cluster, "joe").await;
    for id in 1..=3 {
        cluster.nodes.get_mut(&id).unwrap().kill();
    }
    for id in 1..=3 {
        cluster.nodes.get_mut(&id).unwrap().restart().await;
    }
    cluster.wait_ready().await;
    for api in cluster.apis() {
        let history = cluster.http.get(&api, "/v1/users/ida/history").await.body;
        assert_eq!(history["events"], json!([]), "{api}");
        assert!(history["oldest_revision"].as_u64().unwrap() >= last, "{history}");
        assert_eq!(cluster.user(&api, "ida").await["last_seen"], Value::Null);
        let history = cluster.http.get(&api, "/v1/users/joe/history").await.body;
        assert_eq!(history["events"].as_array().unwrap().len(), 4, "{api}: {history}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_longer_retained_is_told_with_where_to_begin() {
    let cluster = Cluster::start_with(1, 1, &["--retain-events", "1000"]).await;
    let (node, gateway) = (cluster.node(1).api(), cluster.gateway("gw-1").api());
    let opened = cluster.http.post(&node, "/v1/sessions", json!({ "gateway": "gw-9", "lease_ms": 60_000 })).await.body;
    let path = format!("/v1/sessions/{}/batch", opened["session"].as_str().unwrap());
    for batch in 1..=13 {
        let register =
            |n: u64| json!({ "op": "register", "serial": 100 * batch + n, "user": format!("u-{batch}-{n}") });
        let ops: Vec<Value> = (0..100).map(register).collect();
        assert_eq!(cluster.http.post(&node, &path, json!({ "seq": batch, "ops": ops })).await.status, 200);
    }
    for api in [&node, &gateway] {
        let refused = cluster.http.get(api, "/v1/watch?from_revision=0").await;
        assert_eq!((refused.status, &refused.body["error"]["code"]), (410, &json!("compacted")), "{}", refused.body);
        let oldest = refused.body["oldest_revision"].as_u64().unwrap();
        assert!(oldest > 0);
        let mut lines = cluster.http.lines(api, &format!("/v1/watch?from_revision={oldest}&user=u-13-99")).await;
        let line = loop {
            let line: Value = serde_json::from_slice(&lines.line().await.unwrap().expect("the watch goes on")).unwrap();
            if line["type"] != "progress" {
                break line;
            }
        };
        assert_eq!(line["user"], "u-13-99");
        let history = cluster.http.get(api, "/v1/users/u-1-1/history").await.body;
        assert_eq!(
            (&history["events"], history["oldest_revision"].as_u64() >= Some(oldest)),
            (&json!([]), true),
            "{api}"
        );
        let history = cluster.http.get(api, "/v1/users/u-13-99/history").await.body;
        assert_eq!(history["events"][0], line);
    }
    eventually("the figures are up to date", async || {
        let retained = cluster.metric(&node, "switchboard_watch_retained_events").await;
        (retained > 0.0 && retained <= 1000.0).then_some(())
    })
    .await;
    let arguments = cluster.node_arguments(1);
    for too_little in [["--retain-events", "10"], ["--retain-bytes", "1B"]] {
        let words = ["config", "check"].into_iter().chain(arguments.iter().map(String::as_str)).chain(too_little);
        let (code, _, error) = cluster.run(&words.collect::<Vec<_>>()).await;
        assert!(code == 2 && error.contains(too_little[0]), "{error}");
    }
}
