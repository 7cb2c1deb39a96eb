//! A vocabulary for tests of whole clusters: start, kill, freeze, ask, connect, push, expect.
//!
//! Processes are the real program. Each cluster has loopback addresses of its own, so that tests run beside each other and
//! a process that is started again finds its old address free.

mod faults;
mod http;
mod load;
mod process;
mod socket;

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::http::Method;
use serde_json::Value;
use tokio::time::Instant;

pub use faults::Disk;
pub use http::{Answer, Http};
pub use load::Load;
pub use process::{Done, Process, verb};
pub use socket::Socket;

/// Longest wait for anything that should happen soon. Generous, because test machines are slow and shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster.
pub struct Cluster {
    pub nodes: BTreeMap<u64, Process>,
    pub gateways: BTreeMap<String, Process>,
    pub http: Http,
    network: String,
    data: tempfile::TempDir,
    founders: u64,
    /// Whether the disks of the nodes fail on command.
    faults: bool,
}

static CLUSTERS: AtomicU32 = AtomicU32::new(1);

impl Cluster {
    /// Starts so many directory nodes and gateways and waits until all take traffic.
    pub async fn start(nodes: u64, gateways: u64) -> Self {
        Self::start_with(nodes, gateways, &[]).await
    }

    /// As [`Self::start`], with further flags for the nodes.
    pub async fn start_with(nodes: u64, gateways: u64, flags: &[&str]) -> Self {
        let mut cluster = Self::found(nodes);
        cluster.start_all(flags, gateways).await;
        cluster
    }

    /// A cluster of which nothing runs yet.
    pub fn found(nodes: u64) -> Self {
        let nth = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let network = format!("127.{}.{}", 1 + std::process::id() % 250, nth);
        let data = tempfile::tempdir().unwrap();
        Self {
            nodes: BTreeMap::new(),
            gateways: BTreeMap::new(),
            http: Http::default(),
            network,
            data,
            founders: nodes,
            faults: false,
        }
    }

    /// A cluster whose nodes have disks that fail on command. Nothing runs yet.
    pub fn on_failing_disks(nodes: u64) -> Self {
        Self { faults: true, ..Self::found(nodes) }
    }

    /// Starts so many directory nodes, with further flags, and gateways and waits until all take traffic.
    pub async fn start_all(&mut self, flags: &[&str], gateways: u64) {
        for id in 1..=self.founders {
            self.start_node_with(id, flags).await;
        }
        for i in 1..=gateways {
            self.start_gateway(&format!("gw-{i}")).await;
        }
        self.wait_ready().await;
    }

    pub async fn start_node(&mut self, id: u64) {
        self.start_node_with(id, &[]).await;
    }

    /// Starts a node, with further flags.
    pub async fn start_node_with(&mut self, id: u64, flags: &[&str]) {
        self.start_node_of(id, 1..=self.founders, flags).await;
    }

    /// Starts a node that is told these founders, with further flags.
    pub async fn start_node_of(&mut self, id: u64, founders: RangeInclusive<u64>, flags: &[&str]) {
        let mut arguments = self.arguments_of(id, founders);
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let log = self.data.path().join(format!("node-{id}.log"));
        let environment = if self.faults { self.disk(id).environment() } else { Vec::new() };
        let process = Process::start_in(&arguments, &log, &environment).await;
        self.nodes.insert(id, process);
    }

    /// The verb and the flags of a node: a founder, or one that joins.
    pub fn node_arguments(&self, id: u64) -> Vec<String> {
        self.arguments_of(id, 1..=self.founders)
    }

    fn arguments_of(&self, id: u64, founders: RangeInclusive<u64>) -> Vec<String> {
        let host = |id: u64| format!("{}.{id}", self.network);
        let founds = founders.contains(&id);
        let peers: Vec<String> = founders.map(|id| format!("{id}={}", self.peer(id))).collect();
        let mut arguments: Vec<String> = ["directory", "--id"].map(str::to_owned).to_vec();
        arguments.push(id.to_string());
        arguments.extend(["--data-dir".to_owned(), self.data_dir(id).display().to_string()]);
        arguments.extend(["--listen-api".to_owned(), format!("{}:7100", host(id))]);
        arguments.extend(["--listen-peer".to_owned(), self.peer(id)]);
        if founds {
            arguments.extend(["--peers".to_owned(), peers.join(",")]);
        } else {
            arguments.push("--join".to_owned());
        }
        arguments
    }

    /// Where a node is reached by peers.
    pub fn peer(&self, id: u64) -> String {
        format!("{}.{id}:7200", self.network)
    }

    /// Starts a node that joins, and adds it; repeated until it is what it is to become.
    pub async fn join(&mut self, id: u64, role: &str) {
        self.start_node(id).await;
        let body = serde_json::json!({ "id": id, "peer": self.peer(id), "role": role });
        self.change(&format!("node {id} becomes a {role}"), Method::POST, "/v1/cluster/members", &body).await;
    }

    /// Removes a node, and waits until whoever runs agrees.
    pub async fn remove(&self, id: u64) {
        let path = format!("/v1/cluster/members/{id}");
        self.change(&format!("node {id} is removed"), Method::DELETE, &path, &Value::Null).await;
    }

    pub async fn transfer_leader(&self, to: u64) {
        let path = "/v1/cluster/transfer-leader";
        self.change(&format!("node {to} leads"), Method::POST, path, &serde_json::json!({ "to": to })).await;
    }

    /// Asks for a change of the group, of one API after the other, until it is done. Only what passes may be in the way.
    async fn change(&self, what: &str, method: Method, path: &str, body: &Value) {
        let apis = self.apis();
        let mut turn = 0;
        eventually(what, async || {
            turn += 1;
            let asked = self.http.send(method.clone(), &apis[turn % apis.len()], path, &[], Some(body)).await.ok()?;
            let passes = asked.body["error"]["temporary"] == true || asked.body["error"]["code"] == "unavailable";
            assert!(asked.status < 300 || passes, "{what}: {} {}", asked.status, asked.body);
            (asked.status == 200).then_some(())
        })
        .await;
    }

    /// The program with these arguments, until it ends: its exit code, stdout and stderr.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let api = self.apis().join(",");
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_switchboard"));
        command.args(arguments).env("SWITCHBOARD_API", api).env_remove("SWITCHBOARD_CONFIG").kill_on_drop(true);
        let output = in_time(&format!("{arguments:?}"), command.output()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    pub async fn start_gateway(&mut self, id: &str) {
        self.start_gateway_with(id, &[]).await;
    }

    /// Starts a gateway, with further flags.
    pub async fn start_gateway_with(&mut self, id: &str, flags: &[&str]) {
        let process = self.gateway_process(id, id, flags).await;
        self.gateways.insert(id.to_owned(), process);
    }

    /// Starts a gateway at the place of `place`, which is how this test calls it, under a name that another one has.
    pub async fn start_twin(&mut self, place: &str, id: &str) {
        let process = self.gateway_process(place, id, &[]).await;
        self.gateways.insert(place.to_owned(), process);
    }

    /// Starts gateways at two places at the same moment, under one name.
    pub async fn start_twins(&mut self, places: [&str; 2], id: &str) {
        let [one, two] = places.map(|place| self.gateway_process(place, id, &[]));
        let (one, two) = tokio::join!(one, two);
        self.gateways.extend([(places[0].to_owned(), one), (places[1].to_owned(), two)]);
    }

    /// A process at the addresses of `place` under the name `id`.
    fn gateway_process(&self, place: &str, id: &str, flags: &[&str]) -> impl Future<Output = Process> + use<> {
        let nth: u32 = place.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap();
        let host = format!("{}.{}", self.network, 100 + nth);
        let directory: Vec<String> = (1..=self.founders).map(|id| self.peer(id)).collect();
        let mut arguments = vec!["gateway".to_owned(), "--id".to_owned(), id.to_owned()];
        arguments.extend(["--directory".to_owned(), directory.join(",")]);
        arguments.extend(["--listen-clients".to_owned(), format!("{host}:8000")]);
        arguments.extend(["--listen-api".to_owned(), format!("{host}:8100")]);
        arguments.extend(["--listen-peer".to_owned(), format!("{host}:8200")]);
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let log = self.data.path().join(format!("{place}.log"));
        async move { Process::start(&arguments, &log).await }
    }

    /// Where the data directories of the nodes are.
    pub fn data(&self) -> &std::path::Path {
        self.data.path()
    }

    pub fn data_dir(&self, id: u64) -> std::path::PathBuf {
        self.data.path().join(format!("node-{id}"))
    }

    /// A place for files of a test.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.data.path().join(name)
    }

    /// Runs a verb of the command line to its end.
    pub async fn verb(&self, words: &[&str]) -> Done {
        verb(words).await
    }

    /// Runs `check` on the cluster, which must find nothing wrong. What it found.
    pub async fn check(&self) -> Value {
        let done = self.verb(&["check", "-o", "json", "--api", &self.apis().join(",")]).await;
        assert_eq!(done.code, 0, "{done:?}");
        let found = done.json();
        assert_eq!((&found["ok"], &found["problems"]), (&Value::Bool(true), &serde_json::json!([])));
        found
    }

    /// The disk of a node, to be told how it fails.
    pub fn disk(&self, id: u64) -> Disk {
        Disk::new(&self.data_dir(id), &self.data.path().join(format!("disk-{id}")))
    }

    /// Waits until every process that runs takes traffic.
    pub async fn wait_ready(&self) {
        for process in self.nodes.values().chain(self.gateways.values()).filter(|process| process.is_running()) {
            let api = process.api();
            eventually(&format!("{api} is ready"), async || {
                let answer = self.http.try_get(&api, "/readyz").await?;
                (answer.status == 200).then_some(())
            })
            .await;
        }
    }

    /// Base addresses of the APIs of all processes that run, nodes and gateways.
    pub fn apis(&self) -> Vec<String> {
        let running = self.nodes.values().chain(self.gateways.values()).filter(|process| process.is_running());
        running.map(Process::api).collect()
    }

    pub fn node(&self, id: u64) -> &Process {
        &self.nodes[&id]
    }

    pub fn gateway(&self, id: &str) -> &Process {
        &self.gateways[id]
    }

    /// The node that leads, as soon as the nodes that run agree on one.
    pub async fn leader(&self) -> u64 {
        let running: Vec<_> = self.nodes.iter().filter(|(_, process)| process.is_running()).collect();
        eventually("the nodes agree on a leader", async || {
            let mut leaders = Vec::new();
            for (_, process) in &running {
                leaders.push(self.http.try_get(&process.api(), "/v1/cluster").await?.body["leader"].as_u64()?);
            }
            leaders.dedup();
            let runs = running.iter().any(|(id, _)| **id == leaders[0]);
            (leaders.len() == 1 && runs).then_some(leaders[0])
        })
        .await
    }

    /// A node that does not lead.
    pub async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        let mut running = self.nodes.iter().filter(|(_, process)| process.is_running());
        *running.find(|(id, _)| **id != leader).unwrap().0
    }

    /// A figure of one process, added up over its labels.
    pub async fn metric(&self, api: &str, name: &str) -> f64 {
        let text = self.http.text(api, "/metrics").await;
        let named = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        named
            .filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
            .filter_map(|(_, v)| v.parse::<f64>().ok())
            .sum()
    }

    /// Renewals that the nodes have acknowledged.
    pub async fn renewals(&self) -> f64 {
        let mut all = 0.0;
        for node in self.nodes.values().filter(|node| node.is_running()) {
            all += self.metric(&node.api(), "switchboard_lease_renewals_total").await;
        }
        all
    }

    /// Connects a client and waits for its welcome.
    pub async fn connect(&self, gateway: &str, user: &str) -> Socket {
        let mut socket = Socket::open(self.gateway(gateway), &format!("/ws?user={user}&device=web")).await;
        socket.welcome().await;
        socket
    }

    /// Fails unless every API that runs knows all of them.
    pub async fn assert_all_online(&self, users: &[String]) {
        for api in self.apis() {
            for chunk in users.chunks(5000) {
                let found = self.http.post(&api, "/v1/users:lookup", serde_json::json!({ "users": chunk })).await.body;
                for user in chunk {
                    assert_eq!(found["users"][user]["online"], true, "{user} was acknowledged; {api} does not know it");
                }
            }
        }
    }

    /// What one API says about a user.
    pub async fn user(&self, api: &str, user: &str) -> Value {
        let answer = self.http.get(api, &format!("/v1/users/{user}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }
}

/// Waits until `look` finds something.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, async || look().await).await
}

/// Waits at most so long until `look` finds something.
pub async fn within<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < give_up, "in vain waited {limit:?} until: {what}");
        pause().await;
    }
}

/// The one pause of these tests: between two looks at a condition.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(15)).await;
}

/// Fails the test when something takes longer than it ever should.
pub async fn in_time<T>(what: &str, done: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, done).await.unwrap_or_else(|_| panic!("in vain waited {PATIENCE:?} for {what}"))
}
