//! Gateways that hold everybody, and gateways that hold a few.

use serde_json::{Value, json};

use crate::harness::{Cluster, eventually};

const USERS: [&str; 5] = ["ann", "ben", "cleo", "dan", "eli"];

/// A user as a read from memory shows it: status, whether online, and whether it says how old it is.
async fn cached(cluster: &Cluster, api: &str, user: &str) -> (u16, Value, bool) {
    let answer = cluster.http.get(api, &format!("/v1/users/{user}?consistency=cached")).await;
    (answer.status, answer.body["online"].clone(), answer.headers.contains_key("x-staleness-ms"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_holds_two_users_answers_for_all_of_them() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.start_gateway_with("gw-2", &["--replica", "lru:2"]).await;
    cluster.wait_ready().await;
    let (full, few) = (cluster.gateway("gw-1").api(), cluster.gateway("gw-2").api());
    let mut clients = Vec::new();
    for user in USERS {
        clients.push(cluster.connect("gw-1", user).await);
    }
    let mut own = cluster.connect("gw-2", "own").await;

    for (user, client) in USERS.iter().zip(&mut clients) {
        assert_eq!(cluster.user(&few, user).await["connections"][0]["id"], client.id);
        let by_id = cluster.http.get(&few, &format!("/v1/connections/{}", client.id)).await;
        assert_eq!((by_id.status, &by_id.body["user"]), (200, &json!(user)));
        let pushed = cluster.http.post(&few, &format!("/v1/users/{user}/push"), json!({ "data": user })).await;
        assert_eq!((pushed.status, &pushed.body["delivered"]), (200, &json!(1)), "{}", pushed.body);
        assert_eq!(client.expect_push().await, *user);
        let path = format!("/v1/connections/{}/push", client.id);
        assert_eq!(cluster.http.post(&few, &path, json!({ "data": 2 })).await.status, 200);
        assert_eq!(client.expect_push().await, 2);
    }
    assert_eq!(cluster.http.post(&few, "/v1/users/own/push", json!({ "data": 1 })).await.status, 200);
    assert_eq!(own.expect_push().await, 1);
    let nobody = cluster.http.post(&few, "/v1/users/nobody/push", json!({ "data": 1 })).await;
    assert_eq!((nobody.status, &nobody.body["error"]["code"]), (404, &json!("offline")));
    let looked = cluster.http.post(&few, "/v1/users:lookup", json!({ "users": USERS })).await.body;
    assert!(USERS.iter().all(|user| looked["users"][user]["online"] == true), "{looked}");
    eventually("the figures are up to date", async || {
        (cluster.metric(&few, "switchboard_cache_users").await == 2.0).then_some(())
    })
    .await;

    // What is about everybody comes from a node.
    for path in ["/v1/connections?gateway=gw-1", "/v1/connections?user=ann", "/v1/connections?limit=100"] {
        let (all, passed_on) = (cluster.http.get(&full, path).await.body, cluster.http.get(&few, path).await);
        assert_eq!(passed_on.body["connections"], all["connections"], "{path}");
        assert!(passed_on.headers.contains_key("x-revision"));
    }
    assert_eq!(cluster.http.get(&few, "/v1/stats").await.body["connections"], 6);
    assert_eq!(cluster.http.get(&few, "/v1/gateways").await.body["gateways"][0]["connections"], 5);

    // Who leaves is gone at once, whether held or not.
    let (ann, ben) = (clients.remove(0), clients.remove(0));
    assert_eq!(cluster.user(&few, "ann").await["online"], true);
    let _held = cluster.user(&few, "cleo").await;
    ann.close().await;
    ben.close().await;
    for user in ["ann", "ben"] {
        eventually("both are gone", async || (cluster.user(&few, user).await["online"] == false).then_some(())).await;
    }
    let _held = cluster.user(&few, "cleo").await;
    cluster.gateways.get_mut("gw-1").unwrap().kill();
    eventually("the session of the killed gateway ends", async || {
        (cluster.user(&few, "cleo").await["online"] == false).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_who_is_not_held_is_unknown_and_never_offline() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.start_gateway_with("gw-2", &["--replica", "lru:10"]).await;
    cluster.wait_ready().await;
    let few = cluster.gateway("gw-2").api();
    let _clients = (cluster.connect("gw-1", "ann").await, cluster.connect("gw-1", "ben").await);
    for user in ["ann", "nobody"] {
        eventually("the user is held", async || {
            cluster.user(&few, user).await;
            (cluster.metric(&few, "switchboard_cache_users").await >= 1.0).then_some(())
        })
        .await;
    }
    for id in 1..=3 {
        cluster.node(id).freeze();
    }
    let (status, online, staleness) = cached(&cluster, &few, "ann").await;
    assert_eq!((status, online, staleness), (200, json!(true), true), "who is held is shown, with its age");
    assert_eq!(cached(&cluster, &few, "ben").await.0, 503, "who is not held is unknown");
    let pushed = cluster.http.post(&few, "/v1/users/ben/push", json!({ "data": 1 })).await;
    assert_eq!((pushed.status, &pushed.body["error"]["code"]), (503, &json!("unavailable")));
    assert_eq!(cluster.http.get(&few, "/v1/users/ann").await.status, 503);
    eventually("what is in memory grows old, and says so", async || {
        let old = cluster.http.get(&few, "/v1/users/ann?consistency=cached&max_stale_ms=1500").await;
        (old.status == 503 && cluster.metric(&few, "switchboard_cache_staleness_seconds").await > 1.5).then_some(())
    })
    .await;
    for id in 1..=3 {
        cluster.node(id).thaw();
    }
    eventually("everybody is known again", async || {
        let ben = cluster.http.try_get(&few, "/v1/users/ben").await?;
        (ben.status == 200 && ben.body["online"] == true).then_some(())
    })
    .await;
}
