//! Topics across gateways: who is subscribed where, and what reaches them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::harness::{Cluster, Socket, eventually, in_time};

impl Socket {
    /// Subscribes to a topic, or ends that; the revision at which it is so.
    async fn topic(&mut self, what: &str, topic: &str) -> u64 {
        self.send(json!({"type": what, "id": 1, "topics": [topic]})).await;
        loop {
            // Pushes may come first.
            let frame = self.next().await.unwrap();
            if frame["type"] == "ok" {
                return frame["revision"].as_u64().unwrap();
            }
            assert!(frame["type"] == "push" || frame["type"] == "presence", "{frame}");
        }
    }
}

impl Cluster {
    /// A push by a service that names the revision after which it wants to push.
    async fn push_at(&self, api: &str, path: &str, revision: u64, body: Value) -> Value {
        let answer = self.http.post(api, &format!("{path}?min_revision={revision}"), body).await;
        assert!(answer.status < 300, "{path}: {}", answer.body);
        answer.body
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_a_topic_reaches_its_subscribers_on_every_gateway_from_any_process() {
    let cluster = Cluster::start(1, 2).await;
    let mut a = cluster.connect("gw-1", "a").await;
    let mut b = cluster.connect("gw-2", "b").await;
    let mut other = cluster.connect("gw-2", "other").await;
    a.topic("subscribe", "room:7").await;
    let revision = b.topic("subscribe", "room:7").await.max(other.topic("subscribe", "room:8").await);
    let mut data = 0;
    for api in cluster.apis() {
        data += 1;
        let body = json!({"data": data, "event": "e"});
        let pushed = cluster.push_at(&api, "/v1/topics/room%3A7/push", revision, body).await;
        assert_eq!((&pushed["outcome"], &pushed["delivered"]), (&json!("delivered"), &json!(2)), "{pushed}");
        for socket in [&mut a, &mut b] {
            let push = socket.frame("push").await;
            assert_eq!((&push["topic"], &push["data"]), (&json!("room:7"), &json!(data)));
        }
        // To everybody, in a batch with pushes to a topic and to a user: in their order.
        let items = json!({"items": [
            {"topic": "room:8", "data": data}, {"user": "other", "data": data + 100}, {"topic": "room:8", "data": data + 200},
            {"topic": "nobody", "data": 1},
        ]});
        let batch = cluster.push_at(&api, "/v1/push:batch", revision, items).await;
        assert_eq!(batch["results"][3]["error"]["code"], "offline", "{batch}");
        for data in [data, data + 100, data + 200] {
            assert_eq!(other.frame("push").await["data"], data);
        }
        let all = cluster.push_at(&api, "/v1/broadcast", revision, json!({"data": data, "ack": "none"})).await;
        assert_eq!((&all["outcome"], &all["delivered"]), (&json!("accepted"), &json!(3)), "{all}");
        for socket in [&mut a, &mut b, &mut other] {
            assert_eq!(socket.frame("push").await["data"], data);
        }
    }
    let (code, shown, _) = cluster.run(&["push", "topic", "room:7", "--data", "9"]).await;
    assert!(code == 0 && shown.contains("2 reached, 0 not"), "{shown}");
    let (code, _, complaint) = cluster.run(&["push", "topic", "nobody", "--data", "9"]).await;
    assert!(code == 3 && complaint.contains("nobody"), "{code} {complaint}");
    for socket in [&mut a, &mut b] {
        assert_eq!(socket.frame("push").await["data"], 9);
    }
    // When the last subscribers have left, that is exact.
    a.topic("unsubscribe", "room:7").await;
    b.close().await;
    let api = cluster.gateway("gw-1").api();
    eventually("nobody is subscribed any more", async || {
        let answer = cluster.http.post(&api, "/v1/topics/room:7/push", json!({"data": 1})).await;
        (answer.status == 404 && answer.body["error"]["code"] == "offline").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_dies_takes_its_subscribers_along_and_is_not_called_offline_before() {
    let mut cluster = Cluster::start(1, 2).await;
    let mut a = cluster.connect("gw-1", "a").await;
    let mut b = cluster.connect("gw-2", "b").await;
    a.topic("subscribe", "room").await;
    let revision = b.topic("subscribe", "room").await;
    let api = cluster.gateway("gw-1").api();
    cluster.push_at(&api, "/v1/topics/room/push", revision, json!({"data": 1})).await;
    cluster.gateways.get_mut("gw-2").unwrap().kill();
    eventually("only the other one is left", async || {
        let pushed = cluster.http.post(&api, "/v1/topics/room/push", json!({"data": 2})).await.body;
        assert!(pushed["delivered"] == 1, "whoever else is gone: {pushed}");
        (pushed["outcome"] == "delivered").then_some(())
    })
    .await;
    a.topic("unsubscribe", "room").await;
    eventually("nobody is left", async || {
        let answer = cluster.http.post(&api, "/v1/topics/room/push", json!({"data": 3})).await;
        (answer.status == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_say_who_is_subscribed_and_services_subscribe_users() {
    let cluster = Cluster::start(1, 2).await;
    let mut a = cluster.connect("gw-1", "alice").await;
    let mut b = cluster.connect("gw-2", "alice").await;
    let _bob = cluster.connect("gw-2", "bob").await;
    let api = cluster.node(1).api();
    let topics = json!({"topics": ["room:7", "news"]});
    let subscribed = cluster.http.post(&api, "/v1/users/alice/subscribe", topics).await.body;
    assert_eq!(subscribed["connections"], 2, "{subscribed}");
    let revision = subscribed["revision"].as_u64().unwrap();
    let gateway = cluster.gateway("gw-1").api();
    let bob = cluster.http.post(&gateway, "/v1/users/bob/subscribe", json!({"topics": ["news"]})).await.body;
    assert_eq!(bob["connections"], 1, "{bob}");
    cluster.push_at(&gateway, "/v1/topics/room:7/push", revision, json!({"data": 1})).await;
    for socket in [&mut a, &mut b] {
        assert_eq!(socket.frame("push").await["data"], 1);
    }
    for api in cluster.apis() {
        let list = cluster.http.get(&api, "/v1/topics").await.body;
        let topic = |name: &str, connections| json!({"topic": name, "connections": connections, "gateways": 2});
        assert_eq!(
            (&list["topics"], &list["at_least"]),
            (&json!([topic("news", 3), topic("room:7", 2)]), &json!(false)),
            "{api}"
        );
        let shown = cluster.http.get(&api, "/v1/topics/news").await.body;
        assert_eq!((&shown["connections"], &shown["at_least"]), (&json!(3), &json!(false)), "{api}: {shown}");
        let (mut users, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = cluster.http.get(&api, &format!("/v1/topics/news/members?limit=1{cursor}")).await.body;
            users.extend(page["members"].as_array().unwrap().iter().map(|member| member["user"].clone()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        users.sort_by_key(ToString::to_string);
        assert_eq!(users, ["alice", "alice", "bob"], "{api}");
        let connections = cluster.http.get(&api, "/v1/connections?topic=room:7&gateway=gw-2").await.body;
        assert_eq!(connections["connections"].as_array().unwrap().len(), 1, "{api}: {connections}");
    }
    let ended = cluster.http.post(&api, "/v1/users/alice/unsubscribe", json!({"topics": ["news", "x"]})).await.body;
    assert_eq!(ended["connections"], 2, "{ended}");
    assert_eq!(cluster.http.get(&api, "/v1/topics/news").await.body["connections"], 1);
}

/// Who a client sees in a topic, from the frames that it got.
#[derive(Default)]
struct Seen {
    members: BTreeMap<String, String>,
    revision: u64,
}

impl Seen {
    /// Takes frames until these users are there.
    async fn until(&mut self, socket: &mut Socket, users: &[&str]) {
        while self.members.values().map(String::as_str).collect::<BTreeSet<_>>() != users.iter().copied().collect() {
            let frame = in_time(&format!("{users:?} instead of {:?}", self.members), socket.frame("presence")).await;
            self.take(&frame);
        }
    }

    fn take(&mut self, frame: &Value) {
        assert_eq!(frame["topic"], "room");
        let revision = frame["revision"].as_u64().unwrap();
        assert!(revision >= self.revision, "never back: {frame}");
        self.revision = revision;
        let named = |name: &str| -> Vec<(String, String)> {
            let members = frame[name].as_object().into_iter().flatten();
            members.map(|(id, member)| (id.clone(), member["user"].as_str().unwrap().to_owned())).collect()
        };
        if frame["state"].is_object() {
            self.members = named("state").into_iter().collect();
        }
        for (id, _) in named("leaves") {
            assert!(self.members.remove(&id).is_some(), "only who was there leaves: {frame}");
        }
        for (id, user) in named("joins") {
            assert!(self.members.insert(id, user).is_none(), "only who was not there joins: {frame}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_who_else_is_subscribed_wherever_and_that_a_dead_gateway_has_nobody() {
    let mut cluster = Cluster::start(1, 2).await;
    let watch = json!({"type": "subscribe", "id": 1, "topics": ["room"], "presence": true});
    let mut a = cluster.connect("gw-1", "a").await;
    a.send(watch.clone()).await;
    a.frame("ok").await;
    let mut of_a = Seen::default();
    let first = a.frame("presence").await;
    assert!(first["state"].is_object(), "first who is there: {first}");
    of_a.take(&first);
    of_a.until(&mut a, &["a"]).await;
    let mut b = cluster.connect("gw-2", "b").await;
    b.topic("subscribe", "room").await;
    of_a.until(&mut a, &["a", "b"]).await;
    let mut c = cluster.connect("gw-2", "c").await;
    c.send(watch).await;
    c.frame("ok").await;
    let mut of_c = Seen::default();
    of_c.until(&mut c, &["a", "b", "c"]).await;
    of_a.until(&mut a, &["a", "b", "c"]).await;
    assert_eq!(of_a.members, of_c.members, "by the same ids");
    b.close().await;
    of_a.until(&mut a, &["a", "c"]).await;
    of_c.until(&mut c, &["a", "c"]).await;
    let mut d = cluster.connect("gw-1", "d").await;
    d.topic("subscribe", "room").await;
    of_c.until(&mut c, &["a", "c", "d"]).await;
    d.topic("unsubscribe", "room").await;
    of_c.until(&mut c, &["a", "c"]).await;
    cluster.gateways.get_mut("gw-2").unwrap().kill();
    of_a.until(&mut a, &["a"]).await;
    a.topic("unsubscribe", "room").await;
}
