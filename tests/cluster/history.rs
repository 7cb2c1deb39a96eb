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
