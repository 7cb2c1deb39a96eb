//! What a cluster does all day: clients come and go, services look them up and push.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{Cluster, Http, Process, Socket, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_found_everywhere_reached_across_gateways_and_gone_when_it_leaves() {
    let cluster = Cluster::start(3, 2).await;
    let mut alice = cluster.connect("gw-1", "alice").await;
    let greeting = alice.greeting.clone();
    assert_eq!(greeting["user"], "alice");
    assert_eq!(greeting["gateway"], "gw-1");
    assert!(alice.id.starts_with(&format!("c-{}-", greeting["epoch"])));
    assert!(greeting["revision"].as_u64() >= greeting["granted"].as_u64());

    // Linearizable reads see it at once, wherever they are asked.
    for api in cluster.apis() {
        let user = cluster.user(&api, "alice").await;
        assert_eq!(user["online"], true, "{api}");
        let connection = &user["connections"][0];
        assert_eq!(connection["id"], alice.id);
        assert_eq!(connection["gateway"], "gw-1");
        assert_eq!(connection["device"], "web");
        assert_eq!(connection["granted"], greeting["granted"]);
        assert!(user["revision"].as_u64() >= greeting["granted"].as_u64());
        assert_eq!(cluster.http.get(&api, &format!("/v1/connections/{}", alice.id)).await.status, 200);
    }

    // Every API pushes to it; the other gateway and the nodes over a link.
    for (seq, api) in (1..).zip(cluster.apis()) {
        let body = json!({ "data": { "from": api }, "event": "greeting" });
        let answer = cluster.http.post(&api, "/v1/users/alice/push", body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.body["outcome"], "delivered");
        assert_eq!(answer.body["results"][0]["status"], "written");
        let push = alice.frame("push").await;
        assert_eq!(push["seq"], seq);
        assert_eq!(push["event"], "greeting");
        assert_eq!(push["data"]["from"], api);
        assert_eq!(push["id"], answer.body["id"]);
        assert_eq!(push["granted"], greeting["granted"]);
    }

    alice.close().await;
    for api in cluster.apis() {
        eventually("alice is gone", async || {
            let user = cluster.user(&api, "alice").await;
            (user["online"] == false && user["connections"] == json!([])).then_some(())
        })
        .await;
        let answer = cluster.http.post(&api, "/v1/users/alice/push", json!({ "data": 1 })).await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.body["error"]["code"], "offline");
        assert!(answer.body["as_of_revision"].as_u64() > greeting["granted"].as_u64());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_go_to_all_devices_of_a_user_and_tell_what_became_of_each() {
    let cluster = Cluster::start(3, 2).await;
    let mut web = cluster.connect("gw-1", "bob").await;
    let mut phone = Socket::open(cluster.gateway("gw-2"), "/ws?user=bob&device=phone").await;
    phone.welcome().await;
    let api = cluster.gateway("gw-2").api();

    // Read your writes: another API may not know of the second one yet, unless it is told how new it has to be.
    let path = format!("/v1/users/bob/push?min_revision={}", phone.greeting["revision"]);
    let answer = cluster.http.post(&cluster.gateway("gw-1").api(), &path, json!({ "data": [1, 2] })).await;
    assert_eq!(answer.body["delivered"], 2, "{}", answer.body);
    assert_eq!(web.expect_push().await, json!([1, 2]));
    assert_eq!(phone.expect_push().await, json!([1, 2]));

    let to_phones = json!({ "data": "ring", "devices": ["phone"] });
    assert_eq!(cluster.http.post(&api, "/v1/users/bob/push", to_phones).await.body["delivered"], 1);
    assert_eq!(phone.expect_push().await, "ring");
    let not_web = json!({ "data": "other", "except": [web.id] });
    assert_eq!(cluster.http.post(&api, "/v1/users/bob/push", not_web).await.body["delivered"], 1);
    assert_eq!(phone.expect_push().await, "other");

    // To one connection; acknowledged by the client, or not in time.
    let path = format!("/v1/connections/{}/push", web.id);
    let acked = async {
        let frame = web.frame("push").await;
        assert_eq!(frame["ack"], true);
        web.ack(frame["seq"].as_u64().unwrap()).await;
    };
    let asked = cluster.http.post(&api, &path, json!({ "data": "sure?", "ack": "client" }));
    let (answer, ()) = tokio::join!(asked, acked);
    assert_eq!(answer.body["results"][0]["status"], "acked", "{}", answer.body);
    let body = json!({ "data": "sure?", "ack": "client", "timeout_ms": 100 });
    let answer = cluster.http.post(&api, &path, body).await;
    assert_eq!(answer.body["results"][0]["status"], "timeout", "{}", answer.body);
    assert_eq!(answer.body["outcome"], "failed");

    // With a key, however often it is sent, it is written once.
    for _ in 0..3 {
        let body = json!({ "data": "once", "devices": ["phone"] });
        let sent =
            cluster.http.send(Method::POST, &api, "/v1/users/bob/push", &[("idempotency-key", "k1")], Some(&body));
        let answer = sent.await.unwrap();
        assert_eq!(answer.body["outcome"], "delivered", "{}", answer.body);
    }
    assert_eq!(phone.expect_push().await, "once");

    // A batch, in order, with an answer or an error for each.
    let items: Vec<Value> = (0..50).map(|n| json!({ "user": "bob", "data": n, "devices": ["phone"] })).collect();
    let mut items = items;
    items.push(json!({ "user": "nobody", "data": 1 }));
    let answer = cluster.http.post(&api, "/v1/push:batch", json!({ "items": items })).await;
    let results = answer.body["results"].as_array().unwrap();
    assert!(results[..50].iter().all(|result| result["outcome"] == "delivered"));
    assert_eq!(results[50]["error"]["code"], "offline");
    for n in 0..50 {
        assert_eq!(phone.expect_push().await, n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_shows_every_change_once_in_order_and_resumes_where_it_ended() {
    let cluster = Cluster::start(3, 1).await;
    let (follower, leader) = (cluster.follower().await, cluster.leader().await);
    let start = cluster.user(&cluster.node(leader).api(), "carol").await["revision"].as_u64().unwrap();
    let one = cluster.connect("gw-1", "carol").await;
    let two = cluster.connect("gw-1", "carol").await;
    one.close().await;
    two.close().await;

    let expected = [
        "connection.opened",
        "user.online",
        "connection.opened",
        "connection.closed",
        "connection.closed",
        "user.offline",
    ];
    let mut marks = Vec::new();
    for api in [cluster.node(follower).api(), cluster.node(leader).api(), cluster.gateway("gw-1").api()] {
        let mut lines = cluster.http.lines(&api, &format!("/v1/watch?from_revision={start}&user=carol")).await;
        let seen = take(&mut lines, expected.len()).await;
        let types: Vec<&str> = seen.iter().map(|line| line["type"].as_str().unwrap()).collect();
        assert_eq!(types, expected, "{api}");
        marks.push(seen.iter().map(mark).collect::<Vec<_>>());
    }
    assert!(marks.windows(2).all(|pair| pair[0] == pair[1]), "a mark means the same everywhere: {marks:?}");
    assert!(marks[0].is_sorted());

    // From the middle, at another node: what comes after that event.
    let (revision, n) = marks[0][2];
    let path = format!("/v1/watch?from_revision={revision}.{n}&user=carol");
    let rest = take(&mut cluster.http.lines(&cluster.node(leader).api(), &path).await, 3).await;
    assert_eq!(rest.iter().map(mark).collect::<Vec<_>>(), marks[0][3..]);

    // A mark that this cluster has never given.
    for api in cluster.apis() {
        let ahead = cluster.http.get(&api, "/v1/watch?from_revision=9007199254740000.3").await;
        assert_eq!((ahead.status, &ahead.body["error"]["code"]), (410, &json!("compacted")), "{api}");
        assert!(
            ahead.body["revision"].as_u64() >= Some(revision) && ahead.body["oldest_revision"] == 0,
            "{}",
            ahead.body
        );
    }
}

fn mark(line: &Value) -> (u64, u64) {
    (line["revision"].as_u64().unwrap(), line["n"].as_u64().unwrap())
}

/// So many lines that are no progress marks.
async fn take(lines: &mut switchboard::net::http::Streaming, count: usize) -> Vec<Value> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let line = lines.line().await.unwrap().expect("the watch goes on");
        let line: Value = serde_json::from_slice(&line).unwrap();
        if line["type"] != "progress" {
            seen.push(line);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_told_to_stop_says_goodbye_and_leaves_nothing_behind() {
    let mut cluster = Cluster::start(3, 2).await;
    let mut leaving = cluster.connect("gw-1", "dave").await;
    let mut staying = cluster.connect("gw-2", "erin").await;
    cluster.gateway("gw-1").terminate();
    let goodbye = leaving.expect_close(4200).await;
    assert_eq!(goodbye["reconnect"], true);
    assert_eq!(cluster.gateways.get_mut("gw-1").unwrap().ended().await, 0);

    let api = cluster.gateway("gw-2").api();
    assert_eq!(cluster.user(&api, "dave").await["online"], false, "the session ended before the process did");
    let gateways = cluster.http.get(&api, "/v1/gateways").await.body;
    let names: Vec<&Value> = gateways["gateways"].as_array().unwrap().iter().map(|gateway| &gateway["id"]).collect();
    assert_eq!(names, ["gw-2"]);
    assert_eq!(cluster.http.post(&api, "/v1/users/erin/push", json!({ "data": 1 })).await.status, 200);
    assert_eq!(staying.expect_push().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_process_tells_how_it_is() {
    let cluster = Cluster::start(3, 1).await;
    let _client = cluster.connect("gw-1", "frank").await;
    let leader = cluster.leader().await;
    for api in cluster.apis() {
        assert_eq!(cluster.http.get(&api, "/livez").await.status, 200);
        let stats = cluster.http.get(&api, "/v1/stats").await.body;
        assert_eq!((&stats["connections"], &stats["users"]), (&json!(1), &json!(1)), "{api}: {stats}");
        let gateways = cluster.http.get(&api, "/v1/gateways").await.body;
        let gateway = &gateways["gateways"][0];
        assert_eq!(gateway["id"], "gw-1");
        assert_eq!(gateway["connections"], 1);
        assert!(gateway["lease_remaining_ms"].as_u64().is_some_and(|left| left <= 3000), "{gateway}");
        let group = cluster.http.get(&api, "/v1/cluster").await.body;
        assert_eq!(group["leader"], leader);
        assert_eq!(group["members"].as_array().unwrap().len(), 3);
        assert!(group["members"].as_array().unwrap().iter().all(|member| member["api"] != ""), "{group}");
        eventually("every member is heard of", async || {
            let group = cluster.http.get(&api, "/v1/cluster").await.body;
            let states: Vec<&str> =
                group["members"].as_array().unwrap().iter().map(|member| member["state"].as_str().unwrap()).collect();
            let followers = states.iter().filter(|state| **state == "follower").count();
            (followers == 2 && states.contains(&"leader")).then_some(())
        })
        .await;
        let info = cluster.http.get(&api, "/v1/info").await.body;
        assert_eq!(info["cluster"], "switchboard");
        let unknown = cluster.http.get(&api, "/v1/nothing").await;
        assert_eq!((unknown.status, &unknown.body["error"]["code"]), (404, &json!("not_found")));
        for later in ["/v1/webhooks", "/v1/openapi.json"] {
            assert_eq!(cluster.http.get(&api, later).await.status, 501, "{later}");
        }
    }
    let metrics = metrics(&cluster, &cluster.node(leader).api()).await;
    assert!(metrics.contains("switchboard_raft_is_leader 1"), "{metrics}");
    assert!(metrics.contains("switchboard_entries 1"));
}

async fn metrics(cluster: &Cluster, api: &str) -> String {
    // Figures that are looked up once a second must have been looked up.
    eventually("the figures are up to date", async || {
        let text = cluster.http.text(api, "/metrics").await;
        text.contains("switchboard_entries 1").then_some(text)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_and_pushes() {
    let cluster = Cluster::start(1, 1).await;
    let mut grace = cluster.connect("gw-1", "grace").await;
    let api = cluster.gateway("gw-1").api();
    let run = async |arguments: &[&str]| {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_switchboard"))
            .args(arguments)
            .env("SWITCHBOARD_API", &api)
            .output();
        let output = tokio::time::timeout(Duration::from_secs(20), output).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };

    let (code, out, _) = run(&["status"]).await;
    assert!(code == 0 && out.contains("leader"), "{out}");
    let (code, out, _) = run(&["whereis", "grace"]).await;
    assert!(code == 0 && out.contains(&grace.id) && out.contains("gw-1"), "{out}");
    let (code, _, _) = run(&["whereis", "nobody"]).await;
    assert_eq!(code, 3);
    let (code, out, _) = run(&["connections", "list", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &list["connections"][0]["id"]), (0, &json!(grace.id)));
    let (code, out, _) = run(&["gateways", "list"]).await;
    assert!(code == 0 && out.contains("gw-1"), "{out}");
    let (code, out, err) = run(&["push", "user", "grace", "--data", "{\"n\":1}", "--event", "hi"]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(grace.frame("push").await["data"], json!({ "n": 1 }));
    let (code, _, err) = run(&["push", "user", "nobody", "--data", "1"]).await;
    assert!(code == 3 && !err.is_empty());
    let (code, _, err) = run(&["status", "--api", "http://127.0.0.1:1"]).await;
    assert!(code == 1 && err.contains("127.0.0.1:1"), "{err}");
    for file in ["deploy/directory-1.toml", "deploy/gw-1.toml"] {
        let file = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let (code, out, err) = run(&["config", "check", "--config", &file]).await;
        assert!(code == 0 && out.contains("ok"), "{file}: {out}{err}");
    }
    let (code, _, err) = run(&["gateway", "--id", "x"]).await;
    assert!(code == 2 && err.contains("--directory"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_runs_a_whole_cluster() {
    let data = tempfile::tempdir().unwrap();
    let arguments = ["dev", "--ports", "auto", "--directories", "3", "--gateways", "2"].map(str::to_owned);
    let log = data.path().join("dev.log");
    let mut dev =
        Process::start_in(&arguments, &log, &[("TMPDIR".to_owned(), data.path().display().to_string())]).await;
    let address = |role: &str, i: usize, which: &str| dev.ready()[role][i][which].as_str().unwrap().to_owned();
    let http = Http::default();
    // It is ready when it says so: nothing has to be waited for.
    let mut client = Socket::try_open_at(&address("gateways", 0, "clients"), "/ws?user=hal").await.unwrap();
    client.welcome().await;
    let other = format!("http://{}", address("gateways", 1, "api"));
    let path = format!("/v1/users/hal/push?min_revision={}", client.greeting["revision"]);
    assert_eq!(http.post(&other, &path, json!({ "data": "open the door" })).await.status, 200);
    assert_eq!(client.expect_push().await, "open the door");
    let node = format!("http://{}", address("directories", 2, "api"));
    let metrics = http.text(&node, "/metrics").await;
    let own = metrics.lines().filter(|line| line.starts_with("switchboard_raft_is_leader")).count();
    assert_eq!(own, 1, "each shows its own figures: {metrics}");

    dev.terminate();
    client.expect_close(4200).await;
    assert_eq!(dev.ended().await, 0, "{}", dev.log());
    let left: Vec<_> = std::fs::read_dir(data.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["dev.log"], "its data was temporary");
}
