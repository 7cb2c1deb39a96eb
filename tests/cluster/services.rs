//! Gateways of one's own: any program that speaks HTTP.

use axum::http::Method;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::{Answer, Cluster, eventually, in_time};

impl Cluster {
    async fn open_session(&self, api: &str, body: Value) -> String {
        let answer = self.http.post(api, "/v1/sessions", body).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["session"].as_str().unwrap().to_owned()
    }

    async fn put(&self, api: &str, path: &str) -> Answer {
        self.http.send(Method::PUT, api, path, &[], Some(&json!({}))).await.unwrap()
    }

    async fn delete(&self, api: &str, path: &str) -> Answer {
        self.http.send(Method::DELETE, api, path, &[], None).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_ones_own_holds_connections_through_any_node() {
    let cluster = Cluster::start(3, 1).await;
    let (follower, gateway) = (cluster.node(cluster.follower().await).api(), cluster.gateway("gw-1").api());
    let opened = cluster.http.post(&follower, "/v1/sessions", json!({ "gateway": "gw-9", "lease_ms": 3000 })).await;
    assert_eq!(opened.status, 201, "{}", opened.body);
    let session = opened.body["session"].as_str().unwrap().to_owned();
    let epoch = opened.body["epoch"].as_u64().unwrap();
    assert_eq!(session, format!("s-{epoch}"));
    assert_eq!((&opened.body["serve_ms"], &opened.body["renew_every_ms"]), (&json!(2400), &json!(600)));

    // Through a gateway as well as through a node; in order, each with its own outcome.
    let path = format!("/v1/sessions/{session}/batch");
    let batch = json!({ "seq": 1, "ops": [
        { "op": "register", "serial": 7, "user": "zoe", "device": "car", "meta": { "v": 1 } },
        { "op": "register", "serial": 8, "user": "zoe" },
        { "op": "meta", "serial": 7, "meta": { "v": 2 }, "if_version": 1 },
        { "op": "meta", "serial": 7, "meta": { "v": 3 }, "if_version": 1 },
        { "op": "unregister", "serial": 8 },
        { "op": "unregister", "serial": 8 },
        { "op": "register", "serial": 8, "user": "again" },
    ]});
    let first = cluster.http.post(&gateway, &path, batch.clone()).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let results = first.body["results"].as_array().unwrap();
    assert_eq!(results[0]["connection"], format!("c-{epoch}-7"));
    assert_eq!(results[0]["granted"], first.body["revision"]);
    assert_eq!(results[2]["meta_version"], 2);
    assert_eq!(results[3]["error"]["code"], "fenced");
    assert_eq!((&results[4]["ok"], &results[5]["ok"]), (&json!(true), &json!(true)));
    assert_eq!(results[6]["error"]["code"], "conflict", "a serial is never used twice");
    let again = cluster.http.post(&follower, &path, batch).await;
    assert_eq!(again.body, first.body, "a repeated batch is answered as the first was");
    let gap = cluster.http.post(&follower, &path, json!({ "seq": 3, "ops": [] })).await;
    assert_eq!((gap.status, &gap.body["error"]["code"]), (409, &json!("conflict")));

    let user = cluster.user(&gateway, "zoe").await;
    assert_eq!(user["connections"].as_array().unwrap().len(), 1);
    assert_eq!(user["connections"][0]["meta"], json!({ "v": 2 }));
    assert_eq!(user["connections"][0]["gateway"], "gw-9");

    let taken = cluster.http.post(&gateway, "/v1/sessions", json!({ "gateway": "gw-9" })).await;
    assert_eq!((taken.status, &taken.body["error"]["code"]), (409, &json!("conflict")));
    for lease_ms in [1000, 61_000] {
        let refused =
            cluster.http.post(&gateway, "/v1/sessions", json!({ "gateway": "x", "lease_ms": lease_ms })).await;
        assert_eq!(refused.status, 400);
    }

    let renewed = cluster.put(&follower, &format!("/v1/sessions/{session}/renew")).await;
    assert_eq!((&renewed.body["serve_ms"], &renewed.body["release"]), (&json!(2400), &json!([])));
    assert_eq!(cluster.delete(&gateway, &format!("/v1/sessions/{session}")).await.status, 204);
    assert_eq!(cluster.user(&follower, "zoe").await["online"], false);
    assert_eq!(cluster.put(&follower, &format!("/v1/sessions/{session}/renew")).await.status, 410);
    let late = cluster.http.post(&follower, &path, json!({ "ops": [{ "op": "unregister", "serial": 7 }] })).await;
    assert_eq!((late.status, &late.body["error"]["code"]), (412, &json!("fenced")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_reach_a_program_of_ones_own_by_http() {
    let cluster = Cluster::start(1, 1).await;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let deliver = async move |Json(body): Json<Value>| {
        let results: Vec<Value> = body["connections"].as_array().unwrap().iter().map(|connection| {
            json!({ "connection": connection, "status": if body["event"] == "refuse" { "gone" } else { "written" } })
        }).collect();
        arrived.send(body).unwrap();
        Json(json!({ "results": results }))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deliver_url = format!("http://{}/deliver", listener.local_addr().unwrap());
    let server =
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/deliver", post(deliver))).await });

    let api = cluster.gateway("gw-1").api();
    let session = cluster.open_session(&api, json!({ "gateway": "gw-9", "deliver_url": deliver_url })).await;
    let ops = json!({ "ops": [
        { "op": "register", "serial": 1, "user": "yan" }, { "op": "register", "serial": 2, "user": "yan" },
    ]});
    let path = format!("/v1/sessions/{session}/batch");
    let registered = cluster.http.post(&api, &path, ops).await.body;
    let ids: Vec<Value> = registered["results"].as_array().unwrap().iter().map(|r| r["connection"].clone()).collect();

    for api in cluster.apis() {
        let answer = cluster.http.post(&api, "/v1/users/yan/push", json!({ "data": { "a": 1 }, "event": "e" })).await;
        assert_eq!(answer.body["delivered"], 2, "{}", answer.body);
        let body = in_time("a delivery", arrivals.recv()).await.unwrap();
        assert_eq!(body["connections"], json!(ids), "one message for both");
        assert_eq!((&body["data"], &body["event"]), (&json!({ "a": 1 }), &json!("e")));
        assert_eq!((&body["id"], &body["granted"]), (&answer.body["id"], &registered["revision"]));
    }
    let refused = cluster.http.post(&api, "/v1/users/yan/push", json!({ "data": 1, "event": "refuse" })).await;
    assert_eq!(refused.body["outcome"], "failed", "{}", refused.body);
    assert_eq!(refused.body["results"][0]["status"], "gone");
    server.abort();
    let unreachable = eventually("the server is gone", async || {
        let answer = cluster.http.post(&api, "/v1/users/yan/push", json!({ "data": 1 })).await;
        (answer.body["results"][0]["status"] == "unreachable").then_some(answer)
    })
    .await;
    assert_eq!(unreachable.body["outcome"], "failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_and_lookups_in_bulk() {
    let cluster = Cluster::start(1, 1).await;
    let api = cluster.node(1).api();
    let session = cluster.open_session(&api, json!({ "gateway": "gw-9" })).await;
    let ops: Vec<Value> =
        (1..=25).map(|n| json!({ "op": "register", "serial": n, "user": format!("user/{}", n % 5) })).collect();
    let path = format!("/v1/sessions/{session}/batch");
    assert_eq!(cluster.http.post(&api, &path, json!({ "ops": ops })).await.status, 200);

    for api in cluster.apis() {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = cluster.http.get(&api, &format!("/v1/connections?gateway=gw-9&limit=10{cursor}")).await.body;
            seen.extend(page["connections"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 25, "{api}");
        let bulk = json!({ "users": ["user/0", "user/1", "nobody"] });
        let found = cluster.http.post(&api, "/v1/users:lookup", bulk).await.body;
        assert_eq!(found["users"]["user/0"]["connections"].as_array().unwrap().len(), 5, "{api}");
        assert_eq!(found["users"]["nobody"]["online"], false);
        // A slash belongs to the user when it is encoded.
        assert_eq!(cluster.user(&api, "user%2F1").await["online"], true);
    }
}
