//! Real processes of the release program: started, watched and ended by their ids.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use switchboard::client::{Directory, Settings};
use switchboard::net::http::Client;
use switchboard::wire::http::Cluster as Group;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Longest wait for a process or the group to be ready.
const READY: Duration = Duration::from_secs(20);

/// Ticks a second of the CPU times in `/proc`; fixed by the interface of Linux.
const TICKS: f64 = 100.0;

const CLUSTER: &str = "bench";

/// A process of ours. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) api: String,
    pub(crate) clients: String,
}

impl Process {
    fn start(args: &[String], log: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_switchboard"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(log).expect("the log can be written"))
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("not ready: {line:?}; {}", std::fs::read_to_string(log).unwrap_or_default()));
        let word = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
        Self { api: word("api"), clients: word("clients"), child }
    }

    /// Sends a signal to this process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process is there");
    }

    /// As `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// CPU time since its start, seconds.
    pub(crate) fn cpu(&self) -> f64 {
        cpu(&self.child.id().to_string())
    }

    /// The sum of all samples of a metric.
    pub(crate) async fn metric(&self, http: &Client, name: &str) -> f64 {
        let text = get(http, &format!("http://{}/metrics", self.api)).await.expect("there are metrics").1;
        let sample = |line: &str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
            rest.rsplit_once(' ')?.1.parse::<f64>().ok()
        };
        String::from_utf8_lossy(&text).lines().filter_map(sample).sum()
    }

    async fn wait_until_ready(&self, http: &Client) {
        let give_up = Instant::now() + READY;
        while !get(http, &format!("http://{}/readyz", self.api)).await.is_some_and(|(ok, _)| ok) {
            assert!(Instant::now() < give_up, "{} does not become ready", self.api);
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three directory nodes and any number of gateways, on loopback addresses that no other run uses.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Process>,
    pub(crate) http: Client,
    network: String,
    dir: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        // On the disk of the build: the usual temporary directory may be memory.
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the data");
        let (network, http) = (network(), Client::new());
        let mut cluster = Self { nodes: Vec::new(), http, network, dir };
        cluster.nodes = (1..=3).map(|id| cluster.spawn_node(id)).collect();
        cluster.leader().await;
        for node in &cluster.nodes {
            node.wait_until_ready(&cluster.http).await;
        }
        cluster
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Loopback address of a process of this cluster; the nodes have 1 to 3.
    pub(crate) fn host(&self, n: usize) -> String {
        format!("{}.{n}", self.network)
    }

    fn spawn_node(&self, id: usize) -> Process {
        let peers: Vec<String> = (1..=3).map(|id| format!("{id}={}:7200", self.host(id))).collect();
        let data = self.dir.path().join(format!("node-{id}"));
        let args = [
            ("--id", id.to_string()),
            ("--data-dir", data.display().to_string()),
            ("--listen-api", format!("{}:7100", self.host(id))),
            ("--listen-peer", format!("{}:7200", self.host(id))),
            ("--peers", peers.join(",")),
            ("--cluster", CLUSTER.to_owned()),
        ];
        Process::start(&flags("directory", args), &self.dir.path().join(format!("node-{id}.log")))
    }

    /// Starts a node again on what its disk holds, and waits until it has what the leader has.
    pub(crate) async fn restart(&mut self, position: usize) {
        self.nodes[position] = self.spawn_node(position + 1);
        let leader = self.leader().await;
        let committed = self.group(leader).await.map_or(0, |group| group.committed);
        let give_up = Instant::now() + READY;
        while self.group(position).await.is_none_or(|group| group.applied < committed) {
            assert!(Instant::now() < give_up, "node {} does not catch up", position + 1);
            sleep(Duration::from_millis(20)).await;
        }
        self.nodes[position].wait_until_ready(&self.http).await;
    }

    /// Starts a gateway and waits until it takes clients.
    pub(crate) async fn gateway(&self, n: usize, lease: &str) -> Process {
        self.gateway_with(n, lease, &[]).await
    }

    /// As [`Self::gateway`], with further flags.
    pub(crate) async fn gateway_with(&self, n: usize, lease: &str, more: &[&str]) -> Process {
        let host = self.host(10 + n);
        let args = [
            ("--id", format!("gw-{n}")),
            ("--directory", self.peers().join(",")),
            ("--listen-clients", format!("{host}:8000")),
            ("--listen-api", format!("{host}:8100")),
            ("--listen-peer", format!("{host}:8200")),
            ("--lease", lease.to_owned()),
            ("--cluster", CLUSTER.to_owned()),
        ];
        let mut args = flags("gateway", args);
        args.extend(more.iter().map(|flag| (*flag).to_owned()));
        let gateway = Process::start(&args, &self.dir.path().join(format!("gw-{n}.log")));
        gateway.wait_until_ready(&self.http).await;
        gateway
    }

    fn peers(&self) -> Vec<String> {
        (1..=3).map(|id| format!("{}:7200", self.host(id))).collect()
    }

    /// The SDK's view of this cluster, with streams of its own.
    pub(crate) fn directory(&self, name: &str) -> Directory {
        Directory::new(Settings { cluster: CLUSTER.to_owned(), name: name.to_owned(), nodes: self.peers() })
    }

    /// The group as a node sees it.
    async fn group(&self, position: usize) -> Option<Group> {
        let (_, body) = get(&self.http, &format!("http://{}/v1/cluster", self.nodes[position].api)).await?;
        serde_json::from_slice(&body).ok()
    }

    /// Position of the node that says of itself that it leads.
    pub(crate) async fn leader(&self) -> usize {
        let give_up = Instant::now() + READY;
        loop {
            for position in 0..self.nodes.len() {
                let group = self.group(position).await;
                if group.is_some_and(|group| group.node.is_some() && group.leader == group.node) {
                    return position;
                }
            }
            assert!(Instant::now() < give_up, "no node leads");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// CPU time of all nodes, seconds.
    pub(crate) fn cpu(&self) -> f64 {
        self.nodes.iter().map(Process::cpu).sum()
    }
}

fn flags<const N: usize>(verb: &str, pairs: [(&str, String); N]) -> Vec<String> {
    std::iter::once(verb.to_owned()).chain(pairs.into_iter().flat_map(|(key, value)| [key.to_owned(), value])).collect()
}

/// `127.A.B`, of this process and of this call only.
fn network() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let n = std::process::id() * 8 + CALLS.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{}", 32 + (n >> 8) % 192, n % 256)
}

/// Whether the status is a success, and the body.
pub(crate) async fn get(http: &Client, url: &str) -> Option<(bool, Bytes)> {
    let answer = http.request(Method::GET, url, HeaderMap::new(), Bytes::new(), Duration::from_secs(3)).await.ok()?;
    Some((answer.status.is_success(), answer.body))
}

/// CPU time of this process, seconds.
pub(crate) fn own_cpu() -> f64 {
    cpu("self")
}

fn cpu(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything; user and system time are fields 14 and 15 of the whole line.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// Load averages.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// What this runs on.
pub(crate) fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).map_or("unknown", |rest| rest);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}, load {}", model.trim_start_matches([' ', '\t', ':']), load())
}
