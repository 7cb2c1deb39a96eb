//! What services and gateways of one's own decide about connections: places, requests to close, metadata, bans, topics.

use std::time::Duration;

use axum::http::Method;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use switchboard::clock;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::harness::{Answer, Cluster, eventually, in_time};

/// A gateway of one's own, which renews rarely and is told by HTTP what to release.
struct Own {
    path: String,
    epoch: u64,
    told: mpsc::UnboundedReceiver<Value>,
    server: JoinHandle<()>,
}

impl Own {
    async fn open(cluster: &Cluster, api: &str, gateway: &str) -> Self {
        Self::open_for(cluster, api, gateway, 60_000).await
    }

    async fn open_for(cluster: &Cluster, api: &str, gateway: &str, lease_ms: u64) -> Self {
        let (arrived, told) = mpsc::unbounded_channel();
        let deliver = async move |Json(body): Json<Value>| {
            // The test may be over.
            let _ = arrived.send(body);
            Json(json!({}))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let deliver_url = format!("http://{}/deliver", listener.local_addr().unwrap());
        let router = Router::new().route("/deliver", post(deliver));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let body = json!({ "gateway": gateway, "deliver_url": deliver_url, "lease_ms": lease_ms });
        let opened = cluster.http.post(api, "/v1/sessions", body).await;
        assert_eq!(opened.status, 201, "{}", opened.body);
        let path = format!("/v1/sessions/{}", opened.body["session"].as_str().unwrap());
        Self { path, epoch: opened.body["epoch"].as_u64().unwrap(), told, server }
    }

    fn id(&self, serial: u64) -> String {
        format!("c-{}-{serial}", self.epoch)
    }

    /// Has one operation carried out.
    async fn op(&self, cluster: &Cluster, api: &str, op: Value) -> Value {
        let answer = cluster.http.post(api, &format!("{}/batch", self.path), json!({ "ops": [op] })).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["results"][0].clone()
    }

    /// Obeys the next request to release a connection, and says what it was.
    async fn obey(&mut self, cluster: &Cluster, api: &str) -> Value {
        let request = in_time("a release request", self.told.recv()).await.unwrap();
        let id = request["connection"].as_str().unwrap();
        let serial: u64 = id.rsplit('-').next().unwrap().parse().unwrap();
        let done = self.op(cluster, api, json!({ "op": "unregister", "serial": serial, "reason": "kicked" })).await;
        assert_eq!(done, json!({ "ok": true, "existed": true }), "{id}");
        request
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Cluster {
    async fn control(&self, method: Method, api: &str, path: &str, body: Value) -> Answer {
        self.http.send(method, api, path, &[], Some(&body)).await.unwrap()
    }
}

fn register(serial: u64, user: &str) -> Value {
    json!({ "op": "register", "serial": serial, "user": user, "device": "web" })
}

fn exclusive(serial: u64, user: &str, policy: &str) -> Value {
    json!({ "op": "register", "serial": serial, "user": user, "policy": policy })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_goes_over_when_its_gateway_has_given_it_up() {
    let cluster = Cluster::start(3, 1).await;
    let (follower, gateway) = (cluster.node(cluster.follower().await).api(), cluster.gateway("gw-1").api());
    let mut old = Own::open(&cluster, &follower, "old").await;
    let new = Own::open(&cluster, &gateway, "new").await;
    let granted = old.op(&cluster, &gateway, exclusive(1, "ann", "newest_wins")).await["granted"].clone();
    let refused = new.op(&cluster, &follower, exclusive(1, "ann", "oldest_wins")).await["error"].clone();
    let owner = json!({ "connection": old.id(1), "gateway": "old", "device": null, "granted": granted, "live": true });
    assert_eq!((&refused["code"], &refused["owner"]), (&json!("conflict"), &owner));
    assert_eq!(refused["temporary"], false);

    let waits = new.op(&cluster, &follower, exclusive(2, "ann", "newest_wins")).await;
    assert_eq!(waits, json!({ "ok": true, "connection": new.id(2), "pending": true }));
    assert_eq!(cluster.user(&follower, "ann").await["connections"][0]["id"], old.id(1), "until it is given up");
    let request = old.obey(&cluster, &gateway).await;
    assert_eq!(request, json!({ "type": "release", "connection": old.id(1), "code": 4004 }));
    for api in cluster.apis() {
        let user = cluster.user(&api, "ann").await;
        assert_eq!((&user["connections"][0]["id"], &user["connections"][1]), (&json!(new.id(2)), &Value::Null));
    }
    let taken = old.op(
        &cluster,
        &follower,
        json!({ "op": "register", "serial": 2, "user": "ann",
        "policy": "newest_wins", "handover": "immediate" }),
    );
    assert_eq!(taken.await["superseded"], json!([new.id(2)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_copies_and_late_farewells_change_nothing() {
    let cluster = Cluster::start(3, 1).await;
    let (follower, gateway) = (cluster.node(cluster.follower().await).api(), cluster.gateway("gw-1").api());
    let open = |attempt| json!({ "gateway": "gw-9", "nonce": "me", "attempt": attempt, "lease_ms": 60_000 });
    let opened = cluster.http.post(&gateway, "/v1/sessions", open(1)).await;
    assert_eq!(cluster.http.post(&follower, "/v1/sessions", open(1)).await.body, opened.body, "one session");
    let batch_of = |opened: &Answer| format!("/v1/sessions/{}/batch", opened.body["session"].as_str().unwrap());
    let path = batch_of(&opened);
    let batch = json!({ "seq": 1, "ops": [exclusive(1, "zoe", "newest_wins"), register(2, "yan")] });
    let first = cluster.http.post(&gateway, &path, batch.clone()).await;
    let unregister = json!({ "seq": 2, "ops": [{ "op": "unregister", "serial": 2 }] });
    assert_eq!(cluster.http.post(&follower, &path, unregister).await.status, 200);
    assert_eq!(cluster.http.post(&follower, &path, batch.clone()).await.body, first.body, "answered as the first was");
    assert_eq!(cluster.user(&gateway, "yan").await["online"], false, "and nobody comes back by it");

    // The process lost its session and opens the next; what it said before arrives late.
    let next = cluster.http.post(&gateway, "/v1/sessions", open(2)).await;
    assert_eq!(next.status, 201, "{}", next.body);
    let since = first.body["results"][0]["granted"].clone();
    let mut again = exclusive(1, "zoe", "newest_wins");
    again["since"] = since;
    let back = cluster.http.post(&follower, &batch_of(&next), json!({ "seq": 1, "ops": [again] })).await;
    assert_eq!(back.body["results"][0]["ok"], true, "{}", back.body);
    let late = cluster.http.post(&follower, "/v1/sessions", open(1)).await;
    assert_eq!(late.body, next.body, "an older request of the same process ends nothing");
    for late in [batch, json!({ "seq": 3, "ops": [{ "op": "unregister", "serial": 1 }] })] {
        let answer = cluster.http.post(&follower, &path, late).await;
        assert_eq!((answer.status, &answer.body["error"]["code"]), (412, &json!("fenced")));
        assert_eq!(answer.body["error"]["applied"], "no");
    }
    for api in cluster.apis() {
        let zoe = cluster.user(&api, "zoe").await;
        assert_eq!(zoe["connections"][0]["id"], back.body["results"][0]["connection"], "{api}");
    }
    let other = json!({ "gateway": "gw-9", "nonce": "other", "lease_ms": 60_000 });
    let taken = cluster.http.post(&gateway, "/v1/sessions", other).await;
    assert_eq!((taken.status, &taken.body["error"]["code"]), (409, &json!("conflict")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_close_and_change_connections_wherever_they_are() {
    let cluster = Cluster::start(3, 1).await;
    let (follower, gateway) = (cluster.node(cluster.follower().await).api(), cluster.gateway("gw-1").api());
    let mut own = Own::open(&cluster, &gateway, "own").await;
    for (serial, user) in [(1, "ann"), (2, "ann"), (3, "bob")] {
        assert_eq!(own.op(&cluster, &follower, register(serial, user)).await["ok"], true);
    }
    let path = format!("/v1/connections/{}/meta", own.id(1));
    let put = async |if_match: &str| {
        let body = json!({ "seat": 7 });
        cluster.http.send(Method::PUT, &gateway, &path, &[("if-match", if_match)], Some(&body)).await.unwrap()
    };
    let replaced = put("\"1\"").await;
    assert_eq!((replaced.status, &replaced.body["meta_version"]), (200, &json!(2)));
    let raced = put("\"1\"").await;
    assert_eq!(
        (raced.status, &raced.body["error"]["code"], &raced.body["meta_version"]),
        (412, &json!("fenced"), &json!(2))
    );
    let shown = cluster.http.get(&follower, &format!("/v1/connections/{}", own.id(1))).await.body;
    assert_eq!((&shown["meta"], &shown["meta_version"]), (&json!({ "seat": 7 }), &json!(2)));

    // Through a gateway, all but one of a user's; the answer comes when it is done.
    let body = json!({ "code": 4321, "reason": "moved", "except": [own.id(2)], "timeout_ms": 30_000 });
    let disconnect = cluster.http.post(&gateway, "/v1/users/ann/disconnect", body);
    let (answer, request) = tokio::join!(disconnect, own.obey(&cluster, &follower));
    assert_eq!((&answer.body["disconnected"], &answer.body["pending"]), (&json!(1), &json!([])), "{}", answer.body);
    assert_eq!(request, json!({ "type": "release", "connection": own.id(1), "code": 4321, "reason": "moved" }));
    assert_eq!(cluster.user(&gateway, "ann").await["connections"][0]["id"], own.id(2));
    let path = format!("/v1/connections/{}?timeout_ms=30000", own.id(2));
    let delete = cluster.control(Method::DELETE, &follower, &path, Value::Null);
    let (answer, request) = tokio::join!(delete, own.obey(&cluster, &gateway));
    assert_eq!((answer.status, &request["code"]), (204, &json!(4003)));
    let again = cluster.control(Method::DELETE, &follower, &path, Value::Null).await;
    assert_eq!((again.status, &again.body["error"]["code"]), (404, &json!("not_found")));

    let words = ["kick", "bob", "--device", "web"];
    let ((code, stdout, stderr), request) = tokio::join!(cluster.run(&words), own.obey(&cluster, &gateway));
    assert_eq!((code, stdout.as_str()), (0, "1 connection is closed\n"), "{stderr}");
    assert_eq!(request["connection"], own.id(3));
    assert_eq!(cluster.run(&words).await.0, 3, "nobody is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_banned_user_is_closed_and_stays_out_until_the_ban_is_over() {
    let cluster = Cluster::start(3, 1).await;
    let (follower, gateway) = (cluster.node(cluster.follower().await).api(), cluster.gateway("gw-1").api());
    let mut own = Own::open(&cluster, &gateway, "own").await;
    own.op(&cluster, &gateway, register(1, "mallory")).await;
    let until_ms = clock::wall_ms() + 3000;
    let ban = json!({ "until": clock::rfc3339(until_ms), "reason": "spam", "timeout_ms": 30_000 });
    let banning = cluster.control(Method::PUT, &gateway, "/v1/bans/mallory", ban);
    let (banned, request) = tokio::join!(banning, own.obey(&cluster, &follower));
    assert_eq!((banned.status, &banned.body["disconnected"], &banned.body["pending"]), (200, &json!(1), &json!([])));
    assert_eq!(request, json!({ "type": "release", "connection": own.id(1), "code": 4003, "reason": "spam" }));
    let (code, stdout, _) = cluster.run(&["bans", "add", "eve", "--reason", "bots"]).await;
    assert_eq!((code, stdout.as_str()), (0, "eve is banned for ever; no connection had to be closed\n"));
    let refused = own.op(&cluster, &gateway, register(2, "eve")).await["error"].clone();
    assert_eq!((&refused["code"], &refused["message"]), (&json!("forbidden"), &json!("the user is banned: bots")));

    let mut serial = 2;
    let came_back = in_time("the end of the ban", async {
        loop {
            serial += 1;
            if own.op(&cluster, &gateway, register(serial, "mallory")).await["ok"] == true {
                break clock::wall_ms();
            }
        }
    });
    assert!(came_back.await >= until_ms, "not before it is over");
    for api in cluster.apis() {
        let bans = cluster.http.get(&api, "/v1/bans").await;
        assert_eq!((bans.status, bans.body["bans"].as_array().unwrap().len()), (200, 1), "{api}: {}", bans.body);
        assert_eq!((&bans.body["bans"][0]["user"], &bans.body["bans"][0]["until"]), (&json!("eve"), &Value::Null));
    }
    assert_eq!(cluster.run(&["bans", "remove", "eve"]).await.0, 0);
    assert_eq!(cluster.run(&["bans", "remove", "eve"]).await.0, 3);
    assert_eq!(own.op(&cluster, &gateway, register(serial + 1, "eve")).await["ok"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_have_the_gateways_that_joined_them() {
    let cluster = Cluster::start(3, 1).await;
    let gateway = cluster.gateway("gw-1").api();
    let (one, two) = (Own::open(&cluster, &gateway, "one").await, Own::open(&cluster, &gateway, "two").await);
    let mut changes = cluster.http.lines(&gateway, "/v1/watch?types=topic.joined,topic.left").await;
    let mut next = async |kind: &str| loop {
        let line = in_time(kind, changes.line()).await.unwrap().unwrap();
        let change: Value = serde_json::from_slice(&line).unwrap_or_default();
        if change["type"] == kind {
            break (change["topic"].clone(), change["gateway"].clone(), change["epoch"].clone());
        }
    };
    one.op(&cluster, &gateway, json!({ "op": "join", "serial": 1, "topics": ["room:7", "room:8", "hall"] })).await;
    two.op(&cluster, &gateway, json!({ "op": "join", "topics": ["room:8"] })).await;
    for (topic, own, name) in
        [("room:7", &one, "one"), ("room:8", &one, "one"), ("hall", &one, "one"), ("room:8", &two, "two")]
    {
        assert_eq!(next("topic.joined").await, (json!(topic), json!(name), json!(own.epoch)));
    }
    for api in cluster.apis() {
        let list = cluster.http.get(&api, "/v1/topics?prefix=room").await.body;
        let topic = |name: &str, gateways| json!({ "topic": name, "connections": gateways, "gateways": gateways });
        assert_eq!(
            (&list["topics"], &list["at_least"]),
            (&json!([topic("room:8", 2), topic("room:7", 1)]), &json!(true)),
            "{api}"
        );
        let shown = cluster.http.get(&api, "/v1/topics/room%3A8").await.body;
        assert_eq!(shown["gateways"], json!(["one", "two"]), "{api}");
        let members = cluster.http.get(&api, "/v1/topics/room:8/members").await.body;
        assert_eq!((&members["members"], &members["unknown"]), (&json!([]), &json!(["one", "two"])), "{api}");
        // A gateway asks a node for no longer than the rest of the answer may wait.
        eventually("the number of topics", async || {
            (cluster.http.get(&api, "/v1/stats").await.body["topics"] == 3).then_some(())
        })
        .await;
    }
    let (code, stdout, _) = cluster.run(&["topics", "--prefix", "hall"]).await;
    assert!(code == 0 && stdout.contains("hall") && stdout.contains("at least 1"), "{stdout}");
    two.op(&cluster, &gateway, json!({ "op": "leave", "topics": ["room:8"] })).await;
    assert_eq!(next("topic.left").await, (json!("room:8"), json!("two"), json!(two.epoch)));
    let ended = cluster.control(Method::DELETE, &gateway, &one.path, json!({ "fenced": true })).await;
    assert_eq!(ended.status, 204);
    for api in cluster.apis() {
        assert_eq!(cluster.http.get(&api, "/v1/topics").await.body["topics"], json!([]), "{api}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_outlives_the_leader_and_the_next_one_counts_a_whole_lease() {
    const LEASE: Duration = Duration::from_secs(4);
    let mut cluster = Cluster::start(3, 0).await;
    let leader = cluster.leader().await;
    let api = cluster.node(cluster.follower().await).api();
    let old = Own::open_for(&cluster, &api, "old", 4_000).await;
    let new = Own::open(&cluster, &api, "new").await;
    old.op(&cluster, &api, exclusive(1, "ann", "newest_wins")).await;
    // Its gateway ends the session without a word about having stopped.
    let ended = cluster.control(Method::DELETE, &api, &old.path, json!({})).await;
    assert_eq!((ended.status, cluster.user(&api, "ann").await["online"].clone()), (204, json!(false)));
    let waits = new.op(&cluster, &api, exclusive(1, "ann", "newest_wins")).await;
    assert_eq!(waits["pending"], true);
    let refused = new.op(&cluster, &api, exclusive(2, "ann", "oldest_wins")).await["error"].clone();
    assert_eq!((&refused["code"], &refused["temporary"]), (&json!("conflict"), &json!(true)), "it passes: {refused}");

    // When half of that time is over somebody else leads, who knows nothing of the first half.
    let began = Instant::now();
    eventually("half a lease goes by", async || (began.elapsed() > LEASE / 2).then_some(())).await;
    cluster.nodes.get_mut(&leader).unwrap().kill();
    let killed = Instant::now();
    eventually("it is granted", async || {
        let user = cluster.http.try_get(&api, "/v1/users/ann").await.filter(|answer| answer.status == 200)?;
        (user.body["connections"][0]["id"] == json!(new.id(1))).then_some(())
    })
    .await;
    assert!(
        killed.elapsed() > LEASE,
        "granted {:?} after the new leader took office at the earliest",
        killed.elapsed()
    );
}
