//! Random failures, one after the other, under load. Afterwards what was acknowledged is there, what clients believe is true,
//! and what watchers saw adds up to what is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{Cluster, Load, eventually, in_time, pause};

/// For how long things fail.
const TROUBLE: Duration = Duration::from_secs(14);

const CLIENTS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_random_failures_everything_adds_up() {
    let seed = std::env::var("SWITCHBOARD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SWITCHBOARD_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(3, 3).await;
    let nodes: Vec<String> = cluster.nodes.values().map(|node| node.api()).collect();
    let start = cluster.user(&nodes[0], "nobody").await["revision"].as_u64().unwrap();
    let (until, goal) = watch::channel(None);
    let watcher = tokio::spawn(follow(nodes.clone(), start, goal));
    let load = Load::start(&nodes, 2);
    let clients = Clients::start(&cluster, CLIENTS);

    let began = Instant::now();
    while began.elapsed() < TROUBLE {
        trouble(&mut cluster, &mut rng).await;
    }
    load.more(20).await;
    let users = load.finish().await;
    cluster.wait_ready().await;
    cluster.assert_all_online(&users).await;
    clients.settle(&cluster).await;
    let checked = cluster.check().await;
    assert_eq!(checked["nodes"].as_array().unwrap().len(), 3);

    // Nothing changes any more: all APIs list the same, and so do the events since the start.
    let expected = listed(&cluster, &nodes[0]).await;
    assert!(expected.len() >= users.len() + CLIENTS);
    for api in cluster.apis() {
        assert_eq!(listed(&cluster, &api).await, expected, "{api} lists something else");
    }
    let end = cluster.user(&nodes[0], "nobody").await["revision"].as_u64().unwrap();
    until.send_replace(Some(end));
    let seen = in_time("the watcher's end", watcher).await.unwrap();
    assert_eq!(seen.connections, expected, "what was watched adds up to something else");
}

/// One failure, and its end.
async fn trouble(cluster: &mut Cluster, rng: &mut fastrand::Rng) {
    let node = rng.u64(1..=3);
    let gateway = format!("gw-{}", rng.u64(1..=3));
    let some_time = Duration::from_millis(rng.u64(200..1500));
    match rng.u8(0..6) {
        0 | 1 => {
            println!("node {node} is killed for {some_time:?}");
            let process = cluster.nodes.get_mut(&node).unwrap();
            process.kill();
            wait(some_time).await;
            process.restart().await;
        }
        2 => {
            println!("node {node} is frozen for {some_time:?}");
            cluster.node(node).freeze();
            wait(some_time).await;
            cluster.node(node).thaw();
        }
        3 => {
            let other = node % 3 + 1;
            println!("nodes {node} and {other} are killed for {some_time:?}");
            for id in [node, other] {
                cluster.nodes.get_mut(&id).unwrap().kill();
            }
            wait(some_time).await;
            for id in [node, other] {
                cluster.nodes.get_mut(&id).unwrap().restart().await;
            }
        }
        4 => {
            println!("{gateway} is killed for {some_time:?}");
            let process = cluster.gateways.get_mut(&gateway).unwrap();
            process.kill();
            wait(some_time).await;
            process.restart().await;
        }
        _ => {
            let past_its_lease = some_time + Duration::from_secs(3);
            println!("{gateway} is frozen for {past_its_lease:?}");
            cluster.gateway(&gateway).freeze();
            wait(past_its_lease).await;
            cluster.gateway(&gateway).thaw();
        }
    }
    cluster.wait_ready().await;
}

async fn wait(time: Duration) {
    let began = Instant::now();
    eventually("some time goes by", async || (began.elapsed() >= time).then_some(())).await;
}

/// Clients that come back, each to the next gateway, whenever they lose their socket.
struct Clients {
    tasks: JoinSet<()>,
    /// What each believes to be its connection.
    ids: Vec<watch::Receiver<String>>,
    stop: Arc<AtomicBool>,
}

impl Clients {
    fn start(cluster: &Cluster, count: usize) -> Self {
        let gateways: Vec<String> =
            cluster.gateways.values().map(|gateway| gateway.address("clients").to_owned()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Self { tasks: JoinSet::new(), ids: Vec::new(), stop };
        for client in 0..count {
            let (tell, id) = watch::channel(String::new());
            clients.ids.push(id);
            clients.tasks.spawn(stay(client, gateways.clone(), tell));
        }
        clients
    }

    /// Waits until every client is found under the id that it believes in, and reached.
    async fn settle(&self, cluster: &Cluster) {
        assert!(!self.stop.load(Ordering::Relaxed) && self.tasks.len() == self.ids.len(), "no client has given up");
        let api = cluster.node(1).api();
        for (client, id) in self.ids.iter().enumerate() {
            eventually(&format!("client {client} is where it believes to be"), async || {
                let user = cluster.user(&api, &format!("client-{client}")).await;
                let connections = user["connections"].as_array()?;
                (connections.len() == 1 && connections[0]["id"] == id.borrow().as_str()).then_some(())
            })
            .await;
            let body = json!({ "data": "are you there?" });
            let pushed = cluster.http.post(&api, &format!("/v1/users/client-{client}/push"), body).await;
            assert_eq!(pushed.body["outcome"], "delivered", "{}", pushed.body);
        }
    }
}

async fn stay(client: usize, gateways: Vec<String>, tell: watch::Sender<String>) {
    let path = format!("/ws?user=client-{client}");
    for gateway in gateways.iter().cycle().skip(client) {
        let Ok(mut socket) = crate::harness::Socket::try_open_at(gateway, &path).await else {
            pause().await;
            continue;
        };
        while let Some(frame) = socket.next_or_end().await {
            if frame["type"] == "welcome" || frame["type"] == "rebound" {
                tell.send_replace(frame["connection"].as_str().unwrap().to_owned());
            }
        }
    }
}

/// What a watcher has seen, added up.
#[derive(Default)]
struct Seen {
    last: Option<(u64, u64)>,
    connections: BTreeMap<String, String>,
    online: BTreeSet<String>,
}

impl Seen {
    fn add(&mut self, line: &Value) {
        let mark = (line["revision"].as_u64().unwrap(), line["n"].as_u64().unwrap());
        assert!(self.last < Some(mark), "{line} comes after {:?}", self.last);
        self.last = Some(mark);
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        match line["type"].as_str().unwrap() {
            "connection.opened" => {
                assert_eq!(self.connections.insert(text("connection"), text("user")), None, "{line}");
            }
            "connection.closed" => {
                assert_eq!(self.connections.remove(&text("connection")), Some(text("user")), "{line}");
            }
            "user.online" => assert!(self.online.insert(text("user")), "{line}: was online already"),
            "user.offline" => assert!(self.online.remove(&text("user")), "{line}: was offline already"),
            _ => {}
        }
        if line["type"] == "user.offline" {
            assert!(!self.connections.values().any(|user| *user == text("user")), "{line}: is still connected");
        }
    }
}

/// Follows the changes from one node to the next, until a revision.
async fn follow(nodes: Vec<String>, start: u64, goal: watch::Receiver<Option<u64>>) -> Seen {
    let http = crate::harness::Http::default();
    let mut seen = Seen::default();
    let mut resume = start.to_string();
    for node in nodes.iter().cycle() {
        let Ok(mut lines) = http.try_lines(node, &format!("/v1/watch?from_revision={resume}")).await else {
            pause().await;
            continue;
        };
        while let Ok(Some(line)) = lines.line().await {
            let line: Value = serde_json::from_slice(&line).unwrap();
            assert!(line["error"].is_null(), "{line}");
            if line["type"] == "progress" {
                resume = line["revision"].to_string();
            } else {
                seen.add(&line);
                resume = format!("{}.{}", line["revision"], line["n"]);
            }
            if goal.borrow().is_some_and(|goal| line["revision"].as_u64() >= Some(goal)) {
                return seen;
            }
        }
    }
    unreachable!("there is at least one node")
}

/// All connections that one API lists, with their users.
async fn listed(cluster: &Cluster, api: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = cluster.http.get(api, &format!("/v1/connections?limit=1000{cursor}")).await.body;
        for connection in page["connections"].as_array().unwrap() {
            let text = |name: &str| connection[name].as_str().unwrap().to_owned();
            all.insert(text("id"), text("user"));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}
